"""The archive's format against the bytes: every record comes back as it was in the topic, and as columns it is what the bytes decode to."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.archive import encode, layout
from schemas.archive.manifest import ArchiveError, Fenced, File, Manifest, State
from schemas.archive.read import PartitionReader
from schemas.codec import columnar
from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import RecordSet
from sinks.archive.files import write_file
from sinks.archive.writer import holes
from tests.support.timescale.timescale_records import record

CODEC = Codec()
Message = tuple[int, int, bytes | None, bytes | None]
FLAT = sorted(topic for topic in catalogue.TOPICS if encode.is_flat(topic))


@pytest.fixture(autouse=True, scope="module")
def not_forced() -> Iterator[None]:
    """Nothing here loses power: do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def put(root: Path, topic: str, batches: list[list[Message]], partition: int = 3) -> State:
    """Archive batches of messages; return the state."""
    manifest, state = Manifest(root, topic, partition), State()
    for batch in batches:
        records = RecordSet.from_messages(batch)
        files = [
            write_file(
                root, topic, partition, CODEC.header(topic), one.folder, one.day, [one.table], (int(one.times.min()), int(one.times.max()))
            )
            for one in encode.by_folder_and_day(CODEC, topic, records)
        ]
        state = manifest.commit(
            state, add=files, next_offset=records.next_offset, holes=holes(records.offsets, state.next_offset, records.next_offset)
        )
    return state


def texts(columns: columnar.Columns, name: str, op: int, rows: range) -> list[str | None]:
    return [columns.text_or_none(name, row) if op == columnar.NULL_STRING else columns.text(name, row) for row in rows]


def assert_same_columns(topic: str, records: RecordSet, wanted: list[Message]) -> None:
    """Hold a window to what ``columnar.decode`` makes of the bytes."""
    ours, plain = columnar.decode(CODEC, topic, records), RecordSet.from_messages(wanted)
    theirs = columnar.decode(CODEC, topic, plain)
    assert ours.good.tolist() == theirs.good.tolist()
    assert ours.rejected == theirs.rejected
    assert records.offsets.tolist() == plain.offsets.tolist()
    assert records.timestamps.tolist() == plain.timestamps.tolist()
    good = np.flatnonzero(theirs.good)
    for name, op in zip(theirs.program.names, theirs.program.ops.tolist(), strict=True):
        if op in (columnar.STRING, columnar.NULL_STRING):
            assert texts(ours, name, op, good) == texts(theirs, name, op, good), name
        elif op == columnar.DOUBLES:
            assert ours.doubles(name)[good].tobytes() == theirs.doubles(name)[good].tobytes(), name
        elif op in (columnar.DOUBLE, columnar.NULL_DOUBLE):
            assert np.array_equal(ours.double(name)[good], theirs.double(name)[good], equal_nan=True), name
        else:
            assert ours.long(name)[good].tolist() == theirs.long(name)[good].tolist(), name
    assert [records.key(row) for row in range(len(records))] == [key for _, _, key, _ in wanted]
    assert [records.value(row) for row in range(len(records))] == [value for _, _, _, value in wanted]


def spoiled(value: bytes, rng: random.Random) -> bytes | None:
    """Return bytes that are something else: cut, longer, altered, another frame, none."""
    kind = rng.randrange(6)
    if kind == 0:
        return value[: rng.randrange(len(value))]
    if kind == 1:
        return value + bytes([rng.randrange(256)])
    if kind == 2:
        at = rng.randrange(10, len(value))
        return value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :]
    if kind == 3:
        return b"\x00\x00\x00\x00\x07" + value[10:]
    return None if kind == 4 else rng.randbytes(rng.randrange(1, 60))


def time_of(topic: str, message: Message) -> int:
    try:
        return int(CODEC.decode(topic, message[3])["event_time"])
    except CodecError:
        return message[1]


@given(seed=st.integers(0, 2**32), topic=st.sampled_from(sorted(catalogue.TOPICS)), share=st.sampled_from([0.0, 0.3]))
@settings(max_examples=50)
def test_every_record_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, seed: int, topic: str, share: float) -> None:
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("archive")
    keys = [b"BINANCE:BTCUSDT-PERP", b"BYBIT:ETHUSDT", b"OKX:SOL-USDT-PERP", None, b"", b"\xff\xfe", b"../../etc", b"a/b:c"]
    weights = [9, 5, 5, 1, 1, 1, 1, 1]
    batches: list[list[Message]] = []
    offset, stamp = rng.randrange(3), 1_723_075_100_000
    for _ in range(rng.randrange(1, 4)):
        batch: list[Message] = []
        for number in range(rng.randrange(1, 80)):
            one = record(topic, number, rng, True)
            stamp += rng.choice([0, 1, 977, 86_400_000 if rng.random() < 0.03 else 5])
            one["event_time"] = stamp + rng.choice([0, 0, -3_000])
            value: bytes | None = CODEC.encode(topic, one)
            if rng.random() < share:
                value = spoiled(CODEC.encode(topic, one), rng)
            batch.append((offset, rng.choice([stamp, one["event_time"]]), rng.choices(keys, weights)[0], value))
            offset += rng.choice([1, 1, 1, 1, 7])  # the log has holes
        batches.append(batch)
    state = put(root, topic, batches)
    wanted = [message for batch in batches for message in batch]
    reader = PartitionReader(root, CODEC, topic, state)
    assert list(reader.messages()) == wanted
    assert state.rows == len(wanted)
    there = {offset for offset, *_ in wanted}
    assert {o for first, end in state.holes for o in range(first, end)} == set(range(state.next_offset)) - there
    start = rng.choice(wanted)[0] + rng.randrange(2)
    assert list(reader.messages(start)) == [message for message in wanted if message[0] >= start]
    time = rng.choice(wanted)[1] + rng.randrange(-1, 2)
    assert reader.offset_at(time) == next((message[0] for message in wanted if time_of(topic, message) >= time), state.next_offset)
    if topic in FLAT or topic in encode.BYTES_KEPT:
        sets = list(reader.windows(start))
        assert sets[-1].next_offset == state.next_offset
        rest = [message for message in wanted if message[0] >= start]
        for one_set in sets:
            mine, rest = rest[: len(one_set)], rest[len(one_set) :]
            if topic in FLAT and len(one_set):
                assert_same_columns(topic, one_set, mine)
            else:
                assert [(o, one_set.key(r), one_set.value(r)) for r, o in enumerate(one_set.offsets.tolist())] == [
                    (o, k, v) for o, _, k, v in mine
                ]
        assert not rest


def odd_varint(value: int) -> bytes:
    """Return a zigzag varint that is one byte longer than need be."""
    out, rest = bytearray(), value << 1
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest | 0x80, 0])


def test_bytes_that_another_writer_would_choose_are_kept() -> None:
    """Avro allows long varints and several blocks: such bytes cannot be made from the columns, and the columns are right all the same."""
    head = CODEC.header("market_indicators") + b"\x06A:B"
    value = head + odd_varint(5_000) + odd_varint(5_001) + b"\x02x" + np.float64(1.5).tobytes()
    depth = record("depth", 1, random.Random(1), False)
    plain = CODEC.encode("depth", {**depth, "bid_prices": [1.0, 2.0]})
    two = np.float64(1.0).tobytes() + np.float64(2.0).tobytes()
    assert b"\x04" + two + b"\x00" in plain
    blocks = plain.replace(b"\x04" + two + b"\x00", b"\x02" + two[:8] + b"\x02" + two[8:] + b"\x00")
    sized = plain.replace(b"\x04" + two + b"\x00", b"\x03\x20" + two + b"\x00")
    more = CODEC.encode("depth", {**depth, "bid_prices": [float(n) for n in range(25)]})
    nan = CODEC.encode("funding", {**record("funding", 1, random.Random(1), False), "estimated_rate": float("nan")})
    for topic, odd in (("market_indicators", value), ("depth", blocks), ("depth", sized), ("depth", more), ("funding", nan)):
        messages: list[Message] = [(0, 7, b"A:B", odd), (1, 8, b"A:B", CODEC.encode(topic, record(topic, 1, random.Random(2), False)))]
        (group,) = [
            one
            for one in encode.by_folder_and_day(CODEC, topic, RecordSet.from_messages(messages))
            if 0 in one.table[layout.OFFSET].to_pylist()
        ]
        states = dict(zip(group.table[layout.OFFSET].to_pylist(), group.table[layout.STATE].to_pylist(), strict=True))
        assert states[0] == layout.KEPT, topic
        assert states.get(1, layout.EXACT) == layout.EXACT


def test_odd_bytes_come_back(tmp_path: Path) -> None:
    depth = record("depth", 1, random.Random(1), False)
    rows: list[Message] = [
        (n, 1_723_075_100_000 + n, b"A:B", CODEC.encode("depth", {**depth, "event_time": 1_723_075_100_000 + n, "bid_prices": levels}))
        for n, levels in enumerate(([], [1.0] * 20, [float(n) for n in range(25)], [float("nan"), 2.0], [-0.0]))
    ]
    state = put(tmp_path, "depth", [rows])
    reader = PartitionReader(tmp_path, CODEC, "depth", state)
    assert list(reader.messages()) == rows
    window = next(iter(reader.windows()))
    assert_same_columns("depth", window, rows)


def test_a_field_added_later_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Message] = [
        (n, 1_723_075_100_000, b"A:B", CODEC.encode("agg_trades", record("agg_trades", n, random.Random(n), False))) for n in range(50)
    ]
    state = put(tmp_path, "agg_trades", [rows])
    later = json.loads(catalogue.schema_text("agg_trades"))
    later["fields"].append({"name": "fee", "type": ["null", "double"], "default": None})
    later["fields"].append({"name": "lot", "type": "long", "default": 7})
    real = catalogue.schema
    caches = (columnar.program, layout.arrow_schema, encode.is_flat)
    for cached in caches:
        cached.cache_clear()
    try:
        monkeypatch.setattr(catalogue, "schema", lambda topic: later if topic == "agg_trades" else real(topic))
        reader = PartitionReader(tmp_path, CODEC, "agg_trades", state)
        assert list(reader.messages()) == rows, "the bytes are those of the schema by which they were written"
        columns = [columnar.decode(CODEC, "agg_trades", window) for window in reader.windows() if len(window)]
        assert np.isnan(np.concatenate([one.double("fee") for one in columns])).all()
        assert [lot for one in columns for lot in one.long("lot").tolist()] == [7] * 50
    finally:
        monkeypatch.undo()
        for cached in caches:
            cached.cache_clear()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.integers(0, 5), st.integers(1, 4))
def test_holes_are_what_is_not_there(steps: list[int], expected: int, tail: int) -> None:
    offsets = np.cumsum(steps) - 1 + expected
    end = int(offsets[-1]) + tail
    found = {offset for first, stop in holes(offsets, expected, end) for offset in range(first, stop)}
    assert found == set(range(expected, end)) - set(offsets.tolist())


def test_sets_are_joined_in_order() -> None:
    parts: list[list[Message]] = [[(0, 1, b"k", b"v"), (1, 2, None, None)], [(5, 3, b"kk", b"")], [(6, 4, b"", b"vvv")]]
    one = RecordSet.joined([RecordSet.from_messages(part) for part in parts])
    rows = [(int(o), int(t), one.key(r), one.value(r)) for r, (o, t) in enumerate(zip(one.offsets, one.timestamps, strict=True))]
    assert rows == [message for part in parts for message in part]
    assert one.next_offset == 7


# --- manifests -----------------------------------------------------------------------------------------------------------
def entry(number: int, **changes: Any) -> File:
    values: dict[str, Any] = {
        "path": f"t/2024-01-01/x/p00-{number}.parquet", "folder": "x", "day": "2024-01-01", "rows": 1, "bytes": 1, "first_offset": number,
        "last_offset": number, "min_event_time": 0, "max_event_time": 0, "sha256": "", "schema": "", "header": "",
    }  # fmt: skip
    return File(**{**values, **changes})


def test_a_manifest_folds_to_what_was_added_and_removed(tmp_path: Path) -> None:
    rng = random.Random(5)
    manifest, state = Manifest(tmp_path, "agg_trades", 0), State()
    files: dict[str, File] = {}
    gaps: list[tuple[int, int]] = []
    for number in range(150):  # over two whole versions
        gone = rng.sample(sorted(files), min(len(files), rng.randrange(3)))
        new = [entry(number)]
        hole = [(1000 + number, 1001 + number)] if number % 7 == 0 else []
        state = manifest.commit(state, add=new, remove=gone, next_offset=number + 1, holes=hole, topic_id="id")
        for path in gone:
            del files[path]
        files[new[0].path] = new[0]
        gaps += hole
    loaded = Manifest(tmp_path, "agg_trades", 0).load()
    assert loaded.files == files == state.files
    assert (loaded.next_offset, loaded.version, loaded.topic_id, loaded.holes) == (150, 149, "id", tuple(gaps))


def test_one_of_two_archivers_is_fenced(tmp_path: Path) -> None:
    one, two = Manifest(tmp_path, "agg_trades", 0), Manifest(tmp_path, "agg_trades", 0)
    state = one.commit(State(), next_offset=5)
    seen = two.load()
    newer = two.commit(seen, add=[entry(5)], next_offset=6)
    with pytest.raises(Fenced):
        one.commit(state, add=[entry(6)], next_offset=7)
    assert one.load() == newer
    with pytest.raises(Fenced):
        one.commit(State(), next_offset=1)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    manifest, state = Manifest(tmp_path, "agg_trades", 0), State()
    for number in range(4):
        state = manifest.commit(state, add=[entry(number)], next_offset=number + 1)
    victim = manifest.folder / "0000000002.json"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:100])
    elif damage == "altered":
        victim.write_text(victim.read_text().replace('"next_offset": 3', '"next_offset": 4'))
    else:
        victim.unlink()
    with pytest.raises(ArchiveError, match=victim.name):
        manifest.load()

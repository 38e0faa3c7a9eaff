"""Rows of binary COPY: the compiled way equals the codec's, and what cannot be a row is refused with its reason."""

from __future__ import annotations

import random
import struct
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import RecordSet
from sinks.consuming.reader import cut
from sinks.timescale import rows, transcode
from sinks.timescale.tables import table
from tests.support.timescale.timescale_records import record

CODEC = Codec()


def _records(values: list[bytes | None], first: int = 0) -> RecordSet:
    return RecordSet.from_messages([(first + n, 0, b"key", value) for n, value in enumerate(values)])


def _plain(topic: str, values: list[bytes], partition: int = 3) -> list[bytes]:
    pack = rows.packer(topic)
    return [pack(CODEC.decode(topic, value), partition, 100 + n) for n, value in enumerate(values)]


@pytest.mark.parametrize("topic", catalogue.TOPICS)
def test_compiled_rows_equal_the_codecs(topic: str) -> None:
    rng = random.Random(7)
    records = [record(topic, n, rng, odd=True) for n in range(300)]
    values = [CODEC.encode(topic, one) for one in records]
    made = rows.encode(CODEC, topic, _records(values, 100), 3)
    assert not made.refused
    assert [bytes(made.payload[a:b]) for a, b in zip(made.bounds[:-1], made.bounds[1:], strict=True)] == _plain(topic, values)
    assert made.event_times.tolist() == [one["event_time"] for one in records]
    for column, name in zip(made.ids, table(topic).identity_columns, strict=True):
        assert list(column) == [one[name] for one in records]


def _flat(topic: str) -> bool:
    """Return whether a topic has neither maps nor nested records: the codec's own work."""
    text = str(catalogue.schema(topic)["fields"])
    return "'map'" not in text and "'record'" not in text


@pytest.mark.parametrize("topic", [name for name in catalogue.TOPICS if _flat(name)])
def test_ordinary_records_take_the_compiled_way(topic: str) -> None:
    rng = random.Random(8)
    records = [record(topic, n, rng) for n in range(50)]
    for one in records:
        for name, value in one.items():
            if isinstance(value, str):
                one[name] = value.encode("ascii", "ignore").decode()
            elif isinstance(value, list):
                one[name] = [part.encode("ascii", "ignore").decode() if isinstance(part, str) else part for part in value]
    values = [CODEC.encode(topic, one) for one in records]
    made = transcode.encode(topic, CODEC.header(topic), _records(values), 0, table(topic).identity_columns)
    assert made is not None
    assert made.left.tolist() == []


def test_any_cut_or_flipped_value_gives_the_same_as_the_codec() -> None:
    """Fuzz: what the compiled loop accepts the codec accepts too, with the same row; nothing is read beyond a value's end."""
    rng = random.Random(9)
    for topic in ("agg_trades", "depth", "features", "dead_letters", "funding"):
        values = []
        for n in range(400):
            value = bytearray(CODEC.encode(topic, record(topic, n, rng)))
            kind = rng.randrange(3)
            if kind == 0:
                del value[rng.randrange(len(value)) :]
            elif kind == 1:
                value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            else:
                value += bytes(rng.randrange(1, 4))
            values.append(bytes(value))
        made = rows.encode(CODEC, topic, _records(values), 1)
        refused = {refusal.index for refusal in made.refused}
        pack = rows.packer(topic)
        for n, value in enumerate(values):
            try:
                expected = pack(CODEC.decode(topic, value), 1, n)
            except CodecError:
                assert n in refused, (topic, n)
                continue
            assert n not in refused
            place = made.index.tolist().index(n)
            assert bytes(made.payload[made.bounds[place] : made.bounds[place + 1]]) == expected, (topic, n)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("stream", "a\0b", "zero character"),
        ("event_time", transcode.END_MS, "out of the database's range"),
        ("from_time", transcode.MIN_MS - 1, "out of the database's range"),
    ],
)
def test_what_the_database_cannot_hold_is_refused_by_field(field: str, value: object, reason: str) -> None:
    good = record("gaps", 1, random.Random(1))
    values = [CODEC.encode("gaps", good), CODEC.encode("gaps", {**good, field: value}), b"garbage", None, CODEC.encode("gaps", good)]
    made = rows.encode(CODEC, "gaps", _records(values), 0)
    assert made.index.tolist() == [0, 4]
    assert [refusal.index for refusal in made.refused] == [1, 2, 3]
    assert made.refused[0].field == field
    assert reason in made.refused[0].reason
    assert "unknown frame" in made.refused[1].reason
    assert made.refused[0].instrument == good["instrument"]


def test_slices_join_neighbours() -> None:
    rng = random.Random(2)
    values = [CODEC.encode("quotes", record("quotes", n, rng)) for n in range(6)]
    made = rows.encode(CODEC, "quotes", _records(values), 0)
    import numpy as np

    pieces = made.slices(np.array([0, 1, 3, 5]))
    assert len(pieces) == 3
    plain = _plain("quotes", values, 0)
    for n, piece in zip((3, 5), pieces[1:], strict=True):
        assert struct.unpack("!q", bytes(piece)[-8:])[0] == n
    assert len(pieces[0]) == len(plain[0]) + len(plain[1])
    assert made.slices(np.array([], dtype=np.int64)) == []


TWINS = ("agg_trades", "depth", "quotes", "funding", "bars", "scores")
CHANGES = st.sampled_from(("none", "cut", "flip", "longer", "gone", "text", "other schema", "empty"))


def _changed(topic: str, one: dict[str, object], change: str, rng: random.Random) -> bytes | None:
    """Return a record's value, changed: every way but the last two of a value that the compiled loop leaves to the codec."""
    if change == "text":
        one = {name: value + "é" if isinstance(value, str) and name in ("instrument", "source") else value for name, value in one.items()}
    value = CODEC.encode(topic, one)
    at = rng.randrange(len(value))
    return {
        "cut": value[:at],
        "flip": value[:at] + bytes([value[at] ^ (1 << rng.randrange(8))]) + value[at + 1 :],
        "longer": value + b"\0",
        "gone": None,
        "other schema": b"\xc3\x01" + rng.randbytes(8) + value[10:],
        "empty": b"",
    }.get(change, value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TWINS), st.lists(CHANGES, min_size=1, max_size=12), st.integers(0, 1 << 30))
def test_the_compiled_way_with_what_it_leaves_equals_the_codecs_alone(topic: str, changes: list[str], seed: int) -> None:
    """Whatever stands beside whatever: the same rows, places, ids and refusals, byte for byte."""
    rng = random.Random(seed)
    records = _records([_changed(topic, record(topic, n, rng), change, rng) for n, change in enumerate(changes)], 7)
    fast = rows.encode(CODEC, topic, records, 2)
    with patch.object(transcode, "encode", return_value=None):
        plain = rows.encode(CODEC, topic, records, 2)
    assert bytes(fast.payload) == bytes(plain.payload)
    for name in ("bounds", "index", "event_times"):
        assert getattr(fast, name).tolist() == getattr(plain, name).tolist(), name
    assert [list(column) for column in fast.ids] == [list(column) for column in plain.ids]
    told = [[(one.index, one.field, one.instrument, one.reason.partition(" at 0x")[0]) for one in made.refused] for made in (fast, plain)]
    assert told[0] == told[1]
    assert sorted([*fast.index.tolist(), *(one.index for one in fast.refused)]) == list(range(len(changes)))


@given(st.lists(st.tuples(st.none() | st.binary(max_size=3), st.none() | st.binary(max_size=5)), min_size=2, max_size=8), st.data())
def test_a_record_set_cut_in_two_holds_the_same_records(pairs: list[tuple[bytes | None, bytes | None]], data: st.DataObject) -> None:
    whole = RecordSet.from_messages([(10 + 3 * n, n, key, value) for n, (key, value) in enumerate(pairs)])
    at = data.draw(st.integers(1, len(pairs) - 1))
    head, tail = cut(whole, at)
    assert (len(head), len(tail)) == (at, len(pairs) - at)
    assert (head.next_offset, tail.next_offset) == (10 + 3 * (at - 1) + 1, whole.next_offset)
    assert len(head.buffer) + len(tail.buffer) == len(whole.buffer)
    for again in (RecordSet.joined([head, tail]), whole):
        assert [(again.key(n), again.value(n)) for n in range(len(pairs))] == pairs
        assert again.offsets.tolist() == whole.offsets.tolist()

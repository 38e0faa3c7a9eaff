"""The compiled decoder against its plain twin, the codec, on random records and on random bytes."""

from __future__ import annotations

import io
import itertools
import random

import fastavro
import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec import avro as codec_module
from schemas.codec import columnar
from schemas.codec.avro import Codec, CodecError
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet, RecordSetError

CODEC = Codec()
FLAT = ("agg_trades", "depth", "quotes", "funding", "liquidations", "market_indicators", "instruments")
doubles = st.floats(allow_nan=False)
longs = st.integers(-(2**62), 2**62)


def value_of(kind):
    if isinstance(kind, list):
        return st.none() | value_of(kind[1])
    if isinstance(kind, dict):
        return st.lists(doubles, max_size=24) if kind["type"] == "array" else value_of(kind["type"])
    return {
        "string": st.text(max_size=12),
        "long": longs,
        "int": st.integers(-(2**31), 2**31 - 1),
        "double": doubles,
        "boolean": st.booleans(),
    }[kind]


def records_of(topic):
    return st.lists(st.fixed_dictionaries({f["name"]: value_of(f["type"]) for f in catalogue.schema(topic)["fields"]}), max_size=12)


def messages_of(values, start=0):
    return [(start + i, 1000 + i, b"K:%d" % (i % 3), value) for i, value in enumerate(values)]


def assert_equal_to_codec(topic, columns, values):
    rejected = {bad.row: bad for bad in columns.rejected}
    for row, value in enumerate(values):
        try:
            record = CODEC.decode(topic, value)
        except CodecError:
            assert row in rejected and not columns.good[row] and rejected[row].reason
            continue
        assert row not in rejected and columns.good[row]
        for field in catalogue.schema(topic)["fields"]:
            name, kind, want = field["name"], field["type"], record[field["name"]]
            inner = kind[1] if isinstance(kind, list) else kind
            inner = inner["type"] if isinstance(inner, dict) and inner["type"] != "array" else inner
            if isinstance(inner, dict):
                got = columns.doubles(name)[row]
                assert got[: len(want)].tolist() == want[:20] and np.isnan(got[len(want) :]).all()
            elif inner == "double":
                got = columns.double(name)[row]
                assert (want is None and np.isnan(got)) or got == want
            elif inner == "string":
                assert (columns.text_or_none(name, row) if isinstance(kind, list) else columns.text(name, row)) == want
            else:
                assert columns.long(name)[row] == (columnar.NULL_LONG if want is None else want)


@pytest.mark.parametrize("topic", FLAT)
def test_columns_equal_the_codec_on_random_records(topic):
    @settings(max_examples=25, deadline=None)
    @given(records_of(topic))
    def check(records):
        values = [CODEC.encode(topic, record) for record in records]
        assert_equal_to_codec(topic, columnar.decode(CODEC, topic, RecordSet.from_messages(messages_of(values))), values)

    check()


def test_trades_written_before_they_had_a_venue_trade_id_are_read():
    """Frames of the schema of before stay readable, in one record set with today's."""
    (fingerprint, writer), *_ = codec_module.earlier_schemas("agg_trades").items()
    record = dict.fromkeys(("event_time", "receive_time", "agg_id", "first_trade_id", "last_trade_id"), 7)
    record |= {"instrument": "B:X", "price": 1.5, "quantity": 0.1, "buyer_is_maker": True, "backfilled": False}
    body = io.BytesIO()
    fastavro.schemaless_writer(body, writer, record)
    old = codec_module.SINGLE_OBJECT_MAGIC + fingerprint + body.getvalue()
    values = [old, CODEC.encode("agg_trades", record), CODEC.encode("agg_trades", {**record, "venue_trade_id": "f-9"}), old + b"x"]
    columns = columnar.decode(CODEC, "agg_trades", RecordSet.from_messages(messages_of(values)))
    assert columns.good.tolist() == [True, True, True, False]
    assert [columns.text_or_none("venue_trade_id", row) for row in range(3)] == [None, None, "f-9"]
    assert columns.double("price")[:3].tolist() == [1.5] * 3 and columns.long("agg_id")[:3].tolist() == [7] * 3
    assert CODEC.decode("agg_trades", old) == {**record, "venue_trade_id": None}


@settings(max_examples=60, deadline=None)
@given(records_of("depth"), st.randoms(use_true_random=False), st.lists(st.none() | st.binary(max_size=40), max_size=4))
def test_damaged_bytes_are_refused_where_the_codec_refuses_them_and_only_there(records, source, garbage):
    values = [CODEC.encode("depth", record) for record in records]
    damaged = []
    for value in values:
        body = bytearray(value)
        action = source.randint(0, 4)
        if action == 0:
            body = body[: source.randint(0, len(body))]
        elif action == 1:
            body += bytes([source.randint(0, 255)])
        elif action == 2:
            at = source.randint(0, len(body) - 1)
            body[at] ^= 1 << source.randint(0, 7)
        damaged.append(bytes(body))
    damaged += garbage
    columns = columnar.decode(CODEC, "depth", RecordSet.from_messages(messages_of(damaged)))
    rejected = {bad.row for bad in columns.rejected}
    for row, value in enumerate(damaged):
        try:
            CODEC.decode("depth", value)
        except CodecError:
            assert row in rejected
        else:
            assert row not in rejected


SPELLED = ["live", "lives", "LIVE", "liv", "", "syncing", "ünlive", "invalid"]


@given(st.lists(st.tuples(st.sampled_from(SPELLED), st.booleans()), max_size=30))
def test_choices_are_the_places_of_the_texts(rows):
    """Rows that the codec must decode (not ASCII, no value) stand among those of the kernel."""
    sides = {name: [1.5] for name in ("bid_prices", "bid_quantities", "ask_prices", "ask_quantities")}
    records = [
        {"instrument": "v:A", "event_time": 1, "receive_time": 2, "epoch": 3, "state": text, "last_update_id": 4, **sides}
        for text, _ in rows
    ]
    values = [None if gone else CODEC.encode("depth", record) for record, (_, gone) in zip(records, rows, strict=True)]
    columns = columnar.decode(CODEC, "depth", RecordSet.from_messages(messages_of(values)))
    for texts in (("live",), ("invalid", "", "ünlive", "live")):
        wanted = [-1 if gone or text not in texts else texts.index(text) for text, gone in rows]
        assert columns.choices("state", texts).tolist() == wanted


def record_set(messages, compression, per_batch, first_base=0):
    raw, at = b"", 0
    while at < len(messages):
        part = messages[at : at + per_batch]
        builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 24)
        for i, (_, timestamp, key, value) in enumerate(part):
            builder.append(i, timestamp, key, value, [("header", b"x")] if i % 2 else [])
        batch = bytearray(builder.build())
        batch[0:8] = (first_base + part[0][0]).to_bytes(8, "big")
        raw += bytes(batch)
        at += per_batch
    return raw


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4], ids=["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("per_batch", [1, 7, 1000])
def test_raw_record_sets_are_walked_whole_and_from_the_middle(compression, per_batch):
    source = random.Random(compression * 10 + per_batch)
    keys, values = [None, b"", b"key"], [None, b"", b"v"]
    messages = []
    for i in range(40):
        value = source.choice([*values, source.randbytes(source.randint(1, 300))])
        messages.append((i, 1_700_000_000_000 + source.randint(-5, 5), source.choice([*keys, b"key-%d" % i]), value))
    raw = record_set(messages, compression, per_batch)
    for first, last in ((0, 39), (5, 39), (13, 20), (39, 39)):
        records = RecordSet.from_raw(raw, first, last)
        got = [(int(records.offsets[i]), int(records.timestamps[i]), records.key(i), records.value(i)) for i in range(len(records))]
        assert got == messages[first : last + 1]
        assert records.next_offset == last + 1


def test_a_set_may_hold_batches_of_every_codec():
    messages = messages_of([b"value %d" % i * (i % 9) for i in range(60)])
    raw = b"".join(record_set(messages[at : at + 5], at // 5 % 5, 2 + at % 3) for at in range(0, 60, 5))
    for first, last in ((0, 59), (7, 59), (13, 44), (59, 59)):
        records = RecordSet.from_raw(raw, first, last)
        assert [(*records.index[row, :2].tolist(), records.key(row), records.value(row)) for row in range(len(records))] == messages[
            first : last + 1
        ]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), st.integers(1, 9), st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 7)), min_size=1, max_size=3))
def test_a_damaged_set_is_refused_or_stays_within_its_bytes(compression, per_batch, flips):
    raw = bytearray(record_set(messages_of([b"value %d" % i * 3 for i in range(20)]), compression, per_batch))
    for at, bit in flips:
        raw[at % len(raw)] ^= 1 << bit
    try:
        records = RecordSet.from_raw(bytes(raw), 3, 16)
    except RecordSetError:
        return
    for row in range(len(records)):
        assert 3 <= records.offsets[row] <= 16
        for at, length in (records.index[row, 2:4], records.index[row, 4:6]):
            assert length < 0 or 0 <= at <= at + length <= len(records.buffer)


def test_control_batches_carry_no_records_but_move_the_offset():
    messages = messages_of([b"a", b"b", b"c"])
    raw = record_set(messages, 0, 3)
    control = bytearray(record_set(messages_of([b"x"], 3), 0, 1))
    control[21:23] = (0x20).to_bytes(2, "big")
    records = RecordSet.from_raw(raw + bytes(control), 0, 3)
    assert records.offsets.tolist() == [0, 1, 2] and records.next_offset == 4


def test_truncated_and_old_sets_are_refused():
    raw = record_set(messages_of([b"abc"] * 5), 0, 5)
    with pytest.raises(RecordSetError, match="truncated"):
        RecordSet.from_raw(raw[:-3], 0, 4)
    with pytest.raises(RecordSetError, match="truncated"):
        RecordSet.from_raw(raw[:30], 0, 4)
    old = bytearray(raw)
    old[16] = 1
    with pytest.raises(RecordSetError, match="format 1"):
        RecordSet.from_raw(bytes(old), 0, 4)
    backwards = bytearray(raw)
    backwards[23] = 0x80
    with pytest.raises(RecordSetError, match="ends before it begins"):
        RecordSet.from_raw(bytes(backwards), 0, 4)


@given(st.lists(st.text(min_size=1, max_size=8), max_size=40), st.lists(st.text(max_size=8), max_size=30))
def test_key_tables_number_keys_in_order(known, asked):
    table = KeyTable()
    numbers = [table.add(key) for key in known]
    first = {key: i for i, key in reversed(list(enumerate(dict.fromkeys(known))))}
    assert numbers == [first[key] for key in known]
    records = RecordSet.from_messages([(i, 0, key.encode(), b"v") for i, key in enumerate(asked)])
    assert table.match(records).tolist() == [first.get(key, -1) if key else -1 for key in asked]


texts = st.none() | st.binary(max_size=12)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2**40), texts, texts), max_size=20), st.lists(st.integers(0, 20), max_size=4))
def test_record_sets_joined_are_the_records_in_a_row(rows, cuts):
    offset, messages = 0, []
    for step, timestamp, key, value in rows:
        offset += step  # compaction leaves holes
        messages.append((offset, timestamp, key, value))
    bounds = [0, *sorted(cuts), len(messages)]
    parts = [RecordSet.from_messages(messages[a:b]) for a, b in itertools.pairwise(bounds)]
    # Some are a part of a larger set and share its buffer.
    whole = RecordSet.from_messages(messages)
    shared = [whole.rows(min(a, len(messages)), min(b, len(messages))) for a, b in itertools.pairwise(bounds)]
    for found in (RecordSet.joined(parts), RecordSet.joined(shared)):
        assert [(*found.index[row, :2].tolist(), found.key(row), found.value(row)) for row in range(len(found))] == messages

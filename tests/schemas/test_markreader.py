"""The compiled reader of marks against its plain twin, the codec."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import avro as codec_module
from schemas.codec import markreader
from schemas.codec.avro import Codec, CodecError
from schemas.codec.markreader import Mark, MarkReader
from schemas.codec.recordset import RecordSet
from schemas.codec.recordwriter import long_bytes, text_bytes

CODEC = Codec()
TOPICS = ("agg_trades", "depth", "quotes", "instruments", "strategies", "Ω")


class OneSchemaRegistry:
    """What the codec asks of a registry that has the schema of marks."""

    def id_of(self, topic):
        return 258

    def schema_of(self, schema_id):
        if schema_id != 258:
            raise KeyError(f"no schema {schema_id}")
        return codec_module.parsed("progress")


CONFLUENT = Codec(OneSchemaRegistry())  # type: ignore[arg-type]
HEADERS = (CODEC.header("progress"), CONFLUENT.header("progress"), b"\xc3\x01" + bytes(8))

longs = st.integers(-(2**63), 2**63 - 1)
offsets = st.integers(0, 2**50)
# The same texts again and again, as in the log, and now and then other ones.
texts = st.sampled_from(("", "a", "binance-producer", "BINANCE")) | st.text(max_size=8)
marks = st.fixed_dictionaries({
    "author": texts,
    "venue": texts,
    "event_time": st.integers(0, 2**41) | longs,
    "receive_time": longs,
    "cut": st.dictionaries(st.sampled_from(TOPICS) | st.text(max_size=4), offsets | longs, max_size=8),
})  # fmt: skip


def body(author: bytes, venue: bytes, cut: bytes, time: bytes = b"\x02") -> bytes:
    return author + venue + time + b"\x04" + cut


def entries(*pairs):
    return b"".join(text_bytes(topic) + long_bytes(offset) for topic, offset in pairs)


A, V = text_bytes("a"), text_bytes("V")
TWO = entries(("depth", 7), ("quotes", 9))
# As another writer, or nobody, would write them.
ODD_BODIES = {
    "two blocks": body(A, V, long_bytes(1) + entries(("depth", 7)) + long_bytes(1) + entries(("quotes", 9)) + b"\0"),
    "block with its size": body(A, V, long_bytes(-2) + long_bytes(len(TWO)) + TWO + b"\0"),
    "a topic twice": body(A, V, long_bytes(2) + entries(("depth", 7), ("depth", 9)) + b"\0"),
    "no topics": body(A, V, b"\0"),
    "no topics, a longer zero": body(A, V, b"\x80\0"),
    "a length in two bytes": body(b"\x82\0a", V, long_bytes(2) + TWO + b"\0"),
    "a time in ten bytes": body(A, V, long_bytes(2) + TWO + b"\0", b"\xfe" + b"\xff" * 8 + b"\x01"),
    "a time in eleven bytes": body(A, V, long_bytes(2) + TWO + b"\0", b"\x82" + b"\x80" * 9 + b"\0"),
    "not UTF-8": body(b"\x02\xff", V, long_bytes(2) + TWO + b"\0"),
    "a topic that is not UTF-8": body(A, V, long_bytes(1) + b"\x02\xff\x02\0"),
    "a long author": body(text_bytes("x" * 2000), V, long_bytes(2) + TWO + b"\0"),
    "many topics": body(A, V, long_bytes(100) + entries(*((f"t{n}", n) for n in range(100))) + b"\0"),
    "a length below zero": body(b"\x01", V, long_bytes(2) + TWO + b"\0"),
    "a huge length": body(long_bytes(2**62), V, long_bytes(2) + TWO + b"\0"),
    "a huge count": body(A, V, long_bytes(2**62) + TWO + b"\0"),
    "no end": body(A, V, long_bytes(2) + TWO),
    "more behind": body(A, V, long_bytes(2) + TWO + b"\0x"),
    "nothing": b"",
}


def record_set(values, start=0, step=1):
    return RecordSet.from_messages([(start + step * row, 1000 + row, b"author", value) for row, value in enumerate(values)])


def plain(codec, records, least=0):
    """Return what the codec makes of the records one by one: marks, and (row, field, reason) of the others."""
    found, refused = [], []
    for row, offset in enumerate(records.offsets.tolist()):
        if offset < least:
            continue
        try:
            record = codec.decode("progress", records.value(row))
        except CodecError as error:
            refused.append((row, error.field, error.reason))
        else:
            found.append(Mark(offset, record["author"], record["venue"], record["event_time"], record["cut"]))
    return found, refused


def read(reader, records, least=0):
    """Return the marks one by one, and the refusals."""
    blocks, refused = reader.read(records, least)
    return [block.mark(i) for block in blocks for i in range(len(block.offsets))], refused


def assert_read_as_the_codec_does(reader, codec, records, least=0):
    found, refused = read(reader, records, least)
    assert (found, [(row, error.field, error.reason) for row, error in refused]) == plain(codec, records, least)
    assert all(list(mark.cut) == list(same.cut) for mark, same in zip(found, plain(codec, records, least)[0], strict=True))


@pytest.mark.parametrize("codec", [CODEC, CONFLUENT], ids=["single object", "confluent"])
def test_marks_are_read_as_the_codec_reads_them(codec):
    @settings(max_examples=80, deadline=None)
    @given(st.lists(marks, max_size=12), st.randoms(use_true_random=False), st.lists(st.none() | st.binary(max_size=30), max_size=3))
    def check(records, source, garbage):
        reader = MarkReader(codec)
        values = [source.choice((codec, CODEC)).encode("progress", record) for record in records]
        # The second time every pattern is known.
        for _ in range(2):
            assert_read_as_the_codec_does(reader, codec, record_set(values, 5, 2), source.randint(0, 30))
        for row, value in enumerate(values):
            damaged, action = bytearray(value), source.randint(0, 3)
            if action == 0:
                del damaged[source.randint(0, len(damaged)) :]
            elif action == 1:
                damaged += bytes([source.randint(0, 255)])
            elif action == 2:
                damaged[source.randint(0, len(damaged) - 1)] ^= 1 << source.randint(0, 7)
            values[row] = bytes(damaged)
        assert_read_as_the_codec_does(reader, codec, record_set([*values, *garbage]))

    check()


@pytest.mark.parametrize("codec", [CODEC, CONFLUENT], ids=["single object", "confluent"])
def test_marks_of_other_writers_and_broken_ones_are_read_as_the_codec_reads_them(codec):
    usual = body(A, V, long_bytes(2) + TWO + b"\0")
    values = [header + one for header in HEADERS for odd in ODD_BODIES.values() for one in (odd, usual)]
    whole = record_set([None, *values, b"", *values])
    reader = MarkReader(codec)
    assert_read_as_the_codec_does(reader, codec, whole)
    assert_read_as_the_codec_does(reader, codec, whole, len(values) // 2)
    assert_read_as_the_codec_does(MarkReader(codec), codec, whole.rows(7, 40))


def test_the_codec_is_asked_once_for_the_texts_of_a_mark(monkeypatch):
    asked = []

    class Counting(Codec):
        def decode(self, topic, value):
            asked.append(value)
            return super().decode(topic, value)

    codec = Counting()
    count = 2 * markreader._AT_ONCE + 3
    written = [
        {"author": f"p{n % 2}", "venue": "V", "event_time": n, "receive_time": n, "cut": {"depth": n, "quotes": 2 * n}}
        for n in range(count)
    ]
    values = [codec.encode("progress", record) for record in written]
    found, refused = read(MarkReader(codec), record_set(values))
    assert found == [Mark(n, f"p{n % 2}", "V", n, {"depth": n, "quotes": 2 * n}) for n in range(count)] and not refused
    assert asked == values[:2]
    # Authors without end are forgotten again, and still read.
    monkeypatch.setattr(markreader, "_MOST_PATTERNS", 2)
    reader = MarkReader(codec)
    values = [codec.encode("progress", record | {"author": f"p{n % 5}"}) for n, record in enumerate(written[:20])]
    for start in range(0, 20, 4):
        found = read(reader, record_set(values[start : start + 4]))[0]
        assert [mark.author for mark in found] == [f"p{n % 5}" for n in range(start, start + 4)]
        assert len(reader._known) <= 2 and len(reader._table) <= 4


def test_marks_of_one_block_in_which_authors_without_end_take_turns_keep_their_own(monkeypatch):
    monkeypatch.setattr(markreader, "_MOST_PATTERNS", 2)
    values = [CODEC.encode("progress", {"author": f"p{n % 23}", "venue": "V", "event_time": n, "receive_time": n, "cut": {"depth": n}})
              for n in range(200)]  # fmt: skip
    assert_read_as_the_codec_does(MarkReader(CODEC), CODEC, record_set(values))

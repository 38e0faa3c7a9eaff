"""Rows of binary COPY: the compiled way equals the codec's, and what cannot be a row is refused with its reason."""

from __future__ import annotations

import random
import struct

import pytest
from timescale_records import record

from schemas import catalogue
from schemas.codec import Codec, CodecError
from sinks.timescale import rows, transcode
from sinks.timescale.tables import table

CODEC = Codec()


def _plain(topic: str, values: list[bytes], partition: int = 3) -> list[bytes]:
    pack = rows.packer(topic)
    return [pack(CODEC.decode(topic, value), partition, 100 + n) for n, value in enumerate(values)]


@pytest.mark.parametrize("topic", catalogue.TOPICS)
def test_compiled_rows_equal_the_codecs(topic: str) -> None:
    rng = random.Random(7)
    records = [record(topic, n, rng, odd=True) for n in range(300)]
    values = [CODEC.encode(topic, one) for one in records]
    made = rows.encode(CODEC, topic, values, range(100, 100 + len(values)), 3)
    assert not made.refused
    assert [bytes(made.payload[a:b]) for a, b in zip(made.bounds[:-1], made.bounds[1:], strict=True)] == _plain(topic, values)
    assert made.event_times.tolist() == [one["event_time"] for one in records]
    for column, name in zip(made.ids, table(topic).told_by, strict=True):
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
    made = transcode.encode(topic, CODEC.header(topic), values, range(50), 0, table(topic).told_by)
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
        made = rows.encode(CODEC, topic, values, range(len(values)), 1)
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
    made = rows.encode(CODEC, "gaps", values, range(5), 0)
    assert made.index.tolist() == [0, 4]
    assert [refusal.index for refusal in made.refused] == [1, 2, 3]
    assert made.refused[0].field == field
    assert reason in made.refused[0].reason
    assert "unknown frame" in made.refused[1].reason
    assert made.refused[0].instrument == good["instrument"]


def test_slices_join_neighbours() -> None:
    rng = random.Random(2)
    values = [CODEC.encode("quotes", record("quotes", n, rng)) for n in range(6)]
    made = rows.encode(CODEC, "quotes", values, range(6), 0)
    import numpy as np

    pieces = made.slices(np.array([0, 1, 3, 5]))
    assert len(pieces) == 3
    plain = _plain("quotes", values, 0)
    for n, piece in zip((3, 5), pieces[1:], strict=True):
        assert struct.unpack("!q", bytes(piece)[-8:])[0] == n
    assert len(pieces[0]) == len(plain[0]) + len(plain[1])
    assert made.slices(np.array([], dtype=np.int64)) == []

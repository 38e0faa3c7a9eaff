"""The compiled writer against fastavro, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec.avro import Codec
from schemas.codec.recordwriter import long_bytes, text_bytes
from schemas.codec.rowwriter import RowWriter, texts_bytes

CODEC = Codec()
FIELDS = {field["name"]: field["type"] for field in catalogue.schema("features")["fields"]}
LONGS = tuple(name for name, kind in FIELDS.items() if kind in ("long", "int") or (isinstance(kind, dict) and kind["type"] == "long"))
DOUBLES = tuple(name for name, kind in FIELDS.items() if kind in ("double", ["null", "double"]))
INTS = {name for name in LONGS if FIELDS[name] == "int"}

doubles = st.floats(allow_nan=False, width=64)
texts = st.lists(st.text(max_size=80), max_size=70)


@st.composite
def records(draw):
    record = {"instrument": draw(st.text(max_size=200)), "missing_inputs": draw(texts), "stale_inputs": draw(texts)}
    for name in LONGS:
        bits = 31 if name in INTS else 63
        record[name] = draw(st.integers(-(2**bits), 2**bits - 1))
    for name in DOUBLES:
        record[name] = draw(doubles if FIELDS[name] == "double" else st.none() | doubles)
    return record


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), max_size=4))
def test_rows_are_written_as_fastavro_writes_them(rows):
    writer = RowWriter("features", LONGS, DOUBLES)
    assert (writer.before, writer.after) == (["instrument"], ["missing_inputs", "stale_inputs"])
    longs = np.array([[row[name] for name in LONGS] for row in rows], dtype=np.int64).reshape(len(rows), len(LONGS))
    values = np.array([[np.nan if row[name] is None else row[name] for name in DOUBLES] for row in rows]).reshape(len(rows), len(DOUBLES))
    written = writer.write(longs, values)
    assert len(written) == len(rows)
    for row, middle in zip(rows, written, strict=True):
        tail = texts_bytes(row["missing_inputs"]) + texts_bytes(row["stale_inputs"])
        assert CODEC.header("features") + text_bytes(row["instrument"]) + middle + tail == CODEC.encode("features", row)


@given(st.integers(-(2**63), 2**63 - 1))
def test_longs_round_trip(value):
    encoded = long_bytes(value)
    number = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(encoded))
    assert (number >> 1) ^ -(number & 1) == value
    assert all(byte & 0x80 for byte in encoded[:-1]) and not encoded[-1] & 0x80


@pytest.mark.parametrize(
    ("longs", "doubles_", "named"),
    [
        (("event_time", "pane_trades"), (), "one run"),
        (("event_time", "receive_time"), ("large_buys",), "one run"),
        (("large_buys",), ("large_sells",), "large_sells"),
        (("event_time",), ("instrument",), "instrument"),
        (("price",), (), "price"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(longs, doubles_, named):
    with pytest.raises(ValueError, match=named):
        RowWriter("features", longs, doubles_)

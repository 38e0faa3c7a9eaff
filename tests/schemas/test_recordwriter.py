"""Records written by code made for their schema: byte by byte what fastavro writes, and what it refuses is refused."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec.avro import Codec, CodecError, parsed, plain_timestamps
from schemas.codec.recordwriter import compiled, long_bytes

FLAT = [topic for topic in catalogue.TOPICS if compiled(plain_timestamps(catalogue.schema(topic)), b"") is not None]
CODEC = Codec()
GATE = next(field["type"]["items"] for field in catalogue.schema("scores")["fields"] if field["name"] == "gates")
LONGS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**21) | st.just(1_763_822_400_123)
DOUBLES = st.floats(width=64)
PLAIN = {"string": st.text(), "long": LONGS, "int": st.integers(-(2**31), 2**31 - 1), "double": DOUBLES, "boolean": st.booleans()}
# What has no place there, or is of another type that fits all the same.
ODD = st.sampled_from([None, "x", b"x", 7, -1, 2**63, 2**70, 1.5, True, [], [1], ["x"], {}, {"x": 1}, {"x": 1.5}, {1: 2}, "\udc80"])


def values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.none() | values(kind[1])
    if isinstance(kind, dict):
        if kind["type"] == "map":
            return st.dictionaries(st.text() | st.sampled_from(["agg_trades", "instruments"]), LONGS, max_size=5)
        return st.lists(DOUBLES, max_size=25) if kind["type"] == "array" else values(kind["type"])
    return PLAIN[kind]


@st.composite
def records(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    topic = draw(st.sampled_from(FLAT))
    fields = catalogue.schema(topic)["fields"]
    record = {field["name"]: draw(values(field["type"])) for field in fields}
    for field in draw(st.lists(st.sampled_from(fields), max_size=2)):
        record[field["name"]] = draw(ODD)
    for field in draw(st.lists(st.sampled_from(fields), max_size=1)):
        record.pop(field["name"])
    return topic, record


def reference(topic: str, record: dict[str, Any]) -> bytes | None:
    out = io.BytesIO()
    for field in catalogue.schema(topic)["fields"]:  # fastavro writes anything as a boolean, None as False
        if field["type"] == "boolean" and type(record.get(field["name"], field.get("default"))) is not bool:
            return None
    try:
        fastavro.schemaless_writer(out, parsed(topic), record)
    except Exception:
        return None
    return CODEC.header(topic) + out.getvalue()


@settings(max_examples=300, deadline=None)
@given(records())
def test_a_record_is_written_as_fastavro_writes_it_or_refused_with_it(case: tuple[str, dict[str, Any]]) -> None:
    topic, record = case
    wanted = reference(topic, record)
    if wanted is None:
        with pytest.raises(CodecError, match=topic):
            CODEC.encode(topic, record)
    else:
        assert CODEC.encode(topic, record) == wanted


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_long_is_written_as_fastavro_writes_it(value: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    assert long_bytes(value) == out.getvalue()


@pytest.mark.parametrize("value", [None, "false", 0])
def test_an_aggressor_that_is_not_known_is_no_buyer(value: Any) -> None:
    trade = {
        "instrument": "V:AUSDT-PERP", "event_time": 1_763_822_400_123, "receive_time": 1_763_822_400_125, "agg_id": 1, "first_trade_id": 1,
        "last_trade_id": 2, "price": 1.5, "quantity": 2.0, "buyer_is_maker": value, "backfilled": False,
    }  # fmt: skip
    with pytest.raises(CodecError, match=r"agg_trades\.buyer_is_maker"):
        CODEC.encode("agg_trades", trade)
    del trade["buyer_is_maker"]
    with pytest.raises(CodecError, match=r"agg_trades\.buyer_is_maker"):
        CODEC.encode("agg_trades", trade)


def test_a_flag_of_a_record_within_a_record_is_looked_at_too() -> None:
    gate = {field["name"]: 1.0 for field in GATE["fields"]} | {"name": "vol", "enabled": True, "passed": True, "skipped": None}
    score = {field["name"]: None for field in catalogue.schema("scores")["fields"]} | {
        "gate_passed": True, "warm": True, "cooldown": False, "signalled": False, "gates": [gate],
    }  # fmt: skip
    with pytest.raises(CodecError, match=r"scores\.skipped: None is neither true nor false"):
        CODEC.encode("scores", score)


def test_the_market_data_is_written_by_such_code() -> None:
    """Which is the point of it: what comes ten thousands of times a second does not walk a schema."""
    assert {
        "agg_trades",
        "quotes",
        "depth",
        "funding",
        "liquidations",
        "market_indicators",
        "klines",
        "progress",
        "worker_progress",
    } <= set(FLAT)
    trade = {
        "instrument": "V:AUSDT-PERP", "event_time": 1_763_822_400_123, "receive_time": 1_763_822_400_125, "agg_id": 2**40, "first_trade_id": 1,
        "last_trade_id": 2, "price": 1.5, "quantity": 2.0, "buyer_is_maker": False, "backfilled": False,
    }  # fmt: skip
    write = compiled(plain_timestamps(catalogue.schema("agg_trades")), b"head")
    assert write is not None and write(trade).startswith(b"head")

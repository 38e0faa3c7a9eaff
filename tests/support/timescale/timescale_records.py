"""Makers of valid records for any topic, from its Avro schema: nulls, unicode, extreme doubles, tiny decimals, any year."""

from __future__ import annotations

import random
from typing import Any

from schemas import catalogue
from schemas.codec.avro import Record

DOUBLES = (0.0, -0.0, 1e-8, 1.5e-8, 0.1, 61659.7, -123.456, 1e308, -1e308, 5e-324, 2.2250738585072014e-308, 123456789.12345679)
ODD_DOUBLES = (float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "LONG", "BINANCE:BTCUSDT-PERP", "ünïcode ₿ 漢字 🚀", 'quote " back \\ tab \t line \n', "x" * 300)
LONGS = (0, 1, -1, 127, 128, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
INTS = (0, 1, -1, 2**31 - 1, -(2**31))
# 2024-08-08, the year 2000, 1999, 2100.
TIMES = (1723075200123, 946684800000, 946684799999, 4102444800001)


def _value(kind: Any, rng: random.Random, odd: bool) -> Any:
    if isinstance(kind, list):
        return _value(rng.choice(kind), rng, odd)
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-millis":
            return rng.choice(TIMES)
        if kind["type"] == "array":
            return [_value(kind["items"], rng, odd) for _ in range(rng.choice((0, 1, 3, 20)))]
        if kind["type"] == "map":
            return {rng.choice(TEXTS[1:]) + str(n): _value(kind["values"], rng, odd) for n in range(rng.choice((0, 1, 3)))}
        if kind["type"] == "record":
            return {field["name"]: _value(field["type"], rng, odd) for field in kind["fields"]}
        return _value(kind["type"], rng, odd)
    return {
        "null": lambda: None,
        "string": lambda: rng.choice(TEXTS),
        "boolean": lambda: rng.random() < 0.5,
        "int": lambda: rng.choice(INTS),
        "long": lambda: rng.choice(LONGS),
        "double": lambda: rng.choice(DOUBLES + ODD_DOUBLES if odd else DOUBLES),
        "bytes": lambda: rng.choice((b"", b"\x00\xff", b"garbage" * 20)),
    }[kind]()


def record(topic: str, number: int, rng: random.Random, odd: bool = False) -> Record:
    """Return a valid record whose id (in topics without ids: its receive_time) is unique per number; ``odd``: doubles may be infinite or NaN."""
    made = {field["name"]: _value(field["type"], rng, odd) for field in catalogue.schema(topic)["fields"]}
    for name in catalogue.TOPICS[topic].record_id or ("receive_time",):
        if isinstance(made[name], str):
            made[name] = f"{made[name]}|{number}" if name != "instrument" else "BINANCE:BTCUSDT-PERP"
        elif name in ("event_time", "receive_time"):
            made[name] = 1723075200000 + number * 1000
        else:
            made[name] = number
    return made

"""Records for the notifier's tests: what a schema demands, with the fields that a test cares for."""

from __future__ import annotations

from typing import Any

from schemas import catalogue

BTC, ETH, LTC = "BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP", "BINANCE:LTCUSDT-PERP"
T0 = 1_726_000_000_000
_PLAIN: dict[str, Any] = {"string": "x", "int": 1, "long": 1, "double": 1.5, "boolean": False, "bytes": b"\x00\xff"}


def record(topic: str, nulls: bool = True, **fields: Any) -> dict[str, Any]:
    """Return a record of a topic; optional fields are null, or filled when ``nulls`` is False."""
    made = {field["name"]: _value(field["type"], nulls) for field in catalogue.schema(topic)["fields"]}
    made.update({"event_time": T0, **({"instrument": BTC} if "instrument" in made and made["instrument"] is not None else {}), **fields})
    unknown = set(fields) - set(catalogue.field_names(topic))
    assert not unknown, unknown
    return made


def _value(kind: Any, nulls: bool) -> Any:
    if isinstance(kind, list):
        return None if nulls and "null" in kind else _value(next(one for one in kind if one != "null"), nulls)
    if isinstance(kind, dict):
        return [] if kind["type"] == "array" else {} if kind["type"] == "map" else _value(kind["type"], nulls)
    return _PLAIN[kind]


def signal(number: int, instrument: str = BTC, **fields: Any) -> dict[str, Any]:
    """Return the signal of a number."""
    time = T0 + number * 15_000
    return record(
        "signals",
        signal_id=f"{instrument}|s1|{time}",
        instrument=instrument,
        event_time=time,
        strategy_id="s1",
        strategy_name="Breakout",
        direction="LONG",
        score=87.5,
        tier="heavy",
        entry=True,
        price=61234.5,
        **fields,
    )


def announced(instrument: str, recorded: bool) -> dict[str, Any]:
    """Return an instrument's contract facts."""
    return record("instruments", instrument=instrument, status="trading", recorded=recorded)

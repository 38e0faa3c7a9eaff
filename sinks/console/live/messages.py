"""Records as JSON of the live stream, and the frame of server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson

from schemas import catalogue

# What a browser does not need: bytes of others, and the guard's memory.
_HIDDEN = {"risk_state": {"memory"}}
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def iso(ms: int) -> str:
    """Return a time in ms UTC as ISO 8601 text with milliseconds. A time that no calendar has gives the number as text."""
    try:
        return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
    except (OverflowError, OSError, ValueError):
        return str(ms)


def frame(event: str, payload: Mapping[str, Any], event_id: str = "") -> bytes:
    """Return one server-sent event. JSON has no line breaks, so it is one line of data."""
    return framed(event, orjson.dumps(payload, option=_OPTIONS), event_id)


def framed(event: str, data: bytes, event_id: str = "") -> bytes:
    """Return one server-sent event of JSON bytes."""
    head = f"id: {event_id}\nevent: {event}\ndata: " if event_id else f"event: {event}\ndata: "
    return b"%b%b\n\n" % (head.encode(), data)


def dumped(payload: Mapping[str, Any]) -> bytes:
    """Return JSON bytes."""
    return orjson.dumps(payload, option=_OPTIONS)


@cache
def _times(topic: str) -> tuple[str, ...]:
    return tuple(field["name"] for field in catalogue.schema(topic)["fields"] if _is_time(field["type"]))


def _is_time(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_time(part) for part in kind)
    return isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis"


@cache
def rendering(topic: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that gives a record's JSON form.

    All fields have their name of the schema. A time is ISO 8601 text, and a field with the suffix ``_ms`` has its milliseconds.
    """
    times, hidden = _times(topic), _HIDDEN.get(topic, set())

    def rendered(record: dict[str, Any]) -> dict[str, Any]:
        out = {name: value for name, value in record.items() if name not in hidden}
        for name in times:
            value = out[name]
            out[f"{name}_ms"] = value
            out[name] = None if value is None else iso(value)
        for reason in out.get("reasons") or ():
            reason.update({f"{name}_ms": reason[name] for name in ("since", "until")}, since=iso(reason["since"]))
            reason["until"] = None if reason["until"] is None else iso(reason["until"])
        return out

    return rendered

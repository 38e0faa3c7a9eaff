"""The frame of server-sent events, and the JSON in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def dumped(payload: Mapping[str, Any]) -> bytes:
    """Return JSON bytes."""
    return orjson.dumps(payload, option=_OPTIONS)


def framed(event: str, data: bytes, event_id: str = "") -> bytes:
    """Return one server-sent event of JSON bytes. They have no line breaks, so they are one line of data."""
    head = f"id: {event_id}\nevent: {event}\ndata: " if event_id else f"event: {event}\ndata: "
    return b"%b%b\n\n" % (head.encode(), data)


def frame(event: str, payload: Mapping[str, Any], event_id: str = "") -> bytes:
    """Return one server-sent event."""
    return framed(event, dumped(payload), event_id)

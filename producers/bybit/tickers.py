"""Partial tickers: a field missing in a message is unchanged (pure).

The venue sends up to ten tickers a second, mostly about prices that we take from other streams. A ``funding`` record is written when one of
its fields arrives, else once a second, so that an unchanged mark price does not look stale. Indicators are written at most once in 15 s,
and once a minute while unchanged.
"""

from __future__ import annotations

from typing import Any

from producers.bybit import mapping
from producers.venue.adapter import records
from producers.venue.adapter.base import Event
from producers.venue.adapter.json_values import get, one_of, time_ms
from schemas.codec.avro import Record

FUNDING_REPEAT_MS = 1_000
INDICATOR_STEP_MS = 15_000
INDICATOR_REPEAT_MS = 60_000


def merged(
    message: dict[str, Any], market_symbol: str, instrument: str, received: int, memory: dict[str, Any], kinds: tuple[str, ...]
) -> list[Event]:
    """Return the content of a tickers message, merged with the known fields (``memory``: ``ticker``, ``ticker_time``, ``written``).

    A field missing in a snapshot stays, too: an absent schedule is not an unknown one (W R001-218, R001-233).

    Args:
        message: The whole message. market_symbol, instrument: Its required symbol, and our id.
        received: Our clock.
        memory: The market's memory; changed only by a complete message.
        kinds: Topics that the stream feeds.
    """
    time = time_ms(message, "ts", "tickers", received)
    one_of(message, "type", "tickers", ("snapshot", "delta"))
    data = get(message, "data", "tickers")
    mapping.check_symbol(data, "symbol", market_symbol, "tickers")
    fresh = mapping.ticker(data)
    if time < memory.get("ticker_time", 0):
        return []  # older: during a rotation two connections overlap, and the faster one already sent this
    memory["ticker_time"] = time
    known: dict[str, Any] = {**memory.get("ticker", {}), **fresh}
    written: dict[str, tuple[int, Any]] = memory.setdefault("written", {})
    memory["ticker"] = known
    events: list[Event] = []
    if "funding" in kinds and any(name in known for name in mapping.FUNDING_FIELDS):
        due = time - written.get("funding", (0, None))[0] >= FUNDING_REPEAT_MS
        if due or any(name in fresh for name in mapping.FUNDING_FIELDS):
            written["funding"] = (time, None)
            record: Record = {"instrument": instrument, **mapping.funding(known, time, received)}
            events.append(("funding", record))
    for name in mapping.INDICATORS if "market_indicators" in kinds else ():
        if name not in known:
            continue
        at, value = written.get(name, (0, None))
        if time - at >= (INDICATOR_STEP_MS if value != known[name] else INDICATOR_REPEAT_MS):
            written[name] = (time, known[name])
            events.append(("market_indicators", records.indicator(name, known[name], time, received, instrument)))
    return events

"""The venue's time of messages without a time (Binance spot's bookTicker, Hyperliquid's activeAssetCtx)."""

from __future__ import annotations

from producers.venue.adapter.base import Market


def note_time(market: Market, event_time: int, received: int) -> None:
    """Store the venue's newest time on a symbol's streams, and its arrival time."""
    if event_time >= market.memory.get("time", (0, 0))[0]:
        market.memory["time"] = (event_time, received)


def estimated_time(market: Market, received: int) -> int:
    """Return the venue's time of a message without one: the newest time on the symbol, plus the time that passed on our clock since.

    So neither a wrong clock of ours nor a symbol without other messages does harm. A recording is played at any speed, so there the newest
    time is returned unchanged. Before the first venue time our clock is used.
    """
    event_time, came = market.memory.get("time", (received, received))
    return int(event_time) if market.facts.get("recorded") else int(event_time + max(0, received - came))

"""The venue's time of messages that carry none (Binance spot's bookTicker, Hyperliquid's activeAssetCtx)."""

from __future__ import annotations

from producers.venue.adapter.base import Market


def note_time(market: Market, event_time: int, received: int) -> None:
    """Remember the venue's newest time on a symbol's streams and when it came."""
    if event_time >= market.memory.get("time", (0, 0))[0]:
        market.memory["time"] = (event_time, received)


def estimated_time(market: Market, received: int) -> int:
    """Return the venue's time of a message that has none: the newest one heard on the symbol, moved on by what has passed on our clock since.

    So a wrong clock of ours does no harm, and neither does a symbol on which nothing else is heard. A recording is played at any speed: there
    the newest time stands. Before the first one ours is all there is.
    """
    event_time, came = market.memory.get("time", (received, received))
    return int(event_time) if market.facts.get("recorded") else int(event_time + max(0, received - came))

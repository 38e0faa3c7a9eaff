"""Settled funding of venues that publish it only over REST: a poll that calls the adapter's history."""

from __future__ import annotations

from collections.abc import Sequence

from producers.venue.adapter.base import Adapter, Market
from producers.venue.network.rest import Rest
from schemas.codec.avro import Record

# Look-back of the first round.
DAY_MS = 24 * 3_600_000


async def new_settlements(adapter: Adapter, rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    """Return the new settlements, each once. The first call returns those of a day.

    Args:
        adapter: The venue; its ``history`` is called. rest: where. markets: The symbols. Each stores its newest settlement. received: Our
            clock, ms UTC.

    Raises:
        RestError, MappingError: from ``history``.
    """
    found: list[tuple[str, str, Record]] = []
    for market in markets:
        since = market.memory.get("settled", received - DAY_MS) + 1
        records = [record for topic, record in await adapter.history(rest, market, since, received) if topic == "funding"]
        if records:
            market.memory["settled"] = max(record["event_time"] for record in records)
        found += [(market.symbol, "funding", record) for record in records]
    return found

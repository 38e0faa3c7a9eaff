"""Settled funding as it comes, of venues that say it over REST only: a poll by means of the adapter's history."""

from __future__ import annotations

from collections.abc import Sequence

from producers.venue.adapter.base import Adapter, Market
from producers.venue.network.rest import Rest
from schemas.codec.avro import Record

# How far the first round looks back.
DAY_MS = 24 * 3_600_000


async def new_settlements(adapter: Adapter, rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    """Return the settlements that were not said before: those of a day at first, then each new one once.

    Args:
        adapter: Its ``history`` is asked. rest: where. markets: Of which; each remembers its newest settlement. received: Our clock, ms UTC.

    Raises:
        RestError, MappingError: as of ``history``.
    """
    found: list[tuple[str, str, Record]] = []
    for market in markets:
        since = market.memory.get("settled", received - DAY_MS) + 1
        records = [record for topic, record in await adapter.history(rest, market, since, received) if topic == "funding"]
        if records:
            market.memory["settled"] = max(record["event_time"] for record in records)
        found += [(market.symbol, "funding", record) for record in records]
    return found

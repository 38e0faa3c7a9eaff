"""Flows of history merged by time into steps of the evaluation grid, and what is known of a contract from its rows alone (pure).

The importer writes such steps to Kafka; a replay of files feeds them to the cores. The same files give the same steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from producers.importer.rows import Event
from producers.sequencer import Sequencer, Step
from producers.venue.adapter import Adapter
from schemas.codec import Record
from schemas.partition import base_of_instrument, split_symbol

# Where no price or quantity was seen (funding alone), the contract's decimals are not known: the finest that venues use.
UNKNOWN_DECIMALS = 8


class Placed(NamedTuple):
    """An event and the place of its flow among the flows that were merged."""

    flow: int
    event: Event


def merged(flows: Sequence[Iterator[Event]], grid_ms: int, lateness_ms: int) -> Iterator[Step[Placed]]:
    """Merge flows by time into steps, one mark a grid step: the mark of instant T is at T + lateness, where T fires (DESIGN 3: importers of history).

    Args:
        flows: Each in its own order, which is kept; of one time the earlier flow comes first.
        grid_ms, lateness_ms: Of the environment.
    """
    sequencer: Sequencer[Placed] = Sequencer(grid_ms, grid_ms, 0)
    heads: list[tuple[int, int, Event]] = []

    def follow(rank: int, clock: int) -> None:
        # The clock of a flow never runs back, whatever its rows say.
        event = next(flows[rank], None)
        if event is None:
            sequencer.leave(str(rank))
        else:
            heapq.heappush(heads, (max(event.time, clock), rank, event))

    for rank in range(len(flows)):
        sequencer.join(str(rank), rank)
        follow(rank, 0)
    while heads:
        clock, rank, event = heapq.heappop(heads)
        if sequencer.advance(str(rank), clock - lateness_ms):
            for step in sequencer.release():
                yield _shifted(step, lateness_ms)
        sequencer.push(str(rank), Placed(rank, event))
        follow(rank, clock)
    for step in sequencer.finish():
        yield _shifted(step, lateness_ms)


def _shifted(step: Step[Placed], lateness: int) -> Step[Placed]:
    return Step(None if step.time is None else step.time + lateness, step.items, step.grid)


def contract_facts(
    adapter: Adapter, author: str, symbol: str, instrument: str, price_decimals: int, quantity_decimals: int, first: int
) -> Record:
    """Return the ``instruments`` record, without instrument and receive_time, of a contract that is known from its rows alone.

    Args:
        adapter: Its venue. author: Of the marks.
        symbol, instrument: Its names.
        price_decimals, quantity_decimals: Most decimals that its rows show; ``UNKNOWN_DECIMALS`` where none show any.
        first: Its first row, ms UTC.
    """
    price = price_decimals or (0 if quantity_decimals != UNKNOWN_DECIMALS else UNKNOWN_DECIMALS)
    parts = symbol.split("-")
    return {
        "event_time": first, "author": author, "venue": adapter.venue, "symbol": symbol,
        "base_asset": base_of_instrument(instrument), "quote_asset": parts[1] if len(parts) > 1 else split_symbol(symbol)[1],
        "kind": adapter.kind, "status": "trading", "tick_size": float(Decimal(1).scaleb(-price)),
        "step_size": float(Decimal(1).scaleb(-quantity_decimals)), "min_notional": None, "price_decimals": price,
        "quantity_decimals": quantity_decimals, "funding_interval_hours": None, "recorded": True,
    }  # fmt: skip

"""Merges flows of history by time into steps of the evaluation grid, and derives a contract's facts from its rows (pure).

The importer writes such steps to Kafka; a replay of files feeds them to the cores. The same files give the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from producers.importer.rows import Event
from producers.output.sequencer import Step
from producers.venue.adapter.base import Adapter
from schemas.codec.avro import Record
from schemas.partition import base_of_instrument, split_symbol

# Decimals of a contract without a price or quantity (funding only): the finest that venues use.
UNKNOWN_DECIMALS = 8


class Placed(NamedTuple):
    """An event and the index of its flow among the merged flows."""

    flow: int
    event: Event


def merged(flows: Sequence[Iterator[Event]], grid_ms: int, lateness_ms: int) -> Iterator[Step[Placed]]:
    """Merge flows by time into steps, one mark a grid step. The mark of instant T is at T + lateness, where T fires (DESIGN 3: importers of
    history).

    Args:
        flows: Each keeps its order. In a step the earlier flow comes first.
        grid_ms, lateness_ms: Of the environment.
    """
    clocks = [0] * len(flows)
    heads: dict[int, Event] = {}

    def step_of(flow: int) -> int:
        # The clock of a flow never goes back, even if its rows do.
        return -(-(max(heads[flow].time, clocks[flow]) - lateness_ms) // grid_ms) * grid_ms

    def follow(flow: int) -> None:
        event = next(flows[flow], None)
        if event is None:
            heads.pop(flow, None)
        else:
            heads[flow] = event

    for flow in range(len(flows)):
        follow(flow)
    step: int | None = None
    while heads:
        step = min(map(step_of, heads)) if step is None else step + grid_ms  # every instant has a mark
        items: list[Placed] = []
        for flow in range(len(flows)):
            while flow in heads and step_of(flow) <= step:
                event = heads[flow]
                items.append(Placed(flow, event))
                clocks[flow] = max(event.time, clocks[flow])
                follow(flow)
        yield Step(step + lateness_ms, items, True)


def contract_facts(
    adapter: Adapter, author: str, symbol: str, instrument: str, price_decimals: int, quantity_decimals: int, first: int
) -> Record:
    """Return the ``instruments`` record, without instrument and receive_time, of a contract, from its rows only.

    Args:
        adapter: Its venue. author: Of the marks.
        symbol, instrument: Its names.
        price_decimals, quantity_decimals: Most decimals in its rows; ``UNKNOWN_DECIMALS`` if they have none.
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

"""The market in which orders are filled: book, last and mark price of one instrument. Pure.

The book comes from the recording or the generator. Quantities that our orders take are missing until a new book is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from producers.simulated.exchange.core.orders import BUY
from producers.simulated.exchange.core.rules import ZERO, Contract

Level = tuple[Decimal, Decimal]


@dataclass
class MarketState:
    """The known state of one instrument's market.

    Attributes:
        bids, asks: (price, quantity), best first. trading: Orders are accepted. last, mark, index: Prices; 0 while unknown.
        funding_rate, next_funding: As announced by the venue; ms.
    """

    contract: Contract
    bids: list[Level] = field(default_factory=list)
    asks: list[Level] = field(default_factory=list)
    last: Decimal = ZERO
    mark: Decimal = ZERO
    index: Decimal = ZERO
    funding_rate: Decimal = ZERO
    next_funding: int = 0
    trading: bool = True
    trade_id: int = 0
    time: int = 0

    def set_book(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Replace the book; best levels first."""
        self.bids, self.asks = list(bids), list(asks)
        if not self.mark and self.bids and self.asks:
            self.mark = (self.bids[0][0] + self.asks[0][0]) / 2

    @property
    def reference(self) -> Decimal:
        """Mark price, or the best other known price; 0: none."""
        return self.mark or self.last

    def best(self, side: str) -> Decimal | None:
        """Return the best price for a taker of ``side``; None: the other side is empty."""
        levels = self.asks if side == BUY else self.bids
        return levels[0][0] if levels else None

    def reachable(self, side: str, limit: Decimal | None) -> Decimal:
        """Return the available quantity for a taker up to a limit price."""
        levels = self.asks if side == BUY else self.bids
        return sum((quantity for price, quantity in levels if _within(side, price, limit)), ZERO)

    def take(self, side: str, quantity: Decimal, limit: Decimal | None) -> list[Level]:
        """Take up to ``quantity`` from the book up to a limit price. Return (price, quantity) of each level taken."""
        levels = self.asks if side == BUY else self.bids
        taken: list[Level] = []
        while quantity > 0 and levels and _within(side, levels[0][0], limit):
            price, there = levels[0]
            part = min(quantity, there)
            taken.append((price, part))
            quantity -= part
            if part == there:
                levels.pop(0)
            else:
                levels[0] = (price, there - part)
        return taken

    def at(self, side: str, price: Decimal) -> Decimal:
        """Return the quantity that rests at a price on the side of a maker's order."""
        levels = self.bids if side == BUY else self.asks
        return next((quantity for level, quantity in levels if level == price), ZERO)


def _within(side: str, price: Decimal, limit: Decimal | None) -> bool:
    return limit is None or (price <= limit if side == BUY else price >= limit)

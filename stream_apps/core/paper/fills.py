"""Contract steps and book walks: how a venue fills a paper order (DECISIONS D20). Pure.

**Steps.** A quantity is an even number of lots, so that both halves of a position (D21) are whole lots. A smaller quantity is refused, and
so is an entry below the venue's smallest order value. Prices of resting orders are whole ticks, rounded away from the position: a stop and
a target move further off. Break-even is rounded to the side on which its fees are paid.

**Walking the book.** A market order takes the levels of the other side from the best on, each at its price. It pays their mean weighted by
quantity. A quantity beyond the known levels (the topic has 20) fills at the last level, worse by the model's slippage. The book is the
newest one at or before the filling trade, if it is live and not older than ``STALE_MS`` (D9). No fill is better than the trade at which it
happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.paper.money import ZERO, exact, wire_price

IntArray = npt.NDArray[np.int64]
Levels = Sequence[tuple[Decimal, Decimal]]

# Age from which a book no longer shows the present market (D9).
STALE_MS = 5_000


@dataclass(frozen=True, slots=True)
class Filters:
    """Steps of a contract, in quote and base units.

    Attributes:
        tick: Price step, > 0.
        lot: Quantity step, > 0.
        min_notional: Smallest value of an entry order, quote units. None: the venue names none.
    """

    tick: Decimal
    lot: Decimal
    min_notional: Decimal | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Filters | None:
        """Return the steps of an ``instruments`` record; None if it lacks them."""
        tick, lot, least = record.get("tick_size"), record.get("step_size"), record.get("min_notional")
        if not (tick and lot and tick > 0 and lot > 0):
            return None
        return cls(exact(tick), exact(lot), None if least is None else exact(least))

    @classmethod
    def from_json(cls, values: Sequence[str | None] | None) -> Filters | None:
        """Return what ``to_json`` wrote."""
        if values is None:
            return None
        tick, lot, least = values
        assert tick is not None and lot is not None
        return cls(Decimal(tick), Decimal(lot), None if least is None else Decimal(least))

    def to_json(self) -> list[str | None]:
        """Return the steps as JSON values."""
        return [str(self.tick), str(self.lot), None if self.min_notional is None else str(self.min_notional)]

    def quantity(self, wanted: Decimal) -> Decimal:
        """Return the largest quantity that can be ordered: an even number of lots. Zero below two lots."""
        pair = 2 * self.lot
        return (wanted / pair).to_integral_value(ROUND_FLOOR) * pair

    def refuses(self, quantity: Decimal, price: Decimal) -> str | None:
        """Return the reason to refuse an entry of a quantity (from ``quantity``) at about a price; None if it is allowed."""
        if not quantity:
            return "below_lot"
        return "below_min_notional" if self.min_notional is not None and quantity * price < self.min_notional else None


def ticked(price: Decimal, tick: Decimal | None, up: bool) -> Decimal:
    """Return a price on the tick at or above (``up``), or at or below it. Without a tick the price is unchanged."""
    if tick is None:
        return price
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick


@dataclass(frozen=True, slots=True)
class Book:
    """A live order book: (price, quantity) levels, best first."""

    bids: Levels
    asks: Levels

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Book | None:
        """Return the book of a ``depth`` record; None where it is invalid."""
        if record["state"] != "live":
            return None
        bids = list(zip(record["bid_prices"], record["bid_quantities"], strict=False))
        asks = list(zip(record["ask_prices"], record["ask_quantities"], strict=False))
        return cls(*([(exact(price), exact(quantity)) for price, quantity in side if price > 0 and quantity > 0] for side in (bids, asks)))

    def walk(self, buying: int, quantity: Decimal, beyond_bps: Decimal) -> Decimal | None:
        """Return the mean price of a market order of ``quantity`` > 0; None where the side is empty.

        Args:
            buying: +1 takes the asks, -1 the bids.
            quantity: Base units.
            beyond_bps: How much worse than the last known level the remainder fills, 1/10,000.
        """
        levels = self.asks if buying > 0 else self.bids
        if not levels:
            return None
        left, value = quantity, ZERO
        for price, there in levels:
            taken = min(left, there)
            value += taken * price
            left -= taken
            if not left:
                break
        value += left * levels[-1][0] * (1 + buying * beyond_bps / 10_000)
        return wire_price(value / quantity)


@dataclass(frozen=True, slots=True)
class Books:
    """Books of one instrument, sorted by (event_time, offset).

    Attributes:
        event_time: ms UTC, shape (n,).
        read: Row -> book, None where it is not live.
    """

    event_time: IntArray
    read: Callable[[int], Book | None]

    def at(self, time: int) -> Book | None:
        """Return the book at a time: the newest at or before it. None if it is not live or too old."""
        row = int(np.searchsorted(self.event_time, time, "right")) - 1
        return self.read(row) if row >= 0 and time - int(self.event_time[row]) <= STALE_MS else None


NO_BOOKS = Books(np.empty(0, np.int64), lambda row: None)

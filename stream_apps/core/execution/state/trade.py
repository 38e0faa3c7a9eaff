"""One live trade, from its signal to its end at the venue. Its levels are a paper position's; its money is the sum of its fills."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from stream_apps.core.execution.orders.order import Order
from stream_apps.core.execution.orders.venue_reports import FillReport, Side, TimeInForce
from stream_apps.core.execution.state.entry_run import EntryRun
from stream_apps.core.paper.position import CLOSED, EXPIRED, Position

ZERO = Decimal(0)
ENTRY_LEGS = ("entry", "add_on")
TARGET_LEGS = ("tp1", "tp2")
# Legs without an execution at the venue: a fee paid in the bought coin, and a remainder too small to sell (``exits/spot.py``).
STAND_INS = ("base_fee", "dust")


@dataclass(frozen=True, slots=True)
class BookedFill:
    """A booked fill.

    Attributes:
        fee: Quote units; ``fee_estimated`` if the venue charged it in an asset without a known price.
        reference: Reference price of slippage.
    """

    trade_id: int
    client_id: str
    leg: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_estimated: bool
    liquidity: str
    reference: Decimal
    time: int

    @property
    def is_estimated(self) -> bool:
        """True for a correction of the reconciler, which no execution explains. Its price is an estimate."""
        return self.trade_id < 0

    @property
    def slippage(self) -> Decimal:
        """Cost against the reference, quote units; positive is a cost on both sides (Q002-6)."""
        return self.side.sign * (self.price - self.reference) * self.quantity


@dataclass(slots=True)
class Trade:
    """A live trade.

    Attributes:
        position: Quantities, money and levels, in the paper model's form.
        key: Key of the journal row and position_id of the records: account and signal.
        symbol: The venue's symbol.
        leverage: Leverage of its margin.
        orders: Client id -> order.
        fills: Trade id -> fill. The venue's trade ids are unique for a symbol.
        funding: Payment id -> amount paid, quote units.
        closing: Leg that closes the trade; None while it is held.
        queued: The trade waits for the end of the symbol's other trade (flip).
        unprotected_since: Start of the time without a confirmed stop, wall ms; None while protected.
        gap_ms: Longest time without a confirmed stop.
        crossed: Target leg -> wall ms since when the mid is beyond its level.
        taking: Target legs that are taken at market instead of resting.
        overshot: Number of targets that were taken at market.
        stop_leg: Leg of the current stop.
        is_reported: The closing record was written. It waits for the funding payments of the last settlement.
    """

    position: Position
    key: str
    symbol: str
    leverage: int
    started_at: int
    entry: EntryRun
    orders: dict[str, Order] = field(default_factory=dict)
    fills: dict[int, BookedFill] = field(default_factory=dict)
    funding: dict[str, Decimal] = field(default_factory=dict)
    closing: str | None = None
    queued: bool = False
    unprotected_since: int | None = None
    gap_ms: int = 0
    crossed: dict[str, int] = field(default_factory=dict)
    taking: list[str] = field(default_factory=list)
    overshot: int = 0
    stop_leg: str = "stop"
    add_ons: int = 0
    partial_taken: bool = False
    flips: int = 0
    over_at: int | None = None
    is_reported: bool = False
    # Not journalled: retry times and counts of rejected legs, and the times of the last queries.
    retry_at: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    asked_fills_at: int = 0
    asked_position_at: int = 0
    last_state: tuple[Any, ...] = ()

    @property
    def is_over(self) -> bool:
        """True when the trade is closed or expired."""
        return self.position.status in (CLOSED, EXPIRED)

    @property
    def entry_side(self) -> Side:
        """Side of the entry orders."""
        return Side.BUY if self.position.sign > 0 else Side.SELL

    @property
    def exit_side(self) -> Side:
        """Side of the exit orders."""
        return self.entry_side.opposite

    def of(self, *legs: str) -> list[Order]:
        """Return the orders of the given legs."""
        return [order for order in self.orders.values() if order.leg in legs]

    @property
    def live(self) -> list[Order]:
        """Orders that are not final."""
        return [order for order in self.orders.values() if not order.is_final]

    @property
    def exposure(self) -> Decimal:
        """Open quantity from all executions, booked or only reported; positive in the trade's direction, negative for a counter position."""
        return self.position.sign * sum((order.side.sign * order.executed for order in self.orders.values()), ZERO)

    @property
    def booked_exposure(self) -> Decimal:
        """Open quantity by booked fills alone."""
        return self.position.sign * sum((fill.side.sign * fill.quantity for fill in self.fills.values()), ZERO)

    @property
    def entered(self) -> Decimal:
        """Executed quantity of the entry legs."""
        return sum((order.executed for order in self.of(*ENTRY_LEGS)), ZERO)

    def executed(self, *legs: str) -> Decimal:
        """Return the executed quantity of the given legs."""
        return sum((order.executed for order in self.of(*legs)), ZERO)

    @property
    def average_entry(self) -> Decimal | None:
        """Volume-weighted price of the entry fills, or of the order reports before the first fill. None before an execution with a known price."""
        fills = [fill for fill in self.fills.values() if fill.leg in ENTRY_LEGS]
        executed = [(_estimate(order), order.executed) for order in self.of(*ENTRY_LEGS) if order.executed]
        rows = [(fill.price, fill.quantity) for fill in fills] or [(price, one) for price, one in executed if price is not None]
        quantity = sum((one for _, one in rows), ZERO)
        return sum((price * one for price, one in rows), ZERO) / quantity if quantity else None

    def next_attempt(self, leg: str) -> int:
        """Return the number of a leg's next attempt."""
        return 1 + max((order.attempt for order in self.of(leg)), default=0)

    def book(self, fill: FillReport, order: Order, fee: Decimal, estimated: bool, now: int) -> bool:
        """Book an execution once and update the position's money; return False if it is booked already."""
        if fill.trade_id in self.fills:
            return False
        reference = order.reference if order.reference is not None else fill.price
        self.fills[fill.trade_id] = BookedFill(
            fill.trade_id,
            order.client_id,
            order.leg,
            fill.side,
            fill.price,
            fill.quantity,
            fee,
            estimated,
            fill.liquidity,
            reference,
            fill.time,
        )
        order.take_fill(fill.trade_id, fill.quantity, now)
        self.add_up()
        return True

    def add_up(self) -> None:
        """Set the position's money from the fills: gross = value of sales - value of purchases, for the closed part at average cost."""
        position, fills = self.position, self.fills.values()
        position.fees = sum((fill.fee for fill in fills), ZERO)
        position.slippage = sum((fill.slippage for fill in fills), ZERO)
        position.funding = sum(self.funding.values(), ZERO)
        entered = sum((fill.quantity for fill in fills if fill.leg in ENTRY_LEGS), ZERO)
        entry_value = sum((fill.price * fill.quantity for fill in fills if fill.leg in ENTRY_LEGS), ZERO)
        cash = -sum((fill.side.sign * fill.price * fill.quantity for fill in fills), ZERO)
        position.open_quantity = self.booked_exposure
        if not entered:
            return
        average = entry_value / entered
        # For a flat position this is exactly the cash flow. Otherwise the open part is valued at its cost.
        position.gross = cash + position.sign * average * position.open_quantity if position.open_quantity else cash
        closed = entered - position.open_quantity
        position.exit_value = (
            entry_value * closed / entered + position.sign * position.gross
            if position.open_quantity
            else entry_value + (position.sign * position.gross)
        )

    @property
    def cash(self) -> Decimal:
        """Cash flow of the executions in quote units, including fees: the change of a spot wallet. Dust moves no cash."""
        fills = [fill for fill in self.fills.values() if fill.leg != "dust"]
        return -sum((fill.side.sign * fill.price * fill.quantity + fill.fee for fill in fills), ZERO)

    @property
    def is_settled(self) -> bool:
        """True when every order is final and every reported execution is booked."""
        return all(order.is_settled for order in self.orders.values())

    @property
    def exit_leg(self) -> str:
        """Leg that closed the trade: that of the newest exit execution. If both targets filled, it is the second, in either order."""
        exits = [fill for fill in self.fills.values() if fill.side is self.exit_side and fill.leg not in STAND_INS]
        leg = max(exits, key=lambda fill: (fill.time, fill.trade_id)).leg if exits else (self.closing or "external")
        return "tp2" if leg == "tp1" and any(fill.leg == "tp2" for fill in exits) else leg

    def to_json(self) -> dict[str, Any]:
        """Return the durable part as JSON values."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "is_reported": self.is_reported,
            "position": self.position.to_json(),
            "entry": self.entry.to_json(),
            "orders": [order.to_json() for order in self.orders.values()],
            "fills": [_texts(asdict(fill)) for fill in self.fills.values()],
            "funding": {name: str(paid) for name, paid in self.funding.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trade:
        """Return the trade that ``to_json`` wrote."""
        return cls(
            **{name: values[name] for name in _PLAIN},
            # Older journals name it ``is_told`` or lack it; then the record was written when the trade ended.
            is_reported=values.get("is_reported", values.get("is_told", values["over_at"] is not None)),
            position=Position.from_json(values["position"]),
            entry=EntryRun.from_json(values["entry"]),
            orders={one["client_id"]: Order.from_json(one) for one in values["orders"]},
            fills={one["trade_id"]: _fill(one) for one in values["fills"]},
            funding={name: Decimal(paid) for name, paid in values["funding"].items()},
        )


_PLAIN = (
    *("key", "symbol", "leverage", "started_at", "closing", "queued", "unprotected_since", "gap_ms", "crossed", "taking"),
    *("overshot", "stop_leg", "add_ons", "partial_taken", "flips", "over_at"),
)


def _estimate(order: Order) -> Decimal | None:
    """Price of an execution without fills yet: the venue's average, a maker order's own price, or the mid at sending; else None."""
    resting = order.price if order.time_in_force is TimeInForce.POST_ONLY else None
    return order.average_price or resting or order.reference or order.price


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal | Side) else value for name, value in values.items()}


def _fill(values: dict[str, Any]) -> BookedFill:
    decimals = ("price", "quantity", "fee", "reference")
    return BookedFill(**{**values, **{name: Decimal(values[name]) for name in decimals}, "side": Side(values["side"])})

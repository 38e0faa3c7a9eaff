"""A small exchange of its own for the tests of the order machines: written from the venue's rules, without a line of the code under test.

One account, one-way mode, quote-unit fees. Prices are set by the test; a resting limit fills when the market goes through it, a stop when the mid touches
its trigger. How much of an order fills at once is the test's to say (``depth``). It keeps what the journal must equal: orders, executions, position, cash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    FundingReport,
    InstrumentRules,
    OrderReport,
    OrderRequest,
    OrderType,
    PositionReport,
    Side,
    TimeInForce,
    VenueStatus,
)

D = Decimal
TAKER, MAKER = D("0.0005"), D("0.0002")
NONE, ENDLESS = D(0), D(10**6)


class No(Exception):
    """The exchange refuses."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def rules_of(symbol: str = "BTCUSDT", **more: object) -> InstrumentRules:
    values = {
        "symbol": symbol,
        "base": symbol.removesuffix("USDT"),
        "quote": "USDT",
        "tick": D("0.1"),
        "lot": D("0.001"),
        "market_lot": D("0.001"),
        "min_quantity": D("0.001"),
        "max_quantity": D(1000),
        "market_max_quantity": D(120),
        "min_notional": D(5),
        **more,
    }
    return InstrumentRules(**values)  # type: ignore[arg-type]


@dataclass
class Resting:
    request: OrderRequest
    venue_id: str
    filled: Decimal = NONE
    value: Decimal = NONE
    status: VenueStatus = VenueStatus.NEW
    reason: str | None = None
    updated_at: int = 0

    @property
    def left(self) -> Decimal:
        return self.request.quantity - self.filled

    @property
    def is_open(self) -> bool:
        return not self.status.is_final

    def report(self) -> OrderReport:
        one = self.request
        return OrderReport(
            one.client_order_id,
            self.venue_id,
            one.symbol,
            one.side,
            one.type,
            self.status,
            one.quantity,
            self.filled,
            self.value / self.filled if self.filled else None,
            one.price,
            one.trigger_price,
            one.reduce_only,
            self.updated_at,
            self.reason,
        )


@dataclass
class Exchange:
    """State of one account; ``events`` is what its user stream would say, in order."""

    now: int = 0
    depth: Decimal = ENDLESS
    bid: dict[str, Decimal] = field(default_factory=dict)
    ask: dict[str, Decimal] = field(default_factory=dict)
    orders: dict[str, Resting] = field(default_factory=dict)
    positions: dict[str, Decimal] = field(default_factory=dict)
    entry_price: dict[str, Decimal] = field(default_factory=dict)
    fills: list[FillReport] = field(default_factory=list)
    payments: list[FundingReport] = field(default_factory=list)
    cash: Decimal = NONE
    events: list[OrderReport | FillReport] = field(default_factory=list)
    refuse_next: list[str] = field(default_factory=list)
    largest: Decimal = NONE

    # --- the market ------------------------------------------------------------------------------------------------------

    def set_price(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        self.bid[symbol], self.ask[symbol] = bid, ask
        self.work(symbol)

    def mid(self, symbol: str) -> Decimal:
        return (self.bid[symbol] + self.ask[symbol]) / 2

    def work(self, symbol: str) -> None:
        """Trigger stops and fill what the market went through; triggered orders that found no depth go on."""
        for order in list(self.orders.values()):
            one = order.request
            if one.symbol != symbol or not order.is_open:
                continue
            if one.type is OrderType.STOP_MARKET and order.status is VenueStatus.NEW and self._touched(one):
                order.status = VenueStatus.TRIGGERED
                self._tell(order)
                self._market(order)
            elif one.type is OrderType.LIMIT and self._through(one):
                self._execute(order, min(order.left, self.depth), one.price, "maker")

    def _touched(self, one: OrderRequest) -> bool:
        assert one.trigger_price is not None
        mid = self.mid(one.symbol)
        return mid <= one.trigger_price if one.side is Side.SELL else mid >= one.trigger_price

    def _through(self, one: OrderRequest) -> bool:
        assert one.price is not None
        return self.ask[one.symbol] < one.price if one.side is Side.BUY else self.bid[one.symbol] > one.price

    # --- requests --------------------------------------------------------------------------------------------------------

    def place(self, one: OrderRequest) -> OrderReport:
        if self.refuse_next:
            raise No(self.refuse_next.pop(0))
        known = self.orders.get(one.client_order_id)
        if known is not None:
            raise No("duplicate_id")
        position = self.positions.get(one.symbol, D(0))
        reduces = position * one.side.sign < 0
        if one.reduce_only and one.type is not OrderType.STOP_MARKET and not reduces:
            raise No("reduce_only")
        if one.type is OrderType.STOP_MARKET and self._touched(one):
            raise No("would_trigger")
        if one.time_in_force is TimeInForce.POST_ONLY and self._crosses(one):
            raise No("post_only")
        order = Resting(one, f"v{len(self.orders) + 1}")
        self.orders[one.client_order_id] = order
        self._tell(order)
        if one.type is OrderType.MARKET:
            self._market(order)
        elif one.time_in_force is TimeInForce.IOC:
            if self._crosses(one):
                price = self.ask[one.symbol] if one.side is Side.BUY else self.bid[one.symbol]
                self._execute(order, min(order.left, self.depth), price, "taker")
            if order.is_open:
                self._end(order, VenueStatus.EXPIRED)
        return order.report()

    def _crosses(self, one: OrderRequest) -> bool:
        assert one.price is not None
        return one.price >= self.ask[one.symbol] if one.side is Side.BUY else one.price <= self.bid[one.symbol]

    def _market(self, order: Resting) -> None:
        one = order.request
        quantity = min(order.left, self.depth)
        if one.reduce_only:
            quantity = min(quantity, max(D(0), -one.side.sign * self.positions.get(one.symbol, D(0))))
        if quantity > 0:
            self._execute(order, quantity, self.ask[one.symbol] if one.side is Side.BUY else self.bid[one.symbol], "taker")
        if order.is_open:
            self._end(order, VenueStatus.EXPIRED, "nothing left to reduce" if one.reduce_only else "no depth")

    def cancel(self, client_id: str) -> OrderReport | None:
        order = self.orders.get(client_id)
        if order is None or not order.is_open or order.status is VenueStatus.TRIGGERED:
            return None
        self._end(order, VenueStatus.CANCELED)
        return order.report()

    def query(self, client_id: str) -> OrderReport | None:
        order = self.orders.get(client_id)
        return None if order is None else order.report()

    def open_orders(self) -> list[OrderReport]:
        return [order.report() for order in self.orders.values() if order.is_open]

    def position(self, symbol: str) -> PositionReport | None:
        quantity = self.positions.get(symbol, D(0))
        if quantity == 0:
            return None
        return PositionReport(symbol, quantity, self.entry_price[symbol], self.mid(symbol), D(0), 5, None, None, self.now)

    def settle_funding(self, symbol: str, rate: Decimal) -> None:
        """Charge funding: a long pays quantity x mid x rate. The user stream does not tell it; the list of payments does."""
        paid = self.positions.get(symbol, D(0)) * self.mid(symbol) * rate
        if paid:
            self.cash -= paid
            self.payments.append(FundingReport(symbol, paid, "USDT", self.now, str(len(self.payments) + 1)))

    # --- executions --------------------------------------------------------------------------------------------------------

    def _execute(self, order: Resting, quantity: Decimal, price: Decimal | None, liquidity: str) -> None:
        assert price is not None
        one = order.request
        before = self.positions.get(one.symbol, D(0))
        if one.reduce_only:
            quantity = min(quantity, max(D(0), -one.side.sign * before))
            if quantity == 0:
                self._end(order, VenueStatus.EXPIRED, "reduce only")
                return
        if quantity <= 0:
            return
        after = before + one.side.sign * quantity
        if before == 0 or (before > 0) == (one.side.sign > 0):
            self.entry_price[one.symbol] = (abs(before) * self.entry_price.get(one.symbol, D(0)) + quantity * price) / abs(after)
        self.positions[one.symbol] = after
        self.largest = max(self.largest, abs(after))
        fee = price * quantity * (MAKER if liquidity == "maker" else TAKER)
        self.cash += -one.side.sign * price * quantity - fee
        order.filled += quantity
        order.value += price * quantity
        order.status = VenueStatus.FILLED if order.left == 0 else VenueStatus.PARTIALLY_FILLED
        fill = FillReport(
            one.symbol,
            len(self.fills) + 1,
            one.client_order_id,
            order.venue_id,
            one.side,
            price,
            quantity,
            fee,
            "USDT",
            liquidity,
            self.now,
        )
        self.fills.append(fill)
        self.events.append(fill)
        self._tell(order)

    def _end(self, order: Resting, status: VenueStatus, reason: str | None = None) -> None:
        order.status, order.reason = status, reason
        self._tell(order)

    def _tell(self, order: Resting) -> None:
        order.updated_at = self.now
        self.events.append(order.report())

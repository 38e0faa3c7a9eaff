"""The matching core of the simulated exchange: accounts, orders and positions against a given market. Pure.

No I/O, no clock, no randomness: every call takes the exchange's time (ms UTC), and appends its events to ``events`` in the venue's order.
Accounts are too small to move the market, and do not trade with each other. Taken quantities are missing in the book until the market sets
a new one.

Fills
    A taker walks the book level by level, never further than PERCENT_PRICE allows. A resting order is filled by the model of
    ``queue``: ``through``: by a trade beyond its price, or when the other side of the book reaches it. ``volume``: also by trades at its
    price after the quantity before it is gone. ``touch``: by any trade at its price.
Reduce-only
    Never refused for being larger than the position; it is filled up to the position, and what is left ends as EXPIRED (``er`` 4). When the
    position shrinks, orders with the worst prices for which nothing would be left end the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from producers.simulated.exchange.core import checks, conditional, risk
from producers.simulated.exchange.core.account import Account, view
from producers.simulated.exchange.core.market_state import Level
from producers.simulated.exchange.core.orders import (
    EXPIRED_IOC,
    EXPIRED_MARKET,
    EXPIRED_REDUCE_ONLY,
    AccountChanged,
    Fill,
    LeverageChanged,
    NewOrder,
    Order,
    OrderChanged,
    PositionView,
    sign,
)
from producers.simulated.exchange.core.rules import ZERO, Reason, Refusal, money
from producers.simulated.exchange.core.state import ExchangeState


class Exchange(ExchangeState):
    """The matching engine of one exchange. See ``ExchangeState`` for its arguments and state."""

    # --- set-up -------------------------------------------------------------------------------------------------------
    def deposit(self, account: str, amount: Decimal, now: int, info: str = "") -> None:
        """Move money into an account (out of it, when negative)."""
        owner = self.accounts[account]
        owner.book(self.next_income_id(), now, "TRANSFER", amount, info=info)
        self._tell_account(owner, "DEPOSIT" if amount > 0 else "WITHDRAW", now, change=amount)

    # --- orders -------------------------------------------------------------------------------------------------------
    def place(self, account: str, request: NewOrder, now: int) -> Order:
        """Accept an order, fill it as far as possible now, and return its state.

        Raises:
            Refusal: it breaks a rule; nothing happened.
        """
        owner, market = self.accounts[account], self.market(request.symbol)
        checks.check_order(self, owner, market, request)
        order = Order(
            id=self.next_order_id(),
            account=account,
            symbol=request.symbol,
            side=request.side,
            type=request.type,
            tif=request.tif,
            quantity=request.quantity,
            price=request.price or ZERO,
            reduce_only=request.reduce_only,
            client_id=request.client_id or f"sim{self._order_id}",
            created=now,
            updated=now,
            original=request.type,
            good_till=request.good_till,
        )
        self.enter(order, now)
        return order.copy()

    def stillborn(self, account: str, request: NewOrder, note: str, now: int) -> Order:
        """Accept an order and cancel it at once, as venues do that respond before they match. Return its state."""
        number, price = self.next_order_id(), request.price or ZERO
        name = request.client_id or f"sim{number}"
        order = Order(
            number,
            account,
            request.symbol,
            request.side,
            request.type,
            request.tif,
            request.quantity,
            price,
            request.reduce_only,
            name,
            now,
            now,
            request.type,
        )
        order.status, order.note = "CANCELED", note
        self.orders[number] = order
        self.clients[account, request.symbol, name] = number
        self.tell_order(order, "CANCELED", now)
        return order.copy()

    def enter(self, order: Order, now: int) -> None:
        self.orders[order.id] = order
        self.clients[order.account, order.symbol, order.client_id] = order.id
        self.open_orders_of(order.account, order.symbol)[order.id] = order
        self.tell_order(order, "NEW", now)
        self.match(order, now)

    def match(self, order: Order, now: int) -> None:
        """Fill an entered order as far as the book allows, then let it rest or end it."""
        market, owner = self.markets[order.symbol], self.accounts[order.account]
        limit = order.price if order.type == "LIMIT" else checks.band(self, market, order.side)
        wanted = self._wanted(order)
        for price, part in market.take(order.side, wanted, limit):
            self.fill(order, price, part, maker=False, now=now)
        if not order.open:
            return
        if order.reduce_only and not self._wanted(order):
            self.expire(order, EXPIRED_REDUCE_ONLY, now)
        elif order.type == "MARKET":
            self.expire(order, EXPIRED_MARKET, now)
        elif order.tif in ("IOC", "FOK"):
            self.expire(order, EXPIRED_IOC, now)
        else:
            order.ahead = market.at(order.side, order.price)
            if order.reduce_only:
                self._trim(owner, order.symbol, now)

    def _wanted(self, order: Order) -> Decimal:
        """Return the quantity of an order that may fill now."""
        if not order.reduce_only:
            return order.left
        held = self.accounts[order.account].position(order.symbol).quantity
        return min(order.left, abs(held)) if held * sign(order.side) < 0 else ZERO

    def cancel(self, account: str, symbol: str, order_id: int | None, client_id: str | None, now: int) -> Order:
        """Cancel an open order. Raises Refusal when it is not open or not known."""
        order = self.found(account, symbol, order_id, client_id)
        if order is None or not order.open:
            raise Refusal(Reason.UNKNOWN_ORDER)
        self._end(order, "CANCELED", now)
        return order.copy()

    def cancel_all(self, account: str, symbol: str, now: int) -> int:
        """Cancel every open order of an instrument, except conditional ones. Return their number."""
        self.market(symbol)
        orders = list(self.open_orders_of(account, symbol).values())
        for order in orders:
            if order.open:
                self._end(order, "CANCELED", now)
        return len(orders)

    def knows(self, account: str, symbol: str, client_id: str) -> bool:
        """Return whether any order, also a finished one, has a client id."""
        return (account, symbol, client_id) in self.clients or (account, client_id) in self.conditional_clients

    def query(self, account: str, symbol: str, order_id: int | None, client_id: str | None) -> Order:
        """Return an order, also a finished one. For a repeated client id, return the newest. Raises Refusal if it does not exist."""
        order = self.found(account, symbol, order_id, client_id)
        if order is None:
            raise Refusal(Reason.ORDER_NOT_FOUND)
        return order.copy()

    def expire(self, order: Order, why: int, now: int) -> None:
        order.expired = why
        self._end(order, "EXPIRED", now)

    def _end(self, order: Order, status: str, now: int) -> None:
        order.status, order.updated = status, now
        self.open_orders_of(order.account, order.symbol).pop(order.id, None)
        self.tell_order(order, status, now)
        conditional.finish_conditional(self, order, now)

    # --- fills --------------------------------------------------------------------------------------------------------
    def fill(self, order: Order, price: Decimal, quantity: Decimal, *, maker: bool, now: int, kind: str = "ORDER") -> Fill:
        owner, market = self.accounts[order.account], self.markets[order.symbol]
        market.trade_id += 1
        position = owner.position(order.symbol)
        realised = position.trade(quantity * sign(order.side), price)
        position.updated = now
        rate = ZERO if kind in ("ADL", "SETTLEMENT") else owner.maker if maker else owner.taker
        fee = money(price * quantity * rate)
        if realised:
            owner.book(self.next_income_id(), now, "REALIZED_PNL", realised, order.symbol, market.trade_id)
        if fee:
            owner.book(self.next_income_id(), now, "COMMISSION", -fee, order.symbol, market.trade_id)
        order.filled += quantity
        order.quote += price * quantity
        order.updated = now
        done = order.left == 0
        order.status = "FILLED" if done else "PARTIALLY_FILLED"
        if done:
            self.open_orders_of(order.account, order.symbol).pop(order.id, None)
        fill = Fill(market.trade_id, order.id, order.account, order.symbol, order.side, price, quantity, fee, realised, maker, now, kind)
        owner.fills.append(fill)
        self._tell_account(owner, "ORDER", now, order.symbol)
        self.events.append(OrderChanged(order.account, now, order.copy(), "TRADE" if kind == "ORDER" else "CALCULATED", fill))
        if done:
            conditional.finish_conditional(self, order, now)
        self._trim(owner, order.symbol, now)
        if not position.quantity:
            conditional.position_closed(self, owner.name, order.symbol, now)
        return fill

    def _trim(self, owner: Account, symbol: str, now: int) -> None:
        """End the reduce-only orders that exceed the position."""
        held = owner.position(symbol).quantity
        left = abs(held)
        for order in checks.reducing(self, owner, symbol):
            if held * sign(order.side) >= 0 or left <= 0:
                self.expire(order, EXPIRED_REDUCE_ONLY, now)
            else:
                left -= order.left

    # --- market -------------------------------------------------------------------------------------------------------
    def on_book(self, symbol: str, bids: Iterable[Level], asks: Iterable[Level], now: int) -> None:
        """Set the book. Resting orders that it reaches are filled at their price, as far as its sizes allow."""
        market = self.markets[symbol]
        market.set_book(bids, asks)
        market.time = max(market.time, now)
        for order in self._resting(symbol):
            if order.open and (wanted := self._wanted(order)) > 0:
                for _, part in market.take(order.side, wanted, order.price):
                    self.fill(order, order.price, part, maker=True, now=now)

    def on_trade(self, symbol: str, price: Decimal, quantity: Decimal, taker: str, now: int) -> None:
        """Take a trade of the market. ``taker`` is the taker's side."""
        market = self.markets[symbol]
        market.last, market.time = price, max(market.time, now)
        for order in self._resting(symbol):
            beyond = (order.price - price) * sign(order.side)
            part = ZERO
            if beyond > 0:
                part = self._wanted(order)
            elif beyond == 0 and taker != order.side and self.queue != "through":
                if self.queue == "volume":
                    used = min(order.ahead, quantity)
                    order.ahead -= used
                    part = min(quantity - used, self._wanted(order))
                else:
                    part = min(quantity, self._wanted(order))
                quantity -= part
            if part > 0 and order.open:
                self.fill(order, order.price, part, maker=True, now=now)
        conditional.trigger(self, symbol, "CONTRACT_PRICE", price, now)

    def on_mark(self, symbol: str, mark: Decimal, now: int, index: Decimal | None = None) -> None:
        """Take a mark price, with its stops, margin calls and liquidations."""
        market = self.markets[symbol]
        market.mark, market.time = mark, max(market.time, now)
        market.index = index or mark
        conditional.trigger(self, symbol, "MARK_PRICE", mark, now)
        risk.check_accounts(self, symbol, now)

    def _resting(self, symbol: str) -> list[Order]:
        orders = [order for (_, name), orders in self.resting.items() if name == symbol for order in orders.values()]
        return sorted(orders, key=lambda one: (-one.price * sign(one.side), one.id)) if len(orders) > 1 else orders

    def watched(self, symbol: str) -> bool:
        """Return whether an order or position depends on the market of an instrument."""
        return (
            any(orders for (_, name), orders in self.resting.items() if name == symbol)
            or bool(self.waiting.get(symbol))
            or any(symbol in one.positions and one.positions[symbol].quantity for one in self.accounts.values())
        )

    def tick(self, now: int) -> None:
        """Run what is due: countdowns, and orders with an end time."""
        for (account, symbol), due in list(self._countdowns.items()):
            if due <= now:
                del self._countdowns[account, symbol]
                self.cancel_all(account, symbol, now)
        for orders in list(self.resting.values()):
            for order in list(orders.values()):
                if order.tif == "GTD" and 0 < order.good_till <= now:
                    self._end(order, "EXPIRED", now)

    def countdown(self, account: str, symbol: str, ms: int, now: int) -> None:
        """Cancel all orders of an instrument after ``ms`` unless called again. 0 stops the countdown."""
        self.market(symbol)
        if ms:
            self._countdowns[account, symbol] = now + ms
        else:
            self._countdowns.pop((account, symbol), None)

    # --- settings -----------------------------------------------------------------------------------------------------
    def set_leverage(self, account: str, symbol: str, leverage: int, now: int) -> Decimal:
        """Set the leverage of an instrument. Return the largest notional that it allows. Raises Refusal."""
        contract, position = self.market(symbol).contract, self.accounts[account].position(symbol)
        if not 1 <= leverage <= contract.brackets[0].leverage:
            raise Refusal(Reason.LEVERAGE)
        largest = max(one.cap for one in contract.brackets if one.leverage >= leverage)
        if abs(position.quantity) * self.markets[symbol].reference > largest:
            raise Refusal(Reason.LEVERAGE_POSITION)
        position.leverage = leverage
        self.events.append(LeverageChanged(account, now, symbol, leverage))
        return largest

    def set_margin_mode(self, account: str, symbol: str, isolated: bool, now: int) -> None:
        """Set isolated or cross margin of an instrument. Raises Refusal while it has orders or a position, or if nothing changes."""
        self.market(symbol)
        position = self.accounts[account].position(symbol)
        if position.isolated == isolated:
            raise Refusal(Reason.MARGIN_MODE_SAME)
        if self.open_orders_of(account, symbol):
            raise Refusal(Reason.MARGIN_MODE_ORDERS)
        if position.quantity:
            raise Refusal(Reason.MARGIN_MODE_POSITION)
        position.isolated = isolated

    def set_dual(self, account: str, dual: bool) -> None:
        """Switch between one-way (False) and hedge mode. Raises Refusal while there are orders or positions, or if nothing changes."""
        owner = self.accounts[account]
        if owner.dual == dual:
            raise Refusal(Reason.POSITION_MODE_SAME)
        if self.open_orders(account) or conditional.open_conditionals(self, account):
            raise Refusal(Reason.POSITION_MODE_ORDERS)
        if owner.held():
            raise Refusal(Reason.POSITION_MODE_POSITION)
        owner.dual = dual

    # --- telling ------------------------------------------------------------------------------------------------------
    def _tell_account(self, owner: Account, reason: str, now: int, symbol: str | None = None, change: Decimal = ZERO) -> None:
        positions: tuple[PositionView, ...] = ()
        if symbol is not None:
            market = self.markets[symbol]
            positions = (view(owner.position(symbol), market.contract, market.reference),)
        self.events.append(AccountChanged(owner.name, now, reason, owner.wallet, owner.cross_wallet, change, positions))

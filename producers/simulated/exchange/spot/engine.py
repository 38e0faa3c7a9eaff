"""The matching core as a spot exchange: it moves balances, locks the funds of open orders, and has one-cancels-the-other lists. Pure.

Differences to the core for contracts:

- A buy pays its fee in the base asset, a sale in the quote asset, as at Binance without a discount asset.
- An open order locks the funds it may spend. Another order cannot use them. The two orders of a list share one lock.
- The last price triggers a stop (STOP_LOSS). It becomes a market order with the same id.
- An order of a list ends the other one as soon as it is triggered or partially filled. The cancel of one cancels both.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import (
    BUY,
    SELL,
    BalancesChanged,
    Fill,
    ListChanged,
    NewOrder,
    Order,
    OrderChanged,
)
from producers.simulated.exchange.core.rules import ZERO, Contract, Reason, Refusal, money
from producers.simulated.exchange.spot import checks
from producers.simulated.exchange.spot.lists import NewList, OrderList, SpotAccount

STOP = "STOP_LOSS"


class SpotExchange(Exchange):
    """See the module. ``accounts`` are ``SpotAccount``."""

    account_type = SpotAccount

    def __init__(self, contracts: Iterable[Contract], queue: str = "through", triggered_names: str = "same") -> None:
        self.stops: dict[str, dict[int, Order]] = {}
        self.lists: dict[int, OrderList] = {}
        self._list_id = 0
        super().__init__(contracts, queue, triggered_names)

    # --- money --------------------------------------------------------------------------------------------------------
    def owner(self, account: str) -> SpotAccount:
        """Return an account."""
        found = self.accounts[account]
        assert isinstance(found, SpotAccount)
        return found

    def deposit(self, account: str, amount: Decimal, now: int, info: str = "") -> None:
        """Move an asset (``info``; empty: the account's quote asset) into an account, or out of it if negative."""
        owner = self.owner(account)
        owner.add(info or owner.asset, amount)
        self._tell_balances(owner, (info or owner.asset,), now)

    def locked(self, account: str, asset: str) -> Decimal:
        """Return the amount of an asset that the open orders of an account may spend."""
        total, lists = ZERO, dict[int, Decimal]()
        for order in self.open_orders(account):
            contract = self.markets[order.symbol].contract
            if asset not in (contract.base, contract.quote):
                continue
            need = order.left if order.side == SELL else order.left * order.price
            if asset != (contract.base if order.side == SELL else contract.quote):
                continue
            if order.listed is None:
                total += need
            else:
                lists[order.listed] = max(lists.get(order.listed, ZERO), need)
        return total + sum(lists.values(), ZERO)

    def free(self, account: str, asset: str) -> Decimal:
        """Return the amount of an asset that no open order may spend."""
        return self.owner(account).balances.get(asset, ZERO) - self.locked(account, asset)

    # --- orders -------------------------------------------------------------------------------------------------------
    def place(self, account: str, request: NewOrder, now: int, stop_price: Decimal | None = None) -> Order:
        """Accept an order. With ``stop_price`` it waits until the last price touches it. Raises Refusal."""
        market = self.market(request.symbol)
        checks.check_order(self, account, market, request, stop_price)
        checks.check_funds(self.free, account, market, request, stop_price)
        order = self._made(account, request, now, stop_price)
        self._begin(order, now)
        return order.copy()

    def place_list(self, account: str, request: NewList, now: int) -> tuple[OrderList, list[Order]]:
        """Accept a one-cancels-the-other list, both orders or none. Raises Refusal."""
        market = self.market(request.target.symbol)
        if not market.contract.lists:
            raise Refusal(Reason.LISTS_NOT_SUPPORTED)
        checks.check_list(self, self.free, account, market, request)
        self._list_id += 1
        orders = [self._made(account, request.target, now, None), self._made(account, request.stop, now, request.stop_price)]
        made = OrderList(
            self._list_id,
            account,
            market.contract.symbol,
            request.client_id or f"list{self._list_id}",
            now,
            (orders[0].id, orders[1].id),
        )
        self.lists[made.id] = made
        for order in orders:
            order.listed = made.id
        self._tell_list(made, orders, now)
        for order in reversed(orders):
            self._begin(order, now)
        return made, [order.copy() for order in orders]

    def _made(self, account: str, request: NewOrder, now: int, stop_price: Decimal | None) -> Order:
        number = self.next_order_id()
        post_only = request.tif == "GTX"
        return Order(
            id=number,
            account=account,
            symbol=request.symbol,
            side=request.side,
            type=request.type if stop_price is None else STOP,
            tif=request.tif,
            quantity=request.quantity,
            price=request.price or ZERO,
            reduce_only=False,
            client_id=request.client_id or f"sim{number}",
            created=now,
            updated=now,
            original=STOP if stop_price is not None else "LIMIT_MAKER" if post_only else request.type,
            trigger=stop_price or ZERO,
        )

    def _begin(self, order: Order, now: int) -> None:
        if order.original != STOP:
            self.enter(order, now)
        else:
            self.orders[order.id] = order
            self.clients[order.account, order.symbol, order.client_id] = order.id
            self.stops.setdefault(order.symbol, {})[order.id] = order
            self.tell_order(order, "NEW", now)
        contract = self.markets[order.symbol].contract
        self._tell_balances(self.owner(order.account), (contract.base, contract.quote), now)

    def open_orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """Return the open orders of an account, including waiting stops, oldest first."""
        waiting = [
            order for name, orders in self.stops.items() if symbol in (None, name) for order in orders.values() if order.account == account
        ]
        return sorted([*super().open_orders(account, symbol), *waiting], key=lambda order: order.id)

    def cancel_all(self, account: str, symbol: str, now: int) -> int:
        """Cancel every open order of an instrument. Return their number."""
        self.market(symbol)
        orders = self.open_orders(account, symbol)
        for order in orders:
            if self.orders[order.id].open:
                self._end(self.orders[order.id], "CANCELED", now)
        return len(orders)

    def _end(self, order: Order, status: str, now: int) -> None:
        self._finish(order, status, now)
        self._end_list(order, status if status == "CANCELED" else "EXPIRED", now)
        contract = self.markets[order.symbol].contract
        self._tell_balances(self.owner(order.account), (contract.base, contract.quote), now)

    def _finish(self, order: Order, status: str, now: int) -> None:
        self.stops.get(order.symbol, {}).pop(order.id, None)
        super()._end(order, status, now)

    def _end_list(self, order: Order, status: str, now: int) -> None:
        """End the other order of a list, and the list once none of its orders is open."""
        if order.listed is None:
            return
        made = self.lists[order.listed]
        other = self.orders[next(one for one in made.orders if one != order.id)]
        if other.open:
            self._finish(other, status, now)
        if not made.done and not order.open:
            made.done = True
            self._tell_list(made, [self.orders[one] for one in made.orders], now)

    # --- fills --------------------------------------------------------------------------------------------------------
    def fill(self, order: Order, price: Decimal, quantity: Decimal, *, maker: bool, now: int, kind: str = "ORDER") -> Fill:
        """Book an execution: both balances, the fee in the received asset, and the other order of a list."""
        owner, market = self.owner(order.account), self.markets[order.symbol]
        contract = market.contract
        market.trade_id += 1
        rate = owner.maker if maker else owner.taker
        received = contract.base if order.side == BUY else contract.quote
        fee = money((quantity if order.side == BUY else price * quantity) * rate)
        sign = 1 if order.side == BUY else -1
        owner.add(contract.base, sign * quantity)
        owner.add(contract.quote, -sign * price * quantity)
        owner.add(received, -fee)
        order.filled += quantity
        order.quote += price * quantity
        order.updated = now
        order.status = "FILLED" if order.left == 0 else "PARTIALLY_FILLED"
        if order.left == 0:
            self.open_orders_of(order.account, order.symbol).pop(order.id, None)
        fill = Fill(
            market.trade_id,
            order.id,
            order.account,
            order.symbol,
            order.side,
            price,
            quantity,
            fee,
            ZERO,
            maker,
            now,
            kind,
            received,
        )
        owner.fills.append(fill)
        self.events.append(OrderChanged(order.account, now, order.copy(), "TRADE", fill))
        self._end_list(order, "EXPIRED", now)
        self._tell_balances(owner, (contract.base, contract.quote), now)
        return fill

    def on_trade(self, symbol: str, price: Decimal, quantity: Decimal, taker: str, now: int) -> None:
        """Take a trade of the market: resting orders, then the stops that its price touches."""
        super().on_trade(symbol, price, quantity, taker, now)
        waiting = self.stops.get(symbol, {})
        for order in sorted(waiting.values(), key=lambda one: one.id):
            if order.id in waiting and (price <= order.trigger if order.side == SELL else price >= order.trigger):
                del waiting[order.id]
                order.type, order.updated = "MARKET", now
                self.open_orders_of(order.account, symbol)[order.id] = order
                self._end_list(order, "EXPIRED", now)
                self.match(order, now)

    def watched(self, symbol: str) -> bool:
        """Return whether an order depends on the market of an instrument."""
        return super().watched(symbol) or bool(self.stops.get(symbol))

    # --- telling ------------------------------------------------------------------------------------------------------
    def _tell_list(self, made: OrderList, orders: Iterable[Order], now: int) -> None:
        names = tuple((order.id, order.client_id) for order in orders)
        self.events.append(ListChanged(made.account, now, made.symbol, made.id, made.client_id, made.done, names))

    def _tell_balances(self, owner: SpotAccount, assets: Iterable[str], now: int) -> None:
        rows = []
        for asset in assets:
            locked = self.locked(owner.name, asset)
            rows.append((asset, owner.balances.get(asset, ZERO) - locked, locked))
        self.events.append(BalancesChanged(owner.name, now, tuple(rows)))

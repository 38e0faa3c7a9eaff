"""The simulated exchange under random use: its books are recomputed from fills, bookings and events alone, exactly, after every step."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from producers.simulated.exchange.core import conditional, funds, risk
from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import (
    AccountChanged,
    ConditionalChanged,
    Fill,
    NewConditional,
    NewOrder,
    Order,
    OrderChanged,
    sign,
)
from producers.simulated.exchange.core.rules import Contract, Refusal
from producers.simulated.exchange.core.state import QUEUES
from tests.support.trading.exchange_cases import NOW, D

CONTRACTS = (
    Contract.of("BTCUSDT", "0.1", "0.001", min_notional="50"),
    Contract.of("XRPUSDT", "0.0001", "0.1"),
)
START = {"BTCUSDT": D("60000"), "XRPUSDT": D("0.5")}
SYMBOLS = st.sampled_from(sorted(START))
SIDES = st.sampled_from(["BUY", "SELL"])
TICKS = st.integers(-40, 40)
# Quantities as shares of what the first deposit can carry, so that margin, liquidation and filters all are met.
SIZES = st.integers(1, 4000)


class Trading(RuleBasedStateMachine):
    """Two accounts trade; the market moves, pays funding, liquidates and deleverages."""

    @initialize(queue=st.sampled_from(QUEUES), isolated=st.booleans(), leverage=st.sampled_from([2, 20, 100]))
    def begin(self, queue: str, isolated: bool, leverage: int) -> None:
        self.exchange = Exchange(CONTRACTS, queue)
        self.now = NOW
        self.told_orders: dict[int, Order] = {}
        self.told_fills: list[Fill] = []
        self.told_wallets: dict[str, Decimal] = {}
        self.told_conditionals: dict[int, str] = {}
        for name in ("one", "two"):
            self.exchange.add_account(Account(name, default_leverage=leverage))
            self.exchange.deposit(name, D(1000), self.now)
            for contract in CONTRACTS:
                if isolated:
                    self.exchange.set_margin_mode(name, contract.symbol, True, self.now)
        for symbol in START:
            self.exchange.markets[symbol].mark = START[symbol]
            self._move(symbol, START[symbol])

    def _contract(self, symbol: str) -> Contract:
        return self.exchange.markets[symbol].contract

    def _quantity(self, symbol: str, size: int) -> Decimal:
        lot = self._contract(symbol).lot
        return (D(size) * 10 / self.exchange.markets[symbol].reference // lot + 1) * lot

    def _move(self, symbol: str, price: Decimal, size: int = 300) -> None:
        tick = self._contract(symbol).tick
        quantity = self._quantity(symbol, size)
        bids, asks = ([(price + way * tick * at, quantity) for at in range(1, 6)] for way in (-1, 1))
        self.exchange.on_book(symbol, bids, asks, self.now)
        self.exchange.on_trade(symbol, price, quantity, "BUY", self.now)
        self.exchange.on_mark(symbol, price, self.now)

    def _try(self, call: Any, *arguments: Any) -> None:
        """Do what may be refused: then nothing may have happened."""
        before = (len(self.exchange.events), self.exchange.accounts["one"].wallet, len(self.exchange.orders))
        try:
            call(*arguments)
        except Refusal:
            assert before == (len(self.exchange.events), self.exchange.accounts["one"].wallet, len(self.exchange.orders))

    @rule(
        account=st.sampled_from(["one", "two"]),
        symbol=SYMBOLS,
        side=SIDES,
        size=SIZES,
        away=st.one_of(st.none(), TICKS),
        tif=st.sampled_from(["GTC", "IOC", "FOK", "GTX"]),
        reduce_only=st.booleans(),
    )
    def order(self, account: str, symbol: str, side: str, size: int, away: int | None, tif: str, reduce_only: bool) -> None:
        tick, mark = self._contract(symbol).tick, self.exchange.markets[symbol].reference
        price = None if away is None else mark // tick * tick + away * tick
        request = NewOrder(
            symbol,
            side,
            "MARKET" if away is None else "LIMIT",
            self._quantity(symbol, size),
            price,
            "GTC" if away is None else tif,
            reduce_only,
        )
        self._try(self.exchange.place, account, request, self.now)

    @rule(
        symbol=SYMBOLS,
        side=SIDES,
        size=SIZES,
        away=TICKS,
        kind=st.sampled_from(["STOP_MARKET", "TAKE_PROFIT_MARKET", "STOP", "TRAILING_STOP_MARKET"]),
        reduce_only=st.booleans(),
        close=st.booleans(),
        working=st.sampled_from(["MARK_PRICE", "CONTRACT_PRICE"]),
    )
    def conditional(self, symbol: str, side: str, size: int, away: int, kind: str, reduce_only: bool, close: bool, working: str) -> None:
        tick, mark = self._contract(symbol).tick, self.exchange.markets[symbol].reference
        trigger = mark // tick * tick + away * tick
        close = close and kind.endswith("MARKET") and kind != "TRAILING_STOP_MARKET"
        request = NewConditional(
            symbol,
            side,
            kind,
            D(0) if close else self._quantity(symbol, size),
            trigger,
            None if kind.endswith("MARKET") else trigger,
            reduce_only=reduce_only and not close,
            close_position=close,
            working=working,
            callback=D("0.1") if kind == "TRAILING_STOP_MARKET" else None,
        )
        self._try(conditional.wait, self.exchange, "one", request, self.now)

    @rule(symbol=SYMBOLS, ticks=TICKS, size=SIZES)
    def move(self, symbol: str, ticks: int, size: int) -> None:
        self._move(symbol, self.exchange.markets[symbol].last + ticks * self._contract(symbol).tick, size)

    @rule(symbol=SYMBOLS, share=st.sampled_from(["0.9", "0.97", "1.03", "1.1"]))
    def jump(self, symbol: str, share: str) -> None:
        tick = self._contract(symbol).tick
        self._move(symbol, self.exchange.markets[symbol].last * D(share) // tick * tick)

    @rule(symbol=SYMBOLS, ticks=st.integers(-3, 3), size=SIZES, taker=SIDES)
    def trade(self, symbol: str, ticks: int, size: int, taker: str) -> None:
        price = self.exchange.markets[symbol].last + ticks * self._contract(symbol).tick
        self.exchange.on_trade(symbol, price, self._quantity(symbol, size), taker, self.now)

    @rule(account=st.sampled_from(["one", "two"]), pick=st.integers(0, 20))
    def cancel(self, account: str, pick: int) -> None:
        orders = self.exchange.open_orders(account)
        if orders:
            chosen = orders[pick % len(orders)]
            self.exchange.cancel(account, chosen.symbol, chosen.id, None, self.now)

    @rule(symbol=SYMBOLS, rate=st.sampled_from(["0.0001", "-0.0003", "0.00000001"]))
    def funding(self, symbol: str, rate: str) -> None:
        risk.settle_funding(self.exchange, symbol, D(rate), self.now)

    @rule(account=st.sampled_from(["one", "two"]), symbol=SYMBOLS, size=SIZES)
    def deleverage(self, account: str, symbol: str, size: int) -> None:
        self._try(risk.deleverage, self.exchange, account, symbol, self._quantity(symbol, size), None, self.now)

    @rule(symbol=SYMBOLS)
    def liquidate(self, symbol: str) -> None:
        self._try(risk.liquidate, self.exchange, "two", symbol, self.now)

    @rule(account=st.sampled_from(["one", "two"]), amount=st.integers(1, 500))
    def deposit(self, account: str, amount: int) -> None:
        self.exchange.deposit(account, D(amount) / 100, self.now)

    @invariant()
    def books_follow_from_fills_and_bookings(self) -> None:
        if not hasattr(self, "exchange"):
            return
        self.now += 1
        self._listen()
        for account in self.exchange.accounts.values():
            self._check_account(account)
        by_trade = {(fill.symbol, fill.trade_id): fill for one in self.exchange.accounts.values() for fill in one.fills}
        assert len(self.told_fills) == len(by_trade) == sum(len(one.fills) for one in self.exchange.accounts.values())
        assert {(fill.symbol, fill.trade_id): fill for fill in self.told_fills} == by_trade

    def _listen(self) -> None:
        """Rebuild orders, fills and wallets from what the exchange told."""
        for event in self.exchange.drain():
            if isinstance(event, OrderChanged):
                self.told_orders[event.order.id] = event.order
                if event.fill is not None:
                    self.told_fills.append(event.fill)
            elif isinstance(event, AccountChanged):
                self.told_wallets[event.account] = event.wallet
            elif isinstance(event, ConditionalChanged):
                self.told_conditionals[event.conditional.id] = event.conditional.status
        assert self.told_orders == self.exchange.orders
        assert self.told_conditionals == {one.id: one.status for one in self.exchange.conditionals.values()}

    def _check_account(self, account: Account) -> None:
        assert account.wallet == sum((row.amount for row in account.ledger), D(0)) == self.told_wallets[account.name]
        booked = {kind: sum((row.amount for row in account.ledger if row.type == kind), D(0)) for kind in ("REALIZED_PNL", "COMMISSION")}
        assert booked["REALIZED_PNL"] == sum((fill.realised for fill in account.fills), D(0))
        assert booked["COMMISSION"] == -sum((fill.fee for fill in account.fills), D(0))
        assert funds.available(self.exchange, account) >= 0
        for symbol in START:
            fills = [fill for fill in account.fills if fill.symbol == symbol]
            position = account.position(symbol)
            assert position.quantity == sum((sign(fill.side) * fill.quantity for fill in fills), D(0))
            # What was paid is either still in the position or was realised: nothing is lost to rounding.
            paid = sum((sign(fill.side) * fill.quantity * fill.price for fill in fills), D(0))
            assert position.cost - paid == sum((fill.realised for fill in fills), D(0))
            assert (position.quantity == 0) <= (position.cost == 0 and position.isolated_wallet == 0)
            self._check_reducing(account, symbol, fills)
        for order in (one for one in self.exchange.orders.values() if one.account == account.name):
            own = [fill for fill in account.fills if fill.order_id == order.id]
            assert order.filled == sum((fill.quantity for fill in own), D(0)) <= order.quantity
            assert order.quote == sum((fill.quantity * fill.price for fill in own), D(0))
            assert (order.status == "FILLED") == (order.filled == order.quantity)
            assert order.open == (order.id in self.exchange.open_orders_of(order.account, order.symbol))
            if order.type == "LIMIT" and order.tif != "IOC":
                assert all((order.price - fill.price) * sign(order.side) >= 0 for fill in own)  # never worse than its limit

    def _check_reducing(self, account: Account, symbol: str, fills: list[Fill]) -> None:
        held = D(0)
        for fill in fills:
            after = held + sign(fill.side) * fill.quantity
            if self.exchange.orders[fill.order_id].reduce_only:
                assert abs(after) < abs(held) and after * held >= 0
            held = after
        resting = [one for one in self.exchange.open_orders_of(account.name, symbol).values() if one.reduce_only]
        resting.sort(key=lambda one: (-one.price * sign(one.side), one.id))
        left = abs(held)
        for one in resting:
            assert sign(one.side) * held < 0 and left > 0
            left -= one.left


def test_the_books_are_exact_whatever_happens() -> None:
    run_state_machine_as_test(
        Trading,
        settings=settings(max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
    )


@pytest.mark.long
def test_the_books_are_exact_whatever_happens_at_length() -> None:
    run_state_machine_as_test(
        Trading,
        settings=settings(max_examples=3000, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)),
    )

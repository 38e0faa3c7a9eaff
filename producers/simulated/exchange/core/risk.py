"""Margin, funding and the exchange's own actions: liquidation, deleveraging, settlement of a delisted instrument. Pure."""

from __future__ import annotations

from decimal import Decimal

from producers.simulated.exchange.core import conditional
from producers.simulated.exchange.core.account import Account, Position, liquidated_at, view
from producers.simulated.exchange.core.orders import (
    BUY,
    EXPIRED_DELISTED,
    EXPIRED_LIQUIDATION,
    SELL,
    AccountChanged,
    MarginCalled,
    Order,
)
from producers.simulated.exchange.core.rules import ZERO, Reason, Refusal, money
from producers.simulated.exchange.core.state import ExchangeState

# Used share of the margin that triggers a margin call.
CALL_AT = Decimal("0.8")
# Client ids of the venue's own orders.
CLOSE_NAMES = {"LIQUIDATION": "autoclose-", "ADL": "adl_autoclose", "SETTLEMENT": "settlement_autoclose-"}


def liquidation_price(exchange: ExchangeState, owner: Account, symbol: str) -> Decimal | None:
    """Return the liquidation price (mark price) of a position; None: it has none."""
    position, market = owner.position(symbol), exchange.markets[symbol]
    if position.isolated:
        collateral = position.isolated_wallet
    else:
        collateral = owner.cross_wallet
        for other in owner.held():
            if other.symbol != symbol and not other.isolated:
                there = exchange.markets[other.symbol]
                collateral += other.unrealised(there.reference)
                collateral -= there.contract.maintenance(abs(other.quantity) * there.reference)
    return liquidated_at(position, market.contract, market.reference, collateral)


def check_accounts(exchange: ExchangeState, symbol: str, now: int) -> None:
    """Send a margin call or liquidate, after the mark price of an instrument changed."""
    for owner in exchange.accounts.values():
        position = owner.positions.get(symbol)
        if position is None or not position.quantity:
            continue
        group = [position] if position.isolated else [one for one in owner.held() if not one.isolated]
        collateral = position.isolated_wallet if position.isolated else owner.cross_wallet
        need = ZERO
        for one in group:
            market = exchange.markets[one.symbol]
            collateral += one.unrealised(market.reference)
            need += market.contract.maintenance(abs(one.quantity) * market.reference)
        if collateral < need:
            for one in group:
                liquidate(exchange, owner.name, one.symbol, now)
        elif need > collateral * CALL_AT:
            _call(exchange, owner, group, now)
        else:
            exchange.called.discard(owner.name)


def _call(exchange: ExchangeState, owner: Account, group: list[Position], now: int) -> None:
    if owner.name not in exchange.called:
        exchange.called.add(owner.name)
        views = tuple(view(one, exchange.markets[one.symbol].contract, exchange.markets[one.symbol].reference) for one in group)
        exchange.events.append(MarginCalled(owner.name, now, owner.cross_wallet, views))


def liquidate(exchange: ExchangeState, account: str, symbol: str, now: int) -> None:
    """Liquidate a position at the market and charge the fee. The insurance fund covers a loss beyond the margin.

    Raises:
        Refusal: there is no position.
    """
    owner, market = exchange.accounts[account], exchange.market(symbol)
    position = owner.position(symbol)
    if not position.quantity:
        raise Refusal(Reason.REDUCE_ONLY)
    for order in list(exchange.open_orders_of(account, symbol).values()):
        exchange.expire(order, EXPIRED_LIQUIDATION, now)
    for one in conditional.open_conditionals(exchange, account, symbol):
        conditional.end_conditional(exchange, one, "EXPIRED", now)
    isolated, aside, wallet = position.isolated, position.isolated_wallet, owner.wallet
    worth = abs(position.quantity) * market.reference
    _force(exchange, owner, position, abs(position.quantity), None, "LIQUIDATION", now)
    fee = money(worth * market.contract.liquidation_fee)
    # An isolated position can lose at most its isolated margin, the account at most its wallet.
    floor = wallet - aside if isolated else ZERO
    fee = min(fee, max(ZERO, owner.wallet - floor))
    if fee:
        owner.book(exchange.next_income_id(), now, "INSURANCE_CLEAR", -fee, symbol)
    others = not isolated and any(not one.isolated for one in owner.held())
    if owner.wallet < floor and not others:
        owner.book(exchange.next_income_id(), now, "INSURANCE_CLEAR", floor - owner.wallet, symbol)
    _tell_risk(exchange, owner, position, "INSURANCE_CLEAR", now)


def deleverage(exchange: ExchangeState, account: str, symbol: str, quantity: Decimal | None, price: Decimal | None, now: int) -> None:
    """Deleverage a position or a part of it at a price (None: the mark price), against another account's liquidation.

    Raises:
        Refusal: there is no position.
    """
    owner, market = exchange.accounts[account], exchange.market(symbol)
    position = owner.position(symbol)
    if not position.quantity:
        raise Refusal(Reason.REDUCE_ONLY)
    part = min(abs(position.quantity), quantity or abs(position.quantity))
    _force(exchange, owner, position, part, price or market.reference, "ADL", now)


def _force(
    exchange: ExchangeState, owner: Account, position: Position, quantity: Decimal, price: Decimal | None, kind: str, now: int
) -> None:
    """Close ``quantity`` of a position; ``price`` None: from the book, and the rest at the mark price."""
    market = exchange.markets[position.symbol]
    side = SELL if position.quantity > 0 else BUY
    number = exchange.next_order_id()
    name = CLOSE_NAMES[kind] + (str(number) if CLOSE_NAMES[kind].endswith("-") else "")
    at = price if price is not None else market.reference
    order = Order(number, owner.name, position.symbol, side, "LIMIT", "IOC", quantity, at, kind == "ADL", name, now, now, "LIMIT")
    exchange.orders[number] = order
    exchange.clients[owner.name, position.symbol, name] = number
    exchange.tell_order(order, "NEW", now)
    if price is None:
        for level, part in market.take(side, quantity, None):
            exchange.fill(order, level, part, maker=False, now=now, kind=kind)
    if order.left:
        exchange.fill(order, at, order.left, maker=False, now=now, kind=kind)


def settle_funding(exchange: ExchangeState, symbol: str, rate: Decimal, now: int, mark: Decimal | None = None) -> None:
    """Settle funding: a long pays quantity x mark x rate, a short receives it."""
    market = exchange.markets[symbol]
    for owner in exchange.accounts.values():
        position = owner.positions.get(symbol)
        if position is None or not position.quantity:
            continue
        amount = money(-position.quantity * (mark or market.reference) * rate)
        owner.book(exchange.next_income_id(), now, "FUNDING_FEE", amount, symbol)
        if position.isolated:
            position.isolated_wallet += amount
        views = (view(position, market.contract, market.reference),) if position.isolated else ()
        exchange.events.append(AccountChanged(owner.name, now, "FUNDING_FEE", owner.wallet, owner.cross_wallet, amount, views))


def delist(exchange: ExchangeState, symbol: str, now: int) -> None:
    """End trading in an instrument: orders expire, positions are settled at the mark price."""
    market = exchange.market(symbol)
    market.trading = False
    for owner in exchange.accounts.values():
        for order in list(exchange.open_orders_of(owner.name, symbol).values()):
            exchange.expire(order, EXPIRED_DELISTED, now)
        for one in conditional.open_conditionals(exchange, owner.name, symbol):
            conditional.end_conditional(exchange, one, "EXPIRED", now)
        position = owner.positions.get(symbol)
        if position is not None and position.quantity:
            _force(exchange, owner, position, abs(position.quantity), market.reference, "SETTLEMENT", now)


def _tell_risk(exchange: ExchangeState, owner: Account, position: Position, reason: str, now: int) -> None:
    market = exchange.markets[position.symbol]
    views = (view(position, market.contract, market.reference),)
    exchange.events.append(AccountChanged(owner.name, now, reason, owner.wallet, owner.cross_wallet, ZERO, views))

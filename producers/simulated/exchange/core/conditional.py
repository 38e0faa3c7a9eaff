"""Conditional orders of the simulated exchange: they wait outside the matching engine until mark or last price touches their trigger. Pure.

Like the venue's service: there is no margin or reduce-only check before the trigger. An order that the engine then refuses ends as REJECTED
with its reason, and the position stays unprotected. An order with ``close_position`` closes the whole position and ends with it.
"""

from __future__ import annotations

from decimal import Decimal

from producers.simulated.exchange.core import checks
from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.orders import BUY, SELL, Conditional, ConditionalChanged, NewConditional, Order, sign
from producers.simulated.exchange.core.rules import ZERO, Reason, Refusal
from producers.simulated.exchange.core.state import ExchangeState

FAILED = {
    Reason.REDUCE_ONLY: "Reduce Only reject",
    Reason.MARGIN: "Margin is insufficient.",
    Reason.NOT_TRADING: "Symbol is not trading",
    Reason.MIN_NOTIONAL: "Order's notional is too small",
}


def wait(exchange: ExchangeState, account: str, request: NewConditional, now: int) -> Conditional:
    """Accept a conditional order and return it. Raises Refusal, e.g. when it would trigger at once."""
    owner, market = exchange.accounts[account], exchange.market(request.symbol)
    contract = market.contract
    checks.check_common(exchange, owner, market, request.client_id, request.position_side)
    market_type = request.type.endswith("MARKET")
    if request.close_position:
        _check_close(exchange, owner, request)
    else:
        contract.check_quantity(request.quantity, market_type)
    if not market_type:
        if request.price is None:
            raise Refusal(Reason.MISSING, "price")
        contract.check_price(request.price)
    trailing = request.type == "TRAILING_STOP_MARKET"
    trigger = request.trigger or ZERO
    if trailing:
        if request.callback is None or not Decimal("0.1") <= request.callback <= 10:
            raise Refusal(Reason.PARAMETER, "callbackRate")
    elif trigger <= 0:
        raise Refusal(Reason.MISSING, "triggerPrice")
    taken = exchange.conditional_clients.get((account, request.client_id or ""))
    if taken is not None and exchange.conditionals[taken].open:
        raise Refusal(Reason.CLIENT_ID_TAKEN)
    if sum(one.account == account for one in exchange.waiting.get(request.symbol, {}).values()) >= contract.max_conditional:
        raise Refusal(Reason.TOO_MANY_CONDITIONAL)
    number = exchange.next_conditional_id()
    made = Conditional(
        id=number,
        account=account,
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        tif="GTE_GTC" if request.close_position else request.tif,
        quantity=request.quantity,
        trigger=trigger,
        price=request.price or ZERO,
        reduce_only=request.reduce_only or request.close_position,
        close_position=request.close_position,
        working=request.working,
        client_id=request.client_id or f"algo{number}",
        created=now,
        updated=now,
        activation=request.activation,
        callback=request.callback,
    )
    price = market.reference if request.working == "MARK_PRICE" else market.last or market.reference
    if not trailing and price and made.hit(price):
        raise Refusal(Reason.WOULD_TRIGGER)
    exchange.conditionals[number] = made
    exchange.conditional_clients[account, made.client_id] = number
    exchange.waiting.setdefault(made.symbol, {})[number] = made
    _tell_conditional(exchange, made, now)
    return made.copy()


def _check_close(exchange: ExchangeState, owner: Account, request: NewConditional) -> None:
    if request.reduce_only or request.quantity:
        raise Refusal(Reason.PARAMETER, "closePosition")
    for one in exchange.waiting.get(request.symbol, {}).values():
        same = one.close_position and one.account == owner.name and (one.side, one.type) == (request.side, request.type)
        if same:
            raise Refusal(Reason.CLOSE_POSITION_TAKEN)
    if owner.position(request.symbol).quantity * sign(request.side) >= 0:
        raise Refusal(Reason.NOTHING_TO_CLOSE)


def cancel_conditional(exchange: ExchangeState, account: str, number: int | None, client_id: str | None, now: int) -> Conditional:
    """Cancel a waiting conditional order. Raises Refusal without one."""
    found = _conditional(exchange, account, number, client_id)
    if found is None or not found.open:
        raise Refusal(Reason.UNKNOWN_ORDER)
    end_conditional(exchange, found, "CANCELED", now)
    return found.copy()


def cancel_all_conditionals(exchange: ExchangeState, account: str, symbol: str, now: int) -> int:
    """Cancel every waiting conditional order of an instrument. Return their number."""
    exchange.market(symbol)
    waiting = [one for one in exchange.waiting.get(symbol, {}).values() if one.account == account]
    for one in waiting:
        end_conditional(exchange, one, "CANCELED", now)
    return len(waiting)


def query_conditional(exchange: ExchangeState, account: str, number: int | None, client_id: str | None) -> Conditional:
    """Return a conditional order, also a finished one. Raises Refusal if it does not exist."""
    found = _conditional(exchange, account, number, client_id)
    if found is None:
        raise Refusal(Reason.ORDER_NOT_FOUND)
    return found.copy()


def open_conditionals(exchange: ExchangeState, account: str, symbol: str | None = None) -> list[Conditional]:
    """Return the waiting conditional orders of an account, oldest first."""
    return sorted(
        (one for name, waiting in exchange.waiting.items() if symbol in (None, name) for one in waiting.values() if one.account == account),
        key=lambda one: one.id,
    )


def _conditional(exchange: ExchangeState, account: str, number: int | None, client_id: str | None) -> Conditional | None:
    if number is None:
        number = exchange.conditional_clients.get((account, client_id or ""))
    found = exchange.conditionals.get(number) if number is not None else None
    return found if found is not None and found.account == account else None


# --- triggers -----------------------------------------------------------------------------------------------------
def trigger(exchange: ExchangeState, symbol: str, working: str, price: Decimal, now: int) -> None:
    """Trigger the orders that a price touches, older ones first."""
    for one in list(exchange.waiting.get(symbol, {}).values()):
        if one.open and one.working == working and (_trail(one, price) if one.callback is not None else one.hit(price)):
            _trigger(exchange, one, now)


def _trigger(exchange: ExchangeState, one: Conditional, now: int) -> None:
    exchange.waiting[one.symbol].pop(one.id, None)
    one.status, one.triggered, one.updated = "TRIGGERING", now, now
    _tell_conditional(exchange, one, now)
    owner, market = exchange.accounts[one.account], exchange.markets[one.symbol]
    held = owner.position(one.symbol).quantity
    quantity = abs(held) if one.close_position else one.quantity
    limit = None if one.type.endswith("MARKET") else one.price
    try:
        if not market.trading:
            raise Refusal(Reason.NOT_TRADING)
        checks.check_reduce_only(exchange, owner, one.symbol, one.side, one.reduce_only, quantity, limit)
        if not one.reduce_only:
            checks.check_margin(exchange, owner, market, one.side, quantity, limit)
    except Refusal as refusal:
        one.failed = FAILED.get(refusal.reason, refusal.reason.name)
        one.status = "EXPIRED" if one.close_position else "REJECTED"
        _tell_conditional(exchange, one, now)
        return
    number, kind = exchange.next_order_id(), "MARKET" if limit is None else "LIMIT"
    own = exchange.renames_triggered
    order = Order(
        id=number,
        account=one.account,
        symbol=one.symbol,
        side=one.side,
        type=kind,
        tif="GTC" if one.tif == "GTE_GTC" else one.tif,
        quantity=quantity,
        price=limit or ZERO,
        reduce_only=one.reduce_only,
        client_id=f"triggered-{number}" if own else one.client_id,
        created=now,
        updated=now,
        original=kind if own else one.type,
        trigger=ZERO if own else one.trigger,
        working=one.working,
        close_position=one.close_position,
        algo=one.id,
    )
    one.order, one.status = order, "TRIGGERED"
    _tell_conditional(exchange, one, now)
    exchange.enter(order, now)


def finish_conditional(exchange: ExchangeState, order: Order, now: int) -> None:
    """Finish the conditional order of an ended order."""
    if order.algo is not None:
        one = exchange.conditionals[order.algo]
        one.status, one.updated = "FINISHED", now
        _tell_conditional(exchange, one, now)


def position_closed(exchange: ExchangeState, account: str, symbol: str, now: int) -> None:
    """End the orders that need a position."""
    for one in open_conditionals(exchange, account, symbol):
        if one.close_position:
            end_conditional(exchange, one, "EXPIRED", now)


def end_conditional(exchange: ExchangeState, one: Conditional, status: str, now: int) -> None:
    """End a waiting conditional order."""
    exchange.waiting[one.symbol].pop(one.id, None)
    one.status, one.updated = status, now
    _tell_conditional(exchange, one, now)


def _tell_conditional(exchange: ExchangeState, one: Conditional, now: int) -> None:
    exchange.events.append(ConditionalChanged(one.account, now, one.copy()))


def _trail(one: Conditional, price: Decimal) -> bool:
    """Move a trailing stop. Return whether the price has retreated far enough from its best."""
    if one.callback is None:
        return False
    if one.extreme is None:
        reached = one.activation is None or (price >= one.activation if one.side == SELL else price <= one.activation)
        if not reached:
            return False
        one.extreme = price
    one.extreme = min(one.extreme, price) if one.side == BUY else max(one.extreme, price)
    distance = one.extreme * one.callback / 100
    one.trigger = one.extreme + distance * sign(one.side)
    return price >= one.trigger if one.side == BUY else price <= one.trigger

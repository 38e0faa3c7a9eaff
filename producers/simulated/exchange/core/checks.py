"""The checks of a new order: filters, price band, reduce-only, margin. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

from producers.simulated.exchange.core.account import Account, margin
from producers.simulated.exchange.core.funds import available
from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import BUY, CONDITIONAL_TYPES, NewOrder, Order, sign
from producers.simulated.exchange.core.rules import ZERO, Reason, Refusal
from producers.simulated.exchange.core.state import ExchangeState

CLIENT_ID = re.compile(r"^[\.A-Z\:/a-z0-9_-]{1,36}$")


def check_order(exchange: ExchangeState, owner: Account, market: MarketState, request: NewOrder) -> None:
    contract = market.contract
    if request.type in CONDITIONAL_TYPES:
        raise Refusal(Reason.CONDITIONAL_ELSEWHERE)
    check_common(exchange, owner, market, request.client_id, request.position_side)
    contract.check_quantity(request.quantity, request.type == "MARKET")
    limit = request.price if request.type == "LIMIT" else None
    if request.type == "LIMIT":
        if limit is None:
            raise Refusal(Reason.MISSING, "price")
        contract.check_price(limit)
        _check_band(exchange, market, request.side, limit)
    elif not _in_band(exchange, market, request.side):
        raise Refusal(Reason.COUNTERPARTY_BAND)
    worth = request.quantity * (limit or market.reference)
    if not request.reduce_only and worth < contract.min_notional:
        raise Refusal(Reason.MIN_NOTIONAL, str(contract.min_notional))
    taken = exchange.clients.get((owner.name, request.symbol, request.client_id or ""))
    if taken is not None and exchange.orders[taken].open:
        raise Refusal(Reason.CLIENT_ID_TAKEN)
    if len(exchange.open_orders_of(owner.name, request.symbol)) >= contract.max_orders:
        raise Refusal(Reason.TOO_MANY_ORDERS)
    check_reduce_only(exchange, owner, request.symbol, request.side, request.reduce_only, request.quantity, limit)
    crosses = limit is not None and market.reachable(request.side, limit) > 0
    if request.tif == "GTX" and crosses:
        raise Refusal(Reason.POST_ONLY)
    if request.tif == "FOK" and market.reachable(request.side, limit) < request.quantity:
        raise Refusal(Reason.FILL_OR_KILL)
    if not request.reduce_only:
        check_margin(exchange, owner, market, request.side, request.quantity, limit)


def check_common(exchange: ExchangeState, owner: Account, market: MarketState, client_id: str | None, position_side: str) -> None:
    """Raise Refusal if an order breaks a rule for all kinds."""
    if not market.trading:
        raise Refusal(Reason.NOT_TRADING)
    if client_id is not None and not CLIENT_ID.match(client_id):
        raise Refusal(Reason.CLIENT_ID_FORM)
    if (position_side == "BOTH") == owner.dual:
        raise Refusal(Reason.POSITION_SIDE)


def check_reduce_only(
    exchange: ExchangeState, owner: Account, symbol: str, side: str, reduce_only: bool, quantity: Decimal, price: Decimal | None
) -> None:
    """Raise Refusal for a reduce-only order without a position, or if better ones already cover the position."""
    if not reduce_only:
        return
    held = owner.position(symbol).quantity
    if held * sign(side) >= 0:
        raise Refusal(Reason.REDUCE_ONLY)
    if price is None:
        return  # market orders come before all resting ones
    before = sum((one.left for one in reducing(exchange, owner, symbol) if (one.price - price) * sign(side) >= 0), ZERO)
    if before >= abs(held):
        raise Refusal(Reason.REDUCE_ONLY)


def _check_band(exchange: ExchangeState, market: MarketState, side: str, price: Decimal) -> None:
    mark, contract = market.reference, market.contract
    if not mark:
        return
    if side == BUY and price > mark * contract.multiplier_up:
        raise Refusal(Reason.PRICE_ABOVE_BAND, str(mark * contract.multiplier_up))
    if side != BUY and price < mark * contract.multiplier_down:
        raise Refusal(Reason.PRICE_BELOW_BAND, str(mark * contract.multiplier_down))


def band(exchange: ExchangeState, market: MarketState, side: str) -> Decimal | None:
    mark = market.reference
    if not mark:
        return None
    return mark * (market.contract.multiplier_up if side == BUY else market.contract.multiplier_down)


def _in_band(exchange: ExchangeState, market: MarketState, side: str) -> bool:
    best, limit = market.best(side), band(exchange, market, side)
    return best is None or limit is None or (best <= limit if side == BUY else best >= limit)


def check_margin(exchange: ExchangeState, owner: Account, market: MarketState, side: str, quantity: Decimal, limit: Decimal | None) -> None:
    """Raise Refusal when an order would need more margin than the account has available."""
    symbol, mark = market.contract.symbol, market.reference
    position = owner.position(symbol)
    price = limit or market.best(side) or mark
    orders = list(exchange.open_orders_of(owner.name, symbol).values())
    before = margin(position, market.contract, mark, orders)
    added = Order(0, owner.name, symbol, side, "LIMIT", "GTC", quantity, price, False, "", 0, 0, "LIMIT")
    after = margin(position, market.contract, mark, [*orders, added])
    need = after.initial + after.order_initial - before.initial - before.order_initial
    if need <= 0:
        return
    loss = max(ZERO, (price - mark) * sign(side)) * quantity
    if abs(position.quantity) * mark + quantity * price > max(
        one.cap for one in market.contract.brackets if one.leverage >= position.leverage
    ):
        raise Refusal(Reason.LEVERAGE_POSITION)
    if need + loss > available(exchange, owner):
        raise Refusal(Reason.MARGIN)


def reducing(exchange: ExchangeState, owner: Account, symbol: str) -> list[Order]:
    """Return the resting reduce-only orders of an instrument in their order of filling."""
    orders = [one for one in exchange.open_orders_of(owner.name, symbol).values() if one.reduce_only and one.type == "LIMIT"]
    return sorted(orders, key=lambda one: (-one.price * sign(one.side), one.id))

"""The checks of a new spot order: filters, price band, prices of a list, and funds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from producers.simulated.exchange.core.checks import CLIENT_ID, band
from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import BUY, SELL, NewOrder
from producers.simulated.exchange.core.rules import Reason, Refusal
from producers.simulated.exchange.core.state import ExchangeState
from producers.simulated.exchange.spot.lists import NewList


def check_order(exchange: ExchangeState, account: str, market: MarketState, request: NewOrder, stop_price: Decimal | None) -> None:
    """Raise Refusal if an order breaks a rule, except for its funds."""
    contract = market.contract
    if not market.trading:
        raise Refusal(Reason.NOT_TRADING)
    if request.client_id is not None and not CLIENT_ID.match(request.client_id):
        raise Refusal(Reason.CLIENT_ID_FORM)
    taken = exchange.clients.get((account, request.symbol, request.client_id or ""))
    if taken is not None and exchange.orders[taken].open:
        raise Refusal(Reason.CLIENT_ID_TAKEN)
    contract.check_quantity(request.quantity, request.type == "MARKET")
    for price in (request.price if request.type == "LIMIT" else None, stop_price):
        if price is not None:
            contract.check_price(price)
    if request.type == "LIMIT":
        assert request.price is not None
        limit = band(exchange, market, request.side)
        if limit is not None and (request.price > limit if request.side == BUY else request.price < limit):
            raise Refusal(Reason.PRICE_ABOVE_BAND if request.side == BUY else Reason.PRICE_BELOW_BAND)
    worth = request.quantity * (request.price or stop_price or market.reference)
    if worth < contract.min_notional:
        raise Refusal(Reason.MIN_NOTIONAL)
    if len(exchange.open_orders(account, request.symbol)) >= contract.max_orders:
        raise Refusal(Reason.TOO_MANY_ORDERS)
    if stop_price is not None and (market.last <= stop_price if request.side == SELL else market.last >= stop_price):
        raise Refusal(Reason.WOULD_TRIGGER)
    if request.tif == "GTX" and market.reachable(request.side, request.price) > 0:
        raise Refusal(Reason.POST_ONLY)
    if request.tif == "FOK" and market.reachable(request.side, request.price) < request.quantity:
        raise Refusal(Reason.FILL_OR_KILL)


def check_funds(
    free: Callable[[str, str], Decimal], account: str, market: MarketState, request: NewOrder, stop_price: Decimal | None
) -> None:
    """Raise Refusal if the free balance does not cover an order."""
    contract = market.contract
    if request.side == SELL:
        asset, need = contract.base, request.quantity
    else:
        asset, need = contract.quote, request.quantity * (request.price or stop_price or market.best(BUY) or market.reference)
    if need > free(account, asset):
        raise Refusal(Reason.MARGIN)


def check_list(exchange: ExchangeState, free: Callable[[str, str], Decimal], account: str, market: MarketState, request: NewList) -> None:
    """Raise Refusal if a list breaks a rule. A sale needs target > last price > stop, a buy the reverse. Its funds are needed once."""
    target, stop, last = request.target, request.stop, market.last
    assert target.price is not None
    if (target.side, target.quantity, target.symbol) != (stop.side, stop.quantity, stop.symbol):
        raise Refusal(Reason.PARAMETER, "quantity")
    right = target.price > last > request.stop_price if target.side == SELL else target.price < last < request.stop_price
    if not right:
        raise Refusal(Reason.LIST_PRICES)
    for one, stop_price in ((target, None), (stop, request.stop_price)):
        check_order(exchange, account, market, one, stop_price)
    check_funds(free, account, market, target, None)

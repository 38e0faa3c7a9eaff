"""Binance spot endpoints for trading: orders, order lists, account."""

from __future__ import annotations

from typing import Any

from producers.simulated.exchange.binance import accounts, markets
from producers.simulated.exchange.binance.call import BinanceCall
from producers.simulated.exchange.binance.errors import missing
from producers.simulated.exchange.core.orders import BUY, SELL, NewOrder, Order
from producers.simulated.exchange.core.rules import Reason, Refusal
from producers.simulated.exchange.session.call import Action
from producers.simulated.exchange.spot import wire_format
from producers.simulated.exchange.spot.engine import STOP, SpotExchange
from producers.simulated.exchange.spot.lists import NewList, OrderList
from producers.simulated.wire.protocol import VenueError

TYPES = ("LIMIT", "LIMIT_MAKER", "MARKET", STOP)
DAY_MS = 86_400_000


class SpotCall(BinanceCall):
    """A request to the spot exchange."""

    @property
    def exchange(self) -> SpotExchange:
        """The core."""
        found = self.desk.exchange
        assert isinstance(found, SpotExchange)
        return found

    def optional(self, name: str) -> str | None:
        """Return a text if it was sent."""
        return self.text(name) if self.has(name) else None


# --- orders -------------------------------------------------------------------------------------------------------------
def _place(call: SpotCall) -> Any:
    contract = call.contract()
    side, kind = call.choice("side", (BUY, SELL)), call.choice("type", TYPES)
    limited = kind in ("LIMIT", "LIMIT_MAKER")
    if kind == "LIMIT":
        tif = call.choice("timeInForce", ("GTC", "IOC", "FOK"))
    elif call.has("timeInForce"):
        raise VenueError(400, -1106, "Parameter 'timeInForce' sent when not required.")
    else:
        tif = "GTX" if limited else "GTC"
    request = NewOrder(
        contract.symbol,
        side,
        "LIMIT" if limited else "MARKET",
        call.needed("quantity"),
        call.needed("price") if limited else None,
        tif,
        client_id=call.optional("newClientOrderId"),
    )
    order = call.exchange.place(call.account.name, request, call.now, call.needed("stopPrice") if kind == STOP else None)
    fills = [one for one in call.account.fills if one.order_id == order.id]
    form = call.choice("newOrderRespType", ("ACK", "RESULT", "FULL"), "ACK" if kind == STOP else "FULL")
    return wire_format.placed_row(order, fills) if form == "FULL" else wire_format.order_row(order, queried=False)


def _id(call: SpotCall) -> tuple[int | None, str | None]:
    number, name = call.query.whole("orderId") if call.has("orderId") else None, call.optional("origClientOrderId")
    if number is None and name is None:
        raise VenueError(400, -1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
    return number, name


def _cancel(call: SpotCall) -> Any:
    symbol = call.contract().symbol
    order = call.exchange.cancel(call.account.name, symbol, *_id(call), call.now)
    if order.listed is None:
        return wire_format.cancelled_row(order, call.optional("newClientOrderId") or f"cancel{order.id}")
    return _list_row(call, call.exchange.lists[order.listed], cancelled=True)


def _query(call: SpotCall) -> Any:
    return wire_format.order_row(call.exchange.query(call.account.name, call.contract().symbol, *_id(call)), queried=True)


def _open(call: SpotCall) -> Any:
    return [wire_format.order_row(one, queried=True) for one in call.exchange.open_orders(call.account.name, call.symbol())]


def _all(call: SpotCall) -> Any:
    symbol, own, first = call.contract().symbol, call.account.name, call.query.whole("orderId") or 0
    rows = [one for one in call.exchange.orders.values() if (one.account, one.symbol) == (own, symbol) and one.id >= first]
    return [wire_format.order_row(one, queried=True) for one in rows[-call.query.limit(500, 1000) :]]


def _cancel_all(call: SpotCall) -> Any:
    symbol = call.contract().symbol
    orders = call.exchange.open_orders(call.account.name, symbol)
    if not orders:
        raise Refusal(Reason.UNKNOWN_ORDER)
    call.exchange.cancel_all(call.account.name, symbol, call.now)
    return [wire_format.cancelled_row(call.exchange.orders[one.id], f"cancel{one.id}") for one in orders]


# --- lists --------------------------------------------------------------------------------------------------------------
def _place_list(call: SpotCall) -> Any:
    contract, side = call.contract(), call.choice("side", (BUY, SELL))
    quantity = call.needed("quantity")
    legs = {name: call.choice(f"{name}Type", ("LIMIT_MAKER", STOP)) for name in ("above", "below")}
    target = "above" if side == SELL else "below"
    stop = "below" if side == SELL else "above"
    if (legs[target], legs[stop]) != ("LIMIT_MAKER", STOP):
        raise Refusal(Reason.LIST_PRICES)
    limit = NewOrder(
        contract.symbol,
        side,
        "LIMIT",
        quantity,
        call.needed(f"{target}Price"),
        "GTX",
        client_id=call.optional(f"{target}ClientOrderId"),
    )
    market = NewOrder(contract.symbol, side, "MARKET", quantity, client_id=call.optional(f"{stop}ClientOrderId"))
    request = NewList(limit, market, call.needed(f"{stop}StopPrice"), call.optional("listClientOrderId"))
    made, _ = call.exchange.place_list(call.account.name, request, call.now)
    return _list_row(call, made)


def _list_row(call: SpotCall, made: OrderList, *, cancelled: bool = False, reports: bool = True) -> Any:
    orders = [call.exchange.orders[one] for one in made.orders]
    if not reports:
        return wire_format.list_row(made, orders, None)

    def row(order: Order) -> dict[str, Any]:
        return wire_format.cancelled_row(order, f"cancel{order.id}") if cancelled else wire_format.order_row(order, queried=False)

    return wire_format.list_row(made, orders, [row(one) for one in orders])


def _found_list(call: SpotCall) -> OrderList:
    number, name = call.query.whole("orderListId") if call.has("orderListId") else None, None
    for field in ("listClientOrderId", "origClientOrderId"):
        name = name or call.optional(field)
    if number is None and name is None:
        raise missing("orderListId")
    for made in reversed(call.exchange.lists.values()):
        if made.account == call.account.name and (made.id == number or (number is None and made.client_id == name)):
            return made
    raise VenueError(400, -2018, "Order list does not exist.")


def _cancel_list(call: SpotCall) -> Any:
    made = _found_list(call)
    if made.done:
        raise Refusal(Reason.UNKNOWN_ORDER)
    open_one = next(one for one in made.orders if call.exchange.orders[one].open)
    call.exchange.cancel(call.account.name, made.symbol, open_one, None, call.now)
    return _list_row(call, made, cancelled=True)


def _query_list(call: SpotCall) -> Any:
    return _list_row(call, _found_list(call), reports=False)


def _open_lists(call: SpotCall) -> Any:
    rows = [one for one in call.exchange.lists.values() if one.account == call.account.name and not one.done]
    return [_list_row(call, one, reports=False) for one in rows]


# --- account ------------------------------------------------------------------------------------------------------------
def _account(call: SpotCall) -> Any:
    return wire_format.account_row(call.exchange, call.account.name, bool(call.key and call.key.trade), call.now)


def _trades(call: SpotCall) -> Any:
    symbol = call.contract().symbol
    start, end, first = call.query.whole("startTime"), call.query.whole("endTime"), call.query.whole("fromId")
    if start is not None and end is not None and end - start > DAY_MS:
        raise VenueError(400, -1127, "More than 24 hours between startTime and endTime.")
    fills = [one for one in call.account.fills if one.symbol == symbol and (first is None or one.trade_id >= first)]
    fills = [one for one in fills if (start is None or one.time >= start) and (end is None or one.time <= end)]
    limit = call.query.limit(500, 1000)
    shown = fills[:limit] if first is not None or start is not None else fills[-limit:]
    return [wire_format.trade_row(one, call.exchange.orders[one.order_id]) for one in shown]


def _restrictions(call: SpotCall) -> Any:
    trade = bool(call.key and call.key.trade)
    return {**accounts.restrictions(call), "enableFutures": False, "enableSpotAndMarginTrading": trade}


# --- public -------------------------------------------------------------------------------------------------------------
def _time(call: SpotCall) -> Any:
    return {"serverTime": call.now}


def _info(call: SpotCall) -> Any:
    names = [call.contract().symbol] if call.has("symbol") else list(call.exchange.markets)
    return {
        "timezone": "UTC",
        "serverTime": call.now,
        "rateLimits": [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}],
        "exchangeFilters": [],
        "symbols": [wire_format.symbol_row(call.exchange.markets[name]) for name in names],
        "simulated": True,
    }


TRADING: tuple[Action, ...] = (
    Action("order.place", "POST", "/api/v3/order", 1, "SIGNED", _place, order=True),
    Action("order.cancel", "DELETE", "/api/v3/order", 1, "SIGNED", _cancel),
    Action("order.query", "GET", "/api/v3/order", 4, "SIGNED", _query),
    Action("order.open", "GET", "/api/v3/openOrders", 6, "SIGNED", _open),
    Action("order.all", "GET", "/api/v3/allOrders", 20, "SIGNED", _all),
    Action("order.cancel_all", "DELETE", "/api/v3/openOrders", 1, "SIGNED", _cancel_all),
    Action("list.place", "POST", "/api/v3/orderList/oco", 1, "SIGNED", _place_list, order=True),
    Action("list.cancel", "DELETE", "/api/v3/orderList", 1, "SIGNED", _cancel_list),
    Action("list.query", "GET", "/api/v3/orderList", 4, "SIGNED", _query_list),
    Action("list.open", "GET", "/api/v3/openOrderList", 6, "SIGNED", _open_lists),
    Action("account", "GET", "/api/v3/account", 20, "SIGNED", _account),
    Action("trades", "GET", "/api/v3/myTrades", 20, "SIGNED", _trades),
    Action("restrictions", "GET", "/sapi/v1/account/apiRestrictions", 1, "SIGNED", _restrictions),
    Action("ping", "GET", "/api/v3/ping", 1, "NONE", lambda call: {}),
    Action("time", "GET", "/api/v3/time", 1, "NONE", _time),
    Action("info", "GET", "/api/v3/exchangeInfo", 20, "NONE", _info),
    Action("ticker.book", "GET", "/api/v3/ticker/bookTicker", 4, "NONE", markets.each(markets.book_ticker)),
    Action("ticker.price", "GET", "/api/v3/ticker/price", 4, "NONE", markets.each(markets.price)),
)
# Endpoints that a market-data simulator serves itself.
MARKET: tuple[Action, ...] = ()

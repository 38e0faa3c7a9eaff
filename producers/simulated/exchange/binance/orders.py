"""Binance USD-M endpoints of orders and conditional orders."""

from __future__ import annotations

from typing import Any

from producers.simulated.exchange.binance import errors, wire_format
from producers.simulated.exchange.binance.call import BinanceCall as Call
from producers.simulated.exchange.core import conditional
from producers.simulated.exchange.core.orders import BUY, CONDITIONAL_TYPES, SELL, Conditional, NewConditional, NewOrder, Order
from producers.simulated.exchange.core.rules import ZERO
from producers.simulated.exchange.session.call import Action
from producers.simulated.wire.protocol import VenueError

TIFS = ("GTC", "IOC", "FOK", "GTX", "GTD")


# --- orders -------------------------------------------------------------------------------------------------------------
def _place(call: Call) -> Any:
    contract = call.contract()
    side, kind = call.choice("side", (BUY, SELL)), call.choice("type", ("LIMIT", "MARKET", *sorted(CONDITIONAL_TYPES)))
    tif = call.choice("timeInForce", TIFS) if kind == "LIMIT" else "GTC"
    if kind == "MARKET" and call.has("price"):
        raise VenueError(400, -1106, "Parameter 'price' sent when not required.")
    good_till = call.query.whole("goodTillDate", 0) or 0
    if tif == "GTD" and good_till < call.now + 600_000:
        raise VenueError(400, -4207, "Parameter 'goodTillDate' must be greater than the current time plus 600 seconds.")
    request = NewOrder(
        symbol=contract.symbol,
        side=side,
        type=kind,
        quantity=call.number("quantity") or ZERO if kind in CONDITIONAL_TYPES else call.needed("quantity"),
        price=call.needed("price") if kind == "LIMIT" else None,
        tif=tif,
        reduce_only=call.flag("reduceOnly"),
        client_id=call.text("newClientOrderId") if call.has("newClientOrderId") else None,
        position_side=call.choice("positionSide", ("BOTH", "LONG", "SHORT"), "BOTH"),
        good_till=good_till,
    )
    order = call.desk.exchange.place(call.account.name, request, call.now)
    if call.choice("newOrderRespType", ("ACK", "RESULT"), "ACK") == "ACK":
        order.status, order.filled, order.quote, order.updated = "NEW", ZERO, ZERO, order.created
    return wire_format.order_row(order, contract, queried=False)


def _id(call: Call, number: str, text: str) -> tuple[int | None, str | None]:
    found = call.query.whole(number) if call.has(number) else None
    if found is None and not call.has(text):
        raise VenueError(400, -1102, f"Param '{text}' or '{number}' must be sent, but both were empty/null!")
    return found, call.query.text(text) if call.has(text) else None


def _cancel(call: Call) -> Any:
    contract = call.contract()
    order = call.desk.exchange.cancel(call.account.name, contract.symbol, *_id(call, "orderId", "origClientOrderId"), call.now)
    return wire_format.order_row(order, contract, queried=False)


def _query(call: Call) -> Any:
    contract = call.contract()
    order = call.desk.exchange.query(call.account.name, contract.symbol, *_id(call, "orderId", "origClientOrderId"))
    return wire_format.order_row(order, contract, queried=True)


def _query_open(call: Call) -> Any:
    contract = call.contract()
    order = call.desk.exchange.query(call.account.name, contract.symbol, *_id(call, "orderId", "origClientOrderId"))
    if not order.open:
        raise VenueError(400, -2013, "Order does not exist.")
    return wire_format.order_row(order, contract, queried=True)


def _open(call: Call) -> Any:
    return [_row(call, order) for order in call.desk.exchange.open_orders(call.account.name, call.symbol())]


def _all(call: Call) -> Any:
    symbol, own = call.contract().symbol, call.account.name
    orders = [one for one in call.desk.exchange.orders.values() if (one.account, one.symbol) == (own, symbol)]
    start, end = call.query.whole("startTime"), call.query.whole("endTime")
    first = call.query.whole("orderId")
    if first is not None:
        orders = [one for one in orders if one.id >= first]
    orders = [one for one in orders if (start is None or one.created >= start) and (end is None or one.created <= end)]
    limit = call.query.limit(500, 1000)
    return [_row(call, one) for one in (orders[:limit] if first is not None or start is not None else orders[-limit:])]


def _row(call: Call, order: Order) -> dict[str, Any]:
    return wire_format.order_row(order, call.desk.exchange.markets[order.symbol].contract, queried=True)


def _cancel_all(call: Call) -> Any:
    call.desk.exchange.cancel_all(call.account.name, call.contract().symbol, call.now)
    return {"code": 200, "msg": "The operation of cancel all open order is done."}


def _countdown(call: Call) -> Any:
    symbol, ms = call.contract().symbol, call.query.whole("countdownTime")
    if ms is None or ms < 0:
        raise errors.missing("countdownTime")
    call.desk.exchange.countdown(call.account.name, symbol, ms, call.now)
    return {"symbol": symbol, "countdownTime": str(ms)}


# --- conditional orders -------------------------------------------------------------------------------------------------
def _place_algo(call: Call) -> Any:
    call.choice("algoType", ("CONDITIONAL",))
    contract = call.contract()
    close = call.flag("closePosition")
    kind = call.choice("type", tuple(sorted(CONDITIONAL_TYPES)))
    market = kind.endswith("MARKET")
    request = NewConditional(
        symbol=contract.symbol,
        side=call.choice("side", (BUY, SELL)),
        type=kind,
        quantity=call.number("quantity") or ZERO if close else call.needed("quantity"),
        trigger=None if kind == "TRAILING_STOP_MARKET" else call.needed("triggerPrice"),
        price=None if market else call.needed("price"),
        tif=call.choice("timeInForce", TIFS, "GTC"),
        reduce_only=call.flag("reduceOnly"),
        close_position=close,
        working=call.choice("workingType", ("MARK_PRICE", "CONTRACT_PRICE"), "CONTRACT_PRICE"),
        client_id=call.text("clientAlgoId") if call.has("clientAlgoId") else None,
        position_side=call.choice("positionSide", ("BOTH", "LONG", "SHORT"), "BOTH"),
        activation=call.number("activatePrice") or call.number("activationPrice"),
        callback=call.number("callbackRate"),
    )
    made = conditional.wait(call.desk.exchange, call.account.name, request, call.now)
    return wire_format.conditional_row(made, contract, queried=False)


def _cancel_algo(call: Call) -> Any:
    made = conditional.cancel_conditional(call.desk.exchange, call.account.name, *_id(call, "algoId", "clientAlgoId"), call.now)
    return {"algoId": made.id, "clientAlgoId": made.client_id, "code": "200", "msg": "success"}


def _query_algo(call: Call) -> Any:
    return _algo_row(call, conditional.query_conditional(call.desk.exchange, call.account.name, *_id(call, "algoId", "clientAlgoId")))


def _open_algos(call: Call) -> Any:
    return [
        _algo_row(call, one, listed=True) for one in conditional.open_conditionals(call.desk.exchange, call.account.name, call.symbol())
    ]


def _all_algos(call: Call) -> Any:
    symbol, own = call.contract().symbol, call.account.name
    found = [one for one in call.desk.exchange.conditionals.values() if (one.account, one.symbol) == (own, symbol)]
    return [_algo_row(call, one) for one in found[-call.query.limit(500, 1000) :]]


def _algo_row(call: Call, one: Conditional, listed: bool = False) -> dict[str, Any]:
    return wire_format.conditional_row(one, call.desk.exchange.markets[one.symbol].contract, queried=True, listed=listed)


def _cancel_algos(call: Call) -> Any:
    conditional.cancel_all_conditionals(call.desk.exchange, call.account.name, call.contract().symbol, call.now)
    return {"code": 200, "msg": "The operation of cancel all open algo order is done."}


ORDERS: tuple[Action, ...] = (
    Action("order.place", "POST", "/fapi/v1/order", 0, "SIGNED", _place, order=True),
    Action("order.cancel", "DELETE", "/fapi/v1/order", 1, "SIGNED", _cancel),
    Action("order.query", "GET", "/fapi/v1/order", 1, "SIGNED", _query),
    Action("order.query_open", "GET", "/fapi/v1/openOrder", 1, "SIGNED", _query_open),
    Action("order.open", "GET", "/fapi/v1/openOrders", 1, "SIGNED", _open),
    Action("order.all", "GET", "/fapi/v1/allOrders", 5, "SIGNED", _all),
    Action("order.cancel_all", "DELETE", "/fapi/v1/allOpenOrders", 1, "SIGNED", _cancel_all),
    Action("order.countdown", "POST", "/fapi/v1/countdownCancelAll", 10, "SIGNED", _countdown),
    Action("algo.place", "POST", "/fapi/v1/algoOrder", 0, "SIGNED", _place_algo, order=True),
    Action("algo.cancel", "DELETE", "/fapi/v1/algoOrder", 1, "SIGNED", _cancel_algo),
    Action("algo.query", "GET", "/fapi/v1/algoOrder", 1, "SIGNED", _query_algo),
    Action("algo.open", "GET", "/fapi/v1/openAlgoOrders", 1, "SIGNED", _open_algos),
    Action("algo.all", "GET", "/fapi/v1/allAlgoOrders", 5, "SIGNED", _all_algos),
    Action("algo.cancel_all", "DELETE", "/fapi/v1/algoOpenOrders", 1, "SIGNED", _cancel_algos),
)

"""Bybit v5 endpoints for trading linear perpetuals. No sockets."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from producers.simulated.exchange.binance.call import MOST_DIGITS, NUMBER
from producers.simulated.exchange.bybit import wire_format
from producers.simulated.exchange.core import conditional
from producers.simulated.exchange.core.orders import BUY, SELL, Conditional, NewConditional, NewOrder, Order
from producers.simulated.exchange.core.rules import ZERO, Reason, Refusal
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.wire.protocol import VenueError

CODES: dict[Reason, tuple[int, str]] = {
    Reason.UNKNOWN_SYMBOL: (10001, "params error: symbol invalid"),
    Reason.NOT_TRADING: (110074, "This contract is not live"),
    Reason.QUANTITY_NOT_POSITIVE: (10001, "Qty invalid"),
    Reason.QUANTITY_TOO_SMALL: (10001, "The number of contracts exceeds minimum limit allowed"),
    Reason.QUANTITY_TOO_LARGE: (10001, "The number of contracts exceeds maximum limit allowed"),
    Reason.QUANTITY_STEP: (10001, "Qty invalid"),
    Reason.PRECISION: (10001, "params error: {} precision"),
    Reason.PRICE_NOT_POSITIVE: (10001, "params error: {} invalid"),
    Reason.PRICE_STEP: (10001, "params error: price is not a multiple of {}"),
    Reason.MIN_NOTIONAL: (110094, "Order does not meet minimum order value {}"),
    Reason.CLIENT_ID_FORM: (10001, "params error: orderLinkId invalid"),
    Reason.CLIENT_ID_TAKEN: (110072, "OrderLinkedID is duplicate"),
    Reason.POSITION_SIDE: (10001, "position idx not match position mode"),
    Reason.REDUCE_ONLY: (110017, "current position is zero, cannot fix reduce-only order qty"),
    Reason.MARGIN: (110007, "ab not enough for new order"),
    Reason.TOO_MANY_ORDERS: (110020, "Not allowed to have more than 500 active orders"),
    Reason.TOO_MANY_CONDITIONAL: (110009, "The number of stop orders exceeds the maximum allowable limit"),
    Reason.UNKNOWN_ORDER: (110001, "order not exists or too late to cancel"),
    Reason.ORDER_NOT_FOUND: (110001, "order not exists or too late to cancel"),
    Reason.LEVERAGE: (10001, "invalid leverage"),
    Reason.LEVERAGE_POSITION: (110090, "Order placement failed as your position may exceed the max limit"),
    Reason.MARGIN_MODE_SAME: (110026, "Cross/isolated margin mode is not modified"),
    Reason.MARGIN_MODE_ORDERS: (3400045, "Set margin mode failed"),
    Reason.MARGIN_MODE_POSITION: (3400045, "Set margin mode failed"),
    **dict.fromkeys(
        (Reason.PRICE_ABOVE_BAND, Reason.PRICE_BELOW_BAND, Reason.PRICE_TOO_LARGE, Reason.PRICE_TOO_SMALL, Reason.COUNTERPARTY_BAND),
        (110003, "Order price exceeds the allowable range."),
    ),
}
# The venue accepts these orders, and cancels them at the matching.
CANCELLED = {Reason.POST_ONLY: "EC_PostOnlyWillTakeLiquidity", Reason.FILL_OR_KILL: "EC_NoEnoughQtyToFill"}
TIFS = {"GTC": "GTC", "IOC": "IOC", "FOK": "FOK", "PostOnly": "GTX"}
WEEK_MS = 7 * 86_400_000


def wrong(name: str) -> VenueError:
    """Return the error for an unreadable parameter."""
    return VenueError(200, 10001, f"params error: {name} invalid")


def verdict(action: Action, call: Call) -> Any:
    """Execute a call, and wrap its result. Raises VenueError."""
    try:
        result = action.answer(call)
    except Refusal as refusal:
        if refusal.reason is Reason.WOULD_TRIGGER:
            rising = _text(call, "side") == "Buy"
            words = ("Rising", "<=") if rising else ("Falling", ">=")
            raise VenueError(
                200, 110092 if rising else 110093, f"expect {words[0]}, but trigger_price[XXXXX] {words[1]} current[XXXXX]??LastPrice"
            ) from refusal
        code, text = CODES.get(refusal.reason, (10001, f"params error: {refusal}"))
        raise VenueError(200, code, text.format(refusal.detail)) from refusal
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": call.now}


def _text(call: Call, name: str) -> str:
    if not call.has(name):
        raise wrong(name)
    return call.query.text(name)


def _number(call: Call, name: str) -> Decimal:
    text = _text(call, name)
    if len(text) > MOST_DIGITS or not NUMBER.match(text):
        raise wrong(name)
    return Decimal(text)


def _linear(call: Call) -> None:
    if _text(call, "category") != "linear":
        raise VenueError(200, 10001, "params error: Category is invalid")


def _symbol(call: Call) -> str:
    _linear(call)
    return call.desk.exchange.market(_text(call, "symbol")).contract.symbol


def _flag(call: Call, name: str) -> bool:
    return call.has(name) and call.query.text(name).lower() == "true"


def _create(call: Call) -> Any:
    symbol, exchange = _symbol(call), call.desk.exchange
    side = {"Buy": BUY, "Sell": SELL}.get(_text(call, "side"))
    kind = {"Market": "MARKET", "Limit": "LIMIT"}.get(_text(call, "orderType"))
    if side is None or kind is None:
        raise wrong("side" if side is None else "orderType")
    name = call.query.text("orderLinkId") if call.has("orderLinkId") else None
    if name is not None and exchange.knows(call.account.name, symbol, name):
        raise Refusal(Reason.CLIENT_ID_TAKEN)
    tif = TIFS.get(call.query.text("timeInForce")) if call.has("timeInForce") else "GTC"
    if tif is None:
        raise wrong("timeInForce")
    if call.has("positionIdx") and call.query.text("positionIdx") != "0":
        raise Refusal(Reason.POSITION_SIDE)
    quantity, price = _number(call, "qty"), _number(call, "price") if kind == "LIMIT" else None
    if call.has("triggerPrice"):
        rising = _text(call, "triggerDirection") == "1"
        stop = "STOP" if rising == (side == BUY) else "TAKE_PROFIT"
        waiting = NewConditional(
            symbol=symbol,
            side=side,
            type=f"{stop}_MARKET" if kind == "MARKET" else stop,
            quantity=quantity,
            trigger=_number(call, "triggerPrice"),
            price=price,
            tif=tif,
            reduce_only=_flag(call, "reduceOnly"),
            working="MARK_PRICE" if call.has("triggerBy") and call.query.text("triggerBy") == "MarkPrice" else "CONTRACT_PRICE",
            client_id=name,
        )
        made = conditional.wait(exchange, call.account.name, waiting, call.now)
        return {"orderId": wire_format.uid(made.id), "orderLinkId": made.client_id if name else ""}
    request = NewOrder(symbol, side, kind, quantity, price, tif if kind == "LIMIT" else "GTC", _flag(call, "reduceOnly"), name)
    try:
        order = exchange.place(call.account.name, request, call.now)
    except Refusal as refusal:
        if refusal.reason not in CANCELLED:
            raise
        order = exchange.stillborn(call.account.name, request, CANCELLED[refusal.reason], call.now)
    return {"orderId": wire_format.uid(order.id), "orderLinkId": name or ""}


def _found(call: Call, symbol: str | None) -> list[Order | Conditional]:
    """Return the requested orders and conditional orders of the account, newest first. A triggered one appears once."""
    exchange, own = call.desk.exchange, call.account.name
    rows: list[Order | Conditional] = [one for one in exchange.orders.values() if one.account == own]
    rows += [one for one in exchange.conditionals.values() if one.account == own and one.order is None]
    wanted = _uid(call)
    name = call.query.text("orderLinkId") if call.has("orderLinkId") else None
    chosen = [
        one
        for one in rows
        if symbol in (None, one.symbol)
        and (wanted is None or wanted == ((one.algo or one.id) if isinstance(one, Order) else one.id))
        and (name is None or one.client_id == name)
    ]
    return sorted(chosen, key=lambda one: (one.created, one.id), reverse=True)


def _uid(call: Call) -> int | None:
    if not call.has("orderId"):
        return None
    try:
        return UUID(call.query.text("orderId")).int
    except ValueError:
        raise wrong("orderId") from None


def _cancel(call: Call) -> Any:
    symbol = _symbol(call)
    if not call.has("orderId") and not call.has("orderLinkId"):
        raise wrong("orderId or orderLinkId")
    for one in _found(call, symbol):
        if one.open:
            if isinstance(one, Order):
                call.desk.exchange.cancel(call.account.name, symbol, one.id, None, call.now)
            else:
                conditional.cancel_conditional(call.desk.exchange, call.account.name, one.id, None, call.now)
            return {"orderId": wire_format.any_row(call.desk.exchange, one)["orderId"], "orderLinkId": one.client_id}
    raise Refusal(Reason.UNKNOWN_ORDER)


def _cancel_all(call: Call) -> Any:
    _linear(call)
    symbol = _symbol(call) if call.has("symbol") else None
    if symbol is None and not call.has("settleCoin"):
        raise wrong("symbol")
    gone = [one for one in _found(call, symbol) if one.open]
    for name in {one.symbol for one in gone}:
        call.desk.exchange.cancel_all(call.account.name, name, call.now)
        conditional.cancel_all_conditionals(call.desk.exchange, call.account.name, name, call.now)
    rows = [wire_format.any_row(call.desk.exchange, one) for one in gone]
    return {"list": [{"orderId": row["orderId"], "orderLinkId": row["orderLinkId"]} for row in rows], "success": "1"}


def _page(call: Call, rows: list[dict[str, Any]], default: int, most: int) -> dict[str, Any]:
    """Return a page of rows. The cursor is the index of the next row."""
    limit, begin = call.query.limit(default, most), call.query.whole("cursor", 0) or 0
    following = str(begin + limit) if begin + limit < len(rows) else ""
    return {"list": rows[begin : begin + limit], "nextPageCursor": following, "category": "linear"}


def _listed(call: Call) -> str | None:
    """Return the requested symbol of a list; None with a settle coin. Raises VenueError without either."""
    _linear(call)
    if call.has("symbol"):
        return _symbol(call)
    if not call.has("settleCoin") and not call.has("baseCoin"):
        raise VenueError(200, 10001, "params error: Missing some parameters that must be filled in, symbol, baseCoin or settleCoin")
    return None


def _realtime(call: Call) -> Any:
    orders = _found(call, _listed(call))
    named = call.has("orderId") or call.has("orderLinkId")
    return _page(call, [wire_format.any_row(call.desk.exchange, one) for one in orders if one.open or named], 20, 50)


def _history(call: Call) -> Any:
    _linear(call)
    orders = _found(call, _symbol(call) if call.has("symbol") else None)
    return _page(call, [wire_format.any_row(call.desk.exchange, one) for one in orders if not one.open], 20, 50)


def _positions(call: Call) -> Any:
    symbol, exchange, owner = _listed(call), call.desk.exchange, call.account
    names = [symbol] if symbol is not None else [one.symbol for one in owner.held()]
    return _page(call, [wire_format.position_row(exchange, owner, name) for name in names], 20, 200)


def _executions(call: Call) -> Any:
    _linear(call)
    symbol = _symbol(call) if call.has("symbol") else None
    start, end = call.query.whole("startTime"), call.query.whole("endTime")
    if start is not None and end is not None and end - start > WEEK_MS:
        raise VenueError(200, 10001, "The time range between startTime and endTime must not exceed 7 days")
    begin = start if start is not None else (end or call.now) - WEEK_MS
    until = end if end is not None else begin + WEEK_MS
    fills = [one for one in call.account.fills if symbol in (None, one.symbol) and begin <= one.time <= until]
    return _page(call, [wire_format.execution_row(call.desk.exchange, one) for one in reversed(fills)], 50, 100)


def _wallet(call: Call) -> Any:
    return {"list": [wire_format.wallet_row(call.desk.exchange, call.account)]}


def _log(call: Call) -> Any:
    start, end = call.query.whole("startTime"), call.query.whole("endTime")
    rows = [
        wire_format.log_row(one, call.account.asset)
        for one in reversed(call.account.ledger)
        if (start is None or one.time >= start) and (end is None or one.time <= end)
    ]
    kind = call.query.text("type") if call.has("type") else None
    return _page(call, [row for row in rows if kind in (None, row["type"])], 20, 50)


def _key(call: Call) -> Any:
    key = call.key
    if key is None:
        raise AssertionError("signed")
    return {
        "id": "1",
        "note": "simulated",
        "apiKey": key.key,
        "readOnly": 0 if key.trade else 1,
        "permissions": {"ContractTrade": ["Order", "Position"], "Wallet": ["Withdraw"] if key.withdraw else [], "Spot": [], "Options": []},
        "ips": ["127.0.0.1"] if key.ip_restricted else ["*"],
        "uta": 1,
    }


def _leverage(call: Call) -> Any:
    symbol = _symbol(call)
    buy, sell = _number(call, "buyLeverage"), _number(call, "sellLeverage")
    if buy != sell or buy != int(buy):
        raise wrong("buyLeverage")
    if call.account.position(symbol).leverage == int(buy):
        raise VenueError(200, 110043, "Set leverage not modified")
    call.desk.exchange.set_leverage(call.account.name, symbol, int(buy), call.now)
    return {}


def _margin_mode(call: Call) -> Any:
    wanted = _text(call, "setMarginMode")
    if wanted not in ("ISOLATED_MARGIN", "REGULAR_MARGIN"):
        raise wrong("setMarginMode")
    isolated, owner, exchange = wanted == "ISOLATED_MARGIN", call.account, call.desk.exchange
    if owner.held() or exchange.open_orders(owner.name):
        raise Refusal(Reason.MARGIN_MODE_POSITION)
    for name in exchange.markets:
        owner.position(name).isolated = isolated
    return {"reasons": []}


def _time(call: Call) -> Any:
    return {"timeSecond": str(call.now // 1000), "timeNano": str(call.now * 1_000_000)}


def _instruments(call: Call) -> Any:
    _linear(call)
    markets = call.desk.exchange.markets
    names = [_symbol(call)] if call.has("symbol") else list(markets)
    return _page(call, [wire_format.contract_row(markets[name]) for name in names], 500, 1000)


def _tickers(call: Call) -> Any:
    _linear(call)
    markets = call.desk.exchange.markets
    rows = []
    for name in [_symbol(call)] if call.has("symbol") else list(markets):
        market = markets[name]
        bid, ask = (side[0] if side else (ZERO, ZERO) for side in (market.bids, market.asks))
        rows.append(
            {
                "symbol": name,
                "lastPrice": wire_format.text(market.last),
                "markPrice": wire_format.text(market.reference),
                "indexPrice": wire_format.text(market.index or market.reference),
                "bid1Price": wire_format.text(bid[0]),
                "bid1Size": wire_format.text(bid[1]),
                "ask1Price": wire_format.text(ask[0]),
                "ask1Size": wire_format.text(ask[1]),
                "fundingRate": wire_format.text(market.funding_rate),
                "nextFundingTime": str(market.next_funding),
            }
        )
    return {"category": "linear", "list": rows}


def _action(name: str, method: str, path: str, answer: Callable[[Call], Any], *, order: bool = False) -> Action:
    return Action(name, method, path, 1, "NONE" if path.startswith("/v5/market") else "SIGNED", answer, order)


TRADING: tuple[Action, ...] = (
    _action("order.place", "POST", "/v5/order/create", _create, order=True),
    _action("order.cancel", "POST", "/v5/order/cancel", _cancel),
    _action("order.cancel_all", "POST", "/v5/order/cancel-all", _cancel_all),
    _action("order.open", "GET", "/v5/order/realtime", _realtime),
    _action("order.all", "GET", "/v5/order/history", _history),
    _action("positions", "GET", "/v5/position/list", _positions),
    _action("trades", "GET", "/v5/execution/list", _executions),
    _action("balance", "GET", "/v5/account/wallet-balance", _wallet),
    _action("income", "GET", "/v5/account/transaction-log", _log),
    _action("restrictions", "GET", "/v5/user/query-api", _key),
    _action("leverage.set", "POST", "/v5/position/set-leverage", _leverage),
    _action("margin.set", "POST", "/v5/account/set-margin-mode", _margin_mode),
    _action("time", "GET", "/v5/market/time", _time),
    _action("info", "GET", "/v5/market/instruments-info", _instruments),
)
MARKET: tuple[Action, ...] = (_action("ticker", "GET", "/v5/market/tickers", _tickers),)

"""Binance USD-M endpoints of the account: positions, money, settings, permissions and listen keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from producers.simulated.exchange.binance import errors, wire_format
from producers.simulated.exchange.binance.call import BinanceCall as Call
from producers.simulated.exchange.session.call import Action
from producers.simulated.wire.protocol import VenueError

WEEK_MS = 7 * 86_400_000
DONE = {"code": 200, "msg": "success"}


def _positions(version: int) -> Callable[[Call], Any]:
    def answer(call: Call) -> Any:
        exchange, owner, symbol = call.desk.exchange, call.account, call.symbol()
        names = [symbol] if symbol is not None else list(exchange.markets)
        if version == 3:
            names = [name for name in names if owner.position(name).quantity or exchange.open_orders_of(owner.name, name)]
        return [wire_format.position_row(exchange, owner, name, version) for name in names]

    return answer


def _account(version: int) -> Callable[[Call], Any]:
    def answer(call: Call) -> Any:
        if version == 2:
            for name in call.desk.exchange.markets:
                call.account.position(name)
        return wire_format.account_row(call.desk.exchange, call.account, version, bool(call.key and call.key.trade))

    return answer


def _balance(call: Call) -> Any:
    return [wire_format.balance_row(call.desk.exchange, call.account)]


def _account_config(call: Call) -> Any:
    return wire_format.config_row(call.account, bool(call.key and call.key.trade))


def _symbol_config(call: Call) -> Any:
    exchange, owner, symbol = call.desk.exchange, call.account, call.symbol()
    rows = []
    for name in [symbol] if symbol is not None else list(exchange.markets):
        position = owner.position(name)
        row = wire_format.position_row(exchange, owner, name, 2)
        rows.append(
            {
                "symbol": name,
                "marginType": "ISOLATED" if position.isolated else "CROSSED",
                "isAutoAddMargin": False,
                "leverage": position.leverage,
                "maxNotionalValue": row["maxNotionalValue"],
            }
        )
    return rows


def _user_trades(call: Call) -> Any:
    contract, own = call.contract(), call.account
    start, end = call.query.whole("startTime"), call.query.whole("endTime")
    first, order = call.query.whole("fromId"), call.query.whole("orderId")
    if first is not None and (start is not None or end is not None):
        raise VenueError(400, -1128, "Combination of optional parameters invalid.")
    if start is not None and end is not None and end - start > WEEK_MS:
        raise VenueError(400, -4165, "Maximum time interval is 7 days.")
    fills = [one for one in own.fills if one.symbol == contract.symbol and (order is None or one.order_id == order)]
    if first is not None:
        fills = [one for one in fills if one.trade_id >= first]
    elif start is not None:
        until = end if end is not None else start + WEEK_MS
        fills = [one for one in fills if start <= one.time <= until]
    elif end is not None:
        fills = [one for one in fills if end - WEEK_MS <= one.time <= end]
    limit = call.query.limit(500, 1000)
    return [wire_format.trade_row(one, contract) for one in (fills[:limit] if first is not None or start is not None else fills[-limit:])]


def _income(call: Call) -> Any:
    own, symbol = call.account, call.symbol()
    kind = call.query.text("incomeType") if call.has("incomeType") else None
    start, end = call.query.whole("startTime"), call.query.whole("endTime")
    rows = [
        one
        for one in own.ledger
        if symbol in (None, one.symbol)
        and kind in (None, one.type)
        and (start is None or one.time >= start)
        and (end is None or one.time <= end)
    ]
    limit, page = call.query.limit(100, 1000), max(1, call.query.whole("page", 1) or 1)
    chosen = rows[(page - 1) * limit : page * limit] if start is not None or call.has("page") else rows[-limit:]
    return [wire_format.income_row(one, own.asset) for one in chosen]


def _commission(call: Call) -> Any:
    return {
        "symbol": call.contract().symbol,
        "makerCommissionRate": str(call.account.maker),
        "takerCommissionRate": str(call.account.taker),
    }


def _brackets(call: Call) -> Any:
    exchange, symbol = call.desk.exchange, call.symbol()
    rows = []
    for name in [symbol] if symbol is not None else list(exchange.markets):
        table = [
            {
                "bracket": number,
                "initialLeverage": one.leverage,
                "notionalCap": float(one.cap),
                "notionalFloor": float(one.floor),
                "maintMarginRatio": float(one.rate),
                "cum": float(one.deduction),
            }
            for number, one in enumerate(exchange.markets[name].contract.brackets, 1)
        ]
        rows.append({"symbol": name, "brackets": table})
    return rows


def _leverage(call: Call) -> Any:
    symbol, wanted = call.contract().symbol, call.query.whole("leverage")
    if wanted is None:
        raise errors.missing("leverage")
    largest = call.desk.exchange.set_leverage(call.account.name, symbol, wanted, call.now)
    return {"leverage": wanted, "maxNotionalValue": wire_format.text(largest), "symbol": symbol}


def _margin_type(call: Call) -> Any:
    wanted = call.choice("marginType", ("ISOLATED", "CROSSED"))
    call.desk.exchange.set_margin_mode(call.account.name, call.contract().symbol, wanted == "ISOLATED", call.now)
    return DONE


def _dual(call: Call) -> Any:
    return {"dualSidePosition": call.account.dual}


def _set_dual(call: Call) -> Any:
    call.text("dualSidePosition")
    call.desk.exchange.set_dual(call.account.name, call.flag("dualSidePosition"))
    return DONE


def _multi(call: Call) -> Any:
    return {"multiAssetsMargin": False}


def restrictions(call: Call) -> Any:
    """Return the permissions of the key."""
    key = call.key
    if key is None:
        raise AssertionError("signed")
    return {
        "ipRestrict": key.ip_restricted,
        "createTime": 1_698_645_219_000,
        "enableReading": True,
        "enableWithdrawals": key.withdraw,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": key.trade,
        "permitsUniversalTransfer": key.transfer,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
        "enableSpotAndMarginTrading": False,
        "enablePortfolioMarginTrading": False,
    }


def _trading_status(call: Call) -> Any:
    return {"indicators": {}, "updateTime": call.now}


def _listen(call: Call) -> Any:
    return {"listenKey": call.desk.start_listening(call.account.name)}


def _keep(call: Call) -> Any:
    key = call.desk.keep_listening(call.account.name)
    if key is None:
        raise VenueError(400, -1125, "This listenKey does not exist.")
    return {"listenKey": key}


def _unlisten(call: Call) -> Any:
    call.desk.stop_listening(call.account.name)
    return {}


ACCOUNT: tuple[Action, ...] = (
    Action("positions", "GET", "/fapi/v3/positionRisk", 5, "SIGNED", _positions(3)),
    Action("positions", "GET", "/fapi/v2/positionRisk", 5, "SIGNED", _positions(2)),
    Action("account", "GET", "/fapi/v3/account", 5, "SIGNED", _account(3)),
    Action("account", "GET", "/fapi/v2/account", 5, "SIGNED", _account(2)),
    Action("balance", "GET", "/fapi/v3/balance", 5, "SIGNED", _balance),
    Action("balance", "GET", "/fapi/v2/balance", 5, "SIGNED", _balance),
    Action("account.config", "GET", "/fapi/v1/accountConfig", 5, "SIGNED", _account_config),
    Action("symbol.config", "GET", "/fapi/v1/symbolConfig", 5, "SIGNED", _symbol_config),
    Action("trades", "GET", "/fapi/v1/userTrades", 5, "SIGNED", _user_trades),
    Action("income", "GET", "/fapi/v1/income", 30, "SIGNED", _income),
    Action("commission", "GET", "/fapi/v1/commissionRate", 20, "SIGNED", _commission),
    Action("brackets", "GET", "/fapi/v1/leverageBracket", 1, "SIGNED", _brackets),
    Action("leverage.set", "POST", "/fapi/v1/leverage", 1, "SIGNED", _leverage),
    Action("margin.set", "POST", "/fapi/v1/marginType", 1, "SIGNED", _margin_type),
    Action("dual", "GET", "/fapi/v1/positionSide/dual", 30, "SIGNED", _dual),
    Action("dual.set", "POST", "/fapi/v1/positionSide/dual", 1, "SIGNED", _set_dual),
    Action("multi", "GET", "/fapi/v1/multiAssetsMargin", 30, "SIGNED", _multi),
    Action("restrictions", "GET", "/sapi/v1/account/apiRestrictions", 1, "SIGNED", restrictions),
    Action("trading_status", "GET", "/fapi/v1/apiTradingStatus", 1, "SIGNED", _trading_status),
    Action("listen.start", "POST", "/fapi/v1/listenKey", 1, "KEY", _listen),
    Action("listen.keep", "PUT", "/fapi/v1/listenKey", 1, "KEY", _keep),
    Action("listen.stop", "DELETE", "/fapi/v1/listenKey", 1, "KEY", _unlisten),
)

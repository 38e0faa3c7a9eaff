"""Orders, accounts and events of the core in Binance USD-M's format. Field names: its documents and its own connector's models."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from producers.simulated.exchange.core.account import Account, margin
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.funds import available
from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import (
    AccountChanged,
    Conditional,
    ConditionalChanged,
    Event,
    Fill,
    Income,
    LeverageChanged,
    MarginCalled,
    Order,
    OrderChanged,
    PositionView,
)
from producers.simulated.exchange.core.risk import liquidation_price
from producers.simulated.exchange.core.rules import ZERO, Contract, text


def fixed(number: Decimal, decimals: int) -> str:
    """Return a number with a fixed number of decimals."""
    return f"{number:.{decimals}f}"


def money(number: Decimal) -> str:
    """Return an amount of money. Decimals beyond 8 are shown, not truncated."""
    return fixed(number, 8) if number == round(number, 8) else text(number)


def _average(order: Order, contract: Contract) -> str:
    return fixed(order.average, max(5, contract.price_decimals + 2))


# --- REST ---------------------------------------------------------------------------------------------------------------
def order_row(order: Order, contract: Contract, *, queried: bool) -> dict[str, Any]:
    """Return an order as in responses. ``queried``: with the time of its creation."""
    row = {
        "orderId": order.id,
        "symbol": order.symbol,
        "status": order.status,
        "clientOrderId": order.client_id,
        "price": fixed(order.price, contract.price_decimals),
        "avgPrice": _average(order, contract),
        "origQty": fixed(order.quantity, contract.quantity_decimals),
        "executedQty": fixed(order.filled, contract.quantity_decimals),
        "cumQuote": text(order.quote),
        "timeInForce": order.tif,
        "type": order.type,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": order.side,
        "positionSide": "BOTH",
        "stopPrice": fixed(order.trigger, contract.price_decimals),
        "workingType": order.working,
        "priceProtect": False,
        "origType": order.original,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "goodTillDate": order.good_till,
        "updateTime": order.updated,
    }
    if queried:
        return {**row, "time": order.created}
    # Since 2026 the documented responses to placing and cancelling lack price and value of the fills. The stream has them.
    return {name: value for name, value in row.items() if name not in ("avgPrice", "cumQuote")} | {"cumQty": row["executedQty"]}


def conditional_row(one: Conditional, contract: Contract, *, queried: bool, listed: bool = False) -> dict[str, Any]:
    """Return a conditional order as in responses. ``queried``: with the order that it became; ``listed``: as a row of the open ones."""
    row: dict[str, Any] = {
        "algoId": one.id,
        "clientAlgoId": one.client_id,
        "algoType": "CONDITIONAL",
        "orderType": one.type,
        "symbol": one.symbol,
        "side": one.side,
        "positionSide": "BOTH",
        "timeInForce": one.tif,
        "quantity": fixed(one.quantity, contract.quantity_decimals),
        "algoStatus": one.status,
        "triggerPrice": text(one.trigger),
        "price": text(one.price),
        "icebergQuantity": None,
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "workingType": one.working,
        "priceMatch": "NONE",
        "closePosition": one.close_position,
        "priceProtect": False,
        "reduceOnly": one.reduce_only,
        "createTime": one.created,
        "updateTime": one.updated,
        "triggerTime": one.triggered,
        "goodTillDate": 0,
    }
    if not queried:
        return {**row, "activatePrice": _optional(one.activation), "callbackRate": _optional(one.callback)}
    order = one.order
    row |= {
        "actualOrderId": str(order.id) if order is not None else "",
        "actualPrice": _average(order, contract) if order is not None else "0.00000",
        "tpOrderType": "",
    }
    if listed:
        return row | dict.fromkeys(("tpTriggerPrice", "tpPrice", "slTriggerPrice", "slPrice"), "0.000")
    return {
        **row,
        "actualQty": fixed(order.filled, contract.quantity_decimals) if order is not None else "0",
        "actualType": order.type if order is not None else "",
    }


def _optional(number: Decimal | None) -> str:
    return "" if number is None else text(number)


def trade_row(fill: Fill, contract: Contract) -> dict[str, Any]:
    """Return a row of userTrades."""
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "side": fill.side,
        "price": fixed(fill.price, contract.price_decimals),
        "qty": fixed(fill.quantity, contract.quantity_decimals),
        "realizedPnl": money(fill.realised),
        "marginAsset": contract.quote,
        "quoteQty": text(fill.price * fill.quantity),
        "commission": money(fill.fee),
        "commissionAsset": contract.quote,
        "time": fill.time,
        "positionSide": "BOTH",
        "buyer": fill.side == "BUY",
        "maker": fill.maker,
    }


def income_row(row: Income, asset: str) -> dict[str, Any]:
    """Return a row of income."""
    return {
        "symbol": row.symbol,
        "incomeType": row.type,
        "income": money(row.amount),
        "asset": asset,
        "time": row.time,
        "info": row.info or row.type,
        "tranId": row.id,
        "tradeId": "" if row.trade_id is None else str(row.trade_id),
    }


def position_row(exchange: Exchange, owner: Account, symbol: str, version: int) -> dict[str, Any]:
    """Return a row of positionRisk."""
    position, market = owner.position(symbol), exchange.markets[symbol]
    contract, mark = market.contract, market.reference
    orders = list(exchange.open_orders_of(owner.name, symbol).values())
    one = margin(position, contract, mark, orders)
    liquidation = liquidation_price(exchange, owner, symbol)
    row: dict[str, Any] = {
        "symbol": symbol,
        "positionSide": "BOTH",
        "positionAmt": fixed(position.quantity, contract.quantity_decimals),
        "entryPrice": _exact(position.entry),
        "breakEvenPrice": _exact(position.entry),
        "markPrice": fixed(mark, 8),
        "unRealizedProfit": fixed(one.unrealised, 8),
        "liquidationPrice": _exact(liquidation) if liquidation is not None else "0",
        "isolatedMargin": fixed(position.isolated_wallet + one.unrealised, 8) if position.isolated and position.quantity else "0.00000000",
        "notional": text(position.quantity * mark),
        "isolatedWallet": money(position.isolated_wallet),
        "updateTime": position.updated,
    }
    if version == 2:
        largest = max(bracket.cap for bracket in contract.brackets if bracket.leverage >= position.leverage)
        return {
            **row,
            "maxNotionalValue": text(largest),
            "marginType": "isolated" if position.isolated else "cross",
            "isAutoAddMargin": "false",
            "leverage": str(position.leverage),
        }
    return {
        **row,
        "marginAsset": contract.quote,
        "initialMargin": fixed(one.initial + one.order_initial, 8),
        "maintMargin": fixed(one.maintenance, 8),
        "positionInitialMargin": fixed(one.initial, 8),
        "openOrderInitialMargin": fixed(one.order_initial, 8),
        "adl": 1 if position.quantity else 0,
        "bidNotional": "0",
        "askNotional": "0",
    }


def _exact(number: Decimal) -> str:
    return text(round(number, 12))


def account_row(exchange: Exchange, owner: Account, version: int, trade: bool) -> dict[str, Any]:
    """Return the response of account."""
    unrealised = initial = orders_initial = maintenance = cross_unrealised = ZERO
    positions = []
    for symbol, position in owner.positions.items():
        market = exchange.markets[symbol]
        orders = list(exchange.open_orders_of(owner.name, symbol).values())
        one = margin(position, market.contract, market.reference, orders)
        unrealised += one.unrealised
        cross_unrealised += ZERO if position.isolated else one.unrealised
        initial += one.initial
        orders_initial += one.order_initial
        maintenance += one.maintenance
        if position.quantity or orders or version == 2:
            positions.append(_account_position(exchange, owner, symbol, version))
    free = available(exchange, owner)
    asset = {
        "asset": owner.asset,
        "walletBalance": money(owner.wallet),
        "unrealizedProfit": fixed(unrealised, 8),
        "marginBalance": fixed(owner.wallet + unrealised, 8),
        "maintMargin": fixed(maintenance, 8),
        "initialMargin": fixed(initial + orders_initial, 8),
        "positionInitialMargin": fixed(initial, 8),
        "openOrderInitialMargin": fixed(orders_initial, 8),
        "crossWalletBalance": money(owner.cross_wallet),
        "crossUnPnl": fixed(cross_unrealised, 8),
        "availableBalance": fixed(free, 8),
        "maxWithdrawAmount": fixed(max(ZERO, min(free, owner.cross_wallet)), 8),
        "updateTime": owner.ledger[-1].time if owner.ledger else 0,
    }
    totals = {
        "totalInitialMargin": asset["initialMargin"],
        "totalMaintMargin": asset["maintMargin"],
        "totalWalletBalance": asset["walletBalance"],
        "totalUnrealizedProfit": asset["unrealizedProfit"],
        "totalMarginBalance": asset["marginBalance"],
        "totalPositionInitialMargin": asset["positionInitialMargin"],
        "totalOpenOrderInitialMargin": asset["openOrderInitialMargin"],
        "totalCrossWalletBalance": asset["crossWalletBalance"],
        "totalCrossUnPnl": asset["crossUnPnl"],
        "availableBalance": asset["availableBalance"],
        "maxWithdrawAmount": asset["maxWithdrawAmount"],
    }
    if version == 2:
        asset["marginAvailable"] = True
        totals = {**config_row(owner, trade), **totals}
        del totals["dualSidePosition"]
    return {**totals, "assets": [asset], "positions": positions}


def config_row(owner: Account, trade: bool) -> dict[str, Any]:
    """Return the response of accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": trade,
        "canDeposit": True,
        "canWithdraw": True,
        "dualSidePosition": owner.dual,
        "updateTime": 0,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
    }


def _account_position(exchange: Exchange, owner: Account, symbol: str, version: int) -> dict[str, Any]:
    row, position = position_row(exchange, owner, symbol, 3), owner.position(symbol)
    names = ["symbol", "positionSide", "positionAmt", "isolatedMargin", "notional", "isolatedWallet", "initialMargin", "maintMargin"]
    names += ["updateTime"] if version == 3 else ["updateTime", "entryPrice", "positionInitialMargin", "openOrderInitialMargin"]
    found = {name: row[name] for name in names} | {"unrealizedProfit": row["unRealizedProfit"]}
    return found if version == 3 else found | {"leverage": str(position.leverage), "isolated": position.isolated}


def balance_row(exchange: Exchange, owner: Account) -> dict[str, Any]:
    """Return the row of balance."""
    asset = account_row(exchange, owner, 3, True)["assets"][0]
    return {
        "accountAlias": owner.name,
        "asset": owner.asset,
        "balance": asset["walletBalance"],
        "crossWalletBalance": asset["crossWalletBalance"],
        "crossUnPnl": asset["crossUnPnl"],
        "availableBalance": asset["availableBalance"],
        "maxWithdrawAmount": asset["maxWithdrawAmount"],
        "marginAvailable": True,
        "updateTime": asset["updateTime"],
    }


def contract_row(market: MarketState) -> dict[str, Any]:
    """Return an instrument of exchangeInfo."""
    one = market.contract
    return {
        "symbol": one.symbol,
        "pair": one.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "TRADING" if market.trading else "SETTLING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": one.base,
        "quoteAsset": one.quote,
        "marginAsset": one.quote,
        "pricePrecision": one.price_decimals,
        "quantityPrecision": one.quantity_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": text(one.liquidation_fee),
        "marketTakeBound": text(one.multiplier_up - 1),
        "maxMoveOrderLimit": 10000,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": text(one.min_price), "maxPrice": text(one.max_price), "tickSize": text(one.tick)},
            {"filterType": "LOT_SIZE", "minQty": text(one.min_quantity), "maxQty": text(one.max_quantity), "stepSize": text(one.lot)},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": text(one.min_quantity),
                "maxQty": text(one.market_max_quantity),
                "stepSize": text(one.market_lot),
            },
            {"filterType": "MAX_NUM_ORDERS", "limit": one.max_orders},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": one.max_conditional},
            {"filterType": "MIN_NOTIONAL", "notional": text(one.min_notional)},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": text(one.multiplier_up),
                "multiplierDown": text(one.multiplier_down),
                "multiplierDecimal": "4",
            },
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }


# --- user stream --------------------------------------------------------------------------------------------------------
def messages(exchange: Exchange, event: Event, now: int) -> list[dict[str, Any]]:
    """Return the user stream's messages for an event, in the venue's order."""
    if isinstance(event, OrderChanged):
        contract = exchange.markets[event.order.symbol].contract
        update = {"e": "ORDER_TRADE_UPDATE", "E": now, "T": event.time, "o": _order_update(event, contract)}
        return [_lite(event, contract, now), update] if event.execution == "TRADE" else [update]
    if isinstance(event, ConditionalChanged):
        contract = exchange.markets[event.conditional.symbol].contract
        return [{"e": "ALGO_UPDATE", "T": event.time, "E": now, "o": _conditional_update(event.conditional, contract)}]
    if isinstance(event, AccountChanged):
        asset = exchange.accounts[event.account].asset
        balance = {"a": asset, "wb": money(event.wallet), "cw": money(event.cross_wallet), "bc": money(event.change)}
        positions = [_position_update(one, asset) for one in event.positions]
        return [{"e": "ACCOUNT_UPDATE", "E": now, "T": event.time, "a": {"m": event.reason, "B": [balance], "P": positions}}]
    if isinstance(event, LeverageChanged):
        return [{"e": "ACCOUNT_CONFIG_UPDATE", "E": now, "T": event.time, "ac": {"s": event.symbol, "l": event.leverage}}]
    return [_margin_call(event, now)] if isinstance(event, MarginCalled) else []


def _order_update(event: OrderChanged, contract: Contract) -> dict[str, Any]:
    order, fill = event.order, event.fill
    row: dict[str, Any] = {
        "s": order.symbol,
        "c": order.client_id,
        "S": order.side,
        "o": "LIQUIDATION" if event.execution == "CALCULATED" else order.type,
        "f": order.tif,
        "q": fixed(order.quantity, contract.quantity_decimals),
        "p": fixed(order.price, contract.price_decimals),
        "ap": _average(order, contract),
        "sp": fixed(order.trigger, contract.price_decimals),
        "x": event.execution,
        "X": order.status,
        "i": order.id,
        "l": "0",
        "z": fixed(order.filled, contract.quantity_decimals),
        "L": "0",
        "T": event.time,
        "t": 0,
        "b": "0",
        "a": "0",
        "m": False,
        "R": order.reduce_only,
        "wt": order.working,
        "ot": order.original,
        "ps": "BOTH",
        "cp": order.close_position,
        "rp": "0",
        "pP": False,
        "si": 0,
        "ss": 0,
        "V": "EXPIRE_MAKER",
        "pm": "NONE",
        "gtd": order.good_till,
        "er": str(order.expired),
    }
    if fill is not None:
        row["l"], row["L"] = fixed(fill.quantity, contract.quantity_decimals), fixed(fill.price, contract.price_decimals)
        row["n"], row["N"] = money(fill.fee), contract.quote
        row["t"], row["m"], row["rp"] = fill.trade_id, fill.maker, money(fill.realised)
    return row


def _lite(event: OrderChanged, contract: Contract, now: int) -> dict[str, Any]:
    order, fill = event.order, event.fill
    if fill is None:
        raise AssertionError("a trade has a fill")
    return {
        "e": "TRADE_LITE",
        "E": now,
        "T": event.time,
        "s": order.symbol,
        "q": fixed(order.quantity, contract.quantity_decimals),
        "p": fixed(order.price, contract.price_decimals),
        "m": fill.maker,
        "c": order.client_id,
        "S": order.side,
        "L": fixed(fill.price, contract.price_decimals),
        "l": fixed(fill.quantity, contract.quantity_decimals),
        "t": fill.trade_id,
        "i": order.id,
    }


def _conditional_update(one: Conditional, contract: Contract) -> dict[str, Any]:
    order = one.order
    row: dict[str, Any] = {
        "caid": one.client_id,
        "aid": one.id,
        "at": "CONDITIONAL",
        "o": one.type,
        "s": one.symbol,
        "S": one.side,
        "ps": "BOTH",
        "f": one.tif,
        "q": fixed(one.quantity, contract.quantity_decimals),
        "X": one.status,
        "ai": str(order.id) if order is not None else "",
        "tp": text(one.trigger),
        "p": text(one.price),
        "V": "EXPIRE_MAKER",
        "wt": one.working,
        "pm": "NONE",
        "cp": one.close_position,
        "pP": False,
        "R": one.reduce_only,
        "tt": one.triggered,
        "gtd": 0,
        "ia": False,
    }
    if order is not None:
        row |= {"ap": _average(order, contract), "aq": fixed(order.filled, contract.quantity_decimals), "act": order.type}
    return {**row, "rm": one.failed} if one.failed else row


def _position_update(one: PositionView, asset: str) -> dict[str, Any]:
    return {
        "s": one.symbol,
        "pa": text(one.quantity),
        "ep": _exact(one.entry),
        "bep": _exact(one.entry),
        "cr": money(one.realised),
        "up": fixed(one.unrealised, 8),
        "mt": "isolated" if one.isolated else "cross",
        "iw": money(one.isolated_wallet),
        "ps": "BOTH",
        "ma": asset,
    }


def _margin_call(event: MarginCalled, now: int) -> dict[str, Any]:
    rows = [
        {
            "s": one.symbol,
            "ps": "BOTH",
            "pa": text(one.quantity),
            "mt": "ISOLATED" if one.isolated else "CROSSED",
            "iw": money(one.isolated_wallet),
            "mp": text(one.mark),
            "up": fixed(one.unrealised, 8),
            "mm": fixed(one.maintenance, 8),
        }
        for one in event.positions
    ]
    return {"e": "MARGIN_CALL", "E": now, "cw": money(event.cross_wallet), "p": rows}

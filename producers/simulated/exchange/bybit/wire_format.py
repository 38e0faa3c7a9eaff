"""Orders, positions and fills of the core in Bybit v5's format. Field names: its documents (Order, Execution, Position, private streams).

A conditional order and its order are one order here, with one id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.funds import available
from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import (
    BUY,
    EXPIRED_IOC,
    EXPIRED_REDUCE_ONLY,
    AccountChanged,
    Conditional,
    ConditionalChanged,
    Event,
    Fill,
    Income,
    Order,
    OrderChanged,
)
from producers.simulated.exchange.core.risk import liquidation_price
from producers.simulated.exchange.core.rules import ZERO, text

SIDES = {"BUY": "Buy", "SELL": "Sell"}
STATUS = {"NEW": "New", "PARTIALLY_FILLED": "PartiallyFilled", "FILLED": "Filled", "CANCELED": "Cancelled", "EXPIRED": "Cancelled"}
WAITING = {"NEW": "Untriggered", "CANCELED": "Deactivated", "EXPIRED": "Deactivated", "TRIGGERING": "Triggered", "REJECTED": "Rejected"}
KINDS = {"ORDER": "Trade", "LIQUIDATION": "BustTrade", "ADL": "AdlTrade", "SETTLEMENT": "Delivery"}
TIFS = {"GTC": "GTC", "IOC": "IOC", "FOK": "FOK", "GTX": "PostOnly"}
TRIGGERS = {"MARK_PRICE": "MarkPrice", "CONTRACT_PRICE": "LastPrice"}


def uid(number: int) -> str:
    """Return an order's id in the venue's format."""
    return str(UUID(int=number))


def order_row(exchange: Exchange, order: Order) -> dict[str, Any]:
    """Return an order. One from a conditional order has that order's id and trigger."""
    conditional = exchange.conditionals.get(order.algo) if order.algo is not None else None
    reason = order.note or {EXPIRED_IOC: "EC_NoImmediateQtyToFill"}.get(order.expired, "EC_NoError")
    cancel = "UNKNOWN"
    if order.status == "CANCELED" and not order.note:
        cancel = "CancelByUser"
    elif order.expired == EXPIRED_REDUCE_ONLY:
        cancel = "CancelByReduceOnly"
    fees = sum((fill.fee for fill in exchange.accounts[order.account].fills if fill.order_id == order.id), ZERO)
    row = _row(order.symbol, order.side, order.client_id, order.quantity, order.price, order.reduce_only, order.created, order.updated)
    return row | {
        "orderId": uid(order.algo or order.id),
        "orderStatus": STATUS[order.status],
        "orderType": "Market" if order.type == "MARKET" else "Limit",
        "timeInForce": "IOC" if order.type == "MARKET" else TIFS.get(order.tif, "GTC"),
        "cancelType": cancel,
        "rejectReason": reason,
        "avgPrice": text(order.average) if order.filled else "",
        "leavesQty": text(order.left if order.open else ZERO),
        "leavesValue": text((order.left if order.open else ZERO) * order.price),
        "cumExecQty": text(order.filled),
        "cumExecValue": text(order.quote),
        "cumExecFee": text(fees),
        **_trigger(conditional),
    }


def conditional_row(one: Conditional) -> dict[str, Any]:
    """Return a conditional order that has not become an order."""
    row = _row(one.symbol, one.side, one.client_id, one.quantity, one.price, one.reduce_only, one.created, one.updated)
    return row | {
        "orderId": uid(one.id),
        "orderStatus": WAITING[one.status],
        "orderType": "Market" if one.type.endswith("MARKET") else "Limit",
        "timeInForce": "IOC" if one.type.endswith("MARKET") else TIFS.get(one.tif, "GTC"),
        "cancelType": "CancelByUser" if one.status == "CANCELED" else "UNKNOWN",
        "rejectReason": "EC_Others" if one.status == "REJECTED" else "EC_NoError",
        "avgPrice": "",
        "leavesQty": text(one.quantity if one.open else ZERO),
        "leavesValue": "0",
        "cumExecQty": "0",
        "cumExecValue": "0",
        "cumExecFee": "0",
        **_trigger(one),
    }


def any_row(exchange: Exchange, one: Order | Conditional) -> dict[str, Any]:
    """Return an order or conditional order in its present state."""
    if isinstance(one, Order):
        return order_row(exchange, one)
    return conditional_row(one) if one.order is None else order_row(exchange, exchange.orders[one.order.id])


def _row(
    symbol: str, side: str, name: str, quantity: Decimal, price: Decimal, reduce_only: bool, created: int, updated: int
) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "orderLinkId": name,
        "blockTradeId": "",
        "price": text(price),
        "qty": text(quantity),
        "side": SIDES[side],
        "isLeverage": "",
        "positionIdx": 0,
        "createType": "CreateByUser",
        "orderIv": "",
        "takeProfit": "",
        "stopLoss": "",
        "tpTriggerBy": "",
        "slTriggerBy": "",
        "tpslMode": "",
        "tpLimitPrice": "",
        "slLimitPrice": "",
        "lastPriceOnCreated": "",
        "reduceOnly": reduce_only,
        "closeOnTrigger": False,
        "smpType": "None",
        "smpGroup": 0,
        "smpOrderId": "",
        "placeType": "",
        "createdTime": str(created),
        "updatedTime": str(updated),
    }


def _trigger(one: Conditional | None) -> dict[str, Any]:
    if one is None:
        return {"stopOrderType": "", "triggerPrice": "", "triggerBy": "", "triggerDirection": 0}
    above = (one.side == BUY) == (one.type in ("STOP", "STOP_MARKET"))
    return {
        "stopOrderType": "Stop",
        "triggerPrice": text(one.trigger),
        "triggerBy": TRIGGERS[one.working],
        "triggerDirection": 1 if above else 2,
    }


def execution_row(exchange: Exchange, fill: Fill) -> dict[str, Any]:
    """Return an execution."""
    order = exchange.orders[fill.order_id]
    account = exchange.accounts[fill.account]
    return {
        "symbol": fill.symbol,
        "orderId": uid(order.algo or order.id),
        "orderLinkId": order.client_id,
        "side": SIDES[fill.side],
        "orderPrice": text(order.price),
        "orderQty": text(order.quantity),
        "leavesQty": text(order.left),
        "createType": "CreateByUser" if fill.kind == "ORDER" else "CreateByLiq",
        "orderType": "Market" if order.type == "MARKET" else "Limit",
        "stopOrderType": "Stop" if order.algo is not None else "UNKNOWN",
        "execFee": text(fill.fee),
        "execId": str(UUID(int=fill.trade_id)),
        "execPrice": text(fill.price),
        "execQty": text(fill.quantity),
        "execType": KINDS[fill.kind],
        "execValue": text(fill.price * fill.quantity),
        "execTime": str(fill.time),
        "execPnl": text(fill.realised),
        "feeCurrency": account.asset,
        "isMaker": fill.maker,
        "feeRate": text(account.maker if fill.maker else account.taker),
        "tradeIv": "",
        "markIv": "",
        "markPrice": text(exchange.markets[fill.symbol].reference),
        "indexPrice": "",
        "underlyingPrice": "",
        "blockTradeId": "",
        "closedSize": "",
        "seq": fill.trade_id,
    }


def position_row(exchange: Exchange, owner: Account, symbol: str) -> dict[str, Any]:
    """Return a position in one-way mode."""
    position, market = owner.position(symbol), exchange.markets[symbol]
    held, mark = position.quantity, market.reference
    liquidation = liquidation_price(exchange, owner, symbol)
    return {
        "positionIdx": 0,
        "riskId": 1,
        "riskLimitValue": "",
        "symbol": symbol,
        "side": "Buy" if held > 0 else "Sell" if held < 0 else "",
        "size": text(abs(held)),
        "avgPrice": text(round(position.entry, 12)),
        "positionValue": text(abs(held) * position.entry.quantize(Decimal("1e-12"))) if held else "",
        "tradeMode": 0,
        "autoAddMargin": 0,
        "positionStatus": "Normal",
        "leverage": str(position.leverage),
        "markPrice": text(mark),
        "liqPrice": text(round(liquidation, 8)) if liquidation is not None else "",
        "bustPrice": "",
        "positionIM": text(round(abs(held) * mark / position.leverage, 8)),
        "positionMM": text(round(market.contract.maintenance(abs(held) * mark), 8)),
        "positionBalance": text(position.isolated_wallet),
        "takeProfit": "",
        "stopLoss": "",
        "trailingStop": "",
        "unrealisedPnl": text(round(position.unrealised(mark), 8)),
        "curRealisedPnl": text(position.realised),
        "cumRealisedPnl": text(position.realised),
        "adlRankIndicator": 2 if held else 0,
        "createdTime": str(position.updated),
        "updatedTime": str(position.updated),
        "seq": position.updated,
        "isReduceOnly": False,
    }


def wallet_row(exchange: Exchange, owner: Account) -> dict[str, Any]:
    """Return a unified account's balances."""
    unrealised = sum((one.unrealised(exchange.markets[one.symbol].reference) for one in owner.held()), ZERO)
    equity, free = text(round(owner.wallet + unrealised, 8)), text(round(available(exchange, owner), 8))
    coin = {
        "coin": owner.asset,
        "equity": equity,
        "usdValue": equity,
        "walletBalance": text(owner.wallet),
        "locked": "0",
        "unrealisedPnl": text(round(unrealised, 8)),
        "cumRealisedPnl": text(sum((one.realised for one in owner.positions.values()), ZERO)),
        "marginCollateral": True,
        "collateralSwitch": True,
    }
    return {
        "accountType": "UNIFIED",
        "totalEquity": equity,
        "totalWalletBalance": text(owner.wallet),
        "totalMarginBalance": equity,
        "totalAvailableBalance": free,
        "totalPerpUPL": text(round(unrealised, 8)),
        "totalInitialMargin": "",
        "totalMaintenanceMargin": "",
        "coin": [coin],
    }


def log_row(row: Income, asset: str) -> dict[str, Any]:
    """Return a booking as in the transaction log. Funding is positive when received."""
    kinds = {"FUNDING_FEE": "SETTLEMENT", "TRANSFER": "TRANSFER_IN", "INSURANCE_CLEAR": "LIQUIDATION"}
    return {
        "id": f"{row.id}_{row.symbol}_{row.id}",
        "symbol": row.symbol,
        "category": "linear",
        "side": "None",
        "transactionTime": str(row.time),
        "type": kinds.get(row.type, "TRADE"),
        "qty": "0",
        "size": "0",
        "currency": asset,
        "tradePrice": "",
        "funding": text(row.amount) if row.type == "FUNDING_FEE" else "",
        "fee": text(-row.amount) if row.type == "COMMISSION" else "0",
        "cashFlow": text(row.amount) if row.type not in ("FUNDING_FEE", "COMMISSION") else "0",
        "change": text(row.amount),
        "cashBalance": "",
        "feeRate": "",
        "bonusChange": "",
        "tradeId": "" if row.trade_id is None else str(UUID(int=row.trade_id)),
        "orderId": "",
        "orderLinkId": "",
    }


def contract_row(market: MarketState) -> dict[str, Any]:
    """Return an instrument of instruments-info."""
    one = market.contract
    return {
        "symbol": one.symbol,
        "contractType": "LinearPerpetual",
        "status": "Trading" if market.trading else "Closed",
        "baseCoin": one.base,
        "quoteCoin": one.quote,
        "settleCoin": one.quote,
        "launchTime": "1585526400000",
        "deliveryTime": "0",
        "priceScale": str(one.price_decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": f"{one.brackets[0].leverage}.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": text(one.min_price), "maxPrice": text(one.max_price), "tickSize": text(one.tick)},
        "lotSizeFilter": {
            "maxOrderQty": text(one.max_quantity),
            "minOrderQty": text(one.min_quantity),
            "qtyStep": text(one.lot),
            "maxMktOrderQty": text(one.market_max_quantity),
            "minNotionalValue": text(one.min_notional),
        },
        "unifiedMarginTrade": True,
        "fundingInterval": 480,
    }


def messages(exchange: Exchange, event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the private stream's messages for an event: topic and message."""
    rows: list[tuple[str, dict[str, Any]]] = []
    if isinstance(event, OrderChanged):
        if event.fill is not None:
            rows.append(("execution", execution_row(exchange, event.fill)))
        rows.append(("order", order_row(exchange, event.order)))
    elif isinstance(event, ConditionalChanged) and event.conditional.order is None:
        rows.append(("order", conditional_row(event.conditional)))
    elif isinstance(event, AccountChanged):
        owner = exchange.accounts[event.account]
        rows += [("position", position_row(exchange, owner, one.symbol)) for one in event.positions]
        rows.append(("wallet", wallet_row(exchange, owner)))
    for topic, row in rows:
        body = row if topic == "wallet" else {"category": "linear", **row}
        yield topic, {"id": f"sim-{now}", "topic": topic, "creationTime": now, "data": [body]}

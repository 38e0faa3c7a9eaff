"""Map Binance's JSON to venue reports. Pure; field names as in the developers documentation of USD-M futures (2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from sinks.venues.common.response_parsing import optional_price
from stream_apps.core.execution.orders.venue_reports import (
    BalanceReport,
    FillReport,
    FundingReport,
    InstrumentRules,
    OrderReport,
    OrderRequest,
    OrderType,
    PositionReport,
    Side,
    TimeInForce,
    VenueStatus,
)

Json = Mapping[str, Any]
Report = TypeVar("Report", OrderReport, FillReport)

_STATUS = {
    "NEW": VenueStatus.NEW,
    "PARTIALLY_FILLED": VenueStatus.PARTIALLY_FILLED,
    "FILLED": VenueStatus.FILLED,
    "CANCELED": VenueStatus.CANCELED,
    "EXPIRED": VenueStatus.EXPIRED,
    "EXPIRED_IN_MATCH": VenueStatus.EXPIRED,
    "REJECTED": VenueStatus.REJECTED,
    # The insurance fund or ADL took over a liquidation; the order fills no more.
    "NEW_INSURANCE": VenueStatus.EXPIRED,
    "NEW_ADL": VenueStatus.EXPIRED,
}
_ALGO_STATUS = {
    "NEW": VenueStatus.NEW,
    "TRIGGERING": VenueStatus.TRIGGERED,
    "TRIGGERED": VenueStatus.TRIGGERED,
    "CANCELED": VenueStatus.CANCELED,
    "EXPIRED": VenueStatus.EXPIRED,
    "REJECTED": VenueStatus.REJECTED,
}
# Expiry reasons (field ``er``) from the venue's document "Event: Order Update". 0 means none.
_EXPIRED = {
    "1": "would have traded against the account itself",
    "2": "the rest of an IOC order",
    "3": "the rest of an IOC order that would have traded against the account itself",
    "4": "knocked out by another reduce-only order, or would have reversed the position",
    "5": "the account was liquidated",
    "6": "its GTE condition no longer holds",
    "7": "the symbol was delisted",
    "8": "its stop was triggered",
    "9": "the rest of a market order",
}
_TIF = {TimeInForce.GTC: "GTC", TimeInForce.POST_ONLY: "GTX", TimeInForce.IOC: "IOC"}
# Prefixes of client ids of orders with which the venue closes positions.
_FORCED = {"autoclose-": "LIQUIDATION", "adl_autoclose": "ADL", "settlement_autoclose-": "SETTLEMENT"}


def order_params(request: OrderRequest) -> dict[str, Any]:
    """Return the parameters of POST /fapi/v1/order."""
    return {
        "symbol": request.symbol,
        "side": request.side.value,
        "type": request.type.value,
        "quantity": request.quantity,
        "price": request.price,
        "timeInForce": _TIF[request.time_in_force or TimeInForce.GTC] if request.type is OrderType.LIMIT else None,
        "reduceOnly": request.reduce_only or None,
        "newClientOrderId": request.client_order_id,
        # ACK does not report fills; RESULT includes those of a market order.
        "newOrderRespType": "RESULT",
    }


def conditional_params(request: OrderRequest) -> dict[str, Any]:
    """Return the parameters of POST /fapi/v1/algoOrder, which takes conditional orders since 2025-12-09."""
    return {
        "algoType": "CONDITIONAL",
        "symbol": request.symbol,
        "side": request.side.value,
        "type": request.type.value,
        "quantity": request.quantity,
        "triggerPrice": request.trigger_price,
        "workingType": "CONTRACT_PRICE" if request.trigger_by_last else "MARK_PRICE",
        "reduceOnly": request.reduce_only or None,
        "clientAlgoId": request.client_order_id,
    }


def order_of(answer: Json) -> OrderReport:
    """Return an order from a response or query of /fapi/v1/order, /openOrders or /allOrders."""
    filled = Decimal(str(answer.get("executedQty", "0")))
    return OrderReport(
        client_order_id=answer["clientOrderId"],
        venue_order_id=str(answer["orderId"]),
        symbol=answer["symbol"],
        side=Side(answer["side"]),
        type=_type_of(answer.get("origType") or answer["type"]),
        status=_STATUS[answer["status"]],
        quantity=Decimal(answer["origQty"]),
        filled=filled,
        average_price=optional_price(answer.get("avgPrice")) if filled else None,
        price=optional_price(answer.get("price")),
        trigger_price=optional_price(answer.get("stopPrice")),
        reduce_only=bool(answer.get("reduceOnly", False)),
        updated_at=int(answer.get("updateTime") or answer.get("time") or 0),
    )


def conditional_of(answer: Json) -> OrderReport:
    """Return a conditional order from /fapi/v1/algoOrder, /openAlgoOrders or /allAlgoOrders.

    FINISHED covers filled and cancelled orders; the executed quantity decides.
    """
    filled = Decimal(str(answer.get("actualQty") or answer.get("executedQty") or "0"))
    quantity = Decimal(answer["quantity"])
    return OrderReport(
        client_order_id=answer["clientAlgoId"],
        venue_order_id=str(answer["algoId"]),
        symbol=answer["symbol"],
        side=Side(answer["side"]),
        type=_type_of(answer["orderType"]),
        status=_algo_status(answer["algoStatus"], quantity, filled),
        quantity=quantity,
        filled=filled,
        average_price=optional_price(answer.get("actualPrice") or answer.get("avgPrice")) if filled else None,
        price=optional_price(answer.get("price")),
        trigger_price=optional_price(answer.get("triggerPrice")),
        reduce_only=_flag(answer.get("reduceOnly")),
        updated_at=int(answer.get("updateTime") or answer.get("createTime") or 0),
        reason=answer.get("failReason") or None,
    )


def order_update(event: Json) -> OrderReport:
    """Return the order of an ORDER_TRADE_UPDATE."""
    order = event["o"]
    filled = Decimal(order["z"])
    return OrderReport(
        client_order_id=order["c"],
        venue_order_id=str(order["i"]),
        symbol=order["s"],
        side=Side(order["S"]),
        type=_type_of(order.get("ot") or order["o"]),
        status=_STATUS[order["X"]],
        quantity=Decimal(order["q"]),
        filled=filled,
        average_price=optional_price(order.get("ap")) if filled else None,
        price=optional_price(order.get("p")),
        trigger_price=optional_price(order.get("sp")),
        reduce_only=bool(order.get("R", False)),
        updated_at=int(event["T"]),
        reason=_expired(order.get("er")) if order["X"] in ("EXPIRED", "REJECTED") else None,
    )


def _expired(code: Any) -> str | None:
    """Return why an order expired; an undocumented code is returned as it is."""
    text = str(code or 0)
    return None if text == "0" else _EXPIRED.get(text, text)


def fill_update(event: Json) -> FillReport | None:
    """Return the execution in an ORDER_TRADE_UPDATE, or None."""
    order = event["o"]
    if order["x"] not in ("TRADE", "CALCULATED") or not int(order["t"]):
        return None
    return FillReport(
        symbol=order["s"],
        trade_id=int(order["t"]),
        client_order_id=order["c"],
        venue_order_id=str(order["i"]),
        side=Side(order["S"]),
        price=Decimal(order["L"]),
        quantity=Decimal(order["l"]),
        # Absent when there is no fee.
        fee=Decimal(order.get("n") or "0"),
        fee_asset=order.get("N") or "",
        liquidity="maker" if order["m"] else "taker",
        time=int(order["T"]),
        realised=Decimal(order["rp"]) if "rp" in order else None,
        order_type=_forced(order["c"]) or order["o"],
    )


def conditional_update(event: Json) -> OrderReport:
    """Return the conditional order of an ALGO_UPDATE."""
    order = event["o"]
    filled, quantity = Decimal(order.get("aq") or "0"), Decimal(order["q"])
    return OrderReport(
        client_order_id=order["caid"],
        venue_order_id=str(order["aid"]),
        symbol=order["s"],
        side=Side(order["S"]),
        type=_type_of(order["o"]),
        status=_algo_status(order["X"], quantity, filled),
        quantity=quantity,
        filled=filled,
        average_price=optional_price(order.get("ap")) if filled else None,
        price=optional_price(order.get("p")),
        trigger_price=optional_price(order.get("tp")),
        reduce_only=_flag(order.get("R")),
        updated_at=int(event["T"]),
        reason=order.get("rm") or None,
    )


def fill_of(answer: Json, client_order_id: str) -> FillReport:
    """Return an execution from /fapi/v1/userTrades. That list has only the venue's order ids."""
    return FillReport(
        symbol=answer["symbol"],
        trade_id=int(answer["id"]),
        client_order_id=client_order_id,
        venue_order_id=str(answer["orderId"]),
        side=Side(answer["side"]),
        price=Decimal(answer["price"]),
        quantity=Decimal(answer["qty"]),
        fee=Decimal(answer["commission"]),
        fee_asset=answer["commissionAsset"],
        liquidity="maker" if answer["maker"] else "taker",
        time=int(answer["time"]),
        realised=Decimal(answer["realizedPnl"]),
        order_type=_forced(client_order_id) or "",
    )


def position_of(answer: Json, leverage: int) -> PositionReport:
    """Return a position from /fapi/v3/positionRisk.

    Args:
        leverage: Leverage of the symbol, from /fapi/v1/symbolConfig; version 3 does not contain it.
    """
    isolated = Decimal(answer["isolatedWallet"])
    liquidation = optional_price(answer.get("liquidationPrice"))
    return PositionReport(
        symbol=answer["symbol"],
        quantity=Decimal(answer["positionAmt"]),
        entry_price=Decimal(answer["entryPrice"]),
        mark_price=Decimal(answer["markPrice"]),
        unrealised=Decimal(answer["unRealizedProfit"]),
        leverage=leverage,
        isolated_wallet=isolated if isolated else None,
        liquidation_price=liquidation,
        updated_at=int(answer["updateTime"]),
    )


def balance_of(answer: Json) -> BalanceReport:
    """Return a balance from /fapi/v3/balance."""
    return BalanceReport(answer["asset"], Decimal(answer["balance"]), Decimal(answer["availableBalance"]))


def funding_of(answer: Json) -> FundingReport:
    """Return a payment from /fapi/v1/income (type FUNDING_FEE). ``income`` is positive when received, ``paid`` when it is a cost."""
    return FundingReport(answer["symbol"], -Decimal(answer["income"]), answer["asset"], int(answer["time"]), str(answer["tranId"]))


def rules_of(symbol: Json) -> InstrumentRules:
    """Return the rules of one entry of /fapi/v1/exchangeInfo. Raises KeyError when a filter is missing."""
    filters = {one["filterType"]: one for one in symbol["filters"]}
    lot, market = filters["LOT_SIZE"], filters["MARKET_LOT_SIZE"]
    return InstrumentRules(
        symbol=symbol["symbol"],
        base=symbol["baseAsset"],
        quote=symbol["quoteAsset"],
        tick=Decimal(filters["PRICE_FILTER"]["tickSize"]),
        lot=Decimal(lot["stepSize"]),
        market_lot=Decimal(market["stepSize"]),
        min_quantity=Decimal(lot["minQty"]),
        max_quantity=Decimal(lot["maxQty"]),
        market_max_quantity=Decimal(market["maxQty"]),
        min_notional=Decimal(filters["MIN_NOTIONAL"]["notional"]),
        trading=symbol["status"] == "TRADING",
    )


def _algo_status(status: str, quantity: Decimal, filled: Decimal) -> VenueStatus:
    if status == "FINISHED":
        return VenueStatus.FILLED if filled >= quantity else VenueStatus.CANCELED
    return _ALGO_STATUS[status]


def _type_of(text: str) -> OrderType:
    """Return the order type. Types that perpflow never sends (TRAILING_STOP_MARKET, LIQUIDATION) map to the nearest one."""
    if text in ("LIMIT", "MARKET", "STOP_MARKET"):
        return OrderType(text)
    return OrderType.STOP_MARKET if text.startswith(("STOP", "TAKE_PROFIT", "TRAILING")) else OrderType.MARKET


def _forced(client_order_id: str) -> str | None:
    return next((kind for prefix, kind in _FORCED.items() if client_order_id.startswith(prefix)), None)


def _flag(value: Any) -> bool:
    return value is True or value == "true"


def renamed(report: Report, client_order_id: str) -> Report:
    """Return a report with the client id of its conditional order."""
    return replace(report, client_order_id=client_order_id)

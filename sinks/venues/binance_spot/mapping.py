"""Binance spot's JSON as facts. Pure; field names as in the spot API documentation (2026)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from stream_apps.core.execution.orders.venue_reports import (
    BalanceReport,
    FillReport,
    InstrumentRules,
    OrderReport,
    OrderRequest,
    OrderType,
    PairRequest,
    Side,
    TimeInForce,
    VenueStatus,
)

Json = Mapping[str, Any]
STOP, POST_ONLY = "STOP_LOSS", "LIMIT_MAKER"
_STATUS = {
    "NEW": VenueStatus.NEW,
    # Of a list whose other orders must be filled first; none of ours.
    "PENDING_NEW": VenueStatus.NEW,
    "PARTIALLY_FILLED": VenueStatus.PARTIALLY_FILLED,
    "FILLED": VenueStatus.FILLED,
    "CANCELED": VenueStatus.CANCELED,
    "PENDING_CANCEL": VenueStatus.NEW,
    "EXPIRED": VenueStatus.EXPIRED,
    "EXPIRED_IN_MATCH": VenueStatus.EXPIRED,
    "REJECTED": VenueStatus.REJECTED,
}


def order_params(request: OrderRequest) -> dict[str, Any]:
    """Return the parameters of POST /api/v3/order. Spot knows no reduce-only orders: an exit sells coins that are there, or is refused."""
    limited = request.type is OrderType.LIMIT
    post_only = request.time_in_force is TimeInForce.POST_ONLY
    return {
        "symbol": request.symbol,
        "side": request.side.value,
        "type": STOP if request.type is OrderType.STOP_MARKET else POST_ONLY if limited and post_only else request.type.value,
        "timeInForce": (request.time_in_force or TimeInForce.GTC).value if limited and not post_only else None,
        "quantity": request.quantity,
        "price": request.price,
        "stopPrice": request.trigger_price,
        "newClientOrderId": request.client_order_id,
        "newOrderRespType": "RESULT",
    }


def pair_params(pair: PairRequest) -> dict[str, Any]:
    """Return the parameters of POST /api/v3/orderList/oco: of a sale the target is the order above, of a buy the one below."""
    target, stop = ("above", "below") if pair.target.side is Side.SELL else ("below", "above")
    return {
        "symbol": pair.target.symbol,
        "side": pair.target.side.value,
        "quantity": pair.target.quantity,
        "listClientOrderId": pair.client_list_id,
        f"{target}Type": POST_ONLY,
        f"{target}Price": pair.target.price,
        f"{target}ClientOrderId": pair.target.client_order_id,
        f"{stop}Type": STOP,
        f"{stop}StopPrice": pair.stop.trigger_price,
        f"{stop}ClientOrderId": pair.stop.client_order_id,
        "newOrderRespType": "RESULT",
    }


def order_of(answer: Json) -> OrderReport:
    """Return an order from a response, a query, or the reports of a list. Of a cancel the order's own name is ``origClientOrderId``."""
    filled, worth = Decimal(answer["executedQty"]), Decimal(answer["cummulativeQuoteQty"])
    return OrderReport(
        client_order_id=answer.get("origClientOrderId") or answer["clientOrderId"],
        venue_order_id=str(answer["orderId"]),
        symbol=answer["symbol"],
        side=Side(answer["side"]),
        type=_type_of(answer["type"]),
        status=_STATUS[answer["status"]],
        quantity=Decimal(answer["origQty"]),
        filled=filled,
        average_price=worth / filled if filled else None,
        price=_price(answer.get("price")),
        trigger_price=_price(answer.get("stopPrice")),
        reduce_only=False,
        updated_at=int(answer.get("updateTime") or answer.get("transactTime") or answer.get("time") or 0),
    )


def pair_of(answer: Json) -> list[OrderReport]:
    """Return the orders of an answer about a list."""
    return [order_of(one) for one in answer["orderReports"]]


def order_update(event: Json) -> OrderReport:
    """Return the order of an executionReport. Of a cancel ``C`` is the order's own name, ``c`` the cancel's."""
    filled, worth = Decimal(event["z"]), Decimal(event["Z"])
    return OrderReport(
        client_order_id=event.get("C") or event["c"],
        venue_order_id=str(event["i"]),
        symbol=event["s"],
        side=Side(event["S"]),
        type=_type_of(event["o"]),
        status=_STATUS[event["X"]],
        quantity=Decimal(event["q"]),
        filled=filled,
        average_price=worth / filled if filled else None,
        price=_price(event.get("p")),
        trigger_price=_price(event.get("P")),
        reduce_only=False,
        updated_at=int(event["T"]),
        reason=event["r"] if event.get("r") not in (None, "NONE") else None,
    )


def fill_update(event: Json) -> FillReport | None:
    """Return the execution that an executionReport tells of; None when it tells of none."""
    if event["x"] != "TRADE":
        return None
    return FillReport(
        symbol=event["s"],
        trade_id=int(event["t"]),
        client_order_id=event["c"],
        venue_order_id=str(event["i"]),
        side=Side(event["S"]),
        price=Decimal(event["L"]),
        quantity=Decimal(event["l"]),
        fee=Decimal(event["n"]),
        fee_asset=event.get("N") or "",
        liquidity="maker" if event["m"] else "taker",
        time=int(event["T"]),
        order_type=event["o"],
    )


def fill_of(answer: Json, client_order_id: str) -> FillReport:
    """Return an execution from /api/v3/myTrades, which names orders by the venue's id only."""
    return FillReport(
        symbol=answer["symbol"],
        trade_id=int(answer["id"]),
        client_order_id=client_order_id,
        venue_order_id=str(answer["orderId"]),
        side=Side.BUY if answer["isBuyer"] else Side.SELL,
        price=Decimal(answer["price"]),
        quantity=Decimal(answer["qty"]),
        fee=Decimal(answer["commission"]),
        fee_asset=answer["commissionAsset"],
        liquidity="maker" if answer["isMaker"] else "taker",
        time=int(answer["time"]),
    )


def balance_of(row: Json) -> BalanceReport:
    """Return a balance: all of it, and what no open order has locked."""
    free = Decimal(row["free"])
    return BalanceReport(row["asset"], free + Decimal(row["locked"]), free)


def rules_of(symbol: Json) -> InstrumentRules:
    """Return the rules of one entry of /api/v3/exchangeInfo. Raises KeyError when a filter is missing."""
    filters = {one["filterType"]: one for one in symbol["filters"]}
    lot, market = filters["LOT_SIZE"], filters.get("MARKET_LOT_SIZE", filters["LOT_SIZE"])
    # Older instruments have MIN_NOTIONAL in place of NOTIONAL. A step of 0 means that there is none of its own.
    notional = filters["NOTIONAL"] if "NOTIONAL" in filters else filters["MIN_NOTIONAL"]
    step = Decimal(lot["stepSize"])
    return InstrumentRules(
        symbol=symbol["symbol"],
        base=symbol["baseAsset"],
        quote=symbol["quoteAsset"],
        tick=Decimal(filters["PRICE_FILTER"]["tickSize"]),
        lot=step,
        market_lot=Decimal(market["stepSize"]) or step,
        min_quantity=Decimal(lot["minQty"]),
        max_quantity=Decimal(lot["maxQty"]),
        market_max_quantity=Decimal(market["maxQty"]),
        min_notional=Decimal(notional["minNotional"]),
        trading=symbol["status"] == "TRADING",
        pairs=bool(symbol["ocoAllowed"]) and {STOP, POST_ONLY} <= set(symbol["orderTypes"]),
        stops=STOP in symbol["orderTypes"],
    )


def _type_of(text: str) -> OrderType:
    """Return the type; what perpflow never sends (someone else's TAKE_PROFIT_LIMIT) counts as what it resembles."""
    if text.startswith("LIMIT"):
        return OrderType.LIMIT
    return OrderType.MARKET if text == "MARKET" else OrderType.STOP_MARKET


def _price(text: Any) -> Decimal | None:
    """Return a price; the venue writes 0 where there is none."""
    value = Decimal(str(text)) if text not in (None, "") else Decimal(0)
    return value if value else None

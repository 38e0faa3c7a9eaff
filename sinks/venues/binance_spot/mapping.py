"""Map Binance spot's JSON to venue reports. Pure; field names as in the spot API documentation (2026)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sinks.venues.common.response_parsing import optional_price
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
    # Part of a list whose other orders must fill first; perpflow sends none.
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
    """Return the parameters of POST /api/v3/order. Spot has no reduce-only orders: an exit sells coins that are there, or is rejected."""
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
    """Return the parameters of POST /api/v3/orderList/oco. The target of a sale is the order above, that of a purchase the order below."""
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
    """Return an order from a response, a query or an order list. In the answer to a cancel, ``origClientOrderId`` is the order's own id."""
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
        price=optional_price(answer.get("price")),
        trigger_price=optional_price(answer.get("stopPrice")),
        reduce_only=False,
        updated_at=int(answer.get("updateTime") or answer.get("transactTime") or answer.get("time") or 0),
    )


def pair_of(answer: Json) -> list[OrderReport]:
    """Return the orders of an order list."""
    return [order_of(one) for one in answer["orderReports"]]


def order_update(event: Json) -> OrderReport:
    """Return the order of an executionReport. For a cancel, ``C`` is the order's own id and ``c`` the id of the cancel."""
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
        price=optional_price(event.get("p")),
        trigger_price=optional_price(event.get("P")),
        reduce_only=False,
        updated_at=int(event["T"]),
        reason=event["r"] if event.get("r") not in (None, "NONE") else None,
    )


def fill_update(event: Json) -> FillReport | None:
    """Return the execution in an executionReport, or None."""
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
    """Return an execution from /api/v3/myTrades. That list has only the venue's order ids."""
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
    """Return a balance: the total, and the part that no open order locks."""
    free = Decimal(row["free"])
    return BalanceReport(row["asset"], free + Decimal(row["locked"]), free)


def rules_of(symbol: Json) -> InstrumentRules:
    """Return the rules of one entry of /api/v3/exchangeInfo. Raises KeyError when a filter is missing."""
    filters = {one["filterType"]: one for one in symbol["filters"]}
    lot, market = filters["LOT_SIZE"], filters.get("MARKET_LOT_SIZE", filters["LOT_SIZE"])
    # Older instruments have MIN_NOTIONAL instead of NOTIONAL. A market step of 0 means that LOT_SIZE applies.
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
    """Return the order type. Types that perpflow never sends (TAKE_PROFIT_LIMIT) map to the nearest one."""
    if text.startswith("LIMIT"):
        return OrderType.LIMIT
    return OrderType.MARKET if text == "MARKET" else OrderType.STOP_MARKET

"""Map Bybit's v5 JSON to venue reports. Pure; field names as in the venue's documents (Get Open & Closed Orders, Execution, Position Info)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from sinks.venues.common.response_parsing import optional_price
from stream_apps.core.execution.orders.venue_reports import (
    AccountPermissions,
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
CATEGORY = "linear"

_STATUS = {
    "Created": VenueStatus.NEW,
    "New": VenueStatus.NEW,
    "Untriggered": VenueStatus.NEW,
    "Triggered": VenueStatus.TRIGGERED,
    "PartiallyFilled": VenueStatus.PARTIALLY_FILLED,
    "Filled": VenueStatus.FILLED,
    "Cancelled": VenueStatus.CANCELED,
    "PartiallyFilledCanceled": VenueStatus.CANCELED,
    # A conditional order that was cancelled before it triggered.
    "Deactivated": VenueStatus.CANCELED,
    "Rejected": VenueStatus.REJECTED,
}
_TIF = {TimeInForce.GTC: "GTC", TimeInForce.POST_ONLY: "PostOnly", TimeInForce.IOC: "IOC"}
# Execution types with which the venue closes a position.
_FORCED = {"AdlTrade": "ADL", "BustTrade": "LIQUIDATION", "Delivery": "SETTLEMENT"}
TRADES = ("Trade", *_FORCED)


def order_body(request: OrderRequest) -> dict[str, Any]:
    """Return the body of POST /v5/order/create.

    Trigger direction: 2 for a sell stop (the price falls to it), 1 for a buy stop (the price rises to it).
    """
    stop = request.type is OrderType.STOP_MARKET
    return {
        "category": CATEGORY,
        "symbol": request.symbol,
        "side": _side_text(request.side),
        "orderType": "Limit" if request.type is OrderType.LIMIT else "Market",
        "qty": format(request.quantity, "f"),
        "price": None if request.price is None else format(request.price, "f"),
        "timeInForce": _TIF[request.time_in_force or TimeInForce.GTC] if request.type is OrderType.LIMIT else None,
        "triggerPrice": format(request.trigger_price, "f") if stop and request.trigger_price is not None else None,
        "triggerDirection": (2 if request.side is Side.SELL else 1) if stop else None,
        "triggerBy": ("LastPrice" if request.trigger_by_last else "MarkPrice") if stop else None,
        "reduceOnly": request.reduce_only,
        # One-way mode.
        "positionIdx": 0,
        "orderLinkId": request.client_order_id,
    }


def acknowledged(request: OrderRequest, result: Json, now: int) -> OrderReport:
    """Return the report of an accepted order. The answer has only its id; the stream and queries report its state."""
    return OrderReport(
        client_order_id=request.client_order_id,
        venue_order_id=str(result["orderId"]),
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        status=VenueStatus.NEW,
        quantity=request.quantity,
        filled=Decimal(0),
        average_price=None,
        price=request.price,
        trigger_price=request.trigger_price,
        reduce_only=request.reduce_only,
        # Older than every report of the stream.
        updated_at=min(now, int(result.get("createdTime", now))) - 1,
    )


def order_of(row: Json) -> OrderReport:
    """Return an order from /v5/order/realtime, /history or the stream ``order``. Raises KeyError for an undocumented status."""
    filled = Decimal(row.get("cumExecQty") or "0")
    conditional = bool(row.get("stopOrderType")) and row["stopOrderType"] != "UNKNOWN"
    rejected = row.get("rejectReason") or ""
    return OrderReport(
        client_order_id=row["orderLinkId"],
        venue_order_id=row["orderId"],
        symbol=row["symbol"],
        side=_side(row["side"]),
        type=OrderType.STOP_MARKET if conditional else OrderType(row["orderType"].upper()),
        status=_STATUS[row["orderStatus"]],
        quantity=Decimal(row["qty"]),
        filled=filled,
        average_price=optional_price(row.get("avgPrice")) if filled else None,
        price=optional_price(row.get("price")) if row["orderType"] == "Limit" else None,
        trigger_price=optional_price(row.get("triggerPrice")),
        reduce_only=bool(row["reduceOnly"]),
        updated_at=int(row["updatedTime"]),
        reason=None if rejected in ("", "EC_NoError") else rejected,
    )


def fill_of(row: Json) -> FillReport | None:
    """Return an execution from /v5/execution/list or the stream ``execution``; None if it is no trade (funding, settlement)."""
    if row["execType"] not in TRADES:
        return None
    return FillReport(
        symbol=row["symbol"],
        trade_id=trade_number(row["execId"]),
        client_order_id=row.get("orderLinkId") or "",
        venue_order_id=row["orderId"],
        side=_side(row["side"]),
        price=Decimal(row["execPrice"]),
        quantity=Decimal(row["execQty"]),
        fee=Decimal(row["execFee"]),
        fee_asset=row.get("feeCurrency") or "USDT",
        liquidity="maker" if row["isMaker"] else "taker",
        time=int(row["execTime"]),
        realised=Decimal(row["execPnl"]) if row.get("execPnl") else None,
        order_type=_FORCED.get(row["execType"]) or row.get("orderType") or "",
    )


def trade_number(exec_id: str) -> int:
    """Return a number for an execution id, which is text at Bybit: 62 bits of its hash. The number of an id never changes."""
    return int.from_bytes(blake2b(exec_id.encode(), digest_size=8).digest()) >> 2


def position_of(row: Json) -> PositionReport:
    """Return a position from /v5/position/list or the stream ``position``."""
    size = Decimal(row["size"] or "0")
    return PositionReport(
        symbol=row["symbol"],
        quantity=-size if row["side"] == "Sell" else size,
        # The stream names it entryPrice. It is empty when there is no position.
        entry_price=Decimal(row.get("avgPrice") or row["entryPrice"]) if size else Decimal(0),
        mark_price=optional_price(row.get("markPrice")),
        unrealised=Decimal(row.get("unrealisedPnl") or "0"),
        leverage=int(Decimal(row.get("leverage") or "1")),
        isolated_wallet=None,
        liquidation_price=optional_price(row.get("liqPrice")),
        updated_at=int(row.get("updatedTime") or 0),
    )


def balances_of(result: Json) -> list[BalanceReport]:
    """Return the balances from /v5/account/wallet-balance of a unified account.

    The available balance is reported for the account as a whole. Under isolated margin that total is empty, and each coin has its own. Raises KeyError
    or ArithmeticError if both are missing.
    """
    (account,) = result["list"]
    return [BalanceReport(one["coin"], Decimal(one["walletBalance"]), _available(account, one)) for one in account["coin"]]


def _available(account: Json, coin: Json) -> Decimal:
    if account.get("totalAvailableBalance"):
        return Decimal(account["totalAvailableBalance"])
    taken = Decimal(coin["totalPositionIM"]) + Decimal(coin["totalOrderIM"]) + Decimal(coin.get("locked") or "0")
    return Decimal(coin["walletBalance"]) - taken


def funding_of(row: Json) -> FundingReport:
    """Return a payment from /v5/account/transaction-log (type SETTLEMENT). ``funding`` is positive when received."""
    return FundingReport(row["symbol"], -Decimal(row["funding"]), row["currency"], int(row["transactionTime"]), row["id"])


def account_of(key: Json, one_way: bool) -> AccountPermissions:
    """Return the permissions of a key from /v5/user/query-api."""
    rights = key["permissions"]
    return AccountPermissions(
        can_trade=not int(key["readOnly"]) and "Order" in rights.get("ContractTrade", ()),
        can_withdraw="Withdraw" in rights.get("Wallet", ()),
        one_way=one_way,
        ip_restricted=key.get("ips", ["*"]) != ["*"],
        can_transfer="AccountTransfer" in rights.get("Wallet", ()),
    )


def rules_of(row: Json) -> InstrumentRules:
    """Return the rules of one entry of /v5/market/instruments-info."""
    lots, price = row["lotSizeFilter"], row["priceFilter"]
    return InstrumentRules(
        symbol=row["symbol"],
        base=row["baseCoin"],
        quote=row["quoteCoin"],
        tick=Decimal(price["tickSize"]),
        lot=Decimal(lots["qtyStep"]),
        market_lot=Decimal(lots["qtyStep"]),
        min_quantity=Decimal(lots["minOrderQty"]),
        max_quantity=Decimal(lots["maxOrderQty"]),
        market_max_quantity=Decimal(lots.get("maxMktOrderQty") or lots["maxOrderQty"]),
        min_notional=Decimal(lots.get("minNotionalValue") or "0"),
        trading=row["status"] == "Trading",
    )


def _side(text: str) -> Side:
    return Side(text.upper())


def _side_text(side: Side) -> str:
    return "Buy" if side is Side.BUY else "Sell"

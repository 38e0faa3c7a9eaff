"""Orders, lists, balances and events of the spot core in Binance spot's format. Field names: its documents and its own connector's models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import BalancesChanged, Event, Fill, ListChanged, Order, OrderChanged
from producers.simulated.exchange.core.rules import ZERO, text
from producers.simulated.exchange.spot.engine import STOP, SpotExchange
from producers.simulated.exchange.spot.lists import OrderList

NO_LIST, NO_TRADE = -1, -1
TIFS = {"GTX": "GTC"}


def eight(number: Decimal) -> str:
    """Return a number with eight decimals, as everywhere on spot."""
    return f"{number:.8f}"


def order_row(order: Order, *, queried: bool) -> dict[str, Any]:
    """Return an order as in responses. ``queried``: as in a query, with the times of its creation and last change."""
    row: dict[str, Any] = {
        "symbol": order.symbol,
        "orderId": order.id,
        "orderListId": order.listed or NO_LIST,
        "clientOrderId": order.client_id,
        "price": eight(order.price),
        "origQty": eight(order.quantity),
        "executedQty": eight(order.filled),
        "origQuoteOrderQty": eight(ZERO),
        "cummulativeQuoteQty": eight(order.quote),
        "status": order.status,
        "timeInForce": TIFS.get(order.tif, order.tif),
        "type": order.original,
        "side": order.side,
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "workingTime": order.created if works(order) else -1,
    }
    if order.original == STOP:
        row["stopPrice"] = eight(order.trigger)
    if not queried:
        return row | {"transactTime": order.updated}
    times = {"time": order.created, "updateTime": order.updated, "isWorking": works(order)}
    return row | {"stopPrice": eight(order.trigger), "icebergQty": eight(ZERO)} | times


def works(order: Order) -> bool:
    """Return whether an order is or was in the book; a stop only after its trigger."""
    return order.original != STOP or order.type == "MARKET"


def placed_row(order: Order, fills: list[Fill]) -> dict[str, Any]:
    """Return an order as the full response to its placing."""
    rows = [
        {
            "price": eight(one.price),
            "qty": eight(one.quantity),
            "commission": eight(one.fee),
            "commissionAsset": one.fee_asset,
            "tradeId": one.trade_id,
        }
        for one in fills
    ]
    return order_row(order, queried=False) | {"fills": rows}


def cancelled_row(order: Order, name: str) -> dict[str, Any]:
    """Return a cancelled order; ``name`` is the client id of the cancel, which replaces the order's."""
    return order_row(order, queried=False) | {"origClientOrderId": order.client_id, "clientOrderId": name}


def list_row(made: OrderList, orders: list[Order], reports: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return a list; ``reports``: with its orders, in responses to placing and cancelling."""
    row: dict[str, Any] = {
        "orderListId": made.id,
        "contingencyType": "OCO",
        "listStatusType": "ALL_DONE" if made.done else "EXEC_STARTED",
        "listOrderStatus": "ALL_DONE" if made.done else "EXECUTING",
        "listClientOrderId": made.client_id,
        "transactionTime": max(order.updated for order in orders),
        "symbol": made.symbol,
        "orders": [{"symbol": one.symbol, "orderId": one.id, "clientOrderId": one.client_id} for one in orders],
    }
    return row if reports is None else row | {"orderReports": reports}


def trade_row(fill: Fill, order: Order) -> dict[str, Any]:
    """Return a row of myTrades."""
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "orderListId": order.listed or NO_LIST,
        "price": eight(fill.price),
        "qty": eight(fill.quantity),
        "quoteQty": eight(fill.price * fill.quantity),
        "commission": eight(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": fill.time,
        "isBuyer": fill.side == "BUY",
        "isMaker": fill.maker,
        "isBestMatch": True,
    }


def account_row(exchange: SpotExchange, account: str, trade: bool, now: int) -> dict[str, Any]:
    """Return the account."""
    owner = exchange.owner(account)
    balances = []
    for asset in sorted(owner.balances):
        locked = exchange.locked(account, asset)
        balances.append({"asset": asset, "free": eight(owner.balances[asset] - locked), "locked": eight(locked)})
    rates = {"maker": eight(owner.maker), "taker": eight(owner.taker), "buyer": eight(ZERO), "seller": eight(ZERO)}
    return {
        "makerCommission": int(owner.maker * 10_000),
        "takerCommission": int(owner.taker * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": rates,
        "canTrade": trade,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": now,
        "accountType": "SPOT",
        "balances": balances,
        "permissions": ["SPOT"],
        "uid": 354937868,
    }


def symbol_row(market: MarketState) -> dict[str, Any]:
    """Return an instrument of exchangeInfo."""
    one = market.contract
    zero_step = text(ZERO) if one.market_lot == one.lot else text(one.market_lot)
    return {
        "symbol": one.symbol,
        "status": "TRADING" if market.trading else "BREAK",
        "baseAsset": one.base,
        "baseAssetPrecision": 8,
        "quoteAsset": one.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS"],
        "icebergAllowed": True,
        "ocoAllowed": one.lists,
        "otoAllowed": False,
        "opoAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": eight(one.min_price), "maxPrice": eight(one.max_price), "tickSize": eight(one.tick)},
            {"filterType": "LOT_SIZE", "minQty": eight(one.min_quantity), "maxQty": eight(one.max_quantity), "stepSize": eight(one.lot)},
            # The venue writes a step of 0 if the step of LOT_SIZE applies.
            {"filterType": "MARKET_LOT_SIZE", "minQty": eight(ZERO), "maxQty": eight(one.market_max_quantity), "stepSize": zero_step},
            {
                "filterType": "PERCENT_PRICE_BY_SIDE",
                "bidMultiplierUp": text(one.multiplier_up),
                "bidMultiplierDown": text(one.multiplier_down),
                "askMultiplierUp": text(one.multiplier_up),
                "askMultiplierDown": text(one.multiplier_down),
                "avgPriceMins": 5,
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": eight(one.min_notional),
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": one.max_orders},
            {"filterType": "MAX_NUM_ORDER_LISTS", "maxNumOrderLists": 20},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


# --- user stream --------------------------------------------------------------------------------------------------------
def messages(event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the user stream's messages for an event."""
    if isinstance(event, OrderChanged):
        yield "executionReport", _execution(event, now)
    elif isinstance(event, ListChanged):
        yield "listStatus", _list(event, now)
    elif isinstance(event, BalancesChanged):
        rows = [{"a": asset, "f": eight(free), "l": eight(locked)} for asset, free, locked in event.balances]
        yield "outboundAccountPosition", {"e": "outboundAccountPosition", "E": now, "u": event.time, "B": rows}


def _execution(event: OrderChanged, now: int) -> dict[str, Any]:
    order, fill = event.order, event.fill
    cancelled = event.execution == "CANCELED"
    row: dict[str, Any] = {
        "e": "executionReport",
        "E": now,
        "s": order.symbol,
        # For a cancel the first client id is the cancel's own.
        "c": f"cancel{order.id}" if cancelled else order.client_id,
        "S": order.side,
        "o": order.original,
        "f": TIFS.get(order.tif, order.tif),
        "q": eight(order.quantity),
        "p": eight(order.price),
        "P": eight(order.trigger),
        "F": eight(ZERO),
        "g": order.listed or NO_LIST,
        "C": order.client_id if cancelled else "",
        "x": event.execution,
        "X": order.status,
        "r": "NONE",
        "i": order.id,
        "l": eight(fill.quantity if fill is not None else ZERO),
        "z": eight(order.filled),
        "L": eight(fill.price if fill is not None else ZERO),
        "n": eight(fill.fee) if fill is not None else "0",
        "N": fill.fee_asset if fill is not None else None,
        "T": event.time,
        "t": fill.trade_id if fill is not None else NO_TRADE,
        "I": order.id * 2,
        "w": works(order) and order.open and order.type == "LIMIT",
        "m": fill.maker if fill is not None else False,
        "M": fill is not None,
        "O": order.created,
        "Z": eight(order.quote),
        "Y": eight(fill.price * fill.quantity if fill is not None else ZERO),
        "Q": eight(ZERO),
        "V": "EXPIRE_MAKER",
    }
    return row | ({"W": order.created} if works(order) else {})


def _list(event: ListChanged, now: int) -> dict[str, Any]:
    return {
        "e": "listStatus",
        "E": now,
        "s": event.symbol,
        "g": event.id,
        "c": "OCO",
        "l": "ALL_DONE" if event.done else "EXEC_STARTED",
        "L": "ALL_DONE" if event.done else "EXECUTING",
        "r": "NONE",
        "C": event.client_id,
        "T": event.time,
        "O": [{"s": event.symbol, "i": number, "c": name} for number, name in event.orders],
    }

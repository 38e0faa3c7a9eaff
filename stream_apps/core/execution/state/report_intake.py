"""Apply the venue's reports to a trade: executions, rejections, and orders of others."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from stream_apps.core.execution.orders.events import Action, Emit, PlaceFailed
from stream_apps.core.execution.orders.order import Order, OrderState, Trigger
from stream_apps.core.execution.orders.venue_reports import FillReport, OrderType
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.quotes import Quotes, mid_of
from stream_apps.core.execution.state.records import fill_record
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.paper.money import exact

# Rejections after which the same order may be sent again, because the order itself is valid.
TRANSIENT = ("too_many_orders", "clock", "auth")


def book_fill(
    trade: Trade, order: Order, fill: FillReport, fee: Decimal | None, policy: LivePolicy, now: int, mode: str, actions: list[Action]
) -> bool:
    """Book an execution once and write it; return False if it is booked already.

    A fee in an asset without a known price is estimated from the policy's rates and marked as estimated.
    """
    estimated = fee is None
    if fee is None:
        rate = exact(policy.fees.maker if fill.liquidity == "maker" else policy.fees.taker)
        fee = fill.price * fill.quantity * rate
    if not trade.book(fill, order, fee, estimated, now):
        return False
    actions.append(Emit("fills", fill_record(trade, trade.fills[fill.trade_id], order, mode, now)))
    return True


def fee_in_quote(fill: FillReport, quote: str, coins: str | None, quotes: Mapping[str, Quotes]) -> Decimal | None:
    """Return the fee of a fill in quote units; None if its asset has no known price.

    Args:
        fill: The execution.
        quote: Quote asset.
        coins: The bought asset of a spot position; a fee in it is valued at the fill's price. None for contracts.
        quotes: Quotes by symbol, for fees in a third asset.
    """
    if fill.fee_asset == quote or fill.fee == 0:
        return fill.fee
    if coins is not None and fill.fee_asset == coins:
        return fill.fee * fill.price
    priced = quotes.get(f"{fill.fee_asset}{quote}")
    return None if priced is None or priced.newest is None else fill.fee * mid_of(priced.newest)


def place_failed(order: Order, event: PlaceFailed, now: int, policy: LivePolicy) -> None:
    """Apply that an order was not accepted."""
    if event.kind == "unknown" or (event.kind == "refused" and event.reason == "duplicate_id"):
        # A known id means that an earlier attempt arrived: its state can be queried.
        order.apply(Trigger.OUTCOME_UNKNOWN, now)
        return
    if event.kind == "refused" and event.reason not in TRANSIENT:
        if order.apply(Trigger.REFUSED, now):
            order.reason = event.reason if event.reason != "other" else event.message or "other"
        return
    if order.apply(Trigger.NOT_SENT, now):
        order.next_at = now + max(event.retry_after_ms, policy.resend_ms)
        order.reason = event.message or event.reason or event.kind


def foreign_order(fill: FillReport, now: int) -> Order:
    """Return a placeholder for an order of somebody else. Its executed quantity is that of its fills."""
    leg = {"LIQUIDATION": "liquidation", "ADL": "adl"}.get(fill.order_type, "external")
    return Order(
        client_id=fill.client_order_id or f"venue-order-{fill.venue_order_id}",
        leg=leg,
        attempt=1,
        symbol=fill.symbol,
        side=fill.side,
        type=OrderType.MARKET,
        quantity=fill.quantity,
        price=None,
        trigger_price=None,
        time_in_force=None,
        reduce_only=True,
        intended_at=now,
        state=OrderState.FILLED,
        venue_order_id=fill.venue_order_id,
        foreign=True,
    )

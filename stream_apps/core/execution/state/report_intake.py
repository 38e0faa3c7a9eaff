"""How what the venue says becomes part of a trade: executions, refusals, and orders that are not ours."""

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

# Refusals after which the same order may be sent again: nothing about the order is wrong.
TRANSIENT = ("too_many_orders", "clock", "auth")


def book_fill(
    trade: Trade, order: Order, fill: FillReport, fee: Decimal | None, policy: LivePolicy, now: int, mode: str, actions: list[Action]
) -> bool:
    """Book an execution once and write it; return False for one that is booked already.

    A fee in an asset without a known price is estimated from the policy's rates and marked so: it is neither zero nor forgotten.
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
    """Return the fee of a fill in quote units; None where its asset has no known price.

    Args:
        fill: The execution.
        quote: Quote asset.
        coins: The bought asset of a spot position, in which a fee is worth the fill's own price; None for contracts.
        quotes: By symbol, for fees in a third asset.
    """
    if fill.fee_asset == quote or fill.fee == 0:
        return fill.fee
    if coins is not None and fill.fee_asset == coins:
        return fill.fee * fill.price
    priced = quotes.get(f"{fill.fee_asset}{quote}")
    return None if priced is None or priced.newest is None else fill.fee * mid_of(priced.newest)


def place_failed(order: Order, event: PlaceFailed, now: int, policy: LivePolicy) -> None:
    """Take in that an order was not accepted."""
    if event.kind == "unknown" or (event.kind == "refused" and event.reason == "duplicate_id"):
        # A known id means that an earlier sending arrived: its state is there to be asked for.
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
    """Return the stand-in of an order that is not ours: what is executed of it is what its fills say."""
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

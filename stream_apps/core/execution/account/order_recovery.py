"""Recover orders with an uncertain state: query them, send them again, and load reported executions without fills."""

from __future__ import annotations

from stream_apps.core.execution.orders.events import LoadFills, Place, Query
from stream_apps.core.execution.orders.order import Order, OrderState, Trigger
from stream_apps.core.execution.orders.venue_reports import OrderReport, OrderType, TimeInForce
from stream_apps.core.execution.state.trade_context import TradeContext


def step(context: TradeContext) -> None:
    """Issue the queries and repeated requests that are due."""
    for order in list(context.trade.orders.values()):
        if order.asked:
            continue
        if order.state is OrderState.WAITING:
            # One order of a pair is never sent alone: a new pair is created.
            if order.pair_id is None and context.due(order.next_at):
                order.apply(Trigger.SEND, context.now)
                context.actions.append(Place(order.request()))
        elif order.state is OrderState.UNKNOWN or (order.next_at and order.is_confirmed and _should_have_ended(order)):
            if context.due(order.next_at):
                _query(context, order)
        elif order.is_confirmed and _should_have_ended(order):
            # Its final report was lost: a market order does not rest.
            order.next_at = context.now + context.policy.query_max_ms
            context.due(order.next_at)
    missing = any(order.booked < order.reported for order in context.trade.orders.values())
    if missing:
        trade, grace = context.trade, context.policy.fills_grace_ms
        first = min(order.filled_at or context.now for order in trade.orders.values() if order.booked < order.reported)
        if context.due(max(first + grace, trade.asked_fills_at + context.policy.query_max_ms)):
            trade.asked_fills_at = context.now
            context.actions.append(LoadFills(trade.symbol, trade.started_at - context.policy.clock_margin_ms))


def _should_have_ended(order: Order) -> bool:
    return order.state is OrderState.TRIGGERED or (
        order.state in (OrderState.OPEN, OrderState.PARTIAL)
        and (order.type is OrderType.MARKET or order.time_in_force is TimeInForce.IOC or (order.is_stop and order.executed > 0))
    )


def _query(context: TradeContext, order: Order) -> None:
    order.asked = "query"
    context.actions.append(Query(order.symbol, order.client_id, order.is_stop))


def answered(order: Order, report: OrderReport | None, failed: bool, now: int, query_ms: int, query_max_ms: int, not_found_ms: int) -> bool:
    """Apply the answer to a query; return whether the order changed.

    "Not found" for an order with an unknown outcome counts only when no attempt can still arrive. For an order that the venue confirmed before it is a
    contradiction; after the same time it counts as the order's end.
    """
    order.asked = ""
    if report is not None:
        order.failures = 0
        order.next_at = now + query_max_ms if order.is_confirmed else now
        changed = order.take_report(report, now)
        order.next_at = now if order.state is OrderState.CANCELLING else now + query_max_ms
        return changed
    order.failures += 1
    order.next_at = now + min(query_ms * 2 ** min(order.failures - 1, 10), query_max_ms)
    if failed:
        return False
    if order.unknown_since is None:
        order.unknown_since = now
    if now < order.unknown_since + not_found_ms:
        return False
    if order.state is OrderState.UNKNOWN:
        return order.apply(Trigger.NOT_FOUND, now)
    order.reason = order.reason or "the venue no longer knows it"
    return order.apply(Trigger.EXPIRED, now)

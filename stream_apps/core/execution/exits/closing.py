"""End of a trade: timeout, closing at market, cleanup once it is flat, and closing a counter position."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.orders.order import Order, OrderState
from stream_apps.core.execution.orders.venue_reports import OrderType
from stream_apps.core.execution.state.trade import ENTRY_LEGS
from stream_apps.core.execution.state.trade_context import TradeContext

ZERO = Decimal(0)
_REFUSED = (OrderState.REJECTED, OrderState.EXPIRED)


def step(context: TradeContext) -> None:
    """Close the position if due; cancel orders that are no longer needed."""
    trade = context.trade
    exposure = trade.exposure
    position = trade.position
    if position.timeout_at is not None and trade.closing is None and exposure > 0 and context.due(position.timeout_at):
        context.close_at_market("timeout")
    if exposure < 0:
        turn_back(context, -exposure)
    elif trade.closing is not None and exposure > 0:
        _close(context, exposure)
    elif exposure == 0 and trade.entry.is_done and not any(_may_execute(order) for order in trade.of(*ENTRY_LEGS)):
        for order in trade.live:
            context.cancel(order)


def _may_execute(order: Order) -> bool:
    return not order.is_final


def _working(context: TradeContext) -> list[Order]:
    """Return exit orders that may be executing; no further exit is sent beside them.

    An order whose query had no answer does not count. All exits are reduce-only, so a second one cannot close too much. No other trade starts on the
    symbol before each of them is final.
    """
    return [
        order
        for order in context.trade.live
        if order.side is context.trade.exit_side
        and not order.is_in_doubt
        and ((order.type is OrderType.MARKET) or (order.is_stop and (order.state is OrderState.TRIGGERED or order.executed > 0)))
    ]


def _close(context: TradeContext, exposure: Decimal) -> None:
    trade = context.trade
    assert trade.closing is not None
    for order in trade.live:
        # The stop stays until the position is closed. A cancelled entry may still have filled; the next step handles it.
        if order.type is OrderType.LIMIT:
            context.cancel(order)
    if _working(context):
        return
    leg = trade.closing
    _refusal(context, leg)
    if context.may_retry(leg):
        context.place(leg, trade.exit_side, OrderType.MARKET, min(exposure, context.rules.market_max_quantity))


def _refusal(context: TradeContext, leg: str) -> None:
    newest = max((order for order in context.trade.of(leg) if not order.is_stop), key=lambda order: order.attempt, default=None)
    if newest is None or newest.judged or newest.executed or not (newest.is_in_doubt or newest.state in _REFUSED):
        return
    newest.judged = True
    context.was_refused(leg)
    if newest.reason == "reduce_only" or context.trade.refused[leg] >= 3:
        # The venue says that the position is closed already: load its fills and the position.
        context.ask_position()


def turn_back(context: TradeContext, quantity: Decimal) -> None:
    """More was closed than was open: close the counter position and request a reconciliation."""
    if any(order.leg == "counter" for order in context.trade.live):
        return
    _refusal(context, "counter")
    if context.may_retry("counter"):
        context.anomaly("counter position")
        for order in context.trade.live:
            context.cancel(order)
        context.place("counter", context.trade.entry_side, OrderType.MARKET, min(quantity, context.rules.market_max_quantity))

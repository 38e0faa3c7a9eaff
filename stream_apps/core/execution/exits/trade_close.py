"""The last steps of a plan: end a trade that is flat, and emit the records of what changed."""

from __future__ import annotations

from stream_apps.core.execution.orders.events import Action, Emit
from stream_apps.core.execution.routing.execution_cost import cost_record
from stream_apps.core.execution.state.records import closed_record, order_record, position_record, status_of
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.execution.state.trade_context import TradeContext
from stream_apps.core.paper.position import CLOSED, EXPIRED


def finish_trade(context: TradeContext) -> None:
    """End a trade if its entry has ended, nothing is open, every order is final and every reported execution is booked."""
    trade, position = context.trade, context.trade.position
    if trade.is_over or trade.queued or not trade.entry.is_done or trade.exposure != 0 or not trade.is_settled:
        return
    if trade.unprotected_since is not None:
        trade.gap_ms = max(trade.gap_ms, context.now - trade.unprotected_since)
        trade.unprotected_since = None
    trade.over_at = context.now
    if not trade.fills:
        position.status = EXPIRED
        return
    position.quantity = trade.entered
    position.status = CLOSED
    trade.add_up()


def closing_records(trade: Trade, mode: str, now: int) -> list[Action]:
    """Return the records of a closed trade whose funding payments are known: ``trades_closed`` and ``execution_cost_events``."""
    trade.is_reported = True
    return [
        Emit("trades_closed", closed_record(trade, mode, now)),
        Emit("execution_cost_events", cost_record(trade, mode, now, trade.position.entry_at)),
    ]


def emit_changes(context: TradeContext, mode: str) -> None:
    """Emit the orders and the position whose published state changed."""
    trade, position = context.trade, context.trade.position
    for order in trade.orders.values():
        status = status_of(order)
        if order.published != status:
            order.published = status
            context.actions.append(Emit("orders", order_record(trade, order, mode, context.now)))
    shown = (position.status, position.open_quantity, position.quantity, position.stop_price, position.entry_price, position.realised)
    if shown != trade.last_state:
        trade.last_state = shown
        context.actions.append(Emit("positions", position_record(trade, mode, context.now)))


def signature(trade: Trade) -> tuple[object, ...]:
    """Return a value that changes whenever a plan changes a journalled value."""
    position, run = trade.position, trade.entry
    states = tuple((order.client_id, order.state, order.reported) for order in trade.orders.values())
    entered = (run.stage, run.index, run.probed, run.reference, run.times[-1], run.reprices, run.timed_out)
    marks = (tuple(trade.taking), tuple(trade.crossed), trade.unprotected_since, trade.add_ons, trade.partial_taken, trade.gap_ms)
    held = (trade.closing, trade.stop_leg, position.stop_price, position.status, position.entry_price, len(trade.fills), len(trade.funding))
    return (*held, *entered, *marks, states)

"""The stop at the venue, from the first execution on, for exactly the open quantity. A replacement is placed and confirmed before the old stop is cancelled.

Two resting stops cannot close too much, because both are reduce-only. If the venue rejects a stop because it would trigger at once, the price is already
beyond it, and the position is closed at market. The time without a confirmed stop for the open quantity is measured. After ``window_ms`` the position is
closed at market, under the leg ``unprotected``.
"""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.sizing import ceil_to, nearest_tick
from stream_apps.core.execution.orders.order import CONFIRMED, UNCONFIRMED, Order, OrderState
from stream_apps.core.execution.orders.venue_reports import OrderType
from stream_apps.core.execution.state.trade_context import TradeContext

ZERO = Decimal(0)


def levels(context: TradeContext) -> None:
    """Set the levels from the average entry price during the entry; afterwards the exits set them."""
    trade, position = context.trade, context.trade.position
    average = trade.average_entry
    if average is None:
        return
    if trade.position.tp1_time is not None or trade.stop_leg != "stop":
        position.entry_price = average
        return
    told = [fill.time for fill in trade.fills.values() if fill.leg == "entry"]
    since = min(told) if told else position.entry_time if position.entry_time is not None else context.now
    if (position.entry_price, position.entry_time) != (average, since):
        position.set_levels(average, since)


def stops_of(context: TradeContext) -> list[Order]:
    """Return the stop orders that are not final."""
    return [order for order in context.trade.orders.values() if order.is_stop and not order.is_final]


def covered(context: TradeContext) -> Decimal:
    """Return the quantity that confirmed stops would close. A stop that is being cancelled still protects until the cancel is confirmed, but may not be
    counted on."""
    return sum(
        (order.remaining for order in stops_of(context) if order.state in CONFIRMED and order.state is not OrderState.CANCELLING), ZERO
    )


def step(context: TradeContext) -> None:
    """Keep the stop of a trade as it must be."""
    trade = context.trade
    _fired(context)
    exposure = trade.exposure
    _measure(context, exposure)
    if exposure <= 0 or trade.position.stop_price is None:
        return
    if trade.closing is not None:
        return
    wanted_price = nearest_tick(trade.position.stop_price, context.rules.tick)
    stops = stops_of(context)
    _refusals(context)
    if trade.closing is not None:
        return
    # Up to the step of market orders, which a reduce-only order may exceed; beyond the venue's largest order the rest is closed as unprotected.
    wanted = min(ceil_to(exposure, context.rules.market_lot), context.rules.market_max_quantity)
    fitting = [order for order in stops if order.quantity == wanted and order.trigger_price == wanted_price]
    for order in stops:
        if order not in fitting and order.state is OrderState.WAITING:
            context.cancel(order)
    confirmed = [order for order in fitting if order.state in (OrderState.OPEN,)]
    if confirmed:
        context.accepted("stop")
        keep = confirmed[0]
        for order in stops:
            if order is not keep and order.state not in UNCONFIRMED:
                context.cancel(order)
        return
    # One replacement at a time. A stop whose query had no answer does not count; another one is safe, because both are reduce-only.
    if not any(order.is_in_doubt is False and order.state in UNCONFIRMED for order in stops) and context.may_retry("stop"):
        context.place(trade.stop_leg, trade.exit_side, OrderType.STOP_MARKET, wanted, trigger=wanted_price)


def _fired(context: TradeContext) -> None:
    """Close the trade after a stop was triggered or executed."""
    for order in context.trade.orders.values():
        if order.is_stop and (order.state is OrderState.TRIGGERED or order.executed > 0):
            context.close_at_market(order.leg)


def _measure(context: TradeContext, exposure: Decimal) -> None:
    trade = context.trade
    if exposure <= 0 or covered(context) >= exposure:
        if trade.unprotected_since is not None:
            trade.gap_ms = max(trade.gap_ms, context.now - trade.unprotected_since)
        trade.unprotected_since = None
        return
    if trade.closing is not None:
        return
    if trade.unprotected_since is None:
        trade.unprotected_since = context.now
    if context.due(trade.unprotected_since + context.policy.protection.window_ms):
        trade.gap_ms = max(trade.gap_ms, context.now - trade.unprotected_since)
        context.close_at_market("unprotected")


def _refusals(context: TradeContext) -> None:
    """Handle the newest rejection of a stop, once."""
    stops = [order for order in context.trade.orders.values() if order.is_stop]
    newest = max(stops, key=lambda order: (order.intended_at, order.attempt), default=None)
    if newest is None or newest.judged or not (newest.is_in_doubt or newest.state in (OrderState.REJECTED, OrderState.EXPIRED)):
        return
    newest.judged = True
    if newest.reason == "would_trigger":
        context.close_at_market(newest.leg)
    elif newest.reason == "reduce_only":
        # The venue says that there is no position: query it before deciding.
        context.was_refused("stop")
        context.ask_position()
    elif context.was_refused("stop") >= context.policy.protection.stop_retries:
        context.close_at_market("unprotected")

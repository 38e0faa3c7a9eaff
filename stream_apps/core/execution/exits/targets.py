"""Take-profits: resting reduce-only post-only limit orders, half at TP1 and the rest at TP2. A target that does not fill in time is taken at market.

The half is rounded down to the lot. A position too small to be halved has only its second target. TP1 moves the stop to break-even by the paper model's
formula.

A trade with a trailing stop has no order at TP2. Once the mid is beyond it, the stop follows by the paper model's formula, in steps of 0.1 R.
"""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.machine import is_quiet
from stream_apps.core.execution.entry.sizing import floor_to, nearest_tick
from stream_apps.core.execution.orders.order import Order, OrderState
from stream_apps.core.execution.orders.venue_reports import OrderType, TimeInForce
from stream_apps.core.execution.state.trade import ENTRY_LEGS
from stream_apps.core.execution.state.trade_context import TradeContext
from stream_apps.core.paper.money import exact
from stream_apps.core.paper.position import OPEN, TP1_HIT

ZERO = Decimal(0)


def shares(context: TradeContext) -> dict[str, Decimal]:
    """Return the quantity of each target."""
    entered = context.trade.entered
    half = floor_to(entered / 2, context.rules.lot)
    if half < context.rules.min_quantity:
        half = ZERO
    return {"tp1": half, "tp2": entered - half}


def step(context: TradeContext) -> None:
    """Place, replace or cancel the targets of a trade."""
    trade = context.trade
    if trade.closing is not None and trade.position.status == OPEN and _is_hit(context):
        # The first target and the exit of the rest filled together; the target was still hit.
        trade.position.status, trade.position.tp1_time = TP1_HIT, context.now
    if trade.closing is not None or not is_quiet(context) or trade.exposure <= 0:
        return
    if any(not order.is_settled for order in trade.of(*ENTRY_LEGS)):
        # Some executions are reported but not booked, so the entry price and all levels are still estimates.
        return
    left_over = trade.exposure
    for leg, share in reversed(shares(context).items()):
        wanted = min(share - trade.executed(leg), left_over)
        left_over -= max(wanted, ZERO)
        if wanted >= context.rules.lot and (leg == "tp1" or not trade.position.trail_ratio):
            _target(context, leg, wanted)
    if trade.position.status == OPEN and _is_hit(context):
        _break_even(context)
    if trade.position.trail_ratio and context.mid is not None and trade.position.trail(float(context.mid)):
        trade.stop_leg = "trailing_stop"


def _target(context: TradeContext, leg: str, wanted: Decimal) -> None:
    trade, position = context.trade, context.trade.position
    level = position.tp1_price if leg == "tp1" else position.tp2_price
    assert level is not None
    live = [order for order in trade.of(leg) if not order.is_final]
    if live:
        for order in live:
            if order.is_confirmed:
                context.accepted(leg)
            moved = order.price != nearest_tick(level, context.rules.tick)
            if order.type is OrderType.LIMIT and (_overdue(context, leg, level) or moved or order.remaining > wanted):
                context.cancel(order)
        return
    _refusal(context, leg)
    if not context.may_retry(leg):
        return
    if leg in trade.taking:
        context.place(leg, trade.exit_side, OrderType.MARKET, min(wanted, context.rules.market_max_quantity))
    else:
        price = nearest_tick(level, context.rules.tick)
        context.place(leg, trade.exit_side, OrderType.LIMIT, wanted, price=price, time_in_force=TimeInForce.POST_ONLY)


def _overdue(context: TradeContext, leg: str, level: Decimal) -> bool:
    """Track how long the mid has been beyond a level; return whether the time-out has passed."""
    trade = context.trade
    if context.mid is None:
        return leg in trade.taking
    if trade.position.sign * (context.mid - level) < 0:
        trade.crossed.pop(leg, None)
        return leg in trade.taking
    since = trade.crossed.setdefault(leg, context.now)
    if context.due(since + context.policy.protection.tp_timeout_ms) and leg not in trade.taking:
        trade.taking.append(leg)
        trade.overshot += 1
    return leg in trade.taking


def _refusal(context: TradeContext, leg: str) -> None:
    """Handle the newest rejection of a target, once."""
    newest: Order | None = max(context.trade.of(leg), key=lambda order: order.attempt, default=None)
    if newest is None or newest.judged or newest.state not in (OrderState.REJECTED, OrderState.EXPIRED):
        return
    newest.judged = True
    if newest.reason == "reduce_only":
        context.was_refused(leg)
        context.ask_position()
    elif newest.time_in_force is TimeInForce.POST_ONLY and (newest.reason == "post_only" or newest.state is OrderState.EXPIRED):
        # The price is already beyond the level, so the target can be taken at market.
        if leg not in context.trade.taking:
            context.trade.taking.append(leg)
    else:
        context.was_refused(leg)


def _is_hit(context: TradeContext) -> bool:
    share = shares(context)["tp1"]
    return share > 0 and context.trade.executed("tp1") >= share


def _break_even(context: TradeContext) -> None:
    position = context.trade.position
    position.status, position.tp1_time = TP1_HIT, context.now
    if position.trail_moves:
        return  # the stop trails already, beyond break-even
    position.stop_price = position.break_even(exact(context.policy.fees.taker), context.policy.fee_basis)
    context.trade.stop_leg = "break_even_stop"

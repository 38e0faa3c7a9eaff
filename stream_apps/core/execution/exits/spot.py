"""Exits of a spot position: one-cancels-the-other pairs at the venue, and protection by this process where no pair rests.

A spot position is coins, and an order that sells them locks them. So two exits cannot rest at once, no exit can be replaced by placing first, and a stop is
never moved, nor does it trail. The venue takes its fee from the bought coins. So once entry fills are booked, a pair of target and stop is placed for the
uncovered quantity. Each pair keeps its prices.

**Protection.** The first possible of these:

1. ``pair``: the venue protects the position with the pair's stop. A fill of one order cancels the other.
2. ``stop``: the venue accepts no pair for the symbol, or rejected it ``pair_retries`` times in a row. A plain stop rests, and this process handles the
   target.
3. ``guard``: only this process protects the position. When the mid reaches the stop, it is closed at market (leg ``guard_stop``).

Case 3 applies while a pair is in flight and while entry fills are below the venue's smallest order. It also applies after a stop was lost (partly filled
target, or a pair cancelled by somebody), and after rejections in cases 1 and 2.

**The unprotected window.** In case 3 a crash leaves the position without a stop until the next start. This time is measured (``protection_gap_ms``). After
``guard_limit_ms``, or after ``protection.window_ms`` without a recent price, the position is closed at market. Closing first cancels every exit, because
exits lock the coins. That takes one round trip without protection by the venue.

**Remainders.** Coins below the venue's smallest order cannot be sold. They stay in the account, and leave the trade as an artificial fill of leg ``dust``
at the mid or at their entry price. If neither is known, the trade stays open with an anomaly until a price arrives. A fee in coins is an artificial fill
of leg ``base_fee`` at the fill's price.
"""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.machine import is_quiet
from stream_apps.core.execution.entry.sizing import floor_to, nearest_tick
from stream_apps.core.execution.exits.closing import turn_back
from stream_apps.core.execution.exits.protection import covered
from stream_apps.core.execution.orders.order import UNCONFIRMED, Order, OrderState
from stream_apps.core.execution.orders.venue_reports import FillReport, OrderType
from stream_apps.core.execution.state.report_intake import book_fill
from stream_apps.core.execution.state.trade import ENTRY_LEGS, Trade
from stream_apps.core.execution.state.trade_context import TradeContext

ZERO = Decimal(0)
# Ids of artificial fills count down from here, below those of the reconciler's corrections. Venues use positive ids.
FEE_NUMBERS, DUST_NUMBER = -(10**15), -(10**15)
_REFUSED = (OrderState.REJECTED, OrderState.EXPIRED)
STOP, PAIR, DUST = "stop", "pair", "dust"


def step(context: TradeContext, mode: str) -> None:
    """Place, replace or cancel the exits of a spot trade."""
    trade, position = context.trade, context.trade.position
    _fired(context)
    exposure = trade.exposure
    if position.timeout_at is not None and trade.closing is None and exposure > 0 and context.due(position.timeout_at):
        context.close_at_market("timeout")
    if exposure < 0:
        # More was sold than bought: buy back coins that did not belong to the trade.
        short = sellable(context, -exposure)
        if short > 0:
            turn_back(context, short)
        else:
            _leave_dust(context, mode)
        return
    if exposure > 0 and position.stop_price is not None:
        _guard(context, exposure)
        if trade.closing is None:
            _protect(context, exposure)
    if trade.closing is not None and exposure > 0:
        _close(context, exposure)
    elif exposure == 0 and trade.entry.is_done and all(order.is_final for order in trade.of(*ENTRY_LEGS)):
        _end_gap(context)
        for order in trade.live:
            context.cancel(order)
    _leave_dust(context, mode)


# --- effects of fills ---------------------------------------------------------------------------------------------------------


def take_fee(trade: Trade, fill: FillReport) -> tuple[Order, FillReport]:
    """Return an artificial order and fill for a fee that the venue took in coins, at the fill's price."""
    return _stand_in(trade, "base_fee", FEE_NUMBERS - fill.trade_id, fill.fee, fill.price, fill.time)


def _stand_in(trade: Trade, leg: str, number: int, quantity: Decimal, price: Decimal, time: int) -> tuple[Order, FillReport]:
    client_id = f"{leg}-{abs(number)}"
    side = trade.exit_side if quantity > 0 else trade.entry_side
    quantity = abs(quantity)
    order = Order(
        client_id, leg, 1 + len(trade.of(leg)), trade.symbol, side, OrderType.MARKET, quantity, None, None, None, True, time, price
    )
    order.state, order.foreign = OrderState.FILLED, True
    return order, FillReport(trade.symbol, number, client_id, "", side, price, quantity, ZERO, "", "taker", time)


def _leave_dust(context: TradeContext, mode: str) -> None:
    """Remove coins from the trade that no order can sell or buy back, once nothing else is open."""
    trade = context.trade
    left = trade.exposure
    if left == 0 or not is_quiet(context) or not trade.is_settled or sellable(context, abs(left)) > 0:
        return
    price = _value(context)
    if price is None:
        # No price is known for an artificial fill. The trade stays open, raises an anomaly, and ends with the next price.
        if context.may_retry(DUST):
            context.anomaly(f"{left.normalize():f} left to write off, and no price is known")
            context.was_refused(DUST)
        return
    number = DUST_NUMBER + len(trade.of(DUST))
    order, fill = _stand_in(trade, DUST, number, left, price, context.now)
    trade.orders[order.client_id] = order
    book_fill(trade, order, fill, ZERO, context.policy, context.now, mode, context.actions)


def sellable(context: TradeContext, quantity: Decimal) -> Decimal:
    """Return how much of a quantity one market order can sell; 0 if it is below the venue's smallest order.

    Without a price the least notional is not checked here. A rejected order costs nothing, but coins written off as dust do.
    """
    rules, price = context.rules, _value(context)
    part = min(floor_to(floor_to(quantity, rules.lot), rules.market_lot), rules.market_max_quantity)
    enough = part >= rules.min_quantity and part > 0 and (price is None or part * price >= rules.min_notional)
    return part if enough else ZERO


def _value(context: TradeContext) -> Decimal | None:
    """Return the value of a coin: the mid, else its entry price, else None."""
    return context.mid if context.mid is not None else context.trade.average_entry


# --- our own guard ------------------------------------------------------------------------------------------------------------


def _end_gap(context: TradeContext) -> None:
    """End the time without a stop at the venue; keep the longest time."""
    trade = context.trade
    if trade.unprotected_since is not None:
        trade.gap_ms = max(trade.gap_ms, context.now - trade.unprotected_since)
    trade.unprotected_since = None


def _guard(context: TradeContext, exposure: Decimal) -> None:
    """Measure the time without a stop at the venue, and close the position if the price crosses the stop."""
    trade, policy = context.trade, context.policy
    stop = trade.position.stop_price
    assert stop is not None
    if floor_to(exposure - covered(context), context.rules.lot) <= 0:
        _end_gap(context)
        return
    if trade.closing is not None:
        return
    if trade.unprotected_since is None:
        trade.unprotected_since = context.now
    since = trade.unprotected_since
    if context.mid is None:
        if context.due(since + policy.protection.window_ms):
            context.close_at_market("unprotected")
    elif context.mid <= stop:
        context.close_at_market("guard_stop")
    if context.due(since + policy.spot.guard_limit_ms):
        context.close_at_market("unprotected")


def _fired(context: TradeContext) -> None:
    """Close the trade after a stop executed."""
    for order in context.trade.orders.values():
        if order.is_stop and (order.state is OrderState.TRIGGERED or order.executed > 0):
            context.close_at_market(order.leg)


# --- pairs ----------------------------------------------------------------------------------------------------------------------


def _protect(context: TradeContext, exposure: Decimal) -> None:
    trade, policy = context.trade, context.policy
    exits = [order for order in trade.live if order.side is trade.exit_side]
    for order in exits:
        if order.state is OrderState.WAITING:
            # The pair never left this machine: create a new pair with the current prices.
            trade.retry_at[PAIR if order.pair_id is not None else STOP] = order.next_at
            context.cancel(order)
    _refusals(context)
    _mend(context)
    _mind_target(context)
    if trade.closing is not None:
        return
    exits = [order for order in trade.live if order.side is trade.exit_side]
    for order in exits:
        if order.state is OrderState.OPEN and order.is_stop:
            context.accepted(PAIR if order.pair_id is not None else STOP)
    if any(order.state in UNCONFIRMED or order.state is OrderState.CANCELLING for order in exits):
        # One at a time: a pair in flight may lock the coins.
        return
    if _fee_is_due(trade):
        return
    free = floor_to(exposure - _committed(exits), context.rules.lot)
    if not _enough(context, free) or (not is_quiet(context) and _pairs(exits) >= policy.spot.pairs - 1):
        return
    _place(context, free)


def _place(context: TradeContext, quantity: Decimal) -> None:
    trade, position, policy = context.trade, context.trade.position, context.policy
    target = position.tp1_price if policy.spot.target == "tp1" else position.tp2_price
    assert target is not None and position.stop_price is not None
    limit, trigger = nearest_tick(target, context.rules.tick), nearest_tick(position.stop_price, context.rules.tick)
    if context.rules.pairs and trade.refused.get(PAIR, 0) < policy.spot.pair_retries:
        if context.may_retry(PAIR):
            context.place_pair(policy.spot.target, STOP, trade.exit_side, quantity, limit, trigger)
    elif context.rules.stops and trade.refused.get(STOP, 0) < policy.protection.stop_retries and context.may_retry(STOP):
        context.place(STOP, trade.exit_side, OrderType.STOP_MARKET, quantity, trigger=trigger)


def _fee_is_due(trade: Trade) -> bool:
    """Return whether a reported entry execution has no fill yet. Its fee in coins is known only from the fill."""
    return any(order.booked < order.reported for order in trade.of(*ENTRY_LEGS))


def _enough(context: TradeContext, quantity: Decimal) -> bool:
    stop = context.trade.position.stop_price
    assert stop is not None
    return quantity >= context.rules.min_quantity and quantity * stop >= context.rules.min_notional


def _committed(exits: list[Order]) -> Decimal:
    """Return the quantity that open exits lock; the two orders of a pair count once."""
    by_pair: dict[str, Decimal] = {}
    for order in exits:
        name = order.pair_id or order.client_id
        by_pair[name] = max(by_pair.get(name, ZERO), order.remaining)
    return sum(by_pair.values(), ZERO)


def _pairs(exits: list[Order]) -> int:
    return len({order.pair_id for order in exits if order.pair_id is not None})


def _refusals(context: TradeContext) -> None:
    """Handle the newest rejection of a stop, alone or in a pair, once."""
    stops = [order for order in context.trade.orders.values() if order.is_stop]
    newest = max(stops, key=lambda order: order.attempt, default=None)
    if newest is None or newest.judged or newest.executed or newest.state not in _REFUSED or newest.confirmed_at is not None:
        return
    newest.judged = True
    if newest.reason == "would_trigger" and newest.pair_id is None:
        context.close_at_market(newest.leg)
        return
    if newest.reason == "not_supported":
        # Another attempt would not help.
        context.trade.refused[PAIR] = max(context.trade.refused.get(PAIR, 0), context.policy.spot.pair_retries - 1)
    if newest.reason == "insufficient_balance":
        context.ask_position()
    context.was_refused(PAIR if newest.pair_id is not None else STOP)


def _mend(context: TradeContext) -> None:
    """Cancel the target of a pair whose stop has ended, because only this process protects the coins that it locks.

    The stop may end before or after the report of the target's fill that caused it, so the fill gets a short time to arrive. A target that is filling may
    continue for ``tp_timeout_ms``; then the rest is taken at market.
    """
    trade, policy = context.trade, context.policy
    for target in [order for order in trade.live if order.type is OrderType.LIMIT and order.pair_id is not None]:
        stop = next((one for one in trade.orders.values() if one.pair_id == target.pair_id and one.is_stop), None)
        if stop is None or not stop.is_final or target.state in UNCONFIRMED:
            continue
        if target.executed > 0:
            if context.due((target.filled_at or context.now) + policy.protection.tp_timeout_ms):
                trade.overshot += 1
                context.close_at_market(target.leg)
        elif context.due((stop.ended_at or context.now) + policy.fills_grace_ms):
            context.cancel(target)


def _mind_target(context: TradeContext) -> None:
    """Take the target at market if no target rests for the whole position and the price was beyond it for ``tp_timeout_ms``."""
    trade, position = context.trade, context.trade.position
    leg = context.policy.spot.target
    level = position.tp1_price if leg == "tp1" else position.tp2_price
    if context.mid is None or level is None:
        return
    resting = sum((order.remaining for order in trade.of(leg) if order.is_confirmed), ZERO)
    if context.mid < level or resting >= floor_to(trade.exposure, context.rules.lot):
        trade.crossed.pop(leg, None)
    elif context.due(trade.crossed.setdefault(leg, context.now) + context.policy.protection.tp_timeout_ms):
        trade.overshot += 1
        context.close_at_market(leg)


# --- closing --------------------------------------------------------------------------------------------------------------------


def _close(context: TradeContext, exposure: Decimal) -> None:
    """Cancel every exit, because exits lock the coins, then sell at market."""
    trade = context.trade
    leg = trade.closing
    assert leg is not None
    for order in trade.live:
        if order.type is not OrderType.MARKET and not (order.is_stop and order.executed > 0):
            context.cancel(order)
    # A sale may run beside a pair whose query had no answer: a late pair finds no coins. A second sale is never sent: without reduce-only it could sell
    # other coins of the account.
    if any(order.type is OrderType.MARKET or not order.is_in_doubt for order in trade.live) or _fee_is_due(trade):
        return
    newest = max((one for one in trade.of(leg) if one.type is OrderType.MARKET), key=lambda one: one.attempt, default=None)
    if newest is not None and not newest.judged and not newest.executed and (newest.is_in_doubt or newest.state in _REFUSED):
        newest.judged = True
        if context.was_refused(leg) >= 3 or newest.reason == "insufficient_balance":
            context.ask_position()
    quantity = sellable(context, exposure)
    if quantity > 0 and context.may_retry(leg):
        context.place(leg, trade.exit_side, OrderType.MARKET, quantity)

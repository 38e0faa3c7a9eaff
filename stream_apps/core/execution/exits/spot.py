"""Exits of a spot position: one-cancels-the-other pairs at the venue, and our own guard wherever a pair does not stand.

A spot position is coins, and an order that may sell them locks them: two exits cannot rest beside each other, and nothing can be replaced by placing first.
So a stop is never moved. As soon as fills of the entry are told (the venue takes its fee from the bought coins), a pair of target and stop is placed for
what no pair covers yet; each pair keeps its prices.

**Who protects.** The first of these that holds:

1. ``pair``: the venue, by the pair's stop; filling one order ends the other.
2. ``stop``: the venue takes no pair (unknown to the symbol, or refused ``pair_retries`` times in a row): a plain stop rests there, and our process minds
   the target.
3. ``guard``: our process alone. The mid at the stop's level closes the position at market (leg ``guard_stop``).

3 holds while a pair is on its way, from the first fill on for as long as entry fills are below what the venue takes as an order, after a stop was lost (the
target was filled in part, or the pair was cancelled by somebody), and where 1 and 2 were refused.

**The unprotected window.** While 3 holds, a death of our process leaves the position without any stop until the next start. That time is measured
(``protection_gap_ms``); it is at most ``guard_limit_ms``, then the position is closed at market; without a fresh price to guard by at most
``protection.window_ms``. Closing cancels every exit first, because they lock the coins: that takes one round trip and is not protected by the venue.

**Remainders.** Coins below the venue's least order cannot be sold: they stay in the account, and leave the trade as a stand-in fill of leg ``dust`` at the
mid, or at what was paid for them. Where neither is known nothing is written off: the trade stays open, which is told, until a price comes. A fee taken in
coins leaves as a stand-in fill of leg ``base_fee`` at the fill's own price.
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
# Stand-ins count down from here: below the numbers of the reconciler's corrections, and no venue's.
FEE_NUMBERS, DUST_NUMBER = -(10**15), -(10**15)
_REFUSED = (OrderState.REJECTED, OrderState.EXPIRED)
STOP, PAIR, DUST = "stop", "pair", "dust"


def step(context: TradeContext, mode: str) -> None:
    """Keep the exits of a spot trade as they must be."""
    trade, position = context.trade, context.trade.position
    _fired(context)
    exposure = trade.exposure
    if position.timeout_at is not None and trade.closing is None and exposure > 0 and context.due(position.timeout_at):
        context.close_at_market("timeout")
    if exposure < 0:
        # More was sold than was bought: coins of other origin are bought back.
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


# --- what is told by fills ----------------------------------------------------------------------------------------------------


def take_fee(trade: Trade, fill: FillReport) -> tuple[Order, FillReport]:
    """Return the stand-in order and fill of a fee that was taken in coins: they left the position at the fill's own price."""
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
    """Let go of coins that no order can sell (or buy back), once nothing else is open."""
    trade = context.trade
    left = trade.exposure
    if left == 0 or not is_quiet(context) or not trade.is_settled or sellable(context, abs(left)) > 0:
        return
    price = _value(context)
    if price is None:
        # A stand-in would have to be booked at a price that nobody knows: the trade stays open, is told, and ends with the next price.
        if context.may_retry(DUST):
            context.anomaly(f"{left.normalize():f} left to write off, and no price is known")
            context.was_refused(DUST)
        return
    number = DUST_NUMBER + len(trade.of(DUST))
    order, fill = _stand_in(trade, DUST, number, left, price, context.now)
    trade.orders[order.client_id] = order
    book_fill(trade, order, fill, ZERO, context.policy, context.now, mode, context.actions)


def sellable(context: TradeContext, quantity: Decimal) -> Decimal:
    """Return how much of a quantity one market order can sell; 0 where it is below the venue's least order.

    While no price is known, the least notional is left for the venue to judge: an order that it refuses costs nothing, coins that are taken for dust do.
    """
    rules, price = context.rules, _value(context)
    part = min(floor_to(floor_to(quantity, rules.lot), rules.market_lot), rules.market_max_quantity)
    enough = part >= rules.min_quantity and part > 0 and (price is None or part * price >= rules.min_notional)
    return part if enough else ZERO


def _value(context: TradeContext) -> Decimal | None:
    """Return what a coin is worth: the mid, else what was paid for it; None where neither is known."""
    return context.mid if context.mid is not None else context.trade.average_entry


# --- our own guard ------------------------------------------------------------------------------------------------------------


def _end_gap(context: TradeContext) -> None:
    """End the time without a stop at the venue, keeping the longest."""
    trade = context.trade
    if trade.unprotected_since is not None:
        trade.gap_ms = max(trade.gap_ms, context.now - trade.unprotected_since)
    trade.unprotected_since = None


def _guard(context: TradeContext, exposure: Decimal) -> None:
    """Measure the time without a stop at the venue, and close where the price crosses the stop meanwhile."""
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
    """A stop that sells closes the trade, whatever else was in mind."""
    for order in context.trade.orders.values():
        if order.is_stop and (order.state is OrderState.TRIGGERED or order.executed > 0):
            context.close_at_market(order.leg)


# --- pairs ----------------------------------------------------------------------------------------------------------------------


def _protect(context: TradeContext, exposure: Decimal) -> None:
    trade, policy = context.trade, context.policy
    exits = [order for order in trade.live if order.side is trade.exit_side]
    for order in exits:
        if order.state is OrderState.WAITING:
            # It certainly did not leave: the pair is intended anew, with the prices of then.
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
        # One at a time: what is on its way may lock the coins.
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
    """Whether an entry was reported and its fill is not told: the fee, which is taken from the coins, stands in the fill."""
    return any(order.booked < order.reported for order in trade.of(*ENTRY_LEGS))


def _enough(context: TradeContext, quantity: Decimal) -> bool:
    stop = context.trade.position.stop_price
    assert stop is not None
    return quantity >= context.rules.min_quantity and quantity * stop >= context.rules.min_notional


def _committed(exits: list[Order]) -> Decimal:
    """Return the quantity that open exits lock; the two orders of a pair lock it once."""
    by_pair: dict[str, Decimal] = {}
    for order in exits:
        name = order.pair_id or order.client_id
        by_pair[name] = max(by_pair.get(name, ZERO), order.remaining)
    return sum(by_pair.values(), ZERO)


def _pairs(exits: list[Order]) -> int:
    return len({order.pair_id for order in exits if order.pair_id is not None})


def _refusals(context: TradeContext) -> None:
    """Judge the newest refusal of a stop, of a pair or by itself, once."""
    stops = [order for order in context.trade.orders.values() if order.is_stop]
    newest = max(stops, key=lambda order: order.attempt, default=None)
    if newest is None or newest.judged or newest.executed or newest.state not in _REFUSED or newest.confirmed_at is not None:
        return
    newest.judged = True
    if newest.reason == "would_trigger" and newest.pair_id is None:
        context.close_at_market(newest.leg)
        return
    if newest.reason == "not_supported":
        # Asking again would not help.
        context.trade.refused[PAIR] = max(context.trade.refused.get(PAIR, 0), context.policy.spot.pair_retries - 1)
    if newest.reason == "insufficient_balance":
        context.ask_position()
    context.was_refused(PAIR if newest.pair_id is not None else STOP)


def _mend(context: TradeContext) -> None:
    """Give up what is left of a pair whose stop is gone: its coins are locked by a target, and nothing but our process protects them.

    The stop's end is told before or after the fill of the target that caused it: a moment is waited for the fill. A target that is being filled is at its
    price: it has ``tp_timeout_ms`` to go on, then the rest is taken.
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
    """Take the target at market where none rests for all of the position and the price has been beyond it for ``tp_timeout_ms``."""
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
    """Cancel every exit, because they lock the coins, then sell at market."""
    trade = context.trade
    leg = trade.closing
    assert leg is not None
    for order in trade.live:
        if order.type is not OrderType.MARKET and not (order.is_stop and order.executed > 0):
            context.cancel(order)
    # Beside a pair that was asked for in vain is sold: should it arrive late, it finds no coins. Beside a sale never: no reduce-only stands between the
    # second one and coins of other origin.
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

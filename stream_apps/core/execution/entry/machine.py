"""The entry machine (signal-engine-product 10.3, platform-services 5): maker first, then taker within a slippage cap, in slices by notional.

Each slice starts with a post-only order at min(mid, best bid + offset x tick) (SHORT: max(mid, best ask - offset x tick)). An order that would cross is
repriced a few times. After its wait it is cancelled, and its filled part decides. At least ``min_fill_ratio`` filled: the rest is dropped. Mid moved at
most ``fallback_slippage_bps`` either way since the signal: the rest is taken. Otherwise the entry keeps its fills and ends. A taker order is an
IOC limit at the walk limit. The next slice starts when it is due and the one before has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from stream_apps.core.execution.entry.sizing import nearest_tick
from stream_apps.core.execution.orders.order import UNCONFIRMED, Order, OrderState
from stream_apps.core.execution.orders.venue_reports import OrderType, TimeInForce
from stream_apps.core.execution.settings.policy import EntryPolicy
from stream_apps.core.execution.settings.routes import Route, route_for, slice_times, slices_of
from stream_apps.core.execution.state.entry_run import MAKER, TAKER, WAITING, EntryRun
from stream_apps.core.execution.state.quotes import spread_bps
from stream_apps.core.execution.state.trade_context import TradeContext

ZERO = Decimal(0)
BPS = Decimal(10_000)


def start_run(
    name: str,
    quantity: Decimal,
    price: Decimal,
    lot: Decimal,
    minimum: Decimal,
    now: int,
    policy: EntryPolicy,
    *,
    no_maker: bool,
    no_slices: bool,
) -> EntryRun:
    """Return the run of an entry.

    Args:
        name: Signal id; its hash is the jitter of the slices.
        quantity: Base units.
        price: Expected price; with ``quantity`` it selects the route.
        lot, minimum: Step and least quantity of a slice.
        now: Wall ms.
        policy: Style and routes.
        no_maker, no_slices: The guard forbids maker orders or slices.
    """
    route = route_for(quantity * price, policy.routes) if policy.style == "routed" else None
    count = 1 if route is None or no_slices else route.slices
    slices = slices_of(quantity, count, lot, minimum)
    spacing = route.spacing_ms if route else 0
    return EntryRun(
        slices=list(slices),
        times=list(slice_times(name, now, len(slices), spacing, policy.jitter)),
        wait_ms=route.maker_wait_ms if route else policy.timeout_ms,
        maker=policy.style != "market" and not no_maker,
        expires_at=now + policy.expiry_ms,
    )


def step(context: TradeContext) -> None:
    """Advance the entry of a trade as far as possible now."""
    trade, run = context.trade, context.trade.entry
    live = [order for order in trade.of("entry") if not order.is_final]
    if not run.is_done:
        stopped = context.entries_blocked or (f"closing by {trade.closing}" if trade.closing else None)
        if stopped:
            run.end(stopped)
        elif run.reference is None and context.mid is not None:
            run.reference = context.mid
    if run.is_done:
        for order in live:
            context.cancel(order)
        return
    if context.due(run.expires_at):
        run.end("expired")
        for order in live:
            context.cancel(order)
        return
    if run.stage == WAITING:
        _begin_slice(context)
    elif run.stage == MAKER:
        _maker(context, live)
    elif run.stage == TAKER and not live:
        _after_taker(context)


def _begin_slice(context: TradeContext) -> None:
    run, quote = context.trade.entry, context.quote
    if not context.due(run.times[run.index]) or quote is None:
        return
    if not run.probed:
        run.probed = True
        if _spread_is_wide(context):
            _avoid_wide_spread(context)
            if not context.due(run.times[run.index]):
                return
    run.base, run.slice_started = context.trade.entered, context.now
    if run.maker and not context.no_maker:
        run.tried += 1
        run.stage = MAKER
        _place_maker(context)
    else:
        _place_taker(context)


def _spread_is_wide(context: TradeContext) -> bool:
    """R002-65: return whether the spread exceeds a multiple of its hourly mean; False without a mean."""
    if context.quote is None or context.mean_spread_bps is None:
        return False
    return spread_bps(context.quote) > float(context.policy.entry.probe_ratio) * context.mean_spread_bps


def _avoid_wide_spread(context: TradeContext) -> None:
    run, policy = context.trade.entry, context.policy.entry
    if policy.probe_action == "delay" or context.no_slices:
        run.times = [time + policy.probe_delay_ms for time in run.times]
        return
    lot = max(context.rules.lot, context.rules.market_lot)
    halves = slices_of(run.target, 2 * len(run.slices), lot, smallest(context))
    spacing = run.times[1] - run.times[0] if len(run.times) > 1 else _spacing(policy.routes)
    run.slices = list(halves)
    run.times = list(slice_times(context.trade.position.signal_id, context.now, len(halves), spacing, policy.jitter))


def _spacing(routes: Sequence[Route]) -> int:
    """Return the shortest spacing of a routing table, ms; 0 if no row has slices."""
    return min((row.spacing_ms for row in routes if row.spacing_ms), default=0)


def smallest(context: TradeContext) -> Decimal:
    """Return the smallest quantity that the venue accepts as an entry at the current price."""
    assert context.mid is not None
    by_notional = context.rules.min_notional / (context.mid * (1 - context.policy.entry.walk_limit_bps / BPS))
    return max(context.rules.min_quantity, by_notional)


def _left(run: EntryRun, entered: Decimal) -> Decimal:
    return run.slices[run.index] - (entered - run.base)


def _maker(context: TradeContext, live: list[Order]) -> None:
    trade, run = context.trade, context.trade.entry
    timed_out = context.due(run.slice_started + run.wait_ms)
    if live:
        if timed_out or context.no_maker:
            run.slice_timed_out = True
            for order in live:
                context.cancel(order)
        return
    left = _left(run, trade.entered)
    if left < context.rules.lot or left <= 0:
        run.end_slice()
        return
    last = max(trade.of("entry"), key=lambda order: order.attempt)
    if last.state is OrderState.REJECTED and not _would_cross(last):
        _give_up(context, last)
        return
    if context.quote is None:
        return
    again = _would_cross(last) or last.state is OrderState.LOST
    if again and not timed_out and run.reprices < context.policy.entry.reprices and not context.no_maker:
        run.reprices += 1
        _place_maker(context)
        return
    if run.slice_timed_out:
        run.timed_out += 1
    _fall_back(context, left)


def _would_cross(order: Order) -> bool:
    """Return whether a post-only order would cross. Venues reject such an order, or accept and expire it at once."""
    if order.executed or order.time_in_force is not TimeInForce.POST_ONLY:
        return False
    return order.reason == "post_only" or order.state is OrderState.EXPIRED


def _fall_back(context: TradeContext, left: Decimal) -> None:
    run, policy = context.trade.entry, context.policy.entry
    filled = context.trade.entered - run.base
    if filled >= policy.min_fill_ratio * run.slices[run.index]:
        run.end_slice()
        return
    assert context.mid is not None and run.reference is not None
    moved = abs(context.mid - run.reference) / run.reference * BPS
    if moved > policy.fallback_slippage_bps:
        run.end("slippage_cap")
        return
    if left < smallest(context):
        run.end_slice()
        return
    _place_taker(context)


def _give_up(context: TradeContext, order: Order) -> None:
    """End an entry that the venue rejected for a reason that a second attempt cannot fix."""
    context.trade.entry.end(order.reason or "rejected")


def _after_taker(context: TradeContext) -> None:
    trade, run = context.trade, context.trade.entry
    last = max(trade.of("entry"), key=lambda order: order.attempt)
    left = _left(run, trade.entered)
    if last.state is OrderState.REJECTED:
        _give_up(context, last)
    elif last.state is OrderState.LOST and left > 0 and context.quote is not None and left >= smallest(context):
        _fall_back(context, left)
    elif last.state is not OrderState.LOST or left <= 0 or context.quote is not None:
        run.end_slice()


def _place_maker(context: TradeContext) -> None:
    trade, quote, mid = context.trade, context.quote, context.mid
    assert quote is not None and mid is not None
    offset, tick = context.policy.entry.offset_ticks * context.rules.tick, context.rules.tick
    if trade.position.sign > 0:
        price = min(mid, quote.bid + offset)
        price = price - price % tick
    else:
        price = max(mid, quote.ask - offset)
        price = price + -price % tick
    left = _left(trade.entry, trade.entered)
    context.place("entry", trade.entry_side, OrderType.LIMIT, left, price=price, time_in_force=TimeInForce.POST_ONLY, reduce_only=False)


def _place_taker(context: TradeContext) -> None:
    trade, quote = context.trade, context.quote
    assert quote is not None
    trade.entry.stage = TAKER
    best = quote.ask if trade.position.sign > 0 else quote.bid
    limit = nearest_tick(best * (1 + trade.position.sign * context.policy.entry.walk_limit_bps / BPS), context.rules.tick)
    left = _left(trade.entry, trade.entered)
    context.place("entry", trade.entry_side, OrderType.LIMIT, left, price=limit, time_in_force=TimeInForce.IOC, reduce_only=False)


def is_quiet(context: TradeContext) -> bool:
    """Return whether no entry order can still fill."""
    run = context.trade.entry
    return (
        run.is_done
        and all(order.is_final for order in context.trade.of("entry"))
        and not any(order.state in UNCONFIRMED for order in context.trade.of("entry"))
    )

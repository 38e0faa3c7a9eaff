"""The rules of platform-services 6 by return on margin: trailing stop, partial exit, add-ons, full target. ``RoePolicy`` defines their order."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.machine import is_quiet, smallest
from stream_apps.core.execution.entry.sizing import floor_to, nearest_tick
from stream_apps.core.execution.orders.venue_reports import OrderType, TimeInForce
from stream_apps.core.execution.state.trade_context import TradeContext
from stream_apps.core.paper.money import exact

ZERO = Decimal(0)


def price_for_net(entry: Decimal, sign: int, quantity: Decimal, margin: Decimal, part: Decimal, fee: Decimal) -> Decimal:
    """Return the price at which a position nets ``part`` of its margin, fee rate f paid on both sides:

    sign (x - e) q - f (e + x) q = part M  ->  x = (e (sign + f) + part M / q) / (sign - f).  At part = 0 it is the break-even price.
    """
    return (entry * (sign + fee) + part * margin / quantity) / (sign - fee)


def return_on_margin(context: TradeContext) -> Decimal | None:
    """Return unrealised profit / margin at the mark price, or at the mid without a mark price; None without a price or a position."""
    trade, average = context.trade, context.trade.average_entry
    price = context.quote.mark if context.quote is not None and context.quote.mark is not None else context.mid
    if price is None or average is None or trade.exposure <= 0:
        return None
    return trade.position.sign * (price - average) / average * trade.leverage


def step(context: TradeContext) -> None:
    """Apply the rules once, at the current price."""
    trade, rules = context.trade, context.policy.roe
    if trade.closing is not None or not is_quiet(context) or any(not order.is_final for order in trade.of("partial", "add_on")):
        return
    roe = return_on_margin(context)
    if roe is None:
        return
    _trail(context, roe)
    if roe >= rules.partial_at and not trade.partial_taken:
        _partial(context)
    elif rules.add_ons and not trade.partial_taken and trade.add_ons < len(rules.add_on_at) and roe >= rules.add_on_at[trade.add_ons]:
        _add_on(context)
    elif rules.target is not None and roe >= rules.target:
        context.close_at_market("target")


def _trail(context: TradeContext, roe: Decimal) -> None:
    trade, position, rules = context.trade, context.trade.position, context.policy.roe
    if roe < rules.trail_first:
        return
    average, quantity = trade.average_entry, trade.exposure
    assert average is not None and position.stop_price is not None
    part = rules.lock if roe >= rules.trail_second else ZERO
    price = price_for_net(average, position.sign, quantity, average * quantity / trade.leverage, part, exact(context.policy.fees.taker))
    # A stop only ever moves towards profit.
    if position.sign * (price - position.stop_price) >= context.rules.tick:
        position.stop_price = nearest_tick(price, context.rules.tick)
        trade.stop_leg = "trailing_stop"


def _partial(context: TradeContext) -> None:
    trade = context.trade
    first = trade.executed("entry")
    wanted = first if trade.add_ons else floor_to(trade.exposure * context.policy.roe.partial_ratio, context.rules.market_lot)
    if not context.rules.min_quantity <= wanted < trade.exposure:
        trade.partial_taken = True
    elif context.may_retry("partial"):
        context.place("partial", trade.exit_side, OrderType.MARKET, wanted)
        trade.partial_taken = True


def _add_on(context: TradeContext) -> None:
    trade, quote = context.trade, context.quote
    if context.entries_blocked or quote is None:
        return
    wanted = trade.executed("entry")
    trade.add_ons += 1
    if wanted < smallest(context):
        return
    best = quote.ask if trade.position.sign > 0 else quote.bid
    limit = nearest_tick(best * (1 + trade.position.sign * context.policy.entry.walk_limit_bps / 10_000), context.rules.tick)
    context.place("add_on", trade.entry_side, OrderType.LIMIT, wanted, price=limit, time_in_force=TimeInForce.IOC, reduce_only=False)

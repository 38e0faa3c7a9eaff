"""The rules of platform-services 6 by return on margin: trailing stop, partial exit, add-ons, full target; their order stands in ``policy.RoePolicy``."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.machine import is_quiet, smallest
from stream_apps.core.execution.entry.sizing import floor_to, nearest_tick
from stream_apps.core.execution.orders.venue_reports import OrderType, TimeInForce
from stream_apps.core.execution.state.trade_context import Desk
from stream_apps.core.paper.money import exact

ZERO = Decimal(0)


def price_for_net(entry: Decimal, sign: int, quantity: Decimal, margin: Decimal, part: Decimal, fee: Decimal) -> Decimal:
    """Return the price at which a position nets ``part`` of its margin, fee rate f paid on both sides:

    sign (x - e) q - f (e + x) q = part M  ->  x = (e (sign + f) + part M / q) / (sign - f).  At part = 0 it is the break-even price.
    """
    return (entry * (sign + fee) + part * margin / quantity) / (sign - fee)


def return_on_margin(desk: Desk) -> Decimal | None:
    """Return unrealised profit / margin at the mark price (mid where no mark is known); None without a price or a position."""
    trade, average = desk.trade, desk.trade.average_entry
    price = desk.quote.mark if desk.quote is not None and desk.quote.mark is not None else desk.mid
    if price is None or average is None or trade.exposure <= 0:
        return None
    return trade.position.sign * (price - average) / average * trade.leverage


def step(desk: Desk) -> None:
    """Apply the rules once, at the present price."""
    trade, rules = desk.trade, desk.policy.roe
    if trade.closing is not None or not is_quiet(desk) or any(not order.is_final for order in trade.of("partial", "add_on")):
        return
    roe = return_on_margin(desk)
    if roe is None:
        return
    _trail(desk, roe)
    if roe >= rules.partial_at and not trade.partial_taken:
        _partial(desk)
    elif rules.add_ons and not trade.partial_taken and trade.add_ons < len(rules.add_on_at) and roe >= rules.add_on_at[trade.add_ons]:
        _add_on(desk)
    elif rules.target is not None and roe >= rules.target:
        desk.close_at_market("target")


def _trail(desk: Desk, roe: Decimal) -> None:
    trade, position, rules = desk.trade, desk.trade.position, desk.policy.roe
    if roe < rules.trail_first:
        return
    average, quantity = trade.average_entry, trade.exposure
    assert average is not None and position.stop_price is not None
    part = rules.lock if roe >= rules.trail_second else ZERO
    price = price_for_net(average, position.sign, quantity, average * quantity / trade.leverage, part, exact(desk.policy.fees.taker))
    # A stop only ever moves towards profit.
    if position.sign * (price - position.stop_price) >= desk.rules.tick:
        position.stop_price = nearest_tick(price, desk.rules.tick)
        trade.stop_leg = "trailing_stop"


def _partial(desk: Desk) -> None:
    trade = desk.trade
    first = trade.executed("entry")
    wanted = first if trade.add_ons else floor_to(trade.exposure * desk.policy.roe.partial_ratio, desk.rules.market_lot)
    if not desk.rules.min_quantity <= wanted < trade.exposure:
        trade.partial_taken = True
    elif desk.may_retry("partial"):
        desk.place("partial", trade.exit_side, OrderType.MARKET, wanted)
        trade.partial_taken = True


def _add_on(desk: Desk) -> None:
    trade, quote = desk.trade, desk.quote
    if desk.entries_blocked or quote is None:
        return
    wanted = trade.executed("entry")
    trade.add_ons += 1
    if wanted < smallest(desk):
        return
    best = quote.ask if trade.position.sign > 0 else quote.bid
    limit = nearest_tick(best * (1 + trade.position.sign * desk.policy.entry.walk_limit_bps / 10_000), desk.rules.tick)
    desk.place("add_on", trade.entry_side, OrderType.LIMIT, wanted, price=limit, time_in_force=TimeInForce.IOC, reduce_only=False)

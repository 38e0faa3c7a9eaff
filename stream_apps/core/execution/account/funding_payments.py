"""Assign funding payments to trades, and decide when all payments of a closed trade are known.

The venue lists a payment after its settlement. By then the trade may be closed, and another trade may hold the symbol. A payment belongs to the trade that
held the symbol at the settlement. The record of a closed trade waits until the payments were queried after its last settlement.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream_apps.core.execution.orders.venue_reports import FundingReport
from stream_apps.core.execution.state.trade import Trade

# All venues settle at full hours, each instrument at some of them.
HOUR_MS = 3_600_000
# The venue lists a payment within seconds of its settlement.
LISTED_MS = 10_000
# A payment's time is at most this long after its settlement. A position closed this shortly before it may still have paid.
STAMP_MS = 60_000
# Payments of trades that ended longer ago are not queried.
LATE_MS = 3_600_000


def payer(trades: Iterable[Trade], payment: FundingReport) -> Trade | None:
    """Return the trade of a payment; None if no trade held its symbol at the settlement or within a minute before."""
    held = [(trade, *span) for trade in trades if trade.symbol == payment.symbol and (span := _span(trade)) is not None]
    hour = payment.time - payment.time % HOUR_MS
    settled = [hour, payment.time] if payment.time - hour <= STAMP_MS else [payment.time]
    for at in settled:
        for trade, begun, ended in held:
            if begun < at and (ended is None or at <= ended):
                return trade
    near = [
        (begun, trade) for trade, begun, ended in held if begun < payment.time and ended is not None and payment.time - ended <= STAMP_MS
    ]
    return max(near, key=lambda one: one[0])[1] if near else None


def is_known(trade: Trade, asked_at: int, now: int, wait_ms: int) -> bool:
    """Return whether every payment of a closed trade has been queried.

    Args:
        trade: A closed trade.
        asked_at: Time of the newest list of payments, wall ms; 0 for never.
        now: Wall ms.
        wait_ms: Longest wait after the trade's last execution.
    """
    begun, ended = _span(trade) or (now, now)
    if ended is None:
        return False
    hour = ended - ended % HOUR_MS
    return hour <= begun or asked_at >= hour + LISTED_MS or now >= ended + wait_ms


def asked_since(trades: Iterable[Trade], now: int) -> int | None:
    """Return the time from which payments matter: the start of the oldest trade that is open or ended within the hour; None without one."""
    return min((one.started_at for one in trades if one.over_at is None or now - one.over_at <= LATE_MS), default=None)


def _span(trade: Trade) -> tuple[int, int | None] | None:
    """Return start and end of a trade's position from its fills; the end is None while it is open."""
    if not trade.fills:
        return None
    times = [fill.time for fill in trade.fills.values()]
    return min(times), max(times) if trade.is_over else None

"""Funding payments: whose each one is, and when all that a closed trade paid is known.

A payment is told after its settlement, by then the trade that held the symbol may be over, and another one may hold it. It belongs to the trade that held the
symbol when the venue settled. The record of a closed trade waits until the venue was asked after the last settlement that the trade was held over.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream_apps.core.execution.orders.venue_reports import FundingReport
from stream_apps.core.execution.state.trade import Trade

# All venues settle at full hours, each instrument at some of them.
HOUR_MS = 3_600_000
# The venue lists a payment within seconds of its settlement.
LISTED_MS = 10_000
# A payment's own time is at most this long after its settlement; a position that was closed so shortly before it may still have paid.
STAMP_MS = 60_000
# Trades that ended so long ago are no longer asked for.
LATE_MS = 3_600_000


def payer(trades: Iterable[Trade], payment: FundingReport) -> Trade | None:
    """Return the trade that a payment belongs to; None where none held its symbol at the settlement, nor within a minute before."""
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
    """Return whether every payment of a closed trade has been asked for.

    Args:
        trade: Closed.
        asked_at: When the newest list of payments was asked for, wall ms; 0 for never.
        now: Wall ms.
        wait_ms: After its last execution a trade waits no longer than this.
    """
    begun, ended = _span(trade) or (now, now)
    if ended is None:
        return False
    hour = ended - ended % HOUR_MS
    return hour <= begun or asked_at >= hour + LISTED_MS or now >= ended + wait_ms


def asked_since(trades: Iterable[Trade], now: int) -> int | None:
    """Return the time since which payments matter: the begin of the oldest trade that is open, or ended within the hour; None when there is none."""
    return min((one.started_at for one in trades if one.over_at is None or now - one.over_at <= LATE_MS), default=None)


def _span(trade: Trade) -> tuple[int, int | None] | None:
    """Return from when to when a trade had a position, by its fills; the end is None while it has one."""
    if not trade.fills:
        return None
    times = [fill.time for fill in trade.fills.values()]
    return min(times), max(times) if trade.is_over else None

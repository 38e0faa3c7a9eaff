"""Statistics of the equity curve after each closed trade: drawdowns with their dates, in R, money and per cent."""

from __future__ import annotations

from math import fsum

from stream_apps.core.performance.ledger import Drawdown, Ledger
from stream_apps.core.performance.registry import Value, statistic

DRAWDOWN = "Drawdown"


def deepest(found: list[Drawdown]) -> Drawdown | None:
    """Return the deepest drawdown, the first of equals."""
    return max(found, key=lambda one: one.depth, default=None)


def deepest_share(found: list[Drawdown]) -> Drawdown | None:
    """Return the drawdown of the largest share of its peak, the first of equals."""
    return max((one for one in found if one.fraction is not None), key=lambda one: one.fraction or 0.0, default=None)


@statistic(DRAWDOWN, "R")
def max_drawdown_r(ledger: Ledger) -> Value:
    """Largest fall of the running sum of net R from an earlier peak; the curve begins at 0 (D23; S1 8.6)."""
    return _depth(ledger, deepest(ledger.drawdowns_r))


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_r_peak(ledger: Ledger) -> Value:
    """When the peak before the largest drawdown in R was reached."""
    worst = deepest(ledger.drawdowns_r)
    return worst and worst.peak_time


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_r_trough(ledger: Ledger) -> Value:
    """When the largest drawdown in R was deepest."""
    worst = deepest(ledger.drawdowns_r)
    return worst and worst.trough_time


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_r_recovered(ledger: Ledger) -> Value:
    """When the curve was back at the peak of the largest drawdown in R; undefined where it never was."""
    worst = deepest(ledger.drawdowns_r)
    return worst and worst.recovered_time


@statistic(DRAWDOWN, "money")
def max_drawdown_money(ledger: Ledger) -> Value:
    """Largest fall of the equity from an earlier peak, the initial balance included (D23)."""
    return _depth(ledger, deepest(ledger.drawdowns_money))


@statistic(DRAWDOWN, "%")
def max_drawdown_pct(ledger: Ledger) -> Value:
    """Largest fall of the equity as 100 x (peak - trough) / peak (D23)."""
    if not ledger.trades:
        return None
    worst = deepest_share(ledger.drawdowns_money)
    return 0.0 if worst is None else 100 * (worst.fraction or 0.0)


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_pct_peak(ledger: Ledger) -> Value:
    """When the peak before the largest drawdown in per cent was reached."""
    worst = deepest_share(ledger.drawdowns_money)
    return worst and worst.peak_time


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_pct_trough(ledger: Ledger) -> Value:
    """When the largest drawdown in per cent was deepest."""
    worst = deepest_share(ledger.drawdowns_money)
    return worst and worst.trough_time


@statistic(DRAWDOWN, "ms UTC")
def max_drawdown_pct_recovered(ledger: Ledger) -> Value:
    """When the equity was back at the peak of the largest drawdown in per cent; undefined where it never was."""
    worst = deepest_share(ledger.drawdowns_money)
    return worst and worst.recovered_time


@statistic(DRAWDOWN, "count")
def drawdowns(ledger: Ledger) -> Value:
    """Stretches of the R curve below an earlier peak."""
    return len(ledger.drawdowns_r) if ledger.trades else None


@statistic(DRAWDOWN, "R")
def average_drawdown_r(ledger: Ledger) -> Value:
    """Mean depth of all drawdowns of the R curve."""
    return fsum(one.depth for one in ledger.drawdowns_r) / len(ledger.drawdowns_r)


@statistic(DRAWDOWN, "ms")
def longest_drawdown_ms(ledger: Ledger) -> Value:
    """Longest time from a peak of the R curve until it was reached again, or until the end of the period."""
    lengths = [_end(ledger, one) - one.peak_time for one in ledger.drawdowns_r]
    return max(lengths, default=0) if ledger.trades else None


@statistic(DRAWDOWN, "ms")
def drawdown_recovery_ms(ledger: Ledger) -> Value:
    """Longest time from a trough of the R curve back to the peak before it, over the drawdowns that were recovered."""
    return max((one.recovered_time - one.trough_time for one in ledger.drawdowns_r if one.recovered_time is not None), default=None)


@statistic(DRAWDOWN, "fraction")
def time_under_water(ledger: Ledger) -> Value:
    """Part of the period in which the R curve was below an earlier peak: from the first exit below it to the recovery, or to the end."""
    if not ledger.trades:
        return None
    times, curve = ledger.curve_times, ledger.curve_r
    total, peak = 0, curve[0]
    for place, value in enumerate(curve):
        until = times[place + 1] if place + 1 < len(times) else ledger.until
        if value < peak:
            total += until - times[place]
        peak = max(peak, value)
    return total / ledger.period_ms


@statistic(DRAWDOWN, "ratio")
def recovery_factor(ledger: Ledger) -> Value:
    """Net pnl / largest drawdown in money."""
    worst = deepest(ledger.drawdowns_money)
    return None if worst is None else fsum(ledger.net_pnl) / worst.depth


def _depth(ledger: Ledger, worst: Drawdown | None) -> Value:
    if not ledger.trades:
        return None
    return 0.0 if worst is None else worst.depth


def _end(ledger: Ledger, one: Drawdown) -> int:
    return ledger.until if one.recovered_time is None else one.recovered_time

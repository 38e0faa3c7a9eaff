"""Closed trades in order of exit, and the curves that follow from them (pure).

Sums are correctly rounded (``math.fsum``), so a statistic does not depend on the order in which trades are added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from stream_apps.core.performance.intervals import Bounds, profit_factor_bounds

DAY_MS = 86_400_000
Row = Mapping[str, Any]


class Drawdown(NamedTuple):
    """A stretch below an earlier peak of an equity curve.

    Attributes:
        depth: Peak less trough, in the curve's unit, > 0.
        fraction: Depth as a fraction of the peak; None where the peak is not above zero.
        peak_time: When the peak was reached, ms UTC; of the starting value: the beginning of the period.
        trough_time: When the trough was first reached, ms UTC.
        recovered_time: When the curve was first back at the peak, ms UTC; None: never.
    """

    depth: float
    fraction: float | None
    peak_time: int
    trough_time: int
    recovered_time: int | None


@dataclass(frozen=True)
class Ledger:
    """Closed trades of one account.

    Attributes:
        trades: ``trades_closed`` records in order of (event_time, trade_id). A row may have ``maker_notional`` and ``notional`` (of its fills, quote
            units); without them what needs them is undefined.
        initial_balance: Money at the beginning, quote units.
        since, until: The period in which trades could be made, ms UTC.
    """

    trades: Sequence[Row]
    initial_balance: float
    since: int
    until: int

    @classmethod
    def of(cls, trades: Iterable[Row], initial_balance: float, since: int, until: int) -> Ledger:
        """Return a ledger of trades in any order.

        Raises:
            ValueError: the balance is not above zero, the period runs backwards, or a trade lies outside it.
        """
        ordered = sorted(trades, key=lambda row: (row["event_time"], row["trade_id"]))
        if not initial_balance > 0:
            raise ValueError(f"initial_balance: must be above zero, got {initial_balance}")
        if until < since:
            raise ValueError(f"until: {until} lies before since, {since}")
        for row in ordered:
            if not since <= row["entry_time"] <= row["event_time"] <= until:
                raise ValueError(f"trades: {row['trade_id']}: {row['entry_time']} to {row['event_time']} is not within {since} to {until}")
        return cls(ordered, initial_balance, since, until)

    def column(self, name: str) -> list[float]:
        """Return a field of all trades."""
        return [row[name] for row in self.trades]

    @cached_property
    def net_r(self) -> list[float]:
        """Net result of each trade, R."""
        return self.column("net_r")

    @cached_property
    def net_pnl(self) -> list[float]:
        """Net result of each trade, quote units."""
        return self.column("net_pnl")

    @cached_property
    def wins(self) -> list[Row]:
        """Trades with net pnl > 0 (D23)."""
        return [row for row in self.trades if row["net_pnl"] > 0]

    @cached_property
    def losses(self) -> list[Row]:
        """Trades with net pnl < 0; a net pnl of exactly zero is neither."""
        return [row for row in self.trades if row["net_pnl"] < 0]

    @cached_property
    def profit_factor_bounds(self) -> Bounds:
        """95 % interval of the profit factor."""
        return profit_factor_bounds(self.net_pnl)

    @property
    def period_ms(self) -> int:
        """Length of the period."""
        return self.until - self.since

    # --- curves --------------------------------------------------------------------------------------------------------

    @cached_property
    def curve_r(self) -> list[float]:
        """Running sum of net R: 0, then the value after each trade."""
        return _running(0.0, self.net_r)

    @cached_property
    def curve_money(self) -> list[float]:
        """Equity in quote units: the initial balance, then the value after each trade. R is a fixed sum, so nothing compounds (D19)."""
        return _running(self.initial_balance, self.net_pnl)

    @cached_property
    def curve_times(self) -> list[int]:
        """Times of the curves: the beginning of the period, then each exit, ms UTC."""
        return [self.since, *(row["event_time"] for row in self.trades)]

    @cached_property
    def drawdowns_r(self) -> list[Drawdown]:
        """Every drawdown of the R curve, oldest first."""
        return drawdowns(self.curve_times, self.curve_r)

    @cached_property
    def drawdowns_money(self) -> list[Drawdown]:
        """Every drawdown of the equity, oldest first."""
        return drawdowns(self.curve_times, self.curve_money)

    # --- days ----------------------------------------------------------------------------------------------------------

    @cached_property
    def days(self) -> range:
        """UTC days (days since 1970) that the period touches; crypto trades on all of them."""
        return range(self.since // DAY_MS, self.until // DAY_MS + 1)

    @cached_property
    def day_pnl(self) -> list[float]:
        """Net pnl of the trades closed on each day, quote units; 0 on a day without."""
        by_day: dict[int, list[float]] = {}
        for row in self.trades:
            by_day.setdefault(row["event_time"] // DAY_MS, []).append(row["net_pnl"])
        return [math.fsum(by_day.get(day, ())) for day in self.days]

    @cached_property
    def day_equity(self) -> list[float]:
        """Equity: the initial balance, then at the end of each day, quote units."""
        return _running(self.initial_balance, self.day_pnl)

    @cached_property
    def returns(self) -> list[float] | None:
        """Daily returns: net pnl of the day / equity at its beginning. None where the equity was used up: a return on nothing has no meaning."""
        if min(self.day_equity[:-1]) <= 0:
            return None
        return [pnl / equity for pnl, equity in zip(self.day_pnl, self.day_equity, strict=False)]


def _running(start: float, steps: Sequence[float]) -> list[float]:
    """Return start and the value after each step; each is rounded once, like the sum of its prefix."""
    out, partials = [start], [start]
    for step in steps:
        partials = _grow(partials, step)
        out.append(math.fsum(partials))
    return out


def _grow(partials: list[float], x: float) -> list[float]:
    """Add x to non-overlapping partial sums (Shewchuk 1997, as in ``math.fsum``)."""
    kept = []
    for y in partials:
        if abs(x) < abs(y):
            x, y = y, x
        high = x + y
        low = y - (high - x)
        if low:
            kept.append(low)
        x = high
    return [*kept, x]


def drawdowns(times: Sequence[int], curve: Sequence[float]) -> list[Drawdown]:
    """Return every stretch of a curve below its running maximum, oldest first.

    Args:
        times: ms UTC, not descending.
        curve: Value from each time on.
    """
    found: list[Drawdown] = []
    peak, peak_time = curve[0], times[0]
    trough, trough_time = curve[0], times[0]
    for time, value in zip(times, curve, strict=True):
        if value >= peak:
            if trough < peak:
                found.append(_drawdown(peak, peak_time, trough, trough_time, time))
            peak, peak_time, trough, trough_time = value, time, value, time
        elif value < trough:
            trough, trough_time = value, time
    if trough < peak:
        found.append(_drawdown(peak, peak_time, trough, trough_time, None))
    return found


def _drawdown(peak: float, peak_time: int, trough: float, trough_time: int, recovered: int | None) -> Drawdown:
    return Drawdown(peak - trough, (peak - trough) / peak if peak > 0 else None, peak_time, trough_time, recovered)

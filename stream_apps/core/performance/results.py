"""Statistics of the single trades: counts, results, streaks, excursions, time in the market."""

from __future__ import annotations

from itertools import groupby
from math import fsum, sqrt
from statistics import median

from stream_apps.core.performance.intervals import wilson
from stream_apps.core.performance.ledger import DAY_MS, Ledger, Row
from stream_apps.core.performance.numbers import deviation, kurtosis, mean, skewness
from stream_apps.core.performance.registry import Value, statistic

TRADES, RESULT, EDGE, SPREAD, EXCURSION, TIME = "Trades", "Result", "Edge", "Spread of results", "Excursions", "Time in the market"


def _of(rows: list[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


# --- counts ------------------------------------------------------------------------------------------------------------
@statistic(TRADES, "count")
def trades(ledger: Ledger) -> Value:
    """Closed trades (D23)."""
    return len(ledger.trades)


@statistic(TRADES, "count")
def wins(ledger: Ledger) -> Value:
    """Trades with net pnl > 0 (D23)."""
    return len(ledger.wins)


@statistic(TRADES, "count")
def losses(ledger: Ledger) -> Value:
    """Trades with net pnl < 0."""
    return len(ledger.losses)


@statistic(TRADES, "fraction")
def win_rate(ledger: Ledger) -> Value:
    """Wins / trades (D23)."""
    return len(ledger.wins) / len(ledger.trades)


@statistic(TRADES, "fraction")
def win_rate_low(ledger: Ledger) -> Value:
    """Lower end of the 95 % interval of the win rate (Wilson 1927)."""
    return wilson(len(ledger.wins), len(ledger.trades))[0]


@statistic(TRADES, "fraction")
def win_rate_high(ledger: Ledger) -> Value:
    """Upper end of the 95 % interval of the win rate (Wilson 1927)."""
    return wilson(len(ledger.wins), len(ledger.trades))[1]


@statistic(TRADES, "fraction")
def long_share(ledger: Ledger) -> Value:
    """Trades on the LONG side / trades."""
    return sum(row["direction"] == "LONG" for row in ledger.trades) / len(ledger.trades)


@statistic(TRADES, "1/day")
def trades_per_day(ledger: Ledger) -> Value:
    """Trades / length of the period in days of 24 h."""
    return len(ledger.trades) * DAY_MS / ledger.period_ms


@statistic(TRADES, "count")
def longest_win_streak(ledger: Ledger) -> Value:
    """Most wins in a row, in order of exit; 0 without a win, undefined without trades."""
    return _streak(ledger, True)


@statistic(TRADES, "count")
def longest_loss_streak(ledger: Ledger) -> Value:
    """Most trades in a row that were no wins, in order of exit; undefined without trades."""
    return _streak(ledger, False)


def _streak(ledger: Ledger, won: bool) -> Value:
    if not ledger.trades:
        return None
    runs = groupby(row["net_pnl"] > 0 for row in ledger.trades)
    return max((len(list(run)) for kind, run in runs if kind == won), default=0)


# --- results -----------------------------------------------------------------------------------------------------------
@statistic(RESULT, "R")
def net_r(ledger: Ledger) -> Value:
    """Sum of net R: result of a trade / money it put at risk, after fees and funding (D14, D19)."""
    return fsum(ledger.net_r)


@statistic(RESULT, "money")
def net_pnl(ledger: Ledger) -> Value:
    """Sum of net pnl, after fees and funding."""
    return fsum(ledger.net_pnl)


@statistic(RESULT, "%")
def net_return(ledger: Ledger) -> Value:
    """100 x net pnl / initial balance."""
    return 100 * fsum(ledger.net_pnl) / ledger.initial_balance


@statistic(RESULT, "money")
def gross_profit(ledger: Ledger) -> Value:
    """Sum of net pnl of the wins."""
    return fsum(_of(ledger.wins, "net_pnl"))


@statistic(RESULT, "money")
def gross_loss(ledger: Ledger) -> Value:
    """Sum of net pnl of the losses; not above zero."""
    return fsum(_of(ledger.losses, "net_pnl"))


@statistic(RESULT, "R")
def best_trade_r(ledger: Ledger) -> Value:
    """Largest net R of a trade."""
    return max(ledger.net_r, default=None)


@statistic(RESULT, "R")
def worst_trade_r(ledger: Ledger) -> Value:
    """Smallest net R of a trade."""
    return min(ledger.net_r, default=None)


# --- edge --------------------------------------------------------------------------------------------------------------
@statistic(EDGE, "ratio")
def profit_factor(ledger: Ledger) -> Value:
    """Gross profit / |gross loss| (D23). Undefined without a loss."""
    return fsum(_of(ledger.wins, "net_pnl")) / -fsum(_of(ledger.losses, "net_pnl"))


@statistic(EDGE, "ratio")
def profit_factor_low(ledger: Ledger) -> Value:
    """Lower end of the 95 % interval of the profit factor (delta method on its logarithm); undefined without a win or a loss."""
    return ledger.profit_factor_bounds[0]


@statistic(EDGE, "ratio")
def profit_factor_high(ledger: Ledger) -> Value:
    """Upper end of the 95 % interval of the profit factor (delta method on its logarithm); undefined without a win or a loss."""
    return ledger.profit_factor_bounds[1]


@statistic(EDGE, "R")
def expectancy_r(ledger: Ledger) -> Value:
    """Mean net R of a trade (D23)."""
    return mean(ledger.net_r)


@statistic(EDGE, "money")
def expectancy_money(ledger: Ledger) -> Value:
    """Mean net pnl of a trade."""
    return mean(ledger.net_pnl)


@statistic(EDGE, "R")
def average_win_r(ledger: Ledger) -> Value:
    """Mean net R of the wins."""
    return mean(_of(ledger.wins, "net_r"))


@statistic(EDGE, "R")
def average_loss_r(ledger: Ledger) -> Value:
    """Mean net R of the losses; below zero."""
    return mean(_of(ledger.losses, "net_r"))


@statistic(EDGE, "ratio")
def payoff(ledger: Ledger) -> Value:
    """Mean net pnl of the wins / |mean net pnl of the losses| (D23)."""
    return mean(_of(ledger.wins, "net_pnl")) / -mean(_of(ledger.losses, "net_pnl"))


@statistic(EDGE, "fraction")
def break_even_win_rate(ledger: Ledger) -> Value:
    """1 / (1 + payoff): the win rate at which this payoff earns nothing (S1 10.9)."""
    return 1 / (1 + mean(_of(ledger.wins, "net_pnl")) / -mean(_of(ledger.losses, "net_pnl")))


@statistic(EDGE, "fraction")
def kelly_fraction(ledger: Ledger) -> Value:
    """W - (1 - W) / payoff, W the win rate; below zero there is no edge to bet on. Kelly, Bell System Technical Journal 35 (1956), as used for
    two outcomes."""
    rate = len(ledger.wins) / len(ledger.trades)
    return rate - (1 - rate) / (mean(_of(ledger.wins, "net_pnl")) / -mean(_of(ledger.losses, "net_pnl")))


@statistic(EDGE, "ratio")
def sqn(ledger: Ledger) -> Value:
    """sqrt(N) x mean net R / sample standard deviation of net R: Van Tharp's system quality number without his cap of N at 100; it equals the t
    statistic of the mean."""
    return sqrt(len(ledger.net_r)) * mean(ledger.net_r) / deviation(ledger.net_r)


# --- spread ------------------------------------------------------------------------------------------------------------
@statistic(SPREAD, "R")
def median_r(ledger: Ledger) -> Value:
    """Median net R of a trade."""
    return median(ledger.net_r) if ledger.net_r else None


@statistic(SPREAD, "R")
def deviation_r(ledger: Ledger) -> Value:
    """Sample standard deviation (n - 1) of net R."""
    return deviation(ledger.net_r)


@statistic(SPREAD, "ratio")
def skew_r(ledger: Ledger) -> Value:
    """Skewness of net R, third central moment / population standard deviation ^ 3 (Fisher-Pearson g1, biased)."""
    return skewness(ledger.net_r)


@statistic(SPREAD, "ratio")
def kurtosis_r(ledger: Ledger) -> Value:
    """Excess kurtosis of net R, fourth central moment / variance ^ 2 - 3 (g2, biased; 0 for a normal distribution)."""
    return kurtosis(ledger.net_r) - 3


# --- excursions --------------------------------------------------------------------------------------------------------
@statistic(EXCURSION, "R")
def average_mfe_r(ledger: Ledger) -> Value:
    """Mean most favourable excursion: best trade price while open, from the entry, in R (D23)."""
    return mean(ledger.column("mfe_r"))


@statistic(EXCURSION, "R")
def average_mae_r(ledger: Ledger) -> Value:
    """Mean most adverse excursion: worst trade price while open, from the entry, in R, >= 0 (D23)."""
    return mean(ledger.column("mae_r"))


@statistic(EXCURSION, "ratio")
def edge_ratio(ledger: Ledger) -> Value:
    """Mean MFE / mean MAE: the e-ratio of Faith, Way of the Turtle (2007), with R in place of ATR."""
    return mean(ledger.column("mfe_r")) / mean(ledger.column("mae_r"))


@statistic(EXCURSION, "R")
def winners_mae_r(ledger: Ledger) -> Value:
    """Mean MAE of the wins: how far they went wrong first (Sweeney, Maximum Adverse Excursion, 1996)."""
    return mean(_of(ledger.wins, "mae_r"))


@statistic(EXCURSION, "R")
def losers_mfe_r(ledger: Ledger) -> Value:
    """Mean MFE of the losses: what was on the table before they were lost (Sweeney 1996)."""
    return mean(_of(ledger.losses, "mfe_r"))


# --- time --------------------------------------------------------------------------------------------------------------
@statistic(TIME, "fraction")
def exposure(ledger: Ledger) -> Value:
    """Part of the period in which at least one position was open: length of the union of [entry, exit] / period (D23)."""
    total, reached = 0, ledger.since
    for start, end in sorted((row["entry_time"], row["event_time"]) for row in ledger.trades):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total / ledger.period_ms if ledger.trades else None


@statistic(TIME, "ms")
def average_hold_ms(ledger: Ledger) -> Value:
    """Mean time from entry to the last exit (D23)."""
    return mean(ledger.column("hold_ms"))


@statistic(TIME, "ms")
def median_hold_ms(ledger: Ledger) -> Value:
    """Median time from entry to the last exit."""
    return median(ledger.column("hold_ms")) if ledger.trades else None


@statistic(TIME, "ms")
def longest_hold_ms(ledger: Ledger) -> Value:
    """Longest time from entry to the last exit."""
    return max(ledger.column("hold_ms"), default=None)

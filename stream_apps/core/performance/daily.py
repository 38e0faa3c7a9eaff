"""Statistics of the daily returns: net pnl of a UTC day / equity at its beginning, every day of the period counted (D23: x sqrt(365)).

The risk-free rate and the target return are 0. Undefined with fewer than ``LEAST_DAILY_RETURNS`` returns, and where the equity was used up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import exp, fsum, log1p, sqrt
from statistics import NormalDist

from stream_apps.core.performance.ledger import Ledger
from stream_apps.core.performance.numbers import deviation, kurtosis, mean, quantile, skewness
from stream_apps.core.performance.registry import Function, Value, statistic

RETURNS = "Daily returns"
DAYS_A_YEAR = 365
# The standard error of a Sharpe ratio is about sqrt(365 / n): 4.3 at 20 returns. Of fewer, a ratio is noise: two days of one recording gave 416.
LEAST_DAILY_RETURNS = 20
Returns = Sequence[float]


def daily(unit: str) -> Callable[[Callable[[Returns], Value]], Function]:
    """Register a function of the daily returns, which is undefined with too few of them or without a trade."""

    def register(function: Callable[[Returns], Value]) -> Function:
        @wraps(function)
        def of_ledger(ledger: Ledger) -> Value:
            returns = ledger.returns if ledger.trades else None
            return None if returns is None or len(returns) < LEAST_DAILY_RETURNS else function(returns)

        return statistic(RETURNS, unit)(of_ledger)

    return register


def sharpe_of(returns: Returns) -> float:
    """Return mean / sample standard deviation, not annualised. Raises ZeroDivisionError without spread."""
    return mean(returns) / deviation(returns)


def growth_of(returns: Returns) -> float:
    """Return the yearly rate of compounded growth: prod(1 + r) ^ (365 / days) - 1. Raises OverflowError beyond doubles."""
    if min(returns) <= -1:
        return -1.0
    return exp(fsum(log1p(value) for value in returns) * DAYS_A_YEAR / len(returns)) - 1


def falls_of(returns: Returns) -> list[float]:
    """Return how far the compounded curve lies below its running maximum after each day, fractions >= 0; the curve begins at 1."""
    value = peak = 1.0
    falls = []
    for one in returns:
        value *= 1 + one
        peak = max(peak, value)
        falls.append(1 - value / peak)
    return falls


def sharpe_probability(ratio: float, count: int, skew: float, kurtosis_: float, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio is above a benchmark.

    Phi((s - b) sqrt(n - 1) / sqrt(1 - g3 s + (g4 - 1) / 4 s^2)). Bailey and Lopez de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15 (2012).

    Args:
        ratio, benchmark: s and b, of one return's period, not annualised.
        count: n, returns.
        skew, kurtosis_: g3 and g4 of the returns; 0 and 3 for a normal distribution.
    """
    return NormalDist().cdf((ratio - benchmark) * sqrt(count - 1) / sqrt(1 - skew * ratio + (kurtosis_ - 1) / 4 * ratio**2))


@daily("ratio")
def sharpe(returns: Returns) -> Value:
    """Mean / sample standard deviation of daily returns x sqrt(365) (D23; Sharpe 1994)."""
    return sharpe_of(returns) * sqrt(DAYS_A_YEAR)


@daily("ratio")
def sortino(returns: Returns) -> Value:
    """Mean daily return / sqrt(mean of min(r, 0)^2 over all days) x sqrt(365) (D23; Sortino and Price 1994, target 0)."""
    return mean(returns) / sqrt(fsum(min(value, 0.0) ** 2 for value in returns) / len(returns)) * sqrt(DAYS_A_YEAR)


@daily("fraction")
def annual_growth(returns: Returns) -> Value:
    """prod(1 + r) ^ (365 / days) - 1; over a few days it says little."""
    return growth_of(returns)


@daily("fraction")
def annual_volatility(returns: Returns) -> Value:
    """Sample standard deviation of daily returns x sqrt(365)."""
    return deviation(returns) * sqrt(DAYS_A_YEAR)


@daily("ratio")
def calmar(returns: Returns) -> Value:
    """Annual growth / largest fall of the daily equity as a fraction of its peak (D23; Young 1991, over the whole period)."""
    return growth_of(returns) / max(falls_of(returns))


@daily("ratio")
def omega(returns: Returns) -> Value:
    """Sum of daily returns above 0 / |sum of those below 0| (Keating and Shadwick 2002, threshold 0)."""
    return fsum(value for value in returns if value > 0) / -fsum(value for value in returns if value < 0)


@daily("ratio")
def gain_to_pain(returns: Returns) -> Value:
    """Sum of daily returns / |sum of the negative ones| (Schwager, Hedge Fund Market Wizards, 2012; daily instead of monthly). It is omega - 1."""
    return fsum(returns) / -fsum(value for value in returns if value < 0)


@daily("ratio")
def tail_ratio(returns: Returns) -> Value:
    """|95th percentile| / |5th percentile| of daily returns, linear interpolation (as empyrical defines it)."""
    return abs(quantile(returns, 0.95)) / abs(quantile(returns, 0.05))


@daily("ratio")
def common_sense_ratio(returns: Returns) -> Value:
    """Tail ratio x omega (as quantstats defines it: tail ratio x profit factor of the days)."""
    gains, pains = fsum(value for value in returns if value > 0), -fsum(value for value in returns if value < 0)
    return abs(quantile(returns, 0.95)) / abs(quantile(returns, 0.05)) * gains / pains


@daily("%")
def ulcer_index(returns: Returns) -> Value:
    """100 x sqrt(mean of squared falls from the running peak, one a day) (Martin and McCann 1989)."""
    falls = falls_of(returns)
    return 100 * sqrt(fsum(fall**2 for fall in falls) / len(falls))


@daily("ratio")
def martin_ratio(returns: Returns) -> Value:
    """Annual growth / ulcer index as a fraction (Martin and McCann 1989)."""
    falls = falls_of(returns)
    return growth_of(returns) / sqrt(fsum(fall**2 for fall in falls) / len(falls))


@daily("fraction")
def value_at_risk_95(returns: Returns) -> Value:
    """5th percentile of daily returns, linear interpolation: historical value at risk; below zero is a loss."""
    return quantile(returns, 0.05)


@daily("fraction")
def expected_shortfall_95(returns: Returns) -> Value:
    """Mean of the daily returns at or below their 5th percentile (historical CVaR)."""
    limit = quantile(returns, 0.05)
    return mean([value for value in returns if value <= limit])


@daily("ratio")
def skew_daily(returns: Returns) -> Value:
    """Skewness of daily returns (g1, biased)."""
    return skewness(returns)


@daily("ratio")
def kurtosis_daily(returns: Returns) -> Value:
    """Excess kurtosis of daily returns (g2, biased)."""
    return kurtosis(returns) - 3


@daily("fraction")
def probabilistic_sharpe(returns: Returns) -> Value:
    """Probability that the true Sharpe ratio is above 0: Phi(s sqrt(n - 1) / sqrt(1 - g3 s + (g4 - 1) / 4 s^2)), s the daily Sharpe ratio, g3 skewness,
    g4 kurtosis (Bailey and Lopez de Prado, The Sharpe Ratio Efficient Frontier, 2012)."""
    return sharpe_probability(sharpe_of(returns), len(returns), skewness(returns), kurtosis(returns))


@daily("count")
def minimum_track_record_days(returns: Returns) -> Value:
    """Days after which the Sharpe ratio would be above 0 with 95 % confidence: 1 + (1 - g3 s + (g4 - 1) / 4 s^2) (Phi^-1(0.95) / s)^2 (Bailey and
    Lopez de Prado 2012); undefined where it is not above 0."""
    ratio = sharpe_of(returns)
    return (
        1 + (1 - skewness(returns) * ratio + (kurtosis(returns) - 1) / 4 * ratio**2) * (NormalDist().inv_cdf(0.95) / ratio) ** 2
        if ratio > 0
        else None
    )


@daily("fraction")
def up_days(returns: Returns) -> Value:
    """Days with a return above 0 / days."""
    return sum(value > 0 for value in returns) / len(returns)


@daily("fraction")
def best_day(returns: Returns) -> Value:
    """Largest daily return."""
    return max(returns)


@daily("fraction")
def worst_day(returns: Returns) -> Value:
    """Smallest daily return."""
    return min(returns)

"""Statistics of the best of many trials (pure): deflated Sharpe ratio and control of false discoveries."""

from __future__ import annotations

from collections.abc import Sequence
from math import e, sqrt
from statistics import NormalDist

from stream_apps.core.performance.daily import sharpe_of, sharpe_probability
from stream_apps.core.performance.numbers import deviation, kurtosis, skewness

EULER = 0.5772156649015329


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Return the expected Sharpe ratio of the best of several trials that have no edge.

    sqrt(V) ((1 - g) Phi^-1(1 - 1/N) + g Phi^-1(1 - 1/(N e))), g the Euler-Mascheroni constant. Bailey and Lopez de Prado, The Deflated
    Sharpe Ratio, Journal of Portfolio Management 40 (2014). For one trial it is 0: there was no choice.

    Args:
        trials: Number of independent trials, at least 1.
        variance: Variance of the trials' Sharpe ratios, of the same period as the compared ratio.

    Raises:
        ValueError: no trial, or a variance below zero.
    """
    if trials < 1:
        raise ValueError(f"trials: must be at least 1, got {trials}")
    if variance < 0:
        raise ValueError(f"variance: must not be negative, got {variance}")
    if trials == 1:
        return 0.0
    normal = NormalDist()
    return sqrt(variance) * ((1 - EULER) * normal.inv_cdf(1 - 1 / trials) + EULER * normal.inv_cdf(1 - 1 / (trials * e)))


def deflated_sharpe(returns: Sequence[float], trial_sharpes: Sequence[float]) -> float | None:
    """Return the probability that the chosen trial's true Sharpe ratio exceeds the expected best by chance (Bailey and Lopez de Prado 2014).

    Args:
        returns: Returns of the chosen trial, one for each day or each trade.
        trial_sharpes: Sharpe ratios of all trials, including the chosen one, of returns of the same kind, not annualised.

    Returns:
        None below two returns or without spread.

    Raises:
        ValueError: no trials.
    """
    if not trial_sharpes:
        raise ValueError("trial_sharpes: must hold every trial, got none")
    if len(returns) < 2 or deviation(returns) == 0:
        return None
    variance = deviation(trial_sharpes) ** 2 if len(trial_sharpes) > 1 else 0.0
    benchmark = expected_best_sharpe(len(trial_sharpes), variance)
    return sharpe_probability(sharpe_of(returns), len(returns), skewness(returns), kurtosis(returns), benchmark)


def false_discovery_control(p_values: Sequence[float], rate: float) -> list[bool]:
    """Return which hypotheses are accepted, so that the expected share of false ones among them is at most ``rate``.

    The step-up procedure of Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995). It accepts all up to the largest
    k with p(k) <= k rate / n. It is for tests that are independent or positively dependent.

    Raises:
        ValueError: a rate outside (0, 1), or a p-value outside [0, 1].
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate: must be within 0 and 1, got {rate}")
    for value in p_values:
        if not 0 <= value <= 1:
            raise ValueError(f"p_values: must be from 0 to 1, got {value}")
    ordered = sorted(p_values)
    limit = max((value for place, value in enumerate(ordered, 1) if value <= place * rate / len(ordered)), default=-1.0)
    return [value <= limit for value in p_values]

"""What the best of many trials is worth (pure): deflated Sharpe ratio and control of false discoveries."""

from __future__ import annotations

from collections.abc import Sequence
from math import e, sqrt
from statistics import NormalDist

from stream_apps.core.performance.daily import sharpe_of, sharpe_probability
from stream_apps.core.performance.numbers import deviation, kurtosis, skewness

EULER = 0.5772156649015329


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of some trials without any edge is expected to show.

    sqrt(V) ((1 - g) Phi^-1(1 - 1/N) + g Phi^-1(1 - 1/(N e))), g the Euler-Mascheroni constant. Bailey and Lopez de Prado, The Deflated Sharpe Ratio,
    Journal of Portfolio Management 40 (2014). One trial: 0, nothing was chosen.

    Args:
        trials: Independent trials, at least 1.
        variance: Of the trials' Sharpe ratios, in the same period as what it is compared with.

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
    """Return the probability that the chosen trial's true Sharpe ratio is above what chance gives the best of all (Bailey and Lopez de Prado 2014).

    Args:
        returns: Of the chosen trial, one for each day or each trade.
        trial_sharpes: Sharpe ratios of all trials, the chosen one included, of returns of the same kind, not annualised.

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
    """Return which hypotheses are accepted so that the expected share of false ones among them is at most ``rate``.

    The step-up procedure of Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995): all up to the largest k with p(k) <= k rate / n;
    for tests that are independent or positively dependent.

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

"""Confidence intervals of the figures that are judged most often (pure): the win rate and the profit factor.

A win rate or a profit factor stands nowhere without its count and its interval: 7 wins of 10 say that the true rate lies between 40 and 89 %.
Both formulas are sums, so that a dashboard can repeat them in SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum, isfinite, log, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
# 1.96: the normal quantile of a two-sided interval.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

Bounds = tuple[float | None, float | None]
NONE: Bounds = (None, None)


def wilson(wins: int, trades: int) -> Bounds:
    """Return the 95 % interval of a share; (None, None) without observations.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if not trades:
        return NONE
    share = wins / trades
    centre, spread = share + Z * Z / (2 * trades), Z * sqrt(share * (1 - share) / trades + Z * Z / (4 * trades * trades))
    return max(0.0, (centre - spread) / (1 + Z * Z / trades)), min(1.0, (centre + spread) / (1 + Z * Z / trades))


def profit_factor_bounds(net_pnl: Sequence[float]) -> Bounds:
    """Return the 95 % interval of gross profit / |gross loss|; (None, None) without a win or without a loss.

    f exp(+- z s), s^2 = n / (n - 1) (sum w^2 / (sum w)^2 + sum l^2 / (sum l)^2) with the wins w and the losses l of n trades: the delta method on
    log f, which is the difference of the logarithms of two means (Casella and Berger, Statistical Inference, 5.5.4).

    Args:
        net_pnl: Net result of each closed trade, quote units.
    """
    wins, losses = [value for value in net_pnl if value > 0], [-value for value in net_pnl if value < 0]
    if not wins or not losses:
        return NONE
    gained, lost = fsum(wins), fsum(losses)
    # Divided before squaring: the square of a small sum may underflow.
    spread = fsum((value / gained) ** 2 for value in wins) + fsum((value / lost) ** 2 for value in losses)
    half = Z * sqrt(len(net_pnl) / (len(net_pnl) - 1) * spread)
    factor = gained / lost
    low, high = factor * exp(-half), factor * exp(half)
    return (low, high) if isfinite(high) and factor > 0 and isfinite(log(factor)) else NONE

"""How well a feature predicts returns: rank information coefficient, its t statistic, its ratio over time, and importance (pure).

Features and returns of one instrument are two series on the evaluation grid. Returns of a horizon overlap, and features of a window hardly
change from one instant to the next. An ordinary t statistic mistakes that for evidence. So the error of the coefficient is that of Newey
and West (1987) with the horizon as lag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from stream_apps.research.splits import purged_k_fold

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
# With fewer instants than this many horizons the coefficient is undefined.
LEAST_HORIZONS = 5
# A feature that is missing more often is left out of the importance model.
LEAST_COVERAGE = 0.5


@dataclass(frozen=True)
class Coefficient:
    """Rank information coefficient of a feature at a horizon.

    Attributes:
        feature, horizon_ms: Feature and horizon.
        count: Number of instants with both values.
        ic: Spearman's correlation of feature and return. t: Its Newey-West t statistic. p: Two-sided, normal. None where undefined.
        ir: Mean / standard deviation of the coefficients of the blocks of time. blocks: Number of blocks with a coefficient.
        same_sign: Share of the blocks with the sign of the whole.
    """

    feature: str
    horizon_ms: int
    count: int
    ic: float | None
    t: float | None
    p: float | None
    ir: float | None
    blocks: int
    same_sign: float | None


def forward_returns(times: Times, prices: Floats, horizon_ms: int, stale_ms: int) -> Floats:
    """Return the return from each instant to ``horizon_ms`` later; NaN where a price is unknown.

    Args:
        times: Instants, ms UTC, ascending. prices: Prices at them; NaN: unknown.
        horizon_ms: Above zero.
        stale_ms: Maximum age of the later price.
    """
    known = np.flatnonzero(np.isfinite(prices))
    found = np.full(len(times), np.nan)
    if not len(known):
        return found
    wanted = times + horizon_ms
    place = np.searchsorted(times[known], wanted, "right") - 1
    at = known[np.maximum(place, 0)]
    fits = (place >= 0) & (wanted - times[at] <= stale_ms) & (times[at] > times) & np.isfinite(prices)
    found[fits] = prices[at][fits] / prices[fits] - 1
    return found


def ranks(values: Floats) -> Floats:
    """Return the ranks from 1 on. Equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: Floats = (last - (count - 1) / 2)[place].astype(np.float64)
    return found


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Return Spearman's correlation of the pairs with two known values; None below three pairs or without spread."""
    both = np.isfinite(x) & np.isfinite(y)
    one, other = x[both], y[both]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.clip(np.corrcoef(ranks(one), ranks(other))[0, 1], -1.0, 1.0))


def newey_west_t(x: Floats, y: Floats, lags: int) -> float | None:
    """Return the t statistic of the slope of y on x with the errors of Newey and West (Econometrica 55 (1987)), Bartlett weights; None without spread."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread == 0 or np.ptp(y) == 0:
        return None
    slope = float(centred @ y) / spread
    scores = centred * (y - y.mean() - slope * centred)
    variance = float(scores @ scores)
    for lag in range(1, min(lags, len(scores) - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(scores[lag:] @ scores[:-lag])
    return slope / (sqrt(variance) / spread) if variance > 0 else None


def coefficient(
    feature: str, times: Times, values: Floats, returns: Floats, horizon_ms: int, grid_ms: int, block_ms: int, least_block: int = 30
) -> Coefficient:
    """Return the information coefficient of a feature.

    Args:
        feature: Its name.
        times: Instants, ms UTC, ascending. values, returns: Values at them; NaN: unknown.
        horizon_ms: Horizon of the returns. grid_ms: Step of the instants.
        block_ms: Length of the blocks of time whose coefficients make the ratio: a day, or less with few instants.
        least_block: Minimum number of pairs in a block.
    """
    both = np.isfinite(values) & np.isfinite(returns)
    count = int(both.sum())
    ic = rank_correlation(values, returns)
    t = None
    if ic is not None and count * grid_ms >= LEAST_HORIZONS * horizon_ms:
        t = newey_west_t(ranks(values[both]), ranks(returns[both]), -(-horizon_ms // grid_ms))
    parts = []
    blocks = times // block_ms
    for block in np.unique(blocks[both]):
        inside = both & (blocks == block)
        one = rank_correlation(values[inside], returns[inside]) if int(inside.sum()) >= least_block else None
        if one is not None:
            parts.append(one)
    spread = float(np.std(parts, ddof=1)) if len(parts) > 1 else 0.0
    return Coefficient(
        feature,
        horizon_ms,
        count,
        ic,
        t,
        None if t is None else 2 * NormalDist().cdf(-abs(t)),
        float(np.mean(parts)) / spread if spread > 0 else None,
        len(parts),
        None if ic is None or not parts else float(np.mean(np.sign(parts) == np.sign(ic))),
    )


@dataclass(frozen=True)
class Importance:
    """Permutation importance: the loss of a linear rank model out of sample when a feature is shifted in time.

    Attributes:
        feature: Name.
        drop: Mean fall of the out-of-sample rank correlation. spread: Standard deviation over folds and repeats.
    """

    feature: str
    drop: float
    spread: float


@dataclass(frozen=True)
class Model:
    """Importance of all features in one model.

    Attributes:
        score: Mean out-of-sample rank correlation over the folds. None: too little data.
        folds: (training samples, test samples, correlation) of each.
        importances: Most important first. left_out: Features that are missing too often or never change.
    """

    score: float | None
    folds: list[tuple[int, int, float]]
    importances: list[Importance]
    left_out: list[str]


def importance(
    times: Times,
    features: Mapping[str, Floats],
    returns: Floats,
    horizon_ms: int,
    *,
    folds: int = 5,
    embargo_ms: int = 0,
    repeats: int = 5,
    ridge: float = 0.02,
    seed: int = 0,
) -> Model:
    """Return the permutation importance of features, over purged K folds with embargo.

    The model is a ridge regression of the ranks. Within a test fold a feature is rolled round by a random number of instants. This breaks
    its relation to the returns and keeps its own dependence on time. A sample is an instant and lasts until its return is known; purging
    removes training samples that overlap the test.

    Args:
        times: Instants, ms UTC, ascending. features: Name -> values. returns: Of ``horizon_ms``; NaN: not known.
        folds, embargo_ms: As in ``purged_k_fold``.
        repeats: Number of rolls of each feature and fold.
        ridge: Penalty, as a share of the number of samples.
        seed: Seed of the rolls.
    """
    known = np.isfinite(returns)
    at, y = times[known], returns[known]
    columns, names, left_out = [], [], []
    for name, values in features.items():
        column = values[known]
        there = np.isfinite(column)
        if not len(y) or there.mean() < LEAST_COVERAGE or np.ptp(column[there]) == 0:
            left_out.append(name)
            continue
        columns.append(column)
        names.append(name)
    if not names or len(y) < folds * 2:
        return Model(None, [], [], left_out)
    source = np.random.default_rng(seed)
    parts: list[tuple[int, int, float]] = []
    drops: dict[str, list[float]] = {name: [] for name in names}
    spans = [(begin, begin + horizon_ms) for begin in at.tolist()]
    for train, test in purged_k_fold(spans, folds, embargo_ms):
        if len(train) <= len(names) or len(test) < 3:
            continue
        # Ranks are those among the training's values, so that the test adds no information to the model.
        weights = _ridge(_ranked(columns, train, train), ranks(y[train]) / len(train) - 0.5, ridge)
        inside = _ranked(columns, train, test)
        score = rank_correlation(inside @ weights, y[test])
        if score is None:
            continue
        parts.append((len(train), len(test), score))
        for place, name in enumerate(names):
            for _ in range(repeats):
                moved = inside.copy()
                moved[:, place] = np.roll(moved[:, place], int(source.integers(1, len(test))))
                drops[name].append(score - (rank_correlation(moved @ weights, y[test]) or 0.0))
    if not parts:
        return Model(None, [], [], left_out)
    made = [Importance(name, float(np.mean(lost)), float(np.std(lost))) for name, lost in drops.items()]
    return Model(float(np.mean([one[2] for one in parts])), parts, sorted(made, key=lambda one: -one.drop), left_out)


def _ranked(columns: Sequence[Floats], among: Sequence[int], of: Sequence[int]) -> Floats:
    """Return the rank of samples among the known values of others, -0.5 to 0.5. A missing value gets the middle, which is neutral."""
    found = np.zeros((len(of), len(columns)))
    for place, column in enumerate(columns):
        base = np.sort(column[among])
        base = base[np.isfinite(base)]
        asked = column[of]
        there = np.isfinite(asked)
        if len(base):
            both = np.searchsorted(base, asked[there], "left") + np.searchsorted(base, asked[there], "right")
            found[there, place] = both / (2 * len(base)) - 0.5
    return found


def _ridge(x: Floats, y: Floats, ridge: float) -> Floats:
    return np.asarray(np.linalg.solve(x.T @ x + ridge * len(y) * np.eye(x.shape[1]), x.T @ y), dtype=np.float64)


def strongest(found: Sequence[Coefficient]) -> list[Coefficient]:
    """Return coefficients with the largest |t| first. Those without one come last, in their order."""
    return sorted(found, key=lambda one: -abs(one.t) if one.t is not None else 1.0)

"""A/B: two strategies side by side, from their closed trades and their scores (S1 10.9, DECISIONS D23). Pure.

Definitions:

- Figures of one side are those of ``core.performance`` of the same name, as in every report.
- Mean R: of ``net_r``, per unit of risk, so that tiers and balances do not count. Its interval and that of the difference of two means are percentile
  bootstraps (Efron 1979): resampled with replacement, each side by itself, with a fixed seed. Trades are taken as independent; overlapping trades of one
  market are not quite, so the true intervals are wider.
- Correlation of scores: Pearson's r over the instants at which both were warm on one instrument, of the ungated score with the sign of its lean (LONG
  +, SHORT -). None with fewer than three instants or when one never changes.

**When the sample is too small.** Below ``LEAST_TRADES`` closed trades of either side (100, the target of S1 10.9), or ``LEAST_IN_GROUP`` in a group (50, there
for each coin), no verdict is given, whatever the figures say. With enough, one is better when the interval of the difference does not hold 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.performance import STATISTICS, Ledger

Record = dict[str, Any]
Floats = npt.NDArray[np.float64]

LEAST_TRADES = 100
LEAST_IN_GROUP = 50
CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 20_260_302
_FIGURES = (
    "win_rate", "win_rate_low", "win_rate_high", "profit_factor", "profit_factor_low", "profit_factor_high", "expectancy_r", "net_r", "net_pnl",
    "max_drawdown_r", "max_drawdown_money",
)  # fmt: skip
# Drawn at once, so that memory does not grow with the sample.
_DRAWS = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether a value lies in it."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Side:
    """Figures of one strategy's closed trades. Those that need trades are None without any; an interval needs two.

    Attributes:
        trades, wins: Numbers.
        win_rate: Share of wins, 0-1. win_rate_low, win_rate_high: 95 % interval of it (Wilson).
        mean_r: Mean net R. interval: Of it.
        net_r, net_pnl: Sums, R and quote units.
        profit_factor: None without a loss. profit_factor_low, profit_factor_high: 95 % interval of it; None without a win or a loss.
        drawdown_r, drawdown_pnl: Max drawdown, >= 0; 0 without trades.
        configurations: Hashes of the configurations behind the trades, sorted: with more than one the figures mix strategies.
    """

    trades: int
    wins: int
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    mean_r: float | None
    interval: Interval | None
    net_r: float
    net_pnl: float
    profit_factor: float | None
    profit_factor_low: float | None
    profit_factor_high: float | None
    drawdown_r: float
    drawdown_pnl: float
    configurations: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Both sides, of all trades or of one group.

    Attributes:
        name: Of the group.
        a, b: The sides.
        difference: Mean R of A less that of B. interval: Of it.
        least: Trades that each side must have for a verdict.
        verdict: ``A``, ``B``, ``neither`` (the interval holds 0) or ``too few trades``.
    """

    name: str
    a: Side
    b: Side
    difference: float | None
    interval: Interval | None
    least: int
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The whole of it.

    Attributes:
        all: All trades.
        groups: ``symbol``, ``hour`` (UTC hour of the entry) and ``tier`` -> pairs in order of the name.
        correlation: Of the scores. instants: Over so many.
    """

    all: Pair
    groups: dict[str, list[Pair]]
    correlation: float | None
    instants: int


_GROUPS: dict[str, Callable[[Record], str]] = {
    "symbol": lambda trade: str(trade["instrument"]),
    "hour": lambda trade: f"{trade['entry_time'] // 3_600_000 % 24:02}",
    "tier": lambda trade: str(trade["tier"]),
}


def compare(
    trades_a: Iterable[Record],
    trades_b: Iterable[Record],
    scores_a: Iterable[Record] = (),
    scores_b: Iterable[Record] = (),
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two strategies.

    Args:
        trades_a, trades_b: Their ``trades_closed`` records.
        scores_a, scores_b: Their ``scores`` records.
        seed, resamples: Of the bootstraps.
    """
    a, b = _in_order(trades_a), _in_order(trades_b)
    groups = {}
    for name, key in _GROUPS.items():
        members = sorted({key(trade) for trade in (*a, *b)})
        groups[name] = [
            _pair(m, [t for t in a if key(t) == m], [t for t in b if key(t) == m], LEAST_IN_GROUP, seed, resamples) for m in members
        ]
    correlation, instants = score_correlation(scores_a, scores_b)
    return Comparison(_pair("all", a, b, LEAST_TRADES, seed, resamples), groups, correlation, instants)


def _in_order(trades: Iterable[Record]) -> list[Record]:
    return sorted(trades, key=lambda trade: (trade["event_time"], trade["trade_id"]))


def _pair(name: str, a: Sequence[Record], b: Sequence[Record], least: int, seed: int, resamples: int) -> Pair:
    first, second = side(a, seed, resamples), side(b, seed + 1, resamples)
    difference = interval = None
    if first.mean_r is not None and second.mean_r is not None:
        difference = first.mean_r - second.mean_r
        if min(len(a), len(b)) > 1:
            # The same resamples as of the sides' own intervals.
            interval = _interval(_means(_column(a, "net_r"), seed, resamples) - _means(_column(b, "net_r"), seed + 1, resamples))
    if min(len(a), len(b)) < least or interval is None:
        verdict = "too few trades"
    elif interval.holds(0.0):
        verdict = "neither"
    else:
        verdict = "A" if interval.low > 0 else "B"
    return Pair(name, first, second, difference, interval, least, verdict)


def side(trades: Sequence[Record], seed: int = SEED, resamples: int = RESAMPLES) -> Side:
    """Return the figures of trades in the order of their exits."""
    ledger = Ledger(trades, 0.0, 0, 0)  # what is asked of it here depends on neither balance nor period
    value = {name: STATISTICS[name].of(ledger) for name in _FIGURES}
    return Side(
        trades=len(trades),
        wins=len(ledger.wins),
        win_rate=value["win_rate"],
        win_rate_low=value["win_rate_low"],
        win_rate_high=value["win_rate_high"],
        mean_r=value["expectancy_r"],
        interval=_interval(_means(_column(trades, "net_r"), seed, resamples)) if len(trades) > 1 else None,
        net_r=value["net_r"] or 0.0,
        net_pnl=value["net_pnl"] or 0.0,
        profit_factor=value["profit_factor"],
        profit_factor_low=value["profit_factor_low"],
        profit_factor_high=value["profit_factor_high"],
        drawdown_r=value["max_drawdown_r"] or 0.0,
        drawdown_pnl=value["max_drawdown_money"] or 0.0,
        configurations=tuple(sorted({str(trade["config_hash"]) for trade in trades})),
    )


def score_correlation(scores_a: Iterable[Record], scores_b: Iterable[Record]) -> tuple[float | None, int]:
    """Return the correlation of two strategies' scores and the number of instants that both have."""
    one, other = _signed(scores_a), _signed(scores_b)
    common = sorted(one.keys() & other.keys())
    x, y = np.array([one[key] for key in common]), np.array([other[key] for key in common])
    if len(common) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, len(common)
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0)), len(common)


_SIGNS = {"LONG": 1.0, "SHORT": -1.0, "NONE": 0.0}


def _signed(scores: Iterable[Record]) -> dict[tuple[str, int], float]:
    return {(score["instrument"], score["event_time"]): score["ungated_score"] * _SIGNS[score["lean"]] for score in scores if score["warm"]}


def _column(trades: Sequence[Record], name: str) -> Floats:
    return np.array([trade[name] for trade in trades], dtype=np.float64)


def _means(values: Floats, seed: int, resamples: int) -> Floats:
    """Return the means of resamples with replacement."""
    source = np.random.default_rng(seed)
    rows = max(1, _DRAWS // len(values))
    parts = [
        values[source.integers(0, len(values), (min(rows, resamples - done), len(values)))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def _interval(means: Floats) -> Interval:
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))

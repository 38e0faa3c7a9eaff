"""Auto-evolve: proposes changes of paper strategies (S1 section 9 with its defects repaired; DECISIONS D17, D30). Pure.

Running strategies are judged by fitness. Each instrument's best one is the parent of mutations, drawn by seed from the pool of its regime.
The training period selects some of them, and they are judged out of sample. If too many evolved strategies run, the worst are deprecated.

Repaired defects: only closed trades count (16.2 no. 15). All times are ms UTC (5). Every mutation passes the rules of D17 (17). Regimes
come from the scores, normalised by price and volume (D15). The pool is sampled by seed; before, its first entry won every tie (9.6). 0 new
ones means none (9.6). A dry run lists the deprecations (9.8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import numpy as np

from schemas.partition import base_of_instrument
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_rules import ranges, validate
from stream_apps.research.bootstrap import Mean, mean_of
from stream_apps.research.trials import false_discovery_control

TAG = "auto-evolve"
# A strategy with one of these tags is, or may be, traded with money. Auto-evolve never changes it and never derives a strategy from it
# without notice.
LIVE_TAGS = frozenset({"live", "testnet"})
EDITOR = "auto-evolve"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
Trade = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """Settings of a run.

    Attributes:
        lookback_ms: Length of the look-back. test_ms: Its last part, which judges the candidates; the rest is the training.
        min_closed_trades: With fewer the fitness falls, and a test with fewer is no evidence.
        candidates: Mutations tried for each instrument.
        max_new_per_symbol: Most new strategies of a run on an instrument; 0: none. max_running_per_symbol: Most evolved strategies that run
            on an instrument.
        min_age_ms: Younger strategies are not deprecated.
        max_changes_per_day: Most revisions by auto-evolve within 24 h, including this run.
        rate: False discovery rate: at most this share of the new strategies is expected to be no better than chance.
        seed: Of the mutations.
    """

    lookback_ms: int = 7 * DAY_MS
    test_ms: int = 2 * DAY_MS
    min_closed_trades: int = 12
    candidates: int = 12
    max_new_per_symbol: int = 1
    max_running_per_symbol: int = 3
    min_age_ms: int = 24 * HOUR_MS
    max_changes_per_day: int = 8
    rate: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError, naming the number, for an invalid value."""
        if not 0 < self.test_ms < self.lookback_ms:
            raise ValueError(f"test_ms: must be above zero and below lookback_ms, got {self.test_ms} of {self.lookback_ms}")
        for name in ("min_closed_trades", "max_new_per_symbol", "max_running_per_symbol", "min_age_ms", "max_changes_per_day", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.candidates < 1 or not 0 < self.rate < 1:
            raise ValueError("candidates: must be at least 1, and rate within 0 and 1")


@dataclass(frozen=True)
class Fitness:
    """Closed trades of a strategy and their fitness (S1 9.3).

    Attributes:
        closed: Number. net_r: Sum, R. win_rate: 0-1; 0 without trades. gross_profit, gross_loss: R, both >= 0.
        value: net_r + 0.9 net_r / days + 0.6 (PF - 1) + 0.5 x 2.5 (win rate - 0.5) - 0.35 max(least - closed, 0), to 4 decimals; PF 2 without a loss,
            0 without a profit either.
    """

    closed: int
    net_r: float
    win_rate: float
    gross_profit: float
    gross_loss: float
    value: float


def fitness(trades: Sequence[Trade], days: float, least: int) -> Fitness:
    """Return the fitness of closed trades over so many days, at least one."""
    results = [float(row["net_r"]) for row in trades]
    profit, loss = fsum(value for value in results if value > 0), -fsum(value for value in results if value <= 0)
    return fitness_of(
        len(results), fsum(results), sum(value > 0 for value in results) / len(results) if results else 0.0, profit, loss, days, least
    )


def fitness_of(closed: int, net_r: float, win_rate: float, profit: float, loss: float, days: float, least: int) -> Fitness:
    """Return the fitness of figures (S1 9.3)."""
    factor = profit / loss if loss > 0 else 2.0 if profit > 0 else 0.0
    value = net_r + 0.9 * net_r / max(days, 1.0) + 0.6 * (factor - 1) + 0.5 * 2.5 * (win_rate - 0.5) - 0.35 * max(least - closed, 0)
    return Fitness(closed, net_r, win_rate, profit, loss, round(value, 4))


REGIMES = ("crash", "high_vol", "trend", "range")


def regime_of(instants: Mapping[str, int]) -> str:
    """Return the regime of most instants (D15; from the scores). Of equals, the more volatile one; ``range`` without instants."""
    return max(REGIMES, key=lambda name: (instants.get(name, 0), -REGIMES.index(name))) if any(instants.values()) else "range"


# --- mutations ---------------------------------------------------------------------------------------------------------

_PAIRS = (("5m", "30m"), ("5m", "1h"), ("5m", "4h"), ("15m", "30m"), ("15m", "1h"), ("15m", "4h"), ("30m", "1h"), ("30m", "4h"))
_SHIFTS = {"trend": (4, 1, -3, -2), "high_vol": (4, 1, -3, -2), "crash": (2, 4, -4, -2), "range": (-1, 3, 1, -3)}
_STEPS = {"trend": (0, 2, 4), "high_vol": (0, 2, 4), "crash": (3, 5), "range": (-2, 0, 2)}
_SIGNATURE = ("cvd_fast_window", "cvd_slow_window", "entry_score", "sl_atr_multiplier", "tp1_ratio", "tp2_ratio", "timeout_minutes", "weight_direction",
              "weight_env", "weight_aux", "weight_momentum")  # fmt: skip


def profiles(regime: str, stop: float) -> dict[str, tuple[float, float, float]]:
    """Return profile -> (tp1, tp2, stop) of a regime, around a parent's stop (S1 9.5)."""
    if regime in ("trend", "high_vol"):
        return {
            "aggressive": (1.25, 2.7, max(1.5, stop)),
            "balanced": (1.0, 2.1, max(1.6, stop)),
            "conservative": (0.8, 1.6, max(1.5, stop - 0.1)),
        }
    if regime == "crash":
        return {"defensive": (0.7, 1.4, max(1.3, stop - 0.3)), "balanced": (0.9, 1.8, max(1.4, stop - 0.2))}
    return {
        "conservative": (0.75, 1.5, max(1.4, stop - 0.2)),
        "balanced": (1.0, 2.0, max(1.5, stop - 0.1)),
        "aggressive": (1.3, 2.4, max(1.6, stop)),
    }


def timeouts(regime: str, timeout: int) -> tuple[int, ...]:
    """Return the holding times of a regime, minutes, around a parent's (S1 9.5)."""
    if regime == "crash":
        return (max(90, timeout - 120), max(120, timeout - 60))
    return (max(120, timeout - 60), timeout) if regime in ("trend", "high_vol") else (timeout, min(360, timeout + 60))


def weights_after(weights: Sequence[int], shift: Sequence[int]) -> tuple[int, ...]:
    """Return shifted weights with a sum of 100: negatives become 0, each is rounded, and direction takes the rest (S1 9.5)."""
    moved = [max(weight + by, 0) for weight, by in zip(weights, shift, strict=True)]
    total = sum(moved)
    if total <= 0:
        moved, total = [55, 25, 15, 5], 100
    found = [round(100 * one / total) for one in moved]
    found[0] = max(found[0] + 100 - sum(found), 0)
    return tuple(found)


def within_ranges(weights: Sequence[int], model: str) -> tuple[int, ...]:
    """Return weights within their ranges and with a sum of 100. The others take the excess of one, in order."""
    limits = [ranges(model)[name] for name in ("weight_direction", "weight_env", "weight_aux", "weight_momentum")]
    found = [round(min(max(one, low), high)) for one, (low, high) in zip(weights, limits, strict=True)]
    for place, (low, high) in enumerate(limits):
        left = 100 - sum(found)
        found[place] = round(min(max(found[place] + left, low), high))
    return tuple(found)


def signature(config: StrategyConfig) -> tuple[Any, ...]:
    """Return the values that identify a mutation of an instrument (S1 9.5)."""
    return tuple(getattr(config, name) for name in _SIGNATURE)


def mutations(
    parent: StrategyConfig, regime: str, known: Iterable[StrategyConfig], count: int, seed: int, day: str
) -> list[StrategyConfig]:
    """Return up to ``count`` mutations of a parent, drawn by seed from the pool of the regime.

    Args:
        parent: The parent; unmutated fields keep its values.
        regime: One of ``REGIMES``.
        known: Strategies of the instrument, which are not created again.
        count: Most.
        seed: Determines the draw, with parent and day.
        day: ``YYYY-MM-DD``.
    """
    fixed = MODELS[parent.model].fixed
    taken = {signature(one) for one in known} | {signature(parent)}
    pool: dict[tuple[Any, ...], tuple[StrategyConfig, str]] = {}
    base = (parent.weight_direction, parent.weight_env, parent.weight_aux, parent.weight_momentum)
    shifted = within_ranges(weights_after(base, _SHIFTS[regime]), parent.model) if MODELS[parent.model].weight_fields else base
    low, high = ranges(parent.model)["entry_score"]
    for fast, slow in _PAIRS:
        for profile, (first, second, stop) in profiles(regime, parent.sl_atr_multiplier).items():
            for step in _STEPS[regime]:
                for timeout in timeouts(regime, parent.timeout_minutes):
                    entry = float(min(max(parent.entry_score + step, low), high))
                    fields: dict[str, Any] = {
                        "added_balance": 0.0,
                        "cvd_fast_window": fast, "cvd_slow_window": slow, "entry_score": entry, "flip_threshold": max(parent.flip_threshold, entry),
                        "sl_atr_multiplier": round(stop, 2), "tp1_ratio": first, "tp2_ratio": second, "timeout_minutes": timeout,
                        **dict(zip(("weight_direction", "weight_env", "weight_aux", "weight_momentum"), shifted, strict=True)),
                    }  # fmt: skip
                    made = replace(parent, **{name: value for name, value in fields.items() if name not in fixed}, status="running", revision=1,
                                   effective_time=0, edited_by="", note=None)  # fmt: skip
                    try:
                        validate(made)
                    except StrategyError:
                        continue  # a model's ranges may exclude a mutation
                    if signature(made) not in taken:
                        pool.setdefault(signature(made), (made, profile))
    entries = list(pool.values())
    source = np.random.default_rng([seed, int(config_hash(parent), 16) % 2**32, *day.encode()])
    chosen: list[int] = source.choice(len(entries), min(count, len(entries)), replace=False).tolist() if entries else []
    return [_named(*entries[place], parent, day) for place in chosen]


def _named(made: StrategyConfig, profile: str, parent: StrategyConfig, day: str) -> StrategyConfig:
    """Return a mutation with its name. The id derives from parent and parameters, so the same mutation never exists twice."""
    asset = base_of_instrument(made.instrument)
    mark = config_hash(made)[:8]
    named = replace(
        made,
        strategy_id=f"evolve-{asset}-{mark}"[:64],
        display_name=f"evolved {asset}_CVD{made.cvd_fast_window.removesuffix('m')}x{made.cvd_slow_window}_TP{profile} {day[5:]}"[:50],
        description=f"Auto-evolve, {day}, from {parent.strategy_id[:60]} revision {parent.revision}, profile {profile}",
        tags=(TAG, f"parent:{parent.strategy_id}"),
    )
    validate(named)
    return named


# --- decisions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A candidate out of sample.

    Attributes:
        config: The candidate. parent: Its parent's id. train: Mean net R in the training. test: Out of sample, with its one-sided p-value.
        parent_test: The parent's in the same time.
        test_net_r, parent_net_r: Sums.
        accepted: It is proposed. reason: Reason of the verdict.
    """

    config: StrategyConfig
    parent: str
    train: Mean | None
    test: Mean | None
    parent_test: Mean | None
    test_net_r: float
    parent_net_r: float
    accepted: bool = False
    reason: str = ""


def judged(candidates: Sequence[Judged], limits: Limits) -> list[Judged]:
    """Return the candidates with their verdicts. An accepted one has enough trades, is better than the parent, and is above zero beyond
    chance over all tries.
    """
    verdicts = []
    values = [
        one.test.p if one.test is not None and one.test.p is not None and one.test.count >= limits.min_closed_trades else 1.0
        for one in candidates
    ]
    taken = false_discovery_control(values, limits.rate)
    for one, p, kept in zip(candidates, values, taken, strict=True):
        count = 0 if one.test is None else one.test.count
        if count < limits.min_closed_trades:
            verdicts.append(replace(one, reason=f"{count} trades in the test, {limits.min_closed_trades} are required"))
        elif one.test_net_r <= one.parent_net_r:
            verdicts.append(replace(one, reason=f"net {one.test_net_r:+.2f} R in the test, the parent {one.parent_net_r:+.2f} R"))
        elif not kept:
            verdicts.append(replace(one, reason=f"not better than chance: p {p:.3f}"))
        else:
            verdicts.append(
                replace(
                    one, accepted=True, reason=f"net {one.test_net_r:+.2f} R in the test, the parent {one.parent_net_r:+.2f} R; p {p:.3f}"
                )
            )
    return verdicts


def mean_r(trades: Sequence[Trade]) -> Mean | None:
    """Return the mean net R of trades in the order of their exits."""
    return mean_of([row["net_r"] for row in sorted(trades, key=lambda row: (row["event_time"], row["trade_id"]))])


@dataclass(frozen=True)
class Change:
    """One revision to write.

    Attributes:
        kind: ``create`` or ``deprecate``.
        config: The new configuration. expected: The revision before it; 0: none.
        reason: For the audit trail.
    """

    kind: str
    config: StrategyConfig
    expected: int
    reason: str


def is_live(config: StrategyConfig, live_ids: Iterable[str] = ()) -> bool:
    """Return whether a strategy may be traded with money: by its tags, or because it had orders that were not on paper."""
    return bool(LIVE_TAGS & {tag.lower() for tag in config.tags}) or config.strategy_id in frozenset(live_ids)


def evolved(config: StrategyConfig) -> bool:
    """Return whether auto-evolve made a strategy."""
    return TAG in config.tags


def planned(
    accepted: Sequence[Judged],
    strategies: Sequence[StrategyConfig],
    born: Mapping[str, int],
    scores: Mapping[str, float],
    now: int,
    changed_today: int,
    limits: Limits,
    live_ids: Iterable[str] = (),
) -> tuple[list[Change], list[str]]:
    """Return the changes of a run, and notes on omitted ones with their reasons.

    Args:
        accepted: Accepted candidates.
        strategies: Newest revision of every strategy.
        born: Strategy id -> time of its first revision, ms UTC.
        scores: Strategy id -> fitness over the look-back; missing: -999 (S1 9.8).
        now: ms UTC.
        changed_today: Auto-evolve's revisions of the last 24 h.
        limits: Of the run.
        live_ids: Strategies with orders that were not on paper.
    """
    live = frozenset(live_ids)
    wanted: list[Change] = []
    notes: list[str] = []
    by_instrument: dict[str, int] = {}
    for one in sorted(accepted, key=lambda one: (-one.test_net_r, one.config.strategy_id)):
        name = one.config.instrument
        if by_instrument.get(name, 0) >= limits.max_new_per_symbol:
            notes.append(f"{one.config.strategy_id}: not created, {limits.max_new_per_symbol} a run for {name}")
            continue
        by_instrument[name] = by_instrument.get(name, 0) + 1
        wanted.append(Change("create", one.config, 0, one.reason))
    for name in sorted({one.instrument for one in strategies} | set(by_instrument)):
        mine = [one for one in strategies if one.instrument == name and one.status == "running" and evolved(one) and not is_live(one, live)]
        beyond = len(mine) + by_instrument.get(name, 0) - limits.max_running_per_symbol
        if beyond <= 0:
            continue
        old = [one for one in mine if now - born.get(one.strategy_id, now) >= limits.min_age_ms]
        worst = sorted(old, key=lambda one: (scores.get(one.strategy_id, -999.0), born.get(one.strategy_id, now), one.strategy_id))[:beyond]
        for bad in worst:
            reason = f"worst of {len(mine)} evolved on {name}: fitness {scores.get(bad.strategy_id, -999.0):.4f}"
            wanted.append(Change("deprecate", replace(bad, status="deprecated"), bad.revision, reason))
        if len(worst) < beyond:
            notes.append(
                f"{name}: {beyond - len(worst)} evolved more than {limits.max_running_per_symbol} stay, too young to be deprecated"
            )
    room = max(limits.max_changes_per_day - changed_today, 0)
    for change in wanted[room:]:
        notes.append(f"{change.config.strategy_id}: {change.kind} left for another day, {limits.max_changes_per_day} changes a day")
    return wanted[:room], notes

"""From points to a decision: tier, entry, flip, cooldown, and the records of a score and a signal (S1 3.11, DECISIONS D13-D18)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stream_apps.core.market.snapshot import Snapshot
from stream_apps.core.signals.scoring.reading import REGIME_LIMITS, GateSettings, GateVerdict, Reading, RegimeLimits, Weighted, read
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.scoring.view import DIRECTION_NAMES
from stream_apps.core.signals.strategy import StrategyConfig

Record = dict[str, Any]

ALLOWED = {"both": (1, -1), "long_only": (1,), "short_only": (-1,)}
_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000
BIT = {1: 1, -1: 2}  # of StrategyMemory.may_hold
_ANY = 3


@dataclass(frozen=True, slots=True)
class StrategyMemory:
    """A strategy's memory of one instrument between instants. It is part of the worker's state.

    Attributes:
        last_entry_time: Instant of the last entry signal, ms UTC; None before the first.
        earlier_entry_time: Instant of the entry signal before that.
        may_hold: Sides of a position that may be open, judged by the signals so far: 1 LONG, 2 SHORT, 3 either. It is 3 before the first
            signal, because an executor may hold a position from an earlier state of this worker.
        last_side: Side of the last entry signal: 1 LONG, -1 SHORT; 0 before the first one, and when an earlier release kept the memory.
        closed_time: Instant of the first flip without entry since the last entry, for models whose flip only closes. None: there was none.
    """

    last_entry_time: int | None = None
    earlier_entry_time: int | None = None
    may_hold: int = _ANY
    closed_time: int | None = None
    last_side: int = 0

    def to_tuple(self) -> tuple[int | None, int | None, int, int | None, int]:
        """Return the memory as plain values."""
        return (self.last_entry_time, self.earlier_entry_time, self.may_hold, self.closed_time, self.last_side)

    @classmethod
    def from_tuple(cls, values: tuple[Any, ...] | list[Any]) -> StrategyMemory:
        """Return the memory from ``to_tuple``, of this release or of one that kept fewer values."""
        return cls(*values)

    @property
    def quiet_since(self) -> int | None:
        """Return the instant from which the cooldown counts: of the last entry, or of the flip that closed its position."""
        return self.last_entry_time if self.closed_time is None else self.closed_time

    def bet(self, time: int, timeout_minutes: int) -> int:
        """Return the side on which the last entry may still be open at ``time``, judged by the signals so far; 0: none."""
        if self.last_entry_time is None or self.closed_time is not None or time - self.last_entry_time >= timeout_minutes * _MINUTE_MS:
            return 0
        return self.last_side

    def after(self, time: int, direction: int, entry: bool, flip: bool, flip_closes_only: bool = False) -> StrategyMemory:
        """Return the memory after a signal.

        A flip is signalled at every instant at which it is due, as long as a position of the other side may be open. Once is not enough: an
        executor ignores a signal while its own entry is pending, and refuses one that it reads too late. An entry that flips ends this:
        from then on only this side can be open.

        Where a flip only closes, the first one starts the cooldown. Its repeats do not start it again, and it is no entry.
        """
        if not entry:
            return replace(self, closed_time=time) if flip and flip_closes_only and self.closed_time is None else self
        bit = BIT[direction]
        return StrategyMemory(time, self.last_entry_time, bit if flip else self.may_hold | bit, last_side=direction)


class Decision(NamedTuple):
    """The outcome of an evaluation."""

    direction: int
    score: float
    tier: str | None
    entry: bool
    flip: bool
    cooling: bool
    verdict: str


class Evaluation(NamedTuple):
    """Result of one evaluation.

    Attributes:
        score: Record for the ``scores`` topic.
        signal: Record for the ``signals`` topic, or None.
        memory: The strategy's memory after it.
    """

    score: Record
    signal: Record | None
    memory: StrategyMemory


def decide(
    reading: Reading, gates: GateVerdict, weighted: Weighted, config: StrategyConfig, tiers: list[tuple[str, float]], memory: StrategyMemory
) -> Decision:
    """Return the decision of one strategy.

    Args:
        reading: The market as its model sees it.
        gates: Verdict of the gates.
        weighted: The weighted layers.
        config: The strategy.
        tiers: ``tier_starts(config)``.
        memory: The strategy's memory.
    """
    if not reading.warm:
        return Decision(0, 0.0, None, False, False, False, "not_warm")
    if gates.block is not None:
        return Decision(0, 0.0, None, False, False, False, "blocked")
    direction, score = reading.view.lean, weighted.total
    tier = next((name for name, start in tiers if score >= start), None)
    allowed = direction in ALLOWED[config.direction]
    flip = allowed and score >= config.flip_threshold and bool(memory.may_hold & BIT[-direction])
    if score < config.entry_score:
        return Decision(direction, score, tier, False, False, False, "below_entry")
    if not allowed:
        return Decision(direction, score, tier, False, False, False, "direction_limit")
    since, time, model = memory.quiet_since, reading.view.snapshot.time, reading.model
    held_back = ""
    if gates.no_entry:
        held_back = "no_entry"
    elif since is not None and time - since < config.cooldown_minutes * _MINUTE_MS:
        held_back = "cooldown"
    elif model.two_an_hour and memory.earlier_entry_time is not None and time - memory.earlier_entry_time < _HOUR_MS:
        held_back = "hourly_limit"
    elif model.flip_closes_only and flip and memory.last_entry_time is not None and memory.closed_time is None:
        # Before the first entry nothing says that a position is open; then the executor decides (``signal_rules.verdict``).
        held_back = "flip"
    verdict = ("flip" if flip else held_back) if held_back else ("entry+flip" if flip else "entry")
    return Decision(direction, score, tier, not held_back, flip, held_back == "cooldown", verdict)


def tier_starts(config: StrategyConfig) -> list[tuple[str, float]]:
    """Return the tiers of a strategy's model and the scores at which they begin, highest first."""
    return [(tier.name, tier.start(config)) for tier in MODELS[config.model].tiers]


def evaluate(
    snapshot: Snapshot, config: StrategyConfig, config_hash: str, memory: StrategyMemory, limits: RegimeLimits = REGIME_LIMITS
) -> Evaluation:
    """Evaluate one strategy for one instrument at one instant. This is the readable form, against which ``batch`` is tested.

    Args:
        snapshot: Market state at the instant.
        config: A configuration that passes ``strategy_rules.validate``, or its leg for another of its instruments. Its windows are windows
            of the snapshot.
        config_hash: ``strategy.config_hash(config)``, computed once by the caller.
        memory: The strategy's memory of this instrument.
        limits: Limits of the regime label.

    Raises:
        ValueError: the strategy is for another instrument.
    """
    if snapshot.instrument != config.instrument:
        raise ValueError(f"instrument: strategy {config.strategy_id} is for {config.instrument}, the snapshot is of {snapshot.instrument}")
    model = MODELS[config.model].of(config)
    reading = read(snapshot, model, config.cvd_fast_window, config.cvd_slow_window, limits)
    gates, weighted = reading.judge(GateSettings.of(model, config)), reading.weigh(model.maxima(config))
    decision = decide(reading, gates, weighted, config, tier_starts(config), memory)
    score = score_record(reading, gates, weighted, decision, config, config_hash)
    if not score["signalled"]:
        return Evaluation(score, None, memory)
    signal = signal_record(snapshot.time, snapshot.decided_at, snapshot.price, snapshot.atr, reading.regime, decision, config, config_hash)
    after = memory.after(snapshot.time, decision.direction, decision.entry, decision.flip, model.flip_closes_only)
    return Evaluation(score, signal, after)


def score_record(
    reading: Reading, gates: GateVerdict, weighted: Weighted, decision: Decision, config: StrategyConfig, config_hash: str
) -> Record:
    """Return the record for the ``scores`` topic."""
    view, snapshot = reading.view, reading.view.snapshot
    return {
        "score_id": f"{snapshot.instrument}|{config.strategy_id}|{snapshot.time}",
        "instrument": snapshot.instrument,
        "event_time": snapshot.time,
        "receive_time": snapshot.decided_at,
        "strategy_id": config.strategy_id,
        "strategy_name": config.display_name,
        "strategy_version": config.model,
        "config_revision": config.revision,
        "config_hash": config_hash,
        "direction": DIRECTION_NAMES[decision.direction],
        "score": decision.score,
        "tier": decision.tier,
        "gate_passed": reading.warm and gates.block is None,
        "gate_block": gates.block,
        "warm": reading.warm,
        "regime": reading.regime,
        "cooldown": decision.cooling,
        "signalled": decision.entry or decision.flip,
        "price": snapshot.price,
        "atr": snapshot.atr,
        "cvd_fast": view.fast,
        "cvd_slow": view.slow,
        "cvd_slope": view.slope,
        "cvd_acceleration": view.acceleration,
        "layers": [
            {"name": layer.name, "raw": raw, "raw_max": layer.raw_max, "score": points, "max": most, "parts": parts}
            for (layer, raw, parts), (points, most) in zip(reading.layers, weighted.layers, strict=True)
        ],
        "gates": [gate._asdict() for gate in gates.gates],
        "missing_inputs": gates.missing,
        "stale_inputs": gates.stale,
        "late_trades": snapshot.late_trades,
        "lean": DIRECTION_NAMES[view.lean if reading.warm else 0],
        "ungated_score": weighted.total,
        "verdict": decision.verdict,
        "entry_score": config.entry_score,
        "flip_threshold": config.flip_threshold,
        "inputs": reading.inputs,
    }


def signal_record(
    instant: int,
    decided_at: int,
    price: float,
    atr: float | None,
    regime: str,
    decision: Decision,
    config: StrategyConfig,
    config_hash: str,
) -> Record:
    """Return the record for the ``signals`` topic of a decision to enter or flip."""
    assert atr is not None and decision.tier is not None  # an entry or a flip needs both
    return {
        "signal_id": f"{config.instrument}|{config.strategy_id}|{instant}",
        "instrument": config.instrument,
        "event_time": instant,
        "receive_time": decided_at,
        "strategy_id": config.strategy_id,
        "strategy_name": config.display_name,
        "strategy_version": config.model,
        "config_revision": config.revision,
        "config_hash": config_hash,
        "decided_at": decided_at,
        "direction": DIRECTION_NAMES[decision.direction],
        "score": decision.score,
        "tier": decision.tier,
        "entry": decision.entry,
        "flip": decision.flip,
        "regime": regime,
        "price": price,
        "atr": atr,
        "risk_distance": config.sl_atr_multiplier * atr,
        "tp1_ratio": config.tp1_ratio,
        "tp2_ratio": config.tp2_ratio,
        "timeout_minutes": config.timeout_minutes,
        "initial_balance": config.balance,
        "risk_per_trade": config.risk_per_trade,
        "risk_multiple": getattr(config, f"tier_{decision.tier}"),
        "max_positions": config.max_positions,
    }

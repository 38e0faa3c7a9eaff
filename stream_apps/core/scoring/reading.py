"""What a model reads in a snapshot: all of an evaluation that the strategies of one model and pair of windows have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from stream_apps.core.scoring.model import Layer, Model
from stream_apps.core.scoring.view import INPUTS, View, look
from stream_apps.core.snapshot import Snapshot

if TYPE_CHECKING:
    from stream_apps.core.strategy import StrategyConfig

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RegimeLimits:
    """Limits of the regime label (D15). The label informs; it decides nothing.

    Attributes:
        crash: ATR/price from which the regime is crash.
        high_vol: ATR/price from which it is high_vol.
        trend: |acceleration| of the fast CVD, as a share of the quantity traded in its window, above which it is a trend. The
            default means that the net flow of a grid step outdid that of the step before by 2 % of the window's trade.
    """

    crash: float = 0.012
    high_vol: float = 0.008
    trend: float = 0.02


REGIME_LIMITS = RegimeLimits()


class RawLayer(NamedTuple):
    """A layer before weighting."""

    layer: Layer
    raw: float
    parts: dict[str, float]


class GateVerdict(NamedTuple):
    """What the gates said: their records, why the first one blocked, whether entries are forbidden, inputs missing and stale."""

    records: list[Record]
    block: str | None
    no_entry: bool
    missing: list[str]
    stale: list[str]


class Weighted(NamedTuple):
    """The layers' records and what they add up to."""

    records: list[Record]
    total: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot as a model sees it.

    Attributes:
        model: The model.
        view: The view.
        warm: The history is long enough to judge (D11).
        regime: Label; unknown while not warm.
        layers: Raw layers; none while not warm.
        inputs: Values of the model's inputs by their names in records.
        absent: (name in the model, name in records) of the inputs without a value.
    """

    model: Model
    view: View
    warm: bool
    regime: str
    layers: list[RawLayer]
    inputs: dict[str, float]
    absent: list[tuple[str, str]]

    def judge(self, config: StrategyConfig) -> GateVerdict:
        """Return what the gates say; it depends on ``model.gate_fields`` of the configuration only."""
        read = {*_ALWAYS_READ, *(name for part in self.model.parts for name in part.inputs)}
        read.update(name for gate in self.model.gates if gate.is_on(config) for name in gate.inputs)
        missing = [shown for name, shown in self.absent if name in read]
        stale = [name for name in missing if name in self.view.snapshot.stale_inputs]
        records: list[Record] = []
        block: str | None = None
        no_entry = False
        if self.warm:
            view = self.view
            for gate in self.model.gates:
                on, skipped = gate.is_on(config), block is not None
                value, reason = gate.judge(view, config) if on and not skipped else (None, None)
                records.append({
                    "name": gate.name, "enabled": on, "passed": reason is None, "skipped": on and skipped, "value": value,
                    "limit": gate.limit_of(config), "reason": reason,
                })  # fmt: skip
                if gate.entry_only:
                    no_entry = no_entry or reason is not None
                else:
                    block = block or reason
                if gate.needs_direction and block is None and view.lean == 0:
                    block = "no_direction"
            if block is None and (view.snapshot.price <= 0.0 or not view.snapshot.atr):
                block = "no_risk_distance"
        return GateVerdict(records, block, no_entry, missing, stale)

    def weigh(self, config: StrategyConfig) -> Weighted:
        """Return the weighted layers and their sum; it depends on ``model.weight_fields`` of the configuration only."""
        records: list[Record] = []
        total = 0.0
        for layer, raw, parts in self.layers:
            most = layer.most_of(config)
            # Multiplied before divided: 40 x 41.25 / 55 is 30 exactly, 40 / 55 x 41.25 is not.
            score = min(raw * most / layer.raw_max, most)
            records.append({"name": layer.name, "raw": raw, "raw_max": layer.raw_max, "score": score, "max": most, "parts": parts})
            total += score
        return Weighted(records, round(min(total, 100.0), 1))


_ALWAYS_READ = ("atr", "quantity_p99", "cvd_fast", "cvd_slow", "volume_1m", "volume_24h")


def read(
    snapshot: Snapshot, model: Model, fast_window: str, slow_window: str, memo: dict[Any, Any], limits: RegimeLimits = REGIME_LIMITS
) -> Reading:
    """Return what a model reads in a snapshot.

    Args:
        snapshot: Market state.
        model: A model, or the variant that the strategies ask for.
        fast_window, slow_window: The strategies' windows.
        memo: Kept for all readings of this snapshot: what one worked out, the next ones do not.
        limits: Limits of the regime label.
    """
    view = look(snapshot, fast_window, slow_window, model.stretch, memo)
    inputs: dict[str, float] = {}
    absent: list[tuple[str, str]] = []
    for name in model.inputs:
        value = INPUTS[name](view)
        if value is None:
            absent.append((name, view.name_of(name)))
        else:
            inputs[view.name_of(name)] = value
    warm = snapshot.atr is not None and view.slow is not None and snapshot.quantity_p99 is not None
    if not warm:
        return Reading(model, view, False, "unknown", [], inputs, absent)
    layers = [_raw(layer, view) for layer in model.layers]
    return Reading(model, view, True, _regime(view, fast_window, limits), layers, inputs, absent)


def _raw(layer: Layer, view: View) -> RawLayer:
    parts: dict[str, float] = {}
    for part in layer.all_parts:
        if not part.windowless:
            parts[part.name] = part.points(view, view.lean)
            continue
        key = (id(part), view.lean)
        points = view.memo.get(key)
        if points is None:
            points = view.memo[key] = part.points(view, view.lean)
        parts[part.name] = points
    raw = sum(parts[part.name] for part in layer.parts)
    if layer.floor is not None:
        raw = max(raw, parts[layer.floor.name])
    return RawLayer(layer, min(raw, layer.raw_max), parts)


def _regime(view: View, fast_window: str, limits: RegimeLimits) -> str:
    """Return the regime label, first match (S1 3.7 with D15)."""
    if view.volatility >= limits.crash:
        return "crash"
    if view.volatility >= limits.high_vol:
        return "high_vol"
    volume, acceleration = view.snapshot.volume.get(fast_window), view.acceleration
    if view.agree and acceleration is not None and volume is not None and volume > 0.0 and abs(acceleration) > limits.trend * volume:
        return "trend"
    return "range"

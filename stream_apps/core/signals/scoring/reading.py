"""A model's evaluation of a snapshot in readable form. ``kernel`` is the compiled form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.snapshot import Snapshot
from stream_apps.core.signals.scoring.model import Gate, Layer, Model
from stream_apps.core.signals.scoring.view import INPUTS, View, view_of
from stream_apps.core.signals.strategy import StrategyConfig

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RegimeLimits:
    """Limits of the regime label (D15). The label informs only; no decision uses it.

    Attributes:
        crash: ATR/price from which the regime is crash.
        high_vol: ATR/price from which it is high_vol.
        trend: |acceleration| of the fast CVD, as a share of the quantity traded in its window, above which the regime is trend.
    """

    crash: float
    high_vol: float
    trend: float

    @classmethod
    def of(cls, config: EngineConfig) -> RegimeLimits:
        """Return the limits of an engine's configuration."""
        return cls(config.regime_crash, config.regime_high_vol, config.regime_trend)


REGIME_LIMITS = RegimeLimits.of(EngineConfig())


class RawLayer(NamedTuple):
    """A layer before weighting."""

    layer: Layer
    raw: float
    parts: dict[str, float]


class GateSettings(NamedTuple):
    """The settings of a model's gates. They depend on ``model.gate_fields`` only.

    Attributes:
        config: The configuration.
        gates: (gate, whether it is on, its limit).
        reads: Inputs that the strategy uses.
    """

    config: StrategyConfig
    gates: list[tuple[Gate, bool, float]]
    reads: frozenset[str]

    @classmethod
    def of(cls, model: Model, config: StrategyConfig) -> GateSettings:
        """Return the settings of a configuration."""
        reads = {*_ALWAYS_READ, *(name for part in model.parts for name in part.inputs)}
        reads.update(name for gate in model.gates if gate.is_on(config) for name in gate.inputs)
        return cls(config, [(gate, gate.is_on(config), gate.limit_of(config)) for gate in model.gates], frozenset(reads))


class GateResult(NamedTuple):
    """One gate's verdict, as in the record."""

    name: str
    enabled: bool
    passed: bool
    skipped: bool
    value: float | None
    limit: float
    reason: str | None


class GateVerdict(NamedTuple):
    """Result of the gates: verdict of each, reason of the first that blocked, whether entries are forbidden, missing and stale inputs."""

    gates: list[GateResult]
    block: str | None
    no_entry: bool
    missing: list[str]
    stale: list[str]


class Weighted(NamedTuple):
    """Points and maximum of each layer, and the sum of the points."""

    layers: list[tuple[float, float]]
    total: float


class Reading(NamedTuple):
    """A snapshot as a model evaluates it.

    Attributes:
        model: The model.
        view: The view.
        warm: The history is long enough to judge (D11).
        regime: Label. "unknown" while not warm.
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

    def judge(self, settings: GateSettings) -> GateVerdict:
        """Return the result of the gates."""
        missing = [shown for name, shown in self.absent if name in settings.reads] if self.absent else []
        stale_inputs = self.view.snapshot.stale_inputs
        stale = [name for name in missing if name in stale_inputs] if stale_inputs else []
        results: list[GateResult] = []
        block: str | None = None
        no_entry = False
        if self.warm:
            view, config = self.view, settings.config
            for gate, on, limit in settings.gates:
                if not on:
                    results.append(GateResult(gate.name, False, True, False, None, limit, None))
                elif block is not None:
                    results.append(GateResult(gate.name, True, True, True, None, limit, None))
                else:
                    value, reason = gate.judge(view, config)
                    results.append(GateResult(gate.name, True, reason is None, False, value, limit, reason))
                    if gate.entry_only:
                        no_entry = no_entry or reason is not None
                    else:
                        block = reason
                if gate.needs_direction and block is None and view.lean == 0:
                    block = "no_direction"
            if block is None and (view.snapshot.price <= 0.0 or not view.snapshot.atr):
                block = "no_risk_distance"
        return GateVerdict(results, block, no_entry, missing, stale)

    def weigh(self, maxima: list[float]) -> Weighted:
        """Return the weighted layers and their sum. ``maxima``: maximum of each layer."""
        layers: list[tuple[float, float]] = []
        total = 0.0
        for (layer, raw, _), most in zip(self.layers, maxima, strict=False):  # none while not warm
            # Multiply before dividing: 40 x 41.25 / 55 is exactly 30, 40 / 55 x 41.25 is not.
            score = min(raw * most / layer.raw_max, most)
            layers.append((score, most))
            total += score
        return Weighted(layers, round(min(total, 100.0), 1))


_ALWAYS_READ = ("atr", "quantity_p99", "cvd_fast", "cvd_slow", "volume_1m", "volume_24h")


def read(snapshot: Snapshot, model: Model, fast_window: str, slow_window: str, limits: RegimeLimits = REGIME_LIMITS) -> Reading:
    """Return a model's evaluation of a snapshot.

    Args:
        snapshot: Market state.
        model: A model, or the variant that the strategies select.
        fast_window, slow_window: The strategies' windows.
        limits: Limits of the regime label.
    """
    view = view_of(snapshot, fast_window, slow_window, model.stretch)
    inputs: dict[str, float] = {}
    absent: list[tuple[str, str]] = []
    for name in model.inputs:
        value, shown = INPUTS[name](view), view.name_of(name)
        if value is None:
            absent.append((name, shown))
        else:
            inputs[shown] = value
    warm = snapshot.atr is not None and view.slow is not None and INPUTS["quantity_p99"](view) is not None
    if not warm:
        return Reading(model, view, False, "unknown", [], inputs, absent)
    return Reading(model, view, True, _regime(view, fast_window, limits), [_raw(layer, view) for layer in model.layers], inputs, absent)


def _raw(layer: Layer, view: View) -> RawLayer:
    parts = {part.name: part.points(view, view.lean) for part in layer.all_parts}
    raw = sum(parts[part.name] for part in layer.parts)
    if layer.floor is not None:
        raw = max(raw, parts[layer.floor.name])
    return RawLayer(layer, min(raw, layer.raw_max), parts)


def _regime(view: View, fast_window: str, limits: RegimeLimits) -> str:
    """Return the regime label; the first match holds (S1 3.7 with D15)."""
    volatility = view.volatility
    if volatility is not None and volatility >= limits.crash:
        return "crash"
    if volatility is not None and volatility >= limits.high_vol:
        return "high_vol"
    volume, acceleration = view.snapshot.volume.get(fast_window), view.acceleration
    if view.agree and acceleration is not None and volume is not None and volume > 0.0 and abs(acceleration) > limits.trend * volume:
        return "trend"
    return "range"

"""What a scoring model is made of: layers of points, gates, tiers, and what it asks of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from stream_apps.core.signals.scoring.points import Part
from stream_apps.core.signals.scoring.view import View, is_btc
from stream_apps.core.signals.strategy import StrategyConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: sub-scores that add up to raw points, weighted to a most.

    Attributes:
        name: Name in the record.
        parts: Sub-scores.
        raw_max: Most raw points.
        most: Most points after weighting; None when the configuration's weights say.
        weights: Weights of the configuration that the layer shares, if so.
        share: Its share of them: numerator, denominator.
        floor: A sub-score below which the raw points never fall.
    """

    name: str
    parts: tuple[Part, ...]
    raw_max: float
    most: float | None = None
    weights: tuple[str, ...] = ()
    share: tuple[float, float] = (1.0, 1.0)
    floor: Part | None = None

    def most_of(self, config: StrategyConfig) -> float:
        """Return the most points after weighting."""
        if self.most is not None:
            return self.most
        return float(sum(getattr(config, name) for name in self.weights)) * self.share[0] / self.share[1]

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The sub-scores and the floor."""
        return self.parts if self.floor is None else (*self.parts, self.floor)


class Judged(IntEnum):
    """By which rule of the compiled scorer (``kernel``) a gate is judged; ``Gate.judge`` says the same in plain words."""

    VOLATILITY = 0
    RESONANCE = 1
    RESONANCE_OR_INDEPENDENT = 2
    WHALE = 3
    OBI = 4
    SPOT_PERP = 5
    AGREEMENT = 6
    FAST_SIGN = 7
    SLOPE_SIGN = 8
    SLOW_SIGN = 9
    VWAP_SIGN = 10


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that an evaluation must keep.

    Attributes:
        name: Name in the record.
        inputs: Inputs that it reads.
        blocks: When it blocks, for people.
        judge: (view, configuration) -> (judged value, reason why it blocks or None). Pure.
        limit: Field of the configuration, or a number, that the value is held against.
        limit_elsewhere: The limit for instruments other than BTC, where it is another.
        enabled: Field of the configuration that switches it; None: always on.
        on_missing: Field of the configuration that says what a missing input does; None: it blocks (or cannot be missing).
        settings: Further fields of the configuration that it reads.
        needs_direction: Without a direction nothing after it is judged.
        entry_only: It forbids entries; the score stands and may close a position.
        source: Section of the specification.
        judged: Its rule in the compiled scorer.
        words: (judged value, configuration) -> the reason, where it names the value.
    """

    name: str
    inputs: tuple[str, ...]
    blocks: str
    judge: Callable[[View, StrategyConfig], tuple[float | None, str | None]]
    limit: str | float
    source: str
    judged: Judged
    words: Callable[[float, StrategyConfig], str] | None = None
    enabled: str | None = None
    on_missing: str | None = None
    settings: tuple[str, ...] = ()
    needs_direction: bool = False
    entry_only: bool = False
    limit_elsewhere: float | None = None

    def is_on(self, config: StrategyConfig) -> bool:
        """Return whether it can block."""
        return self.enabled is None or bool(getattr(config, self.enabled))

    def limit_of(self, config: StrategyConfig) -> float:
        """Return the limit."""
        if self.limit_elsewhere is not None and not is_btc(config.instrument):
            return self.limit_elsewhere
        return float(getattr(config, self.limit)) if isinstance(self.limit, str) else self.limit

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the configuration that decide what it says."""
        named = (self.enabled, self.limit if isinstance(self.limit, str) else None, self.on_missing, *self.settings)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier, reached at ``field`` of the configuration plus ``plus``, but not below ``least``."""

    name: str
    field: str
    plus: float = 0.0
    least: float = 0.0

    def start(self, config: StrategyConfig) -> float:
        """Return the score from which it holds."""
        return max(float(getattr(config, self.field)) + self.plus, self.least)


@dataclass(frozen=True, slots=True)
class Model:
    """A scoring model as data.

    Attributes:
        name: The strategy_version of scores and signals.
        title: For people.
        source: Sections of the specification.
        layers: In the order of the record.
        gates: In the order in which they are judged.
        tiers: Highest first.
        fixed: Fields that a configuration of this model must have so.
        defaults: Values of fields that a strategy file leaves out, where they are not the factory's.
        ranges: Ranges of fields, inclusive, where they are not the factory's.
        stretch: A minute of heavy trading stretches the fast window (V5.0).
        two_an_hour: At most two entries within an hour.
        variants: Field of the configuration -> the model that holds instead when it is true.
        notes: What a reader should know.
        parts: All sub-scores.
        inputs: All inputs, in the order of ``INPUT_ORDER``.
    """

    name: str
    title: str
    source: str
    layers: tuple[Layer, ...]
    gates: tuple[Gate, ...]
    tiers: tuple[Tier, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stretch: bool = False
    two_an_hour: bool = False
    variants: Mapping[str, Model] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = field(init=False)
    inputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts = tuple(part for layer in self.layers for part in layer.all_parts)
        used = {*ALWAYS, *(name for part in parts for name in part.inputs), *(name for gate in self.gates for name in gate.inputs)}
        if self.stretch:
            used |= {"volume_1m", "volume_24h"}
        if used - set(INPUT_ORDER):
            raise ValueError(f"{self.name}: inputs without a place in INPUT_ORDER: {sorted(used - set(INPUT_ORDER))}")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "inputs", tuple(name for name in INPUT_ORDER if name in used))

    def mosts(self, config: StrategyConfig) -> list[float]:
        """Return the most points of each layer after weighting; they depend on ``weight_fields`` only."""
        return [layer.most_of(config) for layer in self.layers]

    def of(self, config: StrategyConfig) -> Model:
        """Return the variant of this model that a configuration asks for."""
        for name, variant in self.variants.items():
            if getattr(config, name):
                return variant
        return self

    @property
    def weight_fields(self) -> tuple[str, ...]:
        """Weights of the configuration that the layers share."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.weights))

    @property
    def gate_fields(self) -> tuple[str, ...]:
        """Fields of the configuration that decide what the gates say."""
        return tuple(dict.fromkeys(name for gate in self.gates for name in gate.fields))


# Without these nothing is judged (D11), or no risk distance is known.
ALWAYS = ("cvd_fast", "cvd_slow", "atr", "quantity_p99")
# The order in which records list inputs: those of the strategy's windows, then the others.
INPUT_ORDER = (
    "cvd_fast", "cvd_slow", "slope_fast", "acceleration_fast",
    "atr", "quantity_p99", "price", "vwap_30m", "volume_1m", "volume_24h", "atr_percentile", "atr_percentile_low",
    "large_buys", "large_sells", "obi", "spot_perp_divergence", "estimated_funding_rate", "funding_rate_max", "open_interest_change",
    "long_short_ratio", "top_trader_long_share", "coinbase_premium", "liquidated_long_5m", "liquidated_short_5m",
)  # fmt: skip

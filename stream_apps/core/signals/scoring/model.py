"""The parts of a scoring model: layers of points, gates, tiers, and its requirements of a configuration."""

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
    """A layer: sub-scores that add up to raw points, scaled to a maximum.

    Attributes:
        name: Name in the record.
        parts: Sub-scores.
        raw_max: Maximum of the raw points.
        most: Maximum after weighting. None: the configuration's weights give it.
        weights: Weights of the configuration that this layer shares with others, if any.
        share: Its share of them: numerator, denominator.
        floor: A sub-score that is a lower bound of the raw points.
    """

    name: str
    parts: tuple[Part, ...]
    raw_max: float
    most: float | None = None
    weights: tuple[str, ...] = ()
    share: tuple[float, float] = (1.0, 1.0)
    floor: Part | None = None

    def most_of(self, config: StrategyConfig) -> float:
        """Return the maximum after weighting."""
        if self.most is not None:
            return self.most
        return float(sum(getattr(config, name) for name in self.weights)) * self.share[0] / self.share[1]

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The sub-scores and the floor."""
        return self.parts if self.floor is None else (*self.parts, self.floor)


class Judged(IntEnum):
    """The rule by which the compiled scorer (``kernel``) judges a gate. ``Gate.judge`` is the readable form."""

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
    SAME_BET = 11


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that an evaluation must satisfy.

    Attributes:
        name: Name in the record.
        inputs: Inputs that it reads.
        blocks: Text for people: when it blocks.
        judge: (view, configuration) -> (judged value, reason why it blocks or None). Pure.
        limit: Field of the configuration, or a number, with which the value is compared.
        limit_elsewhere: The limit for instruments other than BTC, if it differs.
        enabled: Field of the configuration that switches it. None: always on.
        on_missing: Field of the configuration that decides for a missing input. None: it blocks (or cannot be missing).
        settings: Further fields of the configuration that it reads.
        needs_direction: Without a direction it blocks, and later gates are not judged.
        entry_only: It forbids entries only. The score stands and may close a position.
        source: Section of the specification.
        judged: Its rule in the compiled scorer.
        words: (judged value, configuration) -> the reason, for gates whose reason contains the value.
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
        """Return whether it can block with this configuration."""
        return self.enabled is None or bool(getattr(config, self.enabled))

    def limit_of(self, config: StrategyConfig) -> float:
        """Return the limit."""
        if self.limit_elsewhere is not None and not is_btc(config.instrument):
            return self.limit_elsewhere
        return float(getattr(config, self.limit)) if isinstance(self.limit, str) else self.limit

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the fields of the configuration that affect its verdict."""
        named = (self.enabled, self.limit if isinstance(self.limit, str) else None, self.on_missing, *self.settings)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier. It begins at the configuration's ``field`` plus ``plus``, but not below ``least``."""

    name: str
    field: str
    plus: float = 0.0
    least: float = 0.0

    def start(self, config: StrategyConfig) -> float:
        """Return the score at which it begins."""
        return max(float(getattr(config, self.field)) + self.plus, self.least)


@dataclass(frozen=True, slots=True)
class Model:
    """A scoring model as data.

    Attributes:
        name: The strategy_version of scores and signals.
        title: Name for people.
        source: Sections of the specification.
        layers: In the order of the record.
        gates: In the order of judgement.
        tiers: Highest first.
        fixed: Fields with a value that a configuration of this model must have.
        defaults: Defaults of fields that differ from the factory's.
        ranges: Ranges of fields, inclusive, that differ from the factory's.
        stretch: A minute of heavy trading stretches the fast window (V5.0).
        two_an_hour: At most two entries within an hour.
        flip_closes_only: An opposite signal closes the position. The next entry waits for the cooldown, which the first such signal starts.
        trail_ratio: Distance of the stop that trails the rest after the second target, in R. 0: the second target closes the rest.
        capital_share: Share of the capital that a position of risk multiple 1 takes. 0: the model does not size by capital.
        side_capital: Largest share of the capital in positions of one side, over all instruments of a strategy. 0: no limit.
        variants: Field of the configuration -> the model that applies instead when the field is true.
        notes: Notes for the reader.
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
    flip_closes_only: bool = False
    trail_ratio: float = 0.0
    capital_share: float = 0.0
    side_capital: float = 0.0
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

    def maxima(self, config: StrategyConfig) -> list[float]:
        """Return the maximum of each layer after weighting. It depends on ``weight_fields`` only."""
        return [layer.most_of(config) for layer in self.layers]

    def of(self, config: StrategyConfig) -> Model:
        """Return the variant of this model that a configuration selects."""
        for name, variant in self.variants.items():
            if getattr(config, name):
                return variant
        return self

    @property
    def weight_fields(self) -> tuple[str, ...]:
        """Return the weights of the configuration that the layers share."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.weights))

    @property
    def gate_fields(self) -> tuple[str, ...]:
        """Return the fields of the configuration that affect the gates."""
        return tuple(dict.fromkeys(name for gate in self.gates for name in gate.fields))


# Without these inputs there is no judgement (D11), or no risk distance.
ALWAYS = ("cvd_fast", "cvd_slow", "atr", "quantity_p99")
# The order in which records list inputs: those of the strategy's windows, then the others.
INPUT_ORDER = (
    "cvd_fast", "cvd_slow", "slope_fast", "acceleration_fast",
    "atr", "quantity_p99", "price", "vwap_30m", "volume_1m", "volume_24h", "atr_percentile", "atr_percentile_low",
    "large_buys", "large_sells", "obi", "spot_perp_divergence", "estimated_funding_rate", "funding_rate_max", "open_interest_change",
    "long_short_ratio", "top_trader_long_share", "coinbase_premium", "liquidated_long_5m", "liquidated_short_5m",
)  # fmt: skip

"""The parameter space of a search: the ranges of D17, arranged so that every point is a valid strategy (pure).

The rules between fields hold by construction. The four weights come from three shares of what the ranges leave. The second target comes
from its distance to the first, the flip threshold from its distance to the entry score. The windows are a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stream_apps.core.market.windows import FAST_WINDOWS, WINDOW_MS
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import SLOW_WINDOWS, WEIGHTS, StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import ranges, validate

Value = str | int | float
Point = Mapping[str, Value]


@dataclass(frozen=True)
class Axis:
    """One coordinate: choices, or numbers from ``low`` to ``high`` in steps."""

    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    choices: tuple[str, ...] = ()


# Field of a strategy -> step of its axis. ``strategy_rules`` has the ranges of the fields.
STEPS = {
    "entry_score": 1.0,
    "flip_threshold": 1.0,
    "sl_atr_multiplier": 0.1,
    "tp1_ratio": 0.05,
    "tp2_ratio": 0.1,
    "timeout_minutes": 30.0,
    "cooldown_minutes": 5.0,
    "vol_atr_pct_min": 0.0001,
    "whale_usd_threshold": 1_000.0,
    "whale_flow_pct": 0.05,
    "obi_threshold": 0.05,
    "spot_perp_threshold": 0.0005,
}
GROUPS = ("windows", "weights")
# The fields that vary by default. A holding time of more than a day makes no sense here.
DEFAULT = ("windows", "weights", "entry_score", "flip_threshold", "sl_atr_multiplier", "tp1_ratio", "tp2_ratio", "timeout_minutes")
SHORTER = {"timeout_minutes": (30.0, 480.0), "cooldown_minutes": (0.0, 60.0)}
_LEAST_BETWEEN_TARGETS = 0.2


class Space:
    """Parameters around a strategy.

    Args:
        parent: Fields that do not vary keep its values. Instrument and model never vary.
        vary: Names of ``STEPS`` and ``GROUPS``. None: those of ``DEFAULT`` that its model leaves open.
        limits: Field -> (smallest, largest), within the field's range.

    Raises:
        StrategyError: a name that cannot vary, or limits outside the range.
    """

    def __init__(
        self, parent: StrategyConfig, vary: Sequence[str] | None = None, limits: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self.parent = parent
        model = MODELS[parent.model]
        fixed = {*model.fixed} | ({"windows"} if {"cvd_fast_window", "cvd_slow_window"} & {*model.fixed} else set())
        fixed |= {"weights"} if set(WEIGHTS) & {*model.fixed} or not model.weight_fields else set()
        wanted = [name for name in DEFAULT if name not in fixed] if vary is None else list(dict.fromkeys(vary))
        for name in wanted:
            if name not in STEPS and name not in GROUPS:
                raise StrategyError(name, f"cannot be varied (known: {', '.join([*GROUPS, *STEPS])})")
            if name in fixed:
                raise StrategyError(name, f"has no effect in the model {parent.model}, or is fixed by it")
        self._ranges = ranges(parent.model)
        self._limits = {**SHORTER}
        for name, (low, high) in (limits or {}).items():
            if name not in STEPS:
                raise StrategyError(name, f"has no limits to set (known: {', '.join(STEPS)})")
            least, most = self._ranges[name]
            if not least <= low < high <= most:
                raise StrategyError(name, f"limits must rise within {least:g} to {most:g}, got {low:g} to {high:g}")
            self._limits[name] = (low, high)
        self.vary = tuple(wanted)
        self.axes: dict[str, Axis] = {}
        for name in self.vary:
            self.axes.update(self._axes(name))

    def _axes(self, name: str) -> dict[str, Axis]:
        if name == "windows":
            pairs = tuple(f"{f}/{s}" for f in FAST_WINDOWS for s in SLOW_WINDOWS if WINDOW_MS[f] < WINDOW_MS[s])
            return {"windows": Axis(choices=pairs)}
        if name == "weights":
            return {one: Axis(0.0, 1.0, 0.05) for one in ("share_momentum", "share_aux", "share_env")}
        if name == "tp2_ratio":
            return {"tp2_beyond": Axis(0.0, 1.0, 0.05)}
        if name == "flip_threshold":
            return {"flip_beyond": Axis(0.0, 1.0, 0.05)}
        low, high = self.limit(name)
        step = STEPS[name]
        return {name: Axis(low, low + step * int((high - low) / step + 1e-9), step)}

    def limit(self, name: str) -> tuple[float, float]:
        """Return the smallest and the largest value of a field."""
        return self._limits.get(name, self._ranges[name])

    def config(self, point: Point, **more: Any) -> StrategyConfig:
        """Return the strategy at a point.

        Args:
            point: A value for every axis.
            more: Values of further fields, such as the id.

        Raises:
            StrategyError: a point outside the space.
        """
        fields: dict[str, Any] = {}
        if "windows" in point:
            fields["cvd_fast_window"], fields["cvd_slow_window"] = str(point["windows"]).split("/")
        if "share_env" in point:
            fields.update(self._weights(point))
        for name in STEPS:
            if name in point:
                value = round(float(point[name]), 6)
                fields[name] = round(value) if name in ("timeout_minutes", "cooldown_minutes") else value
        first = float(fields.get("tp1_ratio", self.parent.tp1_ratio))
        if "tp2_beyond" in point or first >= self.parent.tp2_ratio:
            low, high = self.limit("tp2_ratio")
            least = max(low, first + _LEAST_BETWEEN_TARGETS)
            fields["tp2_ratio"] = round(least + float(point.get("tp2_beyond", 0.0)) * max(high - least, 0.0), 2)
        entry = float(fields.get("entry_score", self.parent.entry_score))
        if "flip_beyond" in point or entry > self.parent.flip_threshold:
            low, high = self.limit("flip_threshold")
            least = max(low, entry)
            fields["flip_threshold"] = float(round(least + float(point.get("flip_beyond", 0.0)) * max(high - least, 0.0)))
        made = replace(self.parent, **{**fields, **more})
        validate(made)
        return made

    def _weights(self, point: Point) -> dict[str, int]:
        """Return weights within their ranges that sum to 100. Each takes a share of its free range, and direction the rest."""
        (d_low, d_high), (e_low, e_high), (a_low, a_high), (m_low, m_high) = (self._ranges[name] for name in WEIGHTS)
        left, found = 100.0, {}
        rest_low, rest_high = d_low + e_low + a_low, d_high + e_high + a_high
        for name, low, high, share in (
            ("weight_momentum", m_low, m_high, "share_momentum"),
            ("weight_aux", a_low, a_high, "share_aux"),
            ("weight_env", e_low, e_high, "share_env"),
        ):
            least, most = max(low, left - rest_high), min(high, left - rest_low)
            found[name] = round(least + float(point[share]) * (most - least))
            left -= found[name]
            if name != "weight_env":
                following = (a_low, a_high) if name == "weight_momentum" else (e_low, e_high)
                rest_low, rest_high = rest_low - following[0], rest_high - following[1]
        found["weight_direction"] = round(left)
        return found

    def describe(self) -> dict[str, Any]:
        """Return axis -> its choices or its numbers, as plain values."""
        return {
            name: list(axis.choices) if axis.choices else {"from": axis.low, "to": round(axis.high, 6), "step": axis.step}
            for name, axis in self.axes.items()
        }

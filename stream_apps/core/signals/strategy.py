"""The configuration of a strategy: its fields, its hash, and the changes of a revision (S1 7.1). ``strategy_rules`` holds its rules."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

STATUSES = ("running", "paused", "deprecated")
DIRECTIONS = ("both", "long_only", "short_only")
SLOW_WINDOWS = ("30m", "1h", "4h")
ON_MISSING = ("block", "pass")
WEIGHTS = ("weight_direction", "weight_env", "weight_aux", "weight_momentum")


class StrategyError(ValueError):
    """A configuration that breaks a rule.

    Attributes:
        field: The field at fault.
        rule: The requirement, and the actual value.
        source: Where the configuration came from (a file name), if known.
    """

    def __init__(self, field: str, rule: str, source: str | None = None) -> None:
        super().__init__(f"{source}: {field}: {rule}" if source else f"{field}: {rule}")
        self.field = field
        self.rule = rule
        self.source = source


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """One revision of a strategy: exactly the fields of the ``strategies`` topic, which documents their meaning and units.

    A strategy trades its ``instrument`` and the further ``instruments``. It decides for each one apart (D13, D19): each has its own scores,
    signals, cooldown and position. ``max_positions`` and the money are those of the strategy.

    The defaults are those of the factory (S1 7.1) and of the decisions (D10, D13, D14, D19). A strategy must name at least its id and its
    instrument. ``event_time`` and ``receive_time`` (ms UTC) are 0 until a writer sets them. ``effective_time`` (ms of the market's event
    time) is 0 when the revision holds from the next instant on.
    """

    strategy_id: str
    revision: int = 1
    instrument: str
    instruments: tuple[str, ...] = ()
    event_time: int = 0
    receive_time: int = 0
    display_name: str
    status: str = "running"
    model: str = "v54_factory"
    direction: str = "both"
    initial_balance: float = 10_000.0
    added_balance: float = 0.0
    risk_per_trade: float = 0.02
    max_positions: int = 4
    cvd_fast_window: str = "30m"
    cvd_slow_window: str = "4h"
    weight_direction: int = 55
    weight_env: int = 25
    weight_aux: int = 15
    weight_momentum: int = 5
    entry_score: float = 75.0
    flip_threshold: float = 80.0
    fast_variant: bool = False
    gate_vol_enabled: bool = True
    vol_atr_pct_min: float = 0.002
    vol_on_missing: str = "block"
    gate_cvd_enabled: bool = True
    cvd_on_missing: str = "block"
    gate_whale_enabled: bool = True
    whale_usd_threshold: float = 50_000.0
    whale_flow_pct: float = 0.5
    whale_on_missing: str = "pass"
    gate_obi_enabled: bool = True
    obi_threshold: float = 0.35
    obi_on_missing: str = "block"
    gate_spot_perp_enabled: bool = False
    spot_perp_threshold: float = 0.005
    spot_perp_on_missing: str = "block"
    gate_correlation_enabled: bool = True
    correlation_max: float = 0.8
    correlation_on_missing: str = "block"
    sl_atr_multiplier: float = 1.5
    tp1_ratio: float = 0.75
    tp2_ratio: float = 1.5
    timeout_minutes: int = 240
    cooldown_minutes: int = 10
    tier_light: float = 0.5
    tier_standard: float = 1.0
    tier_heavy: float = 1.5
    description: str | None = None
    tags: tuple[str, ...] = ()
    effective_time: int = 0
    edited_by: str = ""
    note: str | None = None

    @property
    def balance(self) -> float:
        """Money that this revision trades with, quote units: 1R is ``risk_per_trade`` of it (D19)."""
        return self.initial_balance + self.added_balance

    @property
    def all_instruments(self) -> tuple[str, ...]:
        """The instruments that the strategy trades, the main one first."""
        return (self.instrument, *self.instruments)

    @property
    def slot(self) -> str:
        """Name of what the strategy keeps about the ``instrument`` of a leg. That of the main one is the strategy's id alone."""
        return f"{self.strategy_id}|{self.instrument}" if self.instrument in self.instruments else self.strategy_id

    def legs(self) -> tuple[StrategyConfig, ...]:
        """Return the strategy once for each of its instruments, with that as ``instrument``; ``instruments`` stays as it is."""
        return (self, *(replace(self, instrument=name) for name in self.instruments))

    @staticmethod
    def kinds() -> dict[str, str]:
        """Return field -> type, as annotated."""
        return dict(_KINDS)

    def to_record(self) -> dict[str, Any]:
        """Return the ``strategies`` record of this revision."""
        record = {name: getattr(self, name) for name in _KINDS}
        for name in _DOUBLES:
            record[name] = float(record[name])
        for name in _LISTS:
            record[name] = list(record[name])
        return record


# Field -> annotation; the annotations are text because of the __future__ import.
_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(StrategyConfig)}
_REQUIRED = frozenset(field.name for field in fields(StrategyConfig) if field.default is MISSING)
_DOUBLES = tuple(name for name, kind in _KINDS.items() if kind == "float")
_LISTS = tuple(name for name, kind in _KINDS.items() if kind.startswith("tuple"))


# Fields about the revision, not about the strategy.
BOOKKEEPING = ("revision", "event_time", "receive_time", "effective_time", "edited_by", "note")
# Fields without effect on decisions: bookkeeping, life cycle, text for people, and money that was added later. Added money changes the size of trades
# and no figure in R, so that a strategy's statistics go on through it.
_NOT_DECIDING = frozenset({*BOOKKEEPING, "status", "display_name", "description", "tags", "added_balance"})


# Field -> value -> its text in the hash, where that differs. Earlier releases did not read whale_on_missing: strategies had "block", their old
# default, and an absent flow passed. A strategy that still decides so keeps its hash. One that blocks gets a hash that no earlier one had.
_HASHED_AS: dict[str, dict[Any, Any]] = {"whale_on_missing": {"pass": "block", "block": "require"}}
# Fields that earlier releases did not have. At their default the strategy decides as it did, so its hash has none of them.
_HASHED_IF_SET: dict[str, Any] = {
    "instruments": [],
    "gate_correlation_enabled": True,
    "correlation_max": 0.8,
    "correlation_on_missing": "block",
}


def config_hash(config: StrategyConfig) -> str:
    """Return the first 16 hex digits of SHA-256 over the canonical JSON of every field that affects decisions."""
    deciding = {name: value for name, value in config.to_record().items() if name not in _NOT_DECIDING}
    for name, default in _HASHED_IF_SET.items():
        if deciding[name] == default:
            del deciding[name]
    for name, texts in _HASHED_AS.items():
        deciding[name] = texts.get(deciding[name], deciding[name])
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def changes(old: StrategyConfig | None, new: StrategyConfig) -> dict[str, tuple[Any, Any]]:
    """Return field -> (before, after) of the changes of a revision, without bookkeeping.

    For a first revision: every field, with None before.
    """
    before = {} if old is None else old.to_record()
    after = new.to_record()
    return {
        name: (before.get(name), after[name]) for name in _KINDS if name not in BOOKKEEPING and before.get(name, _ABSENT) != after[name]
    }


_ABSENT = object()


def action(old: StrategyConfig | None, new: StrategyConfig) -> str:
    """Return the kind of change: create, deprecate, restore, pause, resume or edit."""
    if old is None:
        return "create"
    if old.status == new.status:
        return "edit"
    if new.status == "deprecated":
        return "deprecate"
    if old.status == "deprecated":
        return "restore"
    return "pause" if new.status == "paused" else "resume"

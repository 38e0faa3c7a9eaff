"""The rules of a strategy, for one revision and from one revision to the next (S1 7.1-7.3, DECISIONS D10, D13, D14, D16-D19).

Every strategy passes ``validate``, from any source: command line, file, bootstrap, mutation, topic. ``_check_transition`` checks the
changes of a revision. So each rule exists once. A writer calls ``next_revision`` to get the revision to write. A reader of the log calls
``succeeds`` to learn whether a record holds.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

from schemas.partition import AssetGroups, base_of_instrument
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOW_MS
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import (
    DIRECTIONS,
    ON_MISSING,
    SLOW_WINDOWS,
    STATUSES,
    WEIGHTS,
    StrategyConfig,
    StrategyError,
    changes,
)

_KINDS = StrategyConfig.kinds()
_REQUIRED = frozenset(field.name for field in fields(StrategyConfig) if field.default is MISSING)


def strategy_from_record(record: dict[str, Any]) -> StrategyConfig:
    """Return the configuration in a ``strategies`` record (or a mapping of its fields). It is not validated.

    Fields with a default may be absent: the model's default applies, else the factory's. Integers are accepted for doubles.

    Raises:
        StrategyError: an unknown or absent field, or a value of the wrong type.
    """
    for name in record:
        if name not in _KINDS:
            raise StrategyError(name, "is not a field of a strategy")
    model = MODELS.get(str(record.get("model")))
    values: dict[str, Any] = {} if model is None else {**model.defaults, **model.fixed}
    for name, kind in _KINDS.items():
        if name in record:
            values[name] = _typed(name, kind, record[name])
        elif name in _REQUIRED:
            raise StrategyError(name, "must be given")
    return StrategyConfig(**values)


def _typed(name: str, kind: str, value: Any) -> Any:
    """Return ``value`` as the field's type. Only int -> double and list -> tuple are converted."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float" and is_number:
        return float(value)
    if kind == "int" and is_number and isinstance(value, int):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind.startswith("str") and (isinstance(value, str) or (value is None and "None" in kind)):
        return value
    if kind.startswith("tuple") and isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value):
        return tuple(value)
    raise StrategyError(name, f"must be {_WANTED[kind]}, got {value!r}")


_WANTED = {
    "str": "text",
    "str | None": "text or nothing",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple[str, ...]": "a list of texts",
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "status": STATUSES,
    "model": tuple(MODELS),
    "direction": DIRECTIONS,
    "cvd_fast_window": FAST_WINDOWS,
    "cvd_slow_window": SLOW_WINDOWS,
    "vol_on_missing": ON_MISSING,
    "cvd_on_missing": ON_MISSING,
    "whale_on_missing": ON_MISSING,
    "obi_on_missing": ON_MISSING,
    "spot_perp_on_missing": ON_MISSING,
    "correlation_on_missing": ON_MISSING,
}

# Quote units, S1 7.1: of the balance at creation, and with what was added later.
_MOST_BALANCE = 1_000_000
# Inclusive. From S1 7.1. Those marked "ours" have a default in the specification but no range.
_RANGES: dict[str, tuple[float, float]] = {
    "initial_balance": (1_000, _MOST_BALANCE),
    "added_balance": (0, _MOST_BALANCE),
    "risk_per_trade": (0.0001, 0.1),  # ours: more than a tenth of the account at risk in one trade is probably a typing error
    "max_positions": (1, 100),  # ours: 100 is what the original ran with as "unlimited" (S1 5)
    "weight_direction": (10, 80),
    "weight_env": (5, 60),
    "weight_aux": (0, 40),
    "weight_momentum": (0, 20),
    "entry_score": (60, 95),
    "flip_threshold": (60, 95),
    "vol_atr_pct_min": (0.0001, 0.02),
    "whale_usd_threshold": (1_000, 1_000_000),
    "whale_flow_pct": (0, 1),
    "obi_threshold": (0.1, 0.9),
    "spot_perp_threshold": (0.0005, 0.01),
    "correlation_max": (-1, 1),  # ours
    "sl_atr_multiplier": (0.5, 3.0),
    "tp1_ratio": (0.3, 2.0),
    "tp2_ratio": (0.5, 4.0),
    "timeout_minutes": (30, 1440),
    "cooldown_minutes": (0, 1440),  # ours: none to a day
    "tier_light": (0.01, 5.0),  # ours, as for the other two tiers: a multiple of zero would make a signal without effect
    "tier_standard": (0.01, 5.0),
    "tier_heavy": (0.01, 5.0),
}


def ranges(model: str) -> dict[str, tuple[float, float]]:
    """Return field -> (smallest, largest), both allowed, of the numbers of a strategy with that scoring model (S1 7.1)."""
    return {**_RANGES, **MODELS[model].ranges}


# Further instruments of a strategy; ours: far more than one asset has on the venues.
MOST_INSTRUMENTS = 32
# A written value must leave room for the next revision and its later time. Bounds: Avro's int, and a time that is obviously in other units.
_LAST_REVISION = 2**31 - 1
_END_MS = 7_258_118_400_000


def validate(config: StrategyConfig) -> None:
    """Check the rules of one revision (D17).

    Raises:
        StrategyError: names the first field that breaks a rule, and the rule.
    """
    for name, kind in _KINDS.items():
        _typed(name, kind, getattr(config, name))
    # '|' joins the parts of score and signal ids; spaces would make ids unreadable in a terminal.
    if not 1 <= len(config.strategy_id) <= 64 or not config.strategy_id.isprintable() or set(config.strategy_id) & {"|", " "}:
        raise StrategyError("strategy_id", f"must be 1 to 64 printable characters without space or '|', got {config.strategy_id!r}")
    if not 1 <= config.revision < _LAST_REVISION:
        raise StrategyError("revision", f"must be from 1 to {_LAST_REVISION - 1}, got {config.revision}")
    try:
        base_of_instrument(config.instrument)
    except ValueError as error:
        raise StrategyError("instrument", f"must be an instrument id ({error})") from error
    _check_instruments(config)
    for name in ("event_time", "receive_time", "effective_time"):
        if not 0 <= getattr(config, name) < _END_MS:
            raise StrategyError(name, f"must be milliseconds since 1970 and before the year 2200, got {getattr(config, name)}")
    if not 1 <= len(config.display_name) <= 50:
        raise StrategyError("display_name", f"must have 1 to 50 characters, has {len(config.display_name)}")
    if config.description is not None and len(config.description) > 200:
        raise StrategyError("description", f"must have at most 200 characters, has {len(config.description)}")
    if len(config.edited_by) > 64 or not config.edited_by.isprintable():
        raise StrategyError("edited_by", f"must have at most 64 printable characters, got {config.edited_by!r}")
    if config.note is not None and len(config.note) > 200:
        raise StrategyError("note", f"must have at most 200 characters, has {len(config.note)}")
    if not all(config.tags):
        raise StrategyError("tags", "must not contain an empty tag")
    for name, allowed in _CHOICES.items():
        if getattr(config, name) not in allowed:
            raise StrategyError(name, f"must be one of {', '.join(allowed)}, got {getattr(config, name)!r}")
    model = MODELS[config.model]
    for name, value in model.fixed.items():
        if getattr(config, name) != value:
            raise StrategyError(name, f"must be {value} for {config.model}, got {getattr(config, name)!r}")
    for name, (least, most) in ranges(config.model).items():
        if not least <= getattr(config, name) <= most:  # also refuses NaN
            raise StrategyError(name, f"must be from {least:g} to {most:g}, got {getattr(config, name)!r}")
    if config.balance > _MOST_BALANCE:
        raise StrategyError("added_balance", f"must leave the balance at most {_MOST_BALANCE:g}, got {config.balance!r}")
    total = sum(getattr(config, name) for name in WEIGHTS)
    if total != 100:
        raise StrategyError("weight_direction", f"the four weights must sum to 100, they sum to {total}")
    if WINDOW_MS[config.cvd_fast_window] >= WINDOW_MS[config.cvd_slow_window]:
        raise StrategyError(
            "cvd_fast_window", f"must be shorter than cvd_slow_window, got {config.cvd_fast_window}/{config.cvd_slow_window}"
        )
    if config.tp2_ratio <= config.tp1_ratio:
        raise StrategyError("tp2_ratio", f"must be greater than tp1_ratio, got {config.tp2_ratio:g} and {config.tp1_ratio:g}")
    if config.flip_threshold < config.entry_score:
        raise StrategyError("flip_threshold", f"must be at least entry_score, got {config.flip_threshold:g} and {config.entry_score:g}")


def _check_instruments(config: StrategyConfig) -> None:
    """Check the further instruments. ``check_together`` holds them to one partition.

    Raises:
        StrategyError: names the first instrument that breaks the rule.
    """
    if len(config.instruments) > MOST_INSTRUMENTS:
        raise StrategyError("instruments", f"must name at most {MOST_INSTRUMENTS}, names {len(config.instruments)}")
    seen = {config.instrument}
    for name in config.instruments:
        if name in seen:
            raise StrategyError("instruments", f"must name each instrument once; {name} is there already")
        seen.add(name)
        try:
            base_of_instrument(name)
        except ValueError as error:
            raise StrategyError("instruments", f"must be instrument ids ({error})") from error


def check_together(config: StrategyConfig, groups: AssetGroups) -> None:
    """Check that all instruments of a valid strategy are judged in one partition: their base assets are in one group.

    ``validate`` does not, because the groups belong to an environment and not to a strategy. Writers and readers of the log do.

    Raises:
        StrategyError: names the first instrument that is judged elsewhere.
    """
    asset = base_of_instrument(config.instrument)
    for name in config.instruments:
        base = base_of_instrument(name)
        if groups.of(base) != groups.of(asset):
            raise StrategyError(
                "instruments",
                f"{name} is judged apart from {config.instrument}: {base} and {asset} share no group (PERPFLOW_ASSET_GROUPS={asset}+{base} makes one,"
                " in a new environment)",
            )


def next_revision(
    current: StrategyConfig | None, wanted: StrategyConfig, time: int, *, by: str = "", note: str | None = None, effective_time: int = 0
) -> StrategyConfig | None:
    """Return the revision to write so that ``wanted`` follows ``current``. None if it already holds.

    Args:
        current: The newest revision of this strategy; None if there is none.
        wanted: The requested configuration. Its bookkeeping is ignored.
        time: Time of the edit, ms UTC. The revision gets a later time than its predecessor, even when a clock went back.
        by, note: Who writes it, and why.
        effective_time: First instant that may use it, ms of event time; 0: the next one.

    Raises:
        StrategyError: ``wanted`` breaks a rule of ``validate``, or moves the strategy to another instrument (its records are in the
            partition of its instrument's asset). Or it changes a deprecated strategy other than by restoring it unchanged.
    """
    stamps: dict[str, Any] = {"edited_by": by, "note": note, "effective_time": effective_time}
    if current is None:
        first = replace(wanted, revision=1, event_time=time, receive_time=time, **stamps)
        validate(first)
        return first
    later = max(time, current.event_time + 1)
    edited = replace(wanted, revision=current.revision + 1, event_time=later, receive_time=later, **stamps)
    validate(edited)
    _check_transition(current, edited)
    return None if not changes(current, edited) else edited


def succeeds(known: StrategyConfig | None, candidate: StrategyConfig) -> bool:
    """Return whether a record of the log is the newest revision of its strategy. False if it only repeats the known one.

    Of two records with one revision number the first in the log holds. Two editors who both follow revision N write N + 1; the order of the
    log decides, the same for every reader. Numbers may be missing: compaction removes old revisions.

    Args:
        known: The newest revision before it in the log, or None.
        candidate: The record.

    Raises:
        StrategyError: it breaks a rule, or is not newer than the known revision. The known one stays.
    """
    validate(candidate)
    if known is None:
        return True
    if candidate == known:
        return False
    if candidate.revision <= known.revision:
        raise StrategyError("revision", f"must be above {known.revision}, which {known.strategy_id} has already, got {candidate.revision}")
    _check_transition(known, candidate)
    return True


def _check_transition(current: StrategyConfig, edited: StrategyConfig) -> None:
    """Check the change from one revision to the next.

    Raises:
        StrategyError: another strategy, another instrument, or a change of a deprecated strategy.
    """
    if current.strategy_id != edited.strategy_id:
        raise StrategyError("strategy_id", f"cannot change from {current.strategy_id!r} to {edited.strategy_id!r}")
    if edited.instrument != current.instrument:
        raise StrategyError("instrument", f"cannot change from {current.instrument} to {edited.instrument}; make a new strategy")
    if current.status == "deprecated" and changes(current, edited).keys() - {"status"}:
        raise StrategyError("status", f"{current.strategy_id} is deprecated and cannot be edited until it is restored as it was")

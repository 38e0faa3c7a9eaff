"""All strategies of one instrument at once: the same records as ``evaluate`` gives one by one, as bytes.

Strategies of one model and pair of windows read the market once; of those, the ones with the same gates are judged once, the ones with the same
weights weighed once. What is left for each is a comparison with its thresholds and memory, and joining pieces of its record, most of which were encoded
for all. ``decision.evaluate`` with ``schemas.codec`` is the plain twin that the tests hold this module to, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from schemas.codec import Codec
from schemas.recordwriter import long_bytes, text_bytes
from schemas.rowwriter import texts_bytes
from stream_apps.core.scoring.decision import StrategyMemory, decide, signal_record, tier_starts
from stream_apps.core.scoring.model import Model
from stream_apps.core.scoring.reading import GateSettings, GateVerdict, RawLayer, Reading, Weighted, read
from stream_apps.core.scoring.registry import MODELS
from stream_apps.core.scoring.view import DIRECTION_NAMES
from stream_apps.core.snapshot import Snapshot
from stream_apps.core.strategy import StrategyConfig

Record = dict[str, Any]

_double = struct.Struct("<d").pack
_two_doubles = struct.Struct("<dd").pack
_some_double = struct.Struct("<Bd").pack  # a nullable one that has a value
# Lengths and counts are small; names of inputs, parts, gates and layers are few.
_LENGTHS = [long_bytes(length) for length in range(1024)]
_name = lru_cache(maxsize=4096)(text_bytes)
# All instruments of an instant share its times; few combinations of inputs are absent.
_time = lru_cache(maxsize=64)(long_bytes)
_names = lru_cache(maxsize=1024)(texts_bytes)


def _length(length: int) -> bytes:
    """Return an Avro length; instrument ids may be of any."""
    return _LENGTHS[length] if length < len(_LENGTHS) else long_bytes(length)


_NULL, _FALSE, _TRUE = b"\x00", b"\x00", b"\x01"
_FLAG = (_FALSE, _TRUE)
_DIRECTIONS = {direction: text_bytes(name) for direction, name in DIRECTION_NAMES.items()}
_NO_MEMORY = StrategyMemory()


@dataclass(frozen=True, slots=True)
class _Strategy:
    """One strategy and the pieces of its records that never change."""

    place: int
    config: StrategyConfig
    hash: str
    tiers: list[tuple[str, float]]
    id_prefix: bytes
    who: bytes
    thresholds: bytes


@dataclass(slots=True)
class _Group:
    """Strategies that read the market alike, with their distinct gates and weights."""

    model: Model
    fast_window: str
    slow_window: str
    gates: list[GateSettings] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    members: list[tuple[int, int, _Strategy]] = field(default_factory=list)


class Scored(NamedTuple):
    """One strategy's evaluation: its id, its score as a value of the topic, its signal or None, and its memory after it (None: as before)."""

    strategy_id: str
    score: bytes
    signal: Record | None
    memory: StrategyMemory | None


class Batch:
    """The strategies of one instrument, ready to be evaluated together.

    Args:
        strategies: (configuration, its hash), all of one instrument; results come in this order.
        codec: How values begin.
    """

    def __init__(self, strategies: Iterable[tuple[StrategyConfig, str]], codec: Codec) -> None:
        self._header = codec.header("scores")
        self._groups: list[_Group] = []
        groups: dict[Any, _Group] = {}
        places: dict[Any, int] = {}
        self._size = 0
        for config, hash_ in strategies:
            model = MODELS[config.model].of(config)
            key = (id(model), config.cvd_fast_window, config.cvd_slow_window)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(model, config.cvd_fast_window, config.cvd_slow_window)
                self._groups.append(group)
            its_gates = (key, "gates", *(getattr(config, name) for name in model.gate_fields))
            if its_gates not in places:
                places[its_gates] = len(group.gates)
                group.gates.append(GateSettings.of(model, config))
            its_weights = (key, "weights", *(getattr(config, name) for name in model.weight_fields))
            if its_weights not in places:
                places[its_weights] = len(group.weights)
                group.weights.append(model.mosts(config))
            of_gates, of_weights = places[its_gates], places[its_weights]
            group.members.append((of_gates, of_weights, _prepared(self._size, config, hash_)))
            self._size += 1

    def evaluate(self, snapshot: Snapshot, memories: dict[str, StrategyMemory]) -> list[Scored]:
        """Return the evaluations of all strategies at an instant.

        Args:
            snapshot: Market state of the strategies' instrument.
            memories: Strategy id -> memory; one that is not there has none yet. Not changed.
        """
        out: list[Any] = [None] * self._size
        memo: dict[Any, Any] = {}
        time = str(snapshot.time).encode()
        when = _name(snapshot.instrument) + _time(snapshot.time) + _time(snapshot.decided_at)
        reasons: dict[str | None, bytes] = {None: _NULL}
        for group in self._groups:
            reading = read(snapshot, group.model, group.fast_window, group.slow_window, memo)
            verdicts = [_encoded_gates(reading.judge(settings)) for settings in group.gates]
            raw_layers = [_encoded_raw(raw, reading.view.lean, memo) for raw in reading.layers]
            layers = [_encoded_layers(reading.weigh(mosts), raw_layers) for mosts in group.weights]
            regime, numbers, tail, lean, inputs = _encoded_reading(reading)
            for of_gates, of_weights, strategy in group.members:
                gates, gates_bytes, absent_bytes = verdicts[of_gates]
                weighted, layers_bytes, ungated = layers[of_weights]
                config = strategy.config
                memory = memories.get(config.strategy_id, _NO_MEMORY)
                decision = decide(reading, gates, weighted, config, strategy.tiers, memory)
                block = reasons.get(gates.block)
                if block is None:
                    block = reasons[gates.block] = _or_null(gates.block)
                signalled = decision.entry or decision.flip
                value = b"".join((
                    self._header, _length(len(strategy.id_prefix) + len(time)), strategy.id_prefix, time, when, strategy.who,
                    _DIRECTIONS[decision.direction], _double(decision.score), _TIERS[decision.tier],
                    _FLAG[reading.warm and gates.block is None], block, _FLAG[reading.warm], regime,
                    _FLAG[decision.cooling], _FLAG[signalled], numbers, layers_bytes, gates_bytes, absent_bytes,
                    tail, lean, ungated, _VERDICTS[decision.verdict], strategy.thresholds, inputs,
                ))  # fmt: skip
                if signalled:
                    signal = signal_record(reading, decision, config, strategy.hash)
                    after = memory.after(snapshot.time, decision.direction, decision.entry, decision.flip)
                    out[strategy.place] = Scored(config.strategy_id, value, signal, after)
                else:
                    out[strategy.place] = Scored(config.strategy_id, value, None, None)
        return out


def _prepared(place: int, config: StrategyConfig, hash_: str) -> _Strategy:
    who = b"".join((
        text_bytes(config.strategy_id), text_bytes(config.display_name), text_bytes(config.model), long_bytes(config.revision), text_bytes(hash_),
    ))  # fmt: skip
    thresholds = b"\x02" + _double(config.entry_score) + b"\x02" + _double(config.flip_threshold)
    return _Strategy(place, config, hash_, tier_starts(config), f"{config.instrument}|{config.strategy_id}|".encode(), who, thresholds)


def _or_null(text: str | None) -> bytes:
    return _NULL if text is None else b"\x02" + text_bytes(text)


_TIERS = {name: _or_null(name) for name in (None, "light", "standard", "heavy")}
_VERDICTS = {
    name: text_bytes(name)
    for name in (
        "entry", "entry+flip", "flip", "below_entry", "cooldown", "hourly_limit", "no_entry", "direction_limit", "blocked", "not_warm",
    )
}  # fmt: skip


def _maybe(value: float | None) -> bytes:
    return _NULL if value is None else _some_double(2, value)


def _map(values: dict[str, float]) -> bytes:
    """Return an Avro map of doubles, in one block."""
    if not values:
        return b"\x00"
    return b"".join((_LENGTHS[len(values)], *[_name(name) + _double(value) for name, value in values.items()], b"\x00"))


def _encoded_gates(verdict: GateVerdict) -> tuple[GateVerdict, bytes, bytes]:
    """Return a verdict with its gates and its absent inputs as they stand in a score."""
    absent = _names(tuple(verdict.missing)) + _names(tuple(verdict.stale))
    if not verdict.gates:
        return verdict, b"\x00", absent
    pieces = [_LENGTHS[len(verdict.gates)]]
    for name, enabled, passed, skipped, value, limit, reason in verdict.gates:
        pieces += (_name(name), _FLAG[enabled], _FLAG[passed], _FLAG[skipped], _maybe(value), _some_double(2, limit), _or_null(reason))
    pieces.append(b"\x00")
    return verdict, b"".join(pieces), absent


def _encoded_raw(raw: RawLayer, lean: int, memo: dict[Any, Any]) -> tuple[bytes, bytes]:
    """Return what stands before and after a layer's weighted points."""
    key = ("bytes", id(raw.layer), lean) if raw.layer.windowless else None
    known: tuple[bytes, bytes] | None = memo.get(key) if key is not None else None
    if known is None:
        known = (_name(raw.layer.name) + _two_doubles(raw.raw, raw.layer.raw_max), _map(raw.parts))
        if key is not None:
            memo[key] = known
    return known


def _encoded_layers(weighted: Weighted, raw_layers: list[tuple[bytes, bytes]]) -> tuple[Weighted, bytes, bytes]:
    """Return weighted layers with their bytes and those of their sum."""
    total = _double(weighted.total)
    if not raw_layers:
        return weighted, b"\x00", total
    pieces = [_LENGTHS[len(raw_layers)]]
    for (before, after), (points, most) in zip(raw_layers, weighted.layers, strict=True):
        pieces += (before, _two_doubles(points, most), after)
    pieces.append(b"\x00")
    return weighted, b"".join(pieces), total


def _encoded_reading(reading: Reading) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return regime, numbers, late trades, lean and inputs as they stand in a score."""
    view, snapshot = reading.view, reading.view.snapshot
    numbers = b"".join((
        _double(snapshot.price), _maybe(snapshot.atr), _maybe(view.fast), _maybe(view.slow), _maybe(view.slope), _maybe(view.acceleration),
    ))  # fmt: skip
    lean = _DIRECTIONS[view.lean if reading.warm else 0]
    return _name(reading.regime), numbers, long_bytes(snapshot.late_trades), lean, _map(reading.inputs)

"""Scores all strategies of a partition together. The records are the same bytes that ``evaluate`` gives one by one.

The constructor lays models and strategies out as tables of numbers and texts, once. At an instant one call of the compiled scorer
(``kernel``) evaluates every strategy of every instrument that fires, and writes the scores. Python does only what is rare: the reason of a
gate that contains a number, and signals. The tests compare this module with ``decision.evaluate`` and ``schemas.codec.avro``, byte for
byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec
from schemas.codec.recordwriter import long_bytes, text_bytes
from schemas.partition import base_of_instrument
from stream_apps.core.market import columns as col
from stream_apps.core.market.prints import PrintStore
from stream_apps.core.market.state import FEATURES, INPUTS
from stream_apps.core.signals.scoring import kernel as k
from stream_apps.core.signals.scoring.decision import ALLOWED, BIT, Decision, StrategyMemory, signal_record, tier_starts
from stream_apps.core.signals.scoring.model import INPUT_ORDER, Gate, Judged, Model
from stream_apps.core.signals.scoring.models.shared import (
    ACCEL_INDEPENDENT,
    CORRELATION_INPUT,
    SAME_BET,
    VOLATILITY_INPUT,
    WHALE_INPUT,
    on_missing,
    whale_adverse,
)
from stream_apps.core.signals.scoring.points import AgainstFunding, Part
from stream_apps.core.signals.scoring.reading import REGIME_LIMITS, GateSettings, RegimeLimits
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.scoring.view import DIRECTION_NAMES, is_btc, shown
from stream_apps.core.signals.strategy import StrategyConfig

Record = dict[str, Any]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_PLACE = {name: place for place, name in enumerate(INPUT_ORDER)}
_COLUMN = {name: place for place, name in enumerate(FEATURES)}
_STATE = {name: place for place, name in enumerate(INPUTS)}
_OPERATORS = {">": k.ABOVE, ">=": k.AT_LEAST, "<": k.BELOW, "<=": k.AT_MOST}
_SIDES = {"LONG": 1, "SHORT": -1, "any": 0}
_STRETCHED = "1h"  # the fast window in a minute of heavy trading (``view.view_of``)
_FEATURE_OF = {"quantity_p99": "trade_quantity_p99"}  # inputs with another name among the features
_COLUMNS = np.array(
    [*(_COLUMN.get(_FEATURE_OF.get(name, name), -1) for name in INPUT_ORDER), _COLUMN["cvd_1h"], _COLUMN["slope_1h"]], dtype=np.int64
)
# The input that a gate calls missing, where it is not its first one.
_ABSENT_INPUT = {
    Judged.VOLATILITY: VOLATILITY_INPUT,
    Judged.WHALE: WHALE_INPUT,
    Judged.VWAP_SIGN: "vwap_30m",
    Judged.SAME_BET: CORRELATION_INPUT,
}
# Bytes of a score that are neither texts of the tables nor counted below: numbers, flags, lengths.
_NUMBERS = 512
_WORDS = 64  # maximum bytes of a reason with a number in it


class Market(NamedTuple):
    """The market state of some instruments at an instant, one row each.

    Attributes:
        features: Columns ``state.FEATURES``, NaN where undefined.
        states: States of ``state.INPUTS``.
        counts: Trades of the pane, and late trades so far.
        prints: Numbers of large buys and large sells.
        kept: The store of the prints.
        instruments: The rows' instruments in ``kept``.
        instant, decided_at: Instant, and time of the mark that fired it, ms UTC.
    """

    features: npt.NDArray[np.float64]
    states: npt.NDArray[np.int8]
    counts: I64
    prints: I64
    kept: PrintStore
    instruments: I64
    instant: int
    decided_at: int


class Scored(NamedTuple):
    """One evaluation: the strategy's slot, the encoded score, the signal or None, and the memory after it (None: unchanged)."""

    slot: str
    score: bytes
    signal: Record | None
    memory: StrategyMemory | None


class _Texts:
    """Texts in one buffer. Each text is stored once."""

    def __init__(self) -> None:
        self._spans: dict[bytes, int] = {}
        self._ends: list[tuple[int, int]] = []
        self._size = 0
        self._bytes: list[bytes] = []

    def raw(self, value: bytes, once: bool = True) -> int:
        """Return the span of some bytes. Without ``once`` it is a new span, whose number follows the one before."""
        if once and value in self._spans:
            return self._spans[value]
        self._spans.setdefault(value, len(self._ends))
        self._ends.append((self._size, self._size + len(value)))
        self._size += len(value)
        self._bytes.append(value)
        return len(self._ends) - 1

    def of(self, value: str) -> int:
        """Return the span of an Avro string."""
        return self.raw(text_bytes(value))

    def length(self, span: int) -> int:
        """Return the bytes of a span."""
        start, end = self._ends[span]
        return end - start

    def arrays(self) -> tuple[I64, npt.NDArray[np.uint8]]:
        """Return spans and bytes."""
        return np.array(self._ends, dtype=np.int64), np.frombuffer(b"".join(self._bytes) or b"\x00", dtype=np.uint8)


def _table(rows: Sequence[Any], columns: int) -> I64:
    return np.array(rows, dtype=np.int64).reshape(len(rows), columns)


class _Tables:
    """The tables of ``kernel.score`` under construction."""

    def __init__(self, header: bytes) -> None:
        self.texts = _Texts()
        for value in (
            header,
            *(text_bytes(DIRECTION_NAMES[lean]) for lean in (-1, 0, 1)),
            *map(text_bytes, k.REGIMES),
            *map(text_bytes, k.VERDICTS),
        ):
            self.texts.raw(value, once=False)
        for reason in ("no_direction_consensus", "no_direction", "no_risk_distance"):
            self.texts.raw(text_bytes(reason), once=False)
        self.models: list[list[int]] = []
        self.layers: list[list[int]] = []
        self.layer_most: list[float] = []
        self.parts: list[list[int]] = []
        self.part_values: list[list[float]] = []
        self.part_inputs: list[int] = []
        self.rows: list[list[int]] = []
        self.row_points: list[float] = []
        self.conditions: list[list[int]] = []
        self.limits: list[float] = []
        self.gates: list[list[int]] = []
        self._numbers: dict[int, int] = {}
        self.sizes: dict[int, int] = {}  # model -> maximum bytes of its layers, gates and inputs in a score

    def model(self, model: Model) -> int:
        """Return the number of a model."""
        known = self._numbers.get(id(model))
        if known is not None:
            return known
        number = self._numbers[id(model)] = len(self.models)
        independent = self._part(ACCEL_INDEPENDENT)
        first_layer, first_gate = len(self.layers), len(self.gates)
        size = 0
        for layer in model.layers:
            if len({part.name for part in layer.all_parts}) < len(layer.all_parts):
                raise ValueError(f"{model.name}.{layer.name}: two sub-scores of one name")
            first_part = len(self.parts)
            for part in layer.all_parts:
                size += 16 + self.texts.length(self.parts[self._part(part)][k.P_NAME])
            name = self.texts.of(layer.name)
            self.layers.append([name, first_part, len(layer.all_parts), len(layer.parts)])
            self.layer_most.append(layer.raw_max)
            size += 64 + self.texts.length(name)
        for gate in model.gates:
            self.gates.append([self.texts.of(gate.name), int(gate.judged), gate.needs_direction, gate.entry_only])
            size += 32 + self.texts.length(self.gates[-1][k.G_NAME])
        tiers = [self.texts.raw(text_bytes(tier.name), once=False) for tier in model.tiers]
        self.models.append([
            first_layer, len(model.layers), first_gate, len(model.gates), len(model.inputs), model.stretch, model.two_an_hour, tiers[0], len(tiers),
            independent, model.flip_closes_only,
        ])  # fmt: skip
        self.sizes[number] = size
        return number

    def _part(self, part: Part) -> int:
        """Append a sub-score and return its number."""
        first_input, first_row = len(self.part_inputs), len(self.rows)
        if isinstance(part, AgainstFunding):
            self.parts.append([self.texts.of(part.name), 1, 0, 0, 0, 0])
            self.part_values.append([0.0, 0.0, part.most])
            return len(self.parts) - 1
        self.part_inputs += [_PLACE[name] for name in part.inputs]
        for row in part.rows:
            self.rows.append([_SIDES[row.side], len(self.conditions), len(row.when)])
            self.row_points.append(row.points)
            for when in row.when:
                self.conditions.append([_OPERATORS[when.op], _PLACE[when.input], -1 if when.of is None else _PLACE[when.of]])
                self.limits.append(when.limit)
        self.parts.append([self.texts.of(part.name), 0, first_row, len(part.rows), first_input, len(part.inputs)])
        self.part_values.append([part.otherwise, part.missing, 0.0])
        return len(self.parts) - 1


class StrategyTables(NamedTuple):
    """The running strategies in the form that the compiled loop over instants takes.

    Attributes:
        starts, places: The strategies of instrument row i are ``places[starts[i]:starts[i + 1]]``.
        size: Maximum bytes of all their scores at one instant.
        pair_rows: Rows of the pairs' instruments; -1: unknown.
        most_pairs: Most pairs of a strategy, at least 1.
        least, of_whales: The flows of large trades that they ask for.
        columns, regimes, score_tables: What the compiled scorer reads.
    """

    starts: Any
    places: Any
    size: int
    pair_rows: Any
    most_pairs: int
    least: Any
    of_whales: Any
    columns: Any
    regimes: Any
    score_tables: Any


class Batch:
    """The strategies of a partition, ready to be evaluated together.

    Args:
        strategies: (configuration, its hash). The scores of an instrument come in this order.
        codec: Codec of the environment.
        memories: ``StrategyConfig.slot`` -> memory. A slot that is absent has none yet.
        limits: Limits of the regime label.

    Attributes:
        strategies: (configuration, its hash) by index: the legs, one for each instrument of a strategy.
    """

    def __init__(
        self,
        strategies: Iterable[tuple[StrategyConfig, str]],
        codec: Codec,
        memories: Mapping[str, StrategyMemory],
        limits: RegimeLimits = REGIME_LIMITS,
    ) -> None:
        self._limits = np.array([limits.crash, limits.high_vol, limits.trend])
        self.strategies = [(leg, hash_) for config, hash_ in strategies for leg in config.legs()]
        self._places: dict[str, list[int]] = {}
        self._memories = [memories.get(leg.slot, StrategyMemory()) for leg, _ in self.strategies]
        whales: list[tuple[float, bool]] = []
        self._gates: list[tuple[Gate, ...]] = []
        self._tiers: list[list[str]] = []
        self._sizes: list[int] = []
        tables = _Tables(codec.header("scores"))
        rows, values, maxima, of_gates, gate_limits, inputs = [], [], list[float](), list[list[int]](), list[float](), list[list[int]]()
        pairs: list[int] = []
        for place, (config, hash_) in enumerate(self.strategies):
            self._places.setdefault(config.instrument, []).append(place)
            model = MODELS[config.model].of(config)
            number, texts = tables.model(model), tables.texts
            starts = tier_starts(config)
            self._gates.append(model.gates)
            self._tiers.append([name for name, _ in starts])
            who = b"".join((
                text_bytes(config.strategy_id), text_bytes(config.display_name), text_bytes(config.model), long_bytes(config.revision), text_bytes(hash_),
            ))  # fmt: skip
            thresholds = b"\x02" + np.float64(config.entry_score).tobytes() + b"\x02" + np.float64(config.flip_threshold).tobytes()
            own = [
                texts.raw(f"{config.instrument}|{config.strategy_id}|".encode()), texts.of(config.instrument), texts.raw(who), texts.raw(thresholds),
            ]  # fmt: skip
            fast, slow = config.cvd_fast_window, config.cvd_slow_window
            rows.append([
                number, *own, _COLUMN.get(f"slope_{fast}", -1), _COLUMN.get(f"acceleration_{fast}", -1), _COLUMN[f"cvd_{fast}"], _COLUMN[f"cvd_{slow}"],
                _COLUMN[f"volume_{fast}"], len(of_gates), len(inputs), sum(BIT[side] for side in ALLOWED[config.direction]), config.cooldown_minutes,
                len(maxima), config.timeout_minutes, len(pairs), len(others := self._others(model, config)),
            ])  # fmt: skip
            pairs += others
            values.append(
                [config.entry_score, config.flip_threshold, *(start for _, start in starts), *([0.0] * (k.N_SF - k.TIERS - len(starts)))]
            )
            maxima += model.maxima(config)
            settings = GateSettings.of(model, config)
            whale = (np.nan, False)
            size = tables.sizes[number] + _NUMBERS + sum(map(texts.length, own))
            for gate, on, limit in settings.gates:
                of_gates.append(self._gate(gate, on, config, texts))
                gate_limits.append(limit)
                size += max(_WORDS, *(texts.length(span) for span in of_gates[-1][k.A_ABSENT :]))
                if gate.judged is Judged.WHALE and on:
                    whale = (config.whale_usd_threshold, is_btc(config.instrument))
            whales.append(whale)
            for name in model.inputs:
                names = [shown(name, window, slow) for window in (fast, _STRETCHED)]
                spans = [texts.of(one) for one in names]
                inputs.append([_PLACE[name], name in settings.reads, *spans, *(_STATE.get(one, -1) for one in names)])
                size += 3 * max(map(texts.length, spans)) + 8
            self._sizes.append(size)
        # For strategies that ask for big trades: the smallest notional (NaN: it does not ask), and whether of all whale prints.
        self._least, self._of_whales = np.array([least for least, _ in whales]), np.array([every for _, every in whales], dtype=np.bool_)
        self._memory = np.array([_as_numbers(memory) for memory in self._memories], dtype=np.int64).reshape(len(self.strategies), 5)
        self._tables = (
            _table(rows, k.N_S), np.array(values).reshape(len(rows), k.N_SF), self._memory, _table(tables.models, k.N_M), _table(tables.layers, k.N_L),
            np.array(tables.layer_most), np.array(maxima), _table(tables.parts, k.N_P), np.array(tables.part_values).reshape(-1, 3),
            np.array(tables.part_inputs, dtype=np.int64), _table(tables.rows, k.N_R), np.array(tables.row_points), _table(tables.conditions, k.N_C),
            np.array(tables.limits), _table(tables.gates, k.N_G), _table(of_gates, k.N_A), np.array(gate_limits),
            np.array(pairs, dtype=np.int64), _table(inputs, k.N_I),
            *tables.texts.arrays(),
        )  # fmt: skip
        self._pairs = [self.strategies[other][0].instrument for other in pairs]
        self._most_pairs = max([1, *(row[k.S_N_PAIRS] for row in rows)])
        self._strategy_tables: StrategyTables | None = None

    def _others(self, model: Model, config: StrategyConfig) -> list[int]:
        """Return the pairs of a leg, by index: the legs of its strategy on other assets, if its model asks how they move together."""
        if not any(gate.judged is Judged.SAME_BET for gate in model.gates):
            return []
        mine = [(place, leg) for place, (leg, _) in enumerate(self.strategies) if leg.strategy_id == config.strategy_id]
        return [place for place, leg in mine if base_of_instrument(leg.instrument) != base_of_instrument(config.instrument)]

    @staticmethod
    def _gate(gate: Gate, on: bool, config: StrategyConfig, texts: _Texts) -> list[int]:
        """Return a strategy's row of a gate: settings, and the spans of its texts."""
        fast, slow = config.cvd_fast_window, config.cvd_slow_window
        name = _ABSENT_INPUT.get(gate.judged) or gate.inputs[0]
        rule = "block" if gate.on_missing is None else getattr(config, gate.on_missing)
        absent = [texts.of(on_missing("block", shown(name, window, slow)) or "") for window in (fast, _STRETCHED)]
        adverse = (
            texts.of(whale_adverse(config)) if gate.judged is Judged.WHALE else texts.of(SAME_BET) if gate.judged is Judged.SAME_BET else 0
        )
        return [on, rule == "block", is_btc(config.instrument), *absent, adverse]

    def of(self, instrument: str) -> list[int]:
        """Return the strategies of an instrument, by index."""
        return self._places.get(instrument, [])

    def strategy_tables(self, names: Sequence[str]) -> StrategyTables:
        """Return the strategies in the form for the loop over instants. ``names``: instruments by their rows there."""
        if self._strategy_tables is None or len(self._strategy_tables.starts) != len(names) + 1:
            mine = [self.of(name) for name in names]
            starts = np.cumsum([0, *map(len, mine)])
            places = np.array([place for one in mine for place in one], dtype=np.int64)
            size = sum([self._sizes[place] for place in places.tolist()])
            rows = {name: row for row, name in enumerate(names)}
            pair_rows = np.array([rows.get(name, -1) for name in self._pairs], dtype=np.int64)
            self._strategy_tables = StrategyTables(
                starts, places, size, pair_rows, self._most_pairs, self._least, self._of_whales, _COLUMNS, self._limits, self._tables
            )  # fmt: skip
        return self._strategy_tables

    def evaluate(self, asked: Sequence[tuple[int, int]], market: Market) -> list[Scored]:
        """Return the evaluations of some strategies at one instant, in the order of ``asked``.

        The loop over instants scores with ``strategy_tables`` and also ends in ``scored``. This method does one instant without the loop,
        for the warm-up and for tests that compare the compiled scorer with the readable one. It knows no correlations.

        Args:
            asked: (index of the strategy, row of its instrument) of each.
            market: The rows.
        """
        n, size = len(asked), sum([self._sizes[place] for place, _ in asked])
        places = np.array(asked, dtype=np.int64)
        flows = market.kept.flows_of(places, market.instruments, self._least, self._of_whales)
        together = np.full((n, self._most_pairs), np.nan)
        results, numbers, out = np.empty((n, k.N_RESULT), dtype=np.int64), np.empty((n, 2)), np.empty(size, dtype=np.uint8)
        k.score(
            places, market.features, market.states, market.counts, market.prints, flows, together, market.instant, market.decided_at,
            _COLUMNS, col.STALE, self._limits, *self._tables, out, results, numbers,
        )  # fmt: skip
        written = out[: results[-1, k.END]].tobytes() if n else b""
        return self.scored(asked, results.tolist(), numbers, written, 0, market.features, market.instant, market.decided_at)

    def scored(
        self, asked: Sequence[Sequence[int]], results: Sequence[Sequence[int]], numbers: F64, written: bytes, start: int, features: F64, instant: int,
        decided_at: int,
    ) -> list[Scored]:  # fmt: skip
        """Return the evaluations from the compiled scorer's results at an instant, and record their signals in the memories.

        Args:
            asked: (index of the strategy, row of its instrument) of each.
            results, numbers, written: Output of the scorer. The first score begins at ``start``.
            features: The rows.
            instant, decided_at: ms UTC.
        """
        found: list[Scored] = []
        for e, (end, block_at, reason_at, words, direction, tier, entry, flip, regime) in enumerate(results):
            place = asked[e][0]
            config, hash_ = self.strategies[place]
            value = written[start:end]
            if words >= 0:
                says = self._gates[place][words].words
                assert says is not None
                reason = b"\x02" + text_bytes(says(float(numbers[e, 1]), config))
                value = b"".join((written[start:block_at], reason, written[block_at:reason_at], reason, written[reason_at:end]))
            start = end
            if not (entry or flip):
                found.append(Scored(config.slot, value, None, None))
                continue
            row = features[asked[e][1]]
            decision = Decision(direction, float(numbers[e, 0]), self._tier(place, tier), bool(entry), bool(flip), False, "")
            price, atr = float(row[_COLUMN["price"]]), float(row[_COLUMN["atr"]])
            signal = signal_record(instant, decided_at, price, atr, k.REGIMES[regime], decision, config, hash_)
            memory = self._memories[place].after(instant, direction, bool(entry), bool(flip), MODELS[config.model].flip_closes_only)
            self._memories[place] = memory
            self._memory[place] = _as_numbers(memory)
            found.append(Scored(config.slot, value, signal, memory))
        return found

    def _tier(self, place: int, span: int) -> str | None:
        """Return the tier whose text has a span."""
        models, strategies = self._tables[3], self._tables[0]
        return None if span < 0 else self._tiers[place][span - int(models[strategies[place, k.S_MODEL], k.M_TIERS])]


def _as_numbers(memory: StrategyMemory) -> list[int]:
    return [k.NO_TIME if value is None else value for value in memory.to_tuple()]


assert len(INPUT_ORDER) == k.N_INPUTS
assert (_STATE["quantity_p99"], col.MISSING) == (k.P99_STATE, k.MISSING)
assert INPUT_ORDER[:10] == (
    "cvd_fast", "cvd_slow", "slope_fast", "acceleration_fast", "atr", "quantity_p99", "price", "vwap_30m", "volume_1m", "volume_24h",
)  # fmt: skip
assert INPUT_ORDER[k.BUYS : k.FUNDING_MAX + 1] == (
    "large_buys", "large_sells", "obi", "spot_perp_divergence", "estimated_funding_rate", "funding_rate_max",
)  # fmt: skip

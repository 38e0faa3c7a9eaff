"""The signals engine: market state, strategies and scoring of one partition (DESIGN 3).

It reads market data and strategies. At every instant it writes bars and features, and for each running strategy a score and perhaps a signal. An hour
after an evaluation it writes its label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.catalogue import ENGINE_INPUTS
from schemas.codec.avro import Codec, CodecError
from schemas.codec.markreader import Mark
from schemas.codec.recordset import RecordSet
from stream_apps.core.labels.pending import PendingLabels
from stream_apps.core.labels.store import PREFIX as LABEL_PREFIX
from stream_apps.core.log.checkpoint import Array, Entry
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.log.engine_settings import SettingsInForce
from stream_apps.core.log.inbox import Chunk
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.log.steps import DECIDED, PANE, STOP, Steps
from stream_apps.core.market import arrays
from stream_apps.core.market import checkpoint as market_checkpoint
from stream_apps.core.market import columns as col
from stream_apps.core.market.arrays import Trades
from stream_apps.core.market.config import MOST_BOOK_MS, TIMEFRAMES, EngineConfig
from stream_apps.core.market.kernels import pane_kernels
from stream_apps.core.market.slow_inputs import klines, liquidations, slow_inputs
from stream_apps.core.market.state import FEATURES, MarketState
from stream_apps.core.signals import instant_kernel
from stream_apps.core.signals.instant_kernel import InstantOutputs
from stream_apps.core.signals.instants import run_instants
from stream_apps.core.signals.records import MarketRecords, Name
from stream_apps.core.signals.scoring import StrategyMemory
from stream_apps.core.signals.scoring.batch import Batch, StrategyTables
from stream_apps.core.signals.scoring.reading import RegimeLimits
from stream_apps.core.signals.settings import SETTINGS, check_in_force, label_rules, value_of, with_values
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_rules import check_together, strategy_from_record, succeeds

I64 = npt.NDArray[np.int64]

_REASONS: dict[int, tuple[str | None, str]] = {
    col.NO_INSTRUMENT: ("instrument", "no instruments record names this instrument"),
    col.BAD_PRICE: ("price", "not a positive finite number"),
    col.BAD_QUANTITY: ("quantity", "not a positive finite number"),
    col.OFF_PRICE_GRID: ("price", "has more decimals than the instrument's price_decimals"),
    col.OFF_QUANTITY_GRID: ("quantity", "has more decimals than the instrument's quantity_decimals"),
    col.BAD_SIDE: ("side", "neither LONG nor SHORT"),
    col.TOO_FAR: ("event_time", "lies more than an hour beyond what has fired"),
}
# A restart may change these: lateness is not part of the state, and analytics with other lengths start empty.
_FREE_AT_RESTART = frozenset({"grid_ms", "lateness_ms", "kyle_window_ms", "vpin_buckets", "vpin_buckets_per_day", "divergence_bars"})
# Upper bounds of one batch: instants, rows of features (half a kilobyte each), bytes of scores.
_MOST_STEPS, _MOST_ROWS, _MOST_SCORES = 256, 1024, 4 << 20
_ATR = FEATURES.index("atr")
_NO_LONGS, _NO_DOUBLES = np.empty(0, dtype=np.int64), np.empty(0)
_NO_TRADES = Trades(
    _NO_LONGS,
    np.empty(0, dtype=np.bool_),
    _NO_LONGS,
    _NO_LONGS,
    _NO_LONGS,
    _NO_DOUBLES,
    _NO_DOUBLES,
    _NO_LONGS,
    np.empty(0, dtype=np.uint8),
)


class SignalsEngine(PartitionEngine):
    """The signals engine of one partition: market state, strategies, scoring.

    Args:
        partition: Kafka partition; for messages only.
        config: Numbers of the market state.
        codec: How values are decoded and encoded.
    """

    NAME = "signals"
    READS = ENGINE_INPUTS
    WRITES = ("features", "bars", "scores", "signals", "labels", "worker_progress", "dead_letters")
    PROGRESS = "worker_progress"
    DECISIONS = "signals"
    FACTS = ("instruments", "engine_settings", "strategies")
    SETTINGS = SETTINGS
    STRETCH = "agg_trades"

    def __init__(self, partition: int, config: EngineConfig, codec: Codec) -> None:
        super().__init__(partition, config, codec)
        self.state = MarketState(config)
        self.instruments = self.state
        self.strategies: dict[str, tuple[StrategyConfig, str]] = {}  # in force
        self.waiting: dict[str, list[StrategyConfig]] = {}  # newer revisions with a future effective_time, by revision
        self.memories: dict[str, StrategyMemory] = {}  # by StrategyConfig.slot
        self._running: Batch | None = None
        self._in_force = self.settings.kept[0]
        self._records = MarketRecords(self.state, codec, config.grid_ms)
        self._labels = PendingLabels(config.grid_ms, col.AHEAD, label_rules(config), MOST_BOOK_MS, codec, self.state.names)
        self._encode_signal = codec.encoder("signals")

    # --- strategies ------------------------------------------------------------------------------------------------------
    def _apply_strategies(self, records: RecordSet, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        for row in rows:
            try:
                self.take_strategy(strategy_from_record(self.codec.decode("strategies", records.value(row))))
            except (CodecError, StrategyError) as error:
                # An invalid configuration affects only its strategy: the last good revision stays in force.
                outputs.append(self.dead_letter("strategies", records, row, error.field, str(error), mark.time))

    def take_strategy(self, config: StrategyConfig) -> None:
        """Use a strategy revision from the next instant on, or from its ``effective_time`` if that is later. A repeat changes nothing.

        Raises:
            StrategyError: it breaks a rule, is not newer than the newest one known (``strategy_rules.succeeds``), or names instruments of
                other partitions. The known revision stays.
        """
        strategy_id = config.strategy_id
        waiting = self.waiting.get(strategy_id)
        newest = waiting[-1] if waiting else self.strategies[strategy_id][0] if strategy_id in self.strategies else None
        if not succeeds(newest, config):
            return
        check_together(config, self.config.groups)
        if config.effective_time:
            self.waiting.setdefault(strategy_id, []).append(config)
        else:
            self._put_in_force(config)

    def _put_in_force(self, config: StrategyConfig) -> None:
        self.strategies[config.strategy_id] = (config, config_hash(config))
        later = [one for one in self.waiting.pop(config.strategy_id, ()) if one.revision > config.revision]
        if later:
            self.waiting[config.strategy_id] = later
        self._running = None

    def _begin_revisions(self, author: str, instant: int) -> None:
        """Put waiting revisions in force that may be used from ``instant`` on, if the instant is one of their main instrument."""
        for strategy_id in list(self.waiting):
            due = [config for config in self.waiting[strategy_id] if config.effective_time <= instant]
            facts = self.state.facts.get(due[-1].instrument) if due else None
            if facts is not None and facts.author == author:
                self._put_in_force(due[-1])

    # --- settings --------------------------------------------------------------------------------------------------------
    def check_settings(self, settings: SettingsInForce) -> None:
        """Raise SettingsError, naming the setting, when numbers that are set do not fit together."""
        check_in_force(self.config, settings)

    def fixed_numbers(self) -> dict[str, float]:
        """Return the numbers on which the layout of the state depends."""
        found = {setting.name: value_of(self.config, setting.name) for setting in SETTINGS if setting.fixed and not setting.of_instrument}
        return {name: value for name, value in found.items() if value is not None and name not in _FREE_AT_RESTART}

    def _use(self, steps: Steps, first: int, last: int) -> int:
        """Put the settings of the first instant in force. Return the end of the instants that use the same settings."""
        kept = self.settings.kept
        place = 0
        if len(kept) > 1:
            places = self.settings.places(steps.table[first:last, PANE] * self.config.grid_ms)
            place = int(places[0])
            others = np.flatnonzero(places != place)
            last = first + int(others[0]) if len(others) else last
        if kept[place] is not self._in_force:
            self._in_force = kept[place]
            self._put_settings_in_force()
        return last

    def _put_settings_in_force(self) -> None:
        settings = self._in_force
        before, config = self.state.config, with_values(self.config, settings.engine)
        self.state.use(config, settings.instruments)
        self._labels.use(label_rules(config))
        if RegimeLimits.of(config) != RegimeLimits.of(before):
            self._running = None

    # --- market data -----------------------------------------------------------------------------------------------------
    def apply(self, topic: str, chunk: Chunk, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        """Apply records of strategies and of market data."""
        if topic == "strategies":
            self._apply_strategies(chunk.records, rows, mark, outputs)
            return
        part = slice(rows.start, rows.stop)
        columns = chunk.columns(self.codec, topic)
        instrument = self.instrument_rows(chunk)[part]
        times, offsets, good = columns.long("event_time")[part], chunk.offsets[part], columns.good[part]
        self._start_instruments(instrument, times, good)
        state = self.state
        if topic == "agg_trades":
            trades = self._trades(chunk)
            if state.take_trades(trades, rows.start, rows.stop):
                self._finish_trades(chunk, trades, rows, mark.time, outputs)
            self._count_repeated()
            return
        self._dead_letters_of_undecoded(topic, chunk, rows, mark.time, outputs)
        if topic == "liquidations":
            status = np.full(len(rows), col.APPLIED, dtype=np.uint8)
            side, price, quantity = liquidations(chunk, columns)
            state.put_liquidations(instrument, times, side[part], price[part], quantity[part], good, status)
        elif topic == "klines":
            status = np.full(len(rows), col.APPLIED, dtype=np.uint8)
            use, highs, lows, closes = klines(chunk, columns)
            state.put_klines(instrument, good, use[part], times, highs[part], lows[part], closes[part], status)
            for row in rows:
                if status[row - rows.start] == col.APPLIED:
                    bar = self._records.venue_bar(self.codec.decode("klines", chunk.records.value(row)), mark.time)
                    outputs += () if bar is None else (bar,)
        else:
            status = np.full(len(rows), col.APPLIED, dtype=np.uint8)
            for kind, first, second, known in slow_inputs(topic, chunk, columns, self.config.obi_levels):
                state.put_inputs(kind, instrument, times, offsets, first[part], second[part], known[part], status)
                if kind == col.MARK:
                    self._labels.add_marks(instrument, times, first[part], known[part], self._closed())
        if topic != "klines":
            state.take_events(topic, columns, part, instrument, times, status)
        self._dead_letters_of_refused(topic, chunk, rows, status, mark.time, outputs)

    def _closed(self) -> I64:
        """Return the last closed pane of each instrument."""
        closed: I64 = self.state.a["meta"][: len(self.state.names), col.CLOSED]
        return closed

    def _trades(self, chunk: Chunk) -> Trades:
        """Return a chunk of agg_trades as the compiled loop takes it."""
        instrument = self.instrument_rows(chunk)
        trades: Trades | None = chunk.derived
        if trades is None or trades.instrument is not instrument:
            columns = chunk.columns(self.codec, "agg_trades")
            trades = chunk.derived = Trades(
                instrument, columns.good, columns.long("event_time"), chunk.offsets, columns.long("agg_id"), columns.double("price"),
                columns.double("quantity"), columns.long("buyer_is_maker"), np.empty(len(chunk.offsets), dtype=np.uint8),
            )  # fmt: skip
        return trades

    def _finish_trades(self, chunk: Chunk, trades: Trades, rows: range, now: int, outputs: list[OutputRecord]) -> None:
        """Finish trades that the compiled loop took: late and refused ones."""
        self._dead_letters_of_undecoded("agg_trades", chunk, rows, now, outputs)
        self.state.dirty.update(self.state.finish_trades(trades, rows.start, rows.stop))
        self.counts["late"] += int(self.state.counter[arrays.LATE])
        self._dead_letters_of_refused("agg_trades", chunk, rows, trades.status[rows.start : rows.stop], now, outputs)

    def _count_repeated(self) -> None:
        self.counts["duplicates"] += int(self.state.counter[arrays.REPEATED])
        self.state.counter[arrays.REPEATED] = 0

    def _dead_letters_of_undecoded(self, topic: str, chunk: Chunk, rows: range, now: int, outputs: list[OutputRecord]) -> None:
        for rejected in chunk.rejected(rows):
            outputs.append(self.dead_letter(topic, chunk.records, rejected.row, rejected.field, rejected.reason, now))

    def _dead_letters_of_refused(
        self, topic: str, chunk: Chunk, rows: range, status: npt.NDArray[np.uint8], now: int, outputs: list[OutputRecord]
    ) -> None:
        for row in np.flatnonzero(status >= col.NO_INSTRUMENT).tolist():
            if status[row] != col.UNDECODED:
                field, reason = _REASONS[int(status[row])]
                outputs.append(self.dead_letter(topic, chunk.records, rows.start + row, field, reason, now))

    def _start_instruments(self, instrument: I64, times: I64, good: Any) -> None:
        """Begin the panes of instruments with their first records: after the last instant that their author fired, else just before the records."""
        meta = self.state.a["meta"]
        if not pane_kernels.unstarted(instrument, good, meta):
            return
        new = [i for i in np.unique(instrument[good]).tolist() if i >= 0 and meta[i, col.CLOSED] == 0]
        for i in new:
            fired = self.marks.fired.get(self.state.facts[self.state.names[i]].author)
            first = -(-int(times[good & (instrument == i)].min()) // self.config.grid_ms)
            self.state.start(i, first - 1 if fired is None else fired)

    # --- instants --------------------------------------------------------------------------------------------------------
    def advance(self, limit: int | None = None) -> list[OutputRecord]:
        """Pass marks, as the base does. The labels that became due are made at the end, and stand where their instants stand."""
        return self._labels.insert(super().advance(limit))

    def may_look_ahead(self) -> bool:
        """Return whether one call may process instants of several marks. It may not while a revision waits for its instant."""
        return not self.waiting

    def _batch(self) -> Batch:
        if self._running is None:
            running = [self.strategies[strategy_id] for strategy_id in sorted(self.strategies)]
            limits = RegimeLimits.of(self.state.config)
            self._running = Batch([one for one in running if one[0].status == "running"], self.codec, self.memories, limits)
        return self._running

    def most_steps(self, wanted: int | None) -> int:
        """Return the largest number of instants for one call, so that outputs stay small and within the wanted number."""
        n, tables = max(len(self.state.names), 1), self._strategy_tables()
        most = min(_MOST_STEPS, _MOST_ROWS // n, _MOST_SCORES // max(tables.size, 1))
        if wanted is not None:
            most = min(most, wanted // (1 + n * (2 + len(TIMEFRAMES)) + 2 * len(tables.places)))
        return max(most, 1)

    def _strategy_tables(self) -> StrategyTables:
        return self._batch().strategy_tables(self.state.names)

    def run(self, steps: Steps, chunk: Chunk | None, outputs: list[OutputRecord]) -> tuple[int, int]:
        """Process instants in order. Ends early before trades of an instrument that has not begun."""
        counter = self.state.counter
        trades, counter[arrays.ROW] = (_NO_TRADES, 0) if chunk is None else (self._trades(chunk), chunk.at)
        table = steps.table
        done, most = 0, self.most_steps(None)
        while done < len(table):
            last = min(done + most, len(table))  # a mark after a pause may fire days of instants
            if self.waiting:
                self._begin_revisions(steps.names[int(steps.heads[done])][0], int(table[done, PANE]) * self.config.grid_ms)
                last = done + 1
            last = self._use(steps, done, last)
            ran = run_instants(self.state, table[done:last], steps.members, trades, self._strategy_tables())
            self._emit(steps.part(done, done + ran.done), ran.found, outputs)
            done += ran.done
            if ran.why == instant_kernel.NEW_INSTRUMENT:
                break
            if ran.why == instant_kernel.TRADES_LEFT:
                assert chunk is not None
                first = max(int(table[done - 1, STOP]), chunk.at) if done else chunk.at
                taken = range(first, int(counter[arrays.ROW]))
                self._finish_trades(chunk, trades, taken, int(table[done, DECIDED]), outputs)
        self._count_repeated()
        return done, int(counter[arrays.ROW])

    def _emit(self, steps: Steps, found: InstantOutputs, outputs: list[OutputRecord]) -> None:
        """Append the outputs of instants: for each its bars, features, scores, signals and its progress record."""
        table = steps.table
        if not len(table):
            return
        ends = found.ends[: len(table)]
        n_rows, n_bars, n_scores = ends[-1, [instant_kernel.ROWS, instant_kernel.BARS, instant_kernel.SCORES]].tolist()
        self.counts["instants"] += n_rows
        named = self._records.named(found.instruments[:n_rows])
        bars, features, written_steps = (
            self._records.bars(table, found, n_bars),
            self._records.features(table, found, named),
            self.step_records(steps),
        )
        results = found.results[:n_scores].tolist()
        asked = found.asked[:n_scores].tolist()
        written = found.scores[: results[-1][0]].tobytes() if results else b""
        first = bar = score = 0
        places: list[int] = []
        dirty = self.state.dirty
        for step, pane, decided, (stop, bars_stop, scores_stop, opened) in zip(
            written_steps, table[:, PANE].tolist(), table[:, DECIDED].tolist(), ends.tolist(), strict=True
        ):
            if opened >= 0:
                dirty.update(range(opened, pane + 1))
            if bars_stop > bar:
                outputs += bars[bar:bars_stop]
            outputs += features[first:stop]
            if scores_stop > score:
                self._emit_scores(
                    named[first:stop], asked[score:scores_stop], results[score:scores_stop], found.values[score:scores_stop], written,
                    results[score - 1][0] if score else 0, found.features[first:stop], step.timestamp_ms, decided, outputs,
                )  # fmt: skip
            first, bar, score = stop, bars_stop, scores_stop
            places.append(len(outputs))
            outputs.append(step)
        self._queue_labels(table, found, ends, places)
        self.last_instant = max(self.last_instant, int(table[:, PANE].max()) * self.config.grid_ms)

    def _queue_labels(self, table: I64, found: InstantOutputs, ends: I64, places: list[int]) -> None:
        """Queue instants for the labels. ``places``: where in the outputs the labels of each instant belong."""
        row_ends, score_ends = ends[:, instant_kernel.ROWS], ends[:, instant_kernel.SCORES]
        n_rows, n_scores = int(row_ends[-1]), int(score_ends[-1])
        scored = np.zeros(n_rows, dtype=np.bool_)
        if n_scores:
            starts = np.repeat(np.concatenate([[0], row_ends[:-1]]), np.diff(score_ends, prepend=0))
            scored[starts + found.asked[:n_scores, 1]] = True
        self._labels.add_instants(
            table[:, PANE].copy(), table[:, DECIDED].copy(), places, row_ends, found.instruments[:n_rows], scored,
            found.features[:n_rows, _ATR], self._closed(),
        )  # fmt: skip

    def _emit_scores(
        self, names: list[Name], asked: list[list[int]], results: list[list[int]], numbers: npt.NDArray[np.float64], written: bytes, start: int,
        features: npt.NDArray[np.float64], instant: int, decided_at: int, outputs: list[OutputRecord],
    ) -> None:  # fmt: skip
        """Append the scores and signals of an instant."""
        scored = self._batch().scored(asked, results, numbers, written, start, features, instant, decided_at)
        for (_, r), (slot, score, signal, memory) in zip(asked, scored, strict=True):
            key = names[r][0]
            outputs.append(OutputRecord("scores", key, score, instant))
            if signal is not None:
                outputs.append(OutputRecord("signals", key, self._encode_signal(signal), instant))
            if memory is not None:
                self.memories[slot] = memory

    # --- state -----------------------------------------------------------------------------------------------------------
    def head(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return strategies, their memories, and the market state and mark prices without closed panes."""
        meta, found = market_checkpoint.head_of(self.state)
        found |= self._labels.store.head(self._closed())
        meta = {
            "strategies": [config.to_record() for config, _ in self.strategies.values()],
            "waiting": [config.to_record() for waiting in self.waiting.values() for config in waiting],
            "memories": {slot: memory.to_tuple() for slot, memory in self.memories.items()},
            **meta,
        }
        return meta, found

    def changed_entries(self) -> list[Entry]:
        """Return the panes that closed or changed."""
        return market_checkpoint.changed_panes(self.state) + self._labels.store.changed_entries(self._closed())

    def load(self, meta: dict[str, Any], arrays: dict[str, Array], entries: list[tuple[bytes, bytes]]) -> None:
        """Take strategies, memories, the market state and what labels need."""
        of_labels = [entry for entry in entries if entry[0].startswith(LABEL_PREFIX)]
        market_checkpoint.load(self.state, meta, arrays, [entry for entry in entries if not entry[0].startswith(LABEL_PREFIX)])
        self._labels.store.load(self._closed(), arrays, of_labels)
        self._in_force = self.settings.kept[0]
        if self._in_force.revision:
            self._put_settings_in_force()
        for record in meta["strategies"]:
            config = strategy_from_record(record)
            self.strategies[config.strategy_id] = (config, config_hash(config))
        for record in meta.get("waiting", ()):  # an earlier release wrote none
            self.waiting.setdefault(record["strategy_id"], []).append(strategy_from_record(record))
        self.memories = {slot: StrategyMemory.from_tuple(values) for slot, values in meta["memories"].items()}

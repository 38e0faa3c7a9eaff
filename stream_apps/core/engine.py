"""The engine: one loop over the progress log of a partition (DESIGN 3). Live, paper and replay are this class, fed from different places.

``feed`` takes records of each topic in offset order; ``advance`` passes every mark whose merged cut has been fed: at a mark that makes instants
due it applies the records before the cut and fires. What was read beyond the cut waits. What comes out depends on the log alone, not on how it was
cut into feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.catalogue import ENGINE_INPUTS
from schemas.codec import Codec, CodecError
from schemas.columnar import KeyTable
from schemas.markreader import Mark, MarkReader
from schemas.recordset import RecordSet
from schemas.recordwriter import text_bytes
from schemas.rowwriter import RowWriter, texts_bytes
from stream_apps.core import checkpoint, instants, kernels
from stream_apps.core.ahead import Ahead, Steps, StepWriter, Went, steps_of
from stream_apps.core.config import TIMEFRAMES, EngineConfig
from stream_apps.core.inbox import TRADE_FIELDS, Chunk, Inbox
from stream_apps.core.instants import Desk, Found, Trades
from stream_apps.core.marks import MarkLog
from stream_apps.core.scoring import StrategyMemory
from stream_apps.core.scoring.batch import Batch
from stream_apps.core.slow_inputs import klines, liquidations, slow_inputs
from stream_apps.core.state import FEATURES, INPUTS, MarketState
from stream_apps.core.strategy import StrategyConfig, StrategyError, config_hash, succeeds

Record = dict[str, Any]

# A mark this far beyond its author's last one is a broken clock, not a pause; it is refused instead of firing years of instants.
MARK_JUMP_MS = 30 * 86_400_000

_REASONS: dict[int, tuple[str | None, str]] = {
    kernels.NO_INSTRUMENT: ("instrument", "no instruments record names this instrument"),
    kernels.BAD_PRICE: ("price", "not a positive finite number"),
    kernels.BAD_QUANTITY: ("quantity", "not a positive finite number"),
    kernels.OFF_PRICE_GRID: ("price", "has more decimals than the instrument's price_decimals"),
    kernels.OFF_QUANTITY_GRID: ("quantity", "has more decimals than the instrument's quantity_decimals"),
    kernels.BAD_SIDE: ("side", "neither LONG nor SHORT"),
    kernels.TOO_FAR: ("event_time", "lies more than an hour beyond what has fired"),
}
# Numeric fields of a features record that are not FEATURES; before them stands the instrument, after them the two lists of ``Absent``.
_FEATURE_LONGS = ("event_time", "receive_time", "large_buys", "large_sells", "pane_trades", "late_trades")
# What of a bars record is neither the instrument nor a number.
_BAR_FRAMES = [text_bytes(frame) for frame in TIMEFRAMES]
_BAR_SOURCE = text_bytes("trades")
# Bounds of what is worked off at once: instants, rows of features (half a kilobyte each), bytes of scores.
_MOST_STEPS, _MOST_ROWS, _MOST_SCORES = 256, 1024, 4 << 20
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


_Name = tuple[bytes, bytes, bytes]  # an instrument's key, and the bytes that its features and its bars begin with


class OutputRecord(NamedTuple):
    """A record to be written to the same partition of ``topic`` (dead_letters: partition 0).

    A value of worker_progress lacks its last field, ``signals_offset``, which only the writer knows (``ahead.completed``).
    """

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int


def _records(topic: str, keys: Iterable[bytes], values: Iterable[bytes], times: npt.NDArray[np.int64]) -> list[OutputRecord]:
    """Return records of a topic. There are millions of them, so nothing here is run by the interpreter for each."""
    return list(map(partial(tuple.__new__, OutputRecord), zip(repeat(topic), keys, values, times.tolist(), strict=False)))


class PartitionEngine:
    """Market state, scoring and the schedule of one partition.

    Args:
        partition: Kafka partition; for messages only.
        config: Numbers of the market state.
        codec: How values are decoded and encoded.
    """

    INPUTS: tuple[str, ...] = (*ENGINE_INPUTS, "progress")

    def __init__(self, partition: int, config: EngineConfig, codec: Codec) -> None:
        self.partition = partition
        self.config = config
        self.codec = codec
        self.state = MarketState(config)
        self.marks = MarkLog()
        self.applied: dict[str, int] = {}
        self.strategies: dict[str, tuple[StrategyConfig, str]] = {}  # in force
        self.waiting: dict[str, list[StrategyConfig]] = {}  # newer revisions whose effective_time has not come, by revision
        self.memories: dict[str, StrategyMemory] = {}
        self.last_instant = 0
        self.counts: dict[str, int] = {"instants": 0, "late": 0, "duplicates": 0, "rejected": 0}
        self.applied_counts: dict[str, int] = dict.fromkeys(ENGINE_INPUTS, 0)
        self._inboxes = {topic: Inbox(TRADE_FIELDS if topic == "agg_trades" else None) for topic in ENGINE_INPUTS}
        self._progress_next: int | None = None
        self._mark_reader = MarkReader(codec)
        self._keys = KeyTable()
        self._rows: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)  # key number -> row of the state
        self._by_author: dict[str, npt.NDArray[np.int64]] | None = None
        self._running: Batch | None = None
        self._encode: dict[str, Callable[[Record], bytes]] = {topic: codec.encoder(topic) for topic in ("bars", "signals", "dead_letters")}
        self._write_features = RowWriter("features", _FEATURE_LONGS, FEATURES)
        self._write_bar_times = RowWriter("bars", ("event_time", "receive_time"), ())
        self._write_bar_numbers = RowWriter("bars", ("trades",), ("open", "high", "low", "close", "volume", "cvd"))
        self._feature_head = codec.header("features")
        self._bar_head = codec.header("bars")
        self._step_writer = StepWriter(codec.header("worker_progress"))
        self._ahead = Ahead(config.grid_ms, config.lateness_ms, MARK_JUMP_MS)
        self._heads: list[_Name] = []  # by row of the state
        self._absences: dict[bytes, bytes] = {}  # states of the inputs -> the two lists of names that end a features record
        self._journal = checkpoint.Journal()

    # --- intake ------------------------------------------------------------------------------------------------------
    def next_offset(self, topic: str) -> int | None:
        """Return the first offset of a topic that has not been fed; None when nothing is known (begin at the beginning)."""
        return self._progress_next if topic == "progress" else self._inboxes[topic].next_offset

    def feed(self, topic: str, records: RecordSet) -> list[OutputRecord]:
        """Take records of a topic. Those below ``next_offset`` are passed over. Returns dead letters of undecodable marks."""
        if topic != "progress":
            self._inboxes[topic].feed(records)
            return []
        marks, refused = self._mark_reader.read(records, self._progress_next or 0)
        self.marks.waiting.extend(marks)
        self._progress_next = max(records.next_offset, self._progress_next or 0)
        return [self._dead_letter("progress", records, row, error.field, error.reason) for row, error in refused]

    def skip_to(self, topic: str, offset: int) -> None:
        """Learn that the log of a topic begins at ``offset``: what lay before is gone (retention)."""
        if topic == "progress":
            self._progress_next = max(offset, self._progress_next or 0)
        else:
            inbox = self._inboxes[topic]
            inbox.next_offset = max(offset, inbox.next_offset or 0)

    def backlog(self) -> dict[str, int]:
        """Return the number of records per topic that wait for their mark (and of marks that wait for their records)."""
        return {**{topic: inbox.size for topic, inbox in self._inboxes.items()}, "progress": len(self.marks.waiting)}

    def wants(self) -> set[str]:
        """Return the topics without whose further records the next mark cannot be passed."""
        if not self.marks.waiting:
            return {"progress"}
        return set(self._not_fed(self.marks.cut_after(self.marks.waiting.first())))

    def _not_fed(self, cut: dict[str, int]) -> list[str]:
        inboxes = self._inboxes
        return [topic for topic, offset in cut.items() if (inboxes[topic].next_offset or 0) < offset]

    def positions(self) -> dict[str, int]:
        """Return topic -> offset to read from, so that nothing that the state does not hold is missed."""
        return {**self.applied, "progress": self.marks.next_offset}

    # --- the loop ----------------------------------------------------------------------------------------------------
    def advance(self, limit: int | None = None) -> list[OutputRecord]:
        """Pass every mark whose cut has been fed, or as many as give ``limit`` outputs; returns what is to be written, in order."""
        outputs: list[OutputRecord] = []
        waiting, marks, config = self.marks.waiting, self.marks, self.config
        while waiting and (limit is None or len(outputs) < limit):
            mark = waiting.first()
            if self._jumps(marks, mark):
                outputs.append(self._refused_mark(mark, marks.times[mark.author]))
                waiting.drop()
                marks.next_offset = mark.offset + 1
                continue
            cut = marks.cut_after(mark)
            if self._not_fed(cut):
                break
            due = marks.due(mark, config.grid_ms, config.lateness_ms)
            if due:
                marks.fired.setdefault(mark.author, due.start - 1)
                self._apply(cut, mark, outputs)
            marks.passed(mark, cut, config.grid_ms, config.lateness_ms)
            waiting.drop()
            if due:
                self._fire(mark, cut, due, outputs, limit)
        if not waiting:
            # What the next instants will be decided on is here already: to decode it then would make the decision wait.
            for topic, offset in marks.merged.items():
                if topic not in ("instruments", "strategies") and self.applied.get(topic, 0) < offset:
                    self._inboxes[topic].decode(offset, self.codec, topic)
        return outputs

    @staticmethod
    def _jumps(marks: MarkLog, mark: Mark) -> bool:
        previous = marks.times.get(mark.author)
        return previous is not None and mark.time > previous + MARK_JUMP_MS

    def _apply(self, cut: dict[str, int], mark: Mark, outputs: list[OutputRecord]) -> None:
        # Facts and strategies first: a record and the facts it needs may lie in the same step.
        for topic in ("instruments", "strategies", *ENGINE_INPUTS):
            if topic not in cut or (topic in ("instruments", "strategies") and self.applied.get(topic) == cut[topic]):
                continue
            for chunk, rows in self._inboxes[topic].take(cut[topic]):
                self.applied_counts[topic] += len(rows)
                if topic == "instruments":
                    self._apply_instruments(chunk.records, rows, mark, outputs)
                elif topic == "strategies":
                    self._apply_strategies(chunk.records, rows, mark, outputs)
                else:
                    self._apply_market(topic, chunk, rows, mark, outputs)
            self.applied[topic] = cut[topic]

    def _apply_instruments(self, records: RecordSet, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        for row in rows:
            try:
                record = self.codec.decode("instruments", records.value(row))
            except CodecError as error:
                outputs.append(self._dead_letter("instruments", records, row, error.field, error.reason, mark.time))
                continue
            if not (0 <= record["price_decimals"] <= 12 and 0 <= record["quantity_decimals"] <= 12):
                outputs.append(self._dead_letter("instruments", records, row, "price_decimals", "decimals must be 0..12", mark.time))
                continue
            i = self.state.set_facts(record["instrument"], record["author"], record["price_decimals"], record["quantity_decimals"])
            if self._keys.get(record["instrument"]) is None:
                self._keys.add(record["instrument"])
                self._rows = np.append(self._rows, i)
            self._by_author = None

    def _apply_strategies(self, records: RecordSet, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        for row in rows:
            try:
                self.take_strategy(StrategyConfig.from_record(self.codec.decode("strategies", records.value(row))))
            except (CodecError, StrategyError) as error:
                # A bad configuration is isolated to its strategy: the last good revision stays in force.
                outputs.append(self._dead_letter("strategies", records, row, error.field, str(error), mark.time))

    def take_strategy(self, config: StrategyConfig) -> None:
        """Let a strategy revision hold from the next instant on, or from its ``effective_time`` when that is later; a repeat changes nothing.

        Raises:
            StrategyError: it breaks a rule or is not newer than the newest one known (``strategy.succeeds``); what was known stays.
        """
        strategy_id = config.strategy_id
        waiting = self.waiting.get(strategy_id)
        newest = waiting[-1] if waiting else self.strategies[strategy_id][0] if strategy_id in self.strategies else None
        if not succeeds(newest, config):
            return
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
        """Put the revisions in force that may be used from ``instant`` on, of the instruments that fire at it."""
        for strategy_id in list(self.waiting):
            due = [config for config in self.waiting[strategy_id] if config.effective_time <= instant]
            facts = self.state.facts.get(due[-1].instrument) if due else None
            if facts is not None and facts.author == author:
                self._put_in_force(due[-1])

    def _apply_market(self, topic: str, chunk: Chunk, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        part = slice(rows.start, rows.stop)
        columns = chunk.columns(self.codec, topic)
        instrument = chunk.instruments(self._keys, self._rows)[part]
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
            status = np.full(len(rows), kernels.APPLIED, dtype=np.uint8)
            side, price, quantity = liquidations(chunk, columns)
            state.put_liquidations(instrument, times, side[part], price[part], quantity[part], good, status)
        elif topic == "klines":
            status = np.full(len(rows), kernels.APPLIED, dtype=np.uint8)
            use, highs, lows, closes = klines(chunk, columns)
            state.put_klines(instrument, good, use[part], times, highs[part], lows[part], closes[part], status)
            outputs.extend(self._venue_bars(chunk, rows, status, mark))
        else:
            status = np.full(len(rows), kernels.APPLIED, dtype=np.uint8)
            for kind, first, second, known in slow_inputs(topic, chunk, columns):
                state.put_inputs(kind, instrument, times, offsets, first[part], second[part], known[part], status)
        if topic != "klines":
            state.take_events(topic, columns, part, instrument, times, status)
        self._dead_letters_of_refused(topic, chunk, rows, status, mark.time, outputs)

    def _trades(self, chunk: Chunk) -> Trades:
        """Return a chunk of agg_trades as the compiled loop takes it."""
        instrument = chunk.instruments(self._keys, self._rows)
        trades: Trades | None = chunk.derived
        if trades is None or trades.instrument is not instrument:
            columns = chunk.columns(self.codec, "agg_trades")
            trades = chunk.derived = Trades(
                instrument, columns.good, columns.long("event_time"), chunk.offsets, columns.long("agg_id"), columns.double("price"),
                columns.double("quantity"), columns.long("buyer_is_maker"), np.empty(len(chunk.offsets), dtype=np.uint8),
            )  # fmt: skip
        return trades

    def _finish_trades(self, chunk: Chunk, trades: Trades, rows: range, now: int, outputs: list[OutputRecord]) -> None:
        """Do what the compiled loop left of trades that it has taken: those that were late or are refused."""
        self._dead_letters_of_undecoded("agg_trades", chunk, rows, now, outputs)
        self._journal.dirty.update(self.state.finish_trades(trades, rows.start, rows.stop))
        self.counts["late"] += int(self.state.counter[instants.LATE])
        self._dead_letters_of_refused("agg_trades", chunk, rows, trades.status[rows.start : rows.stop], now, outputs)

    def _count_repeated(self) -> None:
        self.counts["duplicates"] += int(self.state.counter[instants.REPEATED])
        self.state.counter[instants.REPEATED] = 0

    def _dead_letters_of_undecoded(self, topic: str, chunk: Chunk, rows: range, now: int, outputs: list[OutputRecord]) -> None:
        for rejected in chunk.rejected(rows):
            outputs.append(self._dead_letter(topic, chunk.records, rejected.row, rejected.field, rejected.reason, now))

    def _dead_letters_of_refused(
        self, topic: str, chunk: Chunk, rows: range, status: npt.NDArray[np.uint8], now: int, outputs: list[OutputRecord]
    ) -> None:
        for row in np.flatnonzero(status >= kernels.NO_INSTRUMENT).tolist():
            if status[row] != kernels.UNDECODED:
                field, reason = _REASONS[int(status[row])]
                outputs.append(self._dead_letter(topic, chunk.records, rows.start + row, field, reason, now))

    def _venue_bars(self, chunk: Chunk, rows: range, status: npt.NDArray[np.uint8], mark: Mark) -> list[OutputRecord]:
        """Return the venue's bars as records of ``bars``, beside our own: those that state what takers bought, which a bar must have."""
        found = []
        for row in rows:
            if status[row - rows.start] != kernels.APPLIED:
                continue
            record = self.codec.decode("klines", chunk.records.value(row))
            if record["taker_buy_volume"] is None or record["trades"] is None:
                continue
            same = ("instrument", "event_time", "timeframe", "open", "high", "low", "close", "volume", "trades")
            cvd = float(2 * Decimal(repr(record["taker_buy_volume"])) - Decimal(repr(record["volume"])))
            bar = {**{name: record[name] for name in same}, "receive_time": mark.time, "cvd": cvd, "source": "venue"}
            found.append(OutputRecord("bars", bar["instrument"].encode(), self._encode["bars"](bar), bar["event_time"]))
        return found

    def _start_instruments(self, instrument: npt.NDArray[np.int64], times: npt.NDArray[np.int64], good: Any) -> None:
        """Begin the panes of instruments that have their first records: after what their author has fired, else just before the records."""
        meta = self.state.a["meta"]
        if not kernels.unstarted(instrument, good, meta):
            return
        new = [i for i in np.unique(instrument[good]).tolist() if i >= 0 and meta[i, kernels.CLOSED] == 0]
        for i in new:
            fired = self.marks.fired.get(self.state.facts[self.state.names[i]].author)
            first = -(-int(times[good & (instrument == i)].min()) // self.config.grid_ms)
            self.state.start(i, first - 1 if fired is None else fired)

    # --- firing ------------------------------------------------------------------------------------------------------
    def _instruments_of(self, author: str) -> npt.NDArray[np.int64]:
        if self._by_author is None:
            groups: dict[str, list[str]] = {}
            for name, facts in self.state.facts.items():
                groups.setdefault(facts.author, []).append(name)
            # In order of the name, so that the order of outputs does not depend on who came first.
            self._by_author = {a: np.array([self.state.index[n] for n in sorted(names)], dtype=np.int64) for a, names in groups.items()}
        return self._by_author.get(author, np.empty(0, dtype=np.int64))

    def _batch(self) -> Batch:
        if self._running is None:
            running = [self.strategies[strategy_id] for strategy_id in sorted(self.strategies)]
            self._running = Batch([one for one in running if one[0].status == "running"], self.codec, self.memories)
        return self._running

    def _fire(self, mark: Mark, cut: dict[str, int], due: range, outputs: list[OutputRecord], limit: int | None) -> None:
        """Fire the instants of a mark that has been passed, and those of the marks behind it before which nothing comes but trades."""
        steps = steps_of(mark, cut, due, self._instruments_of(mark.author))
        inbox, counter = self._inboxes["agg_trades"], self.state.counter
        chunk = inbox.front()
        trades, counter[instants.ROW] = _NO_TRADES, 0
        went: Went | None = None
        if self.marks.waiting and not self.waiting:
            # No more than surely stay within the wanted number of outputs.
            most = self._most_steps(None if limit is None else limit - len(outputs))
            if len(steps.table) < most:
                offsets, at = (_NO_LONGS, 0) if chunk is None else (chunk.offsets, chunk.at)
                went = self._ahead.look(steps, self.marks, offsets, at, most, self._instruments_of)
                steps = went.steps
                if chunk is not None and len(went.after):
                    trades, counter[instants.ROW] = self._trades(chunk), chunk.at
        done = self._run(steps, chunk, trades, outputs)
        if went is None or not len(went.after):
            return
        if chunk is not None:
            self.applied_counts["agg_trades"] += inbox.taken(int(counter[instants.ROW]))
        self.applied.update(steps.cut(done - 1))
        if done == len(steps.table):
            self._ahead.pass_on(self.marks, went)
            return
        for _ in range(int(np.searchsorted(went.after, done, side="right"))):
            passed = self.marks.waiting.first()
            self.marks.passed(passed, self.marks.cut_after(passed), self.config.grid_ms, self.config.lateness_ms)
            self.marks.waiting.drop()

    def _most_steps(self, wanted: int | None) -> int:
        """Return how many instants are worked off at once: what they give stays small, and within the wanted number of outputs."""
        n, desk = max(len(self.state.names), 1), self._desk()
        most = min(_MOST_STEPS, _MOST_ROWS // n, _MOST_SCORES // max(desk.size, 1))
        if wanted is not None:
            most = min(most, wanted // (1 + n * (1 + len(TIMEFRAMES)) + 2 * len(desk.places)))
        return max(most, 1)

    def _desk(self) -> Desk:
        return self._batch().desk(self.state.names)

    def _run(self, steps: Steps, chunk: Chunk | None, trades: Trades, outputs: list[OutputRecord]) -> int:
        """Work off instants in order; returns how many. It ends early before trades of an instrument that has not begun."""
        table = steps.table
        done, most = 0, self._most_steps(None)
        while done < len(table):
            last = min(done + most, len(table))  # a mark after a pause may fire days of them
            if self.waiting:
                self._begin_revisions(steps.names[int(steps.heads[done])][0], int(table[done, instants.PANE]) * self.config.grid_ms)
                last = done + 1
            ran = self.state.run(table[done:last], steps.members, trades, self._desk())
            self._emit(steps.part(done, done + ran.done), ran.found, outputs)
            done += ran.done
            if ran.why == instants.NEW_INSTRUMENT:
                break
            if ran.why == instants.TRADES_LEFT:
                assert chunk is not None
                first = max(int(table[done - 1, instants.STOP]), chunk.at) if done else chunk.at
                taken = range(first, int(self.state.counter[instants.ROW]))
                self._finish_trades(chunk, trades, taken, int(table[done, instants.DECIDED]), outputs)
        self._count_repeated()
        return done

    def _emit(self, steps: Steps, found: Found, outputs: list[OutputRecord]) -> None:
        """Append what instants gave: of each its bars, features, scores, signals and its step."""
        table = steps.table
        if not len(table):
            return
        ends = found.ends[: len(table)]
        n_rows, n_bars, n_scores = ends[-1, [instants.ROWS, instants.BARS, instants.SCORES]].tolist()
        self.counts["instants"] += n_rows
        named = self._named(found.instruments[:n_rows])
        bars, features, written_steps = self._bars(table, found, n_bars), self._features(table, found, named), self._step_records(steps)
        results = found.results[:n_scores].tolist()
        asked = found.asked[:n_scores].tolist()
        written = found.scores[: results[-1][0]].tobytes() if results else b""
        first = bar = score = 0
        dirty = self._journal.dirty
        for step, pane, decided, (stop, bars_stop, scores_stop, opened) in zip(
            written_steps, table[:, instants.PANE].tolist(), table[:, instants.DECIDED].tolist(), ends.tolist(), strict=True
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
            outputs.append(step)
        self.last_instant = max(self.last_instant, int(table[:, instants.PANE].max()) * self.config.grid_ms)

    def _features(self, table: npt.NDArray[np.int64], found: Found, named: list[_Name]) -> list[OutputRecord]:
        """Return the rows of features as records."""
        n, rows = len(named), np.diff(found.ends[: len(table), instants.ROWS], prepend=0)
        longs = np.empty((n, len(_FEATURE_LONGS)), dtype=np.int64)
        times = np.repeat(table[:, instants.PANE] * self.config.grid_ms, rows)
        longs[:, 0], longs[:, 1] = times, np.repeat(table[:, instants.DECIDED], rows)
        longs[:, 2:4], longs[:, 4:6] = found.prints[:n], found.counts[:n]
        values = self._write_features.write(longs, found.features[:n])
        heads, absent = [head for _, head, _ in named], self._absent(found.states[:n])
        return _records("features", [key for key, _, _ in named], map(b"".join, zip(heads, values, absent, strict=True)), times)

    def _step_records(self, steps: Steps) -> list[OutputRecord]:
        """Return the steps of instants as records."""
        authors = [author.encode() for author, _ in steps.names]
        keys = [authors[head] for head in steps.heads.tolist()]
        times = steps.table[:, instants.PANE] * self.config.grid_ms
        return _records("worker_progress", keys, self._step_writer.write(steps, self.config.grid_ms), times)

    def _emit_scores(
        self, names: list[_Name], asked: list[list[int]], results: list[list[int]], numbers: npt.NDArray[np.float64], written: bytes, start: int,
        features: npt.NDArray[np.float64], instant: int, decided_at: int, outputs: list[OutputRecord],
    ) -> None:  # fmt: skip
        """Append the scores and signals of an instant."""
        scored = self._batch().scored(asked, results, numbers, written, start, features, instant, decided_at)
        for (_, r), (strategy_id, score, signal, memory) in zip(asked, scored, strict=True):
            key = names[r][0]
            outputs.append(OutputRecord("scores", key, score, instant))
            if signal is not None:
                outputs.append(OutputRecord("signals", key, self._encode["signals"](signal), instant))
            if memory is not None:
                self.memories[strategy_id] = memory

    def _named(self, instruments: npt.NDArray[np.int64]) -> list[_Name]:
        """Return the name of each row's instrument."""
        known = self._heads
        for name in self.state.names[len(known) :]:
            known.append((name.encode(), self._feature_head + text_bytes(name), self._bar_head + text_bytes(name)))
        return [known[i] for i in instruments.tolist()]

    def _absent(self, states: npt.NDArray[np.int8]) -> list[bytes]:
        """Return, for each row, the names of missing and of stale inputs (remembered per pattern of states: patterns are few)."""
        known, width, text = self._absences, states.shape[1], states.tobytes()
        found = []
        for at in range(0, len(text), width):
            pattern = text[at : at + width]
            absent = known.get(pattern)
            if absent is None:
                missing = [n for n, s in zip(INPUTS, pattern, strict=True) if s == kernels.MISSING]
                stale = [n for n, s in zip(INPUTS, pattern, strict=True) if s == kernels.STALE]
                absent = known[pattern] = texts_bytes(missing) + texts_bytes(stale)
            found.append(absent)
        return found

    def _bars(self, steps: npt.NDArray[np.int64], found: Found, n: int) -> list[OutputRecord]:
        """Return the bars that instants closed, as records."""
        if not n:
            return []
        closed = found.bars[:n]
        decided_at = np.repeat(steps[:, instants.DECIDED], np.diff(found.ends[: len(steps), instants.BARS], prepend=0))
        instruments, times = closed[:, 0], closed[:, 2] * self.config.grid_ms
        scale, numbers = self.state.a["scale"][instruments], np.empty((n, 6))
        numbers[:, :4], numbers[:, 4:] = closed[:, 3:7] / scale[:, :1], closed[:, 7:9] / scale[:, 1:]
        stamps = self._write_bar_times.write(np.stack([times, decided_at], axis=1), np.empty((n, 0)))
        middles = self._write_bar_numbers.write(closed[:, 9:].copy(), numbers)
        records = []
        for name, frame, time, stamp, middle in zip(
            self._named(instruments), closed[:, 1].tolist(), times.tolist(), stamps, middles, strict=True
        ):
            key, _, head = name
            records.append(OutputRecord("bars", key, head + stamp + _BAR_FRAMES[frame] + middle + _BAR_SOURCE, time))
        return records

    # --- refusals ----------------------------------------------------------------------------------------------------
    def _dead_letter(
        self, topic: str, records: RecordSet, row: int, field: str | None, reason: str, now: int | None = None
    ) -> OutputRecord:
        """Return the dead letter of a row; its times are the record's and the mark's (the core reads no clock)."""
        self.counts["rejected"] += 1
        time = max(int(records.index[row, 1]), 0)
        key = records.key(row)
        record = {
            "event_time": time,
            "receive_time": time if now is None else now,
            "service": "worker",
            "source": topic,
            "source_partition": self.partition,
            "source_offset": int(records.index[row, 0]),
            "instrument": key.decode("utf-8", "replace") if key else None,
            "field": field,
            "reason": reason,
            "key": key,
            "value": records.value(row),
        }
        return OutputRecord("dead_letters", topic.encode(), self._encode["dead_letters"](record), time)

    def _refused_mark(self, mark: Mark, previous: int) -> OutputRecord:
        self.counts["rejected"] += 1
        record = {
            "event_time": previous,
            "receive_time": previous,
            "service": "worker",
            "source": "progress",
            "source_partition": self.partition,
            "source_offset": mark.offset,
            "instrument": None,
            "field": "event_time",
            "reason": f"mark of {mark.author} at {mark.time} lies more than 30 days after its mark at {previous}",
            "key": mark.author.encode(),
            "value": None,
        }
        return OutputRecord("dead_letters", b"progress", self._encode["dead_letters"](record), previous)

    # --- durability --------------------------------------------------------------------------------------------------
    def checkpoint(self) -> list[tuple[bytes, bytes | None]]:
        """Return the changelog entries since the last checkpoint, the head last; to be written as one atomic record batch."""
        return self._journal.entries(self)

    @classmethod
    def restore(cls, partition: int, config: EngineConfig, codec: Codec, entries: Iterable[tuple[bytes, bytes]]) -> PartitionEngine:
        """Rebuild an engine from the newest value of each changelog key; an empty changelog gives a new engine."""
        engine = cls(partition, config, codec)
        checkpoint.restore(engine, entries)
        for topic, inbox in engine._inboxes.items():
            inbox.next_offset = engine.applied.get(topic)
        if engine.marks.next_offset:
            engine._progress_next = engine.marks.next_offset
        for name in engine.state.facts:
            engine._keys.add(name)
            engine._rows = np.append(engine._rows, engine.state.index[name])
        return engine

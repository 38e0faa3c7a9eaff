"""The monitor of one partition: it reads the market-data topics along the progress log and reports faults.

Like the engine it checks records only where a mark says that the log is complete. So its output depends on the log alone. At the first mark
at or after each instant of the check grid it checks the records before the merged cut in log order, then freshness. At the end of a window
each stream gets its score. ``receive_time`` of its records is the mark's time.

An instrument is watched from its first record on. The ``instruments`` topic names the author of its marks. It says whether the data is a
recording, and whether the instrument still trades. Receive times of a recording are those of the playback and say nothing about clocks.
Until that record arrives, only the instrument's records are checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.catalogue import ENGINE_INPUTS
from schemas.codec.avro import Codec, CodecError
from schemas.codec.columnar import Columns
from schemas.codec.key_table import KeyTable
from schemas.codec.markreader import Mark, MarkReader
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.engine import MARK_JUMP_MS
from stream_apps.core.log.inbox import Chunk, Inbox
from stream_apps.core.log.marks import MarkLog
from stream_apps.core.quality import columns as col
from stream_apps.core.quality import kernels, quote_kernel
from stream_apps.core.quality.findings import NO_NUMBER, Findings, QualityRecord, age_text, worst
from stream_apps.core.quality.memory import Memory
from stream_apps.core.quality.rules import (
    KINDS,
    NUMBER,
    OVERALL,
    SCORE,
    STREAMS,
    QualityRules,
    overall_score,
    stream_score,
)

Record = dict[str, Any]
Flags = npt.NDArray[np.bool_]


@dataclass(slots=True)
class _Facts:
    author: str
    kind: str
    trading: bool
    recorded: bool
    known_since: int


class PartitionMonitor:
    """Checks of one partition.

    Args:
        rules: Limits and costs.
        codec: How values are decoded.

    Attributes:
        scores: (instrument, stream or ``overall``) -> newest score.
        facts: Instrument -> its author and contract facts.
        checked: Topic -> records checked.
        refused: Marks and contract facts that could not be decoded, and marks of a broken clock.
    """

    INPUTS = (*STREAMS, "instruments", "progress")

    def __init__(self, rules: QualityRules, codec: Codec) -> None:
        self.rules = rules
        self.codec = codec
        self.marks = MarkLog(frozenset(ENGINE_INPUTS))
        self.memories = {stream: Memory(rules, stream) for stream in STREAMS}
        self.facts: dict[str, _Facts] = {}
        self.scores: dict[tuple[str, str], float] = {}
        self.checked: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self.refused = 0
        self._inboxes = {topic: Inbox() for topic in (*STREAMS, "instruments")}
        self._progress_next: int | None = None
        self._mark_reader = MarkReader(codec)
        self._keys = KeyTable()
        self._closed: dict[str, int] = {}  # author -> newest closed window
        self._mine: dict[str, list[int]] | None = None
        self._indicators: dict[tuple[int, str], int] = {}
        self._missing: set[tuple[int, str]] = set()
        self._findings = Findings(self._keys, self.memories)

    # --- intake ------------------------------------------------------------------------------------------------------
    def next_offset(self, topic: str) -> int | None:
        """Return the first offset of a topic that has not been fed; None when nothing is known."""
        return self._progress_next if topic == "progress" else self._inboxes[topic].next_offset

    def skip_to(self, topic: str, offset: int) -> None:
        """Note that no offset below ``offset`` will come: the log begins there, or its end was reached."""
        if topic == "progress":
            self._progress_next = max(offset, self._progress_next or 0)
        else:
            inbox = self._inboxes[topic]
            inbox.next_offset = max(offset, inbox.next_offset or 0)

    def feed(self, topic: str, records: RecordSet) -> None:
        """Take records of a topic in offset order. Records below ``next_offset`` are skipped."""
        if topic != "progress":
            self._inboxes[topic].feed(records)
            return
        marks, refused = self._mark_reader.read(records, self._progress_next or 0)
        self.marks.waiting.extend(marks)
        self.refused += len(refused)  # the engine writes their dead letters
        self._progress_next = max(records.next_offset, self._progress_next or 0)

    def backlog(self, topic: str) -> int:
        """Return the number of records of a topic that wait."""
        return len(self.marks.waiting) if topic == "progress" else self._inboxes[topic].size

    def wants(self) -> set[str]:
        """Return the topics whose further records the next mark needs."""
        if not self.marks.waiting:
            return {"progress"}
        cut = self._cut(self.marks.waiting.first())
        return {topic for topic, offset in cut.items() if (self._inboxes[topic].next_offset or 0) < offset}

    def _cut(self, mark: Mark) -> dict[str, int]:
        return {topic: offset for topic, offset in self.marks.cut_after(mark).items() if topic in self._inboxes}

    # --- stepping ----------------------------------------------------------------------------------------------------
    def advance(self, limit: int | None = None) -> list[QualityRecord]:
        """Pass every mark whose records have been fed, at most ``limit``. Return findings and scores in order."""
        self._findings.records = []
        passed = 0
        while self.marks.waiting and (limit is None or passed < limit):
            mark = self.marks.waiting.first()
            previous = self.marks.times.get(mark.author)
            if previous is not None and mark.time > previous + MARK_JUMP_MS:  # a broken clock; the engine refuses it too
                self.refused += 1
                self.marks.waiting.drop()
                self.marks.next_offset = mark.offset + 1
                continue
            cut = self._cut(mark)
            if any((self._inboxes[topic].next_offset or 0) < offset for topic, offset in cut.items()):
                break
            due = self.marks.due(mark, self.rules.check_ms, 0)
            if due:
                self._apply(cut, mark)
                self._check(mark, due.stop - 1)
            self.marks.passed(mark, self.marks.cut_after(mark), self.rules.check_ms, 0)
            self.marks.waiting.drop()
            passed += 1
        return self._findings.records

    def _apply(self, cut: dict[str, int], mark: Mark) -> None:
        for chunk, rows in self._inboxes["instruments"].take(cut.get("instruments", 0)):
            for row in rows:
                self._take_facts(chunk.records.value(row), mark)
        compared: list[tuple[Any, ...]] = []
        for topic in STREAMS:
            for chunk, rows in self._inboxes[topic].take(cut.get(topic, 0)):
                self.checked[topic] += len(rows)
                self._check_records(topic, chunk, rows, mark, compared)
        self._compare(compared)

    def _take_facts(self, value: bytes | None, mark: Mark) -> None:
        try:
            record = self.codec.decode("instruments", value)
        except CodecError:
            self.refused += 1
            return
        name = record["instrument"]
        known = self.facts.get(name)
        self.facts[name] = _Facts(
            record["author"], record["kind"], record["status"] == "trading", record["recorded"], known.known_since if known else mark.time
        )
        i = self._row(name)
        for memory in self.memories.values():
            memory.clocked[i] = not record["recorded"]
        self._mine = None

    def _row(self, name: str) -> int:
        number = self._keys.get(name)
        if number is None:
            number = self._keys.add(name)
            for memory in self.memories.values():
                memory.grow(len(self._keys))
        return number

    def _check_records(self, topic: str, chunk: Chunk, rows: range, mark: Mark, compared: list[tuple[Any, ...]]) -> None:
        columns = chunk.columns(self.codec, topic)
        part = slice(rows.start, rows.stop)
        index = chunk.records.rows(rows.start, rows.stop)
        instrument = self._keys.match(index)
        if (instrument < 0).any():
            for row in np.flatnonzero(instrument < 0).tolist():
                if key := index.key(row):
                    self._row(key.decode("utf-8", "replace"))
            instrument = self._keys.match(index)
        memory = self.memories[topic]
        memory.reserve(len(rows))
        rules = self.rules
        good, offsets = columns.good[part], chunk.offsets[part]
        time = np.where(good, columns.long("event_time")[part], index.timestamps)
        received = columns.long("receive_time")[part]
        usable = np.zeros(len(rows), dtype=np.bool_)
        most = rules.findings_per_window
        clocks = (rules.skew_ms, rules.delay_ms)
        band = (rules.outlier_band, rules.outlier_mads)
        if topic == "agg_trades":
            price = columns.double("price")[part]
            n = kernels.trades(
                instrument, good, time, received, offsets, columns.long("agg_id")[part], price, columns.double("quantity")[part],
                columns.long("buyer_is_maker")[part], columns.long("backfilled")[part], memory.clocked, memory.limits, memory.L, memory.D, memory.ids,
                memory.contents, memory.gaps, memory.prices, memory.pending, memory.pending_prices, memory.counts, usable, memory.found,
                memory.numbers, most, *clocks, *band, rules.side_run, rules.side_run_ms,
            )  # fmt: skip
            compared.append(
                (
                    instrument[usable],
                    time[usable],
                    offsets[usable],
                    np.ones(int(usable.sum()), dtype=np.bool_),
                    price[usable],
                    price[usable],
                )
            )
        elif topic == "quotes":
            bid, ask = columns.double("bid_price")[part], columns.double("ask_price")[part]
            n = kernels.quotes(
                instrument, good, time, received, offsets, columns.long("update_id")[part], bid, columns.double("bid_quantity")[part], ask,
                columns.double("ask_quantity")[part], memory.clocked, memory.limits, memory.L, memory.D, memory.ids, memory.contents, memory.prices,
                memory.pending, memory.pending_prices, memory.counts, usable, memory.found, memory.numbers, most, *clocks, *band,
            )  # fmt: skip
            compared.append(
                (instrument[usable], time[usable], offsets[usable], np.zeros(int(usable.sum()), dtype=np.bool_), bid[usable], ask[usable])
            )
        elif topic == "depth":
            n = kernels.depth(
                instrument, good, time, received, offsets, columns.long("epoch")[part], _is_live(columns, chunk, rows),
                columns.long("last_update_id")[part], columns.doubles("bid_prices")[part], columns.doubles("bid_quantities")[part],
                columns.doubles("ask_prices")[part], columns.doubles("ask_quantities")[part], memory.clocked, memory.limits, memory.L, memory.ids,
                memory.contents, memory.counts, memory.found, memory.numbers, most, *clocks,
            )  # fmt: skip
        else:
            bad, value, ordered = self._plain(topic, chunk, columns, part, instrument, time, good)
            n = kernels.plain(
                instrument, good, time, received, offsets, bad, value, ordered, memory.clocked, memory.limits, memory.L, memory.counts, memory.found,
                memory.numbers, most, *clocks,
            )  # fmt: skip
        reasons = {int(offsets[rejected.row - rows.start]): rejected.reason for rejected in chunk.rejected(rows)}
        self._findings.write(topic, memory, n, mark, reasons)

    def _plain(
        self, topic: str, chunk: Chunk, columns: Columns, part: slice, instrument: Any, time: Any, good: Flags
    ) -> tuple[Flags, Any, Flags]:
        """Return which values are impossible, a value to report, and which times must be in order."""
        if topic == "funding":
            prices = [columns.double(name)[part] for name in ("mark_price", "index_price")]
            rates = [columns.double(name)[part] for name in ("estimated_rate", "settled_rate")]
            wrong = [(~np.isnan(p) & ~((p > 0) & np.isfinite(p)), p) for p in prices]
            # A rate is a fraction. No venue charges a whole position.
            wrong += [(~np.isnan(r) & ~(np.abs(r) < 1.0), r) for r in rates]
            # The mark price is a stream; settled rates come from REST, later.
            ordered = ~np.isnan(prices[0])
        elif topic == "liquidations":
            price, quantity = columns.double("price")[part], columns.double("quantity")[part]
            wrong = [(~((v > 0) & np.isfinite(v)), v) for v in (price, quantity)]
            if chunk.derived is None:
                chunk.derived = columns.good & (columns.choices("side", ("LONG", "SHORT")) < 0)
            wrong.append((chunk.derived[part], np.full(len(time), NO_NUMBER)))
            ordered = np.zeros(len(time), dtype=np.bool_)
        else:
            values = columns.double("value")[part]
            wrong = [(~np.isfinite(values), values)]
            for at, row in enumerate(range(part.start, part.stop)):
                if good[at] and instrument[at] >= 0:
                    name = (int(instrument[at]), columns.text("indicator", row))
                    self._indicators[name] = max(int(time[at]), self._indicators.get(name, col.NONE))
            ordered = np.zeros(len(values), dtype=np.bool_)
        bad = np.zeros(len(time), dtype=np.bool_)
        value = np.full(len(time), NO_NUMBER)
        for flags, numbers in wrong:
            value = np.where(flags & ~bad, numbers, value)
            bad |= flags
        return bad, value, ordered

    def _compare(self, parts: list[tuple[Any, ...]]) -> None:
        parts = [part for part in parts if len(part[0])]
        if not parts:
            return
        instrument, time, offset, is_trade, a, b = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((offset, ~is_trade, time))  # event time, topic, offset
        trades = self.memories["agg_trades"]
        quote_kernel.compare(
            order, instrument, time, is_trade, a, b, trades.L, trades.D, self.rules.quote_tolerance, self.rules.quote_age_ms
        )  # fmt: skip

    # --- at a check ----------------------------------------------------------------------------------------------------
    def _rows_of(self, author: str) -> list[int]:
        if self._mine is None:
            self._mine = {}
            for name in sorted(self.facts):
                number = self._keys.get(name)
                assert number is not None
                self._mine.setdefault(self.facts[name].author, []).append(number)
        return self._mine.get(author, [])

    def _check(self, mark: Mark, instant: int) -> None:
        rows = self._rows_of(mark.author)
        if not rows:
            return
        now = instant * self.rules.check_ms
        numbers = np.array(rows, dtype=np.int64)
        self._settle_waiting(numbers, now, mark)
        self._check_freshness(numbers, now, mark)
        window = now // self.rules.window_ms
        closed = self._closed.setdefault(mark.author, window)
        if window > closed:
            self._closed[mark.author] = window
            for i in rows:
                self._close_window(i, window * self.rules.window_ms, mark)

    def _settle_waiting(self, rows: npt.NDArray[np.int64], now: int, mark: Mark) -> None:
        for stream in ("agg_trades", "quotes"):
            memory = self.memories[stream]
            memory.reserve(0)
            n = kernels.settle_waiting(
                rows, now, self.rules.outlier_wait_ms, memory.L, memory.D, memory.gaps, memory.pending, memory.pending_prices, memory.counts,
                self.rules.findings_per_window, memory.found, memory.numbers,
            )  # fmt: skip
            self._findings.write(stream, memory, n, mark, {})

    def _check_freshness(self, rows: npt.NDArray[np.int64], now: int, mark: Mark) -> None:
        # The end of a recording is no silence. After it, a stream is compared with the instrument's other streams, not with later marks.
        newest = np.max([memory.L[rows, col.LAST_TIME] for memory in self.memories.values()], axis=0)
        clocks = np.where(self.memories["agg_trades"].clocked[rows], now, np.minimum(now, newest))
        for stream, memory in self.memories.items():
            if memory.freshness is None:
                continue
            last = memory.L[rows, col.LAST_TIME]
            known = last != col.NONE
            old = known & (clocks - np.where(known, last, clocks) > memory.limits[rows]) & (memory.L[rows, col.IS_STALE] == 0)
            for i in rows[old].tolist():
                if self.facts[self._keys.keys[i]].trading:
                    memory.L[i, col.IS_STALE] = 1
                    age = now - int(memory.L[i, col.LAST_TIME])
                    self._findings.find(i, stream, "stale", now, float(age), float(memory.limits[i]), mark, None, age_text(age))
        for stream in self.rules.expected:
            memory = self.memories[stream]
            for i in rows[memory.L[rows, col.SEEN] == 0].tolist():
                facts = self.facts[self._keys.keys[i]]
                waited = now - facts.known_since
                if facts.trading and facts.kind == "perp" and waited > self.rules.missing_ms and (i, stream) not in self._missing:
                    self._missing.add((i, stream))
                    self._findings.find(
                        i, stream, "missing", now, float(waited), float(self.rules.missing_ms), mark, None, age_text(waited)
                    )
        limit = self.memories["market_indicators"].freshness
        if limit is not None:
            mine = set(rows.tolist())
            for (i, indicator), last_time in self._indicators.items():
                # The stream's own row reports the newest indicator. This reports each other indicator that stopped.
                age = now - last_time
                before = age - self.rules.check_ms
                newest = int(self.memories["market_indicators"].L[i, col.LAST_TIME])
                if age > limit.least_ms >= before and i in mine and last_time < newest and self.facts[self._keys.keys[i]].trading:
                    self._findings.find(
                        i,
                        "market_indicators",
                        "stale",
                        now,
                        float(age),
                        float(limit.least_ms),
                        mark,
                        None,
                        f"{indicator}: {age_text(age)}",
                    )

    # --- at the end of a window --------------------------------------------------------------------------------------------
    def _close_window(self, i: int, time: int, mark: Mark) -> None:
        name = self._keys.keys[i]
        if not self.facts[name].trading:
            return
        scores: dict[str, float] = {}
        for stream, memory in self.memories.items():
            missing = (i, stream) in self._missing
            if not memory.L[i, col.SEEN] and not missing:
                continue
            if memory.L[i, col.SEEN]:
                self._missing.discard((i, stream))
                self._judge_window(i, stream, memory, time, mark)
            row = memory.L[i]
            records, last = int(row[col.RECORDS]), int(row[col.LAST_TIME])
            window = memory.counts[i].copy()
            memory.close_window(i)
            counts = memory.past[i].sum(axis=0)
            # A repaired gap no longer counts. A silence or an absence counts until it ends.
            counts[NUMBER["id_gap"]] = max(0, counts[NUMBER["id_gap"]] - counts[NUMBER["gap_repaired"]])
            for lasting, still in ((NUMBER["stale"], bool(row[col.IS_STALE])), (NUMBER["missing"], missing),
                                   (NUMBER["one_sided"], bool(row[col.RUN_REPORTED])), (NUMBER["book_invalid"], bool(row[col.INVALID]))):  # fmt: skip
                if still:
                    counts[lasting] = max(counts[lasting], 1)
            score, deductions = stream_score({kind.name: int(count) for kind, count in zip(KINDS, counts, strict=True)})
            if missing or (row[col.IS_STALE] and time - last > 5 * int(memory.limits[i])):
                score = 0.0  # a stream that stopped gets no points
            scores[stream] = self.scores[name, stream] = score
            found = {kind.name: int(count) for kind, count in zip(KINDS, window, strict=True) if count}
            age = None if last == col.NONE else max(0, time - last)
            self._findings.emit(name, stream, SCORE, time, mark, worst(deductions), score=score, deductions=deductions, findings=found, records=records,
                       rate=records * 1000.0 / self.rules.window_ms, age_ms=age)  # fmt: skip
        overall = overall_score(scores)
        if overall is not None:
            self.scores[name, OVERALL] = overall
            lost = {stream: 10.0 - score for stream, score in scores.items() if score < 10.0}
            self._findings.emit(name, OVERALL, SCORE, time, mark, worst(lost), score=overall, deductions=lost)

    def _judge_window(self, i: int, stream: str, memory: Memory, time: int, mark: Mark) -> None:
        rules, row = self.rules, memory.L[i]
        volumes = memory.volumes[i][memory.volumes[i] >= 0]
        if len(volumes) >= rules.score_windows and memory.freshness is not None and not row[col.IS_STALE]:
            usual = float(np.median(volumes))
            if usual >= rules.rate_least and 0 < row[col.RECORDS] < rules.rate_share * usual:  # none at all counts as silence
                limit = rules.rate_share * usual
                self._findings.find(
                    i, stream, "rate_low", time, float(row[col.RECORDS]), limit, mark, None, f"usually {usual:.0f} a window"
                )
        if row[col.DELAYS]:
            if 2 * row[col.LATE] > row[col.DELAYS]:
                share = float(row[col.LATE] / row[col.DELAYS])
                self._findings.find(
                    i, stream, "delay", time, share, float(rules.delay_ms), mark, None, f"{share:.0%} later than {rules.delay_ms} ms"
                )
            before = memory.delays[i][memory.delays[i] != col.NONE]
            if len(before) >= rules.score_windows:
                usual, now = float(np.median(before)), float(row[col.LEAST_DELAY])
                if abs(now - usual) > rules.drift_ms:
                    self._findings.find(
                        i, stream, "clock_drift", time, now, usual, mark, None, f"shortest delay {now:+.0f} ms, usually {usual:+.0f} ms"
                    )
        if stream == "agg_trades" and row[col.COMPARED] >= rules.quote_least and 2 * row[col.OUTSIDE] > row[col.COMPARED]:
            share = float(row[col.OUTSIDE] / row[col.COMPARED])
            text = f"{row[col.OUTSIDE]} of {row[col.COMPARED]} trades lie outside the quotes"
            self._findings.find(i, stream, "quote_disagreement", time, share, rules.quote_tolerance, mark, None, text)

    def instruments(self) -> Iterable[str]:
        """Return the instruments seen so far."""
        return tuple(self._keys.keys)


def _is_live(columns: Columns, chunk: Chunk, rows: range) -> Flags:
    """Return which books are live."""
    if chunk.derived is None:
        chunk.derived = columns.choices("state", ("live",)) == 0
    flags: Flags = chunk.derived[rows.start : rows.stop]
    return flags

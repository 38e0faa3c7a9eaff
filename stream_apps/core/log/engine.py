"""What every engine shares: one loop over the progress log of a partition (DESIGN 3, 8). Live, paper and replay run this class.

``feed`` takes records of each topic in offset order. ``advance`` passes every mark whose merged cut has been fed. At a mark that makes instants due it
applies the records before the cut and fires the instants. Records beyond the cut wait. The outputs depend on the log alone, not on how the log was cut
into feeds.

An engine is a subclass. It says which topics it reads and writes, what a record does (``apply``), what an instant does (``instant``), and how its state
is saved and restored (``head``, ``changed_entries``, ``load``). README.md walks through an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec, CodecError
from schemas.codec.key_table import KeyTable
from schemas.codec.markreader import Mark, MarkReader
from schemas.codec.recordset import RecordSet
from stream_apps.core.log import checkpoint
from stream_apps.core.log.checkpoint import Array, Entry
from stream_apps.core.log.engine_settings import TOPIC as SETTINGS_TOPIC
from stream_apps.core.log.engine_settings import Setting, SettingsError, SettingsInForce, SettingsLog, SettingsRevision
from stream_apps.core.log.inbox import TRADE_FIELDS, Chunk, Inbox
from stream_apps.core.log.instruments import Instruments, InstrumentTable
from stream_apps.core.log.mark_lookahead import LookaheadResult, MarkLookahead
from stream_apps.core.log.marks import MarkLog
from stream_apps.core.log.outputs import DeadLetters, OutputRecord, records_of
from stream_apps.core.log.steps import DECIDED, PANE, Steps, StepWriter, steps_of

I64 = npt.NDArray[np.int64]

# A mark this far beyond its author's last one is a broken clock, not a pause; it is refused instead of firing years of instants.
MARK_JUMP_MS = 30 * 86_400_000
_NO_LONGS: I64 = np.empty(0, dtype=np.int64)


class PartitionEngine(ABC):
    """The engine of one partition.

    Args:
        partition: Kafka partition; for messages only.
        config: Its numbers.
        codec: How values are decoded and encoded.

    Class attributes:
        NAME: Name of the engine (``perpflow worker --engine NAME``).
        READS: Topics it reads besides ``progress``.
        WRITES: Topics it writes, its progress topic and ``dead_letters`` among them.
        PROGRESS: Its progress topic: one record a step, with the schema of ``worker_progress``.
        DECISIONS: The topic on which others act; progress records name its offset. None: nobody acts on this engine.
        FACTS: Topics of ``READS`` that are applied before all others of a mark, record by record.
        SETTINGS: Numbers that revisions in the topic ``engine_settings`` may set; the engine then reads that topic.
        STRETCH: The topic whose records may come between the instants of one call of ``run``. None: one mark at a time.
    """

    NAME: ClassVar[str]
    READS: ClassVar[tuple[str, ...]]
    WRITES: ClassVar[tuple[str, ...]]
    PROGRESS: ClassVar[str]
    DECISIONS: ClassVar[str | None] = None
    FACTS: ClassVar[tuple[str, ...]] = ("instruments",)
    SETTINGS: ClassVar[tuple[Setting, ...]] = ()
    STRETCH: ClassVar[str | None] = None

    def __init__(self, partition: int, config: Any, codec: Codec) -> None:
        self.partition = partition
        self.config = config
        self.codec = codec
        self.topics = tuple(sorted(self.READS))
        self.marks = MarkLog(frozenset(self.READS))
        self.applied: dict[str, int] = {}
        self.last_instant = 0
        self.counts: dict[str, int] = {"instants": 0, "late": 0, "duplicates": 0, "rejected": 0}
        self.applied_counts: dict[str, int] = dict.fromkeys(self.READS, 0)
        self.instruments: InstrumentTable = Instruments()
        self.settings = SettingsLog(self.NAME, self.SETTINGS, self.check_settings)
        self._inboxes = {topic: Inbox(TRADE_FIELDS if topic == "agg_trades" else None) for topic in self.READS}
        self._progress_next: int | None = None
        self._mark_reader = MarkReader(codec)
        self._keys = KeyTable()
        self._rows: I64 = _NO_LONGS  # key number -> row of the instrument
        self._by_author: dict[str, I64] | None = None
        self._letters = DeadLetters(partition, codec)
        self._step_writer = StepWriter(codec.header(self.PROGRESS), self.topics)
        self._lookahead = (
            None if self.STRETCH is None else MarkLookahead(self.topics, self.STRETCH, config.grid_ms, config.lateness_ms, MARK_JUMP_MS)
        )
        self._sequence = 0  # number of the last checkpoint
        self._saved = 0  # position in the progress log at that checkpoint

    # --- what an engine says of itself -----------------------------------------------------------------------------------
    @abstractmethod
    def apply(self, topic: str, chunk: Chunk, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        """Apply records of a topic that lie before the cut of a mark, in offset order. Instruments and engine settings never come here.

        Args:
            topic: One of ``READS``.
            chunk: The records; ``chunk.columns`` decodes them, ``instrument_rows`` gives their instruments.
            rows: Rows of the chunk.
            mark: The mark that brings them.
            outputs: Takes what is written because of them, dead letters for example.
        """

    def instant(self, time: int, decided_at: int, instruments: I64, outputs: list[OutputRecord]) -> None:
        """Evaluate instruments at an instant; append what is written. An engine overrides this or ``run``.

        Args:
            time: The instant T, ms UTC.
            decided_at: Event time of the mark that fires it, ms UTC.
            instruments: Rows of the instruments, in the order of their names.
            outputs: Takes the records.
        """
        raise TypeError(f"{type(self).__name__} defines neither instant nor run")

    def check_settings(self, settings: SettingsInForce) -> None:  # noqa: B027 - an engine may have no such rule
        """Raise SettingsError, naming the setting, when numbers that are set do not fit together."""

    def fixed_numbers(self) -> dict[str, float]:
        """Return the numbers that hold for the life of a state. A worker that is set to others refuses to restore it."""
        return {}

    def head(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the state that every checkpoint writes anew: JSON values and arrays."""
        return {}, {}

    def changed_entries(self) -> list[Entry]:
        """Return the changelog entries beside the head that changed since the last call."""
        return []

    def load(self, meta: dict[str, Any], arrays: dict[str, Array], entries: list[tuple[bytes, bytes]]) -> None:
        """Take the state of a head and of the other entries. Raises ChangelogDamaged when they do not fit together.

        An engine with its own table of instruments does not call this method of the base.
        """
        for name in meta["names"]:
            self.instruments.set_facts(name, *meta["facts"][name])

    # --- intake ----------------------------------------------------------------------------------------------------------
    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Return the topics that the engine is fed with."""
        return (*cls.READS, "progress")

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
        return [self.dead_letter("progress", records, row, error.field, error.reason) for row, error in refused]

    def skip_to(self, topic: str, offset: int) -> None:
        """Learn that the log of a topic begins at ``offset``: retention deleted what lay before."""
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

    # --- the loop --------------------------------------------------------------------------------------------------------
    def advance(self, limit: int | None = None) -> list[OutputRecord]:
        """Pass every mark whose cut has been fed, or as many as give ``limit`` outputs; return what is to be written, in order."""
        outputs: list[OutputRecord] = []
        waiting, marks, config = self.marks.waiting, self.marks, self.config
        while waiting and (limit is None or len(outputs) < limit):
            mark = waiting.first()
            if (previous := marks.times.get(mark.author)) is not None and mark.time > previous + MARK_JUMP_MS:
                outputs.append(self._refused_mark(mark, previous))
                waiting.drop()
                marks.next_offset = mark.offset + 1
                continue
            cut = marks.cut_after(mark)
            if self._not_fed(cut):
                break
            due = marks.due(mark, config.grid_ms, config.lateness_ms)
            if due:
                marks.fired.setdefault(mark.author, due.start - 1)
                self._apply_before(cut, mark, outputs)
            marks.passed(mark, cut, config.grid_ms, config.lateness_ms)
            waiting.drop()
            if due:
                self._fire(mark, cut, due, outputs, limit)
        if not waiting:
            # Records for the next instants are here already. Decoding them later would delay the decision.
            for topic, offset in marks.merged.items():
                if topic not in self.FACTS and self.applied.get(topic, 0) < offset:
                    self._inboxes[topic].decode(offset, self.codec, topic)
        return outputs

    def _apply_before(self, cut: dict[str, int], mark: Mark, outputs: list[OutputRecord]) -> None:
        # Facts first: a record and the facts that it needs may lie in the same step.
        for topic in (*self.FACTS, *self.READS):
            if topic not in cut or (topic in self.FACTS and self.applied.get(topic) == cut[topic]):
                continue
            for chunk, rows in self._inboxes[topic].take(cut[topic]):
                self.applied_counts[topic] += len(rows)
                if topic == "instruments":
                    self._apply_instruments(chunk.records, rows, mark, outputs)
                elif topic == SETTINGS_TOPIC:
                    self._apply_settings(chunk.records, rows, mark, outputs)
                else:
                    self.apply(topic, chunk, rows, mark, outputs)
            self.applied[topic] = cut[topic]

    def _apply_instruments(self, records: RecordSet, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        for row in rows:
            try:
                record = self.codec.decode("instruments", records.value(row))
            except CodecError as error:
                outputs.append(self.dead_letter("instruments", records, row, error.field, error.reason, mark.time))
                continue
            name, price, quantity = record["instrument"], record["price_decimals"], record["quantity_decimals"]
            if not (0 <= price <= 12 and 0 <= quantity <= 12):
                outputs.append(self.dead_letter("instruments", records, row, "price_decimals", "decimals must be 0..12", mark.time))
                continue
            self._known(name, self.instruments.set_facts(name, record["author"], price, quantity))
            self._by_author = None

    def _apply_settings(self, records: RecordSet, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        for row in rows:
            try:
                self.take_settings(SettingsRevision.from_record(self.codec.decode(SETTINGS_TOPIC, records.value(row))))
            except (CodecError, SettingsError) as error:
                # The last good revision stays in force.
                outputs.append(self.dead_letter(SETTINGS_TOPIC, records, row, error.field, str(error), mark.time))

    def take_settings(self, revision: SettingsRevision) -> None:
        """Let a revision of the settings hold from the next instant on, or from its ``effective_time`` when that is later.

        Revisions of other engines are passed over.

        Raises:
            SettingsError: it breaks a rule or is not newer than the newest one known; what was known stays.
        """
        fired = min(self.marks.fired.values(), default=None)
        self.settings.take(revision, None if fired is None else fired * self.config.grid_ms)

    def _known(self, name: str, row: int) -> None:
        if self._keys.get(name) is None:
            self._keys.add(name)
            self._rows = np.append(self._rows, row)

    def instrument_rows(self, chunk: Chunk) -> I64:
        """Return the row of each record's instrument; -1 where no ``instruments`` record has named it."""
        return chunk.instruments(self._keys, self._rows)

    # --- firing ----------------------------------------------------------------------------------------------------------
    def instruments_of(self, author: str) -> I64:
        """Return the rows of an author's instruments, in the order of their names: outputs must not depend on who came first."""
        if self._by_author is None:
            groups: dict[str, list[str]] = {}
            for name, facts in self.instruments.facts.items():
                groups.setdefault(facts.author, []).append(name)
            index = self.instruments.index
            self._by_author = {a: np.array([index[n] for n in sorted(names)], dtype=np.int64) for a, names in groups.items()}
        return self._by_author.get(author, _NO_LONGS)

    def _fire(self, mark: Mark, cut: dict[str, int], due: range, outputs: list[OutputRecord], limit: int | None) -> None:
        """Fire the instants of a mark that was passed, and those of following marks that bring records of the stretch topic only."""
        steps = steps_of(mark, cut, due, self.instruments_of(mark.author), self.topics)
        if self._lookahead is None or self.STRETCH is None:
            self.run(steps, None, outputs)
            return
        inbox = self._inboxes[self.STRETCH]
        chunk = inbox.front()
        ahead: LookaheadResult | None = None
        if self.marks.waiting and self.may_look_ahead():
            # No more than surely stay within the wanted number of outputs.
            most = self.most_steps(None if limit is None else limit - len(outputs))
            if len(steps.table) < most:
                offsets, at = (_NO_LONGS, 0) if chunk is None else (chunk.offsets, chunk.at)
                ahead = self._lookahead.find_steps(steps, self.marks, offsets, at, most, self.instruments_of)
                steps = ahead.steps
        passed = ahead is not None and len(ahead.after) > 0
        done, reached = self.run(steps, chunk if passed else None, outputs)
        if ahead is None or not passed:
            return
        if chunk is not None:
            self.applied_counts[self.STRETCH] += inbox.taken(reached)
        self.applied.update(steps.cut(done - 1))
        if done == len(steps.table):
            self._lookahead.pass_on(self.marks, ahead)
            return
        for _ in range(int(np.searchsorted(ahead.after, done, side="right"))):
            following = self.marks.waiting.first()
            self.marks.passed(following, self.marks.cut_after(following), self.config.grid_ms, self.config.lateness_ms)
            self.marks.waiting.drop()

    def run(self, steps: Steps, chunk: Chunk | None, outputs: list[OutputRecord]) -> tuple[int, int]:
        """Process instants in order and append what they write, each followed by its progress record.

        Args:
            steps: The instants; at least one.
            chunk: Records of the stretch topic that are to be applied between them; None: there are none.
            outputs: Takes the records.

        Returns:
            How many instants were processed (all, unless the engine has ``STRETCH``), and the first row of the chunk that was not taken.
        """
        written = self.step_records(steps)
        for row, (pane, decided) in enumerate(steps.table[:, [PANE, DECIDED]].tolist()):
            self.instant(pane * self.config.grid_ms, decided, steps.instruments(row), outputs)
            outputs.append(written[row])
            self.last_instant = max(self.last_instant, pane * self.config.grid_ms)
        return len(steps.table), 0

    def may_look_ahead(self) -> bool:
        """Tell whether instants of several marks may be processed in one call now."""
        return True

    def most_steps(self, wanted: int | None) -> int:
        """Return how many instants one call processes at most, so that about ``wanted`` outputs are not exceeded (None: no wish)."""
        return 1

    def step_records(self, steps: Steps) -> list[OutputRecord]:
        """Return the progress records of instants; each lacks its last field."""
        authors = [author.encode() for author, _ in steps.names]
        keys = [authors[head] for head in steps.heads.tolist()]
        times = steps.table[:, PANE] * self.config.grid_ms
        written = self._step_writer.write(steps, self.config.grid_ms, self.settings.revisions(times))
        return records_of(self.PROGRESS, keys, written, times)

    # --- refusals --------------------------------------------------------------------------------------------------------
    def dead_letter(self, topic: str, records: RecordSet, row: int, field: str | None, reason: str, now: int | None = None) -> OutputRecord:
        """Return the dead letter of a record, and count it; ``now`` is the time of the mark that brought it."""
        self.counts["rejected"] += 1
        return self._letters.of_record(topic, records, row, field, reason, now)

    def _refused_mark(self, mark: Mark, previous: int) -> OutputRecord:
        self.counts["rejected"] += 1
        reason = f"mark of {mark.author} at {mark.time} is more than 30 days after its mark at {previous}"
        return self._letters.of_mark(mark, previous, reason)

    # --- durability ------------------------------------------------------------------------------------------------------
    def checkpoint(self) -> list[Entry]:
        """Return the changelog entries since the last checkpoint, the head last; to be written as one atomic record batch."""
        entries = self.changed_entries()
        if self.marks.next_offset == self._saved and not entries:
            return []
        self._sequence += 1
        self._saved = self.marks.next_offset
        table = self.instruments
        meta, arrays = self.head()
        meta = {
            "format": checkpoint.FORMAT,
            "grid_ms": self.config.grid_ms,
            "fixed": self.fixed_numbers(),
            "settings": self.settings.to_json(),
            "sequence": self._sequence,
            "progress": self.marks.next_offset,
            "merged": self.marks.merged,
            "fired": self.marks.fired,
            "times": self.marks.times,
            "applied": self.applied,
            "last_instant": self.last_instant,
            "counts": self.counts,
            "names": table.names,
            "facts": {name: [f.author, f.price_decimals, f.quantity_decimals] for name, f in table.facts.items()},
            **meta,
        }
        return [*entries, (checkpoint.head_key(self._sequence), checkpoint.pack(meta, arrays))]

    @classmethod
    def restore(cls, partition: int, config: Any, codec: Codec, entries: Iterable[tuple[bytes, bytes]]) -> Self:
        """Rebuild an engine from the newest value of each changelog key; an empty changelog gives a new engine.

        Raises:
            ValueError: the changelog was written with another grid, with other fixed numbers or by another format.
            ChangelogDamaged: the entries do not fit together.
        """
        engine = cls(partition, config, codec)
        kept = list(entries)
        newest = checkpoint.newest_head(kept)
        if newest is None:
            return engine
        meta, arrays = newest
        if meta["grid_ms"] != config.grid_ms:
            raise ValueError(
                f"grid_ms: the state was kept on a grid of {meta['grid_ms']} ms, the worker is set to {config.grid_ms}; use a new app id"
            )
        for name, value in engine.fixed_numbers().items():
            kept_with = meta.get("fixed", {}).get(name, value)  # an earlier release did not write them
            if kept_with != value:
                raise ValueError(f"{name}: the state was kept with {kept_with:g}, the worker is set to {value:g}; use a new app id")
        if "settings" in meta:
            engine.settings.load(meta["settings"])
        engine.load(meta, arrays, [(key, value) for key, value in kept if key[:1] != checkpoint.HEAD])
        merged = dict(sorted(meta["merged"].items()))
        engine.marks = MarkLog(engine.marks.inputs, merged, dict(meta["fired"]), dict(meta["times"]), meta["progress"])
        engine.applied = dict(meta["applied"])
        engine.last_instant = meta["last_instant"]
        engine.counts.update(meta["counts"])
        engine._sequence, engine._saved = meta["sequence"], meta["progress"]
        for topic, inbox in engine._inboxes.items():
            inbox.next_offset = engine.applied.get(topic)
        if engine.marks.next_offset:
            engine._progress_next = engine.marks.next_offset
        for name in engine.instruments.facts:
            engine._known(name, engine.instruments.index[name])
        return engine

"""Stored rows with their offsets (archive, database) as a source of replay.

Each topic is read as far as the engine wants, in constant memory.

With a stored progress log the marks are those of the topics, and the results are equal byte for byte. Without it the log of an importer is
written: the mark of instant T stands at T + the allowed lateness, after all records up to there (DESIGN 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import I64, RecordSet
from schemas.settings import Settings
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.paper.position import PaperSettings
from stream_apps.engines import SIGNALS, EngineSpec
from stream_apps.replay.results import ResultSet, differences
from stream_apps.replay.run import Result, drive
from stream_apps.replay.sources.source import SIGNALS_INPUTS, Piece
from stream_apps.replay.verify import Progress, ReplayReport

GAPS = "gaps"
# Topics read record by record: they are small, and their readers want bytes.
AS_MESSAGES = ("instruments", GAPS)
# Configuration holds at any age, so it is read in full.
WHOLE = ("instruments", "strategies", "engine_settings")
_MESSAGES = 10_000

Message = tuple[int, int, bytes | None, bytes | None]


class Reader(Protocol):
    """One topic and partition of the store."""

    @property
    def first_offset(self) -> int:
        """Return the offset of the first record; ``next_offset`` without records."""
        ...

    @property
    def next_offset(self) -> int:
        """Return the first offset that is not stored."""
        ...

    @property
    def rows(self) -> int:
        """Return the number of records."""
        ...

    def windows(self, start: int = 0) -> Iterator[RecordSet]:
        """Yield the records from an offset on, in order. The last set is empty and ends at ``next_offset``."""
        ...

    def messages(self, start: int = 0) -> Iterator[Message]:
        """Yield (offset, timestamp ms, key, value) of the records from an offset on, in order."""
        ...

    def times(self, start: int = 0) -> Iterator[tuple[I64, I64]]:
        """Yield (offsets, event times ms) of the records from an offset on."""
        ...

    def offset_at(self, time_ms: int) -> int:
        """Return the offset of the first record with an event time at or after a time; ``next_offset`` if every record is older."""
        ...


Readers = Mapping[int, Mapping[str, Reader]]


@dataclass
class Stored:
    """Stored rows as a source. Subclasses open the readers.

    Args:
        codec: Codec of the environment.
        grid_ms: Grid of the synthesised marks, ms.
        lateness_ms: Allowed lateness, ms.
        partitions: Partitions to read. None: all.
        since: Begin of the market data, ms UTC, warm-up included. None: from the begin. Instruments and strategies are always read in full.
        until: Stop when the marks of every producer are later, ms UTC. None: at the end.
        strategies: Read the stored strategies too. False: they are given to the engine.
        reads: Topics of the engine.
    """

    codec: Codec
    grid_ms: int
    lateness_ms: int
    partitions: tuple[int, ...] | None = None
    since: int | None = None
    until: int | None = None
    strategies: bool = True
    reads: tuple[str, ...] = SIGNALS_INPUTS

    # Whether entries of maps come back in the order of writing.
    KEEPS_ORDER: ClassVar[bool] = True

    def opened(self, topics: tuple[str, ...]) -> AbstractContextManager[Readers]:
        """Open partition -> topic -> reader, for topics that have records."""
        raise NotImplementedError

    def inputs(self) -> tuple[str, ...]:
        """Return the topics that replay reads."""
        return tuple(name for name in (*self.reads, GAPS) if self.strategies or name != "strategies")

    def total(self) -> int:
        """Return the number of records of a replay of the whole store."""
        with self.opened(self.inputs()) as partitions:
            return sum(reader.rows for readers in partitions.values() for reader in readers.values())

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the records, one partition after the other. ``gaps`` is included, though no engine reads it."""
        with self.opened(self.inputs()) as partitions:
            for partition, readers in sorted(partitions.items()):
                yield from self._partition(partition, engine_of(partition), readers)

    def _starts(self, readers: Mapping[str, Reader]) -> dict[str, int]:
        starts = {topic: reader.first_offset for topic, reader in readers.items()}
        if self.since is not None:
            starts.update({topic: reader.offset_at(self.since) for topic, reader in readers.items() if topic not in WHOLE})
        return starts

    def _partition(self, partition: int, engine: PartitionEngine, readers: Mapping[str, Reader]) -> Iterator[Piece]:
        starts = self._starts(readers)
        flows = {topic: _sets(topic, reader, starts[topic]) for topic, reader in readers.items()}
        if "progress" not in flows:
            flows["progress"] = iter([_synthesised(self.codec, readers, starts, self.grid_ms, self.lateness_ms)])
        for topic, start in starts.items():
            if start and topic != GAPS:
                engine.skip_to(topic, start)
        for records in flows.pop(GAPS, ()):
            yield Piece(partition, GAPS, records)
        while True:
            wanted = engine.wants()
            # Records that the next mark waits for come first. When there are no more of them, no later mark can be passed.
            first = next((topic for topic in flows if topic in wanted), None)
            if first is None:
                break
            piece = next(flows[first], None)
            if piece is None:
                del flows[first]
                continue
            yield Piece(partition, first, piece)
            times = engine.marks.times.values()
            if self.until is not None and times and min(times) > self.until + self.lateness_ms + self.grid_ms:
                break


def replay_stored(
    source: Stored, settings: Settings, paper: PaperSettings | None = None, progress: Progress | None = None, engine: EngineSpec = SIGNALS
) -> ReplayReport:
    """Replay the whole store, and list the differences from the results stored beside it.

    Args:
        source: The rows.
        settings: Numbers of the market state, and codec. No broker is used.
        paper: Numbers of the paper model. They must be the executor's.
        progress: Called with (partition, topic, records) as records are read.
        engine: The engine whose results are compared.
    """
    source = replace(source, reads=engine.kind().inputs())
    report = ReplayReport(
        ResultSet.of(settings.codec, engine.results, source.KEEPS_ORDER),
        written=ResultSet.of(settings.codec, engine.results, source.KEEPS_ORDER),
    )
    assert report.written is not None
    with source.opened(engine.results) as partitions:
        for _, readers in sorted(partitions.items()):
            for topic, reader in readers.items():
                for _, _, _, value in reader.messages():
                    report.written.add(topic, value)

    def take(partition: int, result: Result) -> None:
        report.outputs[result.topic] = report.outputs.get(result.topic, 0) + 1
        report.results.add(result.topic, result.value)

    def on_piece(piece: Piece) -> None:
        report.inputs[piece.topic] = report.inputs.get(piece.topic, 0) + len(piece.records)
        if progress is not None:
            progress(piece.partition, piece.topic, len(piece.records))

    started = time.perf_counter()
    drive(source, engine.config(settings), settings.codec, take, engine=engine, paper=paper, on_piece=on_piece)
    report.seconds = time.perf_counter() - started
    report.differences = differences(report.written, report.results)
    return report


def _sets(topic: str, reader: Reader, start: int) -> Iterator[RecordSet]:
    if topic not in AS_MESSAGES:
        yield from reader.windows(start)
        return
    messages = []
    for message in reader.messages(start):
        messages.append(message)
        if len(messages) == _MESSAGES:
            yield RecordSet.from_messages(messages)
            messages = []
    last = RecordSet.from_messages(messages)
    last.next_offset = reader.next_offset
    yield last


def _synthesised(codec: Codec, readers: Mapping[str, Reader], starts: dict[str, int], grid_ms: int, lateness_ms: int) -> RecordSet:
    """Return the marks of an importer of these records: one a grid step and author, each after all records up to it.

    Instruments are known from the first mark on, whenever they were written.
    """
    authors, contracts = _authors(codec, readers.get("instruments"))
    ends: dict[str, dict[int, int]] = {}
    for topic, reader in readers.items():
        if topic in ("instruments", GAPS):
            continue
        found = ends.setdefault(topic, {})
        for offsets, times in reader.times(starts[topic]):
            steps = -(-(times - lateness_ms) // grid_ms)
            order = np.lexsort((offsets, steps))
            last = np.flatnonzero(np.diff(steps[order], append=steps[order[-1]] + 1))
            for step, offset in zip(steps[order][last].tolist(), offsets[order][last].tolist(), strict=True):
                found[step] = max(found.get(step, 0), offset + 1)
    steps_of_data = sorted({step for topic, found in ends.items() if topic not in WHOLE for step in found})
    encode = codec.encoder("progress")
    messages: list[tuple[int, int, bytes | None, bytes | None]] = []
    cut: dict[str, int] = {"instruments": contracts}
    waiting = sorted((step, topic, end) for topic, found in ends.items() for step, end in found.items())
    waiting.reverse()
    for step in _steps(steps_of_data, 86_400_000 // grid_ms):
        while waiting and waiting[-1][0] <= step:
            _, topic, end = waiting.pop()
            cut[topic] = max(cut.get(topic, 0), end)
        time = step * grid_ms + lateness_ms
        for author, venue in authors:
            mark = {"author": author, "venue": venue, "event_time": time, "receive_time": time, "cut": cut}
            messages.append((len(messages), time, author.encode(), encode(mark)))
    return RecordSet.from_messages(messages)


def _steps(there: list[int], longest: int) -> Iterator[int]:
    """Yield the step before the first, so that the first instant after it fires, and all steps up to the last.

    Steps within pauses of a day or more are left out.

    Otherwise a single record with a distant time would cost years of marks.
    """
    previous: int | None = None
    for step in there:
        yield from range(step - 1 if previous is None or step - previous > longest else previous + 1, step + 1)
        previous = step


def _authors(codec: Codec, reader: Reader | None) -> tuple[list[tuple[str, str]], int]:
    """Return (author, venue) of every instrument, and the offset after which all instruments are known."""
    seen: dict[str, Any] = {}
    reach = 0
    for offset, _, _, value in reader.messages() if reader is not None else ():
        try:
            record = codec.decode("instruments", value)
        except CodecError:
            continue  # the engine writes its dead letter
        if record["instrument"] not in seen:
            reach = offset + 1
        seen[record["instrument"]] = (record["author"], record["venue"])
    return sorted(set(seen.values())), reach

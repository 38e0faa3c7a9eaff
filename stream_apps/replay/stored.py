"""What was kept as rows with their offsets (the archive, the database) as a source of replay: each topic read on as the engine wants it, in constant memory.

With the progress log kept the marks are the topics' own, and so are the results, byte for byte. Without it the log of an importer is written: the mark
of instant T stands at T + the allowed lateness, after everything up to there (DESIGN 3).
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
from stream_apps.replay.from_topics import Progress, ReplayReport
from stream_apps.replay.results import ResultSet, differences
from stream_apps.replay.run import Result, drive
from stream_apps.replay.source import SIGNALS_INPUTS, Piece

GAPS = "gaps"
# Topics that are read record by record: few records, and their readers want bytes.
AS_MESSAGES = ("instruments", GAPS)
# Configuration holds whatever its age, so it is read whole.
WHOLE = ("instruments", "strategies", "engine_settings")
_MESSAGES = 10_000

Message = tuple[int, int, bytes | None, bytes | None]


class Reader(Protocol):
    """One topic and partition as it was kept."""

    @property
    def first_offset(self) -> int:
        """Offset of the first record; ``next_offset`` when there is none."""
        ...

    @property
    def next_offset(self) -> int:
        """First offset that was not kept."""
        ...

    @property
    def rows(self) -> int:
        """Records from the first on."""
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
        """Return the offset of the first record with an event time at or after a time; ``next_offset`` when every record is older."""
        ...


Readers = Mapping[int, Mapping[str, Reader]]


@dataclass
class Stored:
    """Rows as a source. Subclasses open the readers.

    Args:
        codec: Codec of the environment.
        grid_ms: Grid of the marks that are written where none were kept, ms.
        lateness_ms: Allowed lateness, ms.
        partitions: To read; None: all that are there.
        since: Market data from here on, ms UTC, to warm up by; None: from the beginning. Contracts and strategies are always read whole.
        until: Stop when every producer's marks are beyond, ms UTC; None: at the end.
        strategies: Take what was kept of the strategies too; else they are given to the engine.
        reads: Topics that the engine is fed with.
    """

    codec: Codec
    grid_ms: int
    lateness_ms: int
    partitions: tuple[int, ...] | None = None
    since: int | None = None
    until: int | None = None
    strategies: bool = True
    reads: tuple[str, ...] = SIGNALS_INPUTS

    # Whether entries of maps come back in the order in which they were written.
    KEEPS_ORDER: ClassVar[bool] = True

    def opened(self, topics: tuple[str, ...]) -> AbstractContextManager[Readers]:
        """Open partition -> topic -> reader of the topics of which something is there."""
        raise NotImplementedError

    def inputs(self) -> tuple[str, ...]:
        """Return the topics that replay reads."""
        return tuple(name for name in (*self.reads, GAPS) if self.strategies or name != "strategies")

    def total(self) -> int:
        """Return the number of records of a replay of all that is there."""
        with self.opened(self.inputs()) as partitions:
            return sum(reader.rows for readers in partitions.values() for reader in readers.values())

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield what is there, a partition after the other; ``gaps`` too, which no engine reads."""
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
            # What the next mark waits for comes first; when there is no more of it, no later mark can be passed.
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
    """Replay everything that was kept, and list the differences from the results that were kept beside it.

    Args:
        source: The rows.
        settings: Numbers of the market state and codec; no broker is asked.
        paper: Numbers of the paper model; must be the executor's.
        progress: Called with (partition, topic, records) as records are read.
        engine: The engine that decided.
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

    def hear(piece: Piece) -> None:
        report.inputs[piece.topic] = report.inputs.get(piece.topic, 0) + len(piece.records)
        if progress is not None:
            progress(piece.partition, piece.topic, len(piece.records))

    started = time.perf_counter()
    drive(source, engine.config(settings), settings.codec, take, engine=engine, paper=paper, hear=hear)
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
    """Return the marks of an importer of these records: one a grid step and author, each after everything up to it.

    Contracts are known from the first mark on, whenever they were written.
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
    """Yield the step before the first, so that the first instant after it fires, and all up to the last, but those within pauses of a day and more.

    A record whose time lies far from all others would else cost marks of years.
    """
    previous: int | None = None
    for step in there:
        yield from range(step - 1 if previous is None or step - previous > longest else previous + 1, step + 1)
        previous = step


def _authors(codec: Codec, reader: Reader | None) -> tuple[list[tuple[str, str]], int]:
    """Return (author, venue) of every contract, and the offset after which every contract is known."""
    seen: dict[str, Any] = {}
    reach = 0
    for offset, _, _, value in reader.messages() if reader is not None else ():
        try:
            record = codec.decode("instruments", value)
        except CodecError:
            continue  # the engine makes the dead letter of it
        if record["instrument"] not in seen:
            reach = offset + 1
        seen[record["instrument"]] = (record["author"], record["venue"])
    return sorted(set(seen.values())), reach

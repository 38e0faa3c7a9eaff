"""The archive as a source of replay: columns go into the engine without being bytes in between, a row group of each file in memory at a time.

With the progress log archived the marks are the topics' own, and so are the results, byte for byte. Without it the log of an importer is written: the mark
of instant T stands at T + the allowed lateness, after everything up to there (DESIGN 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.archive.manifest import ArchiveError, State, manifests
from schemas.archive.read import PartitionReader
from schemas.catalogue import RESULT_TOPICS
from schemas.codec import Codec, CodecError
from schemas.columnar import RecordSet
from schemas.settings import Settings
from stream_apps.core.config import EngineConfig
from stream_apps.core.engine import PartitionEngine
from stream_apps.core.paper_position import PaperSettings
from stream_apps.replay.from_topics import Progress, ReplayReport
from stream_apps.replay.results import ResultSet, differences
from stream_apps.replay.run import Result, drive
from stream_apps.replay.source import Piece

# What the engine and the paper model read of a trade; the rest stays on disk.
TRADE_FIELDS = ("event_time", "agg_id", "price", "quantity", "buyer_is_maker")
# Topics that are read record by record: few records, and their readers want bytes.
AS_MESSAGES = ("instruments", "gaps")
GAPS = "gaps"
_MESSAGES = 10_000


@dataclass
class Archive:
    """An archive as a source.

    Args:
        root: Folder of the archive.
        codec: Codec of the environment.
        grid_ms: Grid of the marks that are written where none are archived, ms.
        lateness_ms: Allowed lateness, ms.
        partitions: To read; None: all that are there.
        since: Market data from here on, ms UTC, to warm up by; None: from the beginning. Contracts and strategies are always read whole.
        until: Stop when every producer's marks are beyond, ms UTC; None: at the end.
        strategies: Take the strategies from the archive too; else they are given to the engine.
    """

    root: Path
    codec: Codec
    grid_ms: int
    lateness_ms: int
    partitions: tuple[int, ...] | None = None
    since: int | None = None
    until: int | None = None
    strategies: bool = True

    def _states(self) -> dict[int, dict[str, State]]:
        """Return partition -> topic -> state of what replay reads. Raises ArchiveError when nothing of it is there."""
        names = {name for name in (*PartitionEngine.INPUTS, GAPS) if self.strategies or name != "strategies"}
        found: dict[int, dict[str, State]] = {}
        for manifest in manifests(self.root):
            if manifest.topic in names and (self.partitions is None or manifest.partition in self.partitions):
                state = manifest.load()
                if state.next_offset:
                    found.setdefault(manifest.partition, {})[manifest.topic] = state
        if not found:
            raise ArchiveError(f"{self.root}: holds no market data of these partitions")
        return found

    def total(self) -> int:
        """Return the number of records in the archive that a replay of all of it reads. Raises ArchiveError."""
        return sum(state.rows for states in self._states().values() for state in states.values())

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield what the archive holds, a partition after the other; ``gaps`` too, which no engine reads.

        Raises:
            ArchiveError: it is none, or a file is missing or broken.
        """
        for partition, states in sorted(self._states().items()):
            engine = engine_of(partition)
            readers = {
                topic: PartitionReader(self.root, self.codec, topic, state, TRADE_FIELDS if topic == "agg_trades" else None)
                for topic, state in states.items()
            }
            yield from self._partition(partition, engine, readers)

    def _starts(self, readers: dict[str, PartitionReader]) -> dict[str, int]:
        starts = {topic: reader.first_offset for topic, reader in readers.items()}
        if self.since is not None:
            starts.update(
                {topic: reader.offset_at(self.since) for topic, reader in readers.items() if topic not in ("instruments", "strategies")}
            )
        return starts

    def _partition(self, partition: int, engine: PartitionEngine, readers: dict[str, PartitionReader]) -> Iterator[Piece]:
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
            # What the next mark waits for comes first; when the archive has no more of it, no later mark can be passed.
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


def replay_archive(root: Path, settings: Settings, paper: PaperSettings | None = None, progress: Progress | None = None) -> ReplayReport:
    """Replay everything that an archive holds, and list the differences from the results that are archived beside it.

    Args:
        root: The archive.
        settings: Numbers of the market state and codec; no broker is asked.
        paper: Numbers of the paper model; must be the executor's.
        progress: Called with (partition, topic, records) as records are read.

    Raises:
        ArchiveError: it is none, or a file is missing or broken.
    """
    report = ReplayReport(ResultSet(settings.codec), written=ResultSet(settings.codec))
    assert report.written is not None
    for manifest in manifests(root):
        if manifest.topic in RESULT_TOPICS:
            for _, _, _, value in PartitionReader(root, settings.codec, manifest.topic, manifest.load()).messages():
                report.written.add(manifest.topic, value)

    def take(partition: int, result: Result) -> None:
        report.outputs[result.topic] = report.outputs.get(result.topic, 0) + 1
        report.results.add(result.topic, result.value)

    def hear(piece: Piece) -> None:
        report.inputs[piece.topic] = report.inputs.get(piece.topic, 0) + len(piece.records)
        if progress is not None:
            progress(piece.partition, piece.topic, len(piece.records))

    started = time.perf_counter()
    source = Archive(root, settings.codec, settings.grid_ms, settings.allowed_lateness_ms)
    drive(source, EngineConfig.from_settings(settings), settings.codec, take, paper=paper, hear=hear)
    report.seconds = time.perf_counter() - started
    report.differences = differences(report.written, report.results)
    return report


def _sets(topic: str, reader: PartitionReader, start: int) -> Iterator[RecordSet]:
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


def _synthesised(codec: Codec, readers: dict[str, PartitionReader], starts: dict[str, int], grid_ms: int, lateness_ms: int) -> RecordSet:
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
    steps_of_data = sorted({step for topic, found in ends.items() if topic != "strategies" for step in found})
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


def _authors(codec: Codec, reader: PartitionReader | None) -> tuple[list[tuple[str, str]], int]:
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

"""Write batches of records to the archive: first the files, then the manifest that lists them (DESIGN 4).

What happens at each failure:
    - killed before the manifest is written: its files do not count, and the next owner removes them. The records are read again.
    - killed afterwards: the records are stored once. The next owner continues at the manifest's offset.
    - frozen and resumed: the next owner's first manifest fences it. Its batch is dropped and its offset read again.
    - disk full: no part of the batch remains; the batch is retried.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from schemas import metrics
from schemas.archive import encode, layout
from schemas.archive.manifest import ArchiveError, Fenced, File, Manifest, State
from schemas.archive.read import open_file, read_rows
from schemas.codec.avro import Codec, topic_fingerprint
from sinks.archive.files import write_file
from sinks.consuming.reader import PartitionBatch, Place

# Files of an instrument and day are merged at this number, and again after the day has ended and late records had time to arrive.
MERGE_FILES = 8
DAY_OVER_MS = 10 * 60_000
# Files of this size are not merged.
LARGE_BYTES = 256 * 1024 * 1024
# Merged files stay on disk for readers with an older manifest.
TRASH_SECONDS = 300.0
# Partitions written in parallel. Forcing a file to disk takes milliseconds, and disks handle several at once.
THREADS = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass
class WriteResult:
    """The result of batches: next offsets of the written partitions, and partitions that another archiver took over."""

    written: dict[Place, int] = field(default_factory=dict)
    fenced: list[Place] = field(default_factory=list)
    rows: int = 0


def holes(offsets: Any, expected: int, next_offset: int) -> list[tuple[int, int]]:
    """Return the ranges [first, end) of offsets from ``expected`` to below ``next_offset`` without a record."""
    edges = np.concatenate([[expected - 1], offsets, [next_offset]])
    gaps = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[gap]) + 1, int(edges[gap + 1])) for gap in gaps]


class ArchiveWriter:
    """Writes its claimed partitions.

    Args:
        root: The archive.
        codec: Codec of the environment.
        log: Structured log.
    """

    def __init__(self, root: Path, codec: Codec, log: Any) -> None:
        self._root = root
        self._codec = codec
        self._log = log
        self._states: dict[Place, State] = {}
        self._trash: list[tuple[float, str]] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="archive-files")

    def claim(self, places: Iterable[Place], topic_ids: Mapping[str, str]) -> tuple[dict[Place, int], dict[Place, str]]:
        """Take ownership of partitions, fence former owners, and remove their unlisted files.

        Returns the next offset of each place, and the reason for each place that cannot be written.

        Raises:
            OSError: a manifest cannot be written.
        """
        offsets: dict[Place, int] = {}
        refused: dict[Place, str] = {}
        claimed: dict[str, set[int]] = defaultdict(set)
        wanted = sorted(places)
        for place, found in zip(wanted, self._all(lambda place: self._claim(place, topic_ids[place[0]]), wanted), strict=True):
            if isinstance(found, str):
                refused[place] = found
            else:
                offsets[place] = found
                claimed[place[0]].add(place[1])
        for topic, partitions in claimed.items():
            self._remove_orphans(topic, partitions)
        return offsets, refused

    def _claim(self, place: Place, topic_id: str) -> int | str:
        """Return a place's next offset, or why it cannot be written."""
        topic, partition = place
        manifest = Manifest(self._root, topic, partition)
        while True:
            try:
                state = manifest.load()
            except ArchiveError as error:
                return str(error)
            if state.topic_id and state.topic_id != topic_id:
                return f"{topic} was recreated and its offsets restart; archive it to another folder"
            try:
                self._states[place] = manifest.commit(state, topic_id=topic_id)
            except Fenced:
                continue  # another owner was faster; the next claim fences it
            return state.next_offset

    def _all(self, call: Callable[[_In], _Out], arguments: list[_In]) -> list[_Out]:
        """Call a function for all arguments in parallel, because most time is spent on the disk. Raises the first error."""
        jobs = [self._pool.submit(call, argument) for argument in arguments]
        wait(jobs)
        return [job.result() for job in jobs]

    def _remove_orphans(self, topic: str, partitions: set[int]) -> None:
        """Remove files of claimed partitions that no manifest lists. Former owners are fenced and cannot list them."""
        prefixes = {layout.prefix_of(partition): self._states[topic, partition] for partition in partitions}
        folder = self._root / topic
        for partition in partitions:
            for path in Manifest(self._root, topic, partition).folder.glob(f"*{layout.TEMPORARY}"):
                path.unlink(missing_ok=True)
        for path in [*folder.glob(f"*/*{layout.TEMPORARY}"), *folder.glob("*/*/*.parquet")]:
            state = prefixes.get(path.name.partition("-")[0] + "-")
            if state is not None and path.relative_to(self._root).as_posix() not in state.files:
                path.unlink(missing_ok=True)
                self._log.info("removed unfinished files of an archiver", file=str(path))

    def write(self, batches: list[PartitionBatch]) -> WriteResult:
        """Write batches independently, each of another partition.

        Raises:
            OSError: the disk rejects a write. Earlier batches stay written; the same batches may be passed again.
        """
        outcome = WriteResult()
        for batch, rows in zip(batches, self._all(self._write, batches), strict=True):
            if rows is None:
                outcome.fenced.append(batch.place)
            else:
                outcome.written[batch.place] = batch.next_offset
                outcome.rows += rows
        return outcome

    def _write(self, batch: PartitionBatch) -> int | None:
        """Write a batch; return the number of records, or None if another archiver owns the partition."""
        state = self._states.get(batch.place)
        if state is not None and state.next_offset == batch.next_offset:
            return len(batch.records)  # an earlier attempt got this far
        if state is None or state.next_offset != batch.expected:
            return None
        try:
            return self._write_files(batch, state)
        except Fenced as error:
            self._log.warning("fenced", error=str(error))
            self._states.pop(batch.place, None)
            return None

    def _write_files(self, batch: PartitionBatch, state: State) -> int:
        topic, partition = batch.place
        records = batch.records
        header = self._codec.header(topic)
        files: list[File] = []
        with metrics.ARCHIVE_SECONDS.time():
            try:
                for group in encode.by_folder_and_day(self._codec, topic, records):
                    span = int(group.times.min()), int(group.times.max())
                    files.append(write_file(self._root, topic, partition, header, group.folder, group.day, [group.table], span))
                self._states[batch.place] = Manifest(self._root, topic, partition).commit(
                    state, add=files, next_offset=batch.next_offset, holes=holes(records.offsets, batch.expected, batch.next_offset)
                )
            except BaseException:
                self._undo(batch.place, state, files)
                raise
        metrics.ROWS_ARCHIVED.labels(topic).inc(len(records))
        metrics.BYTES_ARCHIVED.labels(topic).inc(sum(file.bytes for file in files))
        return len(records)

    def _undo(self, place: Place, state: State, files: list[File]) -> None:
        """Remove files that no manifest lists. A manifest may exist although writing it failed (forcing its folder to disk); then its files stay."""
        newest = Manifest(self._root, *place).load()
        for file in files:
            if file.path not in newest.files:
                (self._root / file.path).unlink(missing_ok=True)
        if newest.version != state.version:
            self._states.pop(place, None)

    # --- merging -----------------------------------------------------------------------------------------------------
    def merge(self, place: Place) -> int:
        """Merge a partition's small files of a day if there are many or the day has ended; return the number of merged files.

        Raises:
            ArchiveError: a file does not match its manifest.
            OSError: the disk rejects a write.
        """
        self._empty_trash()
        state = self._states.get(place)
        if state is None or not state.files:
            return 0
        newest = max(file.max_event_time for file in state.files.values())
        days: dict[tuple[str, str, str], list[File]] = defaultdict(list)
        for file in state.files.values():
            # Files of an older schema are not merged, because their columns differ.
            if file.bytes < LARGE_BYTES and file.schema == topic_fingerprint(place[0]).hex():
                days[file.day, file.folder, file.header].append(file)
        added, removed = [], []
        try:
            for (day, folder, header), files in days.items():
                over = day == layout.NO_DAY or newest >= layout.day_start(day) + layout.DAY_MS + DAY_OVER_MS
                if len(files) >= (2 if over else MERGE_FILES):
                    files.sort(key=lambda one: one.first_offset)
                    added.append(self._merged(place, bytes.fromhex(header), folder, day, files))
                    removed += [file.path for file in files]
            if not added:
                return 0
            self._states[place] = Manifest(self._root, *place).commit(state, add=added, remove=removed)
        except BaseException as error:
            self._undo(place, state, added)
            if not isinstance(error, Fenced):
                raise
            self._states.pop(place, None)  # its next batch finds out
            return 0
        self._trash += [(time.monotonic(), path) for path in removed]
        metrics.FILES_MERGED.labels(place[0]).inc(len(removed))
        metrics.BYTES_ARCHIVED.labels(place[0]).inc(sum(file.bytes for file in added))
        return len(removed)

    def _merged(self, place: Place, header: bytes, folder: str, day: str, files: list[File]) -> File:
        topic, partition = place
        span = min(file.min_event_time for file in files), max(file.max_event_time for file in files)
        return write_file(self._root, topic, partition, header, folder, day, self._row_groups(files), span)

    def _row_groups(self, files: list[File]) -> Iterator[pa.Table]:
        for file in files:
            with open_file(self._root, file) as source:
                for group in range(source.num_row_groups):
                    yield read_rows(source, file.path, group, None)

    def close(self) -> None:
        """Remove merged files at once, because no later call would."""
        self._pool.shutdown()
        self._empty_trash(0.0)

    def _empty_trash(self, keep_seconds: float = TRASH_SECONDS) -> None:
        now = time.monotonic()
        while self._trash and now - self._trash[0][0] >= keep_seconds:
            (self._root / self._trash.pop(0)[1]).unlink(missing_ok=True)

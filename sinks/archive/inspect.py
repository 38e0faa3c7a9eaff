"""Inspect an archive: list its content, verify it, and export parts of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from schemas import catalogue
from schemas.archive import decode, layout
from schemas.archive.manifest import ArchiveError, File, State, manifests
from schemas.archive.read import open_file, read_rows
from schemas.codec.avro import fingerprint_of
from sinks.archive.files import ROW_GROUP, sha256_of


@dataclass
class ArchivedSeries:
    """The archived records of one topic and instrument."""

    topic: str
    folder: str
    days: set[str] = field(default_factory=set)
    files: int = 0
    rows: int = 0
    bytes: int = 0
    first_time: int = 0
    last_time: int = 0

    @property
    def bytes_per_row(self) -> float:
        """Bytes on disk for each record."""
        return self.bytes / self.rows if self.rows else 0.0


def states(root: Path) -> Iterator[tuple[str, int, State]]:
    """Yield topic, partition and state of an archive. Raises ArchiveError if the folder is no archive or a manifest is broken."""
    for manifest in manifests(root):
        yield manifest.topic, manifest.partition, manifest.load()


def holdings(root: Path) -> list[ArchivedSeries]:
    """Return the content by topic and instrument. Raises ArchiveError."""
    found: dict[tuple[str, str], ArchivedSeries] = {}
    for topic, _, state in states(root):
        for file in state.files.values():
            one = found.setdefault(
                (topic, file.folder), ArchivedSeries(topic, file.folder, first_time=file.min_event_time, last_time=file.max_event_time)
            )
            one.days.add(file.day)
            one.files += 1
            one.rows += file.rows
            one.bytes += file.bytes
            one.first_time, one.last_time = min(one.first_time, file.min_event_time), max(one.last_time, file.max_event_time)
    return [found[key] for key in sorted(found)]


# --- verifying -----------------------------------------------------------------------------------------------------------
@dataclass
class VerifyResult:
    """The result of a verification.

    Attributes:
        files: Verified files.
        rows: Records in them.
        faults: One line for each fault, beginning with the file or the topic and partition.
        unlisted: Files that no manifest lists, of an archiver that was killed or is about to list them.
    """

    files: int = 0
    rows: int = 0
    faults: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


def verify(root: Path) -> VerifyResult:
    """Check every manifest, checksum, row count, offset and time. Raises ArchiveError if the folder is no archive."""
    verdict = VerifyResult()
    listed: set[str] = set()
    for manifest in manifests(root):
        name = f"{manifest.topic}/{manifest.partition}"
        try:
            state = manifest.load()
        except ArchiveError as error:
            verdict.faults.append(f"{name}: {error}")
            continue
        listed |= set(state.files)
        offsets = []
        sound = True
        for file in state.files.values():
            verdict.files += 1
            try:
                offsets.append(_check_file(root, manifest.topic, manifest.partition, file))
                verdict.rows += file.rows
            except ArchiveError as error:
                verdict.faults.append(str(error))
                sound = False
        if sound:
            verdict.faults += [f"{name}: {fault}" for fault in _check_offsets(state, offsets)]
    there = {path.relative_to(root).as_posix() for path in root.glob("*/*/*/*.parquet")}
    verdict.unlisted = sorted(there - listed)
    return verdict


def _check_file(root: Path, topic: str, partition: int, file: File) -> np.ndarray:
    """Return a file's offsets. Raises ArchiveError that names the fault."""
    path = root / file.path
    if not path.is_file():
        raise ArchiveError(f"{file.path}: the file is missing")
    size = path.stat().st_size
    if size != file.bytes:
        raise ArchiveError(f"{file.path}: {size} bytes instead of {file.bytes}")
    if sha256_of(path) != file.sha256:
        raise ArchiveError(f"{file.path}: the content was altered (sha256 differs)")
    with open_file(root, file) as source:
        origin = decode.Origin.of(source)
        if (origin.topic, origin.partition, origin.folder) != (topic, partition, file.folder):
            raise ArchiveError(f"{file.path}: holds {origin.topic}/{origin.partition} {origin.folder}")
        schema = fingerprint_of(decode.parsed(origin.schema)).hex()
        if schema != file.schema:
            raise ArchiveError(f"{file.path}: schema {schema} instead of {file.schema}")
        groups = [read_rows(source, file.path, group, [layout.OFFSET]) for group in range(source.num_row_groups)]
    offsets: np.ndarray = np.concatenate([group[layout.OFFSET].to_numpy() for group in groups])
    if len(offsets) != file.rows:
        raise ArchiveError(f"{file.path}: {len(offsets)} rows instead of {file.rows}")
    if (np.diff(offsets) <= 0).any() or (int(offsets[0]), int(offsets[-1])) != (file.first_offset, file.last_offset):
        raise ArchiveError(f"{file.path}: offsets are not rising from {file.first_offset} to {file.last_offset}")
    return offsets


def _check_offsets(state: State, parts: list[np.ndarray]) -> Iterator[str]:
    """Yield the faults of a partition's offsets. Each offset must be in exactly one file or in a listed gap."""
    offsets = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
    twice = offsets[1:][np.diff(offsets) == 0]
    if len(twice):
        yield f"{len(twice)} records are in two files, the first at offset {int(twice[0])}"
    holes = np.array(sorted(state.holes), dtype=np.int64).reshape(-1, 2)
    edges = np.concatenate([[-1], np.unique(offsets), [state.next_offset]])
    gaps = np.flatnonzero(np.diff(edges) > 1)
    found = np.stack([edges[gaps] + 1, edges[gaps + 1]], axis=1)
    missing = sorted(set(map(tuple, found.tolist())) - set(map(tuple, _joined_holes(holes).tolist())))
    for first, end in missing:
        yield f"offsets {first} to {end - 1} are missing"
    if len(offsets) and int(offsets[-1]) >= state.next_offset:
        yield f"offset {int(offsets[-1])} is beyond the next offset {state.next_offset}"


def _joined_holes(holes: np.ndarray) -> np.ndarray:
    """Return gaps; adjacent ones are merged."""
    if len(holes) < 2:
        return holes
    starts = np.concatenate([[True], holes[1:, 0] > holes[:-1, 1]])
    ends = np.concatenate([starts[1:], [True]])
    return np.stack([holes[starts, 0], holes[ends, 1]], axis=1)


# --- exporting -----------------------------------------------------------------------------------------------------------
def export(root: Path, topic: str, instrument: str | None, first_ms: int | None, end_ms: int | None, target: Path) -> int:
    """Write the records of a topic as CSV or Parquet, by the target's suffix, in order of event time and offset; return their number.

    Args:
        root: The archive.
        topic: Plain topic name.
        instrument: One instrument; None: all.
        first_ms: First event time, ms.
        end_ms: End of event times (exclusive), ms.
        target: ``*.csv`` or ``*.parquet``. Nested fields are JSON-like text in CSV.

    Raises:
        ArchiveError: no records of that topic or instrument, a broken file, or another suffix.
    """
    if topic not in catalogue.TOPICS:
        raise ArchiveError(f"no topic {topic}; there are {', '.join(catalogue.TOPICS)}")
    if target.suffix not in (".csv", ".parquet"):
        raise ArchiveError(f"{target}: ends neither with .csv nor with .parquet")
    files = [
        file
        for name, _, state in states(root)
        if name == topic
        for file in state.files.values()
        if instrument is None or not layout.by_instrument(topic) or file.folder == instrument
    ]
    if not files:
        raise ArchiveError(f"{root}: nothing of {topic}{f' of {instrument}' if instrument else ''}")
    files = [
        file for file in files if (end_ms is None or file.min_event_time < end_ms) and (first_ms is None or file.max_event_time >= first_ms)
    ]
    fields = [field for field in layout.arrow_schema(topic) if field.name not in (layout.TIMESTAMP, layout.KEY, layout.STATE, layout.RAW)]
    schema = pa.schema(fields)
    if target.suffix == ".csv":
        schema = pa.schema(
            [pa.field(one.name, pa.string()) if pa.types.is_nested(one.type) or pa.types.is_binary(one.type) else one for one in fields]
        )
    temporary = target.with_name(target.name + layout.TEMPORARY)
    rows = 0
    try:
        writer = (
            pq.ParquetWriter(temporary, schema, compression="zstd")
            if target.suffix == ".parquet"
            else pyarrow.csv.CSVWriter(temporary, schema)
        )
        with writer:
            for file in sorted(files, key=lambda one: (one.min_event_time, one.path)):
                for table in _chosen(root, file, topic, instrument, first_ms, end_ms):
                    rows += len(table)
                    writer.write_table(_as(table, schema), ROW_GROUP)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _chosen(root: Path, file: File, topic: str, instrument: str | None, first_ms: int | None, end_ms: int | None) -> Iterator[pa.Table]:
    with open_file(root, file) as source:
        for group in range(source.num_row_groups):
            table = read_rows(source, file.path, group, None)
            use = pc.less_equal(table[layout.STATE], layout.KEPT)
            times = table["event_time"].cast(pa.int64())
            if first_ms is not None:
                use = pc.and_(use, pc.greater_equal(times, first_ms))
            if end_ms is not None:
                use = pc.and_(use, pc.less(times, end_ms))
            if instrument is not None and not layout.by_instrument(topic) and "instrument" in table.schema.names:
                use = pc.and_(use, pc.equal(table["instrument"], instrument))
            table = table.filter(use)
            if len(table):
                yield table


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Convert a table to a schema: missing fields are null, nested fields become text where the schema has text."""
    columns = []
    for one in schema:
        if one.name not in table.schema.names:
            columns.append(pa.nulls(len(table), one.type))
            continue
        column = table[one.name]
        if column.type != one.type:
            texts = [
                None if value is None else value.hex() if isinstance(value, bytes) else repr(value)
                for value in column.to_pylist(maps_as_pydicts="strict")
            ]
            column = pa.chunked_array([pa.array(texts, pa.string())])
        columns.append(column)
    return pa.table(columns, schema=schema)


def listed_files(root: Path) -> dict[str, list[Path]]:
    """Return the paths of all listed files by topic, for other tools. Raises ArchiveError."""
    found: dict[str, list[Path]] = defaultdict(list)
    for topic, _, state in states(root):
        found[topic] += [root / path for path in sorted(state.files)]
    return found

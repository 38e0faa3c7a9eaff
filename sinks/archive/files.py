"""Write archive files: under a temporary name, forced to disk, hashed and renamed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.archive import layout
from schemas.archive.manifest import File, make_folder, sync_folder
from schemas.codec.avro import topic_fingerprint

# Replay keeps one row group of each instrument in memory. Statistics of each group let readers skip it.
ROW_GROUP = 65_536
ZSTD_LEVEL = 3
_HASH_BLOCK = 1 << 20


def _encodings(schema: pa.Schema) -> tuple[list[str], dict[str, str]]:
    """Return the dictionary-encoded columns and the encodings of the others; increasing numbers are delta-encoded."""
    deltas = {field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_int64(field.type) or pa.types.is_timestamp(field.type)}
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    return [name for name in schema.names if name not in deltas and name not in nested], deltas


def sha256_of(path: Path) -> str:
    """Return a file's sha256, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of whole row groups; the last one has the remainder."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= ROW_GROUP:
            whole = pa.concat_tables(waiting)
            rows %= ROW_GROUP
            yield whole.slice(0, len(whole) - rows)
            waiting = [whole.slice(len(whole) - rows)] if rows else []
    if waiting:
        yield pa.concat_tables(waiting)


def write_file(
    root: Path, topic: str, partition: int, header: bytes, folder: str, day: str, tables: Iterable[pa.Table], span: tuple[int, int]
) -> File:
    """Write records in order of offset as one file; return its manifest entry. The file counts once a manifest lists it.

    Args:
        root: The archive.
        topic: Plain topic name.
        partition: Kafka partition.
        header: Frame header of the topic's values.
        folder: Plain folder name.
        day: UTC day.
        tables: The records.
        span: Least and greatest event time, ms.

    Raises:
        OSError: the disk rejects it; no part of the file remains.
    """
    schema = layout.arrow_schema(topic)
    dictionary, deltas = _encodings(schema)
    rows = first = last = 0
    target: Path | None = None
    temporary = root / topic / day / f"{layout.prefix_of(partition)}{uuid.uuid4().hex}{layout.TEMPORARY}"
    make_folder(temporary.parent)
    try:
        with temporary.open("wb") as sink:
            writer = pq.ParquetWriter(
                sink,
                schema.with_metadata(layout.file_metadata(topic, partition, folder, header)),
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                use_dictionary=dictionary,
                column_encoding=deltas,
                write_statistics=True,
            )
            try:
                for table in _row_groups(tables):
                    offsets = table[layout.OFFSET]
                    if not rows:
                        first = offsets[0].as_py()
                    last = offsets[-1].as_py()
                    rows += len(table)
                    writer.write_table(table, row_group_size=ROW_GROUP)
            finally:
                writer.close()
            sink.flush()
            os.fsync(sink.fileno())
        digest, size = sha256_of(temporary), temporary.stat().st_size
        path = layout.path_of(topic, day, folder, partition, first, uuid.uuid4().hex[:8])
        target = root / path
        make_folder(target.parent)
        temporary.rename(target)
        sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return File(path, folder, day, rows, size, first, last, *span, digest, topic_fingerprint(topic).hex(), header.hex())

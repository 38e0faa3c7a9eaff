"""Place and form of an archived record: paths, days, Arrow schemas, file metadata."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from schemas import catalogue
from schemas.codec.avro import plain_timestamps

DAY_MS = 86_400_000
MANIFEST = "_manifest"
TEMPORARY = ".tmp"
# Folder for topics without instrument keys, and for keys that name no instrument.
ALL, OTHER = "all", "other"
# Day of times outside the calendar.
NO_DAY = "0000-00-00"
EXACT, KEPT, UNDECODABLE, EMPTY = range(4)  # column _state
OFFSET, TIMESTAMP, KEY, STATE, RAW = OWN_COLUMNS = ("_offset", "_timestamp", "_key", "_state", "_raw")
# File metadata (Parquet key-value pairs).
META_TOPIC, META_PARTITION, META_FOLDER = b"perpflow.topic", b"perpflow.partition", b"perpflow.folder"
META_HEADER, META_SCHEMA = b"perpflow.header", b"perpflow.avro"

_INSTRUMENT = re.compile(r"[A-Z0-9_]{1,32}:[\w.\-]{1,64}", re.ASCII)
_FIRST_MS, _LAST_MS = 0, int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 1000


def by_instrument(topic: str) -> bool:
    """Return whether a topic's records have one folder an instrument."""
    return catalogue.TOPICS[topic].key == "instrument"


def folder_of(topic: str, key: bytes | None) -> str:
    """Return the plain folder name of a key: the instrument, ``all`` or ``other``."""
    if not by_instrument(topic):
        return ALL
    text = (key or b"").decode("utf-8", "replace")
    return text if _INSTRUMENT.fullmatch(text) else OTHER


def day_of(time_ms: int) -> str:
    """Return the UTC day of a time as in ``2024-08-08``."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d") if _FIRST_MS <= time_ms < _LAST_MS else NO_DAY


def day_start(day: str) -> int:
    """Return the first millisecond of a UTC day. Raises ValueError if the text is no day."""
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000


def prefix_of(partition: int) -> str:
    """Return the common begin of the names of a partition's files."""
    return f"p{partition:02d}-"


def path_of(topic: str, day: str, folder: str, partition: int, first_offset: int, unique: str) -> str:
    """Return a file's path within the archive. ``unique`` distinguishes files of several writers with the same records."""
    return f"{topic}/{day}/{quote(folder, safe='')}/{prefix_of(partition)}{first_offset:020d}-{unique}.parquet"


def arrow_type(kind: Any) -> pa.DataType:
    """Return the Arrow type of an Avro type. Integers have 64 bits, times are milliseconds UTC.

    Raises:
        TypeError: no field of the catalogue has such a type.
    """
    if isinstance(kind, list):
        (kind,) = [part for part in kind if part != "null"]
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-millis":
            return pa.timestamp("ms", tz="UTC")
        if kind["type"] == "array":
            return pa.list_(arrow_type(kind["items"]))
        if kind["type"] == "map":
            return pa.map_(pa.string(), arrow_type(kind["values"]))
        if kind["type"] == "record":
            return pa.struct([pa.field(field["name"], arrow_type(field["type"])) for field in kind["fields"]])
        kind = kind["type"]
    plain = {
        "long": pa.int64(),
        "int": pa.int64(),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "bytes": pa.binary(),
    }
    if kind not in plain:
        raise TypeError(f"Avro type {kind!r} has no form in the archive")
    return plain[kind]


@cache
def arrow_schema(topic: str) -> pa.Schema:
    """Return the Arrow schema of a topic's files, without metadata."""
    fields = [pa.field(field["name"], arrow_type(field["type"])) for field in catalogue.schema(topic)["fields"]]
    own = [(OFFSET, pa.int64()), (TIMESTAMP, pa.timestamp("ms", tz="UTC")), (KEY, pa.binary()), (STATE, pa.int8()), (RAW, pa.binary())]
    return pa.schema([*fields, *(pa.field(name, kind) for name, kind in own)])


def file_metadata(topic: str, partition: int, folder: str, header: bytes) -> dict[bytes, bytes]:
    """Return a file's metadata. With it the bytes of its records can be encoded again, whatever the schema of this release."""
    schema = json.dumps(plain_timestamps(catalogue.schema(topic)), separators=(",", ":")).encode()
    return {
        META_TOPIC: topic.encode(),
        META_PARTITION: str(partition).encode(),
        META_FOLDER: folder.encode(),
        META_HEADER: header.hex().encode(),
        META_SCHEMA: schema,
    }

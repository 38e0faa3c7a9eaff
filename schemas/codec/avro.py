"""Avro values on the wire (DESIGN 2).

Without a schema registry a value is Avro single-object encoding: ``C3 01``, the little-endian CRC-64-AVRO fingerprint of the writer's
schema, then the Avro body. It needs no server. With SCHEMA_REGISTRY_URL it is the Confluent frame: ``00``, the big-endian schema id, then
the body. Readers accept both, and resolve to the schema of this release by Avro's rules.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import fastavro
import numpy
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from schemas import catalogue
from schemas.codec.recordwriter import compiled

SINGLE_OBJECT_MAGIC = b"\xc3\x01"
SINGLE_OBJECT_HEADER = 10
CONFLUENT_MAGIC = b"\x00"
CONFLUENT_HEADER = 5

Record = dict[str, Any]


class CodecError(ValueError):
    """A value that cannot be decoded, or a record that does not fit its schema.

    Attributes:
        topic: The topic.
        field: The field at fault, if known.
    """

    def __init__(self, topic: str, reason: str, field: str | None = None) -> None:
        super().__init__(f"{topic}{'.' + field if field else ''}: {reason}")
        self.topic = topic
        self.field = field
        self.reason = reason


def plain_timestamps(kind: Any) -> Any:
    """Return a schema without logical types, so that times stay integer milliseconds and never become datetimes."""
    if isinstance(kind, dict):
        return {key: plain_timestamps(value) for key, value in kind.items() if key not in ("logicalType", "doc")}
    if isinstance(kind, list):
        return [plain_timestamps(part) for part in kind]
    return kind


@cache
def parsed(topic: str) -> Any:
    """Return the topic's schema parsed for fastavro, times as integer milliseconds."""
    return parse_schema(plain_timestamps(catalogue.schema(topic)))


def fingerprint_of(schema: dict[str, Any]) -> bytes:
    """Return the 8-byte CRC-64-AVRO fingerprint of a schema's canonical form, as on the wire (little-endian)."""
    canonical = to_parsing_canonical_form(plain_timestamps(schema))
    digest: str = fingerprint(canonical, "CRC-64-AVRO")
    return bytes.fromhex(digest)


@cache
def topic_fingerprint(topic: str) -> bytes:
    """Return the wire fingerprint of a topic's current schema."""
    return fingerprint_of(catalogue.schema(topic))


class Registry:
    """A Confluent schema registry, asked once per schema and id. A thin layer over confluent-kafka's client."""

    def __init__(self, url: str, prefix: str = "") -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self._client = SchemaRegistryClient({"url": url})
        self._prefix = prefix
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, Any] = {}

    def id_of(self, topic: str) -> int:
        """Return the id of the topic's current schema. A new schema is registered under ``<topic>-value``."""
        from confluent_kafka.schema_registry import Schema

        if topic not in self._ids:
            subject = f"{self._prefix}{topic}-value"
            self._ids[topic] = self._client.register_schema(subject, Schema(catalogue.schema_text(topic), "AVRO"))
        return self._ids[topic]

    def schema_of(self, schema_id: int) -> Any:
        """Return the parsed writer schema of an id. Raises the client's error if the registry does not know it."""
        if schema_id not in self._schemas:
            text = self._client.get_schema(schema_id).schema_str
            self._schemas[schema_id] = parse_schema(plain_timestamps(json.loads(text or "null")))
        return self._schemas[schema_id]


class Codec:
    """Encodes and decodes the records of all topics.

    Args:
        registry: A schema registry, or None for single-object encoding.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry
        self._headers: dict[str, bytes] = {}
        self._encoders: dict[str, Callable[[Record], bytes]] = {}
        self._writers: dict[tuple[str, bytes], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the encoders: they are generated functions, and another process generates them again."""
        return {**self.__dict__, "_encoders": {}}

    def header(self, topic: str) -> bytes:
        """Return the frame header of a topic's values."""
        header = self._headers.get(topic)
        if header is None:
            if self.registry is not None:
                header = CONFLUENT_MAGIC + self.registry.id_of(topic).to_bytes(4, "big")
            else:
                header = SINGLE_OBJECT_MAGIC + topic_fingerprint(topic)
            self._headers[topic] = header
        return header

    def encoder(self, topic: str) -> Callable[[Record], bytes]:
        """Return a function that encodes one record of a topic. It raises CodecError naming the field."""
        encode = self._encoders.get(topic)
        if encode is None:
            encode = self._encoders[topic] = self._new_encoder(topic)
        return encode

    def _new_encoder(self, topic: str) -> Callable[[Record], bytes]:
        header, schema = self.header(topic), parsed(topic)
        write = fastavro.schemaless_writer
        fast = compiled(plain_timestamps(catalogue.schema(topic)), header)
        flags = _flags(catalogue.schema(topic))

        def encode(record: Record) -> bytes:
            if fast is not None:
                try:
                    return fast(record)
                except (ValueError, TypeError, KeyError, OverflowError, AttributeError, struct.error):
                    pass  # fastavro decides whether it can be written, and names the fault
            out = io.BytesIO()
            out.write(header)
            try:
                for name, within, default in flags:
                    for held in record[within] if within else (record,):
                        if not isinstance(held.get(name, default), (bool, numpy.bool_)):
                            raise CodecError(topic, f"{held.get(name, default)!r} is neither true nor false", name)
                write(out, schema, record)
            except CodecError:
                raise
            except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
                raise CodecError(topic, f"{type(error).__name__}: {error}", _bad_field(topic, record)) from error
            return out.getvalue()

        return encode

    def encode(self, topic: str, record: Record) -> bytes:
        """Encode one record. Raises CodecError naming the field that does not fit."""
        return self.encoder(topic)(record)

    def decode(self, topic: str, value: bytes | None) -> Record:
        """Decode a value in either frame, resolved to the topic's current schema. Times are integer milliseconds.

        Raises:
            CodecError: no value, unknown frame, unknown fingerprint or id, or a body that does not fit.
        """
        if not value:
            raise CodecError(topic, "no value")
        if value[:2] == SINGLE_OBJECT_MAGIC and len(value) >= SINGLE_OBJECT_HEADER:
            writer, start = self._writer_by_fingerprint(topic, value[2:SINGLE_OBJECT_HEADER]), SINGLE_OBJECT_HEADER
        elif value[:1] == CONFLUENT_MAGIC and len(value) >= CONFLUENT_HEADER:
            if self.registry is None:
                raise CodecError(topic, "Confluent frame, but SCHEMA_REGISTRY_URL is not set")
            schema_id = int.from_bytes(value[1:CONFLUENT_HEADER], "big")
            try:
                writer, start = self.registry.schema_of(schema_id), CONFLUENT_HEADER
            except Exception as error:
                raise CodecError(topic, f"schema id {schema_id}: {error}") from error
        else:
            raise CodecError(topic, f"unknown frame (first bytes {value[:4].hex()})")
        body = io.BytesIO(value)
        body.seek(start)
        reader = parsed(topic)
        try:
            record: Record = fastavro.schemaless_reader(body, writer, None if writer is reader else reader)  # type: ignore[assignment,call-arg,arg-type]
        except Exception as error:
            raise CodecError(topic, f"body does not fit its schema: {type(error).__name__}: {error}") from error
        if body.tell() != len(value):
            raise CodecError(topic, f"{len(value) - body.tell()} bytes left after the record")
        return record

    def _writer_by_fingerprint(self, topic: str, fingerprint_bytes: bytes) -> Any:
        if fingerprint_bytes == topic_fingerprint(topic):
            return parsed(topic)
        known = self._writers.get((topic, fingerprint_bytes))
        if known is None:
            known = earlier_schemas(topic).get(fingerprint_bytes)
            if known is None:
                raise CodecError(topic, f"unknown schema fingerprint {fingerprint_bytes.hex()}")
            self._writers[topic, fingerprint_bytes] = known
        return known


@cache
def earlier_schemas(topic: str) -> dict[bytes, Any]:
    """Return the earlier released schemas of a topic by fingerprint: ``avro/earlier/<topic>.<n>.avsc``."""
    from importlib import resources

    found: dict[bytes, Any] = {}
    folder = resources.files("schemas").joinpath("avro", "earlier")
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.name.startswith(f"{topic}."):
                schema = json.loads(entry.read_text(encoding="utf-8"))
                found[fingerprint_of(schema)] = parse_schema(plain_timestamps(schema))
    return found


def _flags(schema: dict[str, Any]) -> list[tuple[str, str | None, bool | None]]:
    """Return the booleans of a schema: name, the array of records that contains it (None: the record itself), and default.

    They are checked before fastavro writes them. fastavro writes a missing value or a text by its truth value in Python, and an unknown
    aggressor must not become a buyer.
    """
    found: list[tuple[str, str | None, bool | None]] = []
    for field in schema["fields"]:
        kind = field["type"]
        if kind == "boolean":
            found.append((field["name"], None, field.get("default")))
        elif isinstance(kind, dict) and isinstance(kind.get("items"), dict) and "fields" in kind["items"]:
            found += [(name, field["name"], default) for name, _, default in _flags(kind["items"])]
    return found


def _bad_field(topic: str, record: Record) -> str | None:
    """Return the first field of a record that does not fit its schema, by encoding field by field."""
    for field in catalogue.schema(topic)["fields"]:
        name = field["name"]
        if name not in record and "default" not in field:
            return str(name)
        one = parse_schema(plain_timestamps({"type": "record", "name": "One", "fields": [field]}))
        try:
            fastavro.schemaless_writer(io.BytesIO(), one, {name: record.get(name, field.get("default"))})
        except Exception:  # any failure shows that this is the field
            return str(name)
    return None

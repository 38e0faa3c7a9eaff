"""Records of topics as JSON: models for the OpenAPI document and rows of the database in that form. Both come from the Avro schemas.

A time is written twice: as ISO 8601 UTC under its name, and as ms since 1970 under its name with ``_ms``.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import BaseModel, Field, create_model

from schemas import catalogue

_SIMPLE: dict[str, Any] = {
    "string": str,
    "double": float,
    "float": float,
    "int": int,
    "long": int,
    "boolean": bool,
    "bytes": str,
    "enum": str,
}


class RecordPage(BaseModel):
    """One page of a list, newest first."""

    next: str | None = Field(description="Cursor of the next page; null: this is the last page")


def iso(at: datetime) -> str:
    """Return a time as ISO 8601 UTC with milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a database row as JSON values: times twice, bytes as hexadecimal text, no NaN or infinity, no place in Kafka."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("kafka_partition", "kafka_offset"):
            continue
        if isinstance(value, datetime):
            found[name] = iso(value)
            found[f"{name}_ms"] = int(value.timestamp() * 1000)
        elif isinstance(value, float):
            found[name] = value if math.isfinite(value) else None
        elif isinstance(value, bytes):
            found[name] = value.hex()
        else:
            found[name] = value
            if value is None and name.endswith(("_time", "_at")):
                found[f"{name}_ms"] = None
    return found


@cache
def model_of(topic: str) -> type[BaseModel]:
    """Return the model of a topic's records, with the documentation of its Avro schema."""
    schema = catalogue.schema(topic)
    fields: dict[str, Any] = {}
    for field in schema["fields"]:
        kind, doc = _kind(field["type"]), field.get("doc", "")
        fields[field["name"]] = (kind, Field(description=doc))
        if _is_time(field["type"]):
            number: Any = int | None if _is_optional(field["type"]) else int
            fields[f"{field['name']}_ms"] = (number, Field(description=f"{field['name']} in ms since 1970, UTC"))
    return create_model(schema["name"], __doc__=schema["doc"], **fields)


@cache
def page_of(topic: str) -> type[BaseModel]:
    """Return the model of a page of a topic's records."""
    record = model_of(topic)
    return create_model(
        f"{record.__name__}Page",
        __base__=RecordPage,
        records=(list[record], Field(description="The records, newest first")),  # type: ignore[valid-type]
    )


def _is_optional(kind: Any) -> bool:
    return isinstance(kind, list) and "null" in kind


def _is_time(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_time(part) for part in kind)
    return isinstance(kind, dict) and kind.get("logicalType", "").startswith("timestamp")


def _kind(kind: Any) -> Any:
    if isinstance(kind, list):
        (one,) = [part for part in kind if part != "null"]
        return _kind(one) | None
    if isinstance(kind, dict):
        if _is_time(kind):
            return datetime
        if kind["type"] == "array":
            return list[_kind(kind["items"])]  # type: ignore[misc]
        if kind["type"] == "map":
            return dict[str, _kind(kind["values"])]  # type: ignore[misc]
        if kind["type"] == "record":
            return dict[str, Any]
        return _kind(kind["type"])
    return _SIMPLE.get(kind, Any)

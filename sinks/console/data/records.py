"""Records of topics as JSON: models for the OpenAPI document, and rows of the database and decoded records in that form. All come from the Avro schemas.

A time is written twice: as ISO 8601 UTC under its name, and as ms since 1970 under its name with ``_ms``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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


_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
# What a browser does not need: the guard's memory.
_HIDDEN = {"risk_state": {"memory"}}


def ms_of(at: datetime) -> int:
    """Return a time in whole ms since 1970, exact (a float of seconds is not)."""
    return (at - _EPOCH) // _MILLISECOND


def iso(at: datetime | int) -> str:
    """Return a time, or ms since 1970, as ISO 8601 UTC with milliseconds. A number that no calendar has is written as it is."""
    if isinstance(at, datetime):
        return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
    try:
        return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"
    except (OverflowError, OSError, ValueError):
        return str(at)


def times(**at: datetime | int | None) -> dict[str, Any]:
    """Return each time (or ms since 1970) twice: under its name as ISO 8601 UTC, and in ms since 1970 under its name with ``_ms``."""
    found: dict[str, Any] = {}
    for name, value in at.items():
        found[name] = None if value is None else iso(value)
        found[f"{name}_ms"] = ms_of(value) if isinstance(value, datetime) else value
    return found


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a database row as JSON values: times twice, bytes as hexadecimal text, no NaN or infinity, no place in Kafka."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("kafka_partition", "kafka_offset"):
            continue
        if isinstance(value, datetime):
            found |= times(**{name: value})
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
def rendering(topic: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that gives a decoded record's JSON form: the fields of the schema, and each time twice."""
    stamps = tuple(field["name"] for field in catalogue.schema(topic)["fields"] if _is_time(field["type"]))
    hidden: set[str] = _HIDDEN.get(topic, set())

    def rendered(record: dict[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in record.items() if name not in hidden}
        found |= times(**{name: record[name] for name in stamps})
        if "reasons" in found:  # of the risk guard: each has its own times
            found["reasons"] = [{**reason, **times(since=reason["since"], until=reason["until"])} for reason in found["reasons"] or ()]
        return found

    return rendered


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

"""What endpoints share in the OpenAPI document: times, and the problems that an endpoint answers with."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import Field

from sinks.console.data.records import iso
from sinks.console.http.problems import MEDIA_TYPE, ProblemDetails

Iso = Annotated[str, Field(description="ISO 8601, UTC", examples=["2026-11-24T20:00:00.000Z"])]
Ms = Annotated[int, Field(description="The same time in ms since 1970")]


def times(**at: datetime | None) -> dict[str, Any]:
    """Return each time twice, as the API writes it: under its name as ISO 8601 UTC, and in ms since 1970 under its name with ``_ms``."""
    found: dict[str, Any] = {}
    for name, value in at.items():
        found[name] = iso(value) if value is not None else None
        found[f"{name}_ms"] = int(value.timestamp() * 1000) if value is not None else None
    return found


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of an endpoint: problem details for these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}}},
            "model": ProblemDetails,
        }
        for status in statuses
    }

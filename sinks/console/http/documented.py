"""What endpoints share in the OpenAPI document: the two forms of a time, and the problems that an endpoint answers with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from pydantic import Field

from sinks.console.http.problems import MEDIA_TYPE, ProblemDetails

Iso = Annotated[str, Field(description="ISO 8601, UTC", examples=["2026-11-24T20:00:00.000Z"])]
Ms = Annotated[int, Field(description="The same time in ms since 1970")]


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

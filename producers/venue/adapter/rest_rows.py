"""Rows of REST responses about the whole market. A bad row is skipped and logged; the others are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import structlog

from producers.venue.adapter.base import MappingError

T = TypeVar("T")


def valid_rows(venue: str, what: str, rows: Iterable[Any], read: Callable[[Any], T | None]) -> list[T]:
    """Return the result of ``read`` for each row. Rows with the result None are skipped; refused rows are logged."""
    found = []
    for row in rows:
        try:
            made = read(row)
        except MappingError as error:
            structlog.get_logger().warning("row passed over", venue=venue, answer=what, field=error.field, error=str(error)[:300])
            continue
        if made is not None:
            found.append(made)
    return found

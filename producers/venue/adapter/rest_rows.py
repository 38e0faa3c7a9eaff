"""Rows of REST answers that are about the whole market: a bad one is passed over and logged, and costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import structlog

from producers.venue.adapter.base import MappingError

T = TypeVar("T")


def valid_rows(venue: str, what: str, rows: Iterable[Any], read: Callable[[Any], T | None]) -> list[T]:
    """Return what ``read`` makes of each row; rows for which it returns None are of no interest, those that it refuses are logged."""
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

"""Cursors of lists: the place of the last row of a page, as text that only the server reads."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from sinks.console.data.records import ms_of
from sinks.console.http.problems import Problem

# Event time (ms), partition, offset: the order of every list. A record's place in Kafka makes the order total.
Place = tuple[datetime, int, int]


def encode(row: dict[str, Any]) -> str:
    """Return the cursor after ``row``, a row of a topic's table."""
    place = [ms_of(row["event_time"]), row["kafka_partition"], row["kafka_offset"]]
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(text: str) -> Place:
    """Return the place that ``encode`` wrote. Raises Problem (422) for anything else."""
    try:
        ms, partition, offset = (int(part) for part in json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
        if not (0 <= partition < 2**31 and 0 <= offset < 2**63):
            raise ValueError(text)
        return datetime.fromtimestamp(ms / 1000, UTC), partition, offset
    except (ValueError, TypeError, OverflowError, OSError, binascii.Error) as error:
        reason = "not a cursor of this API: use the value of `next` of the page before"
        raise Problem(422, f"query.cursor: {reason}", errors={"query.cursor": reason}) from error

"""Makes dead letters: the bytes, their origin, the field and the reason. One metric counts them."""

from __future__ import annotations

import time

from schemas import metrics
from schemas.codec.avro import Record


def dead_letter(
    service: str,
    source: str,
    reason: str,
    *,
    event_time: int | None = None,
    partition: int | None = None,
    offset: int | None = None,
    instrument: str | None = None,
    field: str | None = None,
    key: bytes | None = None,
    value: bytes | None = None,
) -> Record:
    """Return a ``dead_letters`` record and count it. ``event_time`` is the refused record's timestamp in ms, or now if it has none."""
    now = int(time.time() * 1000)
    metrics.DEAD_LETTERS.labels(service, source).inc()
    return {
        "event_time": now if event_time is None or event_time < 0 else event_time,
        "receive_time": now,
        "service": service,
        "source": source,
        "source_partition": partition,
        "source_offset": offset,
        "instrument": instrument,
        "field": field,
        "reason": reason,
        "key": key,
        "value": value,
    }

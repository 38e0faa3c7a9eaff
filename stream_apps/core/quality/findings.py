"""The records of the monitor: findings and scores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from schemas.codec.key_table import KeyTable
from schemas.codec.markreader import Mark
from stream_apps.core.quality.columns import UNDECODABLE
from stream_apps.core.quality.memory import Memory
from stream_apps.core.quality.rules import ERROR, INFO, KINDS, NUMBER, WARNING

Record = dict[str, Any]
NO_NUMBER = math.nan


class QualityRecord(NamedTuple):
    """A ``data_quality`` record to write, and the offset of the mark that produced it."""

    mark: int
    record: Record


class Findings:
    """Collects the records of one call.

    Args:
        keys: Instruments by number.
        memories: Stream -> its memory.

    Attributes:
        records: The records so far, in order.
    """

    def __init__(self, keys: KeyTable, memories: dict[str, Memory]) -> None:
        self.records: list[QualityRecord] = []
        self._keys = keys
        self._memories = memories

    def write(self, stream: str, memory: Memory, n: int, mark: Mark, reasons: dict[int, str]) -> None:
        """Write the first ``n`` findings of a memory. ``reasons``: offset -> why the record cannot be decoded."""
        for at in range(n):
            kind, i, offset, time = (int(value) for value in memory.found[at])
            value, limit = (float(number) for number in memory.numbers[at])
            self._emit_finding(
                i, stream, KINDS[kind].name, time, value, limit, mark, offset, reasons.get(offset) if kind == UNDECODABLE else None
            )

    def find(
        self, i: int, stream: str, kind: str, time: int, value: float, limit: float, mark: Mark, offset: int | None, detail: str | None
    ) -> None:
        """Count and write a finding that no kernel counted."""
        self._memories[stream].counts[i, NUMBER[kind]] += 1
        self._emit_finding(i, stream, kind, time, value, limit, mark, offset, detail)

    def _emit_finding(
        self, i: int, stream: str, kind: str, time: int, value: float, limit: float, mark: Mark, offset: int | None, detail: str | None
    ) -> None:
        severity = KINDS[NUMBER[kind]].severity
        self.emit(self._keys.keys[i], stream, kind, time, mark, severity, value=value, limit=limit, offset=offset, detail=detail)

    def emit(self, name: str, stream: str, kind: str, time: int, mark: Mark, severity: str, *, value: float = NO_NUMBER, limit: float = NO_NUMBER,
              offset: int | None = None, detail: str | None = None, score: float | None = None, deductions: dict[str, float] | None = None,
              findings: dict[str, int] | None = None, records: int | None = None, rate: float | None = None, age_ms: int | None = None) -> None:  # fmt: skip
        """Append a record: a finding, or the score of a stream."""
        record = {
            "quality_id": f"{name}|{stream}|{kind}|{time}|{'' if offset is None else offset}|{'' if detail is None or offset is not None else detail}",
            "instrument": name,
            "event_time": time,
            "receive_time": mark.time,
            "stream": stream,
            "kind": kind,
            "severity": severity,
            "value": None if math.isnan(value) else value,
            "limit_value": None if math.isnan(limit) else limit,
            "source_offset": offset,
            "detail": detail,
            "score": score,
            "deductions": deductions or {},
            "findings": findings or {},
            "records": records,
            "rate": rate,
            "age_ms": age_ms,
        }
        self.records.append(QualityRecord(mark.offset, record))


def worst(deductions: dict[str, float]) -> str:
    """Return the severity of a score: error from 3 points off, warning below 10."""
    lost = sum(deductions.values())
    return ERROR if lost >= 3.0 else WARNING if lost > 0 else INFO


def age_text(age_ms: int) -> str:
    """Return a silence as text."""
    return f"nothing for {age_ms / 1000:.1f} s"

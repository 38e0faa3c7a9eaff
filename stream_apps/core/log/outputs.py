"""Records that an engine writes, dead letters among them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec
from schemas.codec.markreader import Mark
from schemas.codec.recordset import RecordSet


class OutputRecord(NamedTuple):
    """A record to be written to the same partition of ``topic`` (dead_letters: partition 0).

    A value of the engine's progress topic lacks its last field, which only the writer knows (``steps.completed``).
    """

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int


def records_of(topic: str, keys: Iterable[bytes], values: Iterable[bytes], times: npt.NDArray[np.int64]) -> list[OutputRecord]:
    """Return records of a topic. There are millions of them, so the interpreter runs no line for each."""
    return list(map(partial(tuple.__new__, OutputRecord), zip(repeat(topic), keys, values, times.tolist(), strict=False)))


class DeadLetters:
    """Makes dead letters. Their times are the record's and the mark's, because a core reads no clock.

    Args:
        partition: Kafka partition of the engine.
        codec: Codec of the environment.
    """

    SERVICE = "worker"

    def __init__(self, partition: int, codec: Codec) -> None:
        self._partition = partition
        self._encode = codec.encoder("dead_letters")

    def of_record(self, topic: str, records: RecordSet, row: int, field: str | None, reason: str, now: int | None) -> OutputRecord:
        """Return the dead letter of a row; ``now`` is the mark's time, None where the record is a mark itself."""
        time = max(int(records.index[row, 1]), 0)
        key = records.key(row)
        instrument = key.decode("utf-8", "replace") if key else None
        received = time if now is None else now
        return self._make(topic, int(records.index[row, 0]), time, received, instrument, field, reason, key, records.value(row))

    def of_mark(self, mark: Mark, previous: int, reason: str) -> OutputRecord:
        """Return the dead letter of a mark with an impossible time; ``previous`` is the time of its author's last mark."""
        return self._make("progress", mark.offset, previous, previous, None, "event_time", reason, mark.author.encode(), None)

    def _make(
        self,
        topic: str,
        offset: int,
        event_time: int,
        receive_time: int,
        instrument: str | None,
        field: str | None,
        reason: str,
        key: bytes | None,
        value: bytes | None,
    ) -> OutputRecord:
        record = {
            "event_time": event_time,
            "receive_time": receive_time,
            "service": self.SERVICE,
            "source": topic,
            "source_partition": self._partition,
            "source_offset": offset,
            "instrument": instrument,
            "field": field,
            "reason": reason,
            "key": key,
            "value": value,
        }
        return OutputRecord("dead_letters", topic.encode(), self._encode(record), event_time)

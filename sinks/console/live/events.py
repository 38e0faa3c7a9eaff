"""Records that all count, as messages of the event channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import RecordSet
from sinks.console.data.records import rendering
from sinks.console.live.channels import KINDS, covering
from sinks.console.live.market import Refuse
from sinks.console.live.messages import dumped
from sinks.console.live.states import Records

# Topic -> event channel.
CHANNEL = {topic: name for name, kind in KINDS.items() if kind.event for topic in kind.topics}


@dataclass(frozen=True, slots=True)
class Event:
    """One message of an event channel, without the id that the hub gives it.

    Attributes:
        topic, partition, offset: The record.
        channel: Event name.
        covers: Channels that select it.
        data: JSON.
    """

    topic: str
    partition: int
    offset: int
    channel: str
    covers: tuple[str, ...]
    data: bytes


def events_of(topic: str, partition: int, records: RecordSet, codec: Codec, states: Records, refuse: Refuse) -> Iterator[Event]:
    """Yield the events of a record set.

    A state of the risk guard updates ``states``, and is an event only if it changed what is allowed. A score of data quality is none: it comes with
    every window, and only findings are news.
    """
    channel, rendered = CHANNEL[topic], rendering(topic)
    for row in range(len(records)):
        value, offset = records.value(row), int(records.index[row, 0])
        if value is None:
            continue  # a tombstone of a compacted topic
        try:
            record = codec.decode(topic, value)
        except CodecError as error:
            refuse(topic, offset, str(error))
            continue
        if topic == "risk_state" and not states.take_risk(record):
            continue
        if topic == "data_quality" and record["kind"] == "score":
            continue
        payload: dict[str, Any] = rendered(record)
        if channel == "risk_events":
            payload["kind"] = "state" if topic == "risk_state" else "command"
        yield Event(topic, partition, offset, channel, covering(channel, record.get("instrument", "")), dumped(payload))

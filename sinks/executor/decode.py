"""From Kafka messages to what the paper feed takes. The only place of the executor that knows how values are encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from schemas.codec import Codec, CodecError, Record
from stream_apps.core.paper_feed import TradeBlock


class Message(Protocol):
    """What is used of a consumed message."""

    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def timestamp(self) -> tuple[int, int]: ...


Refuse = Callable[[str, Message, CodecError], None]


def records_of(codec: Codec, topic: str, messages: Sequence[Message], refuse: Refuse) -> list[tuple[int, Record]]:
    """Return (offset, record) of each message; one that cannot be decoded goes to ``refuse`` and is left out."""
    found = []
    for message in messages:
        try:
            found.append((message.offset(), codec.decode(topic, message.value())))
        except CodecError as error:
            refuse(topic, message, error)
    return found


def trades_of(codec: Codec, messages: Sequence[Message], refuse: Refuse) -> TradeBlock:
    """Return ``agg_trades`` messages as columns; one that cannot be decoded goes to ``refuse`` and is left out."""
    rows = records_of(codec, "agg_trades", messages, refuse)
    codes: dict[str, int] = {}
    code = [codes.setdefault(record["instrument"], len(codes)) for _, record in rows]
    return TradeBlock(
        list(codes),
        np.array(code, np.int64),
        np.array([record["event_time"] for _, record in rows], np.int64),
        np.array([offset for offset, _ in rows], np.int64),
        np.array([record["agg_id"] for _, record in rows], np.int64),
        np.array([record["price"] for _, record in rows], np.float64),
    )

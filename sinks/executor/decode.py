"""Decode Kafka messages into inputs of the paper feed. Only this module of the executor knows the encoding of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from schemas.codec.avro import Codec, CodecError, Record
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from stream_apps.core.paper.book_lookup import BookBlock
from stream_apps.core.paper.feed import TradeBlock
from stream_apps.core.paper.market_rows import book_block, trade_block


class Message(Protocol):
    """The used part of a consumed message."""

    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def timestamp(self) -> tuple[int, int]: ...


Refuse = Callable[[str, Message, CodecError], None]


def records_of(codec: Codec, topic: str, messages: Sequence[Message], refuse: Refuse) -> list[tuple[int, Record]]:
    """Return (offset, record) of each message. One that cannot be decoded goes to ``refuse`` and is skipped."""
    found = []
    for message in messages:
        try:
            found.append((message.offset(), codec.decode(topic, message.value())))
        except CodecError as error:
            refuse(topic, message, error)
    return found


def trades_of(codec: Codec, messages: Sequence[Message], keys: KeyTable) -> TradeBlock:
    """Return ``agg_trades`` messages as columns, without invalid ones (see ``trade_block``)."""
    return trade_block(codec, _record_set(messages), keys)


def books_of(codec: Codec, messages: Sequence[Message], keys: KeyTable) -> BookBlock:
    """Return ``depth`` messages as books that are decoded on demand."""
    return book_block(codec, _record_set(messages), keys)


def _record_set(messages: Sequence[Message]) -> RecordSet:
    return RecordSet.from_messages([(message.offset(), message.timestamp()[1], message.key(), message.value()) for message in messages])

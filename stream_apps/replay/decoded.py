"""Decoding of records and matching of their keys, done once for all readers: engine and paper model take the same trades."""

from __future__ import annotations

import numpy as np

from schemas.codec.avro import Codec
from schemas.codec.columnar import DecodedRecords, decode
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from stream_apps.core.paper.market_rows import numbers_of

_Message = tuple[int, int, bytes | None, bytes | None]


def with_columns(codec: Codec, topic: str, records: RecordSet, names: tuple[str, ...], keys: KeyTable) -> RecordSet:
    """Return records of a flat topic with the columns that their readers want. Records that already have columns are returned unchanged.

    Args:
        codec: Codec of the environment.
        topic: A flat topic.
        records: The records.
        names: Fields wanted.
        keys: The keys seen so far. New ones are added. Keep one table per partition.
    """
    if isinstance(records, DecodedRecords) or not len(records):
        return records

    def message(offset: int) -> _Message:
        row = int(np.searchsorted(records.offsets, offset))
        return offset, int(records.index[row, 1]), records.key(row), records.value(row)

    decoded = DecodedRecords(records.buffer, np.ascontiguousarray(records.index[:, :2]), records.next_offset)
    decoded.columns = decode(codec, topic, records, names)
    decoded.numbers = numbers_of(records, keys, np.ones(len(records), dtype=np.bool_))
    decoded.names = list(keys.keys)
    decoded.message = message
    decoded.messages = lambda: [message(offset) for offset in records.offsets.tolist()]
    return decoded

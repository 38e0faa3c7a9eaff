"""``agg_trades`` and ``depth`` records as rows for the paper feed. Executor and replay use the same code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec, CodecError
from schemas.codec.columnar import decode
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from stream_apps.core.paper.book_lookup import BookBlock
from stream_apps.core.paper.feed import TradeBlock
from stream_apps.core.paper.fills import Book


def trade_block(codec: Codec, records: RecordSet, keys: KeyTable) -> TradeBlock:
    """Return ``agg_trades`` records as columns, in order of offset. The record key is the instrument, as for the engine.

    A record that cannot be a trade (no key, undecodable, price or quantity not positive and finite) is omitted. The engine omits the same
    ones and writes the dead letter.

    Args:
        codec: Codec of the environment.
        records: The records.
        keys: The instruments seen so far. New ones are added. Keep one table per partition.
    """
    columns = decode(codec, "agg_trades", records)
    price, quantity = columns.double("price"), columns.double("quantity")
    good = columns.good & np.isfinite(price) & (price > 0.0) & np.isfinite(quantity) & (quantity > 0.0)
    code = numbers_of(records, keys, good)
    rows = slice(None) if good.all() else np.flatnonzero(good)
    times, identities = columns.long("event_time"), columns.long("agg_id")
    return TradeBlock(keys.keys, code[rows], times[rows], records.offsets[rows], identities[rows], price[rows])


def book_block(codec: Codec, records: RecordSet, keys: KeyTable) -> BookBlock:
    """Return ``depth`` records by their positions, in order of offset. The record key is the instrument; the record timestamp is the time.

    A record is decoded on demand. One that cannot be decoded is no book; the engine writes the dead letter.

    Args:
        codec, keys: As for ``trade_block``.
        records: The records.
    """
    good = np.ones(len(records), np.bool_)
    code = numbers_of(records, keys, good)
    rows = np.flatnonzero(good)

    def read(row: int) -> Book | None:
        try:
            return Book.of(codec.decode("depth", records.value(row)))
        except CodecError:
            return None

    return BookBlock(keys.keys, code[rows], records.timestamps[rows], records.offsets[rows], rows, read)


def numbers_of(records: RecordSet, keys: KeyTable, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the numbers of the records' keys. New keys are added to ``keys``. ``good`` becomes False for a record without a key."""
    code = keys.match(records)
    while len(unknown := np.flatnonzero(good & (code < 0))):
        key = records.key(int(unknown[0]))
        if key:
            keys.add(key.decode("utf-8", "replace"))
            code = keys.match(records)
        # A record without a key, or whose key is no text, has no instrument.
        good[unknown[0]] = code[unknown[0]] >= 0
    return code

"""From ``agg_trades`` and ``depth`` records to what the paper feed takes: the same rows for the executor and for replay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec, CodecError
from schemas.codec.columnar import KeyTable, decode
from schemas.codec.recordset import RecordSet
from stream_apps.core.paper.book_lookup import BookBlock
from stream_apps.core.paper.feed import TradeBlock
from stream_apps.core.paper.fills import Book


def trade_block(codec: Codec, records: RecordSet, keys: KeyTable) -> TradeBlock:
    """Return ``agg_trades`` records as columns, in order of offset; their instruments are their keys, as for the engine.

    What cannot be a trade (no key, undecodable, price or quantity not positive and finite) is left out: the engine reads the same records, leaves
    out the same ones and writes the dead letter.

    Args:
        codec: Codec of the environment.
        records: The records.
        keys: The instruments seen so far; new ones are added. Keep one table per partition.
    """
    columns = decode(codec, "agg_trades", records)
    price, quantity = columns.double("price"), columns.double("quantity")
    good = columns.good & np.isfinite(price) & (price > 0.0) & np.isfinite(quantity) & (quantity > 0.0)
    code = numbers_of(records, keys, good)
    rows = slice(None) if good.all() else np.flatnonzero(good)
    times, identities = columns.long("event_time"), columns.long("agg_id")
    return TradeBlock(keys.keys, code[rows], times[rows], records.offsets[rows], identities[rows], price[rows])


def book_block(codec: Codec, records: RecordSet, keys: KeyTable) -> BookBlock:
    """Return ``depth`` records by their places, in order of offset; their instruments are their keys, their times those of the records.

    None is decoded before it is asked for. What cannot be decoded is no book; the engine writes the dead letter.

    Args:
        codec, keys: As of ``trade_block``.
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
    """Return the numbers of the records' keys; new ones are added to ``keys``, and ``good`` is put to False where there is none."""
    code = keys.match(records)
    while len(unknown := np.flatnonzero(good & (code < 0))):
        key = records.key(int(unknown[0]))
        if key:
            keys.add(key.decode("utf-8", "replace"))
            code = keys.match(records)
        # A record without a key, or with one that is no text, belongs to no instrument.
        good[unknown[0]] = code[unknown[0]] >= 0
    return code

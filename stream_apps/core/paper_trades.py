"""From ``agg_trades`` records to the paper model's columns: the same rows for the executor and for replay."""

from __future__ import annotations

import numpy as np

from schemas.codec import Codec
from schemas.columnar import KeyTable, RecordSet, decode
from stream_apps.core.paper_feed import TradeBlock


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
    code = keys.match(records)
    good = columns.good & np.isfinite(price) & (price > 0.0) & np.isfinite(quantity) & (quantity > 0.0)
    while len(unknown := np.flatnonzero(good & (code < 0))):
        key = records.key(int(unknown[0]))
        if key:
            keys.add(key.decode("utf-8", "replace"))
            code = keys.match(records)
        # A record without a key, or with one that is no text, belongs to no instrument.
        good[unknown[0]] = code[unknown[0]] >= 0
    rows = np.flatnonzero(good)
    times, identities = columns.long("event_time"), columns.long("agg_id")
    return TradeBlock(keys.keys, code[rows], times[rows], records.offsets[rows], identities[rows], price[rows])

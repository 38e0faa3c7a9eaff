"""State of the watched instruments: candles, CVD, books, quotes. Whole record sets are decoded by compiled code; only the newest row becomes an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from schemas.codec.avro import Codec
from schemas.codec.columnar import NULL_LONG, Columns, decode
from schemas.codec.recordset import I64, RecordSet
from sinks.console.data.records import times
from sinks.console.live.candles import VENUE, WORKER, Candles
from sinks.console.live.channels import Channel, covering
from sinks.console.live.messages import dumped

# Reports a record that cannot be decoded: topic, offset, reason.
Refuse = Callable[[str, int, str], None]
_TRADE = ("event_time", "agg_id", "price", "quantity", "buyer_is_maker")
_LEVELS = ("bid_prices", "bid_quantities", "ask_prices", "ask_quantities")


def refuse_rejected(columns: Columns, topic: str, records: RecordSet, refuse: Refuse) -> None:
    """Report the rows that could not be decoded."""
    for one in columns.rejected:
        refuse(topic, int(records.index[one.row, 0]), f"{one.field}: {one.reason}" if one.field else one.reason)


class Market:
    """The watched instruments. Used by the reader's thread only.

    Args:
        codec: Codec of the environment.
        refuse: Receives records that cannot be decoded.
    """

    def __init__(self, codec: Codec, refuse: Refuse) -> None:
        self._codec = codec
        self._refuse = refuse
        self.decimals: dict[str, int] = {}
        self.bases: dict[str, str] = {}
        self._candles: dict[str, Candles] = {}
        self._books: dict[str, dict[str, Any]] = {}
        self.quotes: dict[str, dict[str, Any]] = {}
        self._changed: set[tuple[str, str]] = set()

    # --- what is watched -------------------------------------------------------------------------------------------
    def watch_trades(self, instruments: Iterable[str]) -> None:
        """Keep minutes of exactly these instruments."""
        wanted = set(instruments)
        for name in self._candles.keys() - wanted:
            del self._candles[name]
        for name in wanted - self._candles.keys():
            self._candles[name] = Candles(self.decimals.get(name))

    def reading_trades(self, instruments: Iterable[str], since: int) -> None:
        """Note that all trades after ``since`` (ms) are read."""
        for name in instruments:
            if name in self._candles:
                self._candles[name].reading_from(since)

    def forget(self, instruments: Iterable[str]) -> None:
        """Begin anew: the log of these instruments is another one."""
        for name in instruments:
            if name in self._candles:
                self._candles[name] = Candles(self.decimals.get(name))

    # --- records ---------------------------------------------------------------------------------------------------
    def take_instruments(self, records: RecordSet) -> None:
        """Note decimals and base assets."""
        columns = decode(self._codec, "instruments", records, ("instrument", "base_asset", "quantity_decimals"))
        decimals = columns.long("quantity_decimals")
        for row in np.flatnonzero(columns.good).tolist():
            name = columns.text("instrument", row)
            self.decimals[name] = max(0, min(12, int(decimals[row])))
            self.bases[name] = columns.text("base_asset", row)
        for one in columns.rejected:
            if records.value(one.row) is not None:  # a tombstone is no fault
                self._refuse("instruments", int(records.index[one.row, 0]), one.reason)

    def take(self, topic: str, records: RecordSet, ids: I64, names: list[str]) -> None:
        """Apply records of watched instruments.

        Args:
            topic: agg_trades, bars, depth or quotes.
            records: The records.
            ids: Index in ``names`` of each record's instrument.
            names: Instruments.
        """
        {"agg_trades": self._trades, "bars": self._bars, "depth": self._depth, "quotes": self._quotes}[topic](records, ids, names)

    def _trades(self, records: RecordSet, ids: I64, names: list[str]) -> None:
        columns = decode(self._codec, "agg_trades", records, _TRADE)
        refuse_rejected(columns, "agg_trades", records, self._refuse)
        times, trade_ids, makers, offsets = *(columns.long(field) for field in ("event_time", "agg_id", "buyer_is_maker")), records.offsets
        prices, quantities = columns.double("price"), columns.double("quantity")
        for number in np.unique(ids).tolist():
            name = names[number]
            rows = np.flatnonzero(ids == number)
            candles = self._candles.get(name)
            if candles is not None and candles.add_trades(
                offsets[rows], times[rows], trade_ids[rows], prices[rows], quantities[rows], makers[rows], columns.good[rows]
            ):
                self._changed |= {("candles", name), ("cvd", name)}

    def _bars(self, records: RecordSet, ids: I64, names: list[str]) -> None:
        columns = decode(self._codec, "bars", records)
        refuse_rejected(columns, "bars", records, self._refuse)
        minutes = columns.choices("timeframe", ("1m",)) == 0
        ends, counts = columns.long("event_time"), columns.long("trades")
        numbers = np.stack([columns.double(name) for name in ("open", "high", "low", "close", "volume", "cvd")], axis=1)
        worker = columns.choices("source", ("trades",)) == 0
        for row in np.flatnonzero(minutes & columns.good).tolist():
            name = names[int(ids[row])]
            if name in self._candles:
                o, h, low, c, volume, cvd = numbers[row].tolist()
                if self._candles[name].add_bar(
                    int(ends[row]), WORKER if worker[row] else VENUE, (o, h, low, c), volume, cvd, int(counts[row])
                ):
                    self._changed.add(("candles", name))

    def _depth(self, records: RecordSet, ids: I64, names: list[str]) -> None:
        columns = decode(self._codec, "depth", records)
        refuse_rejected(columns, "depth", records, self._refuse)
        for name, row in newest_rows(columns, ids, names):
            bid_prices, bids, ask_prices, asks = ([v for v in columns.doubles(side)[row].tolist() if v == v] for side in _LEVELS)
            time = int(columns.long("event_time")[row])
            self._books[name] = {
                "instrument": name,
                **times(time=time),
                "state": columns.text("state", row),
                "last_update_id": int(columns.long("last_update_id")[row]),
                "bids": list(zip(bid_prices, bids, strict=False)),
                "asks": list(zip(ask_prices, asks, strict=False)),
            }
            self._changed.add(("books", name))

    def _quotes(self, records: RecordSet, ids: I64, names: list[str]) -> None:
        columns = decode(self._codec, "quotes", records)
        refuse_rejected(columns, "quotes", records, self._refuse)
        for name, row in newest_rows(columns, ids, names):
            time = int(columns.long("event_time")[row])
            self.quotes[name] = {
                "instrument": name,
                **times(time=time),
                **{field: float(columns.double(field)[row]) for field in ("bid_price", "bid_quantity", "ask_price", "ask_quantity")},
            }
            self._changed |= {("quotes", name), ("mid", name)}

    # --- messages --------------------------------------------------------------------------------------------------
    def touch(self, channel: Channel) -> None:
        """Show the state of a channel again: somebody new looks at it."""
        self._changed.add((channel.name, channel.instrument))

    def changed_mids(self) -> set[str]:
        """Return the instruments whose quote changed since the last call."""
        found = {pair for pair in self._changed if pair[0] == "mid"}
        self._changed -= found
        return {name for _, name in found}

    def flush(self, channels: Iterable[Channel]) -> Iterable[tuple[str, str, tuple[str, ...], bytes]]:
        """Yield event, key, covering channels and JSON of what changed since the last call and is selected."""
        changed, self._changed = self._changed, set()
        for channel in channels:
            if (channel.name, channel.instrument) in changed and (payload := self._payload(channel)) is not None:
                yield channel.name, channel.text, covering(channel.name, channel.instrument, channel.detail), dumped(payload)

    def _payload(self, channel: Channel) -> dict[str, Any] | None:
        name = channel.instrument
        if channel.name == "books":
            return self._books.get(name)
        if channel.name == "quotes":
            return self.quotes.get(name)
        candles = self._candles.get(name)
        if candles is None:
            return None
        if channel.name == "candles":
            newest = candles.newest(channel.detail)
            return {"instrument": name, "timeframe": channel.detail, "candles": newest} if newest else None
        minute = candles.minute_cvd()
        if minute is None:
            return None
        return {
            "instrument": name,
            **times(time=candles.time),
            "price": candles.price,
            "total": candles.total,
            "since_ms": candles.whole_from,
            "minute_start_ms": minute[0],
            "minute_cvd": minute[1],
        }


def newest_rows(columns: Columns, ids: I64, names: list[str]) -> Iterable[tuple[str, int]]:
    """Yield each instrument with its last row that could be decoded."""
    rows = np.flatnonzero(columns.good)
    last = np.full(len(names), -1, dtype=np.int64)
    last[ids[rows]] = rows  # of repeated indices numpy keeps the last value
    for number in np.flatnonzero(last >= 0).tolist():
        yield names[number], int(last[number])


def nullable(column: I64, row: int) -> int | None:
    """Return a value of a nullable long column."""
    value = int(column[row])
    return None if value == NULL_LONG else value

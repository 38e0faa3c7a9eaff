"""A second engine, as small as one can be: bars of the order-book imbalance. core/log/README.md walks through it.

It reads ``depth``. At every instant it writes, for each instrument with a live book update in the pane that ends there, the open, high, low and close of
(bid quantity - ask quantity) / (bid quantity + ask quantity) over the ten best levels.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from schemas import catalogue
from schemas.codec.avro import Codec, CodecError
from schemas.codec.markreader import Mark
from stream_apps import engines
from stream_apps.core.log.checkpoint import Array
from stream_apps.core.log.engine import I64, PartitionEngine
from stream_apps.core.log.inbox import Chunk
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.market.config import EngineConfig

LEVELS = 10
TIME = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA = {
    "type": "record", "name": "ImbalanceBar", "namespace": "perpflow", "doc": "Order-book imbalance of an instrument over one pane.",
    "fields": [
        {"name": "instrument", "type": "string", "doc": "Instrument id."},
        {"name": "event_time", "type": TIME, "doc": "Instant T, the end of the pane."},
        {"name": "receive_time", "type": TIME, "doc": "Time of the mark: decided_at."},
        *({"name": name, "type": "double", "doc": f"Imbalance, {name}, -1 to 1."} for name in ("open", "high", "low", "close")),
        {"name": "updates", "type": "long", "doc": "Live book updates in the pane."},
    ],
}  # fmt: skip


class ImbalanceEngine(PartitionEngine):
    """Bars of the order-book imbalance of one partition."""

    NAME = "imbalance"
    READS = ("depth", "instruments")
    WRITES = ("imbalance_bars", "imbalance_progress", "dead_letters")
    PROGRESS = "imbalance_progress"

    def __init__(self, partition: int, config: EngineConfig, codec: Codec) -> None:
        super().__init__(partition, config, codec)
        # (row of the instrument, pane) -> open, high, low, close, updates, and (event time, offset) of the first and the last update.
        self.open: dict[tuple[int, int], list[Any]] = {}
        self._encode = codec.encoder("imbalance_bars")

    def apply(self, topic: str, chunk: Chunk, rows: range, mark: Mark, outputs: list[OutputRecord]) -> None:
        """Put book updates into their panes."""
        instruments = self.instrument_rows(chunk)
        for row in rows:
            try:
                record = self.codec.decode("depth", chunk.records.value(row))
            except CodecError as error:
                outputs.append(self.dead_letter("depth", chunk.records, row, error.field, error.reason, mark.time))
                continue
            instrument = int(instruments[row])
            if instrument < 0:
                outputs.append(self.dead_letter("depth", chunk.records, row, "instrument", "no instruments record names it", mark.time))
            elif record["state"] == "live":
                self._update(instrument, record, int(chunk.offsets[row]))

    def _update(self, instrument: int, record: dict[str, Any], offset: int) -> None:
        bids, asks = sum(record["bid_quantities"][:LEVELS]), sum(record["ask_quantities"][:LEVELS])
        pane = -(-record["event_time"] // self.config.grid_ms)
        author = self.instruments.facts[self.instruments.names[instrument]].author
        if bids + asks <= 0:
            return  # an empty book has no imbalance
        if pane <= self.marks.fired.get(author, pane - 1):
            self.counts["late"] += 1
            return
        value, at = (bids - asks) / (bids + asks), (record["event_time"], offset)
        bar = self.open.setdefault((instrument, pane), [value, value, value, value, 0, at, at])
        bar[1], bar[2], bar[4] = max(bar[1], value), min(bar[2], value), bar[4] + 1
        if at <= tuple(bar[5]):
            bar[0], bar[5] = value, at
        if at >= tuple(bar[6]):
            bar[3], bar[6] = value, at

    def instant(self, time: int, decided_at: int, instruments: I64, outputs: list[OutputRecord]) -> None:
        """Write the bar of each instrument whose book was updated in the pane."""
        pane, rows = time // self.config.grid_ms, instruments.tolist()
        for early in [key for key in self.open if key[1] < pane and key[0] in rows]:
            del self.open[early]  # before the author's first mark, of which nothing else is known
        for instrument in rows:
            bar = self.open.pop((instrument, pane), None)
            if bar is None:
                continue  # missing, not zero
            self.counts["instants"] += 1
            name = self.instruments.names[instrument]
            values = dict(zip(("open", "high", "low", "close", "updates"), bar, strict=False))
            record = {"instrument": name, "event_time": time, "receive_time": decided_at, **values}
            outputs.append(OutputRecord("imbalance_bars", name.encode(), self._encode(record), time))

    def head(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the open bars."""
        return {"open": [[*key, *bar] for key, bar in self.open.items()]}, {"levels": np.array([LEVELS])}

    def load(self, meta: dict[str, Any], arrays: dict[str, Array], entries: list[tuple[bytes, bytes]]) -> None:
        """Take the open bars."""
        super().load(meta, arrays, entries)
        self.open = {(instrument, pane): bar for instrument, pane, *bar in meta["open"]}


def register() -> None:
    """Make the engine and its topics known."""
    record_id = ("instrument", "event_time")
    catalogue.register(catalogue.Topic("imbalance_bars", "instrument", record_id), json.dumps(SCHEMA))
    steps = ("author", "event_time", "progress_offset")
    catalogue.register(catalogue.Topic("imbalance_progress", "author", steps), catalogue.schema_text("worker_progress"))
    engines.register("imbalance", engines.EngineSpec(lambda: ImbalanceEngine, EngineConfig.from_settings, results=("imbalance_bars",)))

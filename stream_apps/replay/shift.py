"""The future-shift check: alter all data after a time, and compare the decisions up to that time. None may change.

The alterations keep every record in place. Doubles are doubled (so they stay on every decimal grid). Takers change sides, liquidated sides
are swapped, the quantities of both sides of a book change places, funding changes its sign. Times, ids and marks stay, so the log keeps its
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.replay.sources.source import Piece, Source

MARKET = ("agg_trades", "depth", "funding", "klines", "liquidations", "market_indicators", "quotes")


@dataclass
class ShiftedSource:
    """A source whose market data after ``time`` (ms UTC) is altered.

    Attributes:
        altered: Records altered so far.
    """

    source: Source
    time: int
    codec: Codec
    altered: int = 0

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the source's pieces, altered."""
        for piece in self.source.pieces(engine_of):
            if piece.topic in MARKET and len(piece.records) and int(piece.records.timestamps.max()) > self.time:
                yield piece._replace(records=self._shift(piece.topic, piece.records))
            else:
                yield piece

    def _shift(self, topic: str, records: RecordSet) -> RecordSet:
        messages: list[tuple[int, int, bytes | None, bytes | None]] = []
        following, records = records.next_offset, records.rows(0, len(records))
        for row, (offset, timestamp) in enumerate(zip(records.offsets.tolist(), records.timestamps.tolist(), strict=True)):
            value = records.value(row)
            try:
                record = self.codec.decode(topic, value)
                if record["event_time"] > self.time:
                    value = self.codec.encode(topic, altered(topic, record))
                    self.altered += 1
            except CodecError:
                pass  # it cannot be decoded and stays a dead letter
            messages.append((offset, timestamp, records.key(row), value))
        made = RecordSet.from_messages(messages)
        return RecordSet(made.buffer, made.index, following)


def altered(topic: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return a market record with other values at the same offset and time."""
    made = {name: _doubled(value) for name, value in record.items()}
    if topic == "agg_trades":
        made["buyer_is_maker"] = not record["buyer_is_maker"]
    elif topic == "liquidations":
        made["side"] = "SHORT" if record["side"] == "LONG" else "LONG"
    elif topic == "depth":
        made["bid_quantities"], made["ask_quantities"] = made["ask_quantities"], made["bid_quantities"]
        if len(made["bid_quantities"]) != len(made["bid_prices"]):
            made["bid_quantities"], made["ask_quantities"] = made["ask_quantities"], made["bid_quantities"]
    elif topic == "funding":
        for name in ("estimated_rate", "settled_rate"):
            made[name] = None if made[name] is None else -made[name]
    return made


def _doubled(value: Any) -> Any:
    if isinstance(value, float):
        return 2 * value
    return [2 * one for one in value] if isinstance(value, list) and value and isinstance(value[0], float) else value

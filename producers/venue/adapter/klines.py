"""The venue's bars for a cold start. They warm up the ATR and its percentile with one or two calls a symbol (D4, D11).

Venues serve past trades for days or only for seconds. All of them serve bars far enough back. Bars are 5 minutes long, like the ATR's.
Times are the bar's end, ms UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from producers.venue.adapter.base import Adapter, MappingError, Market, RejectedRow
from producers.venue.adapter.json_values import positive, quantity
from producers.venue.network.rest import Rest
from schemas.codec.avro import Record

FRAME = "5m"
FRAME_MS = 300_000
# 288 values of the ATR, 14 true ranges before the first one, one close before those, and two spare bars.
LEAST_BARS = 305
# A bar that has just ended may still change at the venue.
SETTLED_MS = 2_000

PRICES = ("open", "high", "low", "close")


def cells(row: Any, names: Sequence[str], record: str) -> dict[str, Any]:
    """Return the first cells of a row by name. Raises MappingError: it is not a list, or too short."""
    if type(row) is not list or len(row) < len(names):
        raise MappingError(record, names[0], f"expected [{', '.join(names)}, ...], got {row!r}")
    return dict(zip(names, row, strict=False))


def kline(
    market: Market,
    start: int,
    fields: dict[str, Any],
    received: int,
    record: str,
    *,
    volume: float | None = None,
    trades: int | None = None,
) -> Record:
    """Return the ``klines`` record of a bar.

    Args:
        market: Whose. start: first millisecond of the bar, ms UTC.
        fields: ``open``, ``high``, ``low``, ``close`` as decimal text; also ``volume`` unless it is given, and ``taker_buy_volume`` if the
            venue has it.
        received: Our clock, ms UTC.
        record: For errors.
        volume: Base quantity, if it is not a plain field. trades: Number of single trades, if the venue gives it.

    Raises:
        MappingError: a price or quantity is invalid, the four prices form no bar, or the start is not a full 5 minutes.
    """
    opened, high, low, close = (positive(fields, name, record) for name in PRICES)
    if not low <= min(opened, close) <= max(opened, close) <= high:
        raise MappingError(record, "high", f"open {opened}, high {high}, low {low} and close {close} do not form a bar")
    if start % FRAME_MS or start + FRAME_MS > received + SETTLED_MS + FRAME_MS:
        raise MappingError(record, "start", f"{start} is not the start of a 5-minute bar up to now")
    whole = quantity(fields, "volume", record) if volume is None else volume
    bought = quantity(fields, "taker_buy_volume", record) if "taker_buy_volume" in fields else None
    if bought is not None and bought > whole * (1 + 1e-9):
        raise MappingError(record, "taker_buy_volume", f"{bought} is more than the volume {whole}")
    return {
        "instrument": market.instrument, "event_time": start + FRAME_MS, "receive_time": received, "timeframe": FRAME,
        "open": opened, "high": high, "low": low, "close": close, "volume": whole, "taker_buy_volume": bought, "trades": trades, "backfilled": True,
    }  # fmt: skip


async def past(adapter: Adapter, rest: Rest, market: Market, after: int, now: int, received: int) -> list[Record | RejectedRow]:
    """Return the venue's settled bars that ended after a time, ascending. Missing bars of quiet times are filled if the venue leaves them
    out.

    Args:
        adapter, rest, market: The venue, its REST client, and the symbol.
        after: End of the last known bar, or the start of the requested time, ms UTC.
        now: The venue's clock, ms UTC. received: Ours.

    Raises:
        RestError, MappingError: the venue does not answer, or not as documented.
    """
    first, last = -(-after // FRAME_MS) * FRAME_MS, (now - SETTLED_MS) // FRAME_MS * FRAME_MS - FRAME_MS
    found: list[Record | RejectedRow] = []
    for start in range(first, last + 1, adapter.kline_page * FRAME_MS):
        until = min(last, start + (adapter.kline_page - 1) * FRAME_MS)
        found += await adapter.klines(rest, market, start, until, received)
    refused = [row for row in found if isinstance(row, RejectedRow)]
    good = sorted((row for row in found if not isinstance(row, RejectedRow) and first < row["event_time"] <= last + FRAME_MS), key=_end)
    return [*refused, *(filled(good) if adapter.klines_leave_out_quiet else good)]


def filled(bars: Iterable[Record]) -> Iterator[Record]:
    """Yield bars. A bar that the venue left out has the previous close and no volume (D4)."""
    before: Record | None = None
    for bar in bars:
        while before is not None and before["event_time"] + FRAME_MS < bar["event_time"]:
            price = before["close"]
            before = {
                **before, "event_time": before["event_time"] + FRAME_MS, "open": price, "high": price, "low": price, "close": price, "volume": 0.0,
                "taker_buy_volume": None if before["taker_buy_volume"] is None else 0.0, "trades": None if before["trades"] is None else 0,
            }  # fmt: skip
            yield before
        before = bar
        yield bar


def _end(record: Record) -> int:
    return int(record["event_time"])

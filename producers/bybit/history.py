"""Bybit's history besides trades: settled funding, open interest and the account ratio, newest first, in pages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from producers.bybit import mapping
from producers.venue.adapter import records
from producers.venue.adapter.base import MappingError
from producers.venue.adapter.json_values import integer, product
from producers.venue.network.rest import Rest, RestError
from schemas.codec.avro import Record

PAGE = 200
# Most pages. A day of 5-minute values is two; more pages than this mean that they do not get older.
MAX_PAGES = 500


def settlements(answer: Any, symbol: str, received: int) -> list[Record]:
    """Return the ``funding`` records (without ``instrument``) of a funding/history response, ascending."""
    records = [mapping.settled(entry, symbol, received) for entry in mapping.rows(answer, "funding/history")]
    return sorted(records, key=_time)


async def past(rest: Rest, symbol: str, since: int, until: int) -> list[tuple[str, Record]]:
    """Return (topic, record without ``instrument``) with event times in [since, until], ascending within each kind.

    A refused kind is logged and left out; the others are returned.
    """
    found: list[tuple[str, Record]] = []
    for topic, read in (("funding", _funding), ("market_indicators", _open_interest), ("market_indicators", _account_ratios)):
        try:
            records = await read(rest, symbol, since, until)
        except (RestError, MappingError) as error:
            structlog.get_logger().warning("a part of the history is missing", venue=mapping.VENUE, symbol=symbol, error=str(error)[:300])
            continue
        found += [(topic, record) for record in sorted(records, key=_time) if since <= record["event_time"] <= until]
    return found


async def _funding(rest: Rest, symbol: str, since: int, until: int) -> list[Record]:
    found: list[Record] = []

    def take(answer: Any) -> list[int]:
        page = settlements(answer, symbol, until)
        found.extend(page)
        return [_time(record) for record in page]

    await _pages(rest, "funding/history", symbol, since, until, take)
    return found


async def _open_interest(rest: Rest, symbol: str, since: int, until: int) -> list[Record]:
    """Return open interest in quote units.

    The venue serves base quantities. They are multiplied by the mark price of the same moment, as in the venue's tickers.
    """
    quantities: dict[int, str] = {}
    marks: dict[int, str] = {}
    read = partial(_note, quantities, lambda entry: mapping.open_interest(entry, until))
    await _pages(rest, "open-interest", symbol, since, until, read, intervalTime="5min")
    await _pages(rest, "mark-price-kline", symbol, since, until, partial(_note, marks, mapping.mark_at), interval="5")
    found = []
    for time in quantities.keys() & marks.keys():
        factors = {"openInterest": quantities[time], "markPrice": marks[time]}
        value = product(factors, "openInterest", "markPrice", "open-interest")
        found.append(records.indicator("open_interest", value, time, until))
    return found


async def _account_ratios(rest: Rest, symbol: str, since: int, until: int) -> list[Record]:
    found: list[Record] = []

    def take(answer: Any) -> list[int]:
        entries = mapping.rows(answer, "account-ratio")
        made = [mapping.account_ratio(entry, symbol, until) for entry in entries]
        found.extend(record for record in made if record is not None)
        return [integer(entry, "timestamp", "account-ratio") for entry in entries]

    await _pages(rest, "account-ratio", symbol, since, until, take, period="5min")
    return found


def _time(record: Record) -> int:
    return int(record["event_time"])


def _note(known: dict[int, str], read: Callable[[Any], tuple[int, str]], answer: Any) -> list[int]:
    page = dict(read(entry) for entry in mapping.rows(answer, "list"))
    known.update(page)
    return list(page)


async def _pages(rest: Rest, path: str, symbol: str, since: int, until: int, take: Callable[[Any], list[int]], **more: Any) -> None:
    """Request page after page, each older than the one before. ``take`` returns the times in a page."""
    candles = path.endswith("kline")
    for _ in range(MAX_PAGES):
        window: dict[str, Any] = {"start": since, "end": until} if candles else {"startTime": since, "endTime": until}
        times = take(await rest.get(f"/v5/market/{path}", category="linear", symbol=symbol, limit=PAGE, **window, **more))
        if len(times) < PAGE or min(times) <= since:
            return
        until = min(times) - 1
    raise MappingError(path, "list", f"more than {MAX_PAGES} pages")

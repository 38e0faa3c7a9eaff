"""What Bybit tells of the past besides trades: settled funding, open interest and the account ratio, newest first and in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from producers.bybit import mapping
from producers.venue.adapter import MappingError
from producers.venue.rest import Rest
from producers.venue.values import product
from schemas.codec import Record

PAGE = 200
STEP_MS = 300_000
# A day of 5-minute values is two pages; more than so many means that the pages do not get older.
MAX_PAGES = 500


def settlements(answer: Any, symbol: str, received: int) -> list[Record]:
    """Return the ``funding`` records (without ``instrument``) of an answer of funding/history, ascending."""
    records = [mapping.settled(entry, symbol, received) for entry in mapping.rows(answer, "funding/history")]
    return sorted(records, key=lambda record: int(record["event_time"]))


async def past(rest: Rest, symbol: str, since: int, until: int) -> list[tuple[str, Record]]:
    """Return (topic, record without ``instrument``) with event times in [since, until], ascending within each kind.

    Open interest is served as base quantity; its quote value is that times the mark price of the same moment, as in the venue's own tickers.
    """
    found: list[tuple[str, Record]] = []
    funding: list[Record] = []
    await _pages(rest, "funding/history", symbol, since, until, lambda answer: _add(funding, settlements(answer, symbol, until)))
    found += [("funding", record) for record in sorted(funding, key=_time)]

    quantities: dict[int, str] = {}
    marks: dict[int, str] = {}
    await _pages(
        rest,
        "open-interest",
        symbol,
        since,
        until,
        lambda answer: _note(quantities, answer, lambda e: mapping.open_interest(e, until)),
        intervalTime="5min",
    )
    await _pages(rest, "mark-price-kline", symbol, since, until, lambda answer: _note(marks, answer, mapping.mark_at), interval="5")
    for time in sorted(quantities.keys() & marks.keys()):
        factors = {"openInterest": quantities[time], "markPrice": marks[time]}
        value = product(factors, "openInterest", "markPrice", "open-interest")
        found.append(("market_indicators", mapping.indicator("open_interest", value, time, until)))

    ratios: list[Record] = []

    def ratio(answer: Any) -> list[int]:
        made = [mapping.account_ratio(entry, symbol, until) for entry in mapping.rows(answer, "account-ratio")]
        return _add(ratios, [record for record in made if record is not None])

    await _pages(rest, "account-ratio", symbol, since, until, ratio, period="5min")
    found += [("market_indicators", record) for record in sorted(ratios, key=_time)]
    return [(topic, record) for topic, record in found if since <= record["event_time"] <= until]


def _time(record: Record) -> int:
    return int(record["event_time"])


def _add(records: list[Record], page: list[Record]) -> list[int]:
    records += page
    return [_time(record) for record in page]


def _note(known: dict[int, str], answer: Any, read: Callable[[Any], tuple[int, str]]) -> list[int]:
    page = dict(read(entry) for entry in mapping.rows(answer, "list"))
    known.update(page)
    return list(page)


async def _pages(rest: Rest, path: str, symbol: str, since: int, until: int, take: Callable[[Any], list[int]], **more: Any) -> None:
    """Ask for page after page, each older than the one before; ``take`` returns the times in a page."""
    candles = path.endswith("kline")
    for _ in range(MAX_PAGES):
        window: dict[str, Any] = {"start": since, "end": until} if candles else {"startTime": since, "endTime": until}
        times = take(await rest.get(f"/v5/market/{path}", category="linear", symbol=symbol, limit=PAGE, **window, **more))
        if len(times) < PAGE or min(times) <= since:
            return
        until = min(times) - 1
    raise MappingError(path, "list", f"more than {MAX_PAGES} pages")

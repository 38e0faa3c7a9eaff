"""OKX's REST polls: schedule, volumes and open interest of the whole market; settlements and ratios symbol by symbol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import structlog

from producers.okx import mapping
from producers.venue.adapter import records
from producers.venue.adapter.base import MappingError, Market, Poll
from producers.venue.adapter.json_values import array, text, time_ms
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Rest, RestError
from schemas.codec.avro import Record

Polled = list[tuple[str, str, Record]]

STATISTICS = "/api/v5/rubik/stat/contracts"
ACCOUNTS = "long-short-account-ratio-contract"
TOP_POSITIONS = "long-short-position-ratio-contract-top-trader"
# The trading statistics allow 5 requests in 2 s, a quarter of the budget's unit.
STATISTICS_WEIGHT = 4
HISTORY_WEIGHT = 2
PAGE = 100
# Most pages. A day of 5-minute values is three; more pages than this mean that they do not get older.
MAX_PAGES = 500


def all_polls() -> list[Poll]:
    """Return the polls."""
    return [
        Poll("funding-rate", "funding", 60.0, True, _schedule),
        Poll("tickers", "market_indicators", 60.0, True, _volumes),
        Poll("open-interest", "market_indicators", 60.0, True, _open_interest),
        Poll("funding-rate-history", "funding", 600.0, False, _settled),
        Poll(ACCOUNTS, "market_indicators", 300.0, False, _accounts),
        Poll(TOP_POSITIONS, "market_indicators", 300.0, False, _top_positions),
    ]


def _rows(answer: Any, record: str, read: Callable[[Any], tuple[str, str, Record] | None]) -> Polled:
    return valid_rows(mapping.VENUE, record, array(answer, "data", record), read)


async def _schedule(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    answer = await rest.get("/api/v5/public/funding-rate", 2, instId="ANY")
    return _rows(
        answer, "funding-rate", lambda entry: (text(entry, "instId", "funding-rate"), "funding", mapping.funding_rate(entry, received))
    )


async def _volumes(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    def read(entry: Any) -> tuple[str, str, Record] | None:
        found = mapping.volume(entry)
        if found is None:
            return None
        time = time_ms(entry, "ts", "tickers", received)
        return found[0], "market_indicators", records.indicator("volume_24h", found[1], time, received)

    return _rows(await rest.get("/api/v5/market/tickers", instType="SWAP"), "tickers", read)


async def _open_interest(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    answer = await rest.get("/api/v5/public/open-interest", instType="SWAP")
    return _rows(
        answer,
        "open-interest",
        lambda entry: (text(entry, "instId", "open-interest"), "market_indicators", mapping.open_interest(entry, received)),
    )


async def _settled(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    found: Polled = []
    for market in markets:
        answer = await rest.get("/api/v5/public/funding-rate-history", HISTORY_WEIGHT, instId=market.symbol, limit=3)
        found += [(market.symbol, "funding", record) for record in settlements(answer, market.symbol, received)]
    return found


def settlements(answer: Any, symbol: str, received: int) -> list[Record]:
    """Return the ``funding`` records (without ``instrument``) of a funding-rate-history response, ascending."""
    records = [mapping.settled(entry, symbol, received) for entry in array(answer, "data", "funding-rate-history")]
    return sorted(records, key=_time)


async def _accounts(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    found: Polled = []
    for market in markets:
        answer = await rest.get(f"{STATISTICS}/{ACCOUNTS}", STATISTICS_WEIGHT, instId=market.symbol, period="5m", limit=1)
        found += [(market.symbol, "market_indicators", record) for record in account_ratios(answer, received)]
    return found


def account_ratios(answer: Any, received: int) -> list[Record]:
    """Return the ``market_indicators`` records of long accounts divided by short ones, ascending."""
    rows = [mapping.ratio(entry, ACCOUNTS, received) for entry in array(answer, "data", ACCOUNTS)]
    return [records.indicator("long_short_ratio", float(value), time, received) for time, value in sorted(rows)]


async def _top_positions(rest: Rest, markets: Sequence[Market], received: int) -> Polled:
    found: Polled = []
    for market in markets:
        answer = await rest.get(f"{STATISTICS}/{TOP_POSITIONS}", STATISTICS_WEIGHT, instId=market.symbol, period="5m", limit=1)
        found += [(market.symbol, "market_indicators", record) for record in top_positions(answer, received)]
    return found


def top_positions(answer: Any, received: int) -> list[Record]:
    """Return the ``market_indicators`` records of top traders' positions: long divided by short, and the share of longs, ascending."""
    rows = [mapping.ratio(entry, TOP_POSITIONS, received) for entry in array(answer, "data", TOP_POSITIONS)]
    found = []
    for time, value in sorted(rows):
        found.append(records.indicator("top_trader_long_short_ratio", float(value), time, received))
        found.append(records.indicator("top_trader_long_share", float(value / (value + Fraction(1))), time, received))
    return found


# --- the past --------------------------------------------------------------------------------------------------------


async def past(rest: Rest, symbol: str, since: int, until: int) -> list[tuple[str, Record]]:
    """Return (topic, record without ``instrument``) with event times in [since, until], ascending within each kind.

    A refused kind is logged and left out; the others are returned.
    """
    found: list[tuple[str, Record]] = []
    for topic, read in (
        ("funding", _past_funding),
        ("market_indicators", partial(_statistics, "open-interest-history", _open_interests)),
        ("market_indicators", partial(_statistics, ACCOUNTS, account_ratios)),
        ("market_indicators", partial(_statistics, TOP_POSITIONS, top_positions)),
    ):
        try:
            records = await read(rest, symbol, since, until)
        except (RestError, MappingError) as error:
            structlog.get_logger().warning("a part of the history is missing", venue=mapping.VENUE, symbol=symbol, error=str(error)[:300])
            continue
        found += [(topic, record) for record in sorted(records, key=_time) if since <= record["event_time"] <= until]
    return found


async def _past_funding(rest: Rest, symbol: str, since: int, until: int) -> list[Record]:
    found: list[Record] = []
    end = until + 1
    for _ in range(MAX_PAGES):  # ``after`` returns older rows
        answer = await rest.get("/api/v5/public/funding-rate-history", HISTORY_WEIGHT, instId=symbol, after=end, limit=PAGE)
        page = settlements(answer, symbol, until)
        found += page
        if len(page) < PAGE or page[0]["event_time"] <= since:
            return found
        end = page[0]["event_time"]
    raise MappingError("funding-rate-history", "data", f"more than {MAX_PAGES} pages")


def _open_interests(answer: Any, received: int) -> list[Record]:
    records = [mapping.open_interest_at(entry, received) for entry in array(answer, "data", "open-interest-history")]
    return sorted(records, key=_time)


def _time(record: Record) -> int:
    return int(record["event_time"])


async def _statistics(path: str, read: Callable[[Any, int], list[Record]], rest: Rest, symbol: str, since: int, until: int) -> list[Record]:
    """Return the 5-minute values in [since, until], page by page, each older than the one before."""
    found: list[Record] = []
    end = until
    for _ in range(MAX_PAGES):
        answer = await rest.get(f"{STATISTICS}/{path}", STATISTICS_WEIGHT, instId=symbol, period="5m", begin=since, end=end, limit=PAGE)
        page = read(answer, until)
        found += page
        if len(answer["data"]) < PAGE or page[0]["event_time"] <= since:
            return found
        end = page[0]["event_time"] - 1
    raise MappingError(path, "data", f"more than {MAX_PAGES} pages")

"""Binance USD-M's slow indicators over REST: open interest, long/short ratios, 24 h volume, settled funding.

The ``/futures/data`` statistics have 5 min periods. Their ``timestamp`` is the end of the period.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from producers.binance import mapping
from producers.venue.adapter.base import Market, Poll
from producers.venue.adapter.json_values import get, integer, number, positive, quantity, row_list, text
from producers.venue.adapter.records import funding, indicator
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Rest
from schemas.codec.avro import Record

PERIOD = "5m"
# (our indicator, path, field of the value); limit of the venue for these: 1,000 requests in 5 min an address.
STATISTICS = (
    ("long_short_ratio", "/futures/data/globalLongShortAccountRatio", "longShortRatio"),
    ("top_trader_long_short_ratio", "/futures/data/topLongShortPositionRatio", "longShortRatio"),
    ("top_trader_long_share", "/futures/data/topLongShortPositionRatio", "longAccount"),
    ("open_interest", "/futures/data/openInterestHist", "sumOpenInterestValue"),
)
# Two requests a period, so that a late value costs at most half a period.
STATISTICS_EVERY_S = 150.0
OPEN_INTEREST_EVERY_S = 30.0
# For hundreds of symbols: a quarter of the request weight, and 1,000 requests in 5 min with two a symbol.
OPEN_INTEREST_GAP_S = 0.1
STATISTICS_GAP_S = 0.7
VOLUME_EVERY_S = 60.0
SETTLED_EVERY_S = 300.0


def statistic(name: str, field: str, rows: Any, received: int) -> list[Record]:
    """Return the rows of a ``/futures/data`` response as records, ascending."""
    return [indicator(name, quantity(row, field, name), integer(row, "timestamp", name), received) for row in row_list(rows, name)]


def open_interest(answer: Any, mark_price: float, received: int) -> Record:
    """Return open interest in quote units: contracts (base units) times the mark price."""
    value = quantity(answer, "openInterest", "openInterest") * mark_price
    return indicator("open_interest", value, integer(answer, "time", "openInterest"), received)


def settled(row: Any, received: int) -> Record:
    """Return a ``funding`` record of a settled rate. Its event time is the settlement, which the venue stamps some ms late."""
    value = number(get(row, "fundingRate", "fundingRate"), "fundingRate", "fundingRate")
    return funding(integer(row, "fundingTime", "fundingRate"), received, settled=value)


def polls() -> list[Poll]:
    """Return the polls of USD-M."""
    return [
        Poll("openInterest", "market_indicators", OPEN_INTEREST_EVERY_S, False, _open_interest, OPEN_INTEREST_GAP_S),
        Poll("statistics", "market_indicators", STATISTICS_EVERY_S, False, _statistics, STATISTICS_GAP_S),
        Poll("ticker24h", "market_indicators", VOLUME_EVERY_S, True, _volumes),
        Poll("fundingRate", "funding", SETTLED_EVERY_S, True, _settled),
    ]


async def _open_interest(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    symbol, mark = markets[0].symbol, markets[0].memory.get("mark_price")
    answer = await rest.get("/fapi/v1/openInterest", symbol=symbol)
    if mark is None:  # its stream is not followed, or has no message yet
        mark = positive(await rest.get("/fapi/v1/premiumIndex", symbol=symbol), "markPrice", "premiumIndex")
    return [(symbol, "market_indicators", open_interest(answer, mark, received))]


async def _statistics(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    symbol = markets[0].symbol
    found = []
    answers: dict[str, Any] = {}
    for name, path, field in STATISTICS[:-1]:  # open interest itself is polled more often than the statistic changes
        if path not in answers:
            answers[path] = await rest.get(path, symbol=symbol, period=PERIOD, limit=1)
        found += [(symbol, "market_indicators", record) for record in statistic(name, field, answers[path], received)]
    return found


async def _volumes(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    rows = row_list(await rest.get("/fapi/v1/ticker/24hr", 40), "ticker/24hr")
    return valid_rows(mapping.VENUE, "ticker/24hr", rows, lambda row: mapping.volume_record(row, received))


async def _settled(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    rows = row_list(await rest.get("/fapi/v1/fundingRate", limit=1000), "fundingRate")  # the newest of all symbols
    return valid_rows(
        mapping.VENUE, "fundingRate", rows, lambda row: (text(row, "symbol", "fundingRate"), "funding", settled(row, received))
    )


async def history(rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
    """Return settled rates and 5 min open interest of a time range, ascending each."""
    answer = await rest.get("/fapi/v1/fundingRate", symbol=market.symbol, startTime=since, endTime=until, limit=1000)
    found: list[tuple[str, Record]] = [("funding", settled(row, until)) for row in row_list(answer, "fundingRate")]
    answers: dict[str, Any] = {}
    for name, path, field in STATISTICS:
        if path not in answers:
            answers[path] = await rest.get(path, symbol=market.symbol, period=PERIOD, startTime=since, endTime=until, limit=500)
        found += [("market_indicators", record) for record in statistic(name, field, answers[path], until)]
    return found

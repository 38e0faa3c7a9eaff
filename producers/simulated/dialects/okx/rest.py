"""The public REST interface of OKX, ``/api/v5``: path -> handler (``ANSWERS``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from producers.simulated.dialects.okx.messages import contracts, funding_rate, levels, open_interest, shift, size, ticker, trade_row
from producers.simulated.dialects.shared.dialect import VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.recording import decimal_step
from producers.simulated.wire.protocol import Query, VenueError

_BARS_MS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1H": 3_600_000,
    "4H": 14_400_000,
    "1Dutc": 86_400_000,
}
_PERIODS_MS = {"5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1H": 3_600_000, "4H": 14_400_000, "1D": 86_400_000}
_STATISTICS = "/api/v5/rubik/stat/contracts"


def _data(rows: list[Any]) -> dict[str, Any]:
    return {"code": "0", "msg": "", "data": rows}


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("instId"))
    if market is None:
        raise VenueError(200, 51001, "Instrument ID doesn't exist.")
    return market


def _some(venue: VenueView, query: Query) -> list[Market]:
    if "instId" in query and query.text("instId") != "ANY":
        return [_market(venue, query)]
    return [market for market in venue.markets.values() if market.listed]


def _time(venue: VenueView, query: Query) -> Any:
    return _data([{"ts": str(venue.now())}])


def _instruments(venue: VenueView, query: Query) -> Any:
    """Return the swaps; a closed one is suspended."""
    if query.text("instType") != "SWAP":
        return _data([])
    markets = [_market(venue, query)] if "instId" in query else list(venue.markets.values())
    return _data([_instrument(market, number) for number, market in enumerate(markets)])


def _instrument(market: Market, number: int) -> dict[str, Any]:
    facts, exponent = market.facts, shift(market)
    pair = market.symbol.removesuffix("-SWAP")
    value = decimal_step(exponent) if exponent > 0 else str(10**-exponent)
    smallest = contracts(decimal_step(facts.step_decimals), exponent)
    return {
        "alias": "",
        "auctionEndTime": "",
        "baseCcy": "",
        "category": "1",
        "contTdSwTime": "",
        "ctMult": "1",
        "ctType": "linear",
        "ctVal": value,
        "ctValCcy": facts.base_asset,
        "expTime": "",
        "futureSettlement": False,
        "instFamily": pair,
        "instId": market.symbol,
        "instIdCode": 10_459 + number,
        "instType": "SWAP",
        "lever": "100",
        "listTime": "1573557408000",
        "lotSz": smallest,
        "maxLmtSz": "100000000",
        "maxMktSz": "12000",
        "minSz": smallest,
        "optType": "",
        "quoteCcy": "",
        "ruleType": "normal",
        "settleCcy": facts.quote_asset,
        "state": "live" if market.listed else "suspend",
        "stk": "",
        "tickSz": decimal_step(facts.tick_decimals),
        "tradeQuoteCcyList": [],
        "uly": pair,
    }


def _rates(venue: VenueView, query: Query) -> Any:
    return _data([funding_rate(market) for market in _some(venue, query) if market.mark is not None and market.mark.get("T")])


def _rate_history(venue: VenueView, query: Query) -> Any:
    """Return settled rates, newest first. ``after`` requests older ones, ``before`` newer ones."""
    market = _market(venue, query)
    after, before = query.whole("after"), query.whole("before")
    rows = market.settled(None if before is None else before + 1, None if after is None else after - 1)
    return _data(
        [
            {
                "instType": "SWAP",
                "instId": market.symbol,
                "fundingRate": row["fundingRate"],
                "realizedRate": row["fundingRate"],
                "fundingTime": str(row["fundingTime"]),
                "method": "current_period",
                "formulaType": "noRate",
            }
            for row in reversed(rows[-query.limit(400, 400) :])
        ]
    )


def _interests(venue: VenueView, query: Query) -> Any:
    return _data([open_interest(market) for market in _some(venue, query) if market.interest is not None])


def _marks(venue: VenueView, query: Query) -> Any:
    rows = []
    for market in _some(venue, query):
        if market.mark is not None:
            rows.append({"instType": "SWAP", "instId": market.symbol, "markPx": market.mark["p"], "ts": str(market.clock)})
    return _data(rows)


def _tickers(venue: VenueView, query: Query) -> Any:
    return _data([ticker(market) for market in _some(venue, query)])


def _books(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    top = market.rest_book(query.limit(1, 400, "sz"))
    if top is None:
        return _data([])
    return _data([{"asks": levels(market, top.asks), "bids": levels(market, top.bids), "ts": str(top.time), "seqId": top.last}])


def _trades(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    return _data([{**trade_row(market, trade), "source": "0"} for trade in reversed(market.history.before(None, query.limit(100, 500)))])


def _history_trades(venue: VenueView, query: Query) -> Any:
    """Return trades older than ``after`` (type 1: an id, type 2: a time), newest first."""
    market, limit = _market(venue, query), query.limit(100, 100)
    kind, after, before = query.whole("type", 1), query.whole("after"), query.whole("before")
    if kind == 2:
        everything = market.history.page(None, None, None if after is None else after - 1, 1 << 30)
        found = [trade for trade in everything if before is None or trade.time > before][-limit:]
    else:
        found = [trade for trade in market.history.before(after, limit) if before is None or trade.number > before]
    return _data([{**trade_row(market, trade), "source": "0"} for trade in reversed(found)])


def _candles(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    step = _BARS_MS.get(query.text("bar", "1m"))
    if step is None:
        raise VenueError(400, 51000, "Parameter bar error")
    after, before = query.whole("after"), query.whole("before")
    bars = [
        bar
        for bar in market.statistics.bars(step, None, None, 1 << 30)
        if (after is None or bar.start < after) and (before is None or bar.start > before)
    ]
    rows = []
    for bar in reversed(bars[-query.limit(100, 300) :]):
        volume = f"{bar.volume:.4f}"
        confirmed = "1" if bar.start + step <= market.clock else "0"
        rows.append([str(bar.start), *market.prices(bar), size(market, volume), volume, f"{bar.quote:.4f}", confirmed])
    return _data(rows)


def _window(query: Query) -> tuple[int, int | None]:
    return query.whole("begin", 0) or 0, query.whole("end")


def _interest_history(venue: VenueView, query: Query) -> Any:
    """Return rows [time, contracts, base units, value], newest first."""
    market = _market(venue, query)
    begin, end = _window(query)
    points = market.interest_points(_PERIODS_MS.get(query.text("period", "5m"), 300_000), query.limit(100, 100), end)
    return _data([[str(time), size(market, amount), amount, value] for time, amount, value in reversed(points) if time >= begin])


def _ratios(venue: VenueView, query: Query) -> Any:
    """Return rows [time, longs divided by shorts], newest first."""
    market = _market(venue, query)
    begin, end = _window(query)
    name, step = query.path.rpartition("/")[2], _PERIODS_MS.get(query.text("period", "5m"), 300_000)
    points = market.ratio_points(name, step, query.limit(100, 100), end)
    return _data([[str(time), f"{long / (1 - long):.4f}"] for time, long in reversed(points) if time >= begin])


ANSWERS: dict[str, Callable[[VenueView, Query], Any]] = {
    "/api/v5/public/time": _time,
    "/api/v5/public/instruments": _instruments,
    "/api/v5/public/funding-rate": _rates,
    "/api/v5/public/funding-rate-history": _rate_history,
    "/api/v5/public/open-interest": _interests,
    "/api/v5/public/mark-price": _marks,
    "/api/v5/market/tickers": _tickers,
    "/api/v5/market/ticker": _tickers,
    "/api/v5/market/books": _books,
    "/api/v5/market/trades": _trades,
    "/api/v5/market/history-trades": _history_trades,
    "/api/v5/market/candles": _candles,
    "/api/v5/market/history-candles": _candles,
    f"{_STATISTICS}/open-interest-history": _interest_history,
    f"{_STATISTICS}/long-short-account-ratio-contract": _ratios,
    f"{_STATISTICS}/long-short-account-ratio-contract-top-trader": _ratios,
    f"{_STATISTICS}/long-short-position-ratio-contract-top-trader": _ratios,
}

"""Endpoints of the market: instruments, candles, rates, funding, trade summaries, heatmap, pulse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from sinks.console.auth.identity import needs
from sinks.console.context import Contextual
from sinks.console.data import market
from sinks.console.data.records import shown
from sinks.console.data.series import SERIES, SeriesName
from sinks.console.data.series import series as read_series
from sinks.console.http.json import json_response, tagged
from sinks.console.http.parameters import Instrument, Moment, Timeframe
from sinks.console.http.problems import Problem

Chosen = Annotated[SeriesName, Query(description="; ".join(f"{name}: {one.meaning}, {one.unit}" for name, one in SERIES.items()))]
Points = Annotated[int, Query(ge=10, le=market.MOST_CANDLES, description="Most candles; longer ranges are answered with coarser ones")]
From = Annotated[Moment, Query(description="First event time, inclusive: ISO 8601 or ms since 1970, UTC")]
Until = Annotated[Moment, Query(description="Event time before which the range ends: ISO 8601 or ms since 1970, UTC")]


def ranged(start: datetime, end: datetime, longest: timedelta | None = None) -> None:
    """Check a range. Raises Problem (422) if it is empty, runs backwards or is too long."""
    if end <= start:
        raise Problem(422, "query.end: must be after start", errors={"query.end": "must be after start"})
    if longest is not None and end - start > longest:
        reason = f"the range may be at most {longest.total_seconds() / 3600:g} h"
        raise Problem(422, f"query.end: {reason}", errors={"query.end": reason})


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["market"], dependencies=[Depends(needs("viewer"))])

    @routes.get("/instruments", summary="Every instrument, newest record of each")
    async def instruments(request: Request, context: Contextual) -> Response:
        async with context.database.reading() as connection:
            rows = await (await connection.execute("SELECT * FROM instruments_current ORDER BY instrument")).fetchall()
        return tagged(request, {"instruments": [shown(row) for row in rows]})

    @routes.get("/candles", summary="Candles with CVD of each, as columns; levels of detail by `points`")
    async def candles(
        request: Request,
        context: Contextual,
        instrument: Instrument,
        start: From,
        end: Until,
        timeframe: Timeframe = "1m",
        points: Points = 1_500,
    ) -> Response:
        ranged(start, end)
        chosen = market.timeframe_for(timeframe, start, end, points)
        if (end - start) / timedelta(days=1) > market.MOST_CANDLES:
            ranged(start, end, timedelta(days=market.MOST_CANDLES))
        async with context.database.reading() as connection:
            return tagged(request, await market.candles(connection, instrument, chosen, start, end))

    @routes.get("/series", summary="One value over time, as columns: open interest, funding rates, order-book imbalance and others")
    async def series(
        request: Request, context: Contextual, instrument: Instrument, name: Chosen, start: From, end: Until, points: Points = 1_500
    ) -> Response:
        ranged(start, end, SERIES[name].longest)
        async with context.database.reading() as connection:
            return tagged(request, await read_series(connection, instrument, name, start, end, points))

    @routes.get("/market/extent", summary="First and last event time of an instrument's minute bars")
    async def extent(context: Contextual, instrument: Instrument) -> Response:
        async with context.database.reading() as connection:
            return json_response({"instrument": instrument, **await market.extent(connection, instrument)})

    @routes.get("/funding/statistics", summary="Settled funding rates: count, mean, annualised; the last 7 days unless a range is given")
    async def funding(context: Contextual, instrument: Instrument, start: Moment | None = None, end: Moment | None = None) -> Response:
        until = end or datetime.now(UTC)
        since = start or until - timedelta(days=7)
        ranged(since, until)
        async with context.database.reading() as connection:
            return json_response(await market.funding_statistics(connection, instrument, since, until))

    @routes.get("/trades/summary", summary="Summary of a stretch: volume, buy share, delta, largest trade, VWAP, rate")
    async def summary(context: Contextual, instrument: Instrument, start: From, end: Until) -> Response:
        ranged(start, end, timedelta(days=1))
        async with context.database.reading() as connection:
            return json_response(await market.summary(connection, instrument, start, end))

    @routes.get("/trades/heatmap", summary="Traded volume by time and price, taker buys and sells apart")
    async def heatmap(
        context: Contextual,
        instrument: Instrument,
        start: From,
        end: Until,
        columns: Annotated[int, Query(ge=2, le=600)] = 180,
        price_step: Annotated[float, Query(ge=0.00001, le=0.1, description="Height of a level, as part of the price")] = market.PRICE_STEP,
    ) -> Response:
        ranged(start, end, market.MOST_HEATMAP)
        async with context.database.reading() as connection:
            return json_response(await market.heatmap(connection, instrument, start, end, columns, price_step))

    @routes.get("/trades/sizes", summary="Taker buys and sells by size of the trade: numbers and volumes")
    async def sizes(context: Contextual, instrument: Instrument, start: From, end: Until) -> Response:
        ranged(start, end, timedelta(days=1))
        async with context.database.reading() as connection:
            return json_response(await market.sizes(connection, instrument, start, end))

    @routes.get("/pulse", summary="Instruments by 24 h volume, breadth, top gainer")
    async def pulse(context: Contextual, at: Moment | None = None) -> Response:
        async with context.database.reading() as connection:
            return json_response(await market.pulse(connection, at or datetime.now(UTC)))

    return routes


def public_router() -> APIRouter:
    """Return the routes that need no login (S2 11.2: health and rates)."""
    routes = APIRouter(tags=["market"])

    @routes.get("/rates", summary="Newest mark price, index price and funding rate of every perpetual")
    async def rates(request: Request, context: Contextual) -> Response:
        async with context.database.reading() as connection:
            return tagged(request, {"rates": await market.rates(connection)})

    return routes

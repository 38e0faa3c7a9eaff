"""Endpoints of trading: positions valued now, open orders, execution cost, why a score came about."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from schemas.errors import UserError
from sinks.console.auth.identity import needs
from sinks.console.context import Contextual
from sinks.console.data import costs
from sinks.console.data.records import rendering, shown
from sinks.console.data.strategies import latest_scores
from sinks.console.http.json import json_response
from sinks.console.http.parameters import End, Instrument, MaybeInstrument, MaybeStrategy, MaybeText, Start
from sinks.console.http.problems import Problem
from sinks.queries.accounts import AccountFilter
from sinks.queries.scores import ScoreId, UnknownScore, find

Mode = Annotated[Literal["paper", "simulated", "testnet", "live"] | None, Query(description="Kind of account; all without it")]


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["trading"], dependencies=[Depends(needs("viewer"))])

    @routes.get("/positions", summary="Open positions of all accounts, valued at the newest quote")
    async def positions(context: Contextual, mode: Mode = None, strategy_id: MaybeStrategy = None, symbol: MaybeText = None) -> Response:
        wanted = AccountFilter(mode, strategy_id, symbol)
        rows = await context.database.accounts(lambda accounts: accounts.positions(wanted))
        return json_response({"positions": [shown(row) for row in rows]})

    @routes.get("/orders", summary="Open orders of all accounts, or the newest of any state")
    async def orders(
        context: Contextual,
        mode: Mode = None,
        strategy_id: MaybeStrategy = None,
        symbol: MaybeText = None,
        every: Annotated[bool, Query(description="Also orders that are final")] = False,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        wanted = AccountFilter(mode, strategy_id, symbol)
        rows = await context.database.accounts(lambda accounts: accounts.orders(wanted, every=every, limit=limit))
        return json_response({"orders": [shown(row) for row in rows]})

    @routes.get("/costs/summary", summary="Execution cost by strategy, instrument, mode and component; paper is what was expected")
    async def cost(
        context: Contextual, strategy_id: MaybeStrategy = None, instrument: MaybeInstrument = None, start: Start = None, end: End = None
    ) -> Response:
        async with context.database.reading() as connection:
            groups = await costs.summary(connection, strategy_id, instrument, start, end)
        components = {name: {"unit": unit, "meaning": meaning} for name, (_, unit, meaning) in costs.COMPONENTS.items()}
        return json_response({"components": components, "groups": groups})

    @routes.get("/scores/latest", summary="Newest score of every strategy of an instrument", tags=["signals"])
    async def latest(context: Contextual, instrument: Instrument) -> Response:
        async with context.database.reading() as connection:
            return json_response({"instrument": instrument, "strategies": await latest_scores(connection, instrument)})

    @routes.get("/scores/{score_id}", summary="Why: one evaluation with layers, gates and inputs, from the topic or the database")
    async def why(context: Contextual, score_id: Annotated[str, Path(max_length=200, pattern=r"^[^\x00]*$")]) -> Response:
        wanted = ScoreId.parse(score_id)
        try:
            record, place = await run_in_threadpool(find, context.settings, wanted)
        except UnknownScore as error:
            raise Problem(404, str(error)) from error
        except UserError as error:
            raise Problem(503, str(error)) from error
        return json_response({"score": rendering("scores")(record), "found_in": place})

    return routes

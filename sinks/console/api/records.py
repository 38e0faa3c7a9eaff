"""Lists of records: signals, scores, features, trades, fills, orders, liquidations, findings and more, each a table of a topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, create_model

from sinks.console.auth.identity import needs
from sinks.console.auth.roles import Role
from sinks.console.context import Contextual
from sinks.console.data.lists import ListQuery, page
from sinks.console.data.records import page_of
from sinks.console.http.json import json_response
from sinks.console.http.parameters import Cursor, End, Instrument, Limit, MaybeInstrument, MaybeStrategy, MaybeText, Start


@dataclass(frozen=True)
class RecordList:
    """One list.

    Attributes:
        path: Its path below /api/v1.
        topic: The topic whose table it reads.
        summary: What it lists.
        tag: Group in the OpenAPI document.
        filters: Columns that a query may fix.
        by_instrument: The table is so large that a query must name the instrument.
        flags: Boolean columns that a query may fix.
        role: Least role.
    """

    path: str
    topic: str
    summary: str
    tag: str
    filters: tuple[str, ...] = ()
    by_instrument: bool = False
    flags: tuple[str, ...] = ()
    role: Role = "viewer"


LISTS = (
    RecordList("/trades", "agg_trades", "Aggregated trades of an instrument", "market", (), True, ("buyer_is_maker", "backfilled")),
    RecordList("/quotes", "quotes", "Best bid and ask of an instrument", "market", (), True),
    RecordList("/depth", "depth", "Order books of an instrument, 20 levels", "market", (), True),
    RecordList("/funding", "funding", "Funding and mark price records of an instrument", "market", (), True),
    RecordList("/indicators", "market_indicators", "Open interest, long/short ratios, premium", "market", ("indicator",), True),
    RecordList("/liquidations", "liquidations", "Forced orders", "market", ("side",)),
    RecordList("/gaps", "gaps", "Missing stretches of market data", "market", ("stream", "kind"), False, ("repaired",)),
    RecordList("/quality", "data_quality", "Findings and scores of data quality", "market", ("stream", "kind", "severity")),
    RecordList("/features", "features", "Features of an instrument at each instant", "signals", (), True),
    RecordList(
        "/scores", "scores", "Evaluations: score by layers, gates, inputs", "signals", ("strategy_id",), True, ("signalled", "gate_passed")
    ),
    RecordList("/signals", "signals", "Signals", "signals", ("strategy_id", "direction", "tier")),
    RecordList(
        "/orders/history", "orders", "Order records, one a change of status", "trading", ("strategy_id", "position_id", "mode", "status")
    ),
    RecordList("/fills", "fills", "Fills", "trading", ("strategy_id", "position_id", "mode")),
    RecordList(
        "/positions/history", "positions", "Position records, one a change", "trading", ("strategy_id", "position_id", "mode", "status")
    ),
    RecordList(
        "/trades/closed", "trades_closed", "Closed trades with R, costs and reasons", "trading", ("strategy_id", "mode", "exit_reason")
    ),
    RecordList("/costs", "execution_cost_events", "Execution cost of closed trades", "trading", ("strategy_id", "mode")),
    RecordList("/reconciliations", "reconciliations", "Comparisons of the journal with the venue", "trading", ("account",)),
    RecordList("/risk/states", "risk_state", "States of the risk guard", "risk", ("account", "state")),
    RecordList("/risk/commands", "risk_commands", "Commands to the risk guard", "risk", ("account", "command")),
    RecordList(
        "/dead-letters",
        "dead_letters",
        "Records that could not be processed, with their bytes",
        "system",
        ("service", "source"),
        role="operator",
    ),
)
# Topics whose records name no instrument, or name it as something else.
_WITHOUT_INSTRUMENT = {"reconciliations", "risk_state", "risk_commands"}


def query_model(one: RecordList) -> type[BaseModel]:
    """Return the model of a list's query parameters; unknown parameters are errors."""
    fields: dict[str, Any] = {}
    if one.by_instrument:
        fields["instrument"] = (Instrument, ...)
    elif one.topic not in _WITHOUT_INSTRUMENT:
        fields["instrument"] = (MaybeInstrument, None)
    for name in one.filters:
        fields[name] = (MaybeStrategy if name == "strategy_id" else MaybeText, None)
    for name in one.flags:
        fields[name] = (bool | None, None)
    fields |= {"start": (Start, None), "end": (End, None), "cursor": (Cursor, None), "limit": (Limit, 100)}
    return create_model(f"{one.topic.title().replace('_', '')}Query", __config__=ConfigDict(extra="forbid"), **fields)


def _add(router: APIRouter, one: RecordList) -> None:
    model = query_model(one)

    async def endpoint(context: Contextual, query: BaseModel) -> Response:
        wanted = query.model_dump()
        start, end, cursor, limit = (wanted.pop(name) for name in ("start", "end", "cursor", "limit"))
        equal = {name: value for name, value in wanted.items() if value is not None}
        async with context.database.reading() as connection:
            return json_response(await page(connection, ListQuery(one.topic, equal, start, end, cursor, limit)))

    endpoint.__annotations__["query"] = Annotated[model, Query()]
    endpoint.__annotations__["context"] = Contextual
    endpoint.__annotations__["return"] = Response
    router.add_api_route(
        one.path,
        endpoint,
        methods=["GET"],
        name=f"list_{one.topic}",
        summary=one.summary,
        response_model=page_of(one.topic),
        tags=[one.tag],
        dependencies=[Depends(needs(one.role))],
    )


def router() -> APIRouter:
    """Return the routes of all lists."""
    routes = APIRouter()
    for one in LISTS:
        _add(routes, one)
    return routes

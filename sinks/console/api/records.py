"""Lists of records: signals, scores, labels, trades, fills, orders, liquidations, findings and more. Each is a table of a topic or a view.

Every list is also a file: ``PATH.csv`` has the same query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, create_model

from sinks.console.auth.identity import needs
from sinks.console.auth.roles import Role
from sinks.console.context import Contextual
from sinks.console.data.lists import ListQuery, as_csv, page
from sinks.console.data.records import RecordPage, page_of
from sinks.console.http.documented import Iso, Ms
from sinks.console.http.json import json_response
from sinks.console.http.parameters import Cursor, End, Instrument, Limit, MaybeInstrument, MaybeStrategy, MaybeText, Start

# Most rows of a CSV file, unless the query says less. A day of trades of a busy instrument is about so many.
MOST_ROWS = 1_000_000
FileRows = Annotated[
    int, Query(ge=1, le=MOST_ROWS, description="Most rows of the file. A last line says when it was cut, and has the cursor of the rest")
]
_CSV: dict[int | str, dict[str, Any]] = {
    200: {"description": "The list as CSV with a head, newest first", "content": {"text/csv": {"schema": {"type": "string"}}}}
}


class ScoreLabel(BaseModel):
    """A score with its label: what the mark price did after it, in the direction that was judged."""

    score_id: str
    instrument: str
    strategy_id: str
    event_time: Iso
    event_time_ms: Ms
    direction: str = Field(description="Direction that was judged: LONG or SHORT")
    score: float = Field(description="After gates, 0 to 100")
    ungated_score: float = Field(description="Of the layers alone, 0 to 100")
    warm: bool
    signalled: bool
    regime: str
    labelled_at: Iso
    labelled_at_ms: Ms
    entry: float | None = Field(description="Mark price at the instant, quote units")
    atr: float | None = Field(description="ATR at the instant, quote units")
    cost: float = Field(description="Cost of a round trip that the returns bear, fraction of the price")
    target_atr: float = Field(description="Distance of the target, ATR")
    stop_atr: float = Field(description="Distance of the stop, ATR")
    y_return_15m: float | None = Field(description="Net return after 15 min, fraction")
    y_return_30m: float | None = Field(description="Net return after 30 min, fraction")
    y_return_60m: float | None = Field(description="Net return after 60 min, fraction")
    mfe_r_60m: float | None = Field(description="Best excursion within 60 min, R")
    mae_r_60m: float | None = Field(description="Worst excursion within 60 min, R")
    y_binary_30m: int | None = Field(description="1: the target was touched within 30 min and no stop before it; 0: not")
    y_binary_60m: int | None = Field(description="1: the target was touched within 60 min and no stop before it; 0: not")
    reason: str | None = Field(description="Why numbers are null; null: all are known")


class LabelPage(RecordPage):
    """One page of labels."""

    records: list[ScoreLabel]


@dataclass(frozen=True)
class RecordList:
    """One list.

    Attributes:
        path: Its path below /api/v1.
        topic: The topic whose table it reads, or a view.
        summary: What it lists.
        tag: Group in the OpenAPI document.
        filters: Columns that a query may fix.
        by_instrument: The table is so large that a query must name the instrument.
        flags: Boolean columns that a query may fix.
        role: Least role.
        model: Of a page; None: that of the topic.
    """

    path: str
    topic: str
    summary: str
    tag: str
    filters: tuple[str, ...] = ()
    by_instrument: bool = False
    flags: tuple[str, ...] = ()
    role: Role = "viewer"
    model: type[BaseModel] | None = None


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
    RecordList(
        "/labels",
        "score_labels",
        "Labels of scores",
        "signals",
        ("strategy_id", "direction", "regime"),
        True,
        ("signalled", "warm"),
        model=LabelPage,
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


def query_model(one: RecordList, *, file: bool = False) -> type[BaseModel]:
    """Return the model of a list's query parameters (or of its file's); unknown parameters are errors."""
    fields: dict[str, Any] = {}
    if one.by_instrument:
        fields["instrument"] = (Instrument, ...)
    elif one.topic not in _WITHOUT_INSTRUMENT:
        fields["instrument"] = (MaybeInstrument, None)
    for name in one.filters:
        fields[name] = (MaybeStrategy if name == "strategy_id" else MaybeText, None)
    for name in one.flags:
        fields[name] = (bool | None, None)
    fields |= {"start": (Start, None), "end": (End, None), "cursor": (Cursor, None)}
    fields |= {"rows": (FileRows, 100_000)} if file else {"limit": (Limit, 100)}
    name = f"{one.topic.title().replace('_', '')}{'File' if file else ''}Query"
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _query(one: RecordList, query: BaseModel, limit: str) -> ListQuery:
    wanted = query.model_dump()
    start, end, cursor, most = (wanted.pop(name) for name in ("start", "end", "cursor", limit))
    return ListQuery(one.topic, {name: value for name, value in wanted.items() if value is not None}, start, end, cursor, most)


def _add(router: APIRouter, one: RecordList) -> None:
    async def endpoint(context: Contextual, query: BaseModel) -> Response:
        async with context.database.reading() as connection:
            return json_response(await page(connection, _query(one, query, "limit")))

    async def file(context: Contextual, query: BaseModel) -> Response:
        wanted = _query(one, query, "rows")
        headers = {
            "Content-Disposition": f'attachment; filename="{one.path.strip("/").replace("/", "-")}.csv"',
            "Cache-Control": "no-store",
            "X-Row-Limit": str(wanted.limit),
        }
        return StreamingResponse(await as_csv(context.database, wanted), headers=headers, media_type="text/csv; charset=utf-8")

    for call, model in ((endpoint, query_model(one)), (file, query_model(one, file=True))):
        call.__annotations__ |= {"query": Annotated[model, Query()], "context": Contextual, "return": Response}
    rights = [Depends(needs(one.role))]
    router.add_api_route(
        one.path,
        endpoint,
        methods=["GET"],
        name=f"list_{one.topic}",
        summary=one.summary,
        response_model=one.model or page_of(one.topic),
        tags=[one.tag],
        dependencies=rights,
    )
    router.add_api_route(
        f"{one.path}.csv",
        file,
        methods=["GET"],
        name=f"file_{one.topic}",
        summary=f"{one.summary}, as a CSV file",
        response_class=Response,
        responses=_CSV,
        tags=[one.tag],
        dependencies=rights,
    )


def router() -> APIRouter:
    """Return the routes of all lists."""
    routes = APIRouter()
    for one in LISTS:
        _add(routes, one)
    return routes

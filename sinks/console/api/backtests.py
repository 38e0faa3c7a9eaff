"""Endpoints of backtests: start a replay, follow it, read its report, compare two."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import FileResponse

from sinks.console.auth import audit
from sinks.console.auth.identity import Identity, User, needs
from sinks.console.auth.roles import at_least
from sinks.console.context import Context, Contextual
from sinks.console.data.backtests import runs
from sinks.console.data.backtests.jobs import MOST_RUNNING, compared
from sinks.console.data.backtests.process import TRADES
from sinks.console.data.backtests.request import BacktestRequest, files
from sinks.console.http.json import json_response
from sinks.console.http.parameters import Limit
from sinks.console.http.problems import Problem
from stream_apps.core.performance.comparison import LEAST_TRADES
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import StrategyConfig

Status = Literal["running", "done", "failed", "cancelled", "interrupted"]


async def _known(context: Context, backtest_id: UUID, *, result: bool = False) -> dict[str, Any]:
    async with context.database.own() as connection:
        found = await runs.one(connection, backtest_id, result=result)
    if found is None:
        raise Problem(404, f"no backtest {backtest_id}")
    return found


async def _report(context: Context, backtest_id: UUID, field: str) -> dict[str, Any]:
    found = await _known(context, backtest_id, result=True)
    if found["result"] is None:
        reason = f"this backtest is {found['status']}: it has no report"
        raise Problem(422, f"query.{field}: {reason}", errors={f"query.{field}": reason})
    report: dict[str, Any] = found["result"]
    return report


def _may_cancel(identity: Identity, run: dict[str, Any]) -> None:
    if run["user_name"] != identity.name and not at_least(identity.role, "operator"):
        raise Problem(403, f"this backtest is of {run['user_name']}; an operator may cancel it")


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["backtests"], dependencies=[Depends(needs("viewer"))])

    @routes.get("/backtests/sources", summary="What a backtest can be made of: files, strategies, models, fields")
    async def sources(context: Contextual) -> Response:
        async with context.database.reading() as connection:
            rows = await (await connection.execute("SELECT strategy_id FROM strategy_registry ORDER BY 1")).fetchall()
        replay = context.options.replay
        return json_response(
            {
                "sources": ["db", "topics", *(f"file:{name}" for name in files(context.options.replay_files))],
                "own": [row["strategy_id"] for row in rows],
                "shipped": [] if replay is None else replay.shipped,
                "models": list(MODELS),
                "fields": [name for name, kind in StrategyConfig.kinds().items() if kind in ("float", "int", "bool")],
                "most_running": MOST_RUNNING,
                "possible": replay is not None,
            }
        )

    @routes.get("/backtests", summary="Backtests, newest first")
    async def listed(
        context: Contextual, status: Status | None = None, cursor: Annotated[UUID | None, Query()] = None, limit: Limit = 50
    ) -> Response:
        async with context.database.own() as connection:
            rows = await runs.page(connection, cursor, status, limit + 1)
        shown = rows[:limit]
        return json_response({"records": shown, "next": shown[-1]["backtest_id"] if len(rows) > limit else None})

    @routes.post("/backtests", status_code=201, summary="Start a backtest: `perpflow replay` as a job")
    async def start(context: Contextual, identity: User, request: BacktestRequest) -> Response:
        async with audit.command(context.database, identity, "backtest.start", request.source) as entry:
            backtest_id = await context.backtests.begin(request, identity.name)
            entry.target, entry.after = str(backtest_id), request.model_dump(mode="json")
        return json_response({"backtest_id": str(backtest_id)}, 201)

    @routes.get("/backtests/compare", summary="Two reports beside each other, and what else differs")
    async def compare(context: Contextual, a: UUID, b: UUID) -> Response:
        found = compared(await _report(context, a, "a"), await _report(context, b, "b"))
        few = [f"{name}: {count}" for name, count in found["trades"].items() if count < LEAST_TRADES]
        verdict = f"fewer than {LEAST_TRADES} trades ({', '.join(few)}): no difference here means anything" if few else None
        return json_response({"a": str(a), "b": str(b), **found, "too_few": verdict})

    @routes.get("/backtests/{backtest_id}", summary="A backtest: state, progress, report")
    async def one(context: Contextual, backtest_id: UUID) -> Response:
        return json_response(await _known(context, backtest_id, result=True))

    @routes.get("/backtests/{backtest_id}/trades.csv", summary="Its closed trades as CSV", response_class=FileResponse)
    async def trades(context: Contextual, backtest_id: UUID) -> Response:
        await _known(context, backtest_id)
        path = context.backtests.folder(backtest_id) / TRADES
        if not path.is_file():
            raise Problem(404, "the files of this backtest are not on this machine")
        return FileResponse(path, media_type="text/csv", filename=f"backtest-{backtest_id}-trades.csv")

    @routes.post("/backtests/{backtest_id}/cancel", status_code=202, summary="Ask a backtest to end (SIGTERM)")
    async def cancel(context: Contextual, identity: User, backtest_id: UUID) -> Response:
        run = await _known(context, backtest_id)
        _may_cancel(identity, run)
        async with audit.command(context.database, identity, "backtest.cancel", str(backtest_id)):
            if run["status"] != "running":
                raise Problem(409, f"this backtest is {run['status']}")
            if not context.backtests.cancel(backtest_id, identity.name):
                raise Problem(409, "another console runs this backtest: cancel it there")
        return json_response({"backtest_id": str(backtest_id)}, 202)

    return routes

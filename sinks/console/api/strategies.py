"""Endpoints of strategies: list, plaza, one in detail, history, dry run; create, edit, pause, resume, deprecate, restore, add balance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import edits, revisions
from sinks.commands.strategies.history import history as history_of
from sinks.commands.strategies.log import read as read_log
from sinks.commands.strategies.revisions import PublishResult
from sinks.console.api.commanding import command, valid
from sinks.console.auth.identity import Identity, needs
from sinks.console.context import Context, Contextual
from sinks.console.data import compare
from sinks.console.data import strategies as data
from sinks.console.data.decide import decide
from sinks.console.data.records import rendering, shown, times
from sinks.console.http.json import json_response, tagged
from sinks.console.http.parameters import MaybeStrategy, Moment, StrategyId
from sinks.console.http.problems import Problem
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.core.signals.strategy_rules import check_together, validate

Answer = TypeVar("Answer")
Operator = Annotated[Identity, Depends(needs("operator"))]
_NOT_AT_CREATION = {name: reason for name, reason in edits.NOT_BY_EDIT.items() if name != "initial_balance"}
Change = Literal["pause", "resume", "deprecate", "restore"]


class NewStrategy(BaseModel):
    """A strategy to create."""

    model_config = ConfigDict(extra="forbid")

    strategy_id: str = Field(min_length=1, max_length=64)
    instrument: str = Field(max_length=64, examples=["BINANCE:BTCUSDT-PERP"])
    model: str = Field("v54_factory", max_length=32, description="Scoring model")
    fields: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of the strategy, as GET /strategies/{strategy_id} shows them"
    )
    note: str | None = Field(None, max_length=500, description="Reason, for the audit trail")


class StrategyChanges(BaseModel):
    """An edit of a strategy."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(ge=1, description="Revision on which the edit is based")
    fields: dict[str, Any] = Field(description="Changed fields")
    note: str | None = Field(None, max_length=500, description="Reason, for the audit trail")


class DryRun(BaseModel):
    """A decision to try."""

    model_config = ConfigDict(extra="forbid")

    strategy_id: str = Field(max_length=64, pattern=r"^[^\x00]*$")
    instrument: str | None = Field(
        None, max_length=64, pattern=r"^[^\x00]*$", description="One of the strategy's instruments; without it the main one"
    )
    fields: dict[str, Any] = Field(default_factory=dict, description="Fields to try instead of the strategy's own")
    at: Moment | None = Field(None, description="No instant after this one, ISO 8601 or ms since 1970; without it the newest")


class StatusRequest(BaseModel):
    """A change of a strategy's status."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(ge=1, description="Revision on which the change is based")
    note: str | None = Field(None, max_length=500, description="Reason, for the audit trail")


class BalanceRequest(StatusRequest):
    """Money to add."""

    amount: float = Field(ge=0.01, le=1e12, allow_inf_nan=False, description="Quote units")


class Switches(BaseModel):
    """Paper switches to set: a strategy that is off is paused, and gives no signals."""

    model_config = ConfigDict(extra="forbid")

    on: bool
    strategies: dict[str, Annotated[int, Field(ge=1)]] = Field(
        min_length=1, max_length=500, description="Strategy id -> revision on which the change is based"
    )
    note: str | None = Field(None, max_length=500, description="Reason, for the audit trail")


def _checked(given: Mapping[str, Any], refused: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the fields of a request. Raises Problem (422) for fields that an edit cannot set."""
    if errors := {f"body.fields.{name}": reason for name, reason in refused.items() if name in given}:
        raise Problem(422, "; ".join(f"{name}: {reason}" for name, reason in errors.items()), errors=errors)
    return given


def _publish(settings: Settings, config: StrategyConfig, by: str, note: str | None, revision: int) -> PublishResult:
    return revisions.publish(settings, [config], time.time_ns() // 1_000_000, by=by, note=note, expected={config.strategy_id: revision})


def _answer(published: PublishResult) -> dict[str, Any]:
    """Return what a command wrote."""
    (outcome,) = published.outcomes
    return {"written": outcome.written, "config_hash": config_hash(outcome.config), "strategy": _record(outcome.config)}


def _valid(settings: Settings, make: Callable[[], StrategyConfig]) -> StrategyConfig:
    """Return a configuration that the workers would take. Raises Problem (422) with the field of a broken rule."""

    def checked() -> StrategyConfig:
        config = make()
        validate(config)
        check_together(config, settings.groups)
        return config

    return valid(checked)


async def reading(read: Callable[[], Answer]) -> Answer:
    """Return what ``read`` reads from Kafka, in a thread. Raises Problem (503) with the reason when Kafka does not answer."""
    try:
        return await run_in_threadpool(read)
    except UserError as error:
        raise Problem(503, str(error)) from error


async def known_strategy(context: Context, strategy_id: str) -> StrategyConfig:
    """Return the newest revision of a strategy. Raises Problem: 404 for an unknown id, 503 when Kafka does not answer."""
    log = await reading(lambda: read_log(context.settings))
    config = log.newest.get(strategy_id)
    if config is None:
        raise Problem(404, f"no strategy {strategy_id!r}")
    return config


def _record(config: StrategyConfig) -> dict[str, Any]:
    """Return a revision as JSON values. One that is not written has no times."""
    record = config.to_record()
    return rendering("strategies")({**record, **{name: record[name] or None for name in ("event_time", "receive_time", "effective_time")}})


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["strategies"], dependencies=[Depends(needs("viewer"))])

    @routes.get("/strategies", summary="Newest revision of every strategy, with its open positions")
    async def listed(request: Request, context: Contextual) -> Response:
        async with context.database.reading() as connection:
            rows = await (
                await connection.execute(
                    "SELECT r.*, (SELECT count(*) FROM positions_current p WHERE p.strategy_id = r.strategy_id AND p.status IN ('open', 'tp1_hit'))"
                    " AS open_positions FROM strategy_registry r ORDER BY r.strategy_id"
                )
            ).fetchall()
        return tagged(request, {"strategies": [shown(row) for row in rows]})

    @routes.get("/plaza", summary="Strategies as cards: result on paper, status, open positions")
    async def plaza(
        context: Contextual,
        status: Annotated[Literal["running", "paused", "deprecated", "error"] | None, Query()] = None,
        strategy_id: MaybeStrategy = None,
    ) -> Response:
        async with context.database.reading() as connection:
            return json_response({"cards": await data.cards(connection, datetime.now(UTC), status, strategy_id)})

    @routes.get("/strategies/{strategy_id}", summary="Newest revision of a strategy, from the topic")
    async def one(context: Contextual, strategy_id: StrategyId) -> Response:
        config = await known_strategy(context, strategy_id)
        return json_response({"strategy": _record(config), "config_hash": config_hash(config)})

    @routes.get("/strategies/{strategy_id}/history", summary="Every revision: who, when, why, what it changed")
    async def history(context: Contextual, strategy_id: StrategyId) -> Response:
        entries = await reading(lambda: history_of(context.settings, strategy_id))
        if not entries:
            raise Problem(404, f"no strategy {strategy_id!r}")
        return json_response({"history": [{**entry.to_json(), **times(event_time=entry.event_time or None)} for entry in entries]})

    @routes.get("/strategies/{strategy_id}/differences", summary="Fields in which two revisions of a strategy differ")
    async def differences(
        context: Contextual,
        strategy_id: StrategyId,
        first: Annotated[int, Query(ge=1, le=2**31 - 1, description="Revision")],
        second: Annotated[int, Query(ge=1, le=2**31 - 1, description="The other one")],
    ) -> Response:
        entries = await reading(lambda: history_of(context.settings, strategy_id))
        if not entries:
            raise Problem(404, f"no strategy {strategy_id!r}")
        return json_response({"first": first, "second": second, "fields": compare.between(entries, first, second)})

    @routes.get("/compare", summary="Two strategies: the fields in which they differ, and their closed trades with counts and intervals")
    async def compared(
        context: Contextual,
        a: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$", description="Strategy id")],
        b: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$", description="The other one")],
        mode: Annotated[Literal["paper", "simulated", "testnet", "live"], Query(description="Kind of account")] = "paper",
    ) -> Response:
        one, other = await known_strategy(context, a), await known_strategy(context, b)
        async with context.database.reading() as connection:
            trades = [await data.closed_trades(connection, side.strategy_id, mode) for side in (one, other)]
        found = await run_in_threadpool(compare.results, *trades)
        sides = [{"strategy_id": side.strategy_id, "display_name": side.display_name, "revision": side.revision} for side in (one, other)]
        return json_response({"a": sides[0], "b": sides[1], "mode": mode, "fields": compare.fields(one, other), "trades": found})

    @routes.get("/paper/switches", summary="Whether each strategy is on, with the revision that a change of it needs")
    async def switches(context: Contextual) -> Response:
        log = await reading(lambda: read_log(context.settings))
        configs = sorted(log.newest.values(), key=lambda one: one.strategy_id)
        found = [
            {"strategy_id": one.strategy_id, "on": one.status == "running", "status": one.status, "revision": one.revision}
            for one in configs
        ]
        return json_response({"strategies": found})

    @routes.post("/paper/switches", summary="Switch strategies on or off together: all of them, or none")
    async def switch(context: Contextual, operator: Operator, request: Switches) -> Response:
        log = await reading(lambda: read_log(context.settings))
        if unknown := sorted(request.strategies.keys() - log.newest.keys()):
            raise Problem(404, f"no strategy {', '.join(map(repr, unknown))}")
        known = [log.newest[name] for name in sorted(request.strategies)]

        def call() -> PublishResult:
            wanted = [edits.with_status(one, "resume" if request.on else "pause") for one in known]
            now = time.time_ns() // 1_000_000
            return revisions.publish(context.settings, wanted, now, by=operator.name, note=request.note, expected=request.strategies)

        def answer(published: PublishResult) -> dict[str, Any]:
            return {
                "written": any(one.written for one in published.outcomes),
                "effective_time_ms": published.effective_time or None,
                "strategies": {
                    one.config.strategy_id: {"status": one.config.status, "revision": one.config.revision} for one in published.outcomes
                },
            }

        before = {one.strategy_id: {"status": one.status, "revision": one.revision} for one in known}
        target = ", ".join(sorted(request.strategies))
        return json_response(answer(await command(context, operator, "paper.switch", target, call, before, answer)))

    @routes.get("/paper/statistics", summary="Statistics of closed paper trades, each with its unit, or null with its reason")
    async def statistics(context: Contextual, strategy_id: MaybeStrategy = None, by_instrument: bool = False) -> Response:
        async with context.database.reading() as connection:
            trades = await data.closed_trades(connection, strategy_id, "paper")
            balance = await data.balance(connection, strategy_id)
            period = await data.evaluated(connection, strategy_id)
        ledger = data.ledger_of(trades, balance, period)
        found: dict[str, Any] = {
            "strategy_id": strategy_id,
            **times(start=ledger.since or None, end=ledger.until or None),
            "all": data.statistics(ledger),
        }
        if by_instrument:
            names = sorted({row["instrument"] for row in trades})
            parts = {name: [row for row in trades if row["instrument"] == name] for name in names}
            found["instruments"] = {
                name: data.statistics(data.ledger_of(rows, balance, (ledger.since, ledger.until))) for name, rows in parts.items()
            }
        return json_response(found)

    @routes.get("/paper/equity", summary="Equity curve of closed paper trades")
    async def equity(context: Contextual, strategy_id: MaybeStrategy = None) -> Response:
        async with context.database.reading() as connection:
            trades = await data.closed_trades(connection, strategy_id, "paper")
            balance = await data.balance(connection, strategy_id)
            period = await data.evaluated(connection, strategy_id)
        return json_response({"strategy_id": strategy_id, **data.equity(data.ledger_of(trades, balance, period))})

    @routes.post(
        "/decide",
        summary="Dry run: what a strategy, or an edit of it, would decide at the newest instant, and why; writes nothing",
        dependencies=[Depends(needs("user"))],
    )
    async def dry_run(context: Contextual, request: DryRun) -> Response:
        given = _checked(request.fields, edits.NOT_BY_EDIT)
        known = await known_strategy(context, request.strategy_id)
        config = _valid(context.settings, lambda: edits.edited(known, given)) if given else known
        async with context.database.reading() as connection:
            found = await decide(connection, config, request.at, context.settings.grid_ms, request.instrument)
        score, signal = found["score"], found["signal"]
        return json_response(
            {
                "dry_run": True,
                "status": config.status,
                **times(judged_at=score["event_time"], newest_instant=found["newest_instant_ms"]),
                "score": rendering("scores")(score),
                "signal": None if signal is None else rendering("signals")(signal),
            }
        )

    @routes.post("/strategies/check", summary="Check a new strategy without writing it; the answer has every field")
    async def check_new(context: Contextual, request: NewStrategy) -> Response:
        given = _checked(request.fields, _NOT_AT_CREATION)
        return json_response(
            {
                "strategy": _record(
                    _valid(context.settings, lambda: edits.new(request.strategy_id, request.instrument, request.model, given))
                )
            }
        )

    @routes.post("/strategies/{strategy_id}/check", summary="Check an edit without writing it")
    async def check_edit(context: Contextual, strategy_id: StrategyId, request: StrategyChanges) -> Response:
        given = _checked(request.fields, edits.NOT_BY_EDIT)
        known = await known_strategy(context, strategy_id)
        return json_response({"strategy": _record(_valid(context.settings, lambda: edits.edited(known, given)))})

    @routes.post("/strategies", status_code=201, summary="Create a strategy")
    async def create(context: Contextual, operator: Operator, request: NewStrategy) -> Response:
        given = _checked(request.fields, _NOT_AT_CREATION)

        def call() -> PublishResult:
            config = edits.new(request.strategy_id, request.instrument, request.model, given)
            return _publish(context.settings, config, operator.name, request.note, 0)

        published = await command(context, operator, "strategy.create", request.strategy_id, call, None, _answer)
        return json_response(_answer(published), 201 if published.outcomes[0].written else 200)  # the same again changes nothing

    @routes.patch("/strategies/{strategy_id}", summary="Change fields of a strategy")
    async def edit(context: Contextual, operator: Operator, strategy_id: StrategyId, request: StrategyChanges) -> Response:
        given = _checked(request.fields, edits.NOT_BY_EDIT)
        known = await known_strategy(context, strategy_id)

        def call() -> PublishResult:
            return _publish(context.settings, edits.edited(known, given), operator.name, request.note, request.revision)

        return json_response(_answer(await command(context, operator, "strategy.edit", strategy_id, call, _record(known), _answer)))

    @routes.post("/strategies/{strategy_id}/add-balance", summary="Add money to a strategy's paper account")
    async def add_balance(context: Contextual, operator: Operator, strategy_id: StrategyId, request: BalanceRequest) -> Response:
        known = await known_strategy(context, strategy_id)

        def call() -> PublishResult:
            return _publish(
                context.settings, edits.with_added_balance(known, request.amount), operator.name, request.note, request.revision
            )

        return json_response(_answer(await command(context, operator, "strategy.add-balance", strategy_id, call, _record(known), _answer)))

    @routes.post("/strategies/{strategy_id}/{change}", summary="Pause, resume, deprecate or restore a strategy")
    async def status(
        context: Contextual, operator: Operator, strategy_id: StrategyId, change: Annotated[Change, Path()], request: StatusRequest
    ) -> Response:
        known = await known_strategy(context, strategy_id)

        def call() -> PublishResult:
            return _publish(context.settings, edits.with_status(known, change), operator.name, request.note, request.revision)

        return json_response(_answer(await command(context, operator, f"strategy.{change}", strategy_id, call, _record(known), _answer)))

    return routes

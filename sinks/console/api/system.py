"""Endpoints of the system: liveness without login; the health tree, firing alerts and the notifier's test with it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psycopg
from fastapi import APIRouter, Depends, Response
from psycopg_pool import PoolTimeout

from schemas.errors import UserError
from sinks.console.api.commanding import command
from sinks.console.auth.identity import Operator, needs
from sinks.console.context import Context, Contextual
from sinks.console.data import prometheus
from sinks.console.data.records import times
from sinks.console.data.system import state
from sinks.console.http.json import json_response
from sinks.console.http.problems import Problem


async def database_health(context: Context) -> dict[str, Any]:
    """Return whether the database answers, and how fast (ms)."""
    began = time.perf_counter()
    try:
        async with context.database.reading() as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, PoolTimeout) as error:
        return {"ok": False, "reason": type(error).__name__}
    return {"ok": True, "answer_ms": round((time.perf_counter() - began) * 1000, 2)}


async def health_tree(context: Context) -> dict[str, Any]:
    """Return the state of all services, and of the system as the database shows it, if it answers."""
    now = datetime.now(UTC)
    found: dict[str, Any] = {
        "version": metadata.version("perpflow"),
        **times(time=now),
        "services": await prometheus.services(context.options.prometheus_url),
        "database": await database_health(context),
        "notifier": context.options.notifier is not None,
    }
    if found["database"]["ok"]:
        async with context.database.reading() as connection:
            found |= await state(connection)
    return found


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["system"])

    @routes.get("/health", summary="Whether the console works; no login")
    async def health(context: Contextual) -> Response:
        database = await database_health(context)
        now = datetime.now(UTC)
        status = "ok" if database["ok"] else "degraded"
        return json_response({"status": status, "database": database, **times(time=now)})

    @routes.get("/system", summary="Health tree: services, database, sinks, guards, data quality", dependencies=[Depends(needs("viewer"))])
    async def tree(context: Contextual) -> Response:
        return json_response(await health_tree(context))

    @routes.get("/alerts", summary="Alerts that fire or are about to, from Prometheus", dependencies=[Depends(needs("viewer"))])
    async def alerts(context: Contextual) -> Response:
        return json_response(await prometheus.alerts(context.options.prometheus_url))

    @routes.post("/notifier/test", summary="Send one test message to every channel of the notifier; the result of each")
    async def notifier_test(context: Contextual, operator: Operator) -> Response:
        path = context.options.notifier
        if path is None:
            raise Problem(409, "this console has no notifier: start it with `perpflow console --notifier FILE`")

        def call() -> list[dict[str, Any]]:
            # Loaded when it is needed: few consoles send messages, and its transport is large.
            from sinks.notifier.rules.config import ConfigError, load
            from sinks.notifier.service import send_test

            try:
                answers = send_test(load(path))
            except ConfigError as error:
                raise UserError(str(error)) from None
            return [{"channel": name, "sent": one.ok, "result": one.reason, "detail": one.detail} for name, one in answers.items()]

        channels = await command(context, operator, "notifier.test", path.name, call, None, lambda found: found)
        return json_response({"channels": channels})

    return routes

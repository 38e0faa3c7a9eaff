"""Endpoints of the system: liveness without login, the health tree and firing alerts with it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psycopg
from fastapi import APIRouter, Depends, Response
from psycopg_pool import PoolTimeout

from sinks.console.auth.identity import needs
from sinks.console.context import Context, Contextual
from sinks.console.data import prometheus
from sinks.console.data.records import times
from sinks.console.data.system import state
from sinks.console.http.json import json_response


async def database_health(context: Context) -> dict[str, Any]:
    """Return whether the database answers, and how fast (ms)."""
    began = time.perf_counter()
    try:
        async with context.database.reading() as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, PoolTimeout) as error:
        return {"ok": False, "reason": type(error).__name__}
    return {"ok": True, "answer_ms": round((time.perf_counter() - began) * 1000, 2)}


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
        now = datetime.now(UTC)
        found: dict[str, Any] = {
            "version": metadata.version("perpflow"),
            **times(time=now),
            "services": await prometheus.services(context.options.prometheus_url),
            "database": await database_health(context),
        }
        if found["database"]["ok"]:
            async with context.database.reading() as connection:
                found |= await state(connection)
        return json_response(found)

    @routes.get("/alerts", summary="Alerts that fire or are about to, from Prometheus", dependencies=[Depends(needs("viewer"))])
    async def alerts(context: Contextual) -> Response:
        return json_response(await prometheus.alerts(context.options.prometheus_url))

    return routes

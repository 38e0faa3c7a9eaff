"""Rows of ``console_backtests``: the stored runs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sinks.console.data.records import shown
from sinks.console.database import Connection, Row

# A job whose console has not written for so long has no console, and is over.
LOST_S = 60
_SHOWN = "backtest_id, user_name, created_at, finished_at, status, request, progress, error"
# Figures of the list, so that no list carries whole reports.
_FIGURES = (
    "CASE WHEN result IS NULL THEN NULL ELSE jsonb_build_object('trades', result #> '{all,statistics,trades}',"
    " 'net_r', result #> '{all,statistics,net_r}', 'win_rate', result #> '{all,statistics,win_rate}', 'strategies',"
    " jsonb_array_length(result -> 'strategies')) END AS figures"
)


async def add(connection: Connection, backtest_id: UUID, user: str, request: Any, place: str) -> None:
    """Add a run that begins."""
    await connection.execute(
        "INSERT INTO console_backtests (backtest_id, user_name, status, request, place) VALUES (%s, %s, 'running', %s, %s)",
        (backtest_id, user, Jsonb(request), place),
    )


async def running(connection: Connection) -> list[Row]:
    """Return id and place of the runs that are not over."""
    return await (
        await connection.execute("SELECT backtest_id, place FROM console_backtests WHERE status = 'running' ORDER BY created_at")
    ).fetchall()


async def beat(connection: Connection, backtest_id: UUID, progress: Any) -> None:
    """Write the progress of a run, and that its console lives."""
    await connection.execute(
        "UPDATE console_backtests SET progress = %s, beat_at = now() WHERE backtest_id = %s AND status = 'running'",
        (None if progress is None else Jsonb(progress), backtest_id),
    )


async def finish(connection: Connection, backtest_id: UUID, status: str, result: Any, error: str | None) -> None:
    """Write the end of a run. One that is over stays as it is."""
    await connection.execute(
        "UPDATE console_backtests SET status = %s, result = %s, error = %s, finished_at = now() WHERE backtest_id = %s AND status = 'running'",
        (status, None if result is None else Jsonb(result), error, backtest_id),
    )


async def interrupt_lost(connection: Connection) -> None:
    """End the runs of consoles that no longer exist."""
    await connection.execute(
        "UPDATE console_backtests SET status = 'interrupted', finished_at = now(), error = 'its console ended, and nobody watches the job'"
        " WHERE status = 'running' AND beat_at < now() - make_interval(secs => %s)",
        (LOST_S,),
    )


async def one(connection: Connection, backtest_id: UUID, *, result: bool = True) -> dict[str, Any] | None:
    """Return a run, with its report if ``result``; None for an unknown id."""
    columns = f"{_SHOWN}, result" if result else _SHOWN
    row = await (
        await connection.execute(f"SELECT {columns} FROM console_backtests WHERE backtest_id = %s", (backtest_id,))  # type: ignore[arg-type]
    ).fetchone()
    return None if row is None else {**shown(row), "backtest_id": str(row["backtest_id"])}


async def page(connection: Connection, before: UUID | None, status: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the runs after ``before`` (an id), newest first."""
    rows = await (
        await connection.execute(
            f"SELECT {_SHOWN}, {_FIGURES} FROM console_backtests WHERE (%(status)s::text IS NULL OR status = %(status)s)"  # type: ignore[arg-type]
            " AND (%(before)s::uuid IS NULL OR (created_at, backtest_id) <"
            "   (SELECT created_at, backtest_id FROM console_backtests WHERE backtest_id = %(before)s))"
            " ORDER BY created_at DESC, backtest_id DESC LIMIT %(limit)s",
            {"before": before, "status": status, "limit": limit},
        )
    ).fetchall()
    return [{**shown(row), "backtest_id": str(row["backtest_id"])} for row in rows]

"""The audit log: who did what, when, from where, with what result. Rows are only added; the role ``console`` cannot change one.

A change of the console's own tables uses ``change``: the row commits with the change, or not at all. A command that acts outside these tables (a topic,
an exchange) uses ``command``: a row stands before the command starts, so that no crash hides it, and a second one has the result.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from psycopg.types.json import Jsonb

from schemas.errors import UserError
from sinks.console.auth.actor import Identity
from sinks.console.database import Connection, Database
from sinks.console.http.problems import Problem

DONE, STARTED = "done", "started"
# Longer texts are cut: a target or reason is a name, not a document.
LONGEST = 2_000

_log = structlog.get_logger(service="console")


@dataclass
class Entry:
    """What an audited action fills in: its target and the state before and after, as JSON values without secrets."""

    target: str = ""
    before: Any = None
    after: Any = None
    outcome: str = DONE


def _text(value: str) -> str:
    # PostgreSQL's text holds neither NUL nor half of a surrogate pair.
    return value.replace("\0", "�").encode("utf-8", "replace").decode()[:LONGEST]


def _json(value: Any) -> Jsonb | None:
    if value is None:
        return None
    return Jsonb(json.loads(json.dumps(value, default=str).replace("\\u0000", "")))


async def record(connection: Connection, identity: Identity, action: str, target: str, before: Any, after: Any, outcome: str) -> None:
    """Add a row to the audit log, in the transaction of ``connection``.

    Args:
        identity: Who, and from where.
        action: Subject and verb: ``strategy.pause``, ``user.ban``.
        target: What it was done to: a name or id.
        before, after: State before and after, JSON values, or None. Never a password, token or code.
        outcome: ``done``, ``started``, ``refused: reason`` or ``failed: reason``.
    """
    await connection.execute(
        "INSERT INTO console_audit (user_name, address, action, target, before, after, outcome) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (_text(identity.name), _text(identity.address), action, _text(target), _json(before), _json(after), _text(outcome)),
    )
    _log.info("audit", user=identity.name, address=identity.address, action=action, target=target, outcome=outcome)


def _reason(error: BaseException) -> str:
    if isinstance(error, Problem):
        return f"refused: {error.status} {error.detail}"
    if isinstance(error, UserError):
        return f"refused: {error}"
    return f"failed: {type(error).__name__}"  # the text of an unexpected error may hold anything


@asynccontextmanager
async def change(database: Database, identity: Identity, action: str, target: str) -> AsyncIterator[tuple[Connection, Entry]]:
    """Yield a transaction and its entry. They commit together. After an error the transaction rolls back and the refusal is recorded alone."""
    entry = Entry(target)
    try:
        async with database.own() as connection:
            yield connection, entry
            await record(connection, identity, action, entry.target, entry.before, entry.after, entry.outcome)
    except (Problem, UserError) as error:
        async with database.own() as connection:
            await record(connection, identity, action, entry.target, entry.before, entry.after, _reason(error))
        raise


@asynccontextmanager
async def command(database: Database, identity: Identity, action: str, target: str) -> AsyncIterator[Entry]:
    """Record that a command starts, yield its entry, record its result. Without a database nothing starts (503)."""
    entry = Entry(target)
    async with database.own() as connection:
        await record(connection, identity, action, target, None, None, STARTED)
    try:
        yield entry
    except BaseException as error:
        entry.outcome = _reason(error)
        raise
    finally:
        async with database.own() as connection:
            await record(connection, identity, action, entry.target, entry.before, entry.after, entry.outcome)


async def page(
    connection: Connection,
    *,
    before_id: int | None,
    limit: int,
    user: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[dict[str, Any]]:
    """Return rows of the log, newest first: those below ``before_id``, of one user, of one action or subject (``user``), in [since, until)."""
    cursor = await connection.execute(
        "SELECT audit_id, at, user_name, address, action, target, before, after, outcome FROM console_audit"
        " WHERE (%(id)s::bigint IS NULL OR audit_id < %(id)s) AND (%(user)s::text IS NULL OR user_name = %(user)s)"
        " AND (%(action)s::text IS NULL OR action = %(action)s OR split_part(action, '.', 1) = %(action)s)"
        " AND (%(since)s::timestamptz IS NULL OR at >= %(since)s) AND (%(until)s::timestamptz IS NULL OR at < %(until)s)"
        " ORDER BY audit_id DESC LIMIT %(limit)s",
        {"id": before_id, "user": user, "action": action, "since": since, "until": until, "limit": limit},
    )
    return await cursor.fetchall()

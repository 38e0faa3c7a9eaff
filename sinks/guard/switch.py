"""The switch in the database: commands in force until they are lifted. It works without Kafka; the executor reads it before it opens a position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import LiteralString

import psycopg

from stream_apps.core.execution.account.guard import Command

EVERY_ACCOUNT = "*"
# Parameters: the account and EVERY_ACCOUNT.
IN_FORCE: LiteralString = (
    "SELECT command_id, command, given_at, by, reason FROM risk_switch WHERE lifted_at IS NULL AND account IN (%s, %s) ORDER BY given_at"
)


def holding(connection: psycopg.Connection, account: str) -> list[Command]:
    """Return the commands in force for an account, oldest first.

    Raises:
        psycopg.Error: the database does not answer; then no position may be opened.
    """
    return commands_of(connection.execute(IN_FORCE, (account, EVERY_ACCOUNT)).fetchall())


def commands_of(rows: Iterable[tuple[str, str, datetime, str, str]]) -> list[Command]:
    """Return the rows of ``IN_FORCE`` as commands."""
    return [Command(command_id, command, round(given.timestamp() * 1000), by, reason) for command_id, command, given, by, reason in rows]


def put(connection: psycopg.Connection, account: str, command: Command) -> None:
    """Put a command in force, once. A resume lifts the account's earlier commands."""
    at = datetime.fromtimestamp(command.time / 1000, UTC)
    with connection.transaction():
        if command.command == "resume":
            # A resume for one account does not lift the commands for all accounts.
            accounts: Sequence[str] = (account,)
            connection.execute(
                "UPDATE risk_switch SET lifted_at = %s, lifted_by = %s WHERE lifted_at IS NULL AND given_at <= %s AND account = ANY(%s)",
                (at, command.by, at, list(accounts)),
            )
        else:
            connection.execute(
                "INSERT INTO risk_switch (command_id, account, command, by, reason, given_at) VALUES (%s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (command_id) DO NOTHING",
                (command.command_id, account, command.command, command.by, command.reason, at),
            )

"""The switch in the database: commands that hold until they are lifted, for when Kafka is down. The executor reads it right before it opens anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg

from stream_apps.core.execution.account.guard import Command

EVERY_ACCOUNT = "*"


def holding(connection: psycopg.Connection, account: str) -> list[Command]:
    """Return the commands that hold for an account now, oldest first.

    Raises:
        psycopg.Error: the database cannot be asked; whoever opens positions must not.
    """
    rows = connection.execute(
        "SELECT command_id, command, given_at, by, reason FROM risk_switch WHERE lifted_at IS NULL AND account IN (%s, %s) ORDER BY given_at",
        (account, EVERY_ACCOUNT),
    ).fetchall()
    return [Command(command_id, command, round(given.timestamp() * 1000), by, reason) for command_id, command, given, by, reason in rows]


def put(connection: psycopg.Connection, account: str, command: Command) -> None:
    """Make a command hold (once), or, of a resume, lift what was given for this account until then."""
    at = datetime.fromtimestamp(command.time / 1000, UTC)
    with connection.transaction():
        if command.command == "resume":
            # A resume for one account leaves what was ordered for all of them.
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

"""Invitations: codes with which people register. A code holds for a number of uses and, if it says so, until a time."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from sinks.console.auth.roles import InvitedRole
from sinks.console.database import Connection

# Without 0, O, 1, I, L: people read codes aloud. 31^8 codes against 20 tries an hour.
_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
LENGTH = 8
_COLUMNS = "code, role, max_uses, used, expires_at, disabled, created_by, created_at"


def normalized(code: str) -> str:
    """Return a code as it is stored: upper case, without spaces and dashes; empty if it cannot be one."""
    text = code.upper().replace(" ", "").replace("-", "")
    return text if len(text) == LENGTH and all(letter in _LETTERS for letter in text) else ""


def status(row: dict[str, Any], now: datetime) -> str:
    """Return the state of an invitation: active, disabled, exhausted or expired."""
    if row["disabled"]:
        return "disabled"
    if row["used"] >= row["max_uses"]:
        return "exhausted"
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return "expired"
    return "active"


async def create(connection: Connection, role: InvitedRole, max_uses: int, expires_at: datetime | None, created_by: str) -> dict[str, Any]:
    """Add an invitation and return its row."""
    code = "".join(secrets.choice(_LETTERS) for _ in range(LENGTH))
    cursor = await connection.execute(
        f"INSERT INTO console_invitations (code, role, max_uses, expires_at, created_by) VALUES (%s, %s, %s, %s, %s) RETURNING {_COLUMNS}",
        (code, role, max_uses, expires_at, created_by),
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


async def page(connection: Connection, *, before: tuple[datetime, str] | None, limit: int) -> list[dict[str, Any]]:
    """Return invitations, newest first, below the (time, code) ``before``."""
    at, code = before or (None, None)
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM console_invitations WHERE %(at)s::timestamptz IS NULL OR (created_at, code) < (%(at)s, %(code)s)"
        " ORDER BY created_at DESC, code DESC LIMIT %(limit)s",
        {"at": at, "code": code, "limit": limit},
    )
    return await cursor.fetchall()


async def usable(connection: Connection, code: str) -> bool:
    """Return whether a code could be used now."""
    row = await (
        await connection.execute(
            "SELECT FROM console_invitations WHERE code = %s AND NOT disabled AND used < max_uses AND (expires_at IS NULL OR expires_at > now())",
            (normalized(code),),
        )
    ).fetchone()
    return row is not None


async def use(connection: Connection, code: str) -> InvitedRole | None:
    """Use a code once. Return its role, or None if it cannot be used. Of parallel calls only as many as it has uses left succeed."""
    row = await (
        await connection.execute(
            "UPDATE console_invitations SET used = used + 1 WHERE code = %s AND NOT disabled AND used < max_uses"
            " AND (expires_at IS NULL OR expires_at > now()) RETURNING role",
            (normalized(code),),
        )
    ).fetchone()
    return row["role"] if row is not None else None


async def used_by(connection: Connection, code: str, user_id: int) -> None:
    """Note who used a code."""
    await connection.execute("INSERT INTO console_invitation_uses (code, user_id) VALUES (%s, %s)", (normalized(code), user_id))


async def find(connection: Connection, code: str) -> dict[str, Any] | None:
    """Return an invitation, locked until the transaction ends."""
    cursor = await connection.execute(f"SELECT {_COLUMNS} FROM console_invitations WHERE code = %s FOR UPDATE", (normalized(code),))
    return await cursor.fetchone()


async def disable(connection: Connection, code: str) -> None:
    """Disable a code. Users who registered with it stay."""
    await connection.execute("UPDATE console_invitations SET disabled = true WHERE code = %s", (normalized(code),))


def masked(code: str) -> str:
    """Return a code for logs: enough to find it in the list of invitations, too little to use it."""
    text = normalized(code)
    return f"{text[:3]}*****" if text else "unknown code"

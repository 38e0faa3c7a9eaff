"""Sessions: one a login. The refresh token rotates with each use; an older one that comes back ends the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sinks.console.auth.credentials.tokens import SESSION_MOST_S, SESSION_S, fingerprint, issue_refresh
from sinks.console.database import Connection

# Two pages of one browser may refresh at once: the loser comes with the token before. Within this time that is no theft.
RACE_S = 10
# A program that logs in again and again keeps this many sessions. The oldest end.
MOST_SESSIONS = 100


@dataclass(frozen=True)
class Live:
    """A session that is valid now, with its user as the database has it."""

    session: UUID
    user_id: int
    name: str
    role: str


@dataclass(frozen=True)
class Rotated:
    """The result of a refresh: a new token, or why there is none.

    Attributes:
        live: The session; None if it is over.
        token: The new refresh token; None if there is none.
        raced: Another request used the same token a moment ago. Its answer has the new one.
        stolen: Name of the user whose session was revoked by this very call.
    """

    live: Live | None = None
    token: str | None = None
    raced: bool = False
    stolen: str | None = None


async def begin(
    connection: Connection, secret: bytes, user_id: int, password_hash: str, address: str, agent: str
) -> tuple[Live, str] | None:
    """Start a session. Return it with its refresh token, or None if the user was banned or the password changed since it was checked."""
    session = uuid4()
    token = issue_refresh(secret, session)
    row = await (
        await connection.execute(
            "WITH who AS (SELECT user_id, name, role FROM console_users WHERE user_id = %(user)s AND NOT banned AND password_hash = %(hash)s FOR SHARE),"
            " made AS (INSERT INTO console_sessions (session_id, user_id, refresh_hash, expires_at, address, agent)"
            " SELECT %(session)s, user_id, %(token)s, now() + %(life)s * interval '1 s', %(address)s, %(agent)s FROM who)"
            " SELECT * FROM who",
            {
                "user": user_id,
                "hash": password_hash,
                "session": session,
                "token": fingerprint(token),
                "life": SESSION_S,
                "address": address,
                "agent": agent,
            },
        )
    ).fetchone()
    if row is None:
        return None
    await connection.execute(
        "UPDATE console_sessions SET revoked_at = now() WHERE session_id IN (SELECT session_id FROM console_sessions"
        " WHERE user_id = %s AND revoked_at IS NULL ORDER BY rotated_at DESC OFFSET %s)",
        (user_id, MOST_SESSIONS),
    )
    await connection.execute("DELETE FROM console_sessions WHERE user_id = %s AND expires_at < now() - interval '30 days'", (user_id,))
    return Live(session, row["user_id"], row["name"], row["role"]), token


async def rotate(connection: Connection, secret: bytes, session: UUID, token: str) -> Rotated:
    """Exchange a refresh token for the next one. Of any number of calls with one token exactly one gets it.

    The UPDATE locks the row, and whoever waited for it finds another hash. ``token`` has a valid signature (``tokens.read_refresh``), so one that is
    neither the newest nor the one before, seconds ago, is an old one: it was copied, and the session ends.
    """
    after = issue_refresh(secret, session)
    row = await (
        await connection.execute(
            "UPDATE console_sessions s SET previous_hash = s.refresh_hash, refresh_hash = %(after)s, rotated_at = clock_timestamp(),"
            " expires_at = least(now() + %(life)s * interval '1 s', s.created_at + %(most)s * interval '1 s')"
            " FROM console_users u WHERE u.user_id = s.user_id AND s.session_id = %(session)s AND s.refresh_hash = %(before)s"
            " AND s.revoked_at IS NULL AND s.expires_at > now() AND NOT u.banned RETURNING u.user_id, u.name, u.role",
            {
                "after": fingerprint(after),
                "before": fingerprint(token),
                "session": session,
                "life": SESSION_S,
                "most": SESSION_MOST_S,
            },
        )
    ).fetchone()
    if row is not None:
        return Rotated(Live(session, row["user_id"], row["name"], row["role"]), after)
    # Whether it was a race is read in a new statement, which sees what the winner wrote.
    row = await (
        await connection.execute(
            "SELECT s.refresh_hash = %(hash)s AS newest,"
            " s.previous_hash = %(hash)s AND s.rotated_at > clock_timestamp() - %(race)s * interval '1 s' AS raced"
            " FROM console_sessions s JOIN console_users u USING (user_id)"
            " WHERE s.session_id = %(session)s AND s.revoked_at IS NULL AND s.expires_at > now() AND NOT u.banned",
            {"hash": fingerprint(token), "session": session, "race": RACE_S},
        )
    ).fetchone()
    if row is None:  # revoked, expired, banned
        return Rotated()
    if row["raced"]:
        return Rotated(raced=True)
    revoked = await (
        await connection.execute(
            "UPDATE console_sessions s SET revoked_at = now() FROM console_users u WHERE u.user_id = s.user_id AND s.session_id = %s"
            " AND s.revoked_at IS NULL AND s.refresh_hash <> %s RETURNING u.name",
            (session, fingerprint(token)),
        )
    ).fetchone()
    return Rotated(stolen=revoked["name"] if revoked else None)


async def live(connection: Connection, session: UUID) -> Live | None:
    """Return a session if it is valid now: neither revoked nor expired, of a user who is not banned."""
    row = await (
        await connection.execute(
            "SELECT user_id, name, role FROM console_sessions JOIN console_users USING (user_id)"
            " WHERE session_id = %s AND revoked_at IS NULL AND expires_at > now() AND NOT banned",
            (session,),
        )
    ).fetchone()
    return Live(session, row["user_id"], row["name"], row["role"]) if row is not None else None


async def of_user(connection: Connection, user_id: int) -> list[dict[str, Any]]:
    """Return the valid sessions of a user, newest use first."""
    cursor = await connection.execute(
        "SELECT session_id, created_at, rotated_at, expires_at, address, agent FROM console_sessions"
        " WHERE user_id = %s AND revoked_at IS NULL AND expires_at > now() ORDER BY rotated_at DESC",
        (user_id,),
    )
    return await cursor.fetchall()


async def revoke(connection: Connection, user_id: int, *, only: UUID | None = None, keep: UUID | None = None) -> int:
    """End sessions of a user: ``only`` one, or all, or all but ``keep``. Return how many were valid."""
    cursor = await connection.execute(
        "UPDATE console_sessions SET revoked_at = now() WHERE user_id = %(user)s AND revoked_at IS NULL AND expires_at > now()"
        " AND (%(only)s::uuid IS NULL OR session_id = %(only)s) AND (%(keep)s::uuid IS NULL OR session_id <> %(keep)s)",
        {"user": user_id, "only": only, "keep": keep},
    )
    return cursor.rowcount

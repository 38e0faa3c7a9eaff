"""The users: create, find, ban, change role and password. Nothing is deleted, so that names in the audit log keep their meaning."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors

from schemas.errors import UserError
from sinks.console.auth import sessions
from sinks.console.auth.actor import Identity
from sinks.console.auth.credentials import passwords
from sinks.console.auth.roles import Role, UserRole, manages
from sinks.console.database import Connection
from sinks.console.http.problems import Problem

# A name has no @, so that it never equals somebody's e-mail address. ASCII only: no two names look alike.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,39}", re.ASCII)
EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+", re.ASCII)
_COLUMNS = "user_id, name, email, password_hash, role, banned, totp_secret IS NOT NULL AS totp, created_at"


@dataclass(frozen=True)
class Member:
    """A row of ``console_users``. ``totp``: has a second factor."""

    user_id: int
    name: str
    email: str | None
    password_hash: str
    role: UserRole
    banned: bool
    totp: bool
    created_at: datetime

    def __repr__(self) -> str:
        return f"Member({self.user_id}, {self.name!r}, {self.role})"  # without the hash: this text may get into a log


def normalized_name(text: str) -> str:
    """Return a name in lower case.

    Raises:
        UserError: it is not a valid name.
    """
    name = text.strip().lower()
    if not NAME.fullmatch(name):
        raise UserError("name: expected 2 to 40 letters a-z, digits, dots, dashes or underscores, first a letter or digit")
    return name


def normalized_email(text: str | None) -> str | None:
    """Return an e-mail address in lower case; None for no text.

    Raises:
        UserError: it is not an address.
    """
    if not text or not text.strip():
        return None
    email = text.strip().lower()
    if len(email) > 254 or not EMAIL.fullmatch(email):
        raise UserError("email: expected an address such as name@example.com")
    return email


def check_password(password: str, name: str) -> None:
    """Raise UserError if a password is too weak."""
    if reason := passwords.weakness(password, name):
        raise UserError(f"password: {reason}")


def random_password() -> str:
    """Return a password of 120 random bits, for a user whose password is reset."""
    return secrets.token_urlsafe(15)


async def count(connection: Connection) -> int:
    """Return the number of users."""
    row = await (await connection.execute("SELECT count(*) AS n FROM console_users")).fetchone()
    assert row is not None
    return int(row["n"])


async def create(connection: Connection, name: str, email: str | None, password_hash: str, role: UserRole) -> Member:
    """Add a user. ``name`` and ``email`` are normalized.

    Raises:
        Problem: 409, another user has the name or address.
    """
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                f"INSERT INTO console_users (name, email, password_hash, role) VALUES (%s, %s, %s, %s) RETURNING {_COLUMNS}",
                (name, email, password_hash, role),
            )
            row = await cursor.fetchone()
    except errors.UniqueViolation as error:
        field = "email" if "email" in (error.diag.constraint_name or "") else "name"
        raise Problem(409, f"another user has this {field}", errors={f"body.{field}": "is taken"}) from None
    assert row is not None
    return Member(**row)


async def by_login(connection: Connection, text: str) -> Member | None:
    """Return the user with this name or e-mail address."""
    login = text.strip().lower()
    if not (NAME.fullmatch(login) or EMAIL.fullmatch(login)):
        return None  # whatever was typed stays out of the database
    row = await (
        await connection.execute(f"SELECT {_COLUMNS} FROM console_users WHERE name = %(login)s OR email = %(login)s", {"login": login})
    ).fetchone()
    return Member(**row) if row is not None else None


async def by_id(connection: Connection, user_id: int, *, lock: bool = False) -> Member | None:
    """Return a user. ``lock``: nobody else changes the row before the transaction ends."""
    row = await (
        await connection.execute(f"SELECT {_COLUMNS} FROM console_users WHERE user_id = %s{' FOR UPDATE' if lock else ''}", (user_id,))
    ).fetchone()
    return Member(**row) if row is not None else None


async def page(connection: Connection, *, after_id: int, limit: int) -> list[Member]:
    """Return users in order of their ids, from the first above ``after_id``."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM console_users WHERE user_id > %s ORDER BY user_id LIMIT %s", (after_id, limit)
    )
    return [Member(**row) for row in await cursor.fetchall()]


async def managed(connection: Connection, identity: Identity, user_id: int) -> Member:
    """Return a user whom ``identity`` may change, locked.

    Raises:
        Problem: 404, no such user; 403, the user's role is too high; 409, it is the very user who asks.
    """
    await _one_at_a_time(connection)
    member = await by_id(connection, user_id, lock=True)
    if member is None:
        raise Problem(404, f"no user {user_id}")
    if member.user_id == identity.user_id:
        raise Problem(409, "nobody changes their own rights here")
    if not manages(identity.role, member.role):
        raise Problem(403, f"{member.name} is {member.role}: {identity.role} may not change that user")
    return member


async def set_banned(connection: Connection, member: Member, banned: bool) -> None:
    """Ban a user, which ends all sessions, or lift the ban.

    Raises:
        Problem: 409, it is the last owner.
    """
    if banned:
        await _owner_stays(connection, member)
    await connection.execute("UPDATE console_users SET banned = %s WHERE user_id = %s", (banned, member.user_id))
    if banned:
        await sessions.revoke(connection, member.user_id)


async def set_role(connection: Connection, identity: Identity, member: Member, role: Role) -> None:
    """Give a user another role.

    Raises:
        Problem: 403, ``identity`` may not give it; 409, it is the last owner.
    """
    if not manages(identity.role, role):
        raise Problem(403, f"{identity.role} may not give the role {role}")
    if role != "owner":
        await _owner_stays(connection, member)
    await connection.execute("UPDATE console_users SET role = %s WHERE user_id = %s", (role, member.user_id))


async def set_password(connection: Connection, user_id: int, password_hash: str, *, only_if: str | None = None) -> bool:
    """Store a new hash. ``only_if``: the hash that it replaces; return False if that is no longer the stored one."""
    cursor = await connection.execute(
        "UPDATE console_users SET password_hash = %(new)s WHERE user_id = %(user)s AND (%(old)s::text IS NULL OR password_hash = %(old)s)",
        {"new": password_hash, "old": only_if, "user": user_id},
    )
    return cursor.rowcount == 1


async def _one_at_a_time(connection: Connection) -> None:
    """Changes of rights queue up: two owners who ban each other at once would leave none."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('console_users'))")


async def _owner_stays(connection: Connection, member: Member) -> None:
    if member.role != "owner" or member.banned:
        return
    row = await (
        await connection.execute(
            "SELECT EXISTS (SELECT FROM console_users WHERE role = 'owner' AND NOT banned AND user_id <> %s) AS other", (member.user_id,)
        )
    ).fetchone()
    if row is None or not row["other"]:
        raise Problem(409, f"{member.name} is the last owner")

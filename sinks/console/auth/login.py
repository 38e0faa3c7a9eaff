"""Checking a password and a second factor: limits, equal time for unknown names, the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog

from sinks.console.auth import audit, sessions, users
from sinks.console.auth.actor import Identity, guest
from sinks.console.auth.credentials import passwords, totp
from sinks.console.auth.service import Auth, login_needed
from sinks.console.auth.sessions import Live
from sinks.console.auth.users import Member
from sinks.console.database import Connection
from sinks.console.http.problems import Problem

_log = structlog.get_logger(service="console")
# One answer for an unknown name and a wrong password: it must not tell who is a user.
WRONG = "name or password is wrong"


@dataclass(frozen=True)
class Entered:
    """What a person typed."""

    login: str
    password: str = field(repr=False)
    code: str | None = field(default=None, repr=False)


async def check_login(auth: Auth, entered: Entered, address: str, agent: str) -> tuple[Member, Live, str]:
    """Check a login and start a session. Return the user, the session and its refresh token.

    Raises:
        Problem: 401, 403 (banned) or 429 (locked, or too many from this address).
    """
    await auth.limits.login(address)
    async with auth.database.own() as connection:
        member = await users.by_login(connection, entered.login)
    # An unknown name is locked like a known one, and it is never written down: it may be a password in the wrong field.
    key = member.name if member is not None else entered.login
    who = Identity(member.name, "guest", member.user_id, address) if member is not None else guest(address)
    await auth.limits.attempt(key)
    if not await passwords.matches(member.password_hash if member is not None else None, entered.password) or member is None:
        await _refused(auth, who, key, "password")
        raise login_needed(WRONG)
    if member.banned:
        await _note(auth, who, "refused: banned")
        raise Problem(403, "this user is banned")
    if member.totp:
        if entered.code is None:
            raise Problem(
                401, "the code of the second factor is needed", headers={"WWW-Authenticate": "Bearer"}, extra={"totp_required": True}
            )
        async with auth.database.own() as connection:
            right = await totp.consume(connection, member.user_id, entered.code)
        if not right:
            await _refused(auth, who, key, "second factor")
            raise Problem(401, "the code is wrong or was used", headers={"WWW-Authenticate": "Bearer"}, extra={"totp_required": True})
    stored = member.password_hash
    renewed = await passwords.hashed(entered.password) if passwords.outdated(stored) else None
    secret = await auth.secret()
    async with auth.database.own() as connection:
        if renewed is not None and await users.set_password(connection, member.user_id, renewed, only_if=stored):
            stored = renewed
        begun = await sessions.begin(connection, secret, member.user_id, stored, address, agent)
        if begun is not None:
            await audit.record(connection, who, "user.login", member.name, None, None, audit.DONE)
    if begun is None:  # banned, or a new password, since it was checked
        raise login_needed(WRONG)
    await auth.limits.succeeded(key)
    auth.joined()
    return member, *begun


async def verify_again(auth: Auth, identity: Identity, password: str, action: str, *, code: str | None = None) -> Member:
    """Check the password (and a code) of a user who is logged in. Failures count with those of the login.

    Raises:
        Problem: 403, the password or the code is wrong; 429, the name is locked.
    """
    await auth.limits.attempt(identity.name)
    async with auth.database.own() as connection:
        member = await users.by_id(connection, identity.user_id) if identity.user_id is not None else None
    if member is None or not await passwords.matches(member.password_hash, password):
        await _refused(auth, identity, identity.name, "password", action)
        raise Problem(403, "the password is wrong", errors={"body": "wrong password"})
    if code is not None:
        async with auth.database.own() as connection:
            right = await totp.consume(connection, member.user_id, code)
        if not right:
            await _refused(auth, identity, identity.name, "second factor", action)
            raise Problem(403, "the code is wrong or was used", errors={"body.code": "wrong or used"})
    await auth.limits.succeeded(identity.name)
    return member


async def lost_session(connection: Connection, auth: Auth, name: str, session: UUID, address: str) -> None:
    """Record that an old refresh token came back and that its session was revoked."""
    _log.warning("old refresh token came back; session revoked", user=name, session=str(session), address=address)
    await audit.record(connection, Identity(name, "guest", None, address), "session.theft", str(session), None, None, "revoked")


async def _refused(auth: Auth, who: Identity, key: str, reason: str, action: str = "user.login") -> None:
    locked = await auth.limits.failed(key)
    await _note(auth, who, f"refused: {reason}{'; locked for 15 minutes' if locked else ''}", action)


async def _note(auth: Auth, who: Identity, outcome: str, action: str = "user.login") -> None:
    async with auth.database.own() as connection:
        await audit.record(connection, who, action, who.name or "unknown name", None, None, outcome)

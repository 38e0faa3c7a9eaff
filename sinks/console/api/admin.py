"""Users, invitations and the audit log: /api/v1/admin. All of it needs the role admin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field

from sinks.console.api.auth import Body, Done
from sinks.console.auth import audit, invitations, sessions, users
from sinks.console.auth.credentials import passwords, totp
from sinks.console.auth.identity import Admin, Authenticated
from sinks.console.auth.roles import InvitedRole, UserRole, manages
from sinks.console.data.records import times
from sinks.console.http.documented import Iso, Ms, problems
from sinks.console.http.parameters import Cursor, End, Limit, MaybeText, Start
from sinks.console.http.problems import Problem


def _never_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


routes = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(_never_stored)])

UserId = Annotated[int, Path(ge=1, le=2**63 - 1)]
InvitationCode = Annotated[str, Path(max_length=32)]
_ERRORS = (401, 403, 422, 429, 503)


class AdminUser(BaseModel):
    """A user, as an admin sees it."""

    id: int
    name: str
    email: str | None
    role: UserRole
    banned: bool
    totp: bool = Field(description="Has a second factor")
    created_at: Iso
    created_at_ms: Ms


class Users(BaseModel):
    """A page of users."""

    records: list[AdminUser]
    next: str | None = Field(description="Cursor of the next page; null: this is the last one")


class Ban(Body):
    """Whether a user is banned."""

    banned: bool


class NewRole(Body):
    """The role of a user."""

    role: UserRole


class Reset(BaseModel):
    """A password that is shown once."""

    password: str


class Offer(Body):
    """A new invitation."""

    role: InvitedRole = "user"
    max_uses: int = Field(1, ge=1, le=1_000)
    days: float | None = Field(7, gt=0, le=3_650, description="Days until it expires; null: never")


class Invitation(BaseModel):
    """An invitation."""

    code: str
    role: InvitedRole
    max_uses: int
    used: int
    status: Literal["active", "disabled", "exhausted", "expired"]
    expires_at: Iso | None
    expires_at_ms: Ms | None
    created_by: str
    created_at: Iso
    created_at_ms: Ms


class Invitations(BaseModel):
    """A page of invitations, newest first."""

    records: list[Invitation]
    next: str | None


class AuditRow(BaseModel):
    """A row of the audit log."""

    id: int
    at: Iso
    at_ms: Ms
    user: str
    address: str
    action: str
    target: str
    before: Any
    after: Any
    outcome: str


class AuditPage(BaseModel):
    """A page of the audit log, newest first."""

    records: list[AuditRow]
    next: str | None


def _shown(member: users.Member) -> AdminUser:
    return AdminUser(
        id=member.user_id,
        name=member.name,
        email=member.email,
        role=member.role,
        banned=member.banned,
        totp=member.totp,
        **times(created_at=member.created_at),
    )


def _cursor(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Problem(422, "cursor: not one of this list", errors={"query.cursor": "not one of this list"})
    return int(text)


@routes.get("/users", responses=problems(*_ERRORS))
async def list_users(auth: Authenticated, identity: Admin, cursor: Cursor = None, limit: Limit = 100) -> Users:
    """List the users in the order in which they came."""
    async with auth.database.own() as connection:
        found = await users.page(connection, after_id=_cursor(cursor) or 0, limit=limit + 1)
    return Users(records=[_shown(one) for one in found[:limit]], next=str(found[limit - 1].user_id) if len(found) > limit else None)


@routes.put("/users/{user_id}/ban", responses=problems(400, 404, 409, 413, *_ERRORS))
async def ban(user_id: UserId, body: Ban, auth: Authenticated, identity: Admin) -> AdminUser:
    """Ban a user, which ends all sessions, or lift the ban. An admin may do it to lower roles, an owner to all."""
    async with audit.change(auth.database, identity, "user.ban" if body.banned else "user.unban", str(user_id)) as (connection, entry):
        member = await users.managed(connection, identity, user_id)
        entry.target, entry.before, entry.after = member.name, {"banned": member.banned}, {"banned": body.banned}
        await users.set_banned(connection, member, body.banned)
        changed = await users.by_id(connection, user_id)
        assert changed is not None
    auth.forget(user_id)
    return _shown(changed)


@routes.put("/users/{user_id}/role", responses=problems(400, 404, 409, 413, *_ERRORS))
async def role(user_id: UserId, body: NewRole, auth: Authenticated, identity: Admin) -> AdminUser:
    """Give a user another role. An admin gives roles below admin, an owner all."""
    async with audit.change(auth.database, identity, "user.role", str(user_id)) as (connection, entry):
        member = await users.managed(connection, identity, user_id)
        entry.target, entry.before, entry.after = member.name, {"role": member.role}, {"role": body.role}
        await users.set_role(connection, identity, member, body.role)
        changed = await users.by_id(connection, user_id)
        assert changed is not None
    auth.forget(user_id)
    return _shown(changed)


@routes.post("/users/{user_id}/reset", responses=problems(400, 404, 409, 413, *_ERRORS))
async def reset(user_id: UserId, auth: Authenticated, identity: Admin) -> Reset:
    """Give a user a random password, remove the second factor, end all sessions. The password is shown this once."""
    password = users.random_password()
    password_hash = await passwords.hashed(password)
    async with audit.change(auth.database, identity, "user.reset", str(user_id)) as (connection, entry):
        member = await users.managed(connection, identity, user_id)
        entry.target, entry.before, entry.after = member.name, {"totp": member.totp}, {"totp": False}
        await users.set_password(connection, user_id, password_hash)
        await totp.remove(connection, user_id)
        await sessions.revoke(connection, user_id)
    auth.forget(user_id)
    await auth.limits.succeeded(member.name)
    return Reset(password=password)


def _invitation(row: dict[str, Any], now: datetime) -> Invitation:
    return Invitation(
        code=row["code"],
        role=row["role"],
        max_uses=row["max_uses"],
        used=row["used"],
        status=invitations.status(row, now),
        created_by=row["created_by"],
        **times(created_at=row["created_at"], expires_at=row["expires_at"]),
    )


@routes.post("/invitations", status_code=201, responses=problems(400, 413, *_ERRORS))
async def create_invitation(body: Offer, auth: Authenticated, identity: Admin) -> Invitation:
    """Create an invitation. An admin invites roles below admin, an owner all but owner."""
    now = datetime.now(UTC)
    async with audit.change(auth.database, identity, "invitation.create", "") as (connection, entry):
        entry.after = {"role": body.role, "max_uses": body.max_uses, "days": body.days}
        if not manages(identity.role, body.role):
            raise Problem(403, f"{identity.role} may not invite the role {body.role}")
        expires_at = now + timedelta(days=body.days) if body.days is not None else None
        row = await invitations.create(connection, body.role, body.max_uses, expires_at, identity.name)
        entry.target = invitations.masked(row["code"])
    return _invitation(row, now)


@routes.get("/invitations", responses=problems(*_ERRORS))
async def list_invitations(auth: Authenticated, identity: Admin, cursor: Cursor = None, limit: Limit = 100) -> Invitations:
    """List the invitations, newest first."""
    before = None
    if cursor is not None:
        micros, _, code = cursor.partition("-")
        number = _cursor(micros)
        assert number is not None
        before = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=min(number, 2**53)), invitations.normalized(code))
    now = datetime.now(UTC)
    async with auth.database.own() as connection:
        rows = await invitations.page(connection, before=before, limit=limit + 1)
    following = None
    if len(rows) > limit:
        last = rows[limit - 1]
        following = f"{(last['created_at'] - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)}-{last['code']}"
    return Invitations(records=[_invitation(row, now) for row in rows[:limit]], next=following)


@routes.delete("/invitations/{code}", responses=problems(404, *_ERRORS))
async def disable_invitation(code: InvitationCode, auth: Authenticated, identity: Admin) -> Done:
    """Disable an invitation. Users who registered with it stay."""
    async with audit.change(auth.database, identity, "invitation.disable", invitations.masked(code)) as (connection, entry):
        row = await invitations.find(connection, code)
        if row is None:
            raise Problem(404, "no such invitation")
        entry.before, entry.after = {"disabled": row["disabled"]}, {"disabled": True}
        await invitations.disable(connection, code)
    return Done()


@routes.get("/audit", responses=problems(*_ERRORS))
async def audit_log(
    auth: Authenticated,
    identity: Admin,
    cursor: Cursor = None,
    limit: Limit = 100,
    user: Annotated[MaybeText, Query(description="Only rows of this user")] = None,
    action: Annotated[MaybeText, Query(description="Only this action (user.ban), or this subject (user)")] = None,
    start: Start = None,
    end: End = None,
) -> AuditPage:
    """Return the audit log, newest first: every command and login, with who, when, from where, before, after and outcome."""
    async with auth.database.own() as connection:
        rows = await audit.page(connection, before_id=_cursor(cursor), limit=limit + 1, user=user, action=action, since=start, until=end)
    data = [
        AuditRow(
            id=row["audit_id"],
            user=row["user_name"],
            **times(at=row["at"]),
            **{name: row[name] for name in ("address", "action", "target", "before", "after", "outcome")},
        )
        for row in rows[:limit]
    ]
    return AuditPage(records=data, next=str(data[-1].id) if len(rows) > limit else None)


def router() -> APIRouter:
    """Return the routes."""
    return routes

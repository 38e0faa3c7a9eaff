"""Login and account: /api/v1/auth."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from sinks.console.auth import audit, invitations, sessions, users
from sinks.console.auth.actor import Identity, guest
from sinks.console.auth.credentials import passwords, totp
from sinks.console.auth.credentials.tokens import ACCESS_S, Claims, TokenError, issue_access, read_refresh
from sinks.console.auth.identity import Authenticated, Guest, Viewer, address_of
from sinks.console.auth.login import Entered, check_login, lost_session, verify_again
from sinks.console.auth.roles import UserRole
from sinks.console.auth.service import Auth, login_needed
from sinks.console.data.records import times
from sinks.console.http.cookies import clear_cookies, refresh_cookie, set_cookies
from sinks.console.http.documented import Iso, Ms, problems
from sinks.console.http.problems import Problem


def _never_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


routes = APIRouter(prefix="/auth", tags=["login"], dependencies=[Depends(_never_stored)])

# Longer than any allowed value, so that a wrong one gets its own reason; short enough to cost nothing.
Text = Annotated[str, StringConstraints(min_length=1, max_length=320)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=1_024)]
Code = Annotated[SecretStr, Field(min_length=6, max_length=16, description="Six digits of the authenticator app; each counts once")]
Cookie = Annotated[bool, Field(description="True: the tokens come as httpOnly cookies, for a page. False: in the body, for a program.")]


class UserView(BaseModel):
    """The user who is logged in."""

    id: int | None = Field(description="Null while the console is open to everybody on this machine")
    name: str
    email: str | None = None
    role: str
    anonymous: bool = Field(False, description="The console is open: everybody on this machine reads without login")
    totp: bool = Field(False, description="Has a second factor")
    created_at: Iso | None = None
    created_at_ms: Ms | None = None


class Tokens(BaseModel):
    """A new pair of tokens."""

    access_token: str | None = Field(description="Null if it is in a cookie")
    refresh_token: str | None = Field(description="Null if it is in a cookie. It counts once")
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(ACCESS_S, description="Life of the access token, s")
    user: UserView


class Body(BaseModel):
    """A request. An unknown field is an error, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Registration(Body):
    """A new user with an invitation."""

    name: Text
    password: Password
    invitation: Text
    email: Text | None = None
    cookie: Cookie = False


class Login(Body):
    """Name or e-mail address, password, and the second factor if the user has one."""

    name: Text
    password: Password
    totp: Code | None = None
    cookie: Cookie = False


class Refresh(Body):
    """The refresh token of a program. A page sends it as a cookie."""

    refresh_token: Annotated[SecretStr, Field(max_length=4_096)] | None = None


class NewPassword(Body):
    """The password to change."""

    current: Password
    new: Password


class Again(Body):
    """The password once more: a session alone must not change how its user logs in."""

    password: Password


class Confirmation(Body):
    """The first code of a new second factor."""

    code: Code


class Removal(Again):
    """What removes the second factor."""

    code: Code


class Enrolment(BaseModel):
    """A second factor that waits for its first code."""

    secret: str = Field(description="Base32, to type in")
    uri: str = Field(description="otpauth:// address, to show as a QR code")


class SessionView(BaseModel):
    """A valid session."""

    id: UUID
    current: bool = Field(description="It is the session of this request")
    created_at: Iso
    created_at_ms: Ms
    used_at: Iso
    used_at_ms: Ms
    expires_at: Iso
    expires_at_ms: Ms
    address: str
    agent: str


class Sessions(BaseModel):
    """The valid sessions of a user, all of them."""

    records: list[SessionView]
    next: None = None


class Done(BaseModel):
    """The command is done."""

    ok: Literal[True] = True


async def _answer(
    auth: Auth, request: Request, response: Response, live: sessions.Live, refresh: str, user: UserView, *, cookie: bool
) -> Tokens:
    access = issue_access(await auth.secret(), Claims(live.user_id, live.name, live.role, live.session))
    if not cookie:
        return Tokens(access_token=access, refresh_token=refresh, user=user)
    set_cookies(request, response, access, refresh)
    return Tokens(access_token=None, refresh_token=None, user=user)


def _view(member: users.Member) -> UserView:
    return UserView(
        id=member.user_id,
        name=member.name,
        email=member.email,
        role=member.role,
        totp=member.totp,
        **times(created_at=member.created_at),
    )


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")[:200]


@routes.post("/register", status_code=201, responses=problems(400, 403, 409, 413, 422, 429, 503))
async def register(body: Registration, request: Request, response: Response, auth: Authenticated) -> Tokens:
    """Create a user with an invitation, and log in."""
    address = address_of(request)
    await auth.limits.registration(address)
    name, email = users.normalized_name(body.name), users.normalized_email(body.email)
    password = body.password.get_secret_value()
    users.check_password(password, name)
    refused = Problem(400, "the invitation is unknown, used up, expired or disabled", errors={"body.invitation": "cannot be used"})
    async with auth.database.own() as connection:
        if not await invitations.usable(connection, body.invitation):
            await audit.record(connection, guest(address), "user.register", name, None, None, "refused: invitation")
            usable = False
        else:
            usable = True
    if not usable:
        raise refused
    password_hash = await passwords.hashed(password)
    secret = await auth.secret()
    async with audit.change(auth.database, Identity(name, "guest", None, address), "user.register", name) as (connection, entry):
        role: UserRole | None = await invitations.use(connection, body.invitation)
        if role is None:
            raise refused
        member = await users.create(connection, name, email, password_hash, role)
        await invitations.used_by(connection, body.invitation, member.user_id)
        begun = await sessions.begin(connection, secret, member.user_id, password_hash, address, _agent(request))
        assert begun is not None
        entry.after = {"name": name, "email": email, "role": role}
    auth.joined()
    return await _answer(auth, request, response, *begun, _view(member), cookie=body.cookie)


@routes.post("/login", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def login(body: Login, request: Request, response: Response, auth: Authenticated) -> Tokens:
    """Log in. Five failures lock the name for 15 minutes."""
    code = body.totp.get_secret_value() if body.totp is not None else None
    entered = Entered(body.name, body.password.get_secret_value(), code)
    member, live, refresh = await check_login(auth, entered, address_of(request), _agent(request))
    return await _answer(auth, request, response, live, refresh, _view(member), cookie=body.cookie)


@routes.post("/refresh", responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def refresh(request: Request, response: Response, auth: Authenticated, body: Refresh | None = None) -> Tokens:
    """Exchange the refresh token for a new pair.

    It counts once. 409: another request used it a moment ago; a page already has the new cookies. Later, an old token ends the session: it was copied.
    """
    address = address_of(request)
    await auth.limits.refresh(address)
    given = body.refresh_token if body is not None else None
    token = given.get_secret_value() if given is not None else request.cookies.get(refresh_cookie(request), "")
    if not token:
        raise login_needed("no refresh token")
    secret = await auth.secret()
    try:
        session = read_refresh(secret, token)
    except TokenError as error:
        raise login_needed(str(error)) from None
    async with auth.database.own() as connection:
        rotated = await sessions.rotate(connection, secret, session, token)
        if rotated.stolen is not None:
            await lost_session(connection, auth, rotated.stolen, session, address)
        member = await users.by_id(connection, rotated.live.user_id) if rotated.live is not None else None
    if rotated.raced:
        raise Problem(409, "another request has just used this refresh token", headers={"Retry-After": "1"})
    if rotated.live is None or rotated.token is None or member is None:
        raise login_needed("the session is over; log in again")
    return await _answer(auth, request, response, rotated.live, rotated.token, _view(member), cookie=given is None)


@routes.post("/logout", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def logout(request: Request, response: Response, auth: Authenticated, identity: Guest, body: Refresh | None = None) -> Done:
    """End the session of the access token, or of the refresh token if the access token has expired."""
    session, user_id = identity.session, identity.user_id
    given = body.refresh_token if body is not None else None
    token = given.get_secret_value() if given is not None else request.cookies.get(refresh_cookie(request), "")
    async with auth.database.own() as connection:
        if session is None and token:
            try:
                session = read_refresh(await auth.secret(), token)
                live = await sessions.live(connection, session)
            except TokenError:
                live = None
            user_id = live.user_id if live is not None else None
            if live is not None:
                identity = Identity(live.name, "guest", user_id, identity.address, session)
        if session is not None and user_id is not None:
            await sessions.revoke(connection, user_id, only=session)
            await audit.record(connection, identity, "user.logout", identity.name, None, None, audit.DONE)
            auth.forget(user_id)
    clear_cookies(request, response)
    return Done()


@routes.get("/me", responses=problems(401, 429, 503))
async def me(auth: Authenticated, identity: Viewer) -> UserView:
    """Return who is logged in. While the console is open this is an anonymous viewer."""
    if identity.user_id is None:
        return UserView(id=None, name=identity.name, role=identity.role, anonymous=True)
    async with auth.database.own() as connection:
        member = await users.by_id(connection, identity.user_id)
    if member is None:
        raise login_needed("the session is over")
    return _view(member)


def _user_id(identity: Identity) -> int:
    if identity.user_id is None:
        raise Problem(403, "the console is open and has no users; there is no account to change")
    return identity.user_id


@routes.post("/password", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def password(body: NewPassword, auth: Authenticated, identity: Viewer) -> Done:
    """Change the password. All other sessions of the user end."""
    user_id = _user_id(identity)
    new = body.new.get_secret_value()
    users.check_password(new, identity.name)
    before = await verify_again(auth, identity, body.current.get_secret_value(), "user.password")
    password_hash = await passwords.hashed(new)
    async with audit.change(auth.database, identity, "user.password", identity.name) as (connection, _):
        if not await users.set_password(connection, user_id, password_hash, only_if=before.password_hash):
            raise Problem(409, "the password was changed a moment ago")
        await sessions.revoke(connection, user_id, keep=identity.session)
    auth.forget(user_id)
    return Done()


@routes.post("/totp", responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def enrol(body: Again, auth: Authenticated, identity: Viewer) -> Enrolment:
    """Start a second factor. It counts from its first code on (/totp/confirm)."""
    user_id = _user_id(identity)
    member = await verify_again(auth, identity, body.password.get_secret_value(), "user.totp-start")
    async with audit.change(auth.database, identity, "user.totp-start", identity.name) as (connection, _):
        if member.totp:
            raise Problem(409, "there is a second factor; remove it first")
        secret = await totp.enrol(connection, user_id)
    return Enrolment(secret=secret, uri=totp.uri(secret, identity.name))


@routes.post("/totp/confirm", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def confirm(body: Confirmation, auth: Authenticated, identity: Viewer) -> Done:
    """End the enrolment with the first code of the app."""
    user_id = _user_id(identity)
    await auth.limits.attempt(f"confirm {identity.name}")
    async with audit.change(auth.database, identity, "user.totp", identity.name) as (connection, entry):
        if not await totp.confirm(connection, user_id, body.code.get_secret_value()):
            await auth.limits.failed(f"confirm {identity.name}")
            raise Problem(422, "this is not the code of the new second factor", errors={"body.code": "wrong, or no enrolment was started"})
        entry.before, entry.after = {"totp": False}, {"totp": True}
    await auth.limits.succeeded(f"confirm {identity.name}")
    return Done()


@routes.post("/totp/remove", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def remove(body: Removal, auth: Authenticated, identity: Viewer) -> Done:
    """Remove the second factor, with password and code."""
    user_id = _user_id(identity)
    code = body.code.get_secret_value()
    await verify_again(auth, identity, body.password.get_secret_value(), "user.totp", code=code)
    async with audit.change(auth.database, identity, "user.totp", identity.name) as (connection, entry):
        await totp.remove(connection, user_id)
        entry.before, entry.after = {"totp": True}, {"totp": False}
    return Done()


@routes.get("/sessions", responses=problems(401, 403, 429, 503))
async def list_sessions(auth: Authenticated, identity: Viewer) -> Sessions:
    """List the valid sessions of the user, newest use first. There are 100 at most."""
    async with auth.database.own() as connection:
        rows = await sessions.of_user(connection, _user_id(identity))

    found = [
        SessionView(
            id=row["session_id"],
            current=row["session_id"] == identity.session,
            **times(created_at=row["created_at"], used_at=row["rotated_at"], expires_at=row["expires_at"]),
            address=row["address"],
            agent=row["agent"],
        )
        for row in rows
    ]
    return Sessions(records=found)


@routes.delete("/sessions/{session}", responses=problems(401, 403, 404, 422, 429, 503))
async def end_session(auth: Authenticated, identity: Viewer, session: Annotated[UUID, Path()]) -> Done:
    """End one session of the user."""
    user_id = _user_id(identity)
    async with audit.change(auth.database, identity, "session.end", str(session)) as (connection, _):
        if not await sessions.revoke(connection, user_id, only=session):
            raise Problem(404, f"no session {session}")
    auth.forget(user_id)
    return Done()


@routes.delete("/sessions", responses=problems(401, 403, 429, 503))
async def end_other_sessions(auth: Authenticated, identity: Viewer) -> Done:
    """End all sessions of the user but this one."""
    user_id = _user_id(identity)
    async with audit.change(auth.database, identity, "session.end", "all others") as (connection, entry):
        entry.after = {"ended": await sessions.revoke(connection, user_id, keep=identity.session)}
    auth.forget(user_id)
    return Done()


def router() -> APIRouter:
    """Return the routes."""
    return routes

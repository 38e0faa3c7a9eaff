"""What the process knows about logins: the signing secret, the limits, and which sessions were valid a moment ago."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import psycopg

from sinks.console.auth import sessions
from sinks.console.auth.actor import Identity, anonymous, guest
from sinks.console.auth.credentials import signing
from sinks.console.auth.credentials.tokens import Claims, TokenError, read_access
from sinks.console.auth.limits import Limits, Rates
from sinks.console.auth.roles import Role
from sinks.console.auth.sessions import Live
from sinks.console.database import AWAY, Database
from sinks.console.http.problems import Problem
from sinks.console.options import ConsoleOptions

# A read believes this old an answer of the database about a session. A command always asks.
FRESH_S = 5.0
# While nobody is a user: how often that is asked again.
OPEN_FRESH_S = 1.0
# After the database did not answer, reads do without it for this time instead of waiting for it.
AWAY_S = 2.0
# More sessions than this are forgotten, and asked again.
MOST_KNOWN = 10_000


@dataclass(frozen=True)
class _Seen:
    at: float
    live: Live | None


class Auth:
    """Logins of one process.

    Args:
        options: How the console listens.
        database: The pools.
        rates: The rate limits.

    Raises:
        UserError: the secret of the environment is too short or its file cannot be read.
    """

    def __init__(self, options: ConsoleOptions, database: Database, rates: Rates | None = None) -> None:
        self.options = options
        self.database = database
        self.limits = Limits(rates)
        self._secret = signing.given_secret()
        self._seen: dict[UUID, _Seen] = {}
        self._has_users = False
        self._asked_users = float("-inf")
        self._away_until = float("-inf")

    async def secret(self) -> bytes:
        """Return the signing secret. It is read once."""
        if self._secret is None:
            self._secret = await signing.kept_secret(self.database)
        return self._secret

    async def open(self) -> bool:
        """Return whether everybody may read without login: the console listens on loopback only, behind no proxy, and has no users."""
        if self._has_users or not self.options.loopback or self.options.proxy:
            return False
        now = time.monotonic()
        if now - self._asked_users >= OPEN_FRESH_S:
            try:
                async with self.database.own() as connection:
                    cursor = await connection.execute("SELECT EXISTS (SELECT FROM console_users) AS found")
                    row = await cursor.fetchone()
                self._has_users = bool(row and row["found"])
            except psycopg.errors.UndefinedTable:
                pass  # a database before its migration has no users
            self._asked_users = now
        return not self._has_users

    async def identify(self, token: str | None, address: str, *, fresh: bool) -> Identity:
        """Return who asks.

        Args:
            token: The access token, or None.
            address: Where the request comes from.
            fresh: Ask the database now, as a command must. Otherwise an answer of the last seconds counts, and while the database is away the
                signed token itself, until it expires.

        Raises:
            Problem: 401, the token is not valid or its session is over.
        """
        problem: Problem | None = None
        if token is not None:
            try:
                claims = read_access(await self.secret(), token)
                known = await self._session(claims, fresh=fresh)
            except TokenError as error:
                problem = login_needed(str(error))
            else:
                if known is not None:
                    return Identity(known.name, cast(Role, known.role), known.user_id, address, known.session)
                problem = login_needed("the session is over")
        if await self.open():
            return anonymous(address)
        if problem is not None:
            raise problem
        return guest(address)

    async def still_valid(self, identity: Identity) -> bool:
        """Return whether a long answer (an event stream) may go on: its session is not over, and its user has not lost the role."""
        if identity.session is None:
            try:
                return identity.role == "guest" or await self.open()
            except AWAY:
                return True  # nothing is known against it, and the live data goes on without the database
        known = await self._session(Claims(identity.user_id or 0, identity.name, identity.role, identity.session), fresh=False)
        return known is not None and known.role == identity.role

    def forget(self, user_id: int) -> None:
        """Forget what is known about a user's sessions, after a ban, a new role or a logout. The next request asks the database."""
        for session in [session for session, seen in self._seen.items() if seen.live is not None and seen.live.user_id == user_id]:
            del self._seen[session]

    def joined(self) -> None:
        """Note that a user exists from now on."""
        self._has_users = True

    async def _session(self, claims: Claims, *, fresh: bool) -> Live | None:
        now = time.monotonic()
        seen = self._seen.get(claims.session)
        if not fresh and seen is not None and now - seen.at < FRESH_S:
            return seen.live
        if not fresh and now < self._away_until:
            return self._without_database(claims, seen)
        try:
            async with self.database.own() as connection:
                live = await sessions.live(connection, claims.session)
        except AWAY:
            if fresh:
                raise
            self._away_until = now + AWAY_S
            return self._without_database(claims, seen)
        if live is not None and live.user_id != claims.user_id:
            live = None
        if len(self._seen) >= MOST_KNOWN:
            self._seen.clear()
        self._seen[claims.session] = _Seen(now, live)
        return live

    def _without_database(self, claims: Claims, seen: _Seen | None) -> Live | None:
        """Return the newest answer, or what the signed token says: it is at most 15 minutes old, and this counts for reads only."""
        return seen.live if seen is not None else Live(claims.session, claims.user_id, claims.name, claims.role)


def login_needed(reason: str) -> Problem:
    """Return the answer to a request that needs a login."""
    return Problem(401, reason, headers={"WWW-Authenticate": "Bearer"})

"""Without its database the console goes on reading for whom it knows, and commands nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from schemas.settings import Settings
from sinks.console import database as pools
from sinks.console.auth.credentials.tokens import Claims, issue_access
from sinks.console.auth.service import AWAY, FRESH_S, Auth
from sinks.console.auth.sessions import Live
from sinks.console.database import Database
from sinks.console.http.problems import Problem
from sinks.console.options import ConsoleOptions

SECRET = b"s" * 40
CLAIMS = Claims(7, "ann", "operator", uuid4())


def with_auth(monkeypatch: pytest.MonkeyPatch, work: Callable[[Auth], Awaitable[None]]) -> None:
    """Run ``work`` with the logins of a console whose database refuses connections."""
    monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET", SECRET.decode())
    monkeypatch.setattr(pools, "WAIT_S", 0.2)
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{held.getsockname()[1]}/nothing"

        async def run() -> None:
            database = Database(Settings(database_url=url), 1, 1_000)
            await database.open()
            try:
                await work(Auth(ConsoleOptions(), database))
            finally:
                await database.close()

        asyncio.run(run())


def test_a_signed_token_reads_and_does_not_command(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(auth: Auth) -> None:
        token = issue_access(SECRET, CLAIMS)
        found = await auth.identify(token, "192.0.2.1", fresh=False)
        assert (found.name, found.role, found.user_id, found.session) == ("ann", "operator", 7, CLAIMS.session)
        assert await auth.still_valid(found)
        with pytest.raises(AWAY):
            await auth.identify(token, "192.0.2.1", fresh=True)

    with_auth(monkeypatch, work)


def test_an_ended_session_stays_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last answer of the database counts, however old: a revoked session does not come back because the database went away."""

    async def work(auth: Auth) -> None:
        from sinks.console.auth import service

        auth.joined()
        auth._seen[CLAIMS.session] = service._Seen(-1e9, None)
        with pytest.raises(Problem) as caught:
            await auth.identify(issue_access(SECRET, CLAIMS), "192.0.2.1", fresh=False)
        assert caught.value.status == 401
        # And a role that was lowered stays low.
        auth._seen[CLAIMS.session] = service._Seen(-1e9, Live(CLAIMS.session, 7, "ann", "viewer"))
        assert (await auth.identify(issue_access(SECRET, CLAIMS), "192.0.2.1", fresh=False)).role == "viewer"

    with_auth(monkeypatch, work)


def test_a_console_that_never_asked_is_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(auth: Auth) -> None:
        with pytest.raises(AWAY):
            await auth.identify(None, "127.0.0.1", fresh=False)

    with_auth(monkeypatch, work)


def test_reads_do_not_wait_for_the_database_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(auth: Auth) -> None:
        token = issue_access(SECRET, CLAIMS)
        await auth.identify(token, "192.0.2.1", fresh=False)
        asked = 0
        own = auth.database.own

        def counted() -> object:
            nonlocal asked
            asked += 1
            return own()

        monkeypatch.setattr(auth.database, "own", counted)
        for _ in range(200):
            await auth.identify(token, "192.0.2.1", fresh=False)
        assert asked == 0 and FRESH_S > 0

    with_auth(monkeypatch, work)

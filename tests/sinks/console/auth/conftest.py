"""A real console on a socket, over a real database, under the roles that it has in production."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from psycopg.rows import dict_row

from deploy.database.migrate import migrate
from schemas.settings import Settings
from sinks.console.auth.credentials import passwords, signing
from sinks.console.context import Context
from sinks.console.database import Database
from sinks.console.options import ConsoleOptions
from sinks.console.service import server_of

PASSWORD = "correct horse battery"
TABLES = "console_invitation_uses, console_invitations, console_sessions, console_audit, console_users"


@pytest.fixture(scope="module")
def database_url(stack: Any) -> Iterator[str]:
    """A migrated database for the tests of one file."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    url = f"{stack.database_url.rpartition('/')[0]}/{name}"
    migrate(url)
    yield url
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]


@dataclass
class House:
    """A running console and its database."""

    url: str
    database_url: str
    context: Context
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.Client:
        """A program of its own: no cookies of others."""
        client = httpx.Client(base_url=self.url, headers=headers, timeout=20)
        self.clients.append(client)
        return client

    def sql(self, text: str, *values: Any) -> list[dict[str, Any]]:
        """Run a statement as the database's owner."""
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(text, values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def add(self, name: str, role: str = "viewer", password: str = PASSWORD) -> int:
        """Add a user. Return its id."""
        hashed = asyncio.run(passwords.hashed(password))
        return self.sql(
            "INSERT INTO console_users (name, email, password_hash, role) VALUES (%s, %s, %s, %s) RETURNING user_id",
            name, f"{name}@example.com", hashed, role,
        )[0]["user_id"]  # fmt: skip

    def login(self, name: str, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        """Log in as a program. Return the tokens."""
        answer = self.client().post("/api/v1/auth/login", json={"name": name, "password": password, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def as_user(self, name: str, **more: Any) -> httpx.Client:
        """A program that is logged in."""
        return self.client(Authorization=f"Bearer {self.login(name, **more)['access_token']}")

    def as_page(self, name: str) -> httpx.Client:
        """A browser's page that is logged in by cookies."""
        client = self.client(**{"Sec-Fetch-Site": "same-origin", "Origin": self.url})
        answer = client.post("/api/v1/auth/login", json={"name": name, "password": PASSWORD, "cookie": True})
        assert answer.status_code == 200, answer.text
        return client

    def audit(self) -> list[dict[str, Any]]:
        """The audit log, oldest first."""
        return self.sql("SELECT * FROM console_audit ORDER BY audit_id")


def as_role(database: Database) -> None:
    """Give the pools the rights of their roles, which the owner's password of the tests would exceed."""

    def configure(role: str) -> Callable[[Any], Any]:
        async def set_role(connection: Any) -> None:
            await connection.execute(f"SET ROLE perpflow_{role}")

        return set_role

    database._own._configure = configure("console")
    database._reads._configure = configure("reader")


Start = Callable[..., House]


@pytest.fixture
def start(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a console (with other options, if wanted) on the database, which has no users yet."""
    for name in (signing.VARIABLE, f"{signing.VARIABLE}_FILE"):
        monkeypatch.delenv(name, raising=False)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}, console_secret RESTART IDENTITY")  # type: ignore[arg-type]
    running: list[tuple[uvicorn.Server, threading.Thread]] = []
    houses: list[House] = []

    def run(**options: Any) -> House:
        database = Database(Settings(database_url=database_url), 2, 5_000)
        as_role(database)
        context = Context(Settings(database_url=database_url), ConsoleOptions(port=0, **options), database)
        server = server_of(context)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        until = time.monotonic() + 120
        while not server.started:
            assert time.monotonic() < until and thread.is_alive()
            time.sleep(0.01)
        running.append((server, thread))
        port = server.servers[0].sockets[0].getsockname()[1]
        houses.append(House(f"http://localhost:{port}", database_url, context))
        return houses[-1]

    yield run
    for house in houses:
        for client in house.clients:
            client.close()
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def house(start: Start) -> House:
    """A console with a user of each role, named like the role."""
    found = start()
    hashed = asyncio.run(passwords.hashed(PASSWORD))
    for role in ("viewer", "user", "operator", "admin", "owner"):
        found.sql("INSERT INTO console_users (name, password_hash, role) VALUES (%s, %s, %s)", role, hashed, role)
    return found

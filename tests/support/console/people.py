"""Users of a test's console, and their logged-in clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
from psycopg.rows import dict_row

from sinks.console.auth import users
from sinks.console.auth.credentials import passwords
from sinks.console.auth.roles import UserRole

PASSWORD = "correct horse battery staple 42"


def add_user(database_url: str, name: str, role: UserRole) -> None:
    """Add a user whose password is PASSWORD."""

    async def add() -> None:
        connection = await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row)
        async with connection, connection.transaction():
            await users.create(connection, name, None, await passwords.hashed(PASSWORD), role)

    with ThreadPoolExecutor(1) as pool:  # a test of the browser has a running loop of its own
        pool.submit(asyncio.run, add()).result()


@contextlib.contextmanager
def logged_in(base_url: httpx.URL, name: str) -> Iterator[httpx.Client]:
    """Yield a program's client with a bearer token."""
    with httpx.Client(base_url=base_url, timeout=60) as client:
        response = client.post("/api/v1/auth/login", json={"name": name, "password": PASSWORD})
        assert response.status_code == 200, response.text
        client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        yield client

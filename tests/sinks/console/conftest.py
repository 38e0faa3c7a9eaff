"""One console over recorded trades, for all tests of a module."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from tests.support.console.market import Trade, recorded, store
from tests.support.console.server import console

TRADES = 30_000


@pytest.fixture(scope="module")
def settings(database_url: str, kafka: str) -> Iterator[Settings]:
    """A migrated database of this module's own."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    found = Settings(kafka_bootstrap_servers=kafka, database_url=f"{database_url.rpartition('/')[0]}/{name}", topic_prefix=f"{name}.")
    database.migrate(found.database_url)
    yield found
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trades(settings: Settings) -> list[Trade]:
    """The trades that the database holds."""
    found = recorded(TRADES)
    store(settings.database_url, found)
    return found


@pytest.fixture(scope="module")
def client(settings: Settings, trades: list[Trade]) -> Iterator[httpx.Client]:
    """A client of the console. Without users it reads as an anonymous viewer."""
    with console(settings) as found:
        yield found

"""A database of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from deploy.database.migrate import migrate


@contextmanager
def migrated(database_url: str) -> Iterator[str]:
    """Yield the URL of a new database of this server with our tables; it is dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = f"{database_url.rpartition('/')[0]}/{name}"
            migrate(url)
            yield url
        finally:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

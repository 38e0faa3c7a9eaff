"""A filled database for the tests that ask the dashboards' queries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.stack import StackError, prometheus
from tests.deploy import dashboard_rows
from tests.deploy.databases import migrated


@pytest.fixture(scope="module")
def filled_url(database_url: str) -> Iterator[str]:
    """URL of a migrated database with ``dashboard_rows``, of the asking module's own."""
    with migrated(database_url) as url:
        dashboard_rows.fill(url)
        yield url


@pytest.fixture(scope="module")
def filled(filled_url: str) -> Iterator[psycopg.Connection]:
    """A session in UTC with that database."""
    with psycopg.connect(filled_url, autocommit=True, options="-c timezone=UTC") as connection:
        yield connection


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    """The real Prometheus. Where it cannot be had (no Debian, no network) the test is left out, but never in CI."""
    return _program(prometheus.find)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The real promtool, likewise."""
    return _program(prometheus.promtool)


def _program(find: Callable[[Callable[[str], None]], Path]) -> Path:
    try:
        return find(print)
    except StackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def environment_database(database_url: str) -> Iterator[str]:
    """URL of a migrated database without rows."""
    with migrated(database_url) as url:
        yield url

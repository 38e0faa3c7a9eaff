"""Render the dashboards of one instrument's time: open the sources, find the range, write the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from deploy.grafana.preview.pages import Rendered, write_pages
from deploy.grafana.preview.source import Database, Prometheus
from schemas.errors import UserError

# Before the first and behind the last evaluated instant.
MARGIN = timedelta(seconds=30)
WITHOUT_DATA = timedelta(hours=6)


def newest_instrument(connection: psycopg.Connection[Any]) -> str | None:
    """Return the instrument that was evaluated last; None when none was."""
    row = connection.execute("SELECT instrument FROM features ORDER BY event_time DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def evaluated(connection: psycopg.Connection[Any], instrument: str | None) -> tuple[datetime, datetime]:
    """Return the market time of an instrument's evaluations, or the last hours without any."""
    row = connection.execute("SELECT min(event_time), max(event_time) FROM features WHERE instrument = %s", [instrument]).fetchone()
    if row is None or row[0] is None:
        now = datetime.now(UTC)
        return now - WITHOUT_DATA, now
    return row[0] - MARGIN, row[1] + MARGIN


def render(
    folder: Path,
    database_url: str,
    prometheus_url: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    given: Mapping[str, Sequence[str]] | None = None,
) -> list[Rendered]:
    """Write a page for each dashboard.

    Args:
        folder: Where to.
        database_url: The database.
        prometheus_url: Prometheus; None: the panels of metrics say that there is none.
        since: Beginning of the range; None: the first evaluation of the instrument.
        until: Its end; None: the last one.
        given: Values of dashboards' variables, ``instrument`` among them; others are what Grafana shows at first.

    Raises:
        UserError: a source does not answer.
    """
    chosen = dict(given or {})
    with ExitStack() as opened:
        try:
            connection = opened.enter_context(psycopg.connect(database_url, autocommit=True))
            if "instrument" not in chosen and (newest := newest_instrument(connection)):
                chosen["instrument"] = [newest]
            first, last = evaluated(connection, chosen.get("instrument", [None])[0])
            database = Database(connection, since or first, until or last)
        except psycopg.Error as error:
            raise UserError(f"dashboards: the database does not answer as it should: {error}") from error
        prometheus = None
        if prometheus_url:
            try:
                prometheus = Prometheus(opened.enter_context(httpx.Client(trust_env=False)), prometheus_url)
            except (httpx.HTTPError, ValueError) as error:
                raise UserError(f"dashboards: no Prometheus answers at {prometheus_url}: {error}") from error
        return write_pages(folder, database, prometheus, chosen)

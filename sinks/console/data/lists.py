"""Pages of a topic's table, or of a view of one: filtered, newest first, continued by a cursor. A CSV file of a list is read page by page, too."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import sql
from psycopg.postgres import types

from schemas import catalogue
from sinks.console.data import cursor
from sinks.console.data.records import shown
from sinks.console.database import Connection, Database, Row

# Rows of a CSV file that are read at once. No connection is held while a client takes them.
CHUNK = 5_000
# A spreadsheet would run a text that begins so as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TIME = types["timestamptz"].oid
_PLACE = ("kafka_partition", "kafka_offset")


@dataclass(frozen=True)
class ListQuery:
    """One page of a list.

    Attributes:
        topic: Table of this topic, or a view that has its ``event_time``, ``kafka_partition`` and ``kafka_offset``.
        equal: Column -> value that it must have.
        start, end: Event times, start inclusive, end exclusive; None: open.
        cursor: Place of the last row of the page before.
        limit: Most rows of the page.
    """

    topic: str
    equal: Mapping[str, Any]
    start: datetime | None
    end: datetime | None
    cursor: str | None
    limit: int


class Rows(NamedTuple):
    """Rows of the database, the cursor after them (None: these are the last ones), and the names of the columns that the API writes."""

    rows: list[Row]
    next: str | None
    columns: list[str]


async def rows(connection: Connection, query: ListQuery) -> Rows:
    """Return one page of a list.

    Raises:
        Problem: the cursor is not one of ours (422).
    """
    where: list[sql.Composable] = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in query.equal]
    values: dict[str, Any] = dict(query.equal)
    if query.start is not None:
        where.append(sql.SQL("event_time >= %(since)s"))
        values["since"] = query.start
    if query.end is not None:
        where.append(sql.SQL("event_time < %(until)s"))
        values["until"] = query.end
    if query.cursor is not None:
        at, partition, offset = cursor.decode(query.cursor)
        # The first condition alone lets the index by time be used; the second is exact.
        where.append(sql.SQL("event_time <= %(at)s AND (event_time, kafka_partition, kafka_offset) < (%(at)s, %(partition)s, %(offset)s)"))
        values |= {"at": at, "partition": partition, "offset": offset}
    condition = sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(where)) if where else sql.SQL("")
    chosen: sql.Composable = sql.SQL("*")
    if query.topic in catalogue.TOPICS:
        chosen = sql.SQL(", ").join(map(sql.Identifier, (*catalogue.field_names(query.topic), *_PLACE)))
    statement = sql.SQL("SELECT {} FROM {}{} ORDER BY event_time DESC, kafka_partition DESC, kafka_offset DESC LIMIT {}").format(
        chosen, sql.Identifier(query.topic), condition, sql.Literal(query.limit + 1)
    )
    answer = await connection.execute(statement, values)
    found = await answer.fetchall()
    more = len(found) > query.limit
    found = found[: query.limit]
    columns = [
        name
        for column in answer.description or ()
        if column.name not in _PLACE
        for name in ((column.name, f"{column.name}_ms") if column.type_code == _TIME else (column.name,))
    ]
    return Rows(found, cursor.encode(found[-1]) if more else None, columns)


async def page(connection: Connection, query: ListQuery) -> dict[str, Any]:
    """Return ``{"records": [...], "next": cursor or None}``. Raises as ``rows``."""
    found = await rows(connection, query)
    return {"records": [shown(row) for row in found.rows], "next": found.next}


async def as_csv(database: Database, query: ListQuery) -> AsyncIterator[bytes]:
    """Return a list as CSV (RFC 4180) with a head, newest first, in parts.

    After ``query.limit`` rows a last line says so and has the cursor of the rest: a file is never silently short. The first part is read before this
    function returns, so an error is still a problem.

    Raises:
        Problem: as ``rows``.
    """
    async with database.reading() as connection:
        first = await rows(connection, replace(query, limit=min(CHUNK, query.limit)))
    return _parts(database, query, first)


async def _parts(database: Database, query: ListQuery, found: Rows) -> AsyncIterator[bytes]:
    columns, left = found.columns, query.limit
    yield _lines([columns])
    while True:
        left -= len(found.rows)
        records = [shown(row) for row in found.rows]
        yield _lines([[_cell(record.get(name)) for name in columns] for record in records])
        if found.next is None:
            return
        if not left:
            yield _lines([[f"# cut after {query.limit} rows; the rest has cursor={found.next}"]])
            return
        async with database.reading() as connection:
            found = await rows(connection, replace(query, cursor=found.next, limit=min(CHUNK, left)))


def _lines(table: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(table)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict | list) else value

"""Pages of a topic's table: filtered, newest first, continued by a cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from schemas import catalogue
from sinks.console.data import cursor
from sinks.console.data.records import shown
from sinks.console.database import Connection


@dataclass(frozen=True)
class ListQuery:
    """One page of a list.

    Attributes:
        topic: Table of this topic.
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


async def page(connection: Connection, query: ListQuery) -> dict[str, Any]:
    """Return ``{"records": [...], "next": cursor or None}``.

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
    statement = sql.SQL("SELECT * FROM {}{} ORDER BY event_time DESC, kafka_partition DESC, kafka_offset DESC LIMIT {}").format(
        sql.Identifier(query.topic), condition, sql.Literal(query.limit + 1)
    )
    rows = await (await connection.execute(statement, values)).fetchall()
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    fields = catalogue.field_names(query.topic)
    return {
        "records": [shown({name: row[name] for name in fields}) for row in rows],
        "next": cursor.encode(rows[-1]) if more else None,
    }

"""Copy rows to a table by binary COPY, and find the rows that the database rejects."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import psycopg
from psycopg import sql

from sinks.timescale.rows import COPY_HEADER, COPY_TRAILER, Rows
from sinks.timescale.tables import table

# Errors caused by a row: data exception, integrity violation, a limit (index entry too large). All other errors are retried.
_ROW_ERRORS = ("22", "23", "54")


def try_copy(connection: psycopg.Connection, topic: str, pieces: Iterable[memoryview], into: str | None = None) -> psycopg.Error | None:
    """Copy rows of a topic under a savepoint; return the error if a row caused it. Other errors are raised.

    Args:
        connection: Inside a transaction.
        topic: Topic of the rows.
        pieces: Rows in COPY format, without header and trailer.
        into: Another table with the same columns; None: the topic's table.
    """
    columns = sql.SQL(", ").join(map(sql.Identifier, table(topic).column_names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(into or topic), columns)
    try:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(COPY_HEADER)
            for piece in pieces:
                copy.write(piece)
            copy.write(COPY_TRAILER)
    except psycopg.Error as error:
        if error.sqlstate is None or not error.sqlstate.startswith(_ROW_ERRORS):
            raise
        return error
    return None


def bisect(connection: psycopg.Connection, rows: Rows, keep: np.ndarray, into: str | None = None) -> list[tuple[int, str]]:
    """Copy all valid rows; return the numbers of the rejected rows with the reasons."""
    if not len(keep):
        return []
    error = try_copy(connection, rows.topic, rows.slices(keep), into)
    if error is None:
        return []
    if len(keep) == 1:
        return [(int(keep[0]), f"refused by the database: {str(error).strip()}")]
    half = len(keep) // 2
    return bisect(connection, rows, keep[:half], into) + bisect(connection, rows, keep[half:], into)

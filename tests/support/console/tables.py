"""Records of topics in their tables, written by the sink's own encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from sinks.timescale.rows import COPY_HEADER, COPY_TRAILER, encode
from sinks.timescale.tables import table

CODEC = Codec()


def write(connection: psycopg.Connection[Any], topic: str, records: Sequence[dict[str, Any]], first_offset: int = 0) -> None:
    """Write records of one partition as the sink does: its encoder, binary COPY."""
    messages = RecordSet.from_messages([(n, 0, None, CODEC.encode(topic, one)) for n, one in enumerate(records, first_offset)])
    rows = encode(CODEC, topic, messages, 0)
    assert not rows.refused
    columns = sql.SQL(", ").join(map(sql.Identifier, table(topic).column_names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(topic), columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(COPY_HEADER)
        copy.write(rows.payload)
        copy.write(COPY_TRAILER)

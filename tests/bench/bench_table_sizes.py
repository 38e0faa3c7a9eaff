"""Bytes of a row with its indexes, of every topic's table: what the policies of the tables (deploy/migrations/0110_upkeep.sql) reckon with.

Run: ``python tests/bench/bench_table_sizes.py [ROWS]`` with DATABASE_URL set (``perpflow stack env``). Rows are random records of the schemas, in a
database of its own that is removed afterwards; text of real records is longer or shorter.
"""

from __future__ import annotations

import random
import sys
import uuid
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sinks"))
from timescale_records import record

from deploy import database, upkeep
from schemas import catalogue
from schemas.codec import Codec
from schemas.recordset import RecordSet
from schemas.settings import Settings
from sinks.timescale.copying import try_copy
from sinks.timescale.rows import encode


def main(count: int) -> None:
    """Fill, measure and print."""
    url = Settings().database_url
    name = f"bench{uuid.uuid4().hex[:8]}"
    codec, rng = Codec(), random.Random(1)
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        try:
            own = f"{url.rpartition('/')[0]}/{name}"
            database.migrate(own)
            with psycopg.connect(own, autocommit=True) as connection:
                before = dict(upkeep.table_sizes(connection))
                for topic in catalogue.TOPICS:
                    made = [(n, 0, None, codec.encode(topic, record(topic, n, rng))) for n in range(count)]
                    rows = encode(codec, topic, RecordSet.from_messages(made), 0)
                    error = try_copy(connection, topic, [rows.payload])
                    if error is not None:
                        raise error
                for topic, size in upkeep.table_sizes(connection):
                    print(f"{topic:<18} {(size - before[topic]) / count:>8.0f} bytes a row")
        finally:
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)

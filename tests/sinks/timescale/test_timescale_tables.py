"""The tables: migrations are repeatable and agree with the Avro schemas; partitions are made for any time and emptied by maintenance."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from deploy.cli.setup import db
from deploy.database import maintenance as upkeep
from deploy.database import migrate as database
from schemas import catalogue
from schemas.settings import Settings
from sinks.timescale import partitions
from sinks.timescale.tables import column_type, table, tables, unwrap
from tests.support.timescale.timescale_helpers import query

NOON = datetime(2013, 5, 17, 12, tzinfo=UTC)


def test_every_topic_has_a_table_with_its_fields_and_its_place() -> None:
    assert [one.name for one in tables()] == list(catalogue.TOPICS)
    for one in tables():
        assert one.column_names == (*catalogue.field_names(one.name), "kafka_partition", "kafka_offset")
        assert set(one.identity_columns) <= set(one.column_names)
        # Without an id only what grows can be told from a repeat without a look at every row.
        assert one.record_id or one.rising
        assert not any(column.nullable for column in one.columns if column.name in one.identity_columns)


@pytest.mark.parametrize(
    ("avro", "postgres", "nullable"),
    [
        ("string", "text", False),
        (["null", "double"], "double precision", True),
        ({"type": "long", "logicalType": "timestamp-millis"}, "timestamp with time zone", False),
        (["null", {"type": "long", "logicalType": "timestamp-millis"}], "timestamp with time zone", True),
        ({"type": "array", "items": "double"}, "double precision[]", False),
        ({"type": "array", "items": "string"}, "text[]", False),
        ({"type": "map", "values": "long"}, "jsonb", False),
        ({"type": "array", "items": {"type": "record", "name": "R", "fields": []}}, "jsonb", False),
        (["null", "bytes"], "bytea", True),
        (["null", "string", "long"], "jsonb", True),
    ],
)
def test_column_types(avro: object, postgres: str, nullable: bool) -> None:
    kind, may_be_null = unwrap(avro)
    assert (column_type(kind), may_be_null) == (postgres, nullable)


def test_periods_and_names() -> None:
    day = partitions.DAY_MS
    times = np.array([-1, 0, day - 1, day, 1723075200123, 253_402_300_800_000, -(2**62), 2**62], dtype=np.int64)
    assert partitions.periods("day", times) == [date(1970, 1, 1), date(1970, 1, 2), date(2024, 8, 8)]
    assert partitions.periods("month", times) == [date(1970, 1, 1), date(2024, 8, 1)]
    assert partitions.periods("day", np.zeros(0, np.int64)) == []
    assert partitions.period_end("month", date(2024, 12, 1)) == date(2025, 1, 1)
    assert partitions.period_end("month", date(2024, 2, 1)) == date(2024, 3, 1)
    assert partitions.period_end("day", date(2024, 2, 29)) == date(2024, 3, 1)
    assert partitions.partition_name("quotes", "day", date(2024, 8, 8)) == "quotes_2024_08_08"
    assert partitions.partition_name("scores", "month", date(2024, 8, 1)) == "scores_2024_08"


def test_migration_files_come_in_order() -> None:
    versions = [one.version for one in database.migration_files()]
    assert versions == sorted(set(versions))
    assert versions[:2] == [1, 2]


@pytest.mark.stack
def test_migrated_tables_agree_with_the_schemas(environment: Settings) -> None:
    url = environment.database_url
    before = database.status(url)
    assert not before.ok
    assert f"{next(iter(catalogue.TOPICS))}: no such table" in before.differences
    names = [one.name for one in database.migration_files()]
    assert database.migrate(url) == names
    state = database.status(url)
    assert state.differences == []
    assert state.ok
    assert database.migrate(url) == []
    for one in tables():
        comments = dict(
            query(
                environment,
                "SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attnum > 0",
                one.name,
            )
        )
        assert {column.name: column.doc for column in one.columns} == {name: text or "" for name, text in comments.items()}
        assert query(environment, "SELECT obj_description(%s::regclass)", one.name) == [(one.doc,)]


@pytest.mark.stack
def test_every_migration_may_run_twice(environment: Settings) -> None:
    database.migrate(environment.database_url)
    with psycopg.connect(environment.database_url) as connection:
        for migration in database.migration_files():
            connection.execute(migration.text.encode())
        assert database.differences(connection) == []


@pytest.mark.stack
def test_status_names_what_differs_and_a_changed_file_is_refused(environment: Settings) -> None:
    database.migrate(environment.database_url)
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("ALTER TABLE quotes DROP COLUMN ask_price")
        connection.execute("ALTER TABLE instruments ALTER COLUMN symbol DROP NOT NULL, ADD COLUMN colour text")
        connection.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
    state = database.status(environment.database_url)
    assert not state.ok
    assert state.migrations[0].changed
    assert state.differences == [
        "quotes.ask_price: missing; a migration needs: ALTER TABLE quotes ADD COLUMN IF NOT EXISTS ask_price double precision;",
        "instruments.symbol: is text, schema says text NOT NULL",
        "instruments.colour: not in the schema",
    ]
    with pytest.raises(database.DatabaseError, match=r"0001_foundation\.sql was changed"):
        database.migrate(environment.database_url)


def test_a_database_that_does_not_answer_is_named() -> None:
    with pytest.raises(database.DatabaseError, match="DATABASE_URL is not set"):
        database.migrate("")
    with pytest.raises(database.DatabaseError, match="does not answer"):
        database.status("postgresql://nobody@127.0.0.1:1/none")


def _quote(connection: psycopg.Connection, at: datetime) -> None:
    connection.execute(
        "INSERT INTO quotes SELECT (jsonb_populate_record(NULL::quotes, to_jsonb(q) || jsonb_build_object('event_time', %s::text))).*"
        " FROM (SELECT 'X' instrument, now() receive_time, 1 update_id, 1 bid_price, 1 bid_quantity, 1 ask_price, 1 ask_quantity,"
        " 0 kafka_partition, 0 kafka_offset) q",
        (at.isoformat(),),
    )


def _native(environment: Settings) -> None:
    database.migrate(environment.database_url)
    if database.status(environment.database_url).timescaledb:
        pytest.skip("hypertables make their chunks themselves")


@pytest.mark.stack
def test_partitions_are_made_ahead_and_the_default_is_emptied(environment: Settings) -> None:
    _native(environment)
    today = datetime.now(UTC).date()
    names = {name for (name,) in query(environment, "SELECT relname FROM pg_class WHERE relkind = 'r'")}
    assert partitions.partition_name("quotes", "day", today) in names
    assert partitions.partition_name("scores", "month", today.replace(day=1)) in names
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        _quote(connection, NOON)
        _quote(connection, datetime(2013, 5, 18, tzinfo=UTC))
        assert connection.execute("SELECT count(*) FROM quotes_default").fetchone() == (2,)
    done = upkeep.maintain(environment.database_url, keep_history=True).done
    assert "quotes_2013_05_17: moved out of quotes_default" in done
    assert query(environment, "SELECT (SELECT count(*) FROM quotes_default), (SELECT count(*) FROM quotes_2013_05_17)") == [(0, 1)]
    assert query(environment, "SELECT count(*) FROM pg_indexes WHERE tablename = 'quotes_2013_05_17'") == [(1,)]
    assert upkeep.maintain(environment.database_url, keep_history=True) == upkeep.Report()


@pytest.mark.stack
def test_a_partition_that_cannot_be_made_now_leaves_the_rows_to_the_default(environment: Settings) -> None:
    """Rows of its range are in the default partition already, a reader holds the default partition, or too many are asked for."""
    _native(environment)
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        keeper = partitions.Partitions(connection)
        _quote(connection, NOON)
        at = int(NOON.timestamp() * 1000)
        assert keeper.ensure("quotes", np.array([at])) == []
        many = np.arange(partitions.MOST_NEW_PARTITIONS + 1) * partitions.DAY_MS
        assert keeper.ensure("quotes", many) == []
        with psycopg.connect(environment.database_url) as reader:
            reader.execute("SELECT count(*) FROM quotes")
            assert keeper.ensure("quotes", many[:1]) == []
        assert keeper.ensure("quotes", many[:2]) == ["quotes_1970_01_01", "quotes_1970_01_02"]
        assert keeper.ensure("quotes", many[:2]) == []
        assert partitions.Partitions(connection).ensure("quotes", many[:2]) == []
        assert keeper.ensure("instruments", many[:2]) == []


@pytest.mark.stack
def test_commands(environment: Settings) -> None:
    runner = CliRunner()
    url = ["--database-url", environment.database_url]
    assert runner.invoke(db.app, ["status", *url]).exit_code == 1
    result = runner.invoke(db.app, ["migrate", *url])
    assert result.exit_code == 0
    assert "applied 0001_foundation.sql" in result.output
    result = runner.invoke(db.app, ["status", *url])
    assert result.exit_code == 0
    assert "0002_topics.sql" in result.output
    assert runner.invoke(db.app, ["maintain", *url]).output == "nothing to do\n"
    for command in ("migrate", "status", "maintain", "keep", "backup", "restore"):
        assert "Example:" in runner.invoke(db.app, [command, "--help"]).output


def test_tables_of_histories_are_plain() -> None:
    assert table("instruments").step is None
    assert table("quotes").step == "day"
    assert table("progress").step == "day"
    assert table("scores").step == "month"

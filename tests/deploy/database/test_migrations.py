"""Migrations: a dry run changes nothing, each earlier version moves on with its rows, and everything is commented."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from deploy.cli.setup import db
from deploy.database import migrate as database
from schemas.settings import Settings

pytestmark = pytest.mark.stack


def run(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def test_a_dry_run_shows_what_would_run_and_changes_nothing(environment: Settings) -> None:
    url = environment.database_url
    shape = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"

    def dry() -> str:
        result = CliRunner().invoke(db.app, ["migrate", "--dry-run", "--database-url", url])
        assert result.exit_code == 0, result.output
        return result.output

    text = dry()
    assert run(url, shape) == []
    for migration in database.migration_files():
        assert migration.text in text
    database.migrate(url, until=9)
    before = run(url, shape)
    text = dry()
    assert run(url, shape) == before
    assert "0009_strategy_registry.sql" not in text and "0101_executor.sql" in text and "-- 0110" in text
    assert database.migrate(url) == [one.name for one in database.migration_files() if one.version > 9]
    assert dry() == "-- nothing to apply\n"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 5")
    with pytest.raises(database.DatabaseError, match=r"0005_data_quality\.sql was changed"):
        database.pending(url)


# Columns that take a few values only.
BOUND = {("risk_switch", "command"): "'halt'"}


def _fill(url: str) -> dict[str, int]:
    """Write three rows into every table that there is, whatever its columns; return their numbers.

    The console's tables refer to each other and take few values: tests/sinks/console fills them.
    """
    values = {
        "text": "'v' || n",
        "timestamp with time zone": "timestamptz '2024-08-08' + n * interval '1 hour'",
        "boolean": "n = 1",
        "jsonb": "'{}'",
        "text[]": "ARRAY['x']",
        "double precision[]": "ARRAY[1.5]",
        "bytea": "'\\x00'",
    }
    filled = {}
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
            " AND relname NOT IN ('schema_migrations', 'bar_intervals', 'bar_sources', 'bar_aggregates', 'table_policies')"
            " AND relname NOT LIKE 'market\\_%' AND relname NOT LIKE 'console\\_%'"
        ).fetchall()
        for (table,) in tables:
            columns = connection.execute(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                (table,),
            ).fetchall()
            connection.execute(
                sql.SQL("INSERT INTO {} ({}) SELECT {} FROM generate_series(1, 3) n").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
                    sql.SQL(", ").join(sql.SQL(BOUND.get((table, name), values.get(kind, "n"))) for name, kind in columns),  # type: ignore[arg-type]
                )
            )
            filled[table] = 3
    return filled


def _from_version(environment: Settings, version: int) -> None:
    url = environment.database_url
    database.migrate(url, until=version)
    filled = _fill(url)
    assert filled or version == 0
    before = {table: run(url, f"SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)::text") for table in filled}
    database.migrate(url)
    assert database.status(url).ok
    for table, rows in before.items():
        after = run(url, f"SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)::text")
        assert len(after) == len(rows), table
        for (old,), (new,) in zip(rows, after, strict=True):
            assert old.items() <= new.items(), table  # columns may have come, none changed


@pytest.mark.parametrize("version", [2, 101])
def test_a_filled_database_of_an_earlier_version_moves_on(environment: Settings, version: int) -> None:
    _from_version(environment, version)


@pytest.mark.long
@pytest.mark.parametrize("version", [one.version for one in database.migration_files()])
def test_a_filled_database_of_each_earlier_version_moves_on(environment: Settings, version: int) -> None:
    _from_version(environment, version)


def test_every_table_column_and_function_is_commented(environment: Settings) -> None:
    database.migrate(environment.database_url)
    bare = run(
        environment.database_url,
        "SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c"
        " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition"
        " AND (obj_description(c.oid, 'pg_class') IS NULL"
        # A view of whole rows says with its table what its columns mean.
        " OR (col_description(c.oid, a.attnum) IS NULL AND NOT (c.relkind = 'v' AND c.relname ~ '_(current|venues|changes)$')))"
        " UNION ALL SELECT proname || '()' FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY 1",
    )
    assert bare == []

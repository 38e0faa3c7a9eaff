"""Database migrations: numbered files, their state, and the work that every migration run repeats.

A migration is a file ``deploy/database/migrations/NNNN_name.sql``, written so that running it twice is harmless. Each runs in a transaction of its
own together with the row that records it. Table and column comments are not in the files: they are the documentation of the
Avro schemas and are refreshed on every run.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

import psycopg
from psycopg import sql

from deploy.database import roles
from deploy.database.server_settings import Shortage, shortages
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.timescale import partitions
from sinks.timescale.tables import Column, tables

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# Any constant will do. The lock keeps two migrators from running at once.
_LOCK_KEY = 0x70657270666C6F77


class DatabaseError(UserError):
    """The database cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    """One migration file and when it was applied (None: not yet; ``changed``: the file is no longer what was applied)."""

    version: int
    name: str
    text: str
    applied_at: datetime | None = None
    changed: bool = False

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Status:
    """What a database holds: migrations, TimescaleDB's version if it is in use, differences between tables and schemas, small settings."""

    migrations: list[Migration]
    timescaledb: str | None
    differences: list[str]
    shortages: list[Shortage]

    @property
    def ok(self) -> bool:
        """Everything applied and every table as its schema says."""
        return not self.differences and all(m.applied_at is not None and not m.changed for m in self.migrations)


def migration_files() -> list[Migration]:
    """Return the migrations of this release in order.

    Raises:
        DatabaseError: two files have one number, or a file is named otherwise than ``NNNN_name.sql``.
    """
    found: dict[int, Migration] = {}
    for entry in resources.files("deploy.database").joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if match is None:
            raise DatabaseError(f"migration {entry.name!r}: expected NNNN_name.sql")
        version = int(match[1])
        if version in found:
            raise DatabaseError(f"migrations {found[version].name!r} and {entry.name!r} have the same number")
        found[version] = Migration(version, match[0], entry.read_text(encoding="utf-8"))
    return [found[version] for version in sorted(found)]


def connect(database_url: str) -> psycopg.Connection:
    """Return an autocommit connection.

    Raises:
        DatabaseError: no URL, or the server does not answer.
    """
    if not database_url:
        raise DatabaseError("DATABASE_URL is not set; `perpflow stack env` prints it for the local stack")
    try:
        return psycopg.connect(database_url, autocommit=True, connect_timeout=10, application_name="perpflow-db")
    except psycopg.OperationalError as error:
        raise DatabaseError(f"the database does not answer: {error}") from error


def pending(database_url: str) -> list[Migration]:
    """Return the migrations that ``migrate`` would apply, in order; changes nothing.

    Raises:
        DatabaseError: no connection, or an applied file was changed since.
    """
    with connect(database_url) as connection:
        return _unapplied(connection)


def migrate(database_url: str, *, until: int | None = None, settings: Settings | None = None) -> list[str]:
    """Apply what is missing, in order, and bring comments, policies and rights up to date; return the names of the files applied now.

    Args:
        database_url: Database of its owner.
        until: Stop after this number: the state of an earlier release.
        settings: Has the passwords of the roles; the environment's when None.

    Raises:
        DatabaseError: no connection, an applied file was changed since, or a file fails (nothing of it stays).
    """
    applied: list[str] = []
    with connect(database_url) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
                " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            for migration in _unapplied(connection):
                if until is not None and migration.version > until:
                    return applied
                _apply(connection, migration)
                applied.append(migration.name)
            # What follows is done again whenever it is missing: no commit of it need wait for the disk.
            connection.execute("SET synchronous_commit = off")
            with connection.transaction():
                _make_tables(connection)
                _comment(connection)
                _policies(connection)
            partitions.maintain(connection)
            for problem in roles.grant(connection):
                warnings.warn(problem, stacklevel=2)
            roles.set_passwords(connection, (settings or Settings()).model_copy(update={"database_url": database_url}))
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))
    return applied


def status(database_url: str) -> Status:
    """Return the state of a database without changing it. Raises DatabaseError when it does not answer."""
    with connect(database_url) as connection:
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
        return Status(_with_state(connection), row[0] if row else None, differences(connection), shortages(connection))


def server_shortages(database_url: str) -> list[Shortage]:
    """Return the server's settings that are too small for TimescaleDB's jobs. Raises DatabaseError when it does not answer."""
    with connect(database_url) as connection:
        return shortages(connection)


def differences(connection: psycopg.Connection) -> list[str]:
    """Return how the tables differ from the Avro schemas, one line each; empty when they agree."""
    found: list[str] = []
    for table in tables():
        rows = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table.name,),
        ).fetchall()
        if not rows:
            found.append(f"{table.name}: no such table")
            continue
        actual = {name: (kind, nullable) for name, kind, nullable in rows}
        for column in table.columns:
            if column.name not in actual:
                found.append(f"{table.name}.{column.name}: missing; a migration needs: {_add_column(table.name, column)}")
            elif actual[column.name] != (column.type, column.nullable):
                kind, nullable = actual[column.name]
                found.append(
                    f"{table.name}.{column.name}: is {kind}{'' if nullable else ' NOT NULL'},"
                    f" schema says {column.type}{'' if column.nullable else ' NOT NULL'}"
                )
        known = set(table.column_names)
        found += [f"{table.name}.{name}: not in the schema" for name in actual if name not in known]
    return found


def _add_column(table: str, column: Column) -> str:
    return f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column.name} {column.type};"


def _unapplied(connection: psycopg.Connection) -> list[Migration]:
    found = _with_state(connection)
    for migration in found:
        if migration.changed:
            raise DatabaseError(f"{migration.name} was changed after it was applied; put the change into a new migration")
    return [migration for migration in found if migration.applied_at is None]


def _with_state(connection: psycopg.Connection) -> list[Migration]:
    applied: dict[int, tuple[str, datetime]] = {}
    if connection.execute("SELECT to_regclass('schema_migrations')").fetchone() != (None,):
        for version, checksum, at in connection.execute("SELECT version, checksum, applied_at FROM schema_migrations"):
            applied[version] = (checksum, at)
    result = []
    for migration in migration_files():
        if migration.version in applied:
            checksum, at = applied[migration.version]
            migration = Migration(migration.version, migration.name, migration.text, at, checksum != migration.checksum)
        result.append(migration)
    return result


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.text.encode())
            connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                (migration.version, migration.name, migration.checksum),
            )
    except psycopg.Error as error:
        raise DatabaseError(f"{migration.name}: {error}") from error


def _make_tables(connection: psycopg.Connection) -> None:
    """Make the tables of topics that no migration made: new topics, and those of engines of other packages (``stream_apps.engines``)."""
    for table in tables():
        if table.step is None or connection.execute("SELECT to_regclass(%s)", (table.name,)).fetchone() != (None,):
            continue
        columns = ", ".join(f'"{one.name}" {one.type}{"" if one.nullable else " NOT NULL"}' for one in table.columns)
        connection.execute("SELECT perpflow_make_table(%s, %s, %s::interval)", (table.name, columns, f"1 {table.step}"))
        name, key = sql.Identifier(table.name), sql.Identifier(table.key)
        index = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({}, event_time)")
        connection.execute(index.format(sql.Identifier(f"{table.name}_time"), name, key))
        if table.record_id:
            unique = tuple(dict.fromkeys((*table.record_id, "kafka_partition", "event_time")))
            made = sql.SQL("CREATE UNIQUE INDEX IF NOT EXISTS {} ON {} ({})")
            columns_of = sql.SQL(", ").join(map(sql.Identifier, unique))
            connection.execute(made.format(sql.Identifier(f"{table.name}_record"), name, columns_of))


def _policies(connection: psycopg.Connection) -> None:
    """Give tables that no migration gave a policy the usual one: kept for good."""
    for table in tables():
        if table.step is not None:
            connection.execute(
                "INSERT INTO table_policies VALUES (%s, %s, %s::interval, NULL, '7 days', %s, 'event_time', 'not measured yet')"
                " ON CONFLICT DO NOTHING",
                (table.name, table.step, f"1 {table.step}", table.key),
            )


def _comment(connection: psycopg.Connection) -> None:
    """Put the schemas' documentation on tables and columns, where it is not there yet."""
    for table in tables():
        existing: dict[str, str | None] = dict(
            connection.execute(
                "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
                " UNION ALL SELECT '', obj_description(to_regclass(%s)::oid, 'pg_class')",
                (table.name, table.name),
            ).fetchall()
        )
        if existing[""] != table.doc:
            connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(table.name), sql.Literal(table.doc)))
        for column in table.columns:
            if column.name in existing and (existing[column.name] or "") != column.doc:
                connection.execute(
                    sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
                        sql.Identifier(table.name), sql.Identifier(column.name), sql.Literal(column.doc)
                    )
                )

"""Back up and restore the whole database, with checks: pg_dump's directory format and a manifest of the expected content.

Rows, sink offsets and the executor's journal come from one snapshot. So a sink on the restored database resumes at the snapshot and writes
every later record once, if the topics still have it. pg_dump and pg_restore come from the PostgreSQL wheel and can read any older server.

A backup is a folder with ``dump/`` and ``manifest.json``. The manifest has the SHA-256 of every file, and the row count and an order-independent
content hash of every table. The folder gets its name when it is complete. An interrupted backup ends with ``.partial``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.database import roles
from deploy.database.migrate import DatabaseError, connect, migration_files
from deploy.stack.postgres import binaries
from sinks.timescale.partitions import BACKUP_LOCK

FORMAT = 1
MANIFEST = "manifest.json"
DUMP = "dump"
# A session that waits for an exclusive lock may wait for our sums while pg_dump waits for it. PostgreSQL would not see this deadlock.
LONGEST_LOCK_WAIT_MS = 60_000
# Text format of values, so that hashes are equal on every server.
_TEXT_FORM = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "statement_timeout": "0",
}

Progress = Callable[[str], None]
Manifest = dict[str, Any]


class LockedOutError(DatabaseError):
    """pg_dump did not get a table's lock: another session holds or requests it exclusively."""


def backup(database_url: str, folder: Path, *, jobs: int = 2, progress: Progress | None = None) -> Manifest:
    """Write a backup. Return its manifest.

    Args:
        database_url: URL of the database with its owner.
        folder: New folder; it must not exist.
        jobs: Number of pg_dump processes.
        progress: Called with each step, one line per call.

    Raises:
        DatabaseError: the folder exists, the database does not answer, or pg_dump fails. Then the folder does not exist.
    """
    say = progress or (lambda line: None)
    if folder.exists():
        raise DatabaseError(f"{folder} already exists; a backup needs a new folder")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    with connect(database_url) as connection:
        if not _one(connection, f"SELECT pg_try_advisory_lock({BACKUP_LOCK})"):
            say("waiting for another backup, or for a partition to be created or dropped")
            connection.execute("SELECT pg_advisory_lock(%s)", (BACKUP_LOCK,))
        try:
            manifest = _dump(connection, database_url, partial / DUMP, jobs, say)
        except LockedOutError:
            # A person or an extension's job may request a table exclusively without our advisory lock. A single process locks each table only once.
            say("another session requested an exclusive lock; retrying with one process")
            connection.execute("ROLLBACK")
            shutil.rmtree(partial / DUMP, ignore_errors=True)
            manifest = _dump(connection, database_url, partial / DUMP, 1, say)
    say("computing checksums")
    manifest["files"] = _sums(partial)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    partial.rename(folder)
    _flush(folder.parent)
    return manifest


def _dump(connection: psycopg.Connection, database_url: str, folder: Path, jobs: int, say: Progress) -> Manifest:
    """Dump one snapshot and hash its tables in parallel. Return the manifest without the files."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    snapshot = _one(connection, "SELECT pg_export_snapshot()")
    manifest: Manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "database": connection.info.dbname,
        "server": _one(connection, "SHOW server_version"),
        "timescaledb": _timescaledb(connection),
        "migrations": _migrations(connection),
    }
    say("writing the dump")
    command = ["pg_dump", "--format=directory", "--no-owner", "--no-privileges", f"--lock-wait-timeout={LONGEST_LOCK_WAIT_MS}"]
    with _running(database_url, [*command, f"--jobs={jobs}", f"--snapshot={snapshot}", f"--file={folder}"]):
        manifest["tables"] = contents(connection, say)
    connection.execute("COMMIT")
    return manifest


def restore(database_url: str, folder: Path, *, jobs: int = 2, progress: Progress | None = None) -> Manifest:
    """Restore a backup into an empty database and compare every table with the manifest. Return the manifest.

    Raises:
        DatabaseError: the backup is damaged or from a newer release, the database is not empty or has another TimescaleDB version,
            pg_restore fails, or a table differs from the manifest.
    """
    say = progress or (lambda line: None)
    manifest = read_manifest(folder)
    say("verifying the files")
    _compare("file", manifest["files"], _sums(folder))
    known = {migration.name: migration.checksum for migration in migration_files()}
    for name, checksum in manifest["migrations"].items():
        if known.get(name) != checksum:
            raise DatabaseError(
                f"the backup has migration {name}, which differs in this release; restore with the release that wrote the backup"
            )
    with connect(database_url) as connection:
        if _relations(connection):
            raise DatabaseError(f"database {connection.info.dbname} is not empty; restore into an empty database")
        timescale = manifest["timescaledb"]
        if timescale is not None:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        found = _timescaledb(connection)
        if found != timescale:
            raise DatabaseError(f"the backup is from TimescaleDB {timescale}, the database has {found}; both must be the same")
        if timescale is not None:
            connection.execute("SELECT timescaledb_pre_restore()")
    say("restoring")
    # TimescaleDB's own tables must exist before the tables that depend on them, so one process restores in order.
    with _running(
        database_url,
        [
            *("pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", f"--jobs={1 if timescale else jobs}"),
            *(f"--dbname={conninfo_to_dict(database_url).get('dbname', '')}", str(folder / DUMP)),
        ],
    ):
        pass
    with connect(database_url) as connection:
        if timescale is not None:
            connection.execute("SELECT timescaledb_post_restore()")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        _compare("table", manifest["tables"], contents(connection, say))
        connection.execute("COMMIT")
        roles.grant(connection)
        connection.execute("ANALYZE")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return a backup's manifest. Raises DatabaseError if it is missing or has another format."""
    try:
        manifest: Manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatabaseError(f"{folder} is not a complete backup: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DatabaseError(f"{folder}: its manifest does not have format {FORMAT}")
    return manifest


def contents(connection: psycopg.Connection, progress: Progress) -> dict[str, dict[str, Any]]:
    """Return the row count and the sum of row hashes of every table in the connection's snapshot."""
    for name, value in _TEXT_FORM.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    found = {}
    for name in _relations(connection):
        row = connection.execute(
            sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {} t").format(sql.Identifier(name))
        ).fetchone()
        assert row is not None
        found[name] = {"rows": row[0], "hash": row[1]}
        if row[0] > 1_000_000:
            progress(f"{name}: {row[0]:,} rows")
    return found


def _relations(connection: psycopg.Connection) -> list[str]:
    """Return the tables of the schema without partitions and tables of extensions."""
    rows = connection.execute(
        "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
    )
    return [name for (name,) in rows]


def _migrations(connection: psycopg.Connection) -> dict[str, str]:
    if _one(connection, "SELECT to_regclass('schema_migrations')") is None:
        raise DatabaseError("the database has no perpflow tables to back up")
    return dict(connection.execute("SELECT name, checksum FROM schema_migrations ORDER BY version").fetchall())


def _timescaledb(connection: psycopg.Connection) -> str | None:
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    return row[0] if row else None


def _one(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    return row[0] if row else None


def _compare(what: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    wrong = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if wrong:
        first = wrong[0]
        raise DatabaseError(
            f"{len(wrong)} {what}s differ from the manifest; {first}: {expected.get(first, 'not there')} in the manifest,"
            f" {found.get(first, 'not there')} found"
        )


@contextmanager
def _running(database_url: str, command: list[str]) -> Iterator[None]:
    """Run a program of the wheel in parallel with the block. The block's end waits for it; an error in the block kills it.

    Raises:
        LockedOutError: it did not get a table's lock.
        DatabaseError: it failed for another reason; with its error output.
    """
    known = conninfo_to_dict(database_url)
    # Never on the command line, which other users of the machine can read.
    variables = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
        "sslmode": "PGSSLMODE",
    }
    environment = {**os.environ, **{variables[key]: str(value) for key, value in known.items() if key in variables and value is not None}}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen([str(binaries() / command[0]), *command[1:]], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            log.seek(0)
            said = log.read().strip()[-2000:]
            locked = "could not obtain lock on relation" in said or "due to lock timeout" in said
            kind = LockedOutError if locked else DatabaseError
            raise kind(f"{command[0]} failed (exit code {process.returncode}): {said}")


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((folder / DUMP).rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    return found


def _flush(path: Path) -> None:
    """Flush a file or folder to disk, so that a named backup survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

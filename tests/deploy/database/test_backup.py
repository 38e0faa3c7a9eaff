"""Backup and restore: every table comes out as it went in, from one snapshot; damage is named; a sink goes on without loss or doubling."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from deploy.cli.setup import db
from deploy.database import backup, maintenance
from deploy.database import migrate as database
from deploy.database.migrate import DatabaseError
from schemas.settings import Settings
from sinks.timescale import partitions
from tests.support.timescale.timescale_helpers import Feeder, assert_tables_equal, migrated, query, sink_thread, until

pytestmark = pytest.mark.stack


@pytest.fixture
def second(environment: Settings) -> Iterator[Settings]:
    """The same topics, another and empty database."""
    name = f"r{uuid.uuid4().hex[:12]}"
    server = f"{environment.database_url.rpartition('/')[0]}/postgres"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    yield environment.model_copy(update={"database_url": f"{environment.database_url.rpartition('/')[0]}/{name}"})
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]


def _rows(settings: Settings) -> int:
    return int(query(settings, "SELECT coalesce(sum(next_offset), 0) FROM sink_offsets")[0][0])


def test_a_sink_goes_on_from_a_restored_backup(environment: Settings, second: Settings, topics: list[str], tmp_path: Path) -> None:
    """Backed up while rows come in; then the database is lost, with all that was written since."""
    feeder = Feeder(migrated(environment))
    feeder.fill(600, 60, odd=True)
    folder = tmp_path / "monday"
    with sink_thread(environment, batch_rows=100, batch_seconds=0.05):
        until("writing began", lambda: _rows(environment) > 300, 60)
        maintenance.maintain(environment.database_url, keep_history=True)  # bars are in it too
        feeder.fill(601, 60, start=60, odd=True)
        manifest = backup.backup(environment.database_url, folder)
        feeder.fill(602, 30, start=120)
        everything = sum(map(len, feeder.fed.values()))
        until("all is written", lambda: _rows(environment) >= everything, 60)
    assert_tables_equal(environment, feeder.fed)
    with pytest.raises(DatabaseError, match="already exists"):
        backup.backup(environment.database_url, folder)
    assert backup.restore(second.database_url, folder) == manifest
    assert _rows(second) < everything
    held = sum(table["rows"] for name, table in manifest["tables"].items() if name in feeder.fed)
    assert held == _rows(second) > 300  # offsets and rows are of one instant
    assert query(second, "SELECT count(*) FROM market_cvd_1d") == query(
        second, "SELECT count(DISTINCT (instrument, bar_end('1 day', event_time))) FROM agg_trades"
    )
    assert database.migrate(second.database_url) == []
    with sink_thread(second, until_idle=1.0):
        until("all is written", lambda: _rows(second) >= everything, 60)
    assert_tables_equal(second, feeder.fed)


def test_what_is_not_whole_is_refused(environment: Settings, second: Settings, tmp_path: Path) -> None:
    runner = CliRunner()
    url = ["--database-url", environment.database_url]
    with pytest.raises(DatabaseError, match="no perpflow tables"):
        backup.backup(environment.database_url, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    database.migrate(environment.database_url)
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO quotes SELECT 'X', now() - n * interval '1 hour', now(), n, 1, 1, 1, 1, 0, n FROM generate_series(1, 500) n"
        )
    folder = tmp_path / "tuesday"
    done = runner.invoke(db.app, ["backup", str(folder), *url])
    assert done.exit_code == 0 and "tables" in done.output, done.output
    with pytest.raises(DatabaseError, match="is not empty"):
        backup.restore(environment.database_url, folder)
    with pytest.raises(DatabaseError, match="not a complete backup"):
        backup.restore(second.database_url, tmp_path / "none")
    # A byte of a file, a file that is gone, a figure of the manifest, a migration from the future.
    largest = max((folder / backup.DUMP).iterdir(), key=lambda path: path.stat().st_size)
    good = largest.read_bytes()
    largest.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(DatabaseError, match=largest.name):
        backup.restore(second.database_url, folder)
    largest.unlink()
    with pytest.raises(DatabaseError, match="1 files differ from the manifest"):
        backup.restore(second.database_url, folder)
    largest.write_bytes(good)
    manifest = folder / backup.MANIFEST
    text = manifest.read_text()
    future = json.loads(text)
    future["migrations"]["9999_later.sql"] = "x"
    manifest.write_text(json.dumps(future))
    with pytest.raises(DatabaseError, match=r"9999_later\.sql"):
        backup.restore(second.database_url, folder)
    wrong = json.loads(text)
    wrong["tables"]["quotes"]["hash"] = "1"
    manifest.write_text(json.dumps(wrong))
    with pytest.raises(DatabaseError, match="quotes"):
        backup.restore(second.database_url, folder)


def test_nothing_asks_for_exclusive_locks_beside_a_backup(environment: Settings, tmp_path: Path) -> None:
    """Retention and new partitions wait for the next time; a backup waits for a partition that is being made."""
    database.migrate(environment.database_url)
    long_ago = np.array([1_000_000_000_000])
    with psycopg.connect(environment.database_url, autocommit=True) as reading, psycopg.connect(environment.database_url) as writing:
        keeper = partitions.Partitions(writing)
        reading.execute("SELECT pg_advisory_lock(%s)", (partitions.BACKUP_LOCK,))
        assert any("backup" in line for line in maintenance.maintain(environment.database_url).problems)
        for table in keeper.native:
            assert keeper.ensure(table, long_ago) == []
        reading.execute("SELECT pg_advisory_unlock(%s)", (partitions.BACKUP_LOCK,))
        assert maintenance.maintain(environment.database_url).problems == []
        made = {table: keeper.ensure(table, long_ago) for table in keeper.native}
        assert made and all(len(names) == 1 for names in made.values())
        said: list[str] = []
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(backup.backup, environment.database_url, tmp_path / "waited", progress=said.append)
            until("it waits", lambda: said)
            assert "waiting" in said[0] and not waiting.done()
            writing.commit()
            assert waiting.result(60)["tables"]


def test_an_exclusive_lock_that_comes_between_costs_a_second_try_only(environment: Settings, tmp_path: Path) -> None:
    """Someone alters a table just when pg_dump has chosen it: seen by its second process, which does not wait."""
    database.migrate(environment.database_url)
    said: list[str] = []
    stop = Event()

    def alter() -> None:
        with psycopg.connect(environment.database_url, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '300ms'")
            while not stop.is_set():
                with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                    connection.execute("LOCK TABLE trades_closed_default IN ACCESS EXCLUSIVE MODE")

    with ThreadPoolExecutor() as pool:
        altering = pool.submit(alter)
        try:
            manifest = backup.backup(environment.database_url, tmp_path / "altered", progress=said.append)
        finally:
            stop.set()
        altering.result(20)
    assert manifest["files"] and (tmp_path / "altered" / backup.MANIFEST).exists()
    assert any("one process" in line for line in said)

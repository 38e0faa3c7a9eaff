"""Upkeep on a real database: what is dropped and what never is, one at a time, policies, the job that outlives a restart of the database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.cli.setup import db
from deploy.database import maintenance as upkeep
from deploy.database import migrate as database
from deploy.database.migrate import DatabaseError
from schemas import metrics
from schemas.process.service import Service, summed
from schemas.settings import Settings
from sinks.timescale import partitions
from sinks.timescale.tables import tables
from tests.support.paths import ROOT

pytestmark = pytest.mark.stack
# The database decides by its own clock what is too old. The tests of a file may run on both sides of midnight, so each asks anew.


def now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


@pytest.fixture
def native(environment: Settings) -> Settings:
    database.migrate(environment.database_url)
    if database.status(environment.database_url).timescaledb:
        pytest.skip("hypertables; tests/sinks/timescale/test_timescaledb.py")
    return environment


def run(environment: Settings, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        cursor = connection.execute(query, arguments)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def put(environment: Settings, table: str, at: datetime, noted: bool = True) -> None:
    """Write a row at a time as the sink would, other columns empty."""
    with psycopg.connect(environment.database_url, autocommit=True) as connection, connection.transaction():
        step = next(one.step for one in tables() if one.name == table)
        partitions.Partitions(connection).ensure(table, _ms(at))
        columns = connection.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND attnotnull",
            (table,),
        ).fetchall()
        empty = {"text": "X", "boolean": False, "jsonb": "{}", "text[]": [], "double precision[]": []}
        values = {name: at if "timestamp" in kind else empty.get(kind, 0) for name, kind in columns}
        connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})",  # type: ignore[arg-type]
            list(values.values()),
        )
        if noted and step:
            connection.execute(
                "INSERT INTO bar_changes SELECT source, %s FROM bar_sources WHERE source = %s", (int((_ms(at)[0] - 1) // 300_000), table)
            )


def _ms(at: datetime) -> Any:
    import numpy as np

    return np.array([int(at.timestamp() * 1000)])


def test_what_is_too_old_is_dropped_with_its_partition_and_nothing_else(native: Settings) -> None:
    present = now()
    # The edge is ten minutes younger than the limit, so that its day is never wholly too old while the test runs.
    old, edge, new = present - timedelta(days=40), present - timedelta(days=30) + timedelta(minutes=10), present - timedelta(days=1)
    for table in ("quotes", "agg_trades", "trades_closed"):
        for at in (old, edge, new):
            put(native, table, at)
    kept = upkeep.maintain(native.database_url, keep_history=True)
    assert kept.problems == [] and not any("dropped" in line for line in kept.done)
    report = upkeep.maintain(native.database_url)
    assert [line for line in report.done if "dropped" in line] == [f"quotes_{old:%Y_%m_%d}: dropped, older than quotes is kept"]
    assert report.problems == []
    assert run(native, "SELECT count(*) FROM quotes") == [(2,)]  # the row at the edge is on a day of which not all is too old
    assert run(native, "SELECT (SELECT count(*) FROM agg_trades), (SELECT count(*) FROM trades_closed)") == [(3, 3)]
    upkeep.keep(native.database_url, "agg_trades", 7)
    report = upkeep.maintain(native.database_url)
    assert run(native, "SELECT count(*) FROM agg_trades") == [(1,)]
    assert run(native, "SELECT sum(trades) FROM market_cvd_1d") == [(3,)]  # their bars stay
    put(native, "agg_trades", old)  # one more of that day comes late: the day's bar must not be built of it alone
    upkeep.maintain(native.database_url, keep_history=True)
    assert run(native, "SELECT sum(trades) FROM market_cvd_1d") == [(3,)]


def test_scores_are_dropped_only_when_their_bars_are_built(native: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    old = now() - timedelta(days=100)
    put(native, "scores", old)
    put(native, "scores", now() - timedelta(minutes=1))
    with monkeypatch.context() as patched:
        patched.setattr(upkeep, "build_bars", lambda connection, progress: [])
        report = upkeep.maintain(native.database_url)
    assert report.problems == [f"scores_{old:%Y_%m}: older than scores is kept, but its bars are not built yet"]
    assert run(native, "SELECT count(*) FROM scores") == [(2,)]
    report = upkeep.maintain(native.database_url)
    assert f"scores_{old:%Y_%m}: dropped, older than scores is kept" in report.done
    assert run(native, "SELECT count(*) FROM scores") == [(1,)]
    for timeframe in ("1m", "1d"):
        assert run(native, f"SELECT sum(evaluations) FROM market_scores_{timeframe}") == [(2,)]
    put(native, "scores", old)  # late, and of a time that is no longer kept: bars stay as they were
    upkeep.maintain(native.database_url)
    assert run(native, "SELECT sum(evaluations) FROM market_scores_1d") == [(2,)]


def test_a_partition_in_use_is_dropped_the_next_time(native: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    old = now() - timedelta(days=50)
    put(native, "depth", old)
    monkeypatch.setattr(upkeep, "DROP_LOCK_TIMEOUT", "100ms")
    with psycopg.connect(native.database_url) as reader:
        reader.execute("SELECT count(*) FROM depth")
        assert upkeep.maintain(native.database_url).problems == [f"depth_{old:%Y_%m_%d}: in use, dropped the next time"]
    assert upkeep.maintain(native.database_url).problems == []
    assert run(native, "SELECT count(*) FROM depth") == [(0,)]


def test_one_at_a_time(native: Settings) -> None:
    with psycopg.connect(native.database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (upkeep._LOCK_KEY,))
        with pytest.raises(upkeep.Busy):
            upkeep.maintain(native.database_url)
        result = CliRunner().invoke(db.app, ["maintain", "--database-url", native.database_url])
        assert (result.exit_code, "another" in result.output) == (0, True)
    upkeep.maintain(native.database_url)


def test_impossible_times_are_told_and_stay(native: Settings) -> None:
    run(native, "INSERT INTO quotes VALUES ('X', '0800-01-01 BC', now(), 1, 1, 1, 1, 1, 0, 0)")
    report = upkeep.maintain(native.database_url)
    assert report.problems == ["quotes_default: has rows with impossible times, or rows that the next run moves"]
    result = CliRunner().invoke(db.app, ["maintain", "--database-url", native.database_url])
    assert (result.exit_code, "quotes_default" in result.output) == (1, True)


def test_every_partitioned_table_has_a_policy_that_fits_it(native: Settings) -> None:
    policies = {
        row[0]: row[1:] for row in run(native, "SELECT table_name, step, chunk, keep, segment_by, order_by, reason FROM table_policies")
    }
    assert set(policies) == {table.name for table in tables() if table.step}
    for table in tables():
        if table.step:
            step, chunk, kept, segment_by, order_by, reason = policies[table.name]
            assert (
                step == table.step
                and timedelta(hours=1) <= chunk <= timedelta(days=31)
                and (kept is None or kept >= timedelta(days=7))
                and reason
            )
            named = [name.strip() for name in f"{segment_by}, {order_by}".split(",")]
            assert set(named) <= set(table.column_names) and len(named) == len(set(named)) and "event_time" in order_by
    # The specification: raw trades are never deleted; the books of the desk are the desk's.
    assert all(policies[name][2] is None for name in ("agg_trades", "orders", "fills", "positions", "trades_closed", "signals"))
    shown = CliRunner().invoke(db.app, ["keep", "depth", "14", "--database-url", native.database_url], env={"COLUMNS": "200"})
    assert (shown.exit_code, "14 days" in shown.output) == (0, True)
    assert CliRunner().invoke(db.app, ["keep", "depth", "0", "--database-url", native.database_url]).exit_code == 0
    assert run(native, "SELECT keep FROM table_policies WHERE table_name = 'depth'") == [(None,)]
    with pytest.raises(DatabaseError, match="no such"):
        upkeep.keep(native.database_url, "nothing", 3)
    shown = CliRunner().invoke(
        db.app, ["keep", "depth", "--chunk", "6 hours", "--database-url", native.database_url], env={"COLUMNS": "200"}
    )
    assert (shown.exit_code, "06:00:00" in shown.output) == (0, True)
    for table, span, said in (
        ("nothing", "1 day", "no such"),
        ("depth", "soon", "no interval"),
        ("depth", "1 minute", "15 minutes"),
        ("depth", "-1 day", "15 minutes"),
    ):
        with pytest.raises(DatabaseError, match=said):
            upkeep.chunk(native.database_url, table, span)
    assert run(native, "SELECT chunk FROM table_policies WHERE table_name = 'depth'") == [(timedelta(hours=6),)]


def test_measured_chunks_leave_alone_what_was_set_by_hand(environment: Settings) -> None:
    url = environment.database_url
    database.migrate(url, until=115)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE table_policies SET chunk = '2 hours' WHERE table_name = 'quotes'")
    database.migrate(url)
    chunks = dict(run(environment, "SELECT table_name, chunk FROM table_policies"))
    assert (chunks["quotes"], chunks["bars"], chunks["agg_trades"]) == (timedelta(hours=2), timedelta(days=7), timedelta(days=1))


def test_an_empty_database_is_named(environment: Settings) -> None:
    with pytest.raises(DatabaseError, match="perpflow db migrate"):
        upkeep.maintain(environment.database_url)


@pytest.mark.private_stack
def test_the_job_outlives_a_restart_of_the_database(native: Settings, private_stack: Any) -> None:
    before = summed(metrics.MAINTENANCE, outcome="done")
    with Service("maintenance") as service:
        keeper = upkeep.Keeper(native.database_url, True, 0.1, service)
        thread = threading.Thread(target=keeper.run)
        thread.start()
        _until(lambda: service.health()["rounds"] > 1)
        private_stack.local.kill_database()
        _until(lambda: not service.health()["ok"])
        private_stack.local.up()
        put(native, "agg_trades", now() - timedelta(hours=3))
        _until(lambda: service.health()["ok"] and run(native, "SELECT count(*) FROM market_cvd_1m_buckets") == [(1,)])
        service.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert summed(metrics.MAINTENANCE, outcome="done") - before > 2
    assert summed(metrics.MAINTENANCE, outcome="failed") > 0
    assert summed(metrics.DATABASE_BYTES) > 1_000_000
    assert summed(metrics.TABLE_BYTES, table="agg_trades") > 0
    assert summed(metrics.BARS_BUILT, source="agg_trades") > now().timestamp() - 4 * 3600


def test_the_job_as_a_process_stops_cleanly(native: Settings, environment_variables: Callable[..., dict[str, str]]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "db", "maintain", "--every", "1"],
        env=environment_variables(),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "started" in process.stderr.readline()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(120) == 0


def _until(check: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)

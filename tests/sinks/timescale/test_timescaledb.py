"""The TimescaleDB branch on the extension itself: the same names give the same rows, and its jobs do what the policies say.

Needs a server (TIMESCALE_DATABASE_URL) or Node.js, which runs the extension as WebAssembly. One database serves all tests: they come in order.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.cli.setup import db
from deploy.database import columnstore, jobs, maintenance, server_settings
from deploy.database import migrate as database
from deploy.stack import doctor
from schemas.settings import Settings
from sinks.timescale import changes
from stream_apps.core.market.config import TIMEFRAME_MS
from tests.sinks.timescale.test_bars import DAY, HOUR, START, Trade, assert_bars, at, insert, make, oracle, read
from tests.sinks.timescale.timescaledb import VARIABLE, empty_database

# The packages come from the registry of Node.js, which the tests of every day do not ask.
pytestmark = pytest.mark.long
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with empty_database() as found:
        yield found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of one session refuses a connection for as long as it has not seen the last one go."""
    plain = psycopg.connect

    def connect(*arguments: Any, **named: Any) -> Any:
        for _ in range(40):
            try:
                return plain(*arguments, **named)
            except psycopg.OperationalError:
                time.sleep(0.25)
        return plain(*arguments, **named)

    monkeypatch.setattr(psycopg, "connect", connect)


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as opened:
        opened.execute("SET timezone = 'UTC'")
        yield opened


@pytest.fixture(scope="module")
def trades() -> list[Trade]:
    return make(random.Random(11), 300, START + 1, START + 30 * HOUR)


def test_the_schema_is_hypertables_and_continuous_aggregates(url: str) -> None:
    assert database.migrate(url) == [one.name for one in database.migration_files()]
    state = database.status(url)
    assert state.ok and state.timescaledb
    assert database.migrate(url) == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM timescaledb_information.continuous_aggregates").fetchone() == (
            4 * len(TIMEFRAME_MS),
        )
        assert connection.execute(
            "SELECT count(*) FROM timescaledb_information.continuous_aggregates WHERE materialized_only"
        ).fetchone() == (0,)
        assert connection.execute(
            "SELECT count(*) FROM table_policies p WHERE NOT EXISTS (SELECT FROM timescaledb_information.hypertables h"
            " WHERE h.hypertable_name = p.table_name)"
        ).fetchone() == (0,)
        assert changes.sources(connection) == frozenset()


def test_doctor_and_migrate_name_the_setting_that_is_too_small(url: str) -> None:
    """The server in WebAssembly preloads nothing, so its jobs never run."""
    if os.environ.get(VARIABLE):
        pytest.skip("a server with background workers")
    in_use, lack = doctor.timescale(Settings(database_url=url))
    assert in_use.ok and not lack.ok and "shared_preload_libraries is ''" in lack.found and "ALTER SYSTEM SET shared_preload" in lack.remedy
    shown = CliRunner().invoke(db.app, ["migrate", "--database-url", url])
    assert shown.exit_code == 0 and "nothing to apply" in shown.output
    assert "warning: the server lacks background workers" in shown.output and "'timescaledb'" in shown.output


def test_bars_are_exact_unbuilt_and_built(connection: psycopg.Connection, trades: list[Trade]) -> None:
    insert(connection, trades[:200])
    assert_bars(connection, trades[:200])  # real time: nothing is built yet
    for aggregate in columnstore.aggregates_of(connection, "agg_trades"):
        columnstore.refresh(connection, aggregate, None, None)
    assert_bars(connection, trades[:200])
    insert(connection, trades[200:])  # late, into what is built
    for aggregate in columnstore.aggregates_of(connection, "agg_trades"):
        columnstore.refresh(connection, aggregate, None, None)
    assert_bars(connection, trades)


def test_candles_are_continuous(connection: psycopg.Connection, trades: list[Trade]) -> None:
    instrument = trades[0].instrument
    rows = connection.execute(
        "SELECT event_time, trades FROM candles(%s, '1h', %s, %s)", (instrument, at(START), at(START + DAY))
    ).fetchall()
    want = {end: figures[-1] for (name, end), figures in oracle(trades, HOUR).items() if name == instrument and end <= START + DAY}
    assert {round(end.timestamp() * 1000): count for end, count in rows if count} == want
    assert all(b[0] - a[0] == timedelta(hours=1) for a, b in pairwise(rows))


def test_jobs_are_set_up_as_the_policies_say_and_every_one_runs(url: str, connection: psycopg.Connection, trades: list[Trade]) -> None:
    connection.close()
    done = maintenance.maintain(url, keep_history=True)
    assert done.problems == []
    assert any("columnstore by instrument" in line for line in done.done) and sum("built every" in line for line in done.done) == 24
    assert maintenance.maintain(url, keep_history=True) == maintenance.Report()
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as again:
        jobs = again.execute("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000").fetchall()
        assert len(jobs) > 40
        for (job,) in jobs:
            again.execute(f"CALL run_job({job})")  # type: ignore[arg-type]
        columns = again.execute(
            "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'agg_trades'"
        ).fetchone()
        assert columns == (True,)
        assert again.execute("SELECT count(*) FROM agg_trades").fetchone() == (len(trades),)
        assert_bars(again, trades)
        late = make(random.Random(12), 20, START + 1, START + HOUR, first=9000)
        insert(again, late)  # into columns
        for aggregate in columnstore.aggregates_of(again, "agg_trades"):
            columnstore.refresh(again, aggregate, None, None)
        assert_bars(again, trades + late)
        trades += late
    maintenance.keep(url, "depth", 5)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as again:
        again.execute("UPDATE table_policies SET chunk = '3 hours', columnstore_after = '12 hours' WHERE table_name = 'quotes'")
    chunk, columns, starts = maintenance.maintain(url, keep_history=True).done
    assert (chunk, columns) == ("quotes: chunks of 3:00:00 from now on", "quotes: columns after 12:00:00")
    assert starts.startswith("starts of ") and maintenance.maintain(url, keep_history=True).done == []


def test_jobs_start_apart_and_a_moved_one_comes_back(url: str) -> None:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        query = (
            "SELECT job_id, schedule_interval, extract(epoch FROM initial_start - '2000-01-03 00:00Z') %% extract(epoch FROM schedule_interval),"
            " next_start = initial_start, fixed_schedule FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_%%' AND job_id >= %s"
        )
        before = connection.execute(query, (1000,)).fetchall()
        assert len(before) > 40 and all(fixed for *_, fixed in before)
        for every in {row[1] for row in before}:
            starts = sorted(float(row[2]) for row in before if row[1] == every)
            apart = every.total_seconds() / len(starts)
            assert [b - a for a, b in pairwise(starts)] == pytest.approx([apart] * (len(starts) - 1), abs=1e-3)
        moved = before[0][0]
        connection.execute("SELECT alter_job(%s, initial_start => '2020-01-01 00:00Z'::timestamptz)", (moved,))
        assert jobs.spread(connection) == [moved]
        assert [row[:3] for row in sorted(connection.execute(query, (1000,)).fetchall())] == [row[:3] for row in sorted(before)]


def test_a_lack_of_workers_is_no_failure_of_a_job(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as TimescaleDB's scheduler writes them: one job that found no worker, one that failed in its work."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        (waits,), (broken,) = connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate' ORDER BY 1 LIMIT 2"
        ).fetchall()

        def fail(job: int, message: str, succeeded: str) -> None:
            connection.execute(
                "UPDATE _timescaledb_internal.bgw_job_stat SET last_run_success = false, total_failures = 2, last_start = now(),"
                " last_finish = now(), last_successful_finish = now() - %s::interval WHERE job_id = %s",
                (succeeded, job),
            )
            connection.execute(
                "INSERT INTO _timescaledb_internal.bgw_job_stat_history (job_id, pid, execution_start, execution_finish, succeeded, data)"
                " VALUES (%s, 1, now(), now(), false, jsonb_build_object('error_data', jsonb_build_object('message', %s::text)))",
                (job, message),
            )

        fail(waits, "failed to start job", "1 second")
        fail(broken, "division by zero", "1 second")
        notes, problems = jobs.report(connection)
        assert notes == [] and len(problems) == 2  # this server preloads nothing
        assert "division by zero" in problems[0] and "shared_preload_libraries" in problems[1] and "ALTER SYSTEM" in problems[1]
        monkeypatch.setattr(server_settings, "shortages", lambda _: [])
        notes, problems = jobs.report(connection)
        assert [f"job {waits} " in line for line in notes] == [True] and [f"job {broken} " in line for line in problems] == [True]
        fail(waits, "failed to start job", "2 hours")
        notes, problems = jobs.report(connection)
        assert notes == [] and any(f"job {waits} " in line and "has found no free background worker since" in line for line in problems)
        for job in (waits, broken):
            connection.execute(f"CALL run_job({job})")  # type: ignore[arg-type]
        connection.execute(
            "UPDATE _timescaledb_internal.bgw_job_stat SET last_run_success = true WHERE job_id IN (%s, %s)", (waits, broken)
        )
        assert jobs.report(connection) == ([], [])


def test_retention_drops_chunks_and_keeps_their_bars(url: str, trades: list[Trade]) -> None:
    """Also bars that had not been built when their rows went, and none is emptied by what is built afterwards."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        recent = make(random.Random(13), 40, round(NOW.timestamp() * 1000) - DAY, round(NOW.timestamp() * 1000) - HOUR, first=20_000)
        unbuilt = make(random.Random(14), 40, START - 3 * DAY, START - 2 * DAY, first=30_000)
        insert(connection, recent + unbuilt)
    maintenance.keep(url, "agg_trades", 30)
    report = maintenance.maintain(url)
    assert report.problems == [] and any("dropped, older than agg_trades" in line for line in report.done)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        assert connection.execute("SELECT count(*) FROM agg_trades").fetchone() == (len(recent),)
        everything = trades + recent + unbuilt
        for timeframe, width in TIMEFRAME_MS.items():
            assert read(connection, timeframe) == oracle(everything, width), timeframe
        for (job,) in connection.execute("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000").fetchall():
            connection.execute(f"CALL run_job({job})")  # type: ignore[arg-type]
        for timeframe, width in TIMEFRAME_MS.items():
            assert read(connection, timeframe) == oracle(everything, width), timeframe


def test_the_reader_reads_what_the_owner_made(url: str) -> None:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("SET ROLE perpflow_reader")
        for name in ("agg_trades", "market_cvd_1m", "market_15m", "market_scores_1d", "data_quality_current"):
            connection.execute(f"SELECT * FROM {name} LIMIT 1")  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM agg_trades")
        connection.execute("SET ROLE perpflow_writer")
        connection.execute("INSERT INTO quotes VALUES ('X', '2020-01-01', now(), 1, 1, 1, 1, 1, 0, 0)")  # makes a chunk
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE quotes SET bid_price = 1")
        connection.execute("RESET ROLE")

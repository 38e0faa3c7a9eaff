"""Whatever is killed, frozen or restarted, the tables end as if nothing had happened: every record once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from schemas import catalogue
from schemas.settings import Settings
from tests.support.timescale.timescale_helpers import (
    Feeder,
    assert_tables_equal,
    count,
    migrated,
    query,
    run_to_end,
    sink_process,
    sink_thread,
    until,
)

pytestmark = pytest.mark.stack
Variables = Callable[..., dict[str, str]]


def _kill_again_and_again(environment: Settings, variables: dict[str, str], times: int, seed: int) -> None:
    feeder = Feeder(migrated(environment))
    rng = random.Random(seed)
    # A fixed member name: the next one need not wait for the session of the killed one to end.
    arguments = ("--instance", "one", "--session-timeout", "6", "--batch-rows", "40", "--batch-seconds", "0.05")
    started = 0
    for n in range(times):
        feeder.fill(seed + n, 60, start=n * 60)
        rows = query(environment, "SELECT coalesce(sum(next_offset), 0) FROM sink_offsets")[0][0]
        with sink_process(variables, *arguments) as process:
            until("writing began", lambda rows=rows: query(environment, "SELECT sum(next_offset) FROM sink_offsets")[0][0] != rows, 60)
            time.sleep(rng.random() * 0.6)
            started += process.poll() is None
            process.kill()
    assert started == times  # each was alive and writing when it was killed
    run_to_end(variables, "--instance", "one")
    assert_tables_equal(environment, feeder.fed)


def test_killed_while_writing(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    _kill_again_and_again(environment, environment_variables(), 3, 100)


@pytest.mark.long
def test_killed_while_writing_20_times(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    _kill_again_and_again(environment, environment_variables(), 20, 200)


def test_frozen_past_its_session_and_thawed(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    """Its partitions go to a successor; thawed, it holds old records and an old transaction, and must do no harm with either."""
    feeder = Feeder(migrated(environment))
    feeder.fill(300, 100)
    variables = environment_variables()
    slow = ("--session-timeout", "6", "--batch-rows", "30", "--batch-seconds", "0.05")
    with sink_process(variables, *slow) as frozen:
        until("writing began", lambda: count(environment, "quotes") > 0, 60)
        frozen.send_signal(signal.SIGSTOP)
        feeder.fill(301, 60, start=100)
        # Frozen in the middle of a COPY it holds its locks until the statement's time is over, a minute.
        run_to_end(variables, timeout=200)
        assert_tables_equal(environment, feeder.fed)
        frozen.send_signal(signal.SIGCONT)
        feeder.fill(302, 60, start=160)
        everything = sum(map(len, feeder.fed.values()))
        until("the thawed one goes on", lambda: sum(count(environment, topic) for topic in catalogue.TOPICS) == everything, 60)
        frozen.send_signal(signal.SIGTERM)
        assert frozen.wait(120) == 0
    assert_tables_equal(environment, feeder.fed)


@pytest.mark.parametrize("part", ["database", "broker"])
@pytest.mark.private_stack
def test_a_restart_of_the_database_or_the_broker(environment: Settings, topics: list[str], private_stack: Any, part: str) -> None:
    """It is killed and comes back while records flow; the sink says that something is missing, stays, and ends with the same rows."""
    feeder = Feeder(migrated(environment))
    feeder.fill(400, 60)
    with sink_thread(environment, batch_rows=100, batch_seconds=0.1) as (service, _):
        until("writing began", lambda: count(environment, "quotes") > 0, 60)
        if part == "database":
            private_stack.local.kill_database()
            feeder.fill(401, 60, start=60)
            until("unhealthy", lambda: not service.health()["ok"], 60)
            assert "writer" in service.health()
        else:
            private_stack.local.kill_broker()
            until("unhealthy", lambda: not service.health()["ok"], 60)
            assert "broker" in service.health()
        private_stack.local.up()
        feeder.fill(402, 60, start=120)
        everything = sum(map(len, feeder.fed.values()))
        until("all rows", lambda: sum(count(environment, topic) for topic in catalogue.TOPICS) == everything, 90)
        until("healthy", lambda: service.health()["ok"], 60)
    assert_tables_equal(environment, feeder.fed)


def test_memory_stays_bounded_while_the_database_is_away(environment: Settings, topics: list[str]) -> None:
    """Without tables nothing can be written: the sink stops reading and fetching at a few batches and stays in its group beyond the poll limit."""
    feeder = Feeder(environment)
    with sink_thread(environment, topics=("quotes",), batch_rows=50, batch_seconds=0.1, fetch_bytes=8_000) as (service, sink):
        migrated(environment)
        until("placed", lambda: query(environment, "SELECT count(*) FROM sink_offsets")[0][0] == environment.partitions)
        with psycopg.connect(environment.database_url) as connection:
            connection.execute("ALTER TABLE quotes RENAME TO quotes_away")
        feeder.fill(500, 2000, ("quotes",))
        until("paused", lambda: service.health()["paused"], 30)
        time.sleep(1)
        partitions = list(sink._reader.partitions.values())
        assert (
            sum(one.position - one.written for one in partitions) < 700
        )  # two batches of 150 in flight, one waiting, and the set that made it full
        assert service.health()["bytes_buffered"] < 60_000
        with psycopg.connect(environment.database_url) as connection:
            connection.execute("ALTER TABLE quotes_away RENAME TO quotes")
        until("all rows", lambda: count(environment, "quotes") == 2000, 60)
    assert_tables_equal(environment, feeder.fed)

"""The executor on a real broker and a real database: what it writes is what the model makes of the log, whatever happens to the process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import psycopg
import pytest

from deploy.stack import Stack
from deploy.stack.topics import create_topics
from schemas import metrics
from schemas.process.service import Service, summed
from schemas.settings import Settings
from sinks.executor.journal import Checkpoint, FencedError, Journal, OutboxRow
from sinks.executor.service import Executor
from tests.support.paths import ROOT
from tests.support.trading.paper_cases import ltc_trades
from tests.support.trading.paper_log import OUTPUTS, Instrument, Writer, expected, log_of, read_topic, written

pytestmark = pytest.mark.stack

MIGRATION = ROOT / "deploy" / "database" / "migrations" / "0101_executor.sql"
PROCESS = "import typer; from deploy.cli.services.execute import execute; typer.run(execute)"
NAMES = (
    ("BINANCE:LTCUSDT", "BINANCE-1", 0),
    ("OKX:LTCUSDT-PERP", "OKX-1", 7_000),
    ("BINANCE:BTCUSDT-PERP", "BINANCE-1", 1_000),
    ("BINANCE:ETHUSDT-PERP", "BINANCE-1", 2_000),
    ("BINANCE:SOLUSDT-PERP", "BINANCE-1", 3_000),
)


@pytest.fixture(scope="module")
def instruments():
    """One recording under several names: two authors share a partition, the others have partitions of their own."""
    trades = ltc_trades("2025-06-21_12h")
    return [Instrument(name, author, trades, seed, shift) for seed, (name, author, shift) in enumerate(NAMES)]


@pytest.fixture(scope="module")
def truth(instruments):
    made = expected(instruments, Settings(partitions=12))
    assert len(made["trades_closed"]) > 200
    return made


@pytest.fixture
def world(environment, topics):
    """An environment with topics and the journal's tables."""
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        connection.execute(MIGRATION.read_text())
    return environment


def query(world, text):
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        return connection.execute(text).fetchall()


def write_all(world, batches):
    writer = Writer(world)
    for batch in batches:
        writer.write(batch)
    writer.flush()


def run_here(world, until_idle=1.5, **options):
    with Service("executor") as service:
        Executor(world, service, **options).run(until_idle=until_idle)


def start(variables, *arguments):
    return subprocess.Popen([sys.executable, "-c", PROCESS, *arguments], env=variables(), stderr=subprocess.PIPE, text=True)


def finish(process):
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    return log


def progress(world):
    (row,) = query(world, "SELECT coalesce(sum(progress_offset), 0) FROM executor_state")
    return int(row[0])


def wait_for(condition, timeout=120.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_topics_hold_what_the_model_makes_of_the_log(world, instruments, truth):
    write_all(world, log_of(instruments, world))
    before = summed(metrics.TRADES_CLOSED)
    run_here(world)
    assert written(world) == truth
    assert sum(len(read_topic(world, topic)) for topic in OUTPUTS) == sum(map(len, truth.values())), "an undisturbed run repeats nothing"
    assert query(world, "SELECT count(*) FROM executor_outbox") == [(0,)]
    assert summed(metrics.TRADES_CLOSED) - before == len(truth["trades_closed"])
    # Started again it has nothing to do.
    run_here(world, until_idle=1.0)
    assert sum(len(read_topic(world, topic)) for topic in OUTPUTS) == sum(map(len, truth.values()))


def test_repeated_steps_and_signals_and_garbage_change_nothing(world, instruments, truth):
    """A worker that was killed writes steps and signals again; garbage goes to dead_letters with its bytes."""
    writer = Writer(world)
    shift: dict[int, int] = {}
    for number, batch in enumerate(log_of(instruments, world)):
        for one in batch:
            if one.topic == "worker_progress":
                # Signals were repeated before: the offsets of the signals topic moved on.
                one.record["signals_offset"] += shift.get(one.partition, 0)
        writer.write(batch)
        if number % 50 == 7:
            signals = [one for one in batch if one.topic == "signals"]
            writer.write(signals)
            for one in signals:
                shift[one.partition] = shift.get(one.partition, 0) + 1
            writer.write([one for one in batch if one.topic == "worker_progress"])
    partition = next(one.partition for one in batch)
    writer.raw("signals", partition, b"BINANCE:LTCUSDT", b"\xc3\x01garbage-bytes", 1_750_525_200_000)
    writer.flush()
    run_here(world)
    assert written(world) == truth
    (letter,) = [world.codec.decode("dead_letters", message.value()) for message in read_topic(world, "dead_letters")]
    assert (letter["service"], letter["source"], letter["value"]) == ("executor", "signals", b"\xc3\x01garbage-bytes")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_points_and_started_again(world, instruments, truth, environment_variables, kills):
    """kill -9 at random positions of the log."""
    write_all(world, log_of(instruments, world))
    steps = sum(one.topic == "worker_progress" for batch in log_of(instruments, world) for one in batch)
    chance = random.Random(os.environ.get("PERPFLOW_TEST_SEED", "3"))
    killed_at = []
    for target in sorted(chance.sample(range(1, steps), kills)):
        process = start(environment_variables, "--session-timeout-ms", "6000", "--until-idle", "30")
        try:
            wait_for(lambda target=target: progress(world) >= target)
        finally:
            process.kill()
            process.communicate()
        killed_at.append(progress(world))
    assert killed_at[0] < steps, "it must be killed at work"
    finish(start(environment_variables, "--until-idle", "2", "--session-timeout-ms", "6000"))
    assert progress(world) == steps
    assert written(world) == truth
    assert query(world, "SELECT count(*) FROM executor_outbox") == [(0,)]


def test_frozen_and_thawed_beside_a_successor(world, instruments, truth, environment_variables):
    """Two executors share the partitions; one is frozen past its session timeout and thawed. It must not harm its successor."""
    batches = list(log_of(instruments, world))
    half = len(batches) // 2
    pair = [start(environment_variables, "--session-timeout-ms", "6000") for _ in range(2)]
    try:
        write_all(world, batches[:half])
        wait_for(lambda: len(query(world, "SELECT 1 FROM executor_state")) == world.partitions)
        done = sum(one.topic == "worker_progress" for batch in batches[:half] for one in batch)
        wait_for(lambda: progress(world) == done)
        pair[0].send_signal(signal.SIGSTOP)
        write_all(world, batches[half:])
        total = sum(one.topic == "worker_progress" for batch in batches for one in batch)
        wait_for(lambda: progress(world) == total)
        pair[0].send_signal(signal.SIGCONT)
        # It finds out that it was replaced, and shares the work again: the group gives it partitions, which it claims.
        epochs = query(world, "SELECT sum(epoch) FROM executor_state")
        wait_for(lambda: query(world, "SELECT sum(epoch) FROM executor_state") > epochs)
        time.sleep(1)
        for process in pair:
            assert process.poll() is None
            process.terminate()
        for process in pair:
            finish(process)
    finally:
        for process in pair:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert written(world) == truth
    assert progress(world) == total


def test_a_fenced_executor_drops_its_state_and_goes_on_from_the_journal(world, instruments, truth):
    batches = list(log_of(instruments, world))
    half = len(batches) // 2
    write_all(world, batches[:half])
    before = metrics.FENCED.labels("executor")._value.get()
    with Service("executor") as service:
        executor = Executor(world, service, session_timeout_ms=6000)
        thread = threading.Thread(target=executor.run, kwargs={"until_idle": 4.0})
        thread.start()
        done = sum(one.topic == "worker_progress" for batch in batches[:half] for one in batch)
        wait_for(lambda: progress(world) == done)
        # Somebody takes every partition behind its back.
        query(world, "UPDATE executor_state SET epoch = epoch + 1 RETURNING epoch")
        write_all(world, batches[half:])
        thread.join(60)
        assert not thread.is_alive()
    assert metrics.FENCED.labels("executor")._value.get() > before
    assert written(world) == truth


def test_the_database_goes_away_and_comes_back(world, instruments, truth):
    """Its connections are cut again and again while the executor works."""
    write_all(world, log_of(instruments, world))
    with Service("executor") as service:
        thread = threading.Thread(target=Executor(world, service).run, kwargs={"until_idle": 2.0})
        thread.start()
        for target in (100, 600, 1500):
            wait_for(lambda target=target: progress(world) >= target)
            query(world, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perpflow-executor'")
        thread.join(60)
        assert not thread.is_alive()
    assert written(world) == truth


def test_what_was_committed_and_not_sent_is_sent_by_the_next_owner(world, truth):
    journal = Journal(world.database_url, world.group("executor-paper"))
    journal.connect()
    epoch, at = journal.claim(5)
    (identity, record) = next(iter(truth["trades_closed"].items()))
    row = OutboxRow(0, "trades_closed", record["instrument"].encode(), record["event_time"], world.codec.encode("trades_closed", record))
    journal.commit(5, epoch, at.progress_offset, Checkpoint(0, {}, 1, record["event_time"], b""), [row])
    assert journal.unpublished(5) == [row]
    journal.close()
    run_here(world, until_idle=0.5)
    assert written(world)["trades_closed"] == {identity: record}
    assert query(world, "SELECT count(*) FROM executor_outbox") == [(0,)]


def test_the_journal_refuses_a_former_owner_and_a_wrong_position(world):
    journals = [Journal(world.database_url, "x") for _ in range(2)]
    for journal in journals:
        journal.connect()
    old, at = journals[0].claim(1)
    new, _ = journals[1].claim(1)
    now = Checkpoint(10, {"agg_trades": 7}, 1, 1_750_525_200_123, b"state")
    row = OutboxRow(0, "fills", b"k", 1_750_525_200_123, b"v")
    with pytest.raises(FencedError):
        journals[0].commit(1, old, at.progress_offset, now, [row])
    assert journals[1].unpublished(1) == [] and not journals[0].owns(1, old) and journals[1].owns(1, new)
    with pytest.raises(FencedError):
        journals[1].commit(1, new, 9, now, [row])
    journals[1].commit(1, new, at.progress_offset, now, [row])
    assert journals[0].claim(1) == (new + 1, now)
    journals[0].forget(1, 1)
    assert journals[0].unpublished(1) == []
    for journal in journals:
        journal.close()


def test_health_and_metrics_answer_and_live_is_refused(world, environment_variables):
    process = start(environment_variables, "--mode", "live")
    _, log = process.communicate(timeout=30)
    assert process.returncode != 0 and "add --live" in log
    with Service("executor") as service:
        executor = Executor(world, service)
        thread = threading.Thread(target=executor.run)
        thread.start()

        def health():
            try:
                with urllib.request.urlopen(f"http://localhost:{service.http_port}/health", timeout=5) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return json.load(error)

        wait_for(lambda: health().get("partitions") == list(range(world.partitions)))
        assert health()["ok"] is True
        service.stop()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.long
def test_broker_and_database_restart_at_once(tmp_path, instruments, truth):
    """On a stack of its own: nobody else's broker is to go down."""
    own = Stack(tmp_path / "stack")
    own.up()
    try:
        env = own.env()
        world = Settings(kafka_bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"], database_url=env["DATABASE_URL"], keep_history=True)
        create_topics(world)
        with psycopg.connect(world.database_url, autocommit=True) as connection:
            connection.execute(MIGRATION.read_text())
        batches = list(log_of(instruments, world))
        write_all(world, batches[: len(batches) // 2])
        with Service("executor") as service:
            thread = threading.Thread(target=Executor(world, service, session_timeout_ms=6000).run)
            thread.start()
            wait_for(lambda: progress(world) > 0)
            own.down()
            own.up()
            assert own.env() == env
            write_all(world, batches[len(batches) // 2 :])
            total = sum(one.topic == "worker_progress" for batch in batches for one in batch)
            wait_for(lambda: progress(world) == total and query(world, "SELECT count(*) FROM executor_outbox") == [(0,)], timeout=120)
            service.stop()
            thread.join(20)
            assert not thread.is_alive()
        assert written(world) == truth
    finally:
        own.reset()

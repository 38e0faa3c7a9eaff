"""A worker that freezes and wakes up again, a broker and a database that are killed and come back: the end is that of an undisturbed run."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.pipeline.pipeline import Pipeline
from deploy.demo.pipeline.process import Process
from deploy.stack import Stack
from schemas.partition import AssetGroups, partition_of
from stream_apps.replay.verify import read_results
from tests.system.system_lab import (
    BTC,
    LTC,
    NOT_COMPARED,
    Lab,
    Reference,
    assert_same_tables,
    contents,
    health,
    repeated_ids,
    repeated_rows,
    serves,
    set_speed,
    sound,
    table_contents,
    wait_until,
)

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SLOW = {"BTCUSDT": "2.5", "LTCUSDT": "320"}


def assert_as_undisturbed(pipeline: Pipeline, reference: Reference) -> None:
    """Compare results and tables of a finished run with the reference."""
    assert sound(read_results(pipeline.settings)) == reference.hashes
    assert_same_tables(contents(pipeline.settings), reference.contents)
    assert repeated_ids(pipeline.settings) == {}


def owned(worker: Process) -> set[int]:
    """Return the partitions that a worker works on."""
    return set(health(worker)["partitions"]) if serves(worker) else set()


def recoveries(worker: Process) -> int:
    """Return how often a worker took partitions over, by its log."""
    return len(re.findall(r'"event": "recovered"', worker.log.read_text("utf-8")))


# In CI a worker frozen and thawed stands in tests/stream_apps/agents/test_faust_worker.py and a sink and an executor in tests/sinks.
@pytest.mark.long
def test_a_worker_frozen_past_its_session_and_thawed(lab: Lab, reference: Reference) -> None:
    """It is frozen in the middle of its work, loses its partitions to the other one, wakes up with old records in hand, and harms nobody."""
    partitions = 4
    with lab.pipeline([BTC, LTC], speeds=SLOW, workers=2, partitions=partitions) as pipeline:
        pipeline.start()
        pair = [pipeline.services[f"worker-{number}"] for number in (1, 2)]
        busy = {partition_of(asset, partitions, AssetGroups()) for asset in ("LTC", "BTC")}

        def settled() -> bool:
            return all(serves(one) for one in pair) and set.union(*map(owned, pair)) == set(range(partitions)) and all(map(owned, pair))

        wait_until(settled, pipeline, 60)
        wait_until(lambda: pipeline.progress.counts()["features"] > 100, pipeline, 60)
        frozen = max(pair, key=lambda one: len(owned(one) & busy))
        other = next(one for one in pair if one is not frozen)
        assert owned(frozen) & busy
        before = recoveries(frozen)
        frozen.send(signal.SIGSTOP)
        wait_until(lambda: owned(other) == set(range(partitions)), pipeline, 60)
        taken_over = pipeline.progress.counts()["features"]
        wait_until(lambda: pipeline.progress.counts()["features"] > taken_over + 50, pipeline, 60)
        frozen.send(signal.SIGCONT)
        # It notices, joins again and gets its share.
        wait_until(lambda: recoveries(frozen) > before and settled(), pipeline, 60)
        assert not pipeline.produced(), "the recordings were over before it was back"
        set_speed(pipeline, "max")
        pipeline.run_to_the_end(200)
        assert other.starts == 1, "the successor was harmed"
        pipeline.stop()
        assert_as_undisturbed(pipeline, reference)


def assert_as_undisturbed_but_for_places(pipeline: Pipeline, reference: Reference) -> None:
    """Compare a run whose broker went away: no row lost, none doubled, in any table.

    A broker that ends after it wrote a batch may take the same batch again when it is back, though the producer is idempotent (seen when killed, and
    when stopped on a busy machine). So offsets, and the cuts that are made of them, may be behind by as many; all else is as undisturbed.
    """
    assert sound(read_results(pipeline.settings)) == reference.hashes
    found, expected = contents(pipeline.settings), dict(reference.contents)
    for table in ("progress", "worker_progress"):
        ignored = NOT_COMPARED[table] | {"cut", "progress_offset"}
        found[table] = table_contents(pipeline.settings, table, ignored)
        expected[table] = table_contents(reference.settings, table, ignored)
    assert_same_tables(found, expected)
    assert repeated_ids(pipeline.settings) == {}
    assert repeated_rows(pipeline.settings) == {}


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A broker and a database of this test's own, to be killed."""
    stack = Stack(tmp_path / "stack")
    stack.up()
    try:
        yield stack
    finally:
        stack.reset()


# In the long tier: what a client does while its broker dies differs from run to run, and each part has its own broker and database restart in CI
# (test_faust_worker, test_timescale_faults, test_executor).
@pytest.mark.long
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_broker_and_database_started_again(own_stack: Stack, tmp_path: Path, reference: Reference, kill: bool) -> None:
    variables = own_stack.env()
    lab = Lab(variables["KAFKA_BOOTSTRAP_SERVERS"], variables["DATABASE_URL"], tmp_path / "pipelines")
    with lab.pipeline([BTC, LTC], speeds=SLOW, partitions=4) as pipeline:
        pipeline.start()
        for restart in (own_stack.restart_broker, own_stack.restart_database):
            written = pipeline.progress.counts()["features"]
            wait_until(lambda written=written: pipeline.progress.counts()["features"] > written + 50, pipeline, 90)  # type: ignore[misc]
            restart(kill=kill)
        written = pipeline.progress.counts()["features"]
        wait_until(lambda: pipeline.progress.counts()["features"] > written + 50, pipeline, 90)
        assert not pipeline.produced(), "the recordings were over before the last restart"
        set_speed(pipeline, "max")
        pipeline.run_to_the_end(200)
        # A sink with an instance name may be fenced by its own former self when the broker comes back; it ends and is started again.
        restarted = {
            name: process.starts - 1 for name, process in pipeline.services.items() if process.starts > (2 if name == "sink" else 1)
        }
        assert not restarted, f"these did not outlast the outages: {json.dumps(restarted)}"
        pipeline.stop()
        assert_as_undisturbed_but_for_places(pipeline, reference)

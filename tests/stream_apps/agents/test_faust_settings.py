"""Settings that change while the worker runs and is killed: what it writes is what the engine in this process writes, and what replay decides again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.partition import base_of_instrument
from schemas.settings import Settings
from tests.stream_apps.agents.faust_lab import Lab
from tests.support.markets import logs
from tests.support.markets.settings_world import PERP, START, World, revision

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

COMMAND = "import typer; from deploy.cli.services.worker import worker; typer.run(worker)"
GRID = 15_000


def world() -> tuple[World, list[dict[str, int]]]:
    """A market whose settings change three times, and how far each topic reached after each part."""
    made, reached = World(21), []
    for number, values in enumerate(({"stale_book_ms": 60_000, "whale_usd": 500_000.0}, {"stale_indicator_ms": 1_800_000}, {}), 1):
        made.go(70)
        later = START + (made.number + 20) * GRID if number == 2 else 0
        made.write(revision(2 * number - 1, "", later, **values), revision(2 * number, PERP, later, p99_floor=float(7 * number)))
        made.go(1)
        reached.append({topic: len(messages) for topic, messages in made.log.topics.items()})
    made.go(60)
    reached.append({topic: len(messages) for topic, messages in made.log.topics.items()})
    return made, reached


def test_a_worker_killed_around_changes_writes_what_the_engine_and_the_replay_write(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    made, parts = world()
    outputs, _ = logs.run(made.log)
    compared = ("features", "scores", "bars", "dead_letters")
    wanted = {topic: [(one.key, one.value) for one in outputs if one.topic == topic] for topic in compared}
    assert len(wanted["features"]) == made.number == len(wanted["scores"])
    partition = environment.partition_of(base_of_instrument(PERP))
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "linger.ms": 5, "enable.idempotence": True})
    sent: dict[str, int] = {}

    def send(stops: dict[str, int]) -> None:
        for topic, stop in sorted(stops.items(), key=lambda item: item[0] == "progress"):  # marks last, so that they never lie
            for _, when, key, value in made.log.topics[topic][sent.get(topic, 0) : stop]:
                producer.produce(environment.topic(topic), value, key, partition, timestamp=when)
                producer.poll(0)
            producer.flush(30)
            sent[topic] = stop

    lab = Lab(environment, environment_variables(), tmp_path)

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"worker-{len(lab.workers)}.log").open("wb") as out:
            command = [sys.executable, "-c", COMMAND, "--checkpoint-interval", "0.3", "--session-timeout", "6"]
            lab.workers.append(subprocess.Popen(command, env=lab.variables, stdout=out, stderr=out))
        return lab.workers[-1]

    def written(topic: str) -> list[tuple[bytes, bytes]]:
        rows = [(key, value) for _, key, value in lab.read(topic)[0 if topic == "dead_letters" else partition]]
        return list(dict.fromkeys(rows))  # a repeat must be identical

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 60
        while len(written("scores")) < count:
            assert time.monotonic() < deadline, lab.log()[-5000:]
            time.sleep(0.2)

    try:
        worker = start()
        for part, stops in enumerate(parts[:-1], 1):
            send(stops)
            if part == 2:
                wait_for(71 * part - 40)  # killed while it works towards the change
            else:
                wait_for(71 * part)  # killed right after the first instant of the new settings
            worker.kill()
            worker.wait(10)
            worker = start()
        send(parts[-1])
        wait_for(made.number)
        for topic in compared:
            assert written(topic) == list(dict.fromkeys(wanted[topic])), topic
        steps = {}
        for _, value in written("worker_progress"):
            step = environment.codec.decode("worker_progress", value)
            steps[(step["event_time"] - START) // GRID] = step["settings_revision"]
        assert steps == {number: made.held(number)[0] for number in range(1, made.number + 1)}
        assert set(steps.values()) == {0, 2, 4, 6}
        assert lab.stop(worker) == 0
    finally:
        lab.close()
    report = tmp_path / "verify.json"
    command = [sys.executable, "-m", "deploy.cli", "replay", "--source", "topics", "--verify", "--json", str(report)]
    done = subprocess.run(command, env=lab.variables, capture_output=True, text=True, timeout=120, check=False)
    assert report.is_file(), done.stderr[-3000:]
    verified = json.loads(report.read_text())
    for topic in ("features", "scores", "signals"):  # nobody executes here, so there are no closed trades to compare
        assert verified["hashes"][topic] == verified["written"]["hashes"][topic], topic
        assert verified["counts"][topic] == verified["written"]["counts"][topic]
    assert verified["counts"]["scores"] == made.number

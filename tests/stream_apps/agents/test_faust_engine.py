"""The real engine in the worker, killed and restarted, writes byte for byte what the engine in this process does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.settings import Settings
from stream_apps.core.log.steps import completed
from tests.stream_apps.agents.faust_lab import Lab
from tests.support.markets import logs

pytestmark = pytest.mark.stack

TRADES = 30_000
COMMAND = "import typer; from deploy.cli.services.worker import worker; typer.run(worker)"


def test_the_worker_equals_the_engine(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    log = logs.Log()
    log.instrument()
    log.trades(logs.ltc_trades(TRADES))
    outputs, _ = logs.run(log)
    wanted = {
        topic: [(o.key, o.value) for o in outputs if o.topic == topic]
        for topic in ("features", "bars", "scores", "signals", "dead_letters")
    }
    steps = [o.value for o in outputs if o.topic == "worker_progress"]
    assert len(wanted["features"]) > 100 and len(steps) >= len(wanted["features"])

    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "linger.ms": 5})

    def produce(topic: str, start: float, stop: float) -> None:
        messages = log.topics[topic]
        for _, when, key, value in messages[int(start * len(messages)) : int(stop * len(messages))]:
            producer.produce(environment.topic(topic), value, key, 3, timestamp=when)
            producer.poll(0)
        producer.flush(30)

    lab = Lab(environment, environment_variables(), tmp_path)

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"worker-{len(lab.workers)}.log").open("wb") as out:
            lab.workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", COMMAND, "--checkpoint-interval", "0.3", "--session-timeout", "6"],
                    env=lab.variables,
                    stdout=out,
                    stderr=out,
                )
            )
        return lab.workers[-1]

    def written(topic: str) -> list[tuple[bytes, bytes]]:
        """What was written, repeats dropped; a repeat must be identical."""
        rows = [(key, value) for _, key, value in lab.read(topic)[0 if topic == "dead_letters" else 3]]
        return list(dict.fromkeys(rows))

    def wait_for(share: float) -> None:
        deadline = time.monotonic() + 60
        while len(written("features")) < share * len(wanted["features"]):
            assert time.monotonic() < deadline, lab.log()[-5000:]
            time.sleep(0.2)

    try:
        worker = start()
        produce("instruments", 0, 1)
        parts = 6
        for part in range(parts):
            produce("agg_trades", part / parts, (part + 1) / parts)
            produce("progress", part / parts, (part + 1) / parts)
            if part in (1, 3):
                wait_for(part / parts * 0.8)
                worker.kill()
                worker.wait(10)
                worker = start()
        wait_for(1)
        deadline = time.monotonic() + 120
        decode = environment.codec.decode
        while True:
            found = {s["progress_offset"]: s for s in (decode("worker_progress", value) for _, value in written("worker_progress"))}
            if len(found) == len(steps) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        for topic, rows in wanted.items():
            assert written(topic) == list(dict.fromkeys(rows)), topic
        in_order = sorted(found.values(), key=lambda s: s["event_time"])
        assert in_order == [
            decode("worker_progress", completed(step, s["signals_offset"])) for step, s in zip(steps, in_order, strict=True)
        ]
        assert lab.stop(worker) == 0
    finally:
        lab.close()

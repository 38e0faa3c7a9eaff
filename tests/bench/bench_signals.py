"""How long from a venue's frame to the decision in Kafka: the last frame that an instant needs, until a consumer sees what was decided at it.

Run: ``perpflow bench --only latency``. The simulated venue sends all streams; producer (with a stopwatch, measured_producer.py) and worker are real
processes, each on a core where there are enough. The clock of an instant T starts when the producer reads the frame that brings the last of its
connections beyond T + lateness from the socket: from then on nothing of T is missing. It stops when a consumer here has the ``features`` of T, and
once more with the step in ``worker_progress``, which is written when all signals of T are acknowledged. So a signal lies between the two. A moderate
and a heavy rate are measured.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from deploy.stack import processes
from schemas.settings import Settings
from tests.bench.bench_producer import MEASURED, Program, broker_cpu_s, venue, wait_for_frames
from tests.bench.measured_producer import spread
from tests.bench.rows import Figure, Row
from tests.bench.running import Run

MODERATE, HEAVY = 2_500, 25_000
# Instants that are worked off before anything is measured, and how long that may take: compiled code is loaded and partitions are assigned in them.
SKIP_INSTANTS, READY_S = 2, 120.0
DECISIONS = ("features", "worker_progress")


class Watcher(threading.Thread):
    """Notes when records of decisions become visible.

    Attributes:
        seen: Topic -> (instant, time in ns) of every record.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, list[tuple[int, int]]] = {topic: [] for topic in DECISIONS}
        self.over = threading.Event()
        self._settings = settings

    def wait(self, instants: int, worker: Program) -> int:
        """Wait until so many instants have been worked off on every partition that has instruments; return the last of them.

        Raises:
            RuntimeError: they were not within ``READY_S``, or the worker ended.
        """
        deadline = time.monotonic() + READY_S
        while len(done := sorted({instant for instant, _ in self.seen["worker_progress"]})) < instants:
            if time.monotonic() > deadline or worker.process.poll() is not None:
                raise RuntimeError(f"the worker worked off {len(done)} instants in {READY_S:.0f} s: {worker.last_words()}")
            time.sleep(0.1)
        return done[-1]

    def run(self) -> None:
        """Read until ``over``."""
        settings = self._settings
        consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "group.id": "watcher",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
            }
        )
        consumer.assign([TopicPartition(settings.topic(topic), p, 0) for topic in DECISIONS for p in range(settings.partitions)])
        plain = {settings.topic(topic): topic for topic in DECISIONS}
        while not self.over.is_set():
            for message in consumer.consume(1_000, timeout=0.002):
                if message.error() is None:
                    self.seen[plain[message.topic()]].append((message.timestamp()[1], time.time_ns()))
        consumer.close()


def cores() -> list[set[int]]:
    """Return the cores of the producer, the worker, and all else."""
    from os import sched_getaffinity

    free = sorted(sched_getaffinity(0))
    if len(free) < 3:
        return [{free[0]}, {free[-1]}, set(free)]
    return [{free[0]}, {free[1]}, set(free[2:])]


def measure(run: Run, rate: int, seconds: int, instruments: int, grid_ms: int) -> dict[str, Any]:
    """Run the pipeline at a rate; return the times to the decisions, how busy each process was, and what the producer's records waited for."""
    first, second, others = cores()
    with run.environment(grid_ms=grid_ms) as settings, tempfile.TemporaryDirectory() as folder:
        serving, urls = venue(0, others, rate=str(rate), kinds="", messages=rate * (seconds + int(READY_S) + 30), instruments=instruments)
        ports, variables = [processes.free_port()], run.variables(settings)
        ports.append(processes.free_port(ports))
        figures = Path(folder) / "figures.json"
        worker = Program(["-m", "deploy.cli", "worker"], second, {**variables, "PERPFLOW_HTTP_PORT": str(ports[0])})
        watcher = Watcher(settings)
        writer = None
        try:
            watcher.start()
            arguments = [str(MEASURED), str(figures), "--base-url", urls["rest_url"], "--symbols", "all"]
            writer = Program(arguments, first, {**variables, "PERPFLOW_HTTP_PORT": str(ports[1])})
            wait_for_frames(writer, ports[1])
            begin = watcher.wait(SKIP_INSTANTS, worker)
            programs = {"producer": writer, "worker": worker, "venue": serving}
            busy = {name: program.cpu_s() for name, program in programs.items()} | {"broker": broker_cpu_s(settings)}
            started = time.monotonic()
            while time.monotonic() - started < seconds:
                time.sleep(0.2)
                for name, program in programs.items():
                    if program.process.poll() is not None:
                        raise RuntimeError(f"the {name} ended: {program.last_words()}")
            passed = time.monotonic() - started
            now = {name: program.cpu_s() for name, program in programs.items()} | {"broker": broker_cpu_s(settings)}
            writer.stop()
            time.sleep(1.0)
        finally:
            watcher.over.set()
            watcher.join(10)
            if writer is not None:
                writer.stop()
            worker.stop()
            serving.stop()
        found = json.loads(figures.read_text())
    marks = {int(mark) - settings.allowed_lateness_ms: at for mark, at in found["marks"].items()}
    steady = {mark for mark in marks if mark > begin}
    waits = {topic: [at - marks[instant] for instant, at in rows if instant in steady] for topic, rows in watcher.seen.items()}
    return {
        "rate": rate,
        "records_a_second": round(found["records"] / max(1.0, passed - 5.0)),
        "instants": len(steady),
        "frame_to_features": spread(waits["features"]),
        "frame_to_step": spread(waits["worker_progress"]),
        "received_to_acknowledged": found["received_to_acknowledged"],
        "cpu_share": {name: round((now[name] - busy[name]) / passed, 3) for name in busy},
    }


def rows(run: Run) -> Iterator[Row]:
    """Yield p99 and p50 from the frame to the step that is written after an instant's signals."""
    for rate, seconds in {MODERATE: 13}.items() if run.quick else {MODERATE: 90, HEAVY: 90}.items():
        # A short grid gives more instants to measure.
        found = measure(run, rate, seconds, 20, 2_500 if run.quick else 7_500)
        for name in ("p99", "p50"):
            yield Row(
                f"frame to decision in Kafka {name}, all streams at {rate:,}/s", "ms", Figure(found["frame_to_step"][f"{name}_ms"], detail=found),
                {"to the features alone": Figure(found["frame_to_features"][f"{name}_ms"])}, more_is_better=False,
                bars={"ours": 250.0} if name == "p99" else {}, size={"instants": found["instants"], "instruments": 20, "seconds": seconds},
            )  # fmt: skip

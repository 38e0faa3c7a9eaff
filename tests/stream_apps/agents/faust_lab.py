"""What the tests of the worker share: a log of trades and marks on the broker, worker processes, and what they wrote."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.settings import Settings

SCRIPT = Path(__file__).with_name("faust_toy.py")


@dataclass
class Lab:
    """A log being written and the workers that read it.

    Attributes:
        settings: Topics and broker.
        variables: Environment of the workers.
        logs: Folder of their logs.
    """

    settings: Settings
    variables: dict[str, str]
    logs: Path
    written: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    cuts: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(7)
        self.producer = Producer(
            {"bootstrap.servers": self.settings.kafka_bootstrap_servers, "linger.ms": 5, "batch.size": 200_000, "enable.idempotence": True}
        )

    def produce(self, marks: int, trades: int = 20, partitions: list[int] | None = None) -> None:
        """Append marks to each partition, each after up to 2 x ``trades`` trades."""
        for _ in range(marks):
            for partition in partitions if partitions is not None else range(self.settings.partitions):
                values = self.written[partition]
                for _ in range(self.random.randrange(2 * trades + 1)):
                    value = self.random.randbytes(40)
                    values.append(value)
                    self._send("agg_trades", partition, value, len(values))
                self.cuts[partition].append(len(values))
                self._send("progress", partition, str(len(values)).encode(), len(values))
            self.producer.poll(0)
        self.producer.flush(60)

    def _send(self, topic: str, partition: int, value: bytes, when: int) -> None:
        while True:
            try:
                self.producer.produce(self.settings.topic(topic), value, b"toy", partition, timestamp=1000 + when)
                return
            except BufferError:
                self.producer.poll(0.1)

    def worker(self, app: str = "toy", *options: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        log = (self.logs / f"worker-{len(self.workers)}.log").open("wb")
        process = subprocess.Popen([sys.executable, str(SCRIPT), app, *options], env=self.variables, stdout=log, stderr=log)
        self.workers.append(process)
        return process

    def log(self, number: int = -1) -> str:
        """Return what a worker logged."""
        number = number % len(self.workers)
        return (self.logs / f"worker-{number}.log").read_text(errors="replace")

    def stop(self, process: subprocess.Popen[bytes], timeout: float = 45) -> int:
        """Ask a worker to stop; return its exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout)

    def close(self) -> None:
        """End all workers."""
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)

    def expected(self, partition: int) -> dict[int, list[Any]]:
        """Return what a worker must write at every mark: [offset of the mark, count, checksum]."""
        found: dict[int, list[Any]] = {}
        checksum = applied = 0
        for offset, cut in enumerate(self.cuts[partition]):
            for value in self.written[partition][applied:cut]:
                checksum = zlib.crc32(value, checksum)
            applied = cut
            found[offset] = [offset, cut, checksum]
        return found

    def read(self, topic: str) -> dict[int, list[tuple[int, bytes, bytes]]]:
        """Return all records of a topic: partition -> (offset, key, value)."""
        consumer = Consumer({
            "bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": "lab", "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        })  # fmt: skip
        wire = self.settings.topic(topic)
        try:
            partitions = list(consumer.list_topics(wire, timeout=10).topics[wire].partitions)
            records: dict[int, list[tuple[int, bytes, bytes]]] = {partition: [] for partition in partitions}
            ends = {p: consumer.get_watermark_offsets(TopicPartition(wire, p), timeout=10) for p in partitions}
            missing = {p for p, (low, high) in ends.items() if low < high}
            consumer.assign([TopicPartition(wire, p, ends[p][0]) for p in missing])
            while missing:
                message = consumer.poll(5)
                assert message is not None and message.error() is None, message and message.error()
                partition = message.partition()
                records[partition].append((message.offset(), message.key(), message.value()))
                if message.offset() + 1 >= ends[partition][1]:
                    missing.discard(partition)
            return records
        finally:
            consumer.close()

    def written_marks(self) -> dict[int, int]:
        """Return, per partition, how many different marks have their features."""
        return {p: len({json.loads(value)[0] for _, _, value in rows}) for p, rows in self.read("features").items()}

    def wait(self, timeout: float = 60) -> None:
        """Wait until every mark written so far has its features and its step. Fails with the workers' logs."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.written_marks()
            if all(done.get(p, 0) >= len(self.cuts[p]) for p in self.cuts) and self._steps_done():
                return
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {i}\n{self.log(i)[-6000:]}" for i in range(len(self.workers)))
                raise AssertionError(f"marks done {done}, wanted { {p: len(c) for p, c in self.cuts.items()} }\n{logs}")
            time.sleep(0.2)

    def _steps_done(self) -> bool:
        decode = self.settings.codec.decode
        for partition, rows in self.read("worker_progress").items():
            wanted = len(self.cuts[partition])
            if wanted and len({decode("worker_progress", value)["progress_offset"] for _, _, value in rows}) < wanted:
                return False
        return True

    def check(self) -> int:
        """Hold what was written against what must be: every mark once, in order, repeats identical, steps after their signals. Returns the repeats."""
        repeats = 0
        decode = self.settings.codec.decode
        signals, progress = self.read("signals"), self.read("worker_progress")
        for partition, rows in self.read("features").items():
            expected = self.expected(partition)
            seen: dict[int, list[Any]] = {}
            for _, _, value in rows:
                result = json.loads(value)
                assert result == expected[result[0]], (partition, result, expected[result[0]])
                repeats += result[0] in seen
                if result[0] not in seen:
                    assert result[0] == len(seen), f"partition {partition}: mark {result[0]} first written after {len(seen)} others"
                seen[result[0]] = result
            assert len(seen) == len(expected), (partition, len(seen), len(expected))
            place: dict[int, int] = {}
            for offset, _, value in signals[partition]:
                place.setdefault(json.loads(value)[0], offset)
            steps = [decode("worker_progress", value) for _, _, value in progress[partition]]
            assert {step["progress_offset"] for step in steps} == set(expected)
            for step in steps:
                mark = step["progress_offset"]
                assert step["cut"] == {"agg_trades": expected[mark][1]}
                before = [place[other] for other in range(0, mark + 1, 3)]
                assert not before or max(before) < step["signals_offset"], (partition, step, max(before))
        return repeats

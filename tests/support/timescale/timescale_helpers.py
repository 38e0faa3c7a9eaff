"""Feeding topics, running the sink as a process of its own, and comparing its tables with what was fed."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from confluent_kafka import Producer
from psycopg import sql

from deploy.database import migrate as database
from schemas import catalogue
from schemas.codec.avro import Codec, Record
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.timescale.sink import Options, Sink
from sinks.timescale.tables import table
from tests.support.paths import ROOT
from tests.support.timescale.timescale_records import record

CODEC = Codec()
Fed = dict[str, dict[tuple[int, int], Record]]  # topic -> (partition, offset) -> record


class Feeder:
    """Writes values into topics and remembers where each record went."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fed: Fed = {}
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "linger.ms": 5})

    def send(self, topic: str, partition: int, one: Record | None = None, value: bytes | None = None, remember: bool = True) -> None:
        """Send a record (or raw bytes); ``remember=False``: it is not expected in the table."""
        raw = CODEC.encode(topic, one) if one is not None else value

        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            if one is not None and remember:
                self.fed.setdefault(topic, {})[message.partition(), message.offset()] = one

        while True:
            try:
                self._producer.produce(self.settings.topic(topic), key=b"key", value=raw, partition=partition, on_delivery=delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is acknowledged."""
        assert self._producer.flush(60) == 0

    def fill(self, seed: int, count: int, topics: tuple[str, ...] = tuple(catalogue.TOPICS), start: int = 0, odd: bool = False) -> None:
        """Send ``count`` valid records to each topic, spread over its partitions."""
        rng = random.Random(seed)
        for topic in topics:
            partitions = catalogue.TOPICS[topic].partition_count(self.settings.partitions)
            for number in range(start, start + count):
                self.send(topic, number % partitions, record(topic, number, rng, odd))
        self.flush()


@contextlib.contextmanager
def sink_process(variables: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``perpflow sink`` as a process; killed at the end if it still runs."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "sink", *arguments], env=variables, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.kill()
                process.wait()
            log.seek(0)
            print(log.read().decode()[-6000:])


def run_to_end(variables: dict[str, str], *arguments: str, timeout: float = 90) -> None:
    """Run the sink until it is idle and assert that it ended well."""
    with sink_process(variables, "--until-idle", "0.5", "--session-timeout", "6", *arguments) as process:
        assert process.wait(timeout) == 0


@contextlib.contextmanager
def sink_thread(settings: Settings, **options: Any) -> Iterator[tuple[Service, Sink]]:
    """Run the sink in a thread of this process; stopped at the end, and its failure is raised."""
    failed: list[BaseException] = []
    with Service("sink") as service:
        sink = Sink(settings, Options(session_timeout_ms=6000, **options), service)

        def run() -> None:
            try:
                sink.run()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield service, sink
        finally:
            service.stop()
            thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def migrated(settings: Settings) -> Settings:
    """Return the settings after making the tables."""
    database.migrate(settings.database_url)
    return settings


def until(what: str, check: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until a check holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def query(settings: Settings, text: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(settings.database_url) as connection:
        return connection.execute(text, arguments).fetchall()  # type: ignore[arg-type]


def count(settings: Settings, topic: str) -> int:
    """Return the number of rows of a topic's table."""
    return int(query(settings, f"SELECT count(*) FROM {topic}")[0][0])


def rows_of(settings: Settings, topic: str) -> list[tuple[tuple[int, int], Record]]:
    """Return a table's rows as (partition, offset) and record, times in ms."""
    columns = table(topic).columns
    chosen = sql.SQL(", ").join(
        sql.SQL("(extract(epoch FROM {}) * 1000)::bigint").format(sql.Identifier(column.name))
        if column.type == "timestamp with time zone"
        else sql.Identifier(column.name)
        for column in columns
    )
    with psycopg.connect(settings.database_url) as connection:
        found = connection.execute(sql.SQL("SELECT {} FROM {}").format(chosen, sql.Identifier(topic))).fetchall()
    names = [column.name for column in columns[:-2]]
    return [((row[-2], row[-1]), dict(zip(names, row[:-2], strict=True))) for row in found]


def same(expected: Any, actual: Any) -> bool:
    """Return whether a database value is the record's; numbers inside JSON that JSON does not have are text there."""
    if isinstance(expected, float):
        if not isinstance(actual, float | int):
            return isinstance(actual, str) and same(expected, float(actual))
        return expected == float(actual) or (math.isnan(expected) and math.isnan(actual))
    if isinstance(expected, list):
        return len(expected) == len(actual) and all(map(same, expected, actual))
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(same(value, actual[key]) for key, value in expected.items())
    return bool(expected == actual)


def assert_tables_equal(settings: Settings, fed: Fed) -> None:
    """Assert that every table holds exactly the records that were fed, each once, each from its place."""
    for topic in catalogue.TOPICS:
        if topic == "dead_letters" and topic not in fed:
            continue
        found = rows_of(settings, topic)
        places = [place for place, _ in found]
        assert len(places) == len(set(places)), f"{topic}: a place is there twice"
        expected = fed.get(topic, {})
        assert set(places) == set(expected), (topic, len(places), len(expected), sorted(set(expected) ^ set(places))[:10])
        for place, actual in found:
            assert same(expected[place], actual), (topic, place, expected[place], actual)

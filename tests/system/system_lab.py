"""Running whole pipelines over real parts, disturbing them, and comparing what they leave in the database with an undisturbed run."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from psycopg import sql

from deploy.demo.pipeline.pipeline import Pipeline, RecordedFeed
from deploy.demo.pipeline.process import Process
from deploy.stack.topics import create_topics, delete_topics
from producers.simulated.recording.recording import Recording
from schemas.catalogue import TOPICS, field_names
from schemas.cluster import admin
from schemas.settings import Settings
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.replay.results import ResultSet
from stream_apps.strategy_files import load_strategy_files, recorded_files
from tests.support.paths import RECORDINGS

log = logging.getLogger("system")

BTC = Recording(RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz", "BTCUSDT")
# The first of its two days: enough for warm windows, signals and closed trades.
LTC = Recording(RECORDINGS / "ltcusdt_spot_trades" / "LTCUSDT_2025-06-21_*_trades.csv.gz", "LTCUSDT", "spot")

# Wall clocks and places in Kafka: everything else in a row is a function of the recording. Decisions and their consequences have no wall clock
# at all, so their receive_time counts too; their offsets do not, since a restarted service may write a record again.
PLACE = {"kafka_partition", "kafka_offset"}
NOT_COMPARED = {topic.name: PLACE | ({"receive_time"} if topic.market_data else set()) for topic in TOPICS.values()}
# How far beyond its time the records before a mark reach depends on how connections interleaved; what counts at an instant does not.
NOT_COMPARED["progress"] |= {"receive_time", "cut"}
NOT_COMPARED["strategies"] |= {"receive_time", "event_time"}  # when they were written
NOT_COMPARED["worker_progress"] |= {"cut", "signals_offset"}  # a place among signals, which may repeat
# A dead letter has the wall clock of its refusal.
NOT_COMPARED["dead_letters"] |= {"receive_time", "event_time"}

Contents = dict[str, Counter[str]]


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run left.

    Attributes:
        settings: Its environment, which stays while the tests run.
        contents: Its tables. hashes: Of its result topics.
    """

    settings: Settings
    contents: Contents
    hashes: dict[str, str]


@dataclass
class Lab:
    """Environments (topic prefix and database) on one broker and one database server.

    Args:
        kafka: Bootstrap servers. database_url: URL of a database whose user may create others. folder: Logs of the pipelines.
    """

    kafka: str
    database_url: str
    folder: Path

    @contextlib.contextmanager
    def environment(self, partitions: int = 12) -> Iterator[dict[str, str]]:
        """Variables of a new environment, which is removed at the end."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "DATABASE_URL": f"{self.database_url.rpartition('/')[0]}/{name}",
            "PERPFLOW_TOPIC_PREFIX": f"{name}.",
            "PERPFLOW_PARTITIONS": str(partitions),
            "PERPFLOW_KEEP_HISTORY": "true",
        }
        try:
            yield variables
        finally:
            remove_topics(variables)
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextlib.contextmanager
    def pipeline(
        self,
        recordings: Sequence[Recording],
        *,
        speeds: dict[str, str] | None = None,
        workers: int = 1,
        partitions: int = 12,
        environment: dict[str, str] | None = None,
        strategies: bool = True,
    ) -> Iterator[Pipeline]:
        """A prepared pipeline (not started) in an environment of its own, or in a given one; stopped at the end."""
        with contextlib.ExitStack() as cleaning:
            variables = environment or cleaning.enter_context(self.environment(partitions))
            folder = self.folder / variables["PERPFLOW_TOPIC_PREFIX"].strip(".")
            loaded = load_strategy_files(recorded_files()) if strategies else []
            pipeline = Pipeline(variables, folder, recordings, strategies=loaded, workers=workers, speeds=speeds or {})
            cleaning.callback(pipeline.stop)
            pipeline.prepare()
            yield pipeline


def settings_of(variables: dict[str, str]) -> Settings:
    """Return the settings that a process with these variables has."""
    return Settings(
        kafka_bootstrap_servers=variables["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=variables["DATABASE_URL"],
        topic_prefix=variables["PERPFLOW_TOPIC_PREFIX"],
        partitions=int(variables["PERPFLOW_PARTITIONS"]),
        keep_history=True,
    )


def remove_topics(variables: dict[str, str]) -> None:
    """Delete all topics of an environment, changelogs of workers among them."""
    settings = settings_of(variables)
    delete_topics(settings)
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    left = [name for name in client.list_topics(timeout=20).topics if name.startswith(settings.topic_prefix)]
    for future in (client.delete_topics(left) if left else {}).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # it was on its way out when it was listed
                raise


# --- what the database holds ----------------------------------------------------------------------------------------------


def query(settings: Settings, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        return connection.execute(statement, parameters or None).fetchall()  # type: ignore[call-overload]


def table_contents(settings: Settings, table: str, ignored: set[str] | None = None, instrument: str | None = None) -> Counter[str]:
    """Return the rows of a table as text with their numbers of occurrence, without the columns that may differ between runs.

    Args:
        settings: Environment. table: Table. ignored: Columns left out; None: those of NOT_COMPARED. instrument: Only its rows.
    """
    ignored = NOT_COMPARED[table] if ignored is None else ignored
    columns = [name for name in field_names(table) if name not in ignored]
    statement = sql.SQL("SELECT ROW({})::text FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table))
    if table == "progress":
        statement += sql.SQL(" WHERE author <> 'strategies'")  # their marks have the wall clock of their writing
    if instrument is not None:
        statement += sql.SQL(" WHERE instrument = {}").format(instrument)
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        return Counter(row[0] for row in connection.execute(statement))


def contents(settings: Settings) -> Contents:
    """Return the contents of all tables."""
    return {table: table_contents(settings, table) for table in TOPICS}


def assert_same_tables(found: Contents, expected: Contents, tables: Sequence[str] = tuple(TOPICS)) -> None:
    """Fail with the first rows that one database has and the other has not, or has another number of times."""
    problems = []
    for table in tables:
        lost, more = expected[table] - found[table], found[table] - expected[table]
        if lost or more:
            problems.append(f"{table}: {lost.total()} rows lost, {more.total()} too many")
            problems += [f"  lost: {row[:400]}" for row in sorted(lost)[:3]] + [f"  more: {row[:400]}" for row in sorted(more)[:3]]
    assert not problems, "\n".join(problems)


def repeated_ids(settings: Settings) -> dict[str, int]:
    """Return table -> rows that repeat the record id of another one (tables whose records have an id)."""
    found = {}
    for topic in TOPICS.values():
        if topic.record_id:
            names = sql.SQL(", ").join(map(sql.Identifier, topic.record_id))
            statement = sql.SQL("SELECT count(*) - count(DISTINCT ({})) FROM {}").format(names, sql.Identifier(topic.name))
            with psycopg.connect(settings.database_url) as connection:
                row = connection.execute(statement).fetchone()
            if row is not None and row[0]:
                found[topic.name] = row[0]
    return found


def repeated_rows(settings: Settings) -> dict[str, int]:
    """Return table -> rows that are the same as another one but for their place in Kafka."""
    found = {topic: rows.total() - len(rows) for topic in TOPICS for rows in [table_contents(settings, topic, PLACE)]}
    return {topic: count for topic, count in found.items() if count}


# --- the log ----------------------------------------------------------------------------------------------------------------


def copy_inputs(source: Settings, target: Settings) -> int:
    """Copy what the engine reads, byte for byte and to the same offsets, to the topics of another prefix; return the number of records."""
    create_topics(target)
    producer = Producer(
        {"bootstrap.servers": target.kafka_bootstrap_servers, "enable.idempotence": True, "queue.buffering.max.messages": 1_000_000}
    )
    consumer = Consumer(
        {"bootstrap.servers": source.kafka_bootstrap_servers, "group.id": source.group("copy"), "enable.auto.commit": False}
    )
    client = admin(source)
    answers = client.list_offsets(
        {
            TopicPartition(source.topic(topic), partition): OffsetSpec.latest()
            for topic in SignalsEngine.inputs()
            for partition in range(source.partitions)
        }
    )
    ends = {(place.topic, place.partition): end for place, answer in answers.items() if (end := answer.result(20).offset)}
    plain = {source.topic(topic): topic for topic in SignalsEngine.inputs()}
    reached = dict.fromkeys(ends, 0)
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in ends])
        while reached != ends:
            for message in consumer.consume(10_000, timeout=0.1):
                assert message.error() is None, message.error()
                place = (str(message.topic()), int(message.partition() or 0))
                assert message.offset() == reached[place], f"{place}: a hole, the offsets of the copy would differ"
                reached[place] += 1
                time_ms = message.timestamp()[1]
                producer.produce(target.topic(plain[place[0]]), message.value(), message.key(), place[1], timestamp=time_ms)
            producer.poll(0)
        assert producer.flush(60) == 0
    finally:
        consumer.close()
    return sum(ends.values())


def sound(results: ResultSet) -> dict[str, str]:
    """Return the hashes of what services wrote, after a look for records of one id and two contents."""
    assert not results.conflicts, results.conflicts[:5]
    return results.hashes()


# --- disturbing -------------------------------------------------------------------------------------------------------------


@dataclass
class Kills:
    """kill -9 at random moments; the supervisor starts the killed again.

    Args:
        pipeline: A started pipeline.
        seed: Seed of moments and victims, logged.
        shortest, longest: Seconds that a process answers before it is killed.
        at_work: Must hold before the first kill.
    """

    pipeline: Pipeline
    seed: int
    shortest: float = 0.2
    longest: float = 3.0
    at_work: Callable[[], bool] = lambda: True
    done: Counter[str] = field(default_factory=Counter)

    def run(self, victims: dict[str, int]) -> None:
        """Kill the named processes so many times each, in random order, one after another. Each must live and be at work when it is killed.

        Raises:
            AssertionError: the pipeline was done before all were killed: the run is too short to test anything.
        """
        rng = random.Random(self.seed)
        order = [name for name, times in victims.items() for _ in range(times)]
        rng.shuffle(order)
        log.warning("kills with seed %s: %s", self.seed, order)
        wait_until(self.at_work, self.pipeline, 60)
        for name in order:
            process = self.pipeline.services[name]
            wait_until(lambda process=process: serves(process), self.pipeline, 60)  # type: ignore[misc]
            pause = rng.uniform(self.shortest, self.longest)
            until = time.monotonic() + pause
            while time.monotonic() < until:
                self.pipeline.supervise()
                time.sleep(0.02)
            assert process.running and not process.finished, (
                f"{name} was at its end before kill {sum(self.done.values()) + 1} of {len(order)}"
            )
            process.kill()
            process.quick_deaths = 0  # it did not die of itself
            self.done[name] += 1
            log.warning("killed %s after %.2f s", name, pause)
            assert self.pipeline.supervise() == [name]


def serves(process: Process) -> bool:
    """Return whether a process is so far that it answers on its port."""
    try:
        health(process)
    except (OSError, HTTPException):
        return False
    return True


def health(process: Process) -> dict[str, Any]:
    """Return what a process says of itself. Raises OSError or HTTPException while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.http_port}/health", timeout=3) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as error:  # not healthy, and says why
        return dict(json.loads(error.read()))


def metric(process: Process, name: str) -> float:
    """Return the sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.http_port}/metrics", timeout=3) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def wait_until(condition: Callable[[], bool], pipeline: Pipeline, timeout: float) -> None:
    """Supervise until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        pipeline.supervise()
        assert time.monotonic() < deadline, "\n".join(f"{one.name}: {one.log_tail(4)}" for one in pipeline.services.values())
        time.sleep(0.05)


def venue_url(played: RecordedFeed) -> str:
    """Return the base URL of a simulated venue's REST and control interface."""
    lines = played.venue.output.read_text("utf-8").splitlines()
    url: str = next(json.loads(line)["rest_url"] for line in lines if line.startswith("{"))
    return url


def set_speed(pipeline: Pipeline, speed: str) -> None:
    """Let all venues of a pipeline go on at another speed; those whose recording is over do not mind."""
    for played in pipeline.played:
        body = json.dumps({"speed": speed if speed == "max" else float(speed)}).encode()
        request = urllib.request.Request(f"{venue_url(played)}/control/speed", body, method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200


# --- recordings -------------------------------------------------------------------------------------------------------------


def capture_slice(source: Path, target: Path, symbol: str, seconds: float, skip: float = 0.0) -> Recording:
    """Write the first seconds of a raw capture to a file, under another symbol, and return it as a recording.

    Args:
        source: Capture of BTCUSDT; its stamps are nanoseconds or microseconds. target: File to write. symbol: New name of the symbol.
        seconds: Length. skip: Seconds left out before it.
    """
    first = None
    with gzip.open(source, "rt") as lines, gzip.open(target, "wt", compresslevel=1) as out:
        for line in lines:
            stamp = int(line.partition(" ")[0])
            at = stamp / (1e9 if stamp > 10**17 else 1e6)
            first = at if first is None else first
            if at - first > skip + seconds:
                break
            if at - first >= skip:
                out.write(line.replace("btcusdt@", f"{symbol.lower()}@").replace('"s":"BTCUSDT"', f'"s":"{symbol}"'))
    return Recording(target, symbol)


def instants(settings: Settings, instrument: str) -> list[int]:
    """Return the instants at which an instrument was evaluated, ms UTC, in order."""
    rows = query(
        settings, "SELECT (extract(epoch FROM event_time) * 1000)::bigint FROM features WHERE instrument = %s ORDER BY 1", instrument
    )
    return [row[0] for row in rows]

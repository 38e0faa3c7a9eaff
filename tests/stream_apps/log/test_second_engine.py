"""A second engine (``imbalance_engine``) runs in everything that the first one runs in, without a line changed there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from deploy.stack.processes import free_port
from schemas import catalogue
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from stream_apps import engines
from tests.stream_apps.log.imbalance_engine import LEVELS, ImbalanceEngine, register
from tests.support.markets.logs import CODEC, Log, run
from tests.support.paths import RECORDINGS, ROOT

BTC = RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz"
START, GRID = 1_700_000_010_000 // 15_000 * 15_000, 15_000
NAMES = ("BINANCE:BTCUSDT-PERP", "BYBIT:BTCUSDT-PERP")


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """The engine is known in this process; afterwards the catalogue is as before."""
    register()
    yield
    del engines.ENGINES["imbalance"]
    for topic in ("imbalance_bars", "imbalance_progress"):
        del catalogue.TOPICS[topic], catalogue._REGISTERED[topic]
    catalogue.schema.cache_clear()
    catalogue.schema_text.cache_clear()


def depth(time: int, number: int, source: random.Random, name: str) -> dict[str, Any]:
    side = [[round(source.uniform(0, 9), 3) for _ in range(20)] for _ in range(2)]
    prices = [[100.0 - n for n in range(20)], [101.0 + n for n in range(20)]]
    state = "invalid" if source.random() < 0.05 else "live"
    return {
        "instrument": name, "event_time": time, "receive_time": time + 3, "epoch": 1, "state": state, "last_update_id": number,
        "bid_prices": prices[0], "bid_quantities": side[0], "ask_prices": prices[1], "ask_quantities": side[1],
    }  # fmt: skip


def market(seed: int, minutes: int = 20) -> Log:
    """Books of two venues' contracts; some panes without any, some updates late, one undecodable, one of an unknown instrument."""
    source, log = random.Random(seed), Log(grid=GRID)
    for name in NAMES:
        log.instrument(name, author=name.split(":")[0])
    due = START + GRID + 250
    for number in range(minutes * 60):
        now = START + number * 1_000 + 17
        while now > due:
            for name in NAMES:
                log.mark(due, name.split(":")[0], name.split(":")[0])
            due += GRID
        for name in NAMES:
            if source.random() < 0.9 and (number // 120) % 5 != 3:
                late = 60_000 if source.random() < 0.01 and number > 200 else source.choice((0, 0, 0, 1_500))
                log.append("depth", depth(now - late, number, source, name))
        if number == 300:
            log.raw("depth", b"\xc3\x01garbage", NAMES[0], now)
            log.append("depth", depth(now, number, source, "OKX:BTCUSDT-PERP"))
    for name in NAMES:
        log.mark(due, name.split(":")[0], name.split(":")[0])
    return log


def bars_of(log: Log) -> dict[tuple[str, int], tuple[float, float, float, float, int]]:
    """The bars by another way: all records of the log in order of time, whatever the marks; an update that came after its instant counts for nothing."""
    found: dict[tuple[str, int], list[tuple[int, int, float]]] = {}
    marks = [(CODEC.decode("progress", value), offset) for offset, _, _, value in log.topics["progress"]]
    fired_before = {
        name: [(m["cut"].get("depth", 0), m["event_time"]) for m, _ in marks if m["author"] == name.split(":")[0]] for name in NAMES
    }
    for offset, _, key, value in log.topics["depth"]:
        if value is None or value[2:] == b"garbage" or key.decode() not in NAMES:
            continue
        record = CODEC.decode("depth", value)
        name, at = record["instrument"], -(-record["event_time"] // GRID) * GRID
        newest = max((time for cut, time in fired_before[name] if cut <= offset), default=0)
        if record["state"] != "live" or (newest and at <= (newest - 250) // GRID * GRID):
            continue
        bids, asks = sum(record["bid_quantities"][:LEVELS]), sum(record["ask_quantities"][:LEVELS])
        found.setdefault((name, at), []).append((record["event_time"], offset, (bids - asks) / (bids + asks)))
    bars = {}
    for key, rows in found.items():
        values = [value for _, _, value in sorted(rows)]
        bars[key] = (values[0], max(values), min(values), values[-1], len(values))
    first, last = (marks[at][0]["event_time"] - 250 for at in (0, -1))  # an author's first mark fires the newest instant only
    return {key: bar for key, bar in bars.items() if first // GRID * GRID <= key[1] <= last}


def written(outputs: Any) -> dict[tuple[str, int], tuple[float, float, float, float, int]]:
    rows = [CODEC.decode("imbalance_bars", one.value) for one in outputs if one.topic == "imbalance_bars"]
    return {(r["instrument"], r["event_time"]): (r["open"], r["high"], r["low"], r["close"], r["updates"]) for r in rows}


@pytest.mark.parametrize("seed", range(3))
def test_its_bars_are_right_however_the_log_is_cut_and_wherever_it_is_killed(seed: int) -> None:
    log = market(seed)
    plain, engine = run(log, kind=ImbalanceEngine)
    assert written(plain) == bars_of(log) and len(written(plain)) > 80
    assert engine.counts["late"] > 0 and engine.counts["rejected"] == 2
    assert sum(one.topic == "imbalance_progress" for one in plain) > 100
    cut, _ = run(log, seed=seed, size=200, kind=ImbalanceEngine)
    assert cut == plain
    killed, again = run(log, seed=seed, restart_every=4, size=200, kind=ImbalanceEngine)
    assert written(killed) == written(plain) and again.counts == engine.counts


def perpflow(variables: dict[str, str], *arguments: object, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *map(str, arguments)]
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def plugged(variables: dict[str, str]) -> dict[str, str]:
    """Variables of a process that knows the engine, as a user would set them."""
    return {**variables, "PYTHONPATH": str(ROOT), "PERPFLOW_ENGINES": "tests.stream_apps.log.imbalance_engine:register"}


def test_a_recording_is_replayed_twice_alike_and_the_future_changes_nothing_before_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = perpflow(
        plugged(dict(os.environ)), "replay", "--engine", "imbalance", "--source", f"file:{BTC}", "--symbol", "BTCUSDT", "--twice", "--future-shift",
        "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert report["engine"] == "imbalance" and report["checks"]["twice"]["ok"] and report["checks"]["future_shift"]["ok"]
    lines = (out / "imbalance_bars.csv").read_text().splitlines()
    assert (
        lines[0].split(",")[:3] == ["instrument", "event_time", "receive_time"]
        and len(lines) - 1 == report["outputs"]["imbalance_bars"] > 15
    )


def test_an_unknown_engine_and_a_plugin_that_is_none_are_plain_errors() -> None:
    done = perpflow(dict(os.environ), "worker", "--engine", "whale")
    assert done.returncode == 1 and "no engine 'whale'; there are: signals" in done.stderr
    done = perpflow({**os.environ, "PERPFLOW_ENGINES": "imbalance_engine"}, "worker")
    assert done.returncode == 1 and "expected module:function, got 'imbalance_engine'" in done.stderr


def send(settings: Settings, log: Log, first: dict[str, int], share: float) -> None:
    """Write a part of a log to the broker: a share of its marks, after the records of other topics that these marks count as written."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True})
    partition = settings.partition_of(base_of_instrument(NAMES[0]))
    marks = log.topics["progress"]
    stops = {topic: len(messages) for topic, messages in log.topics.items()}
    if share < 1:
        stops = {"progress": round(len(marks) * share)}
        for _, _, _, value in marks[: stops["progress"]]:
            for topic, end in CODEC.decode("progress", value)["cut"].items():
                stops[topic] = max(end, stops.get(topic, 0))
    for topic, stop in sorted(stops.items(), key=lambda item: item[0] == "progress"):
        for _, at, key, value in log.topics[topic][first.get(topic, 0) : stop]:
            producer.produce(settings.topic(topic), value, key, partition, timestamp=at)
        first[topic] = stop
        producer.flush(30)


@pytest.mark.stack
@pytest.mark.timeout(420)
def test_worker_kill_9_sink_verify_and_metrics(
    environment: Settings, environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    log = market(7)
    port = free_port()
    variables = plugged(environment_variables())
    for arguments in (("topics", "create"), ("db", "migrate")):
        done = perpflow(variables, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
    processes: list[subprocess.Popen[bytes]] = []
    sent: dict[str, int] = {}

    def start(name: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *arguments], env={**variables, **more}, cwd=ROOT, stdout=file, stderr=file
            )
        processes.append(process)
        return process

    def worker(name: str) -> subprocess.Popen[bytes]:
        options = ("--session-timeout", "6", "--checkpoint-interval", "0.2", "--instance-id", "one")
        return start(name, "worker", "--engine", "imbalance", *options, PERPFLOW_HTTP_PORT=str(port))

    def until(bars: int, seconds: float) -> int:
        """Wait until the sink has written so many bars; return their number."""
        deadline = time.monotonic() + seconds
        with psycopg.connect(environment.database_url, autocommit=True) as connection:
            while True:
                row = connection.execute("SELECT count(*) FROM imbalance_bars").fetchone()
                if row is not None and row[0] >= bars:
                    return int(row[0])
                logs = {path.name: path.read_text()[-3000:] for path in tmp_path.glob("*.log")}
                assert time.monotonic() < deadline, (row, bars, logs)
                time.sleep(0.2)

    wanted, written = bars_of(log), 0
    try:
        start("sink", "sink", "--topics", "imbalance_bars,imbalance_progress,depth", "--session-timeout", "6", "--batch-seconds", "0.2")
        for number, share in enumerate((0.3, 0.6)):
            killed = worker(f"worker-{number}")
            send(environment, log, sent, share)
            written = until(written + 1, 90)
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
        last = worker("worker-last")
        send(environment, log, sent, 1.0)
        until(len(wanted), 90)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
        assert "perpflow_instants_fired_total" in metrics and 'perpflow_records_applied_total{topic="depth"}' in metrics
        last.send_signal(signal.SIGTERM)
        assert last.wait(40) == 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)
    with psycopg.connect(environment.database_url) as connection:
        rows = connection.execute(
            "SELECT instrument, extract(epoch FROM event_time) * 1000, open, high, low, close, updates FROM imbalance_bars"
        )
        assert {(name, int(at)): tuple(values) for name, at, *values in rows} == wanted
    done = perpflow(variables, "replay", "--engine", "imbalance", "--source", "topics", "--verify", "--json", tmp_path / "verify.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verified = json.loads((tmp_path / "verify.json").read_text())
    assert verified["counts"] == verified["written"]["counts"] == {"imbalance_bars": len(wanted)}
    assert verified["hashes"] == verified["written"]["hashes"] and verified["differences"] == []

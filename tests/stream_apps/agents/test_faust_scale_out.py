"""Workers that join, leave and are killed while they share the partitions write byte for byte what one engine a partition does.

``test_faust_engine`` holds one worker to the same engines; so one worker and several give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.settings import Settings
from stream_apps.core.signals.strategy_rules import strategy_from_record
from tests.stream_apps.agents.faust_lab import Lab
from tests.support.markets import logs

pytestmark = [pytest.mark.stack, pytest.mark.long]

COMMAND = "import typer; from deploy.cli.services.worker import worker; typer.run(worker)"
OUTPUTS = ("features", "bars", "scores", "signals")
PARTS = 8
TRADES = 6_000


def market(partition: int, trades: list[tuple[int, int, float, float, bool]]) -> logs.Log:
    """The log of a partition: an instrument of its own with two strategies, on a stretch of the recorded trades of its own."""
    log, name = logs.Log(), f"BINANCE:S{partition}USDT-PERP"
    for n in range(2):
        config = strategy_from_record({"strategy_id": f"s{partition}-{n}", "instrument": name, "display_name": f"strategy {n}"})
        log.strategy({**config.to_record(), "revision": 1, "event_time": 1, "receive_time": 1})
    log.instrument(name)
    log.trades(trades, name)
    return log


def test_joining_leaving_and_killed_workers_write_the_same_bytes(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    partitions = range(environment.partitions)
    recorded = list(logs.ltc_trades(TRADES * len(partitions)))
    markets = {p: market(p, recorded[p * TRADES : (p + 1) * TRADES]) for p in partitions}
    wanted: dict[tuple[str, int], list[tuple[bytes, bytes | None]]] = {}
    for p, log in markets.items():
        outputs, _ = logs.run(log)
        for topic in OUTPUTS:
            wanted[topic, p] = [(o.key, o.value) for o in outputs if o.topic == topic]
    assert all(len(wanted["scores", p]) > 50 for p in partitions)

    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "linger.ms": 5})

    def produce(part: int) -> None:
        for p, log in markets.items():
            for topic, messages in log.topics.items():
                # What a mark's cut names must be there before it: the marks come last.
                for _, when, key, value in messages[part * len(messages) // PARTS : (part + 1) * len(messages) // PARTS]:
                    producer.produce(environment.topic(topic), value, key, p, timestamp=when)
                    producer.poll(0)
        assert producer.flush(60) == 0

    lab = Lab(environment, environment_variables(), tmp_path)

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"worker-{len(lab.workers)}.log").open("wb") as out:
            options = ["--checkpoint-interval", "0.3", "--session-timeout", "6"]
            lab.workers.append(subprocess.Popen([sys.executable, "-c", COMMAND, *options], env=lab.variables, stdout=out, stderr=out))
        return lab.workers[-1]

    def held(number: int) -> set[int]:
        events = [json.loads(line) for line in lab.log(number).splitlines() if '"event": "recovered"' in line]
        return set(events[-1]["partitions"]) if events else set()

    def until(condition: Callable[[], bool], what: str, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, what + "\n" + "\n".join(lab.log(n)[-3000:] for n in range(len(lab.workers)))
            time.sleep(0.2)

    try:
        first = start()
        produce(0)
        until(lambda: held(0) == set(partitions), "the first worker has all partitions")
        produce(1)
        second, _third = start(), start()
        until(lambda: all(map(held, (0, 1, 2))) and held(0) | held(1) | held(2) == set(partitions), "three workers share")
        produce(2)
        second.kill()
        second.wait(10)
        produce(3)
        until(lambda: held(0) | held(2) == set(partitions), "the two that are left have all")
        fourth = start()
        until(lambda: bool(held(3)), "another one joins")
        produce(4)
        assert lab.stop(first, 30) == 0
        produce(5)
        until(lambda: held(2) | held(3) == set(partitions), "the leaving one's partitions are taken up")
        fourth.kill()  # no session of its own is waited for: the last one gets the rest of the log and all partitions
        fourth.wait(10)
        produce(6)
        produce(7)
        until(
            lambda: all(len(set(rows)) >= len(set(wanted["features", p])) for p, rows in pairs(lab, "features").items()),
            "all instants have their features",
            180,
        )
        time.sleep(1)
        for topic in OUTPUTS:
            found = pairs(lab, topic)
            for p in partitions:
                # Who takes a partition over may write again what the former owner wrote: the same bytes, which a reader drops.
                assert list(dict.fromkeys(found[p])) == list(dict.fromkeys(wanted[topic, p])), (topic, p)
    finally:
        lab.close()


def pairs(lab: Lab, topic: str) -> dict[int, list[tuple[bytes, bytes]]]:
    """Return key and value of all records of a topic by partition."""
    return {p: [(key, value) for _, key, value in rows] for p, rows in lab.read(topic).items()}

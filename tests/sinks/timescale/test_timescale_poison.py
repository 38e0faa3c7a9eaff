"""One row in ten thousand is poison, and sink or database are killed in the middle: every other row lands once, every poison is a dead letter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.settings import Settings
from tests.support.timescale.timescale_helpers import CODEC, migrated, query, run_to_end, sink_process, sink_thread, until

pytestmark = pytest.mark.stack
Variables = Callable[..., dict[str, str]]
TOPIC = "agg_trades"
POISON_EVERY = 10_000
START = 1_723_075_200_000


def feed(settings: Settings, rows: int) -> tuple[set[tuple[int, int]], Decimal]:
    """Write trades and, once in POISON_EVERY, bytes that are none; return the places of those and the sum of the good ones' quantities."""
    poison: set[tuple[int, int]] = set()
    total = Decimal(0)
    encode = CODEC.encoder(TOPIC)
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "linger.ms": 20})
    next_offset = [0] * settings.partitions
    for n in range(rows):
        partition = n % settings.partitions
        if n % POISON_EVERY == POISON_EVERY // 2:
            poison.add((partition, next_offset[partition]))
            value = random.Random(n).randbytes(40)
        else:
            quantity = n % 997 + 1
            total += quantity
            value = encode(
                {
                    "instrument": f"BINANCE:S{partition}USDT-PERP",
                    "event_time": START + n,
                    "receive_time": START + n + 40,
                    "agg_id": n,
                    "first_trade_id": n,
                    "last_trade_id": n,
                    "price": 100.5,
                    "quantity": quantity / 1000,
                    "buyer_is_maker": n % 2 == 0,
                    "backfilled": False,
                }
            )
        next_offset[partition] += 1
        while True:
            try:
                producer.produce(settings.topic(TOPIC), key=b"k", value=value, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    return poison, total / 1000


def written(settings: Settings) -> int:
    """Return how far the sink is."""
    return int(query(settings, "SELECT coalesce(sum(next_offset), 0) FROM sink_offsets WHERE topic = %s", TOPIC)[0][0])


def check(settings: Settings, rows: int, poison: set[tuple[int, int]], total: Decimal) -> None:
    """Assert that exactly the good rows are there, and exactly the others are letters; bars are built of the same."""
    good = rows - len(poison)
    assert query(
        settings,
        "SELECT count(*), count(DISTINCT agg_id), count(DISTINCT (kafka_partition, kafka_offset)), sum(quantity::numeric) FROM agg_trades",
    ) == [(good, good, good, total)]
    letters = query(settings, "SELECT DISTINCT source_partition, source_offset FROM dead_letters WHERE source = %s", TOPIC)
    assert set(letters) == poison
    assert not set(query(settings, "SELECT kafka_partition, kafka_offset FROM agg_trades")) & poison
    assert query(settings, "SELECT sum(trades), sum(volume) FROM market_cvd_1d") == [(good, total)]


def test_poison_is_kept_apart(environment: Settings, topics: list[str]) -> None:
    rows = 30_000
    poison, total = feed(migrated(environment), rows)
    assert len(poison) == 3
    with sink_thread(environment, topics=(TOPIC, "dead_letters"), batch_rows=5000):
        until("all is read", lambda: written(environment) == rows, 90)
        until("the letters are there", lambda: query(environment, "SELECT count(*) FROM dead_letters") == [(3,)], 30)
    check(environment, rows, poison, total)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.private_stack
def test_killed_50_times_in_a_million_rows(
    environment: Settings, topics: list[str], environment_variables: Variables, private_stack: Any
) -> None:
    """Every fifth time it is the database that is killed, while the sink writes."""
    rows, kills = 1_000_000, 50
    poison, total = feed(migrated(environment), rows)
    rng = random.Random(50)
    arguments = ("--instance", "one", "--session-timeout", "6", "--batch-rows", "2000", "--batch-seconds", "0.05")
    alive = 0
    for n in range(kills):
        before = written(environment)
        with sink_process(environment_variables(), *arguments) as process:
            until("writing goes on", lambda before=before: written(environment) > before or written(environment) == rows, 90)
            time.sleep(rng.random() * 0.3)
            if n % 5 == 4:
                private_stack.local.kill_database()
                private_stack.local.up()
                time.sleep(rng.random())
            alive += process.poll() is None
            process.kill()
    assert alive == kills
    run_to_end(environment_variables(), "--instance", "one", timeout=600)
    check(environment, rows, poison, total)


def _caught_up(environment: Settings, variables: dict[str, str], backlog: int, rate: int, seconds: int) -> float:
    """Leave a backlog, start a sink, go on at a rate; return how many rows a second were written until the lag was gone."""
    poison, total = feed(migrated(environment), backlog)
    began = time.monotonic()
    with sink_process(variables, "--topics", f"{TOPIC},dead_letters") as process:
        producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "linger.ms": 20})
        encode = CODEC.encoder(TOPIC)
        offered = 0
        while offered < rate * seconds:
            due = min(rate * seconds, int((time.monotonic() - began) * rate))
            for n in range(backlog + offered, backlog + due):
                one = {"instrument": f"BINANCE:S{n % environment.partitions}USDT-PERP", "event_time": START + n, "receive_time": START + n + 40,
                       "agg_id": n, "first_trade_id": n, "last_trade_id": n, "price": 100.5, "quantity": (n % 997 + 1) / 1000,
                       "buyer_is_maker": n % 2 == 0, "backfilled": False}  # fmt: skip
                total += Decimal(n % 997 + 1) / 1000
                producer.produce(environment.topic(TOPIC), key=b"k", value=encode(one), partition=n % environment.partitions)
            offered = max(offered, due)
            producer.poll(0.02)
        assert producer.flush(60) == 0
        rows = backlog + offered
        until("the lag is gone", lambda: written(environment) == rows, 600)
        speed = rows / (time.monotonic() - began)
        until("the letters are there", lambda: query(environment, "SELECT count(*) FROM dead_letters") == [(len(poison),)], 60)
        assert process.poll() is None
    check(environment, rows, poison, total)
    return speed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_times_the_average_is_caught_up_with(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    """A backlog of a million rows while 4,000 more come each second, ten times what five of the busiest contracts bring on average (6.6 million a day
    each): it is worked off while they come, and nothing is lost or doubled. 20,000 rows a second is far below what an idle machine does.
    """
    assert _caught_up(environment, environment_variables(), 1_000_000, 4_000, 20) > 20_000


def test_a_small_backlog_is_caught_up_with(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    assert _caught_up(environment, environment_variables(), 20_000, 2_000, 1) > 0

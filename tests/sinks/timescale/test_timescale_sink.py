"""The sink with a real broker and a real database: rows equal topics, repeats dropped, garbage kept, any year, sharing, stopping."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import httpx
import psycopg
import pytest

from schemas import catalogue, metrics
from schemas.codec.avro import Record
from schemas.process.service import summed
from schemas.settings import Settings
from tests.support.timescale.timescale_helpers import (
    CODEC,
    Feeder,
    assert_tables_equal,
    count,
    migrated,
    query,
    rows_of,
    run_to_end,
    sink_process,
    sink_thread,
    until,
)
from tests.support.timescale.timescale_records import record

pytestmark = pytest.mark.stack

DAY_MS = 86_400_000
Variables = Callable[..., dict[str, str]]


def test_rows_equal_the_topics(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    feeder = Feeder(migrated(environment))
    feeder.fill(1, 200, odd=True)
    run_to_end(environment_variables())
    assert_tables_equal(environment, feeder.fed)
    feeder.fill(2, 50, start=200)
    run_to_end(environment_variables(), "--batch-rows", "17")
    assert_tables_equal(environment, feeder.fed)
    assert query(environment, "SELECT DISTINCT status FROM positions_current") != []
    # Random strategies break every rule: all are refused, none holds.
    assert query(environment, "SELECT count(*), bool_or(accepted) FROM strategy_audit") == [(250, False)]
    assert query(environment, "SELECT count(*) FROM strategies_current") == [(0,)]


def test_repeated_records_are_dropped_and_the_first_wins(environment: Settings, topics: list[str]) -> None:
    feeder = Feeder(migrated(environment))
    rng = random.Random(3)
    with_ids = [name for name, topic in catalogue.TOPICS.items() if topic.record_id and topic.partition_count(environment.partitions) > 2]
    records = {topic: [record(topic, n, rng) for n in range(40)] for topic in with_ids}
    before = {topic: summed(metrics.ROWS_REPEATED, table=topic) for topic in with_ids}
    with sink_thread(environment, batch_seconds=0.2) as (_, _):
        for topic, made in records.items():
            for one in made[:30]:
                feeder.send(topic, 1, one)
                if rng.random() < 0.3:
                    feeder.send(topic, 1, one, remember=False)  # a repeat within the batch
        feeder.flush()
        until("the first rows are there", lambda: all(count(environment, topic) == 30 for topic in with_ids))
        for topic, made in records.items():
            for one in made[20:]:
                changed = {**one, "receive_time": one["receive_time"] + 1}
                feeder.send(topic, 1, changed, remember=one in made[30:])
                if one in made[30:]:
                    feeder.send(topic, 1, one, remember=False)
            feeder.send(topic, 2, made[0])  # the same id in another partition is another record
        feeder.flush()
        until("the rest is there", lambda: all(count(environment, topic) == 41 for topic in with_ids))
    assert_tables_equal(environment, feeder.fed)
    assert all(summed(metrics.ROWS_REPEATED, table=topic) - before[topic] >= 20 for topic in with_ids)


def _batch(topic: str, seed: int, first: int) -> list[Record]:
    """Twenty records of one author as its log has them: times and ids grow, some share a time, some an id with others of another time."""
    rng = random.Random(seed)
    made = []
    for n in range(first, first + 20):
        one = record(topic, n, rng)
        one |= {"event_time": 1723075200000 + n // 3 * 250}
        if topic == "quotes":
            one |= {"update_id": n if n % 7 else n // 3}
        if topic == "depth":
            one |= {"epoch": 1 + n // 30, "last_update_id": n // 2, "state": ("live", "invalid")[n % 2]}
        if topic == "progress":
            one |= {"cut": {"agg_trades": n, "quotes": n * n}}
        made.append(one)
        if topic in ALIKE:
            made.append({**one, ALIKE[topic]: rng.random()})  # of the same time and the same receipt, yet another record
    return made


ALIKE = {"liquidations": "quantity", "funding": "mark_price", "market_indicators": "value"}
MARKET = [name for name, topic in catalogue.TOPICS.items() if topic.rising]


def test_batches_that_a_broker_took_twice_are_stored_once(environment: Settings, topics: list[str]) -> None:
    """Two batches in flight when it was killed are there twice, in order: in one batch of the sink, in two, and after its restart."""
    feeder = Feeder(migrated(environment))
    first, second, third = ({topic: _batch(topic, 31, 20 * n) for topic in MARKET} for n in range(3))

    def send(*batches: dict[str, list[Record]], again: bool = False) -> None:
        for batch in batches:
            for topic, made in batch.items():
                for one in made:
                    feeder.send(topic, 0, one, remember=not again)
        feeder.flush()

    def rows() -> int:
        return sum(count(environment, topic) for topic in MARKET)

    one_batch = sum(map(len, first.values()))
    with sink_thread(environment, batch_seconds=0.5):
        send(first)
        until("the first batch is there", lambda: rows() == one_batch)
        send(second)
        send(first, second, again=True)
        until("the second batch is there", lambda: rows() >= 2 * one_batch)
    send(first, second, again=True)
    send(third)
    send(third, again=True)
    with sink_thread(environment, batch_rows=37):
        ends = {topic: 8 * len(made) for topic, made in first.items()}
        until(
            "all is read",
            lambda: all(
                query(environment, "SELECT next_offset FROM sink_offsets WHERE topic = %s AND partition = 0", topic) == [(end,)]
                for topic, end in ends.items()
            ),
        )
    assert_tables_equal(environment, feeder.fed)


def test_a_value_that_no_table_takes_is_refused_also_beside_repeats(environment: Settings, topics: list[str]) -> None:
    """Looking a record up by its content must not stumble over one that the database refuses."""
    feeder = Feeder(migrated(environment))
    good, other = _batch("progress", 32, 0)[:2]
    bad = {**good, "cut": {"a\0b": 1}}
    with sink_thread(environment, batch_seconds=0.2):
        feeder.send("progress", 0, good)
        feeder.flush()
        until("the first mark is there", lambda: count(environment, "progress") == 1)
        for one in (bad, good, other):
            feeder.send("progress", 0, one, remember=one is other)
        feeder.flush()
        until("the letter", lambda: count(environment, "dead_letters") == 1)
    assert [row["value"] for _, row in rows_of(environment, "dead_letters")] == [CODEC.encode("progress", bad)]
    assert_tables_equal(environment, {**feeder.fed, "dead_letters": dict(rows_of(environment, "dead_letters"))})


def _trade(agg_id: int, instrument: str = "BINANCE:BTCUSDT-PERP", backfilled: bool = False) -> dict[str, object]:
    one = record("agg_trades", agg_id, random.Random(agg_id))
    return {**one, "instrument": instrument, "agg_id": agg_id, "event_time": 1723075200000 + agg_id * 100, "backfilled": backfilled}


def test_back_filled_trades_come_late_and_are_kept_once(environment: Settings, topics: list[str]) -> None:
    """Ids below the highest written are looked up: missing ones are written, repeats dropped; also after a restart."""
    feeder = Feeder(migrated(environment))
    other = "BINANCE:WBTCUSDT-PERP"
    for agg_id in (*range(1, 100), *range(150, 200)):
        feeder.send("agg_trades", 0, _trade(agg_id))
        feeder.send("agg_trades", 0, _trade(agg_id, other))
    feeder.flush()
    with sink_thread(environment, topics=("agg_trades",), batch_seconds=0.2):
        until("the first trades are there", lambda: count(environment, "agg_trades") == 298)
    for agg_id in (*range(90, 110), *range(140, 160), *range(120, 130), *range(120, 130)):
        feeder.send("agg_trades", 0, _trade(agg_id, backfilled=True), remember=False)
    for agg_id in range(195, 205):
        feeder.send("agg_trades", 0, _trade(agg_id), remember=False)
    feeder.send("agg_trades", 0, _trade(7, other), remember=False)
    feeder.flush()
    with sink_thread(environment, topics=("agg_trades",), batch_rows=13):
        expected = sorted([*range(1, 110), *range(120, 130), *range(140, 205)])
        until("all are there", lambda: count(environment, "agg_trades") >= len(expected) + 149)
    found = [row["agg_id"] for _, row in rows_of(environment, "agg_trades") if row["instrument"] != other]
    assert sorted(found) == expected
    assert count(environment, "agg_trades") == len(expected) + 149


def test_garbage_goes_to_dead_letters_with_its_bytes(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    feeder = Feeder(migrated(environment))
    feeder.fill(4, 20, ("quotes", "scores"))
    good = record("quotes", 1, random.Random(4))
    score = record("scores", 500, random.Random(4))
    garbage = [
        b"garbage",
        b"\xc3\x01" + b"12345678" + b"unknown schema",
        CODEC.encode("quotes", good)[:-3],
        CODEC.encode("quotes", {**good, "instrument": "BTC\0USDT"}),
        None,
    ]
    for value in garbage:
        feeder.send("quotes", 5, value=value)
    # Valid Avro that only the database can refuse: JSON text with a zero character, an index entry that is too large.
    bad_rows = [{**score, "score_id": "1", "gates": [{"name": "a\0b", "enabled": True, "passed": True, "skipped": False}]}]
    noise = random.Random(5)
    bad_rows.append({**score, "score_id": "".join(chr(noise.randrange(33, 126)) for _ in range(20_000))})
    for one in bad_rows:
        feeder.send("scores", 5, one, remember=False)
    feeder.fill(5, 20, ("quotes", "scores"), start=20)
    run_to_end(environment_variables())
    run_to_end(environment_variables())  # the letters themselves become rows
    letters = [row for _, row in rows_of(environment, "dead_letters")]
    found = {(row["source"], row["value"]) for row in letters}
    assert found == {("quotes", value) for value in garbage} | {("scores", CODEC.encode("scores", one)) for one in bad_rows}
    assert len(letters) == 7
    assert all(row["source_partition"] == 5 and row["service"] == "sink" and row["key"] == b"key" for row in letters)
    reasons = " / ".join(row["reason"] for row in letters)
    for expected in ("unknown frame", "unknown schema fingerprint", "no value", "zero character", "refused by the database"):
        assert expected in reasons
    assert_tables_equal(environment, {**feeder.fed, "dead_letters": dict(rows_of(environment, "dead_letters"))})


def test_any_year_is_taken_and_gets_its_partition(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    feeder = Feeder(migrated(environment))
    rng = random.Random(6)
    # 1970, 1999-12-31, 2013, 2024, 2100, 9997; year 0, 4000 BC, 20000 AD.
    times = (
        0,
        946684799999,
        1356998400000,
        1723075200000,
        4102444800000,
        253_339_228_800_000,
        -62_167_219_200_000,
        -188_395_804_800_000,
        568_971_820_800_000,
    )
    for topic in ("quotes", "features", "liquidations"):
        for n, at in enumerate(times):
            one = {**record(topic, n, rng), "event_time": at}
            feeder.send(topic, n % environment.partitions, one)
    feeder.flush()
    run_to_end(environment_variables())
    assert_tables_equal(environment, feeder.fed)
    names = {name for (name,) in query(environment, "SELECT relname FROM pg_class WHERE relkind = 'r'")}
    if query(environment, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") == []:
        assert {"quotes_1970_01_01", "quotes_1999_12_31", "quotes_2024_08_08", "features_2024_08", "liquidations_9998_01_01"} <= names
        assert count(environment, "quotes_default") == 3


def test_two_sinks_share_the_work_and_double_nothing(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    feeder = Feeder(migrated(environment))
    feeder.fill(7, 60)
    variables = environment_variables()
    arguments = ("--session-timeout", "6", "--until-idle", "2", "--batch-rows", "50")
    with sink_process(variables, *arguments) as first:
        feeder.fill(8, 60, start=60)
        with sink_process(variables, *arguments) as second:
            for n in range(3):
                feeder.fill(9 + n, 60, start=120 + 60 * n)
            assert first.wait(60) == 0
            assert second.wait(60) == 0
    run_to_end(variables)
    assert_tables_equal(environment, feeder.fed)


def test_stop_writes_what_was_read(environment: Settings, topics: list[str], environment_variables: Variables) -> None:
    feeder = Feeder(migrated(environment))
    with sink_process(environment_variables(PERPFLOW_HTTP_PORT=0), "--batch-seconds", "3600", "--batch-rows", "1000000") as process:
        feeder.fill(12, 30)
        partitions = sum(topic.partition_count(environment.partitions) for topic in catalogue.TOPICS.values())
        until("placed", lambda: query(environment, "SELECT count(*) FROM sink_offsets")[0][0] == partitions)
        import time

        time.sleep(2)
        assert count(environment, "quotes") == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert_tables_equal(environment, feeder.fed)


def test_health_says_what_is_missing(environment: Settings, topics: list[str]) -> None:
    """Without tables the sink waits, says why, and goes on once they are there."""
    feeder = Feeder(environment)
    feeder.fill(13, 10, ("quotes",))
    with sink_thread(environment) as (service, _):
        url = f"http://127.0.0.1:{service.http_port}/health"
        until("unhealthy", lambda: httpx.get(url).status_code == 503 and "perpflow db migrate" in httpx.get(url).json().get("writer", ""))
        migrated(environment)
        until("rows", lambda: count(environment, "quotes") == 10)
        until("healthy", lambda: httpx.get(url).status_code == 200)
        until("counted", lambda: httpx.get(url).json()["rows_written"] == 10)
        text = httpx.get(url.replace("health", "metrics")).text
        assert 'perpflow_rows_written_total{table="quotes"}' in text
    assert_tables_equal(environment, feeder.fed)


def test_a_fenced_sink_writes_nothing_and_reads_again(environment: Settings, topics: list[str]) -> None:
    """Somebody else moves the offset while this one holds older records: its batch must not get in."""
    feeder = Feeder(migrated(environment))
    fenced = summed(metrics.FENCED, service="sink")
    with sink_thread(environment, topics=("quotes",), batch_seconds=3.0):
        until("placed", lambda: query(environment, "SELECT count(*) FROM sink_offsets")[0][0] == environment.partitions)
        import time

        time.sleep(1)
        rng = random.Random(14)
        for n in range(10):
            feeder.send("quotes", 3, record("quotes", n, rng))
        feeder.flush()
        with psycopg.connect(environment.database_url) as connection:
            connection.execute("UPDATE sink_offsets SET next_offset = 4 WHERE topic = 'quotes' AND partition = 3")
        until("the rows after the other's offset", lambda: count(environment, "quotes") == 6)
    assert sorted(offset for (_, offset), _ in rows_of(environment, "quotes")) == [4, 5, 6, 7, 8, 9]
    assert summed(metrics.FENCED, service="sink") == fenced + 1

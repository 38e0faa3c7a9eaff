"""Replay from the sink's tables against replay from the topics that the sink read: every record of every result, byte for byte, in its order."""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from deploy.cli import load_app
from schemas.settings import Settings
from stream_apps.engines import SIGNALS
from stream_apps.replay.run import Result, drive
from stream_apps.replay.sources.database import Database, DatabaseError
from stream_apps.replay.sources.source import Source, Topics
from stream_apps.replay.sources.stored import replay_stored
from stream_apps.replay.sources.topics import TopicSource
from stream_apps.strategy_files import load_strategy_files
from tests.support.markets.logs import CODEC, LTC, Log, ltc_trades
from tests.support.markets.quality_logs import as_log, btc_rows
from tests.support.paths import ROOT
from tests.support.timescale.timescale_helpers import migrated, run_to_end

pytestmark = pytest.mark.stack

STRATEGIES = ROOT / "stream_apps" / "default_strategies" / "recorded"
# Both instruments' logs go to partitions of their own, as their producers would send them.
PLACES = {"ltc": 4, "btc": 1}


def write(settings: Settings, partition: int, log: Log) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "linger.ms": 20})
    for topic, messages in log.topics.items():
        for _, time, key, value in messages:
            assert value is not None or topic != "progress"
            while True:
                try:
                    producer.produce(settings.topic(topic), value=value, key=key, partition=partition, timestamp=time)
                    break
                except BufferError:
                    producer.poll(0.1)
    assert producer.flush(60) == 0


def results(source: Source, settings: Settings) -> dict[int, list[Result]]:
    """Return partition -> results, without dead letters: what cannot be decoded is in no table."""
    found: dict[int, list[Result]] = {}
    drive(
        source,
        SIGNALS.config(settings),
        CODEC,
        lambda partition, one: found.setdefault(partition, []).append(one) if one.topic != "dead_letters" else None,
    )
    return found


@pytest.fixture(scope="module")
def logs() -> dict[str, Log]:
    """Recorded trades that a strategy trades; trades, books, quotes, funding and liquidations, some twice and some broken."""
    ltc = Log()
    ltc.instrument()
    for config in load_strategy_files([STRATEGIES / "ltcusdt_trades_only.toml"]):
        ltc.strategy({**config.to_record(), "event_time": 1, "receive_time": 1, "revision": 1})
    ltc.trades(ltc_trades(22_000))
    btc, rng = as_log(btc_rows("btcusdt_20240808", 8_000)), random.Random(5)
    for topic in ("agg_trades", "depth", "quotes"):
        messages = btc.topics[topic]
        for at in rng.sample(range(1, len(messages)), 12):
            offset, time, key, value = messages[at]
            assert value is not None
            messages[at] = (offset, time, key, rng.choice([messages[at - 1][3], b"", value[:-3]]))
    return {"ltc": ltc, "btc": btc}


def test_the_tables_replay_as_the_topics_do(
    logs: dict[str, Log], environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]]
) -> None:
    migrated(environment)
    for name, log in logs.items():
        write(environment, PLACES[name], log)
    from_topics = results(Topics(lambda wanted: TopicSource(environment, wanted), tuple(range(environment.partitions))), environment)
    closed = [one for one in from_topics[PLACES["ltc"]] if one.topic in SIGNALS.results]
    assert {one.topic for one in closed} == set(SIGNALS.results) and from_topics[PLACES["btc"]]
    # What the services would have written, for --verify.
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "enable.idempotence": True})
    for partition, made in from_topics.items():
        for one in made:
            if one.topic in SIGNALS.results:
                time = CODEC.decode(one.topic, one.value)["event_time"]
                producer.produce(environment.topic(one.topic), value=one.value, key=one.key, partition=partition, timestamp=time)
    assert producer.flush(60) == 0
    run_to_end(environment_variables(), timeout=240)

    whole = Database.of(environment.database_url, environment)
    from_tables = results(whole, environment)
    assert from_tables == from_topics
    assert whole.total() > 30_000

    # From a time on and up to one, as from the topics.
    messages = logs["ltc"].topics["agg_trades"]
    since, until = messages[9_000][1], messages[18_000][1]
    part = (PLACES["ltc"],)
    bounded = Topics(lambda wanted: TopicSource(environment, wanted), part, since, until)
    ours = results(Database(CODEC, 15_000, 250, part, since, until, url=environment.database_url), environment)[part[0]]
    theirs = results(bounded, environment)[part[0]]
    assert len(ours) > 1_000 and ours == theirs[: len(ours)] and len(theirs) - len(ours) < 2_000

    # --verify: identical; and a planted difference is named, field by field.
    assert replay_stored(whole, environment).differences == []
    signal_id, old = _planted(environment)
    runner, app = CliRunner(), load_app("replay")
    found = runner.invoke(app, ["--source", f"db:{environment.database_url}", "--verify"], env=environment_variables())
    assert (
        found.exit_code == 1
        and f"score is {old + 1.0!r} in the topics and {old!r} in the replay" in found.output
        and signal_id in found.output
    )

    # Without the progress log its marks are made: the same decisions.
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("DELETE FROM progress WHERE kafka_partition = %s", part)
    compared = ("features", "scores", "signals", "trades_closed")
    made = [
        one
        for one in results(Database(CODEC, 15_000, 250, part, url=environment.database_url), environment)[part[0]]
        if one.topic in compared
    ]
    wanted = [one for one in from_topics[part[0]] if one.topic in compared]
    assert made == wanted[: len(made)] and len(wanted) - len(made) <= 4

    # The rows of two logs in one table are told, not mixed.
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("INSERT INTO agg_trades SELECT * FROM agg_trades WHERE instrument = %s ORDER BY kafka_offset LIMIT 1", (LTC,))
    with pytest.raises(DatabaseError, match="an offset twice"):
        results(whole, environment)


def _planted(settings: Settings) -> tuple[str, float]:
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute("SELECT signal_id, score FROM signals ORDER BY event_time LIMIT 1").fetchone()
        assert row is not None
        connection.execute("UPDATE signals SET score = score + 1 WHERE signal_id = %s", (row[0],))
    return row


def test_what_is_not_there_is_said(environment: Settings) -> None:
    with pytest.raises(DatabaseError, match="does not exist"):
        results(Database.of(environment.database_url, environment), environment)
    migrated(environment)
    with pytest.raises(DatabaseError, match="no market data"):
        results(Database.of(environment.database_url, environment), environment)
    with pytest.raises(DatabaseError, match="the database: "):
        results(Database.of("postgresql://127.0.0.1:1/none", environment), environment)

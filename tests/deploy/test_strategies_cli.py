"""Strategies through a real broker: revisions, control marks, and what the command line says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from typer.testing import CliRunner, Result

from deploy import strategies
from deploy.cli.strategies import app
from deploy.errors import UserError
from schemas.partition import partition_of
from schemas.settings import Settings
from stream_apps.core.strategy import StrategyConfig, StrategyError, config_hash

pytestmark = pytest.mark.stack

NOW = 1_760_000_000_000


def config(strategy_id: str = "s", instrument: str = "BINANCE:BTCUSDT-PERP", **changes: Any) -> StrategyConfig:
    return StrategyConfig(**{"strategy_id": strategy_id, "instrument": instrument, "display_name": "Test", **changes})


def records(settings: Settings, topic: str) -> list[tuple[int, str, int, dict[str, Any]]]:
    """Everything in a topic: (partition, key, record timestamp, decoded record), by partition and offset."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group("test"), "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(settings.topic(topic), partition, OFFSET_BEGINNING) for partition in range(settings.partitions)])
    found, ended = [], 0
    while ended < settings.partitions:
        message = consumer.poll(20.0)
        assert message is not None
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            ended += 1
        else:
            record = settings.codec.decode(topic, message.value())
            found.append((message.partition(), message.offset(), message.key().decode(), message.timestamp()[1], record))
    consumer.close()
    return [(partition, key, time, record) for partition, _, key, time, record in sorted(found, key=lambda one: one[:2])]


def cuts(settings: Settings) -> list[tuple[int, int]]:
    return [(partition, record["cut"]["strategies"]) for partition, _, _, record in records(settings, "progress")]


@pytest.fixture
def ready(environment: Settings, topics: list[str]) -> Settings:
    return environment


def test_revisions_and_marks(ready: Settings) -> None:
    btc, sol = partition_of("BTC", ready.partitions), partition_of("SOL", ready.partitions)
    first = [config("a"), config("b", "BINANCE:SOLUSDT")]
    assert [(one.config.revision, one.written) for one in strategies.publish(ready, first, NOW)] == [(1, True), (1, True)]
    written = records(ready, "strategies")
    assert sorted(one[:3] for one in written) == sorted([(btc, "a", NOW), (sol, "b", NOW)])
    assert {record["strategy_id"]: StrategyConfig.from_record(record) for *_, record in written} == strategies.read(ready)
    assert sorted(cuts(ready)) == sorted([(btc, 1), (sol, 1)])
    _, key, time, mark = records(ready, "progress")[0]
    assert (key, time) == ("strategies", NOW)
    assert {**mark, "cut": None} == {"author": "strategies", "venue": "", "event_time": NOW, "receive_time": NOW, "cut": None}

    # The same again writes no revision; its marks repeat the cut.
    again = strategies.publish(ready, [config("a", revision=9), config("b", "BINANCE:SOLUSDT")], NOW + 1000)
    assert [(one.config.revision, one.config.event_time, one.written) for one in again] == [(1, NOW, False)] * 2
    assert len(records(ready, "strategies")) == 2
    assert sorted(cuts(ready)) == sorted([(btc, 1), (sol, 1)] * 2)

    # A change of one is its next revision, in the same partition, later in time even with a clock that went back.
    changed = strategies.publish(ready, [config("a", entry_score=70.0), config("b", "BINANCE:SOLUSDT")], NOW - 5)
    assert [(one.config.revision, one.written) for one in changed] == [(2, True), (1, False)]
    assert changed[0].config.event_time == NOW + 1
    assert [record["revision"] for partition, _, _, record in records(ready, "strategies") if partition == btc] == [1, 2]
    assert [cut for partition, cut in cuts(ready) if partition == btc] == [1, 1, 2]
    assert strategies.read(ready)["a"].entry_score == 70.0


def test_a_repeat_completes_a_call_cut_off_before_its_mark(ready: Settings) -> None:
    lost = config("a", event_time=NOW, receive_time=NOW)
    strategies._produce(ready, "strategies", [("a", partition_of("BTC", ready.partitions), lost.to_record())])
    assert cuts(ready) == []
    (outcome,) = strategies.publish(ready, [config("a")], NOW + 1000)
    assert not outcome.written
    assert cuts(ready) == [(partition_of("BTC", ready.partitions), 1)]


def test_nothing_is_written_when_one_is_not_allowed(ready: Settings) -> None:
    strategies.publish(ready, [config("gone", status="deprecated")], NOW)
    before = (records(ready, "strategies"), records(ready, "progress"))
    for bad in (config("gone", entry_score=70.0), config("bad", tp2_ratio=0.5)):
        with pytest.raises(StrategyError):
            strategies.publish(ready, [config("good"), bad], NOW + 1000)
    assert (records(ready, "strategies"), records(ready, "progress")) == before


def test_an_unreadable_record_is_named_by_its_position(ready: Settings) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": ready.kafka_bootstrap_servers})
    producer.produce(ready.topic("strategies"), key=b"x", value=b"nonsense", partition=3)
    producer.flush(20)
    with pytest.raises(UserError, match=r"strategies partition 3 offset 0: strategies: unknown frame"):
        strategies.read(ready)


def test_topics_that_do_not_fit_are_named(environment: Settings) -> None:
    with pytest.raises(UserError, match=r"strategies does not exist; create it with: perpflow topics create"):
        strategies.read(environment)


@pytest.fixture
def command(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, field in Settings.model_fields.items():
        monkeypatch.setenv(str(field.alias), str(getattr(ready, name)))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    yield run


def test_the_command_line(command: Any, ready: Settings, tmp_path: Path) -> None:
    loaded = command("load", "--defaults", "--recorded")
    assert loaded.exit_code == 0, loaded.output
    lines = loaded.output.splitlines()
    assert len(lines) == 6 and all("written   revision 1, running" in line for line in lines)
    assert command("load", "--defaults").output.count("unchanged revision 1") == 4

    paused = tmp_path / "x.toml"
    text = next(path for path in _default_paths() if path.stem == "btcusdt").read_text(encoding="utf-8")
    paused.write_text(text + 'status = "paused"\n', encoding="utf-8")
    assert "default-btcusdt                  written   revision 2, paused" in command("load", str(paused)).output

    listed = command("list").output
    newest = strategies.read(ready)
    assert len(newest) == 6
    for strategy_id, strategy in newest.items():
        assert strategy_id in listed and config_hash(strategy) in listed
    shown = json.loads(command("show", "default-btcusdt").output)
    assert (shown["revision"], shown["status"], shown["config_hash"]) == (2, "paused", config_hash(newest["default-btcusdt"]))

    for arguments, message in (
        (("load",), "nothing to load"),
        (("load", str(tmp_path / "absent.toml")), "absent.toml"),
        (("show", "nobody"), "no strategy 'nobody' (known: default-btcusdt"),
    ):
        result = command(*arguments)
        assert isinstance(result.exception, UserError) and message in str(result.exception)
    paused.write_text(text + "leverage = 3\n", encoding="utf-8")
    result = command("load", str(paused))
    assert isinstance(result.exception, UserError) and str(result.exception) == f"{paused}: leverage: is not a field of a strategy"


def _default_paths() -> list[Path]:
    from stream_apps.strategy_files import default_files

    return default_files()

"""Strategies through a real broker: revisions, control marks, and what the command line says."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from psycopg.types.json import Jsonb
from typer.testing import CliRunner, Result

from deploy.cli.trading.strategies import app
from deploy.database import migrate as database
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from sinks.commands.strategies import revisions as strategies
from stream_apps.core.signals.strategy import BOOKKEEPING, StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_rules import strategy_from_record

pytestmark = pytest.mark.stack

NOW = 1_760_000_000_000


def config(strategy_id: str = "s", instrument: str = "BINANCE:BTCUSDT-PERP", **changes: Any) -> StrategyConfig:
    return StrategyConfig(**{"strategy_id": strategy_id, "instrument": instrument, "display_name": "Test", **changes})


def records(settings: Settings, topic: str) -> list[tuple[int, str, int, dict[str, Any]]]:
    """Everything in a topic: (partition, key, record timestamp, decoded record), by partition and offset."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group("test"), "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(settings.topic(topic), partition, 0) for partition in range(settings.partitions)])
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
    btc, sol = ready.partition_of("BTC"), ready.partition_of("SOL")
    first = [config("a"), config("b", "BINANCE:SOLUSDT")]
    assert [(one.config.revision, one.written) for one in strategies.publish(ready, first, NOW).outcomes] == [(1, True), (1, True)]
    written = records(ready, "strategies")
    assert sorted(one[:3] for one in written) == sorted([(btc, "a", NOW), (sol, "b", NOW)])
    assert {record["strategy_id"]: strategy_from_record(record) for *_, record in written} == strategies.read(ready)
    assert sorted(cuts(ready)) == sorted([(btc, 1), (sol, 1)])
    _, key, time, mark = records(ready, "progress")[0]
    assert (key, time) == ("strategies", NOW)
    assert {**mark, "cut": None} == {"author": "strategies", "venue": "", "event_time": NOW, "receive_time": NOW, "cut": None}

    # The same again writes no revision; its marks repeat the cut.
    again = strategies.publish(ready, [config("a", revision=9), config("b", "BINANCE:SOLUSDT")], NOW + 1000).outcomes
    assert [(one.config.revision, one.config.event_time, one.written) for one in again] == [(1, NOW, False)] * 2
    assert len(records(ready, "strategies")) == 2
    assert sorted(cuts(ready)) == sorted([(btc, 1), (sol, 1)] * 2)

    # A change of one is its next revision, in the same partition, later in time even with a clock that went back.
    changed = strategies.publish(ready, [config("a", entry_score=70.0), config("b", "BINANCE:SOLUSDT")], NOW - 5).outcomes
    assert [(one.config.revision, one.written) for one in changed] == [(2, True), (1, False)]
    assert changed[0].config.event_time == NOW + 1
    assert [record["revision"] for partition, _, _, record in records(ready, "strategies") if partition == btc] == [1, 2]
    assert [cut for partition, cut in cuts(ready) if partition == btc] == [1, 1, 2]
    assert strategies.read(ready)["a"].entry_score == 70.0


def test_a_repeat_completes_a_call_cut_off_before_its_mark(ready: Settings) -> None:
    lost = config("a", event_time=NOW, receive_time=NOW)
    strategies.produce(ready, "strategies", [("a", ready.partition_of("BTC"), lost.to_record())])
    assert cuts(ready) == []
    (outcome,) = strategies.publish(ready, [config("a")], NOW + 1000).outcomes
    assert not outcome.written
    assert cuts(ready) == [(ready.partition_of("BTC"), 1)]


def test_nothing_is_written_when_one_is_not_allowed(ready: Settings) -> None:
    strategies.publish(ready, [config("gone", status="deprecated")], NOW)
    before = (records(ready, "strategies"), records(ready, "progress"))
    for bad in (config("gone", entry_score=70.0), config("bad", tp2_ratio=0.5)):
        with pytest.raises(StrategyError):
            strategies.publish(ready, [config("good"), bad], NOW + 1000)
    assert (records(ready, "strategies"), records(ready, "progress")) == before


def raw(settings: Settings, value: bytes, key: bytes, partition: int) -> None:
    """Write to the topic past all rules, as somebody else might, at the tests' time: with today's the broker closes the segment (by
    the records' times a year has passed), and its cleaner may remove earlier revisions before the test has read them."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    producer.produce(settings.topic("strategies"), key=key, value=value, partition=partition, timestamp=NOW + 1)
    assert producer.flush(20) == 0


def test_what_others_wrote_wrongly_holds_nowhere_and_stops_nobody(ready: Settings) -> None:
    strategies.publish(ready, [config("a")], NOW)
    btc = ready.partition_of("BTC")
    encode = ready.codec.encoder("strategies")
    raw(ready, b"nonsense", b"a", btc)
    raw(ready, encode(config("a", revision=2, weight_direction=54).to_record()), b"a", btc)
    raw(ready, encode(config("a", revision=2, entry_score=70.0).to_record()), b"a", (btc + 1) % ready.partitions)
    log = strategy_log.read(ready)
    assert log.newest == {"a": config("a", event_time=NOW, receive_time=NOW)}
    reasons = sorted(one.reason.partition(":")[0] for one in log.refused)
    assert reasons == ["instrument", "strategies", "weight_direction"] and {one.strategy_id for one in log.refused} == {"a"}
    assert {(one.partition, one.offset) for one in log.refused} == {(btc, 1), (btc, 2), ((btc + 1) % ready.partitions, 0)}
    # The number of what was refused is free.
    (outcome,) = strategies.publish(ready, [config("a", entry_score=71.0)], NOW + 9, expected={"a": 1}).outcomes
    assert (outcome.config.revision, outcome.written) == (2, True)
    assert strategies.read(ready)["a"].entry_score == 71.0


def test_an_edit_of_an_old_revision_is_refused_and_says_what_came_between(ready: Settings) -> None:
    strategies.publish(ready, [config("a")], NOW, by="ann")
    strategies.publish(ready, [config("a", entry_score=70.0)], NOW + 1, by="bob", expected={"a": 1})
    with pytest.raises(
        strategies.StaleRevision,
        match=r"a: revision: the edit names revision 1, the newest is 2 \(written by bob: entry_score 75.0 -> 70.0\)",
    ):
        strategies.publish(ready, [config("a", entry_score=65.0), config("new")], NOW + 2, expected={"a": 1})
    with pytest.raises(strategies.StaleRevision, match="there is no such strategy"):
        strategies.publish(ready, [config("new")], NOW + 2, expected={"new": 3})
    with pytest.raises(strategies.StaleRevision, match="there is a strategy of this name already"):
        strategies.publish(ready, [config("a", entry_score=65.0)], NOW + 2, expected={"a": 0})
    assert set(strategies.read(ready)) == {"a"}
    # The same edit once more, as after an answer that was lost, is no conflict.
    (outcome,) = strategies.publish(ready, [config("a", entry_score=70.0)], NOW + 3, expected={"a": 1}).outcomes
    assert (outcome.written, outcome.config.revision) == (False, 2)


def _edit(settings: dict[str, Any], who: int, rounds: int, start: Any, between: Any, answers: Any) -> None:
    """One of two processes that edit the same revision; ``between`` lets neither write before both have read."""
    ready = Settings(**settings)
    produce = strategies.produce

    def waiting(settings: Settings, name: str, records: Any) -> Any:
        if name == "strategies" and records and records[0][2]["edited_by"] == f"editor {who}":
            with contextlib.suppress(threading.BrokenBarrierError):
                between.wait(1.5)
        return produce(settings, name, records)

    for round_ in range(rounds):
        start.wait(60)
        if round_ == 0:
            strategies.produce = waiting  # the first round is forced; the others meet as they may
        else:
            strategies.produce = produce
        try:
            wanted = config("a", entry_score=60.0 + round_ + who / 10)
            outcome = strategies.publish(ready, [wanted], NOW + round_, by=f"editor {who}", expected={"a": round_ + 1}).outcomes[0]
            answers.put((round_, who, "won" if outcome.written else "unchanged", outcome.config.entry_score))
        except strategies.StaleRevision as error:
            answers.put((round_, who, "lost", str(error)))


def test_of_two_processes_that_edit_one_revision_exactly_one_wins(ready: Settings) -> None:
    strategies.publish(ready, [config("a")], NOW)
    rounds = 6
    context = multiprocessing.get_context("spawn")
    start, between, answers = context.Barrier(2), context.Barrier(2), context.Queue()
    values = {str(field.alias): getattr(ready, name) for name, field in Settings.model_fields.items()}
    editors = [context.Process(target=_edit, args=(values, who, rounds, start, between, answers)) for who in (1, 2)]
    for editor in editors:
        editor.start()
    found = [answers.get(timeout=90) for _ in range(2 * rounds)]
    for editor in editors:
        editor.join(20)
        assert editor.exitcode == 0
    log = strategy_log.read(ready)
    held = log.revisions["a"]
    assert [one.revision for one in held] == list(range(1, rounds + 2))
    for round_ in range(rounds):
        (winner,) = [one for one in found if one[0] == round_ and one[2] == "won"]
        (loser,) = [one for one in found if one[0] == round_ and one[2] == "lost"]
        assert held[round_ + 1].entry_score == winner[3] and held[round_ + 1].edited_by == f"editor {winner[1]}"
        assert f"written by editor {winner[1]}" in loser[3]
    # In the first round both had read before one wrote: the loser's record is in the log, holds nowhere, and is not its key's last.
    assert any("must be above 2" in one.reason for one in log.refused)
    assert any("another editor was faster" in one[3] for one in found if one[0] == 0 and one[2] == "lost")
    assert log.unsettled() == []


def test_what_a_loser_that_died_left_is_cleaned_up_by_the_next_writer(ready: Settings) -> None:
    strategies.publish(ready, [config("a")], NOW)
    strategies.publish(ready, [config("a", entry_score=70.0)], NOW + 1)
    btc = ready.partition_of("BTC")
    raw(ready, ready.codec.encode("strategies", config("a", revision=2, entry_score=66.0).to_record()), b"a", btc)
    assert [one.entry_score for one in strategy_log.read(ready).unsettled()] == [70.0]
    strategies.publish(ready, [config("other", "BINANCE:SOLUSDT")], NOW + 2)
    log = strategy_log.read(ready)
    assert log.unsettled() == [] and log.newest["a"].entry_score == 70.0 and [one.revision for one in log.revisions["a"]] == [1, 2]
    assert [record["entry_score"] for partition, key, _, record in records(ready, "strategies") if key == "a"] == [75.0, 70.0, 66.0, 70.0]


def mark(settings: Settings, partition: int, time: int) -> None:
    record = {"author": "p", "venue": "BINANCE", "event_time": time, "receive_time": time, "cut": {}}
    strategies.produce(settings, "progress", [("p", partition, record)])


def test_edits_in_several_partitions_name_an_instant_that_none_has_reached(ready: Settings) -> None:
    both = [config("a"), config("b", "BINANCE:SOLUSDT")]
    btc, sol = ready.partition_of("BTC"), ready.partition_of("SOL")
    instant = NOW // 15_000 * 15_000
    assert strategies.publish(ready, both, NOW).effective_time == 0  # no market yet
    mark(ready, btc, instant + 3_000)
    mark(ready, sol, instant + 250)
    paused = strategies.publish(ready, [replace(one, status="paused") for one in both], NOW + 1)
    assert paused.effective_time == instant + 15_000 and paused.late == []
    assert {one.config.effective_time for one in paused.outcomes} == {instant + 15_000}
    # Too near to the next instant: the one after it.
    mark(ready, sol, instant + 14_500)
    running = strategies.publish(ready, both, NOW + 2)
    assert running.effective_time == instant + 30_000
    # In one partition the mark alone decides.
    alone = strategies.publish(ready, [config("a", entry_score=70.0)], NOW + 3)
    assert (alone.effective_time, alone.outcomes[0].config.effective_time) == (0, 0)
    # Recordings of two days have no instant in common.
    mark(ready, sol, instant + 86_400_000)
    assert strategies.publish(ready, [replace(one, status="paused") for one in both], NOW + 4).effective_time == 0


def test_a_partition_that_was_faster_is_named(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [config("a"), config("b", "BINANCE:SOLUSDT")]
    btc, sol = ready.partition_of("BTC"), ready.partition_of("SOL")
    instant = NOW // 15_000 * 15_000
    for partition in (btc, sol):
        mark(ready, partition, instant + 250)
    settled = strategies._settled

    def slowly(settings: Settings, written: Any) -> Any:
        mark(settings, sol, instant + 15_250)  # the market runs on between revision and control mark
        return settled(settings, written)

    monkeypatch.setattr(strategies, "_settled", slowly)
    published = strategies.publish(ready, both, NOW)
    assert (published.effective_time, published.late) == (instant + 15_000, ["b"])


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


def test_import_list_show_and_export(command: Any, ready: Settings, tmp_path: Path) -> None:
    loaded = command("import", "--defaults", "--recorded")
    assert loaded.exit_code == 0, loaded.output
    lines = loaded.output.splitlines()
    assert len(lines) == 6 and all("written   revision 1, running" in line for line in lines)
    assert command("import", "--defaults").output.count("unchanged revision 1") == 4

    listed = command("list").output
    newest = strategies.read(ready)
    assert len(newest) == 6
    for strategy_id, strategy in newest.items():
        assert strategy_id in listed and config_hash(strategy) in listed
    shown = json.loads(command("show", "default-btcusdt").output)
    assert (shown["revision"], shown["status"], shown["config_hash"]) == (1, "running", config_hash(newest["default-btcusdt"]))

    # What is exported says its revision; edited, it changes that one and no other.
    file = tmp_path / "default-btcusdt.toml"
    assert command("export", "default-btcusdt", "--to", str(tmp_path)).output.strip() == str(file)
    assert command("export", "default-btcusdt").output == file.read_text(encoding="utf-8")
    assert "unchanged revision 1" in command("import", str(file)).output
    file.write_text(file.read_text(encoding="utf-8").replace("entry_score = 75.0", "entry_score = 76.0"), encoding="utf-8")
    assert "written   revision 2, running" in command("import", str(file)).output
    assert "unchanged revision 2" in command("import", str(file)).output
    file.write_text(file.read_text(encoding="utf-8").replace("entry_score = 76.0", "entry_score = 77.0"), encoding="utf-8")
    fails(command("import", str(file)), "default-btcusdt: revision: the edit names revision 1, the newest is 2")
    assert len(command("export", "--all", "--to", str(tmp_path / "all")).output.splitlines()) == 6

    # A job that runs at every start of a stack must not undo what people edited.
    assert command("pause", "default-ethusdt").exit_code == 0
    assert command("import", "--defaults", "--missing").output == ""
    assert strategies.read(ready)["default-ethusdt"].status == "paused"
    assert "written   revision 3, running" in command("import", "--defaults").output

    text = next(path for path in _default_paths() if path.stem == "btcusdt").read_text(encoding="utf-8")
    fails(command("import"), "nothing to import")
    fails(command("import", str(tmp_path / "absent.toml")), "absent.toml")
    fails(command("show", "nobody"), "no strategy 'nobody' (known: default-btcusdt")
    file.write_text(text + "leverage = 3\n", encoding="utf-8")
    fails(command("import", str(file)), f"{file}: leverage: is not a field of a strategy")


def fails(result: Result, message: str) -> None:
    assert isinstance(result.exception, UserError) and message in str(result.exception), result.exception


def test_a_life(command: Any, ready: Settings) -> None:
    """Every command on one strategy, what each refuses, and the audit trail in the end."""
    made = ("create", "x", "--instrument", "BINANCE:ETHUSDT-PERP", "--by", "ann", "--note", "a try")
    fails(command(*made, "weight_direction=54"), "weight_direction: the four weights must sum to 100, they sum to 99")
    fails(command(*made, "entry_score=high"), "entry_score: must be a number, got 'high'")
    fails(command(*made, "status=paused"), "status: use pause")
    assert strategies.read(ready) == {}
    assert "written   revision 1, running" in command(*made, "tags=a,b", "description=why not", "fast_variant=true").output
    first = strategies.read(ready)["x"]
    assert (first.vol_atr_pct_min, first.obi_threshold, first.tags, first.description) == (0.003, 0.35, ("a", "b"), "why not")
    assert (first.edited_by, first.note, first.fast_variant, first.display_name) == ("ann", "a try", True, "x")
    fails(command(*made, "entry_score=61"), "there is a strategy of this name already")

    edit = ("edit", "x", "--by", "bob")
    fails(command(*edit, "--revision", "1"), "nothing to change")
    assert command(*edit, "entry_score=70").exit_code == 2  # an edit names its revision
    fails(command(*edit, "--revision", "2", "entry_score=70"), "the edit names revision 2, the newest is 1")
    fails(command(*edit, "--revision", "1", "tp2_ratio=0.7"), "tp2_ratio: must be greater than tp1_ratio, got 0.7 and 0.75")
    for field in ("status=paused", "initial_balance=9", "added_balance=9", "instrument=BINANCE:BTCUSDT-PERP", "revision=9", "edited_by=me"):
        fails(command(*edit, "--revision", "1", field), field.partition("=")[0])
    fails(command(*edit, "--revision", "1", "leverage=3"), "leverage: is not a field of a strategy")
    assert "written   revision 2" in command(*edit, "--revision", "1", "entry_score=70", "description=").output
    assert (strategies.read(ready)["x"].entry_score, strategies.read(ready)["x"].description) == (70.0, None)
    fails(command(*edit, "--revision", "1", "entry_score=71"), "the newest is 2 (written by bob: ")

    fails(command("resume"), "name at least one strategy, or use --all")
    fails(command("restore", "x"), "status: x is not deprecated; cannot restore")
    assert "unchanged revision 2, running" in command("resume", "x").output
    assert "written   revision 3, paused" in command("pause", "--all", "--by", "ann").output
    assert "unchanged revision 3, paused" in command("pause", "x").output
    fails(command("resume", "x", "--revision", "2"), "the newest is 3")
    assert "written   revision 4, running" in command("resume", "x", "--revision", "3").output

    added = command("add-balance", "x", "500.5", "--revision", "4").output
    assert "balance 10,500.50, 500.50 of it added, 1R 210.01" in added  # 2 % of it
    fails(command("add-balance", "x", "1e6", "--revision", "5"), "added_balance: must be from 0 to 1e+06")
    fails(command("add-balance", "x", "989500", "--revision", "5"), "added_balance: must leave the balance at most 1e+06")
    # The same strategy with more money: its statistics go on under the same hash.
    log = strategies.read(ready)
    assert config_hash(log["x"]) == config_hash(replace(log["x"], added_balance=0.0)) and log["x"].initial_balance == 10_000.0

    assert command("deprecate", "x").exit_code != 0  # asks, and nobody answers
    assert "written   revision 6, deprecated" in command("deprecate", "x", "--yes").output
    assert "x" not in command("list").output.split() and "deprecated" in command("list", "--all").output
    fails(command("pause", "x"), "status: x is deprecated; cannot pause")
    fails(command("resume", "x"), "status: x is deprecated; use restore")
    fails(command(*edit, "--revision", "6", "entry_score=71"), "is deprecated and cannot be edited until it is restored")
    fails(command("add-balance", "x", "5", "--revision", "6"), "is deprecated and cannot be edited until it is restored")
    assert "written   revision 7, running" in command("restore", "x").output
    assert replace(strategies.read(ready)["x"], **{name: getattr(first, name) for name in BOOKKEEPING}) == replace(
        first, entry_score=70.0, description=None, added_balance=500.5
    )

    trail = [json.loads(line) for line in command("history", "x", "--json").output.splitlines()]
    assert [(one["revision"], one["did"], one["by"] if one["by"] in ("ann", "bob") else "") for one in trail] == [
        (1, "create", "ann"), (2, "edit", "bob"), (3, "pause", "ann"), (4, "resume", ""), (5, "edit", ""), (6, "deprecate", ""), (7, "restore", ""),
    ]  # fmt: skip
    assert trail[1]["changed"] == {"entry_score": [75.0, 70.0], "description": ["why not", None]} and trail[0]["note"] == "a try"
    assert trail[4]["changed"] == {"added_balance": [0.0, 500.5]}
    assert sorted(one["event_time"] for one in trail) == [one["event_time"] for one in trail]
    assert "entry_score 75.0 -> 70.0" in " ".join(command("history", "x").output.split())
    fails(command("history", "nobody"), "no strategy 'nobody'")


def test_what_compaction_took_from_the_topic_the_database_tells(command: Any, ready: Settings) -> None:
    database.migrate(ready.database_url)
    raw(
        ready,
        ready.codec.encode("strategies", config("a", revision=3, entry_score=72.0).to_record()),
        b"a",
        ready.partition_of("BTC"),
    )
    alone = [json.loads(line) for line in command("history", "a", "--json").output.splitlines()]
    assert [(one["revision"], one["did"]) for one in alone] == [(3, "create")]  # all that can be known without
    with psycopg.connect(ready.database_url) as connection:
        for revision, did, changed in (
            (1, "create", {}),
            (2, "edit", {"entry_score": [75.0, 71.0]}),
            (3, "edit", {"entry_score": [71.0, 72.0]}),
        ):
            connection.execute(
                "INSERT INTO strategy_audit VALUES ('a', %s, to_timestamp(%s), 0, %s, true, %s, %s, NULL, 'h', 'ann', NULL)",
                (revision, NOW // 1000 + revision, revision, did, Jsonb(changed)),
            )
    strategies.publish(ready, [config("a", entry_score=73.0)], NOW + 9000, by="bob")
    trail = [json.loads(line) for line in command("history", "a", "--json").output.splitlines()]
    assert [(one["revision"], one["did"], one["by"], one["changed"].get("entry_score")) for one in trail] == [
        (1, "create", "ann", None), (2, "edit", "ann", [75.0, 71.0]), (3, "edit", "ann", [71.0, 72.0]), (4, "edit", "bob", [72.0, 73.0]),
    ]  # fmt: skip


def test_bootstrap(command: Any, ready: Settings) -> None:
    assert "created 54, skipped 0" in command("bootstrap", "--paused").output
    found = strategies.read(ready)
    assert len(found) == 54 and {one.status for one in found.values()} == {"paused"}
    assert "created 0, skipped 54" in command("bootstrap").output
    again = command("bootstrap", "--asset", "BTC", "--asset", "ETH").output
    assert "created 18, skipped 18" in again and len(strategies.read(ready)) == 72
    fails(command("bootstrap", "--asset", "DOGE"), "no recommended values for DOGE")
    assert {one.revision for one in strategies.read(ready).values()} == {1}


def _default_paths() -> list[Path]:
    from stream_apps.strategy_files import default_files

    return default_files()

"""``perpflow evolve`` on a real broker: a dry run writes nothing, an apply all or nothing, whoever edits meanwhile and wherever the process is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from deploy.backtest.evolution.evolve import write
from deploy.cli import app
from deploy.database.migrate import migrate
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from sinks.commands.strategies import revisions
from sinks.commands.strategies import transaction as strategy_transaction
from sinks.commands.strategies.history import history
from sinks.commands.strategies.revisions import StaleRevision
from sinks.commands.strategies.transaction import StrategyEdit, publish_together
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.sources.topics import TopicSource
from stream_apps.research.evolve import EDITOR, TAG, Change
from tests.deploy.dashboard_rows import record
from tests.deploy.dashboard_rows import write as write_rows
from tests.support.markets.made_markets import PARENT, MadeMarket

pytestmark = pytest.mark.stack

NOW = 1_760_000_000_000


def config(strategy_id: str, instrument: str = "BINANCE:BTCUSDT-PERP", **more: Any) -> StrategyConfig:
    return StrategyConfig(**{"strategy_id": strategy_id, "instrument": instrument, "display_name": strategy_id, **more})


@pytest.fixture
def ready(environment: Settings, topics: list[str]) -> Settings:
    return environment


@pytest.fixture
def variables(ready: Settings, environment_variables: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment_variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERPFLOW_GRID_MS", "60000")
    return ready


def newest_raw(settings: Settings) -> dict[str, int]:
    """Strategy -> highest revision of it that the worker and replay can see; compaction may have taken lower ones."""
    found: dict[str, int] = {}
    for topic, _, _, value in everything(settings):
        if topic == "strategies":
            record = settings.codec.decode("strategies", value)
            found[record["strategy_id"]] = max(found.get(record["strategy_id"], 0), record["revision"])
    return found


def everything(settings: Settings) -> list[tuple[str, int, int, bytes]]:
    """Every record of the strategies and progress topics as the worker and replay read them: raw, committed."""
    found = []
    with TopicSource(settings, ("strategies", "progress")) as source:
        for partition, topic, records in source.everything():
            plain = records.rows(0, len(records))
            found += [(topic, partition, int(plain.offsets[row]), bytes(plain.value(row) or b"")) for row in range(len(plain))]
    return sorted(found)


# --- the transaction ---------------------------------------------------------------------------------------------------


def pair() -> list[StrategyEdit]:
    return [
        StrategyEdit(config("a", entry_score=70.0), 1, "more"),
        StrategyEdit(config("b", "BINANCE:SOLUSDT", status="deprecated"), 1, "less"),
        StrategyEdit(config("c", "BINANCE:ETHUSDT-PERP", tags=(TAG,)), 0, "new"),
    ]


def test_edits_of_three_partitions_hold_together_and_the_marks_cover_no_more_than_records(ready: Settings) -> None:
    revisions.publish(ready, [config("a"), config("b", "BINANCE:SOLUSDT")], NOW)
    published = publish_together(ready, pair(), NOW + 1, EDITOR)
    assert [(one.config.revision, one.written) for one in published.outcomes] == [(2, True), (2, True), (1, True)]
    newest = revisions.read(ready)
    assert (newest["a"].entry_score, newest["b"].status, newest["c"].note) == (70.0, "deprecated", "new")
    assert len({ready.partition_of(asset) for asset in ("BTC", "SOL", "ETH")}) == 3
    # The end of a transaction takes an offset of its own; a mark that waited for it would wait for ever.
    records = everything(ready)
    for partition in range(ready.partitions):
        last = max((offset for topic, place, offset, _ in records if (topic, place) == ("strategies", partition)), default=-1)
        cuts = [
            ready.codec.decode("progress", value)["cut"]["strategies"]
            for topic, place, _, value in records
            if (topic, place) == ("progress", partition)
        ]
        assert not cuts or max(cuts) == last + 1
    # Again: it holds already. Then an ordinary edit, behind the end of the transaction.
    assert [one.written for one in publish_together(ready, pair(), NOW + 2, EDITOR).outcomes] == [False] * 3
    (outcome,) = revisions.publish(ready, [replace(newest["a"], entry_score=71.0)], NOW + 3, expected={"a": 2}).outcomes
    assert outcome.config.revision == 3 and (newest["b"].edited_by, newest["b"].note) == (EDITOR, "less")
    (entry,) = history(ready, "c")
    assert (entry.did, entry.by, entry.note) == ("create", EDITOR, "new")


def test_an_edit_on_an_old_revision_or_a_broken_rule_writes_nothing(ready: Settings) -> None:
    revisions.publish(ready, [config("a"), config("b", "BINANCE:SOLUSDT")], NOW)
    revisions.publish(ready, [config("b", "BINANCE:SOLUSDT", entry_score=71.0)], NOW + 1, by="somebody")
    before = everything(ready)
    with pytest.raises(StaleRevision, match=r"b: revision: the edit names revision 1, the newest is 2 \(written by somebody"):
        publish_together(ready, pair(), NOW + 2, EDITOR)
    with pytest.raises(ValueError, match="tp2_ratio"):
        publish_together(ready, [pair()[0], StrategyEdit(config("z", tp2_ratio=0.5), 0, "")], NOW + 2, EDITOR)
    assert everything(ready) == before


def test_somebody_who_writes_at_the_same_moment_makes_it_fail_cleanly(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another editor's record lands between the read and the write, in the middle of three partitions."""
    revisions.publish(ready, [config("a"), config("b", "BINANCE:SOLUSDT")], NOW)
    read = strategy_log.read

    def read_and_be_late(settings: Settings) -> Any:
        log = read(settings)
        monkeypatch.setattr(strategy_log, "read", read)
        other = revisions.publish(ready, [config("b", "BINANCE:SOLUSDT", entry_score=72.0)], NOW + 1, by="faster")
        assert other.outcomes[0].written
        return log

    monkeypatch.setattr(strategy_log, "read", read_and_be_late)
    with pytest.raises(StaleRevision, match="edited a strategy at the same time"):
        publish_together(ready, pair(), NOW + 2, EDITOR)
    newest = revisions.read(ready)
    assert (newest["a"].revision, newest["b"].entry_score, newest["b"].revision) == (1, 72.0, 2) and "c" not in newest
    # Neither the worker nor replay sees what was aborted, and who edits next is not held up.
    assert newest_raw(ready) == {"a": 1, "b": 2}
    assert revisions.publish(ready, [config("a", entry_score=80.0)], NOW + 3, expected={"a": 1}).outcomes[0].written


def die_at(settings: Settings, place: str) -> None:
    """In a process of its own: kill it at a place of the transaction."""
    if place == "after the records":
        Producer_ = strategy_transaction.Producer

        class Dying(Producer_):  # type: ignore[misc, valid-type]
            def commit_transaction(self, *arguments: Any) -> None:
                os.kill(os.getpid(), 9)

        strategy_transaction.Producer = Dying  # type: ignore[misc]
    else:
        strategy_transaction.write_marks = lambda *_: os.kill(os.getpid(), 9)  # type: ignore[assignment]
    publish_together(settings, pair(), NOW + 1, EDITOR)


@pytest.mark.parametrize(("place", "holds"), [("after the records", False), ("before the marks", True)])
def test_killed_in_the_middle_leaves_all_or_nothing_and_the_next_call_completes_it(ready: Settings, place: str, holds: bool) -> None:
    revisions.publish(ready, [config("a"), config("b", "BINANCE:SOLUSDT")], NOW)
    process = multiprocessing.get_context("spawn").Process(target=die_at, args=(ready, place))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    newest = revisions.read(ready)
    assert ("c" in newest, newest["a"].revision, newest["b"].status) == ((True, 2, "deprecated") if holds else (False, 1, "running"))
    published = publish_together(ready, pair(), NOW + 2, EDITOR)
    assert [one.written for one in published.outcomes] == [not holds] * 3
    assert newest_raw(ready) == {"a": 2, "b": 2, "c": 1}
    marks = [ready.codec.decode("progress", value)["cut"] for topic, _, _, value in everything(ready) if topic == "progress"]
    assert len(marks) == 5


@pytest.mark.long  # the broker takes up to 20 s
def test_an_editor_who_waits_for_an_open_transaction_is_told_the_truth(ready: Settings) -> None:
    """A process died with its transaction open: who edits now waits until the broker has ended it."""
    revisions.publish(ready, [config("a"), config("b", "BINANCE:SOLUSDT")], NOW)
    process = multiprocessing.get_context("spawn").Process(target=die_at, args=(ready, "after the records"))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    (outcome,) = revisions.publish(ready, [config("a", entry_score=77.0)], NOW + 1, expected={"a": 1}).outcomes
    assert outcome.written and revisions.read(ready)["a"].entry_score == 77.0


# --- live strategies ---------------------------------------------------------------------------------------------------


def position(settings: Settings, strategy_id: str, mode: str) -> None:
    """Write a position of a strategy."""
    record = {
        "instrument": "BINANCE:BTCUSDT-PERP", "event_time": NOW, "receive_time": NOW, "strategy_id": strategy_id, "position_id": f"p|{strategy_id}",
        "mode": mode,
        "signal_id": "s", "status": "open", "direction": "LONG", "tier": "standard", "quantity": 1.0, "open_quantity": 1.0, "entry_time": NOW,
        "entry_price": 1.0, "risk_distance": 1.0, "stop_price": 1.0, "tp1_price": 1.0, "tp2_price": 1.0, "timeout_at": NOW, "realised_pnl": 0.0,
        "risk_amount": 1.0,
    }  # fmt: skip
    from schemas.catalogue import schema

    for field in schema("positions")["fields"]:
        kind = field["type"]
        record.setdefault(
            field["name"], None if isinstance(kind, list) else {"string": "", "double": 0.0, "boolean": False}.get(str(kind), 0)
        )
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    producer.produce(
        settings.topic("positions"),
        settings.codec.encode("positions", record),
        strategy_id.encode(),
        settings.partition_of("BTC"),
    )
    assert producer.flush(20) == 0


def test_what_may_be_traded_with_money_is_never_written(variables: Settings, tmp_path: Path) -> None:
    old = [config("paper", tags=(TAG,)), config("tagged", tags=(TAG, "live")), config("traded", tags=(TAG,))]
    revisions.publish(variables, old, NOW)
    position(variables, "traded", "testnet")
    position(variables, "paper", "paper")
    before = everything(variables)
    for name in ("tagged", "traded"):
        changes = [Change("deprecate", replace(one, status="deprecated"), 1, "") for one in old if one.strategy_id in ("paper", name)]
        with pytest.raises(UserError, match=f"{name}: tags: may be traded with money"):
            write(variables, changes, NOW + 1)
        with pytest.raises(UserError, match=f"--apply: {name} may be traded with money"):
            CliRunner().invoke(app, ["evolve", "--apply", "--strategy", name, "--out", str(tmp_path)], catch_exceptions=False)
    assert everything(variables) == before
    assert write(variables, [Change("deprecate", replace(old[0], status="deprecated"), 1, "")], NOW + 1).outcomes[0].written


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines, ids = ["agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"], 0
    for _, trades in MadeMarket(21, hours=30, edge=0.6).rows():
        for time, price, quantity, maker in trades:
            ids += 1
            lines.append(f"{ids},{price},{quantity},{ids},{ids},{time},{str(maker).lower()}")
    path = tmp_path_factory.mktemp("dump") / "LTCUSDT-aggTrades-2025-10-09.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("LTCUSDT-aggTrades-2025-10-09.csv", "\n".join(lines) + "\n")
    return path


def invoke(dump: Path, out: Path, *more: str, source: str = "") -> tuple[Result, dict[str, Any]]:
    result = CliRunner().invoke(
        app, ["evolve", "--source", source or f"file:{dump}",
              "--lookback", "26h", "--test", "12h", "--candidates", "4", "--min-closed-trades", "5", "--processes", "1",
              "--warm-up", "3", "--out", str(out), *more], catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(sorted(out.rglob("*.json"))[-1].read_text())
    return result, report


@pytest.fixture
def running(variables: Settings) -> Iterator[Settings]:
    # Its exits are poor, so that a mutation has something to better.
    poor = replace(PARENT, strategy_id="parent", entry_score=75.0, sl_atr_multiplier=3.0, tp1_ratio=0.3, tp2_ratio=0.5)
    revisions.publish(variables, [poor, replace(poor, strategy_id="moved", instrument="BINANCE:BTCUSDT-PERP")], NOW)
    migrate(variables.database_url)
    yield variables


def ms(text: str) -> int:
    return round(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000)


def store(settings: Settings, strategy_id: str, times_and_results: Sequence[tuple[str, float]], **more: Any) -> None:
    """Store closed trades, as the sink does."""
    with psycopg.connect(settings.database_url) as connection:
        rows = [
            record(
                "trades_closed",
                **{
                    "trade_id": f"{strategy_id}|{at}|{more}", "strategy_id": strategy_id, "instrument": PARENT.instrument, "mode": "paper",
                    "event_time": ms(at), "entry_time": ms(at) - 600_000, "net_r": net_r, "net_pnl": 200 * net_r, "direction": "LONG",
                    **more,
                },
            )
            for at, net_r in times_and_results
        ]  # fmt: skip
        write_rows(connection, "trades_closed", rows)


def test_fitness_and_the_parent_come_from_the_stored_paper_trades(running: Settings, dump: Path, tmp_path: Path) -> None:
    """A look-back from 10-09 03:59 to 10-10 05:59 whose test begins at 10-09 17:59."""
    revisions.publish(running, [replace(revisions.read(running)["parent"], strategy_id="other", revision=1)], NOW + 1)
    mine = [("2025-10-09T03:59:00", 1.0), ("2025-10-09T12:00:00", -1.0), ("2025-10-10T05:58:59.999", 9.0)]
    other = [("2025-10-09T04:00:00", 1.5), ("2025-10-09T05:00:00", -0.5), ("2025-10-09T17:58:59", 0.25)]
    store(running, "parent", mine)
    store(running, "other", other)
    # None of these counts: before the look-back, at its end, on another instrument, with money.
    store(running, "other", [("2025-10-09T03:58:59.999", 50.0), ("2025-10-10T05:59:00", 60.0)])
    store(running, "other", [("2025-10-09T12:00:00", 70.0)], instrument="BINANCE:BTCUSDT-PERP")
    store(running, "other", [("2025-10-09T12:30:00", 80.0)], mode="testnet")
    # The fields of S1 9.3, by hand.
    at_end = ["--to", "2025-10-10T05:59:00", "--max-new-per-symbol", "0"]
    _, report = invoke(dump, tmp_path, *at_end)
    found = {one["strategy_id"]: one["fitness"] for one in report["running_strategies"]}
    assert report["top3"] == ["parent", "other"]
    for name, results in (("parent", [1.0, -1.0, 9.0]), ("other", [1.5, -0.5, 0.25])):
        net, days = sum(results), 26 / 24
        profit, loss = sum(one for one in results if one > 0), -sum(one for one in results if one < 0)
        value = net + 0.9 * net / days + 0.6 * (profit / loss - 1) + 0.5 * 2.5 * (2 / 3 - 0.5) - 0.35 * (5 - 3)
        assert (found[name]["closed"], found[name]["net_r"], found[name]["value"]) == (
            3,
            pytest.approx(net),
            pytest.approx(value, abs=1e-4),
        )
    # The 9 R closed in the test: they do not make a parent.
    (line,) = report["plan"]
    assert "parent other," in line


def test_a_dry_run_reports_and_writes_nothing_and_apply_writes_what_it_said(running: Settings, dump: Path, tmp_path: Path) -> None:
    before = everything(running)
    result, dry = invoke(dump, tmp_path / "dry")
    assert everything(running) == before
    assert dry["mode"] == "dry run" and "would be created" in result.output
    (candidate,) = dry["candidates"]
    assert candidate["accepted"] and candidate["test"]["p"] < 0.1 and candidate["test_net_r"] > candidate["parent_net_r"]
    assert dry["period"]["end"] - dry["test"]["begin"] == 12 * 3_600_000 and dry["left_alone"][0]["strategy_id"] == "moved"
    (change,) = dry["changes"]
    assert change["kind"] == "create" and change["written_revision"] is None
    text = next((tmp_path / "dry").rglob("*.md")).read_text()
    assert "Mode: **dry run**" in text and "DRY RUN" in text and candidate["strategy_id"] in text

    _, done = invoke(dump, tmp_path / "applied", "--apply")
    assert done["candidates"] == dry["candidates"] and done["changes"][0]["written_revision"] == 1
    newest = revisions.read(running)
    made = newest[candidate["strategy_id"]]
    assert made.status == "running" and TAG in made.tags and made.edited_by == EDITOR and newest["parent"].revision == 1
    (entry,) = history(running, made.strategy_id)
    assert (entry.did, entry.by) == ("create", EDITOR) and "in the test" in (entry.note or "")


@pytest.mark.long  # three runs of a day's replays
def test_topics_and_archive_judge_as_the_dump_does(running: Settings, dump: Path, tmp_path: Path) -> None:
    """The dump imported into the topics, and those archived: the same strategies, figures and candidates from all three, and an apply from the topics."""
    imported = CliRunner().invoke(app, ["import", "--venue", "BINANCE", "--kind", "trades", str(dump)], catch_exceptions=False)
    assert imported.exit_code == 0, imported.output
    archived = CliRunner().invoke(
        app, ["archive", "run", str(tmp_path / "parquet"), "--until-idle", "1"], catch_exceptions=False
    )  # fmt: skip
    assert archived.exit_code == 0, archived.output
    store(running, "parent", [(f"2025-10-09T{hour:02}:00:00", 0.5) for hour in range(5, 11)])
    reports = {}
    for place, source in (("file", f"file:{dump}"), ("topics", "topics"), ("archive", f"archive:{tmp_path / 'parquet'}")):
        _, reports[place] = invoke(dump, tmp_path / place, "--to", "2025-10-10T05:59:00", source=source)
    judged = {
        place: {name: report[name] for name in ("period", "test", "symbols", "candidates", "plan")} for place, report in reports.items()
    }
    assert judged["topics"] == judged["file"] and judged["archive"] == judged["file"]
    ranked = {place: [one for one in report["running_strategies"] if one["strategy_id"] == "parent"] for place, report in reports.items()}
    assert ranked["topics"] == ranked["file"] == ranked["archive"] and ranked["file"][0]["fitness"]["closed"] >= 5
    (candidate,) = reports["topics"]["candidates"]
    assert candidate["accepted"]
    _, done = invoke(dump, tmp_path / "applied", "--to", "2025-10-10T05:59:00", "--apply", source="topics")
    assert done["changes"][0]["written_revision"] == 1 and revisions.read(running)[candidate["strategy_id"]].status == "running"

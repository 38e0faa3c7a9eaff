"""Replay from the archive against replay from the records that were archived: every record of every result topic, byte for byte, in its order."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from schemas.archive.manifest import ArchiveError
from schemas.codec.recordset import RecordSet
from stream_apps.core.market.config import EngineConfig
from stream_apps.engines import SIGNALS
from stream_apps.replay.run import PartitionReplay, Result, drive
from stream_apps.replay.sources.archive import Archive
from stream_apps.strategy_files import load_strategy_files
from tests.sinks.archive.archive_helpers import archived
from tests.support.markets.logs import CODEC, LTC, Log, ltc_trades
from tests.support.markets.quality_logs import BTC, as_log, btc_rows
from tests.support.paths import ROOT

STRATEGIES = ROOT / "stream_apps" / "default_strategies" / "recorded"
PARTITION = 4


@pytest.fixture(scope="module")
def ltc() -> Log:
    """A day of recorded trades with a strategy that trades them."""
    log = Log()
    log.instrument()
    for config in load_strategy_files([STRATEGIES / "ltcusdt_trades_only.toml"]):
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1, "revision": 1})
    log.trades(ltc_trades(30_000))
    return log


@pytest.fixture(scope="module")
def btc() -> Log:
    """Trades, book, quotes, funding, liquidations of a recording, another instrument among them, and records that are none."""
    rng = random.Random(3)
    log = as_log(btc_rows("btcusdt_20240808", 25_000))
    spoiled = Log({topic: list(messages) for topic, messages in log.topics.items()})
    for topic in ("agg_trades", "depth", "quotes"):
        messages = spoiled.topics[topic]
        for at in rng.sample(range(len(messages)), min(9, len(messages))):
            offset, time, key, value = messages[at]
            assert value is not None
            odd = [None, b"", value[:-3], value + b"x", b"\x00\x00\x00\x00\x09" + value[10:]]
            messages[at] = (offset, time, rng.choice([key, key, None, b"\xff", b"NO:SUCH"]), rng.choice([*odd, value]))
    return spoiled


def config_of(log: Log) -> EngineConfig:
    return EngineConfig(grid_ms=log.grid, lateness_ms=log.lateness, quantile_history_ms=0)


def from_records(log: Log) -> list[Result]:
    run = PartitionReplay(PARTITION, config_of(log), CODEC)
    return [result for topic, messages in log.topics.items() for result in run.feed(topic, RecordSet.from_messages(messages))]


def from_archive(root: Path, log: Log, **more: object) -> list[Result]:
    found: list[Result] = []
    source = Archive(CODEC, log.grid, log.lateness, root=root, **more)  # type: ignore[arg-type]
    drive(source, config_of(log), CODEC, lambda partition, result: found.append(result))
    return found


def kinds(results: list[Result]) -> set[str]:
    return {result.topic for result in results}


@pytest.mark.parametrize("name", ["ltc", "btc"])
def test_the_archive_replays_as_the_records_do(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    log: Log = request.getfixturevalue(name)
    archived(tmp_path, {(topic, PARTITION): messages for topic, messages in log.topics.items()}, size=6_000)
    theirs, ours = from_records(log), from_archive(tmp_path, log)
    wanted = {"features", "scores", "signals", "trades_closed"} if name == "ltc" else {"features", "dead_letters"}
    assert wanted <= kinds(theirs)
    assert len(ours) == len(theirs)
    assert ours == theirs


def test_a_partition_with_several_instruments_is_merged_by_offset(ltc: Log, btc: Log, tmp_path: Path) -> None:
    log = Log()
    log.instrument(BTC, price_decimals=1)
    log.instrument(LTC)
    other = [(CODEC.decode("agg_trades", value)) for _, _, key, value in ltc.topics["agg_trades"][:8_000]]
    start = other[0]["event_time"]
    rows = [one for one in btc_rows("btcusdt_20240808", 40_000) if one[0] == "agg_trades"]
    first = rows[0][1]["event_time"]
    both = sorted(
        [(one["event_time"] - start, 0, one) for one in other] + [(one["event_time"] - first, 1, one) for _, one in rows],
        key=lambda x: x[:2],
    )
    due = log.due_time(start)
    for number, (time, _, one) in enumerate(both):
        while start + time > due:
            log.mark(due)
            due += log.grid
        log.append("agg_trades", {**one, "event_time": start + time, "agg_id": number})
    log.mark(due)
    archived(tmp_path, {(topic, PARTITION): messages for topic, messages in log.topics.items()}, size=2_500)
    theirs = from_records(log)
    assert len({CODEC.decode("features", one.value)["instrument"] for one in theirs if one.topic == "features"}) == 2
    assert from_archive(tmp_path, log) == theirs


def test_without_marks_those_of_an_importer_are_written(ltc: Log, tmp_path: Path) -> None:
    """The log was written as an importer of history does, with a mark a grid step: the marks that replay makes up must say the same."""
    archived(tmp_path, {(topic, PARTITION): messages for topic, messages in ltc.topics.items() if topic != "progress"}, size=9_000)
    compared = ("features", "scores", "signals", "trades_closed")
    theirs = [one for one in from_records(ltc) if one.topic in compared]
    ours = [one for one in from_archive(tmp_path, ltc) if one.topic in compared]
    last = CODEC.decode(ours[-1].topic, ours[-1].value)["event_time"]
    assert "trades_closed" in kinds(ours)
    assert ours == [one for one in theirs if CODEC.decode(one.topic, one.value)["event_time"] <= last]
    assert len(theirs) - len(ours) <= 4, "the importer's last mark lies a step later"


def test_warm_up_from_a_time_and_an_end(ltc: Log, tmp_path: Path) -> None:
    archived(tmp_path, {(topic, PARTITION): messages for topic, messages in ltc.topics.items()}, size=9_000)
    messages = ltc.topics["agg_trades"]
    since, until = messages[12_345][1], messages[25_000][1]
    cut = Log(dict(ltc.topics))
    run = PartitionReplay(PARTITION, config_of(ltc), CODEC)
    theirs: list[Result] = []
    for topic in cut.topics:
        rows = [one for one in cut.topics[topic] if topic in ("instruments", "strategies") or one[1] >= since]
        run.engine.skip_to(topic, rows[0][0])
        theirs += run.feed(topic, RecordSet.from_messages(rows))
    ours = from_archive(tmp_path, ltc, since=since, until=until)
    assert ours == theirs[: len(ours)]
    times = [CODEC.decode(one.topic, one.value)["event_time"] for one in ours if one.topic == "features"]
    assert since <= times[0] and until <= times[-1]


def test_what_is_not_there_is_said(ltc: Log, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"):
        from_archive(tmp_path, ltc)
    archived(tmp_path, {(topic, PARTITION): messages for topic, messages in ltc.topics.items()}, size=9_000)
    with pytest.raises(ArchiveError, match="no market data"):
        from_archive(tmp_path, ltc, partitions=(5,))
    victim = next(tmp_path.glob("agg_trades/*/*/*.parquet"))
    shutil.move(victim, tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match=victim.name):
        from_archive(tmp_path, ltc)


def test_the_command_compares_with_what_is_archived(ltc: Log, tmp_path: Path) -> None:
    """``perpflow replay --source archive:DIR --verify``: identical, and not any more when a record is another; and a report with the future altered."""
    from typer.testing import CliRunner

    from deploy.cli import load_app

    logs = {(topic, PARTITION): messages for topic, messages in ltc.topics.items()}
    for result in from_records(ltc):
        if result.topic in SIGNALS.results:
            messages = logs.setdefault((result.topic, PARTITION), [])
            messages.append((len(messages), CODEC.decode(result.topic, result.value)["event_time"], result.key, result.value))
    archived(tmp_path / "same", logs, size=9_000)
    runner, app = CliRunner(), load_app("replay")
    found = runner.invoke(app, ["--source", f"archive:{tmp_path / 'same'}", "--verify", "--json", str(tmp_path / "found.json")])
    assert found.exit_code == 0, found.output
    counts = json.loads((tmp_path / "found.json").read_text())
    assert counts["counts"] == counts["written"]["counts"] and counts["counts"]["trades_closed"] > 0
    offset, time, key, value = logs["features", PARTITION][1_000]
    changed = CODEC.encode("features", {**CODEC.decode("features", value), "cvd_5m": 1.25})
    logs["features", PARTITION][1_000] = (offset, time, key, changed)
    archived(tmp_path / "other", logs, size=9_000)
    found = runner.invoke(app, ["--source", f"archive:{tmp_path / 'other'}", "--verify"])
    assert found.exit_code == 1 and "cvd_5m is 1.25" in found.output
    found = runner.invoke(app, ["--source", f"archive:{tmp_path / 'same'}", "--future-shift", "--out", str(tmp_path / "report")])
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["inputs"]["agg_trades"] == 30_000
    found = runner.invoke(app, ["--source", f"archive:{tmp_path / 'none'}", "--verify"])
    assert found.exit_code != 0 and "no archive" in str(found.exception)

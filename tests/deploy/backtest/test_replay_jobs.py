"""A replay on several processes: the same report, to the byte, as one process writes; and what failed is named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.backtest import jobs as replay_jobs
from deploy.backtest.job import Job, Opened, open_job
from deploy.backtest.report import write_report
from schemas.errors import UserError
from sinks.commands.strategies.assignments import varied
from stream_apps.replay.sources.source import Piece
from tests.deploy.backtest.test_replay_files import agg_dump, rows, settings


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Three instruments in three partitions, of other times each, and a strategy in several settings."""
    folder = tmp_path_factory.mktemp("dumps")
    trades = rows(9_000)
    sources = [
        f"file:{agg_dump(folder, trades, 'LTCUSDT-aggTrades-1.csv')}",
        f"file:{agg_dump(folder, trades[4_000:6_000], 'SOLUSDT-aggTrades-1.csv')}",
        f"file:{agg_dump(folder, trades[5_000:9_000], 'ADAUSDT-aggTrades-1.csv')}",
    ]
    job = Job(
        tuple(sources), strategies=("v51_baseline", "v53_fast"), assigned={"obi_on_missing": "pass"}, varied={"entry_score": (60.0, 65.0)}
    )
    made = open_job(job, settings())
    assert len(made.partitions) == 3 and made.strategies is not None and len(made.strategies) == 12
    assert {one.entry_score for one in made.strategies} == {60.0, 65.0}
    assert "v53_fast@BINANCE:SOLUSDT-PERP[entry_score=60.0]" in {one.strategy_id for one in made.strategies}
    return made


def written(opened: Opened, out: Path, jobs: int) -> dict[str, Any]:
    """Write a report; return its files by name, without the time it took."""
    done: list[int] = []
    write_report(opened, out, {}, jobs=jobs, progress=done.append)
    assert (len(done) > 0) == (jobs > 1) and done == sorted(done)
    report = json.loads((out / "report.json").read_text())
    seconds = report.pop("seconds")
    assert seconds > 0
    return {"report.json": report, **{one.name: one.read_text() for one in out.glob("*.csv")}}


def test_any_number_of_processes_writes_the_same_report(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = written(opened, tmp_path / "1", 1)
    assert len(serial["trades.csv"].splitlines()) > 3 and len(serial["signals.csv"].splitlines()) > 3
    assert len(serial["report.json"]["instruments"]) == 3
    assert written(opened, tmp_path / "2", 2) == serial
    # More processes than partitions: the strategies of a partition are divided too.
    monkeypatch.setattr(replay_jobs, "LEAST_STRATEGIES", 2)
    assert sum(not part.leads for part in replay_jobs.parts_of(opened, 6)) == 3
    assert written(opened, tmp_path / "6", 6) == serial


class Broken:
    """A source that fails, or kills its process, in one partition."""

    def __init__(self, source: Any, deadly: bool, partition: int | None = None) -> None:
        self.source, self.deadly, self.partition = source, deadly, partition

    def pieces(self, engine_of: Any) -> Iterator[Piece]:
        yield next(iter(self.source.pieces(engine_of)))
        if self.deadly:
            os._exit(9)
        raise ValueError("the disk is gone")


@pytest.mark.parametrize(("deadly", "said"), [(False, "the disk is gone"), (True, "was killed or ran out of memory")])
def test_a_part_that_fails_names_itself(opened: Opened, monkeypatch: pytest.MonkeyPatch, deadly: bool, said: str) -> None:
    victim = opened.partitions[1]
    part_of = Opened.part

    def part(self: Opened, partition: int, strategies: tuple[str, ...] | None) -> Opened:
        made = part_of(self, partition, strategies)
        return replace(made, source=Broken(made.source, deadly)) if partition == victim else made

    monkeypatch.setattr(Opened, "part", part)
    with pytest.raises(UserError, match=rf"replay of partition \d+ \(v5.*{said}") as told:
        replay_jobs.collect(opened, 2, lambda piece: None, lambda done: None)
    if not deadly:
        assert f"partition {victim} " in str(told.value)


def test_parameter_sets_are_read_and_refused() -> None:
    assert varied(["entry_score=50,60.5", "fast_variant=true,false"], {}) == {"entry_score": (50, 60.5), "fast_variant": (True, False)}
    assert varied(None, {}) == {}
    for bad, named in (("entry_score", "VALUE,VALUE"), ("entry_score=", "VALUE,VALUE"), ("instrument=A,B", "not here")):
        with pytest.raises(UserError, match=named):
            varied([bad], {"instrument": "not here"})

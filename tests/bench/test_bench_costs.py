"""The short forms: the rows are there and the features of all contestants agree with the trades. No speed is asserted: machines differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.settings import Settings
from stream_apps.engines import SIGNALS
from tests.bench import bench_costs, bench_scaling, bench_state
from tests.bench.bench_worker import scored
from tests.bench.contest import Size
from tests.bench.machine import Cores
from tests.bench.running import Run


def test_costs_have_a_row_a_dimension_and_right_sums() -> None:
    settings = Settings(topic_prefix="")
    found = list(bench_costs.measured(settings, SIGNALS.config(settings), 4_000, 8, 1, minutes=40, most=40))
    assert [row.name for row in found] == [f"costs: {name}" for name in ("window length", "events", "instruments", "strategies")]
    assert all(figure.value and figure.detail["features"] for row in found for figure in (row.ours, *row.peers.values()))


def test_a_wrong_sum_is_found() -> None:
    settings = Settings(topic_prefix="")
    contestant = bench_costs.Contestant(bench_costs.EngineLog(bench_costs.Workload(2_000, 40, settings, 2)), SIGNALS.config(settings), 10)
    contestant.check()
    contestant._prepare = lambda engine: engine.state.window_panes.__setitem__(slice(None), 11)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="cvd_"):
        contestant.check()


@pytest.mark.long
@pytest.mark.stack
def test_scoring_scaling_memory_and_recovery(
    environment: Settings, topics: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(True, tmp_path, Cores(), environment)
    assert scored(run, Size(20_000, 60)).ours.value
    monkeypatch.setattr(bench_scaling, "SIZE", Size(60_000, 120))
    rows = list(bench_scaling.rows(run))
    assert [row.name for row in rows] == ["scaling, the system"] and all(row.ours.value for row in rows)
    monkeypatch.setattr(bench_state, "DAY_PANES", 480)
    kept = list(bench_state.rows(run))
    assert kept[1].name == "memory, 600 instruments" and kept[1].reached("ours")
    assert all(row.ours.value for row in kept)

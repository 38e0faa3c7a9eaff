"""The short form of the console's benchmark: every request of the mix is answered and every figure is there. No speed is asserted: machines differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.demo.pictures import BROWSERS
from schemas.settings import Settings
from tests.bench import bench_console
from tests.bench.machine import Cores
from tests.bench.running import Run


@pytest.mark.stack
@pytest.mark.timeout(300)
def test_every_figure_of_the_console_is_measured(environment: Settings, tmp_path: Path, database_url: str) -> None:
    settings = environment.model_copy(update={"database_url": database_url})
    found = {row.name: row for row in bench_console.rows(Run(True, tmp_path, Cores(), settings), bench_console.SMALLEST)}
    api = found["console: API, p99"].ours
    assert api.value and api.detail["answers"] == bench_console.SMALLEST.seconds * bench_console.RATE
    assert 0 < api.detail["p50_ms"] <= api.value <= api.detail["max_ms"]
    for name in ("console: first page usable", "console: a year of minutes drawn"):
        assert found[name].ours.value or not any(shutil.which(browser) for browser in BROWSERS), found[name].ours.reason
    assert found["console: memory"].ours.value


def test_the_mix_repeats_itself_and_stays_within_what_is_stored() -> None:
    one, again = (bench_console.requests(bench_console.LONG) for _ in range(2))
    newest = bench_console.NEWEST.timestamp() * 1000
    kept = {"/trades": 30, "/trades/summary": 30, "/scores": 30, "/candles": 365}
    for _ in range(500):
        path, parameters = next(one)
        assert (path, parameters) == next(again)
        if "start" in parameters:
            assert newest - kept[path] * 86_400_000 <= parameters["start"] < parameters["end"] <= newest

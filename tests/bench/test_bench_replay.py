"""The short form of the benchmark of replay: it runs, and both sources give the same results. No speed is asserted: machines differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.settings import Settings
from tests.bench import bench_replay

pytestmark = pytest.mark.stack


def test_both_sources_give_the_same_results(environment: Settings, topics: list[str], tmp_path: Path) -> None:
    result = bench_replay.measure(environment, tmp_path, 20_000, 40, os.sched_getaffinity(0), profile=5, first_panes=16)
    assert result["panes"] == 40, "so small a log is worked off at once: it grows to its whole size"
    assert result["results"]["scores"] == result["results"]["features"] > 20 * 30
    assert all(figure.value for figure in result["figures"].values()), result["figures"]
    assert len(result["profile"]) == 5

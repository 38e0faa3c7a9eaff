"""Cached results of research belong to the numbers of the engine that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.backtest import research
from deploy.backtest.job import Job
from tests.deploy.backtest.test_replay_files import agg_dump, rows, settings

OTHER: list[dict[str, Any]] = [
    {"grid_ms": 5_000},
    {"allowed_lateness_ms": 1_000},
    {"analytics": "none"},
    {"vpin_buckets": "LTC=10"},
    {"vpin_bucket_count": 40},
    {"engine_settings": "atr_length=21"},
]


def job_of(folder: Path) -> Job:
    return Job((f"file:{agg_dump(folder, rows(200), 'LTCUSDT-aggTrades-1.csv')}",), strategies=("v54_factory",))


@pytest.mark.parametrize("changed", OTHER, ids=[next(iter(one)) for one in OTHER])
def test_other_numbers_are_other_data(changed: dict[str, Any], tmp_path: Path) -> None:
    job, usual = job_of(tmp_path), settings()
    other = usual.model_copy(update=changed)
    assert research.data_mark(job, usual) == research.data_mark(job, usual.model_copy())
    assert research.data_mark(job, usual) != research.data_mark(job, other)
    first, again, second = (research._open(job, one) for one in (usual, usual.model_copy(), other))
    assert first is again and second is not first
    assert (first.config == second.config) is False

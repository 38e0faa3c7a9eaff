"""The short form of the benchmark of the worker: all contestants run and agree with the trades. No speed is asserted: machines differ."""

from __future__ import annotations

from pathlib import Path

import bench_worker
import pytest

from schemas.settings import Settings

pytestmark = pytest.mark.stack


def test_all_contestants_have_the_same_sums(environment: Settings, tmp_path: Path) -> None:
    bench = bench_worker.Bench(environment, bench_worker.Size(20_000, 60, 3_000), bench_worker.Cores(), tmp_path)
    try:
        result = bench_worker.run(bench)
    finally:
        bench.clean_up()
    assert result["size"]["features"] > 20 * 50 and set(result["ratio"]) == set(result["peers"])
    assert "trades/s" in bench_worker.table(result)

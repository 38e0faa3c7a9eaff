"""The short form of the benchmark of the scorer: both ways run on every desk and give the same bytes. Machines differ: only the order is asserted."""

from __future__ import annotations

import pytest

from tests.bench import bench_scoring


@pytest.mark.parametrize("desk", bench_scoring.DESKS[:2])
def test_both_ways_agree_and_sharing_pays(desk: str) -> None:
    result = bench_scoring.measure(desk, 1_000)
    assert result.evaluations == 1_000
    assert result.ratio > 1.0


@pytest.mark.long
@pytest.mark.parametrize("desk", bench_scoring.DESKS)
def test_at_least_20_000_evaluations_a_second_and_core(desk: str) -> None:
    assert bench_scoring.measure(desk, 40_000).together > 20_000

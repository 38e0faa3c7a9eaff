"""How often records leave: at once while they go to few partitions, and never so often that requests cost more than the records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.output.pacing import BATCH_S, LEAST_S, MOST_S, REQUEST_S, Pace

# What leaves when it is due: (seconds until it is looked at, batches that it makes).
leavings = st.lists(st.tuples(st.floats(0.0, 0.005), st.integers(1, 40)), min_size=1, max_size=300)


@given(leavings)
def test_requests_stay_within_what_is_paid_for(looks: list[tuple[float, int]]) -> None:
    """Over any run the time that passed pays for all leavings but the last (of no more batches than the longest wait pays for)."""
    pace, now, owed = Pace(), 100.0, 0.0
    first = None
    for wait, batches in looks:
        now += wait
        if pace.due(now):
            assert first is None or owed <= now - first + 1e-6
            first = now if first is None else first
            pace.spent(now, batches)
            owed += REQUEST_S + batches * BATCH_S


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(0, 5_000)), min_size=1, max_size=100))
def test_nothing_waits_longer_than_it_may(looks: list[tuple[float, int]]) -> None:
    """Whatever was charged, due or not, the next leaving comes between the bounds."""
    pace, now = Pace(), 100.0
    for wait, batches in looks:
        now += wait
        pace.spent(now, batches)
        assert not pace.due(now + LEAST_S * 0.999)
        assert pace.due(now + MOST_S * 1.001)


@pytest.mark.parametrize(("batches", "wait"), [(1, LEAST_S), (6, LEAST_S), (20, 0.008), (60, MOST_S), (400, MOST_S)])
def test_few_partitions_wait_the_least_and_many_the_most(batches: int, wait: float) -> None:
    pace = Pace()
    pace.spent(100.0, batches)
    assert next(n / 10_000 for n in range(1000) if pace.due(100.0 + n / 10_000 + 1e-9)) == wait

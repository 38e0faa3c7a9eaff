"""How often records leave: at once while they are few, and never so often that requests pile up at the broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.pacing import LEAST_S, MOST_S, REQUESTS_A_SECOND, Pace

# What leaves when it is due: (seconds until it is looked at, requests that it makes).
leavings = st.lists(st.tuples(st.floats(0.0, 0.005), st.integers(1, 40)), min_size=1, max_size=300)


@given(leavings)
def test_requests_stay_within_what_is_paid_for(looks: list[tuple[float, int]]) -> None:
    """Over any run the requests are at most those of the rate, the first leaving, and what the longest wait cannot pay for (more than 40 at once)."""
    pace, now, spent = Pace(), 100.0, 0
    first = None
    for wait, requests in looks:
        now += wait
        if pace.due(now):
            assert first is None or spent <= (now - first) * REQUESTS_A_SECOND + 1e-6
            first = now if first is None else first
            pace.spent(now, requests)
            spent += requests


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(0, 5_000)), min_size=1, max_size=100))
def test_nothing_waits_longer_than_it_may(looks: list[tuple[float, int]]) -> None:
    """Whatever was charged, due or not, the next leaving comes between the bounds."""
    pace, now = Pace(), 100.0
    for wait, requests in looks:
        now += wait
        pace.spent(now, requests)
        assert not pace.due(now + LEAST_S * 0.999)
        assert pace.due(now + MOST_S * 1.001)


def test_few_partitions_wait_the_least_and_many_the_most() -> None:
    def waits(requests: int) -> float:
        pace = Pace()
        pace.spent(100.0, requests)
        return next(n / 10_000 for n in range(1000) if pace.due(100.0 + n / 10_000))

    assert waits(1) == waits(10) == LEAST_S
    assert waits(20) == 0.008 and waits(40) == waits(400) == MOST_S

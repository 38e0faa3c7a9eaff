"""Short forms grow until what they time lasts long enough; never beyond the long form, and never without end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.bench.sizing import LEAST_S, grown


@given(rate=st.floats(1.0, 1e7), overhead=st.floats(0.0, 1.0), first=st.integers(1, 10**6), most=st.integers(1, 10**7))
def test_a_work_of_any_speed_lasts_long_enough_or_is_as_large_as_the_long_form(rate: float, overhead: float, first: int, most: int) -> None:
    size = min(first, most)
    for _ in range(40):  # start and end cost time, too, so that the first figures say too little
        seconds = overhead + size / rate
        after = grown(size, seconds, most)
        assert size <= after <= most
        if after == size:
            break
        size = after
    else:
        raise AssertionError("it does not come to an end")
    assert overhead + size / rate >= LEAST_S or size == most


def test_a_size_that_suffices_stays() -> None:
    assert grown(1_000, LEAST_S, 10_000) == 1_000
    assert grown(1_000, LEAST_S / 2, 10_000) > 2_000
    assert grown(1_000, 0.0, 10_000) == 10_000

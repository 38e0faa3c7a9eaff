"""Which trades are above every id before them: the compiled columns and the brute force agree."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sinks.timescale.repeats import first_of_each, rising_ids
from sinks.timescale.transcode import DictionaryColumn

NAMES = ("BTC", "ETH", "SOL")


@given(
    st.lists(st.tuples(st.sampled_from(range(3)), st.integers(-5, 40)), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from(NAMES), st.integers(-5, 30)),
    st.booleans(),
)
def test_rising_ids_equal_brute_force(trades: list[tuple[int, int]], watermarks: dict[str, int], coded: bool) -> None:
    codes = np.array([code for code, _ in trades], dtype=np.int64)
    ids = np.array([number for _, number in trades], dtype=np.int64)
    names = [NAMES[code] for code in codes]
    top = dict(watermarks)
    expected = []
    for name, number in zip(names, ids.tolist(), strict=True):
        expected.append(name not in top or number > top[name])
        top[name] = max(number, top.get(name, number))
    rising, highest = rising_ids(DictionaryColumn(list(NAMES), codes) if coded else names, ids, watermarks)
    assert rising.tolist() == expected
    assert {**watermarks, **highest} == top
    assert all(name not in watermarks or number > watermarks[name] for name, number in highest.items())


def test_the_first_of_equal_ids_is_kept() -> None:
    ids = [["a", "b", "a", "a"], np.array([1, 1, 1, 2], dtype=np.int64)]
    assert first_of_each(ids).tolist() == [0, 1, 3]
    assert first_of_each([DictionaryColumn(["x"], np.zeros(3, np.int64))]).tolist() == [0]

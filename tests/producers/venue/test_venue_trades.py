"""Which trades are new: each id once, whatever comes doubled, missing, late or out of order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.venue.state.trade_ids import TradeIds, Verdict, missing_ranges


def test_ids_in_order_doubled_and_missing() -> None:
    ids = TradeIds()
    assert ids.offer(10) is Verdict.NEW  # the first one begins the sequence
    assert ids.offer(11) is Verdict.NEW
    assert ids.offer(11) is Verdict.DUPLICATE
    assert ids.offer(9) is Verdict.DUPLICATE  # from before we listened
    assert ids.offer(15) is Verdict.GAP
    assert ids.last == 11  # nothing was taken
    ids.skip(15)
    assert ids.offer(15) is Verdict.NEW
    assert ids.missing == [(12, 14)] and ids.lacks(14, 20) and not ids.lacks(15, 20)
    assert ids.offer(13) is Verdict.NEW  # late
    assert ids.offer(13) is Verdict.DUPLICATE
    assert ids.missing == [(12, 12), (14, 14)]


def test_continued_from_a_log_with_holes() -> None:
    ids = TradeIds(9, missing_ranges([3, 4, 7, 9, 9]))
    assert ids.missing == [(5, 6), (8, 8)]
    assert [ids.offer(number) for number in (4, 5, 8, 9, 10)] == [
        Verdict.DUPLICATE,
        Verdict.NEW,
        Verdict.NEW,
        Verdict.DUPLICATE,
        Verdict.NEW,
    ]


@given(st.lists(st.integers(5, 40), max_size=120))
def test_each_id_is_new_once_and_what_is_missing_is_known(offered: list[int]) -> None:
    ids = TradeIds(4)
    new = []
    for number in offered:
        verdict = ids.offer(number)
        if verdict is Verdict.GAP:
            ids.skip(number)
            verdict = ids.offer(number)
        if verdict is Verdict.NEW:
            new.append(number)
    assert len(new) == len(set(new)) and set(new) == set(offered)
    missing = {number for first, last in ids.missing for number in range(first, last + 1)}
    assert missing == set(range(5, max(offered, default=4) + 1)) - set(offered)

"""The order book by the venue's rule: on the recorded capture, and with faults that it does not have."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from producers.binance.mapping import depth_diff, depth_snapshot
from producers.venue.adapter.base import BookDiff, BookSnapshot
from producers.venue.state.order_book import BUFFER, OrderBook, Outcome
from tests.support.paths import RECORDINGS

CAPTURE = RECORDINGS / "binance_usdm_raw/btcusdt_20240808.gz"


def capture() -> Iterator[dict[str, Any]]:
    with gzip.open(CAPTURE) as lines:
        for line in lines:
            message = orjson.loads(line.split(b" ", 1)[1])
            yield message.get("data", message)


@pytest.fixture(scope="module")
def recorded() -> tuple[list[BookDiff], BookSnapshot, dict[str, Any]]:
    """All diffs, the snapshot, and the last bookTicker of the capture."""
    diffs, snapshot, ticker = [], None, {}
    for data in capture():
        if "lastUpdateId" in data:
            snapshot = depth_snapshot(data)
        elif data["e"] == "depthUpdate":
            diffs.append(depth_diff(data))
        elif data["e"] == "bookTicker":
            ticker = data
    assert snapshot is not None
    return diffs, snapshot, ticker


def test_the_recorded_book_ends_where_the_independent_ticker_says(recorded: tuple[list[BookDiff], BookSnapshot, dict[str, Any]]) -> None:
    diffs, snapshot, ticker = recorded
    book = OrderBook()
    outcomes: dict[Outcome, int] = {}
    assert book.diff(diffs[0]) is Outcome.BUFFERED
    tops, again = book.load(snapshot)
    assert (tops, again) == ([], False)
    for diff in diffs[1:]:
        outcome = book.diff(diff)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome is Outcome.APPLIED:
            top = book.top()
            assert top.bid_prices == sorted(top.bid_prices, reverse=True) and top.ask_prices == sorted(top.ask_prices)
            assert top.bid_prices[0] < top.ask_prices[0]
            assert min(top.bid_quantities + top.ask_quantities) > 0
    assert outcomes == {Outcome.IGNORED: 3, Outcome.APPLIED: 6547}
    assert book.live and book.epoch == 1 and book.gap is None
    top = book.top()
    assert (top.bid_prices[0], top.bid_quantities[0], top.ask_prices[0], top.ask_quantities[0]) == (61659.7, 1.486, 61659.8, 0.981)
    assert [str(top.bid_prices[0]), str(top.ask_prices[0])] == [ticker["b"].rstrip("0"), ticker["a"].rstrip("0")]
    assert len(top.bid_prices) == len(top.ask_prices) == 20


def test_a_book_kept_with_gaps_ends_the_same(recorded: tuple[list[BookDiff], BookSnapshot, dict[str, Any]]) -> None:
    diffs, snapshot, _ = recorded
    truth, book = OrderBook(), OrderBook(epoch=7)
    for one in (truth, book):
        one.diff(diffs[0])
        one.load(snapshot)
    lost = {1000, 1001, 3000, 5000}
    gaps = 0
    for index, diff in enumerate(diffs[1:], 1):
        truth.diff(diff)
        if index in lost:
            continue
        outcome = book.diff(diff)
        if outcome is Outcome.GAP:
            gaps += 1
            assert not book.live and book.gap == (diffs[index - (2 if index == 1002 else 1) - 1].last + 1, diff.previous)
            # The venue's snapshot, taken after the diff came.
            full = truth.top(100_000)
            bids = list(zip(full.bid_prices, full.bid_quantities, strict=True))
            asks = list(zip(full.ask_prices, full.ask_quantities, strict=True))
            tops, again = book.load(BookSnapshot(truth.last_update_id, bids, asks))
            # The diff that showed the gap is the one that the snapshot ends with: it is applied again, which changes nothing.
            assert len(tops) == 1 and not again and book.live
    assert gaps == 3 and book.epoch == 8 + gaps
    assert book.top(100_000) == truth.top(100_000)


def diff(first: int, last: int, previous: int, bids: list[tuple[float, float]] | None = None, time: int = 1) -> BookDiff:
    return BookDiff(time, first, last, previous, bids or [], [])


SNAPSHOT = BookSnapshot(100, [(10.0, 1.0)], [(11.0, 1.0)])


@pytest.mark.parametrize(
    ("following", "outcome"),
    [
        (diff(90, 99, 89), Outcome.IGNORED),  # ends before the snapshot
        (diff(95, 100, 94), Outcome.APPLIED),  # ends with it
        (diff(95, 105, 94), Outcome.APPLIED),  # spans it
        (diff(103, 105, 100), Outcome.APPLIED),  # follows on it: ids between belong to nobody
        (diff(103, 105, 102), Outcome.STALE),  # something between is missing: the snapshot is too old
    ],
)
def test_the_first_diff_after_a_snapshot(following: BookDiff, outcome: Outcome) -> None:
    book = OrderBook()
    assert book.diff(diff(80, 85, 79)) is Outcome.BUFFERED
    assert book.load(SNAPSHOT) == ([], False)
    assert book.diff(following) is outcome
    assert book.live is (outcome is Outcome.APPLIED)
    assert book.waiting is (outcome is Outcome.STALE)
    if outcome is Outcome.STALE:  # the diff is kept for the next snapshot
        tops, again = book.load(BookSnapshot(104, [], []))
        assert [top.last_update_id for top in tops] == [105] and not again


def test_buffered_diffs_are_applied_to_the_snapshot_in_order() -> None:
    book = OrderBook()
    for one in (diff(90, 99, 89, [(9.0, 5.0)]), diff(100, 101, 99, [(9.5, 2.0)]), diff(102, 103, 101, [(10.0, 0.0)])):
        assert book.diff(one) is Outcome.BUFFERED
    tops, again = book.load(SNAPSHOT)
    assert not again
    assert [top.bid_prices for top in tops] == [[10.0, 9.5], [9.5]]
    assert book.diff(diff(104, 105, 103)) is Outcome.APPLIED


def test_a_gap_inside_the_buffer_asks_again() -> None:
    book = OrderBook()
    book.diff(diff(99, 101, 98))
    book.diff(diff(105, 106, 104))
    tops, again = book.load(SNAPSHOT)
    assert len(tops) == 1 and again and not book.live


def test_duplicates_and_overtaken_diffs_change_nothing() -> None:
    book = OrderBook()
    book.diff(diff(99, 101, 98))
    book.load(SNAPSHOT)
    assert book.diff(diff(99, 101, 98, [(9.0, 1.0)])) is Outcome.IGNORED
    assert book.diff(diff(102, 103, 101)) is Outcome.APPLIED
    assert book.diff(diff(102, 103, 101)) is Outcome.IGNORED
    assert book.top().bid_prices == [10.0]


def test_removing_a_level_that_is_not_there_and_replacing_one() -> None:
    book = OrderBook()
    book.diff(diff(99, 101, 98, [(10.0, 3.0), (8.0, 0.0)]))
    tops, _ = book.load(SNAPSHOT)
    assert (tops[0].bid_prices, tops[0].bid_quantities) == ([10.0], [3.0])


def test_the_buffer_is_bounded_and_an_overflow_asks_for_a_newer_snapshot() -> None:
    book = OrderBook()
    for number in range(BUFFER + 10):
        book.diff(diff(200 + number, 200 + number, 199 + number))
    tops, again = book.load(SNAPSHOT)  # older than what is left of the buffer
    assert (tops, again) == ([], True)

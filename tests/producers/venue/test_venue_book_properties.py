"""Whatever is dropped, doubled or swapped on the way: a book that calls itself live is the true one (all sequence rules)."""

from __future__ import annotations

import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.venue.adapter.base import BookDiff, BookSnapshot, Level
from producers.venue.state.order_book import OrderBook, Outcome

# How ids move: (name, mode of the book). Truth: Binance USD-M ranges with pu; Binance spot ranges without; Bybit one by one; OKX jumps, resets.
RULES: dict[str, Literal["rest", "stream", "full"]] = {
    "ranges": "rest", "spot": "rest", "one by one": "stream", "jumps": "stream", "checksum": "stream", "whole": "full",
}  # fmt: skip
Content = tuple[dict[float, float], dict[float, float]]


def content(book: OrderBook) -> Content:
    top = book.top(10_000)
    return dict(zip(top.bid_prices, top.bid_quantities, strict=True)), dict(zip(top.ask_prices, top.ask_quantities, strict=True))


def checksum(bids: list[str], asks: list[str]) -> int:
    return hash((tuple(bids), tuple(asks))) & 0xFFFFFFFF


class Venue:
    """A true book and the diffs that it sends."""

    def __init__(self, rule: str, rng: random.Random) -> None:
        self.rule, self.rng = rule, rng
        self.last = 100
        self.time = 1_000
        self.bids: dict[float, float] = {10.0 - n: 1.0 for n in range(5)}
        self.asks: dict[float, float] = {11.0 + n: 1.0 for n in range(5)}
        self.states: dict[tuple[int, int], Content] = {}
        self.note()

    def note(self) -> None:
        self.states[self.last, self.time] = (dict(self.bids), dict(self.asks))

    def texts(self) -> dict[float, str]:
        return {price: f"{price}:{size}" for price, size in (self.bids | self.asks).items()}

    def sum(self) -> int | None:
        if self.rule != "checksum":
            return None
        texts = self.texts()
        bids, asks = sorted(self.bids, reverse=True)[:25], sorted(self.asks)[:25]
        return checksum([texts[price] for price in bids], [texts[price] for price in asks])

    def step(self) -> BookDiff | BookSnapshot:
        rng = self.rng
        changes: list[list[Level]] = []
        for side, start, sign in ((self.bids, 10.0, -1), (self.asks, 11.0, 1)):
            made = [(start + sign * rng.randrange(8), float(rng.randrange(4))) for _ in range(rng.randrange(3))]
            made = list(dict(made).items())
            for price, size in made:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
            changes.append(made)
        previous, first = self.last, self.last + 1
        self.time += 1
        self.last += {"ranges": rng.randrange(1, 6), "spot": rng.randrange(1, 6), "one by one": 1}.get(self.rule, rng.randrange(1, 9))
        if self.rule == "ranges":
            first += rng.randrange(0, self.last - previous)  # ids between belong to other symbols
        self.note()
        if self.rule == "whole":
            return self.snapshot()
        texts = {price: f"{price}:{size}" for made in changes for price, size in made} if self.rule == "checksum" else None
        if self.rule == "checksum":
            previous = -1  # nothing but the checksum tells: see below
        return BookDiff(self.time, first, self.last, previous, changes[0], changes[1], self.sum(), texts)

    def snapshot(self) -> BookSnapshot:
        texts = self.texts() if self.rule == "checksum" else None
        bids, asks = list(self.bids.items()), list(self.asks.items())
        return BookSnapshot(self.last, bids, asks, None if RULES[self.rule] == "rest" else self.time, self.sum(), texts)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), faults=st.lists(st.sampled_from(["", "", "", "drop", "double", "swap", "late"]), min_size=20, max_size=120)
)
def test_a_live_book_is_the_true_one(rule: str, seed: int, faults: list[str]) -> None:
    rng = random.Random(seed)
    venue = Venue(rule, rng)
    mode = RULES[rule]
    book = OrderBook(0, mode, checksum if rule == "checksum" else None)
    if mode != "rest":
        book.replace(venue.snapshot())
    pending: list[BookDiff | BookSnapshot] = []
    live = 0
    for fault in faults:
        pending.append(venue.step())
        if fault == "drop":
            pending.pop()
        elif fault == "double" and pending:
            pending.append(pending[-1])
        elif fault == "swap" and len(pending) > 1:
            pending[-1], pending[-2] = pending[-2], pending[-1]
        if fault == "late":
            continue  # stays for the next round
        for change in pending:
            if isinstance(change, BookSnapshot):
                outcome = book.replace(change)
            else:
                if rule == "checksum":
                    change = change._replace(previous=book.last_update_id)  # its ids prove nothing; the venue's sum does
                outcome = book.diff(change)
            if outcome is Outcome.APPLIED:
                live += 1
                assert book.live
            if book.live:
                assert content(book) == venue.states[book.last_update_id, book.last_time or 0] or rule == "checksum"
                if rule == "checksum":
                    assert content(book) in venue.states.values()
            else:
                assert outcome in (Outcome.GAP, Outcome.CHECKSUM, Outcome.BUFFERED, Outcome.STALE, Outcome.IGNORED)
        pending = []
        if book.waiting and rng.random() < 0.5:
            if mode == "rest":
                book.load(venue.snapshot())
            else:
                assert book.replace(venue.snapshot()) is Outcome.APPLIED
    if not any(faults):
        assert live >= (len(faults) - 1 if mode != "rest" else 1)


def test_a_snapshot_of_the_stream_resets_a_live_book_unless_it_is_of_the_past() -> None:
    book = OrderBook(3, "stream")
    assert book.replace(BookSnapshot(50, [(1.0, 1.0)], [(2.0, 1.0)], 1_000)) is Outcome.APPLIED
    assert book.diff(BookDiff(1_001, 51, 51, 50, [(1.5, 2.0)], [])) is Outcome.APPLIED
    # A rotated connection begins with a snapshot that the old one has overtaken.
    assert book.replace(BookSnapshot(50, [(1.0, 1.0)], [(2.0, 1.0)], 1_000)) is Outcome.IGNORED
    assert content(book)[0] == {1.0: 1.0, 1.5: 2.0} and book.epoch == 4
    # A restarted service counts from one again: newer by its time.
    assert book.replace(BookSnapshot(1, [(1.2, 1.0)], [(2.0, 1.0)], 1_002)) is Outcome.APPLIED
    assert book.epoch == 5 and book.last_update_id == 1
    # Unchanged (the venue's keep-alive repeats an id) and counted down (a reset of the venue's counter) both follow on.
    assert book.diff(BookDiff(1_003, 1, 1, 1, [], [])) is Outcome.APPLIED
    assert book.diff(BookDiff(1_004, 0, 0, 1, [(1.3, 1.0)], [])) is Outcome.APPLIED
    assert book.diff(BookDiff(1_005, 7, 7, 5, [], [])) is Outcome.GAP and not book.live
    assert book.diff(BookDiff(1_006, 8, 8, 7, [], [])) is Outcome.BUFFERED  # of no use before the next snapshot


def test_texts_of_removed_levels_are_forgotten() -> None:
    book = OrderBook(0, "stream", checksum)
    book.replace(BookSnapshot(1, [(1.0, 1.0)], [(2.0, 1.0)], 1, None, {1.0: "1.0:1", 2.0: "2.0:1"}))
    for number in range(2, 500):
        price = 1.0 + number / 1000
        book.diff(BookDiff(number, number, number, number - 1, [(price, 1.0)], [], None, {price: "x"}))
        book.diff(BookDiff(number, number, number, number, [(price, 0.0)], [], None, {}))
    assert len(book._bid_texts) + len(book._ask_texts) == 2

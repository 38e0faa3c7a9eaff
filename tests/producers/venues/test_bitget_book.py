"""Bitget's order book: the venue's own checksum on recorded levels, and no wrong book that is live under drops, doubles and reorders."""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.bitget.adapter import BOOKS, BitgetFutures
from producers.venue.adapter.base import BookDiff, BookSnapshot, Market
from producers.venue.state.order_book import OrderBook, Outcome

ADAPTER = BitgetFutures()
T0 = 1_700_000_000_000
# Recorded from the venue on 2022-04-07, the best 27 levels of 148 and 99 (tests/data/venues/bitget/PROVENANCE.md).
RECORDED_CHECKSUM = 485516490
RECORDED_ASKS = """
0.00003530:145214 0.00003545:20609328 0.00003580:545340 0.00003590:378469 0.00003600:138890 0.00003614:333333 0.00003615:375835
0.00003618:520000 0.00003622:200000 0.00003626:173333 0.00003630:360000 0.00003634:306667 0.00003638:546667 0.00003642:573333
0.00003645:4363093 0.00003646:927056 0.00003648:137062 0.00003650:440000 0.00003651:372106 0.00003654:493333 0.00003658:413333
0.00003660:152733 0.00003662:386667 0.00003666:146667 0.00003669:370269 0.00003670:600000 0.00003674:280000
"""
RECORDED_BIDS = """
0.00003505:285020 0.00003504:529739 0.00003500:5744070 0.00003490:384287 0.00003487:2616932 0.00003473:386156 0.00003471:466667
0.00003467:1555230 0.00003466:386930 0.00003463:146667 0.00003459:386667 0.00003455:588154 0.00003451:520000 0.00003447:306667
0.00003443:280000 0.00003442:145265 0.00003440:46271183 0.00003439:546667 0.00003435:360000 0.00003431:653333 0.00003427:253333
0.00003423:440000 0.00003422:146114 0.00003421:802455 0.00003420:146200 0.00003419:173333 0.00003415:573333
"""

Rows = list[list[str]]


def rows(text: str) -> Rows:
    return [level.split(":") for level in text.split()]


def frame(action: str, bids: Rows, asks: Rows, seq: int, checksum: int, time: int = T0, pseq: int | None = None) -> bytes:
    row: dict[str, Any] = {"asks": asks, "bids": bids, "checksum": checksum, "seq": seq, "ts": str(time)}
    if pseq is not None:
        row["pseq"] = pseq
    arg = {"instType": "USDT-FUTURES", "channel": "books", "instId": "BTCUSDT"}
    return orjson.dumps({"action": action, "arg": arg, "data": [row], "ts": time})


class Reader:
    """An adapter and a book as the producer joins them."""

    def __init__(self) -> None:
        self.market = Market("BTCUSDT", "BITGET:BTCUSDT-PERP", {})
        self.book = OrderBook(mode="stream", checksum=ADAPTER.checksum)

    def hear(self, raw: bytes) -> list[Outcome]:
        found = []
        for part in ADAPTER.split(raw, T0 + 1000):
            assert part.stream == ADAPTER.wire_name("BTCUSDT", BOOKS)
            for _, change in ADAPTER.take(BOOKS, part.data, self.market, T0 + 1000):
                assert isinstance(change, BookDiff | BookSnapshot)
                found.append(self.book.replace(change) if isinstance(change, BookSnapshot) else self.book.diff(change))
        return found

    def levels(self) -> tuple[dict[float, float], dict[float, float]]:
        top = self.book.top(1000)
        bids = dict(zip(top.bid_prices, top.bid_quantities, strict=True))
        return bids, dict(zip(top.ask_prices, top.ask_quantities, strict=True))


def test_the_venues_own_checksum_of_recorded_levels() -> None:
    reader = Reader()
    raw = frame("snapshot", rows(RECORDED_BIDS), rows(RECORDED_ASKS), 7, RECORDED_CHECKSUM)
    assert reader.hear(raw) == [Outcome.APPLIED] and reader.book.live
    assert reader.book.top(1)[2:] == ([3.505e-05], [285020.0], [3.53e-05], [145214.0])


@pytest.mark.parametrize("level", [0, 12, 24])
@pytest.mark.parametrize("text", ["0.00003505", "0.0000350500"])
def test_one_text_changed_within_25_levels_is_seen(level: int, text: str) -> None:
    bids = rows(RECORDED_BIDS)
    bids[level] = [bids[level][0], "1"] if text == "0.00003505" else [bids[level][0] + "0", bids[level][1]]
    reader = Reader()
    assert reader.hear(frame("snapshot", bids, rows(RECORDED_ASKS), 7, RECORDED_CHECKSUM)) == [Outcome.CHECKSUM]
    assert not reader.book.live


def test_levels_beyond_25_are_not_covered() -> None:
    bids = rows(RECORDED_BIDS)
    bids[25][1] = "1"
    assert Reader().hear(frame("snapshot", bids, rows(RECORDED_ASKS), 7, RECORDED_CHECKSUM)) == [Outcome.APPLIED]


@pytest.mark.parametrize(
    ("bids", "asks", "text"),
    [  # the venue's document, Order-Book-Channel
        (["43231.1:4", "43231:6"], ["43232.8:9", "43232.9:8"], b"43231.1:4:43232.8:9:43231:6:43232.9:8"),
        (["3366.1:7"], ["3366.8:9", "3368:8", "3372:8"], b"3366.1:7:3366.8:9:3368:8:3372:8"),
    ],
)
def test_the_documents_texts(bids: list[str], asks: list[str], text: bytes) -> None:
    unsigned = ADAPTER.checksum(bids, asks) % 2**32
    assert unsigned == crc32(text)


def test_the_checksum_is_signed() -> None:
    assert crc32(b"1:1") > 2**31
    assert ADAPTER.checksum(["1:1"], []) == crc32(b"1:1") - 2**32


def test_a_snapshot_and_an_update_of_another_implementation() -> None:
    reader = Reader()
    bids, asks = rows("100.00:1.50 99.50:2.00 99.00:3.25"), rows("100.50:1.00 101.00:2.50 101.50:1.75")
    assert reader.hear(frame("snapshot", bids, asks, 1001, 1431635978)) == [Outcome.APPLIED]
    update = frame("update", rows("99.50:0 100.10:1.20"), rows("100.50:0.80 102.00:1.10"), 1002, 1212953002, T0 + 100)
    assert reader.hear(update) == [Outcome.APPLIED] and reader.book.live
    assert reader.levels() == ({100.1: 1.2, 100.0: 1.5, 99.0: 3.25}, {100.5: 0.8, 101.0: 2.5, 101.5: 1.75, 102.0: 1.1})


def test_a_price_that_changes_sides_in_one_update() -> None:
    reader = Reader()
    reader.hear(frame("snapshot", rows("100.0:1 99.5:2"), rows("100.5:3"), 1, 0))
    checksum = signed("99.5:2:100.0:4:100.5:3")
    assert reader.hear(frame("update", rows("100.0:0"), rows("100.0:4"), 2, checksum)) == [Outcome.APPLIED]
    assert reader.levels() == ({99.5: 2.0}, {100.0: 4.0, 100.5: 3.0})


def test_numbers_that_begin_anew_make_the_book_invalid_until_the_next_snapshot() -> None:
    reader = Reader()
    reader.hear(frame("snapshot", rows("100:1"), rows("101:1"), 5000, 0))
    assert reader.hear(frame("update", rows("100:2"), [], 3, 0, T0 + 50)) == [Outcome.GAP]
    assert not reader.book.live
    assert reader.hear(frame("snapshot", rows("100:2"), rows("101:1"), 4, 0, T0 + 60)) == [Outcome.APPLIED]
    assert reader.hear(frame("update", rows("100:3"), [], 9, 0, T0 + 70)) == [Outcome.APPLIED]
    assert reader.levels() == ({100.0: 3.0}, {101.0: 1.0})


def test_a_second_connection_brings_everything_twice() -> None:
    reader = Reader()
    first = frame("snapshot", rows("100:1"), rows("101:1"), 10, 0)
    updates = [frame("update", rows(f"100:{n}"), [], 10 * n, 0, T0 + n) for n in range(2, 6)]
    late = frame("snapshot", rows("100:3"), rows("101:1"), 30, 0, T0 + 3)
    assert reader.hear(first) == [Outcome.APPLIED]
    outcomes = [
        outcome for raw in (updates[0], updates[1], late, updates[2], updates[2], updates[3], updates[3]) for outcome in reader.hear(raw)
    ]
    applied, ignored = Outcome.APPLIED, Outcome.IGNORED
    assert outcomes == [applied, applied, ignored, applied, ignored, applied, ignored]
    assert reader.levels() == ({100.0: 5.0}, {101.0: 1.0})


# --- a venue of which messages are dropped, doubled and reordered --------------------------------------------------------


def signed(text: str) -> int:
    value = crc32(text.encode())
    return value - 2**32 if value >= 2**31 else value


class Push(NamedTuple):
    """A push and the book after it, as texts."""

    raw: bytes
    bids: dict[str, str]
    asks: dict[str, str]


def checksum_of(bids: dict[str, str], asks: dict[str, str]) -> int:
    """The document's rule over texts alone, apart from the adapter's."""
    left = sorted(bids.items(), key=lambda level: -float(level[0]))[:25]
    right = sorted(asks.items(), key=lambda level: float(level[0]))[:25]
    parts: list[str] = []
    for index in range(25):
        parts += [f"{side[index][0]}:{side[index][1]}" for side in (left, right) if index < len(side)]
    return signed(":".join(parts))


changes = st.lists(
    st.tuples(st.integers(0, 59), st.sampled_from(["0", "0.50", "1", "2.0", "10.000"])),
    min_size=1,
    max_size=5,
    unique_by=lambda change: change[0],
)


@st.composite
def streams(draw: st.DrawFn, checksum: bool, pseq: bool) -> list[Push]:
    bids = {f"{100 - n * 0.5:.1f}": "1" for n in range(draw(st.integers(1, 30)))}
    asks = {f"{100.5 + n * 0.5:.1f}": "2.50" for n in range(draw(st.integers(1, 30)))}
    seq, time = 1000, T0
    pushes = [
        Push(
            frame("snapshot", [list(level) for level in bids.items()], [list(level) for level in asks.items()], seq, 0, time),
            dict(bids),
            dict(asks),
        )
    ]
    for _ in range(draw(st.integers(1, 12))):
        before, seq, time = seq, seq + draw(st.integers(1, 40)), time + draw(st.integers(1, 9))
        sides: tuple[Rows, Rows] = ([], [])
        for place, size in draw(changes):
            # Below 100.25 bids, above it asks: the venue's books do not cross.
            price, which = f"{85.5 + place * 0.5:.1f}", 0 if place < 30 else 1
            sides[which].append([price, size])
            book = (bids, asks)[which]
            book.pop(price, None)
            if size != "0":
                book[price] = size
        value = checksum_of(bids, asks) if checksum else 0
        pushes.append(Push(frame("update", *sides, seq, value, time, before if pseq else None), dict(bids), dict(asks)))
    return pushes


def numbers(book: dict[str, str]) -> dict[float, float]:
    return {float(price): float(size) for price, size in book.items()}


@pytest.mark.parametrize(("checksum", "pseq"), [(True, False), (False, True), (True, True)])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_live_book_is_a_book_that_the_venue_had(checksum: bool, pseq: bool, data: st.DataObject) -> None:
    pushes = data.draw(streams(checksum, pseq))
    order = data.draw(st.lists(st.integers(0, len(pushes) - 1), max_size=24)) if data.draw(st.booleans()) else list(range(len(pushes)))
    lost = data.draw(st.sets(st.integers(1, len(pushes)), max_size=3))
    reader = Reader()
    top25 = 25 if not pseq else 1000
    for index in [0, *(index for index in order if index not in lost)]:
        reader.hear(pushes[index].raw)
        if not reader.book.live:
            continue
        bids, asks = reader.levels()
        # With a checksum alone it is the 25 best levels that are known to be right.
        true = [(sorted(numbers(push.bids).items(), reverse=True)[:top25], sorted(numbers(push.asks).items())[:top25]) for push in pushes]
        assert (sorted(bids.items(), reverse=True)[:top25], sorted(asks.items())[:top25]) in true


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_without_a_fault_every_push_is_applied(data: st.DataObject) -> None:
    pushes = data.draw(streams(data.draw(st.booleans()), data.draw(st.booleans())))
    reader = Reader()
    for push in pushes:
        assert reader.hear(push.raw) == [Outcome.APPLIED]
        assert reader.levels() == (numbers(push.bids), numbers(push.asks))

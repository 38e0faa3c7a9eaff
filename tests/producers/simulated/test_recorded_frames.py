"""aggTrades and slower depth cadences are what the venue's rules make of the recorded messages."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from producers.simulated.recording.book import RecordedBook
from producers.simulated.recording.events import AGG, DEPTH, SNAPSHOT, TICKER, TRADE, Event
from producers.simulated.recording.formats import read_events
from producers.simulated.recording.frames import DepthMerger, with_aggregates
from producers.simulated.recording.trade_history import TradeHistory, trade_of
from tests.support.markets.recorded_client import BTC_2024, CAPTURES, Book


def trade(number: int, at: int, price: str, quantity: str, maker: bool, event_time: int | None = None, cause: str = "MARKET") -> Event:
    clock = at if event_time is None else event_time
    body = {"e": "trade", "E": clock, "T": at, "s": "XUSDT", "t": number, "p": price, "q": quantity, "X": cause, "m": maker}
    return Event(TRADE, clock, "trade", orjson.dumps(body), body)


def ticker(at: int) -> Event:
    return Event(TICKER, at, "bookTicker", b"{}", {"E": at})


def aggregates(*events: Event) -> list[dict[str, Any]]:
    return [event.body for event in with_aggregates(iter(events)) if event.kind == AGG]


def test_consecutive_fills_of_one_order_at_one_price_are_one() -> None:
    made = aggregates(
        trade(1, 10, "5.0", "0.1", False),
        trade(2, 10, "5.0", "0.2", False, event_time=11),
        trade(3, 10, "5.1", "1", False, event_time=11),
        trade(4, 10, "5.1", "1", True, event_time=11),
        trade(5, 12, "5.1", "1", True),
        trade(7, 12, "5.1", "1", True),
    )
    assert [(one["a"], one["f"], one["l"], one["p"], one["q"], one["m"]) for one in made] == [
        (1, 1, 2, "5.0", "0.3", False),
        (2, 3, 3, "5.1", "1", False),
        (3, 4, 4, "5.1", "1", True),
        (4, 5, 5, "5.1", "1", True),
        (5, 7, 7, "5.1", "1", True),
    ]
    assert (made[0]["E"], made[0]["T"]) == (11, 10)


def test_a_later_message_ends_a_group_and_one_of_the_same_time_does_not() -> None:
    order = [e.kind for e in with_aggregates(iter([trade(1, 10, "5", "1", False), ticker(10), trade(2, 10, "5", "1", False), ticker(11)]))]
    assert order == [TRADE, TICKER, TRADE, AGG, TICKER]
    assert [one["l"] for one in aggregates(trade(1, 10, "5", "1", False), ticker(11), trade(2, 10, "5", "1", False))] == [1, 2]


def test_a_recording_of_trades_and_aggregates_is_not_served_twice() -> None:
    body = {"e": "aggTrade", "E": 10, "T": 10, "a": 900, "f": 1, "l": 1, "p": "5", "q": "1", "m": False}
    recorded = Event(AGG, 10, "aggTrade", orjson.dumps(body), body)
    fill = trade(1, 10, "5", "1", False)
    later = trade(2, 12, "5", "1", False)
    assert [one["a"] for one in aggregates(fill, recorded, later)] == [1, 2]
    assert [one["a"] for one in aggregates(recorded, fill, later)] == [900]
    assert [event.kind for event in with_aggregates(iter([recorded, fill]))] == [AGG, TRADE]


def test_other_causes_are_left_out_and_part_the_ids() -> None:
    made = aggregates(trade(1, 10, "5", "1", False), trade(2, 10, "5", "9", False, cause="INSURANCE_FUND"), trade(3, 10, "5", "1", False))
    assert [(one["f"], one["l"], one["q"]) for one in made] == [(1, 1, "1"), (3, 3, "1")]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["1.0", "1.1"]), st.booleans(), st.sampled_from([1, 1, 1, 2])), max_size=40))
def test_groups_cover_each_trade_once_and_are_uniform(steps: list[tuple[int, str, bool, int]]) -> None:
    number, at, trades = 0, 100, []
    for later, price, maker, stride in steps:
        number, at = number + stride, at + later
        trades.append(trade(number, at, price, "0.5", maker))
    by_id = {event.body["t"]: event.body for event in trades}
    made = aggregates(*trades)
    covered = [n for one in made for n in range(one["f"], one["l"] + 1)]
    assert covered == list(by_id)
    assert all(
        {(by_id[n]["T"], by_id[n]["p"], by_id[n]["m"]) for n in range(o["f"], o["l"] + 1)} == {(o["T"], o["p"], o["m"])} for o in made
    )
    assert [one["a"] for one in made] == list(range(1, len(made) + 1))


def depth_of(path: Any, symbol: str) -> tuple[list[Event], Event | None]:
    events = list(read_events(path, symbol))
    return [e for e in events if e.kind == DEPTH], next((e for e in events if e.kind == SNAPSHOT), None)


def test_merged_diffs_keep_the_chain_and_build_the_same_book() -> None:
    diffs, snapshot = depth_of(BTC_2024, "BTCUSDT")
    assert snapshot is not None
    fast, slow = Book(snapshot.body), Book(snapshot.body)
    merger, sent, compared = DepthMerger("depth@500ms", 500), 0, 0
    for diff in diffs:
        if merger.due is not None and merger.due <= diff.clock:
            merged = merger.flush()
            assert merged is not None and (merged.clock // 500) < (diff.clock // 500)
            slow.feed(merged.body)
            sent += 1
            assert slow.last == fast.last
            if slow.applied and sent % 50 == 0:
                assert slow.sides == fast.sides
                compared += 1
        fast.feed(diff.body)
        merger.add(diff)
    assert merger.flush() is not None and merger.flush() is None
    assert compared > 10 and slow.gaps == fast.gaps == 0 and sent < len(diffs) / 5


def test_the_book_starts_from_the_snapshot_wherever_it_stands() -> None:
    diffs, snapshot = depth_of(BTC_2024, "BTCUSDT")
    assert snapshot is not None
    book, reference = RecordedBook(snapshot), Book(snapshot.body)
    before = book.top(1000)
    assert before is not None and before.last == snapshot.body["lastUpdateId"] and before.bids == snapshot.body["bids"]
    for diff in diffs:
        book.apply(diff)
        reference.feed(diff.body)
    top = book.top(5)
    assert top is not None and top.last == reference.last and len(top.bids) == 5
    assert (top.bids[0], top.asks[0]) == (["61659.70", "1.486"], ["61659.80", "0.981"])


def test_a_book_without_snapshot_is_what_the_diffs_built_and_a_later_snapshot_mends_a_broken_one() -> None:
    diffs, _ = depth_of(CAPTURES / "trxusdt_usdm_difference_depth_stream_positive.csv.gz", "TRXUSDT")
    book = RecordedBook(None)
    assert book.top(5) is None
    book.apply(diffs[0])
    top = book.top(5)
    assert top is not None and top.asks == [["0.23104", "14763.0"], ["0.2311", "45202.0"], ["0.23151", "5193.0"]]
    mending = Event(SNAPSHOT, 1, "", b"", {"lastUpdateId": diffs[2].body["u"], "bids": [["0.2", "7"]], "asks": [["0.3", "7"]]})
    book.offer_snapshot(mending)
    assert book.last_update_id == diffs[0].body["u"]  # whole books take no snapshot
    book.apply(diffs[2])  # the second diff is missing
    assert book.broken
    book.offer_snapshot(mending)
    mended = book.top(5)
    assert not book.broken and mended is not None and mended.bids == [["0.2", "7"]]


def test_history_pages_by_id_and_by_time() -> None:
    index, short = TradeHistory(), TradeHistory(keep=5)
    for event in with_aggregates(trade(n, 1000 + n * 10, "5", "1", False) for n in range(1, 21)):
        if event.kind == AGG:
            index.append(trade_of(event))
            short.append(trade_of(event))

    def ids(*where: Any) -> list[int]:
        return [row.number for row in index.page(*where)]

    assert ids(5, None, None, 3) == [5, 6, 7] and ids(19, None, None, 10) == [19, 20] and ids(21, None, None, 10) == []
    assert ids(None, 1050, 1070, 10) == [5, 6, 7] and ids(None, 1050, None, 2) == [5, 6] and ids(None, None, None, 2) == [19, 20]
    assert [row.number for row in index.before(18, 3)] == [15, 16, 17] and [row.number for row in index.before(None, 2)] == [19, 20]
    assert len(short) == 20 and [row.number for row in short.page(1, None, None, 100)][-5:] == [16, 17, 18, 19, 20]
    assert len(short.page(1, None, None, 100)) < 10  # old ones go

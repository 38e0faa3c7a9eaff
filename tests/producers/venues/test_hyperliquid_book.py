"""Hyperliquid's whole books and blocks of trades, as the producer joins them."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.hyperliquid.adapter import BOOK, TRADES, Hyperliquid
from producers.venue.adapter.base import BookSnapshot, Market
from producers.venue.state.order_book import OrderBook, Outcome

ADAPTER = Hyperliquid()
T0 = 1_764_842_873_000


def market() -> Market:
    return Market("BTC", "HYPERLIQUID:BTC-PERP", {})


def book_frame(time: int, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> bytes:
    sides = [[{"px": str(price), "sz": str(size), "n": 1} for price, size in side] for side in (bids, asks)]
    return orjson.dumps({"channel": "l2Book", "data": {"coin": "BTC", "time": time, "levels": sides}})


def hear(book: OrderBook, raw: bytes) -> Outcome:
    (part,) = ADAPTER.split(raw, T0 + 10_000)
    assert part.stream == ADAPTER.wire_name("BTC", BOOK)
    ((topic, snapshot),) = ADAPTER.take(BOOK, part.data, market(), T0 + 10_000)
    assert topic == "depth" and isinstance(snapshot, BookSnapshot)
    return book.replace(snapshot)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
@settings(deadline=None)
def test_whatever_is_dropped_doubled_or_overtaken_the_book_is_the_newest_one_heard(order: list[int]) -> None:
    book = OrderBook(mode="full")
    newest = -1
    for block in order:
        outcome = hear(book, book_frame(T0 + 70 * block, [(100.0 - block, 1.0 + block)], [(101.0 + block, 2.0)]))
        assert outcome is (Outcome.APPLIED if block > newest else Outcome.IGNORED)
        newest = max(newest, block)
        assert book.live
        assert book.top() == (T0 + 70 * newest, T0 + 70 * newest, [100.0 - newest], [1.0 + newest], [101.0 + newest], [2.0])


@given(st.lists(st.integers(0, 5), max_size=12), st.booleans())
@settings(deadline=None)
def test_trades_ascend_in_time_and_keep_the_order_within_a_block(gaps: list[int], newest_first: bool) -> None:
    times = [T0 + sum(gaps[: index + 1]) for index in range(len(gaps))]
    rows = [{"coin": "BTC", "side": "B", "px": "1", "sz": "1", "time": time, "tid": index} for index, time in enumerate(times)]
    turned = newest_first and len(set(times)) > 1
    raw = orjson.dumps({"channel": "trades", "data": rows[::-1] if turned else rows})
    found = [
        record
        for part in ADAPTER.split(raw, T0 + 10_000)
        for _, record in ADAPTER.take(TRADES, part.data, market(), T0 + 10_000)
        if isinstance(record, dict)
    ]
    assert [record["venue_trade_id"] for record in found] == [str(index) for index in range(len(rows))]
    assert all(part.clock == times[-1] for part in ADAPTER.split(raw, T0 + 10_000))

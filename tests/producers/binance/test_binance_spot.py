"""Spot's depth ids under drops, doubles and reorders, and what the payload files cannot show."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.binance.spot_adapter import AGG_TRADE, BOOK_TICKER, DEPTH, BinanceSpot
from producers.binance.spot_mapping import depth_diff
from producers.venue.adapter.base import BookDiff, BookSnapshot
from producers.venue.state.order_book import OrderBook

T0 = 1_700_000_000_000


def world(seed: int, count: int) -> tuple[list[dict[str, Any]], dict[int, tuple[dict[float, float], dict[float, float]]]]:
    """Return the messages of a venue that numbers every change of its book, and the book at each message's last id."""
    draw = random.Random(seed)
    sides: tuple[dict[float, float], dict[float, float]] = ({}, {})
    messages, books, number = [], {0: ({}, {})}, 0
    for _ in range(count):
        first, levels = number + 1, ({}, {})
        for _ in range(draw.randint(1, 4)):
            number += 1
            side = draw.randint(0, 1)
            price = 100.0 + draw.randint(1, 9) * (1 if side else -1)
            quantity = float(draw.randint(0, 3))
            levels[side][price] = quantity
            if quantity:
                sides[side][price] = quantity
            else:
                sides[side].pop(price, None)
        bids, asks = ([[str(price), str(quantity)] for price, quantity in side.items()] for side in levels)
        messages.append({"e": "depthUpdate", "E": T0 + number, "s": "X", "U": first, "u": number, "b": bids, "a": asks})
        books[number] = (dict(sides[0]), dict(sides[1]))
    return messages, books


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from(["ok", "ok", "ok", "drop", "double", "swap"]), min_size=10, max_size=60))
def test_never_a_wrong_book_is_live_whatever_is_dropped_doubled_or_reordered(seed, fates):
    messages, books = world(seed, len(fates))
    arrived: list[dict[str, Any]] = []
    for message, fate in zip(messages, fates, strict=True):
        arrived += [] if fate == "drop" else [message, message] if fate == "double" else [message]
    for index, fate in enumerate(fates):
        if fate == "swap" and 0 < index < len(arrived):
            arrived[index - 1], arrived[index] = arrived[index], arrived[index - 1]
    draw, book = random.Random(seed), OrderBook()
    for message in arrived:
        book.diff(depth_diff(message, T0 + 10**6))
        if not book.live and draw.random() < 0.6:
            # A snapshot of any moment of the venue's book, also between two messages' ids seen here.
            number = draw.choice([number for number in books if number <= max(message["u"], 1) + 6])
            bids, asks = books[number]
            book.load(BookSnapshot(number, list(bids.items()), list(asks.items())))
        if book.live:
            bids, asks = books[book.last_update_id]
            assert (dict(book._bids.quantities), dict(book._asks.quantities)) == (bids, asks)
            assert book.top().bid_prices == sorted(bids, reverse=True)


def test_without_faults_the_book_is_live_from_the_first_diff_that_spans_or_follows_the_snapshot():
    messages, books = world(1, 40)
    for number in (messages[4]["u"] - 1, messages[4]["u"]):  # within a message's ids, and at its end
        book = OrderBook()
        book.diff(depth_diff(messages[0], T0 + 10**6))
        bids, asks = books.get(number, books[messages[4]["u"]])
        book.load(BookSnapshot(number, list(bids.items()), list(asks.items())))
        for message in messages[4:]:
            book.diff(depth_diff(message, T0 + 10**6))
        assert book.live and book.epoch == 1 and book.last_update_id == messages[-1]["u"]
        assert (book._bids.quantities, book._asks.quantities) == books[messages[-1]["u"]]


def test_a_diff_follows_on_the_id_before_its_first():
    diff = depth_diff({"E": T0, "U": 157, "u": 160, "b": [["1", "2"]], "a": []}, T0)
    assert diff == BookDiff(T0, 157, 160, 156, [(1.0, 2.0)], [])


def test_streams_are_spread_over_connections_of_one_route():
    adapter = BinanceSpot()
    wanted = [(f"S{number}USDT", channel) for number in range(70) for channel in (AGG_TRADE, DEPTH, BOOK_TICKER)]
    plans = adapter.plans("wss://x", wanted)
    assert [len(plan.streams) for plan in plans] == [200, 10]
    assert plans[0].url.startswith("wss://x/stream?streams=s0usdt@aggTrade/s0usdt@depth@100ms/s0usdt@bookTicker/s1usdt@aggTrade")
    assert BinanceSpot("1000ms").wire_name("BTCUSDT", DEPTH) == "btcusdt@depth"
    assert (adapter.venue, adapter.kind, adapter.author) == ("BINANCE", "spot", "binance-spot")

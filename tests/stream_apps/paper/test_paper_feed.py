"""The paper feed: which trades, settlements and signals belong to a step, wherever reading began and however far it ran ahead."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec.avro import Codec
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from stream_apps.core.paper.book_lookup import BookBlock
from stream_apps.core.paper.feed import DEPTH, FUNDING, INSTRUMENTS, SIGNALS, TRADES, PaperFeed, Step, TradeBlock
from stream_apps.core.paper.fills import Book
from stream_apps.core.paper.market_rows import trade_block

# Two instruments of author A, one of author B.
OWNERS = {"X": "A", "Y": "A", "Z": "B"}
INSTRUMENT_ROWS = [(offset, {"instrument": name, "author": author}) for offset, (name, author) in enumerate(OWNERS.items())]


def block(rows: list[tuple[int, str, int]]) -> TradeBlock:
    """Return trades from (offset, instrument, event_time); the agg_id repeats the offset."""
    names = sorted({name for _, name, _ in rows})
    offsets = np.array([offset for offset, _, _ in rows], np.int64)
    code = np.array([names.index(name) for _, name, _ in rows], np.int64)
    return TradeBlock(names, code, np.array([time for _, _, time in rows], np.int64), offsets, offsets, np.ones(len(rows)))


def record(name: str, time: int, number: int) -> dict[str, Any]:
    return {"instrument": name, "event_time": time, "settled_rate": 0.1, "signal_id": f"{name}|s|{time}", "number": number}


def numbers(given_input: Any) -> tuple[dict[str, list[int]], list[int], list[int]]:
    return (
        {name: columns.offset.tolist() for name, columns in sorted(given_input.trades.items())},
        sorted(one["number"] for one in given_input.settlements),
        sorted(one["number"] for one in given_input.signals),
    )


ROWS = st.lists(st.tuples(st.sampled_from(sorted(OWNERS)), st.integers(0, 100)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(ROWS, ROWS, st.data())
def test_each_trade_belongs_to_the_first_step_that_reaches_it_wherever_reading_begins(trade_rows, other_rows, data):
    trades = [(offset, name, time) for offset, (name, time) in enumerate(trade_rows)]
    others = [(offset, record(name, time, offset)) for offset, (name, time) in enumerate(other_rows)]
    count = data.draw(st.integers(1, 8))
    times = {author: sorted(data.draw(st.lists(st.integers(0, 110), min_size=count, max_size=count, unique=True))) for author in "AB"}
    cuts = sorted(data.draw(st.lists(st.integers(0, len(trades)), min_size=2 * count, max_size=2 * count)))
    other_cuts = sorted(data.draw(st.lists(st.integers(0, len(others)), min_size=2 * count, max_size=2 * count)))
    steps = [
        Step("AB"[k % 2], times["AB"[k % 2]][k // 2], 0, {TRADES: cuts[k], FUNDING: other_cuts[k], SIGNALS: other_cuts[k], INSTRUMENTS: 3})
        for k in range(2 * count)
    ]

    def brute(step: Step, taken: set[tuple[str, int]], seen_signals: dict[str, int]) -> Any:
        """The rule, row by row."""
        mine = {name for name, author in OWNERS.items() if author == step.author}
        due = [
            (time, offset, name)
            for offset, name, time in trades
            if name in mine and offset < step.reach[TRADES] and time <= step.time and ("t", offset) not in taken
        ]
        taken |= {("t", offset) for _, offset, _ in due}
        columns = {name: [offset for _, offset, other in sorted(due) if other == name] for name in sorted({name for _, _, name in due})}
        rows = [(o, r) for o, r in others if r["instrument"] in mine and o < step.reach[FUNDING] and r["event_time"] <= step.time]
        settled = [o for o, _ in rows if ("f", o) not in taken]
        taken |= {("f", o) for o in settled}
        signals = []
        for o, r in rows:
            if r["event_time"] > seen_signals.get(step.author, -1) and r["signal_id"] not in {others[s][1]["signal_id"] for s in signals}:
                signals.append(o)
        seen_signals[step.author] = step.time
        return columns, sorted(settled), sorted(signals)

    def fresh(feed: PaperFeed, start: dict[str, int], chunk: int) -> None:
        feed.add_instruments(row for row in INSTRUMENT_ROWS if row[0] >= start[INSTRUMENTS])
        rows = trades[start[TRADES] :]
        for k in range(0, len(rows), chunk):
            feed.add_trades(block(rows[k : k + chunk]))
        feed.add_settlements(others[start[FUNDING] :])
        feed.add_signals(others[start[SIGNALS] :])

    feed = PaperFeed()
    fresh(feed, feed.resume_offsets(), data.draw(st.integers(1, 10)))
    taken: set[tuple[str, int]] = set()
    seen: dict[str, int] = {}
    for step in steps:
        assert not feed.is_repeat(step)
        assert numbers(feed.take(step, set(OWNERS))) == brute(step, taken, seen)
        assert feed.is_repeat(step)
        if data.draw(st.booleans()):
            # A restart: the state goes through the journal, and reading begins where it says.
            start = feed.resume_offsets()
            feed = PaperFeed.from_json(json.loads(json.dumps(feed.to_json())))
            fresh(feed, start, data.draw(st.integers(1, 10)))


def test_trades_of_idle_instruments_are_passed_over_and_not_kept():
    feed = PaperFeed()
    feed.add_instruments(INSTRUMENT_ROWS)
    feed.add_trades(block([(0, "X", 5), (1, "Y", 6), (2, "X", 20)]))
    given_input = feed.take(Step("A", 10, 0, {TRADES: 3, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 3}), {"Y"})
    assert numbers(given_input)[0] == {"Y": [1]}
    assert feed.rows_ahead() == 1 and feed.resume_offsets()[TRADES] == 2


def test_an_instrument_follows_its_new_author_without_a_trade_lost_or_repeated():
    feed = PaperFeed()
    feed.add_instruments([*INSTRUMENT_ROWS, (3, {"instrument": "X", "author": "B"})])
    feed.add_trades(block([(0, "X", 5), (1, "X", 15), (2, "X", 25)]))
    first = feed.take(Step("A", 10, 0, {TRADES: 2, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 3}), {"X"})
    second = feed.take(Step("B", 20, 0, {TRADES: 3, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 4}), {"X"})
    third = feed.take(Step("A", 30, 0, {TRADES: 3, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 4}), {"X"})
    fourth = feed.take(Step("B", 30, 0, {TRADES: 3, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 4}), {"X"})
    assert [numbers(one)[0] for one in (first, second, third, fourth)] == [{"X": [0]}, {"X": [1]}, {}, {"X": [2]}]


def test_what_cannot_be_a_trade_is_left_out_and_instruments_keep_their_numbers():
    codec = Codec()
    whole = {
        "instrument": "X",
        "event_time": 5,
        "receive_time": 5,
        "agg_id": 1,
        "first_trade_id": 1,
        "last_trade_id": 1,
        "price": 2.5,
        "quantity": 1.0,
        "buyer_is_maker": False,
        "backfilled": False,
    }

    def rows(*changes: tuple[bytes | None, dict[str, Any]]) -> RecordSet:
        return RecordSet.from_messages(
            [(at, 5, key, codec.encode("agg_trades", {**whole, **more})) for at, (key, more) in enumerate(changes)]
        )

    keys = KeyTable()
    bad = [(b"X", {name: value}) for name in ("price", "quantity") for value in (0.0, -1.0, float("nan"), float("inf"))]
    found = trade_block(codec, rows((b"Y", {}), *bad, (None, {}), (b"X", {"agg_id": 7, "price": 3.5})), keys)
    assert [(found.names[code], at) for code, at in zip(found.code, found.offset, strict=True)] == [("Y", 0), ("X", 10)]
    assert (found.agg_id[1], found.price[1], found.event_time[1]) == (7, 3.5, 5)
    again = trade_block(codec, rows((b"X", {}), (b"Z", {})), keys)
    assert [again.names[code] for code in again.code] == ["X", "Z"] and keys.keys == ["Y", "X", "Z"]
    garbage = RecordSet.from_messages([(0, 5, b"X", b"\xc3\x01garbage"), (1, 5, b"X", None)])
    assert len(trade_block(codec, garbage, keys)) == 0


def book_rows(rows: list[tuple[int, str, int]]) -> BookBlock:
    """Return books from (offset, instrument, event_time); the book of a row says its offset as the price of a bid."""
    names = sorted({name for _, name, _ in rows})
    offsets = np.array([offset for offset, _, _ in rows], np.int64)
    code = np.array([names.index(name) for _, name, _ in rows], np.int64)
    times = np.array([time for _, _, time in rows], np.int64)
    return BookBlock(names, code, times, offsets, np.arange(len(rows)), lambda row: Book([(Decimal(rows[row][0]), Decimal(1))], []))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted([*OWNERS, "nobody's"])), st.integers(0, 30)), max_size=60), st.data())
def test_books_of_a_step_are_those_that_its_cut_reaches_wherever_reading_begins(rows, data):
    """Times are seconds: a book holds for five of them."""
    depth = [(offset, name, time * 1_000) for offset, (name, time) in enumerate(rows)]
    count = data.draw(st.integers(1, 8))
    times = {author: sorted(data.draw(st.lists(st.integers(1, 33), min_size=count, max_size=count, unique=True))) for author in "AB"}
    cuts = sorted(data.draw(st.lists(st.integers(0, len(depth)), min_size=2 * count, max_size=2 * count)))
    feed, at = PaperFeed(), dict.fromkeys(OWNERS, -5_000)
    feed.add_instruments(INSTRUMENT_ROWS)

    def read(start: int, chunk: int) -> None:
        for k in range(start, len(depth), chunk):
            feed.add_books(book_rows(depth[k : k + chunk]))

    read(0, data.draw(st.integers(1, 10)))
    for k, cut in enumerate(cuts):
        author = "AB"[k % 2]
        time = times[author][k // 2] * 1_000
        given_input = feed.take(Step(author, time, 0, {TRADES: 0, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 3, DEPTH: cut}), set(OWNERS))
        for name, owner in OWNERS.items():
            if owner != author:
                assert name not in given_input.books
                continue
            # Seen from every half second at which a trade of this step can fall.
            for moment in range(at[name], time + 1, 500):
                known = max(((when, offset) for offset, other, when in depth[:cut] if other == name and when <= moment), default=None)
                wanted = known[1] if known is not None and moment - known[0] <= 5_000 else None
                found = given_input.books[name].at(moment) if name in given_input.books else None
                assert (None if found is None else int(found.bids[0][0])) == wanted
            at[name] = time
        if data.draw(st.booleans()):
            start = feed.resume_offsets()[DEPTH]
            feed = PaperFeed.from_json(json.loads(json.dumps(feed.to_json())))
            read(start, data.draw(st.integers(1, 10)))


def test_old_books_are_forgotten_and_a_journal_of_before_the_books_is_read():
    feed = PaperFeed()
    feed.add_instruments(INSTRUMENT_ROWS)
    feed.add_books(book_rows([(n, "X" if n % 2 else "nobody's", n * 100) for n in range(2_000)]))
    feed.take(Step("A", 100_000, 0, {TRADES: 0, FUNDING: 0, SIGNALS: 0, INSTRUMENTS: 3, DEPTH: 1_000}), set())
    # Of the first thousand the odd ones from 95 s on stay, and what lies beyond the cut.
    assert feed.rows_ahead(DEPTH) == 25 + 1_000 and feed.resume_offsets()[DEPTH] == 951
    state = feed.to_json()
    state["instruments"] = {name: one[:4] for name, one in state["instruments"].items()}
    del state["reach"][DEPTH]
    assert PaperFeed.from_json(state).resume_offsets()[DEPTH] == 0

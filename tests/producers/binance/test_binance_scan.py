"""Binance's frames read in bulk by compiled code, held to the plain twin: the parser, the mapping, the codec and the plain book."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from producers.binance.adapter import AGG_TRADE, BOOK_TICKER, DEPTH, FORCE_ORDER, MARK_PRICE, BinanceUsdm
from producers.venue.adapter.base import BookDiff, BookSnapshot, Channel, MappingError, Market, Scanned, Scanner
from producers.venue.adapter.json_values import MAX_AHEAD_MS
from producers.venue.state.order_book import TOP, OrderBook
from schemas.codec.avro import Codec
from schemas.codec.recordwriter import text_bytes
from tests.support.paths import RECORDINGS

ADAPTER, CODEC = BinanceUsdm(), Codec()
SYMBOLS = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "币安人生USDT")
MARKETS = {symbol: Market(symbol, f"BINANCE:{symbol}-PERP", {"funding_interval_hours": 8}, {}) for symbol in SYMBOLS}
CHANNELS = (AGG_TRADE, BOOK_TICKER, DEPTH, MARK_PRICE, FORCE_ORDER)
STREAMS: list[tuple[str, Channel, Market]] = [(ADAPTER.wire_name(s, c), c, MARKETS[s]) for s in SYMBOLS for c in CHANNELS]
RECEIVED = 1_723_075_200_500


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    found = ADAPTER.scanner(STREAMS, CODEC)
    assert found is not None
    return found


def plain(raw: bytes, received: int) -> tuple[int, int, Any] | None:
    """Return (stream, clock, what the message says) as the plain way has it; None when it refuses the frame or does not know its stream."""
    try:
        (part,) = ADAPTER.split(raw, received)
        index = next((n for n, (name, _, _) in enumerate(STREAMS) if name == part.stream), -1)
        if index < 0:
            return None
        _, channel, market = STREAMS[index]
        ((_, said),) = ADAPTER.take(channel, part.data, market, received)
        return index, part.clock, said
    except (MappingError, ValueError):
        return None


def held(scanned: Scanned, row: int, raw: bytes, received: int) -> bool:
    """Hold a frame that was read to the plain way; return whether it was read."""
    if scanned.streams[row] < 0:
        return False
    known = plain(raw, received)
    assert known is not None, raw
    index, clock, said = known
    assert (scanned.streams[row], scanned.clocks[row]) == (index, clock), raw
    if isinstance(said, BookDiff):
        bids, bids_end, asks, asks_end = scanned.spans[row]
        found = BookDiff(
            scanned.times[row], said.first, scanned.ids[row], scanned.previous[row],
            [tuple(level) for level in scanned.levels[bids:bids_end].tolist()], [tuple(level) for level in scanned.levels[asks:asks_end].tolist()],
        )  # fmt: skip
        assert found == said, raw
    else:
        topic = "agg_trades" if STREAMS[index][1] is AGG_TRADE else "quotes"
        assert scanned.values[row] == CODEC.encode(topic, said), raw
        number = said["agg_id" if topic == "agg_trades" else "update_id"]
        assert (scanned.ids[row], scanned.times[row]) == (number, said["event_time"]), raw
    return True


def test_recorded_frames_are_read_and_say_the_same(scanner: Scanner) -> None:
    frames = []
    with gzip.open(RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz", "rb") as file:
        for line in file:
            raw = line.partition(b" ")[2].strip()
            if raw.startswith(b'{"stream":"btcusdt@'):
                frames.append(raw.replace(b"@depth@0ms", b"@depth@100ms"))
            if len(frames) == 20_000:
                break
    received = max(json.loads(raw)["data"].get("E", 0) for raw in frames)
    read = {b"aggTrade": 0, b"bookTicker": 0, b"depth@100ms": 0}
    offered = dict.fromkeys(read, 0)
    for start in range(0, len(frames), 64):
        some = frames[start : start + 64]
        scanned = scanner.scan(some, received)
        for row, raw in enumerate(some):
            kind = raw[19 : raw.index(b'"', 19)]
            if kind in offered:
                offered[kind] += plain(raw, received) is not None
                read[kind] += held(scanned, row, raw, received)
    assert read == offered and read[b"bookTicker"] > 1_000 and read[b"depth@100ms"] > 1_000


decimals = st.one_of(
    st.decimals(0, 10**9, places=8, allow_nan=False, allow_infinity=False).map(lambda value: format(value, "f")),
    st.integers(0, 10**17).map(str),
    st.sampled_from(
        ["0", "0.0", "1.", ".5", "-1", "+1", "1e5", "NaN", "Infinity", "1_0", " 1", "", "0x10", "1.2.3", "9007199254740993", "900719925474099.3",
         "0.00000000000000000000001", "123456789012345678901234567890", "00012.50", "１"]
    ),
)  # fmt: skip
numbers = st.one_of(
    st.integers(0, 2**63 + 5),
    st.integers(RECEIVED - 10_000, RECEIVED + 2 * MAX_AHEAD_MS),
    st.sampled_from([-1, 1.0, 1.5, "7", "", None, True, 10**30]),
)
texts = st.one_of(decimals, decimals, decimals, st.sampled_from([None, 1, 1.5, True, [], {}]))
levels = st.one_of(
    st.lists(st.tuples(decimals, decimals).map(list), max_size=6),
    st.sampled_from([None, "x", {}, [["1"]], [["1", "2", "3"]], [[1, 2]], [None], [["1", None]]]),
)
extras = st.dictionaries(
    st.sampled_from(["nq", "X", "st", "e", "pu2", "é", "a\\b", "i"]),
    st.sampled_from(["x", 5, -5, 1.5, True, False, None, [], {}, 'a"b', "é"]),
    max_size=2,
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame of one of the streams: mostly right, some with a field that is wrong, missing, doubled, or with bytes changed."""
    name, channel, market = draw(st.sampled_from(STREAMS))
    when = st.integers(RECEIVED - 10_000, RECEIVED)
    data: dict[str, Any] = {"E": draw(when), "s": market.symbol, "T": draw(when)}
    if channel is AGG_TRADE:
        data |= {
            "a": draw(st.integers(0, 10**12)),
            "f": 5,
            "l": draw(st.integers(4, 9)),
            "p": draw(decimals),
            "q": draw(decimals),
            "m": draw(st.booleans()),
        }
    elif channel is BOOK_TICKER:
        data |= {"u": draw(st.integers(0, 10**12)), "b": draw(decimals), "B": draw(decimals), "a": draw(decimals), "A": draw(decimals)}
    else:
        data |= {
            "U": draw(st.integers(0, 30)),
            "u": draw(st.integers(10, 40)),
            "pu": draw(st.integers(0, 30)),
            "b": draw(levels),
            "a": draw(levels),
        }
    fault = draw(st.integers(0, 9))
    field = draw(st.sampled_from(sorted(data)))
    if fault == 0:
        del data[field]
    elif fault == 1:
        data[field] = draw(st.one_of(numbers, texts, levels))
    data |= draw(extras)
    items = draw(st.permutations(list(data.items())))
    body = ",".join(
        f"{json.dumps(key, ensure_ascii=False)}:{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for key, value in items
    )
    if fault == 2:
        body += f',"{field}":1'
    raw = f'{{"stream":"{name}","data":{{{body}}}}}'.encode()
    if fault == 3:
        at = draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    elif fault == 4:
        raw = raw[: draw(st.integers(0, len(raw)))]
    elif fault == 5:
        raw += draw(st.sampled_from([b" ", b"}", b"x", b"\n"]))
    return raw


@settings(max_examples=600, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=12))
@example([b"", b"{", b'{"stream":"', b'{"stream":"btcusdt@aggTrade","data":{', b'{"stream":"btcusdt@aggTrade","data":{}}'])
def test_what_is_read_is_what_the_plain_way_says(some: list[bytes]) -> None:
    scanner = ADAPTER.scanner(STREAMS, CODEC)
    assert scanner is not None
    scanned = scanner.scan(some, RECEIVED)
    for row, raw in enumerate(some):
        held(scanned, row, raw, RECEIVED)


@pytest.mark.parametrize("channel", [AGG_TRADE, BOOK_TICKER, DEPTH])
def test_a_plain_frame_is_read_and_one_of_another_connection_or_venue_is_not(scanner: Scanner, channel: Channel) -> None:
    data = {
        AGG_TRADE: '"a":7,"p":"0.00001234","q":"3","f":1,"l":2,"m":false',
        BOOK_TICKER: '"u":7,"b":"61659.70","B":"0","a":"61659.80","A":"0.981"',
        DEPTH: '"U":5,"u":7,"pu":4,"b":[["61659.70","1.5"],["61659.60","0"]],"a":[]',
    }[channel]
    name = ADAPTER.wire_name("BTCUSDT", channel)
    raw = f'{{"stream":"{name}","data":{{"e":"x","E":{RECEIVED},"s":"BTCUSDT","T":{RECEIVED - 1},{data}}}}}'.encode()
    others = [raw.replace(b'"BTCUSDT"', b'"ETHUSDT"'), raw.replace(b"btcusdt@", b"ltcusdt@"), raw.replace(b",", b", ")]
    ahead = raw.replace(b'"E":%d' % RECEIVED, b'"E":%d' % (RECEIVED + MAX_AHEAD_MS + 1))
    scanned = scanner.scan([raw, *others, ahead, raw], RECEIVED)
    assert [held(scanned, row, frame, RECEIVED) for row, frame in enumerate([raw, *others, ahead, raw])] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]


# --- books ---------------------------------------------------------------------------------------------------------

book_levels = st.lists(st.tuples(st.integers(1, 60).map(lambda n: n / 4), st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5])), max_size=30)


@settings(max_examples=200, deadline=None)
@given(st.tuples(book_levels, book_levels), st.lists(st.tuples(book_levels, book_levels, st.booleans()), max_size=25))
def test_a_book_in_arrays_says_what_the_plain_book_says(
    begin: tuple[list[tuple[float, float]], list[tuple[float, float]]],
    changes: list[tuple[list[tuple[float, float]], list[tuple[float, float]], bool]],
) -> None:
    """Snapshots, changes one by one and changes in bulk, in any order; every depth record byte for byte."""
    plain_book, arrays = OrderBook(), OrderBook()
    arrays.compile(CODEC.header("depth") + text_bytes("V:X"))
    for book in (plain_book, arrays):
        book.load(BookSnapshot(10, *begin))
        book.diff(BookDiff(1, 10, 11, 9, [], []))
    assert plain_book.top() == arrays.top()
    for n, (bids, asks, bulk) in enumerate(changes):
        last = 12 + n
        plain_book.diff(BookDiff(100 + n, last, last, last - 1, bids, asks))
        if bulk:
            rows = np.array([*bids, *asks], dtype=np.float64).reshape(-1, 2)
            span = (0, len(bids), len(bids), len(bids) + len(asks))
            value = arrays.follow(last - 1, last, 100 + n, rows, span, RECEIVED)
            top = plain_book.top()
            assert value == CODEC.encode("depth", {
                "instrument": "V:X", "event_time": top.time, "receive_time": RECEIVED, "epoch": plain_book.epoch, "state": "live",
                "last_update_id": top.last_update_id, "bid_prices": top.bid_prices, "bid_quantities": top.bid_quantities,
                "ask_prices": top.ask_prices, "ask_quantities": top.ask_quantities,
            })  # fmt: skip
        else:
            arrays.diff(BookDiff(100 + n, last, last, last - 1, bids, asks))
        assert plain_book.top() == arrays.top() and plain_book.top(1) == arrays.top(1)


def test_a_book_grows_and_follows_only_what_follows() -> None:
    book = OrderBook()
    book.compile(CODEC.header("depth") + text_bytes("V:X"))
    nothing = np.empty((0, 2))
    assert book.follow(0, 1, 1, nothing, (0, 0, 0, 0), RECEIVED) is None  # it is not live
    book.load(BookSnapshot(10, [(float(n), 1.0) for n in range(1, 3_001)], []))
    book.diff(BookDiff(1, 10, 11, 9, [], []))
    rows = np.array([(3_000.0 + n, 2.0) for n in range(1, 6_000)])
    assert book.follow(12, 13, 2, rows, (0, 5_999, 5_999, 5_999), RECEIVED) is None and book.last_update_id == 11
    value = book.follow(11, 12, 2, rows, (0, 5_999, 5_999, 5_999), RECEIVED)
    assert value is not None
    assert CODEC.decode("depth", value)["bid_prices"] == [8_999.0 - n for n in range(TOP)]
    gone = np.array([(float(n), 0.0) for n in range(1, 9_000)])
    value = book.follow(12, 13, 3, gone, (0, 8_999, 8_999, 8_999), RECEIVED)
    assert value is not None and CODEC.decode("depth", value)["bid_prices"] == []

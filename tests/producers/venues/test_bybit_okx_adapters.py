"""Bybit and OKX: what is subscribed where, refusals, contracts into exact quantities, and the books of both kept by the shared order book."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.bybit.adapter import BybitLinear, BybitSpot
from producers.okx.adapter import OkxSwap
from producers.okx.contracts import Contract, contract
from producers.venue.adapter.base import Adapter, BookDiff, BookSnapshot, Channel, MappingError, Market
from producers.venue.network.rest import RestError
from producers.venue.state.order_book import OrderBook, Outcome

ADAPTERS: tuple[Adapter, ...] = (BybitLinear(), BybitSpot(), OkxSwap())
NOW = 1_800_000_000_000


def symbols(adapter: Adapter, count: int) -> list[str]:
    return [f"TOKEN{index}-USDT-SWAP" if isinstance(adapter, OkxSwap) else f"100000TOKEN{index}USDT" for index in range(count)]


def wanted(adapter: Adapter, count: int) -> list[tuple[str, Channel]]:
    return [(symbol, channel) for channel in adapter.channels for symbol in symbols(adapter, count)]


def arguments(messages: list[str], op: str = "subscribe") -> list[Any]:
    found = []
    for message in messages:
        said = json.loads(message)
        assert said["op"] == op
        found += said["args"]
    return found


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize("count", [1, 4, 30, 601])
def test_every_stream_is_on_one_connection_and_subscribed_there(adapter: Adapter, count: int) -> None:
    asked = wanted(adapter, count)
    plans = adapter.plans("ws://venue", asked)
    assert adapter.plans("ws://venue", asked) == plans
    assert sorted(stream for plan in plans for stream in plan.streams) == sorted(asked)
    assert len({plan.name for plan in plans}) == len(plans)
    names = [adapter.wire_name(*stream) for stream in asked]
    assert len(set(names)) == len(names)
    for plan in plans:
        said = arguments(plan.opening)
        if isinstance(adapter, OkxSwap):
            streams = {f"{arg['channel']}:{arg['instId']}" for arg in said if "instId" in arg}
            market = any(channel.whole_market for _, channel in plan.streams)
            assert [arg for arg in said if "instId" not in arg] == (
                [{"channel": "liquidation-orders", "instType": "SWAP"}] if market else []
            )
            assert streams == {adapter.wire_name(*stream) for stream in plan.streams if not stream[1].whole_market}
            business = {channel.name for _, channel in plan.streams} == {"trades-all"}
            assert plan.url == f"ws://venue/ws/v5/{'business' if business else 'public'}"
            assert sum(channel.name == "books" for _, channel in plan.streams) < 30
            assert market or len(plan.streams) <= adapter.max_streams
            assert all(len(message) < 64_000 for message in plan.opening) and len(plan.opening) < 480
        else:
            assert sorted(said) == sorted(adapter.wire_name(*stream) for stream in plan.streams)
            assert plan.url == f"ws://venue/v5/public/{'linear' if isinstance(adapter, BybitLinear) else 'spot'}"
            assert len(json.dumps(said)) < 21_000 and len(plan.streams) <= adapter.max_streams
            for message in plan.opening:  # a refused topic fails its message: that must be one symbol's own
                topics = json.loads(message)["args"]
                assert len(topics) <= 10 and len({topic.rpartition(".")[2] for topic in topics}) == 1


def test_very_long_symbols_are_spread_by_the_length_of_their_arguments() -> None:
    adapter = BybitLinear()
    asked = [("X" * 200 + str(index), channel) for index in range(100) for channel in adapter.channels]
    plans = adapter.plans("ws://venue", asked)
    assert all(len(json.dumps(arguments(plan.opening))) < 21_000 for plan in plans) and len(plans) > 500 // adapter.max_streams


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_a_stream_begins_anew_when_it_is_left_and_joined(adapter: Adapter) -> None:
    channel = next(channel for channel in adapter.channels if channel.topic == "depth")
    symbol = symbols(adapter, 1)[0]
    leave, join = adapter.resubscribe(symbol, channel)
    assert arguments([leave], "unsubscribe") == arguments([join]) == arguments(adapter.plans("", [(symbol, channel)])[0].opening)


@pytest.mark.parametrize(
    ("adapter", "answer", "wait"),
    [
        (BybitLinear(), {"retCode": 0, "result": {}}, "none"),
        (BybitLinear(), {"retCode": 10006, "retMsg": "Too many visits!"}, 5.0),
        (BybitLinear(), {"retCode": 10018, "retMsg": "Exceeded the IP Rate Limit."}, 5.0),
        (BybitLinear(), {"retCode": 10016, "retMsg": "Server error."}, 1.0),
        (BybitLinear(), {"retCode": 10001, "retMsg": "params error"}, None),
        (BybitLinear(), {}, None),
        (BybitLinear(), [], None),
        (OkxSwap(), {"code": "0", "data": []}, "none"),
        (OkxSwap(), {"code": "50011", "msg": "Too Many Requests"}, 2.0),
        (OkxSwap(), {"code": "50013", "msg": "System is busy"}, 1.0),
        (OkxSwap(), {"code": "51001", "msg": "Instrument ID doesn't exist"}, None),
        (OkxSwap(), {"code": 404, "msg": "Not Found"}, None),
        (OkxSwap(), "pong", None),
    ],
)
def test_refusals(adapter: Adapter, answer: Any, wait: Any) -> None:
    refusal = adapter.refusal(answer)
    if wait == "none":
        assert refusal is None
    else:
        assert refusal is not None and refusal[0] and refusal[1] == wait


class Asked:
    """Stands for ``Rest``: the answers of one path after the other."""

    def __init__(self, **answers: list[Any]) -> None:
        self._answers = {path.replace("_", "-"): list(given) for path, given in answers.items()}

    async def get(self, path: str, weight: int = 1, **params: Any) -> Any:
        answer = self._answers[path.rpartition("/")[2]].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_funding_interval_stays_until_the_venue_says_another() -> None:
    rate = {
        "instId": "BTC-USDT-SWAP",
        "fundingRate": "0.0001",
        "fundingTime": "1700726400000",
        "nextFundingTime": "1700755200000",
        "ts": "1700724675402",
    }
    contract_ = {
        "instId": "BTC-USDT-SWAP", "uly": "BTC-USDT", "ctType": "linear", "settleCcy": "USDT", "ctVal": "0.01", "ctMult": "1", "ctValCcy": "BTC",
        "tickSz": "0.1", "lotSz": "0.01", "state": "live",
    }  # fmt: skip
    said: list[Any] = [
        RestError("funding-rate: HTTP 500"),
        {"code": "0", "data": [rate]},
        {"code": "0", "data": [{**rate, "nextFundingTime": ""}]},
        {"code": "0", "data": []},
        {"code": "0"},
        RestError("funding-rate: HTTP 500"),
        {"code": "0", "data": [{**rate, "nextFundingTime": "1700740800000"}]},
    ]
    rest: Any = Asked(funding_rate=said, instruments=[{"code": "0", "data": [contract_]}] * len(said))
    adapter = OkxSwap()

    async def hours() -> list[Any]:
        return [(await adapter.facts(rest, "a"))["BTC-USDT-SWAP"].record["funding_interval_hours"] for _ in said]

    assert asyncio.run(hours()) == [None, 8, 8, 8, 8, 8, 4]


FIELDS = {
    "markPrice": "mark_price", "indexPrice": "index_price", "fundingRate": "estimated_rate", "nextFundingTime": "next_funding_time",
    "fundingIntervalHour": "interval_hours",
}  # fmt: skip
said_fields = st.dictionaries(st.sampled_from([*FIELDS, "lastPrice"]), st.sampled_from(["", "1", "2", "4"]))


@given(st.lists(st.tuples(st.sampled_from(["snapshot", "delta"]), said_fields, st.integers(1, 5000)), max_size=40))
def test_partial_tickers_never_take_back_what_was_said(script: list[Any]) -> None:
    """W R001-218, R001-233, R001-245: the newest value of each field that was ever said, and no flapping to null, to a default or to an old one."""
    adapter, time = BybitLinear(), NOW
    market = Market("BTCUSDT", "i", {})
    channel = next(channel for channel in adapter.channels if channel.name == "tickers")
    known: dict[str, float] = {}
    for kind, fields, step in script:
        time += step
        frame = json.dumps({"topic": "tickers.BTCUSDT", "type": kind, "ts": time, "data": {"symbol": "BTCUSDT", **fields}}).encode()
        (part,) = adapter.split(frame, time)
        known |= {FIELDS[name]: float(value) for name, value in fields.items() if value and name in FIELDS}
        for topic, record in adapter.take(channel, part.data, market, time):
            assert topic == "funding" and isinstance(record, dict) and record["event_time"] == time
            assert {name: record[name] for name in FIELDS.values()} == {name: known.get(name) for name in FIELDS.values()}


# --- contracts --------------------------------------------------------------------------------------------------------

sizes = st.decimals(min_value="0.0000001", max_value="100000000", places=7).map(lambda value: value.normalize())
counts = st.decimals(min_value="0.01", max_value="1000000000", places=4).map(str)


@given(sizes, counts)
def test_base_quantities_are_the_doubles_of_the_exact_products(units: Decimal, count: str) -> None:
    assert Contract(units).base(count) == float(Fraction(units) * Fraction(count))


@given(st.sampled_from(["0.001", "0.01", "0.1", "1", "10", "1000", "10000000", "0.0001"]), counts)
def test_powers_of_ten_take_the_short_way_to_the_same_double(units: str, count: str) -> None:
    size = contract(units)
    assert size.base(count) == float(Fraction(units) * Fraction(count))
    assert size.levels({"a": [["5", count, "0", "1"]]}, "a", "books") == [(5.0, size.base(count))]
    # A text with an exponent of its own goes the long way.
    assert size.base(f"{count}e2") == float(Fraction(units) * Fraction(count) * 100)


def test_a_float_product_would_differ() -> None:
    assert 0.7 * 0.01 != 0.007 and contract("0.01").base("0.7") == 0.007


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "NaN", "Infinity", "1_0", "1e999", "1e-999", None, 1, 1.5, [], "9" * 400])
def test_no_usable_number_of_contracts(text: Any) -> None:
    with pytest.raises(MappingError) as caught:
        contract("0.01").quantity({"sz": text}, "sz", "trades-all")
    assert caught.value.field == "sz"


# --- books ------------------------------------------------------------------------------------------------------------


def bybit_frame(kind: str, update: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    data = {"s": "BTCUSDT", "b": bids, "a": asks, "u": update, "seq": update * 7}
    return json.dumps({"topic": "orderbook.50.BTCUSDT", "type": kind, "ts": NOW + update, "data": data, "cts": NOW + update}).encode()


def okx_frame(action: str, previous: int, last: int, time: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    row = {"bids": bids, "asks": asks, "ts": str(time), "checksum": 0, "prevSeqId": previous, "seqId": last}
    return json.dumps({"arg": {"channel": "books", "instId": "BTC-USDT-SWAP"}, "action": action, "data": [row]}).encode()


def told(adapter: Adapter, market: Market, frame: bytes) -> BookDiff | BookSnapshot:
    channel = next(channel for channel in adapter.channels if channel.topic == "depth")
    (part,) = adapter.split(frame, NOW + 10_000_000)
    assert part.stream == adapter.wire_name(market.symbol, channel)
    ((topic, said),) = adapter.take(channel, part.data, market, NOW + 10_000_000)
    assert topic == "depth" and isinstance(said, BookDiff | BookSnapshot)
    return said


def offer(book: OrderBook, said: BookDiff | BookSnapshot) -> Outcome:
    return book.replace(said) if isinstance(said, BookSnapshot) else book.diff(said)


changes = st.lists(
    st.tuples(
        st.booleans(), st.integers(1, 30), st.integers(0, 5), st.sampled_from(["next", "next", "next", "same", "reset", "restart", "whole"])
    ),
    min_size=1,
    max_size=60,
)


@pytest.mark.parametrize("venue", ["bybit", "okx"])
@given(changes, st.data())
def test_a_live_book_is_never_wrong_whatever_is_lost_doubled_or_late(venue: str, script: list[Any], data: st.DataObject) -> None:
    """The venue's true book after each message is kept by hand; a live book must equal the truth at the id at which it stands."""
    adapter: Adapter = BybitLinear() if venue == "bybit" else OkxSwap()
    market = Market("BTCUSDT", "i", {}) if venue == "bybit" else Market("BTC-USDT-SWAP", "i", {}, {"units": "0.01"})
    unit = 1 if venue == "bybit" else Fraction(1, 100)
    bids: dict[int, int] = {10: 1}
    asks: dict[int, int] = {40: 1}
    update, time, restarted = 100, NOW, False
    truth: dict[tuple[int, int], tuple[dict[int, int], dict[int, int]]] = {}
    frames: list[bytes] = []

    def whole(restarted: bool = False) -> None:
        sides = [[[str(price), str(size)] for price, size in side.items()] for side in (bids, asks)]
        if venue == "bybit":
            row = {"s": "BTCUSDT", "b": sides[0], "a": sides[1], "u": update, "seq": 1}
            kind = "delta" if restarted else "snapshot"
            frames.append(json.dumps({"topic": "orderbook.50.BTCUSDT", "type": kind, "ts": time, "data": row, "cts": time}).encode())
        else:
            frames.append(okx_frame("snapshot", -1, update, time, *sides))
        truth[update, time] = (dict(bids), dict(asks))

    whole()
    for is_bid, price, size, how in script:
        time += 1
        if how == "whole":
            whole()
            continue
        side, level = (bids, price) if is_bid else (asks, price + 31)
        previous = update
        if how == "restart" and venue == "bybit" and not restarted:
            # Once: of two restarts whose first messages are lost nothing in the venue's ids would tell.
            update, restarted = 1, True
            whole(restarted=True)
            continue
        if how == "same" and venue == "okx":
            frames.append(okx_frame("update", update, update, time, [], []))
            truth[update, time] = (dict(bids), dict(asks))
            continue
        update = data.draw(st.integers(0, update - 1)) if how == "reset" and venue == "okx" and update > 1 else update + 1
        if size:
            side[level] = size
        else:
            side.pop(level, None)
        rows = [[str(level), str(size)]]
        changed = (rows, []) if is_bid else ([], rows)
        if venue == "bybit":
            row = {"s": "BTCUSDT", "b": changed[0], "a": changed[1], "u": update, "seq": 1}
            frames.append(json.dumps({"topic": "orderbook.50.BTCUSDT", "type": "delta", "ts": time, "data": row, "cts": time}).encode())
        else:
            frames.append(okx_frame("update", previous, update, time, *changed))
        truth[update, time] = (dict(bids), dict(asks))

    # The messages as they come: some lost, some doubled. A connection keeps their order.
    arriving = [frame for frame in frames for _ in range(data.draw(st.sampled_from([1, 1, 1, 1, 0, 2])))]
    book = OrderBook(mode="stream")
    for frame in arriving:
        said = told(adapter, market, frame)
        last_time = book.last_time or 0
        outcome = offer(book, said)
        # What the venue said later must not be passed over by a book that goes on as if nothing were.
        assert outcome is not Outcome.IGNORED or not book.live or (said.time or 0) <= last_time
        if book.live and outcome is Outcome.APPLIED:
            top = book.top(200)
            expected = truth[book.last_update_id, said.time or 0]
            found = tuple(
                {int(price): Fraction(size).limit_denominator(1000) / unit for price, size in zip(prices, quantities, strict=True)}
                for prices, quantities in ((top.bid_prices, top.bid_quantities), (top.ask_prices, top.ask_quantities))
            )
            assert found == expected
    if arriving == frames:
        assert book.live and book.epoch == 1 + sum(
            frame != frames[0] and isinstance(told(adapter, market, frame), BookSnapshot) for frame in frames
        )

"""What Bitget, Hyperliquid and Coinbase are asked for: every stream once, on connections as large as the venue allows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.bitget import mapping as bitget
from producers.bitget.adapter import BOOKS, BitgetFutures
from producers.coinbase import mapping as coinbase
from producers.coinbase.adapter import CoinbaseSpot
from producers.hyperliquid import mapping as hyperliquid
from producers.hyperliquid.adapter import Hyperliquid
from producers.venue.adapter.base import Adapter, MappingError, Market
from tests.support.paths import DATA

ADAPTERS: list[Adapter] = [BitgetFutures(), Hyperliquid(), CoinbaseSpot()]
URLS = {"BITGET": "ws://h:1/v2/ws/public", "HYPERLIQUID": "ws://h:1/ws", "COINBASE": "ws://h:1"}


def asked(adapter: Adapter, message: str) -> list[str]:
    """Return the streams that a message subscribes, as wire names, by the venue's own grammar."""
    said: dict[str, Any] = orjson.loads(message)
    if adapter.venue == "BITGET":
        assert said["op"] == "subscribe" and all(arg["instType"] == "USDT-FUTURES" for arg in said["args"])
        return [f"{arg['channel']}:{arg['instId']}" for arg in said["args"]]
    if adapter.venue == "HYPERLIQUID":
        assert said["method"] == "subscribe"
        return [f"{said['subscription']['type']}:{said['subscription']['coin']}"]
    assert said["type"] == "subscribe"
    return [f"{channel}:{symbol}" for channel in said["channels"] for symbol in said["product_ids"]]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.venue)
@pytest.mark.parametrize("symbols", [1, 4, 600])
def test_every_stream_is_asked_for_once(adapter: Adapter, symbols: int) -> None:
    wanted = [(f"S{number}USDT", channel) for number in range(symbols) for channel in adapter.channels]
    plans = adapter.plans("ws://h:1", wanted)
    assert [stream for plan in plans for stream in plan.streams] == wanted
    assert len({plan.name for plan in plans}) == len(plans) and {plan.url for plan in plans} == {URLS[adapter.venue]}
    for plan in plans:
        assert 0 < len(plan.streams) <= adapter.max_streams
        heard = [name for message in plan.opening for name in asked(adapter, message)]
        assert sorted(heard) == sorted(adapter.wire_name(*stream) for stream in plan.streams)
        assert all(len(message) <= 4096 for message in plan.opening)
    assert plans == adapter.plans("ws://h:1", wanted)


def test_a_book_is_asked_for_anew() -> None:
    leave, join = (orjson.loads(message) for message in BitgetFutures().resubscribe("BTCUSDT", BOOKS))
    args = [{"instType": "USDT-FUTURES", "channel": "books", "instId": "BTCUSDT"}]
    assert (leave, join) == ({"op": "unsubscribe", "args": args}, {"op": "subscribe", "args": args})


class Once:
    """Answers each request with the same."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.bodies: list[Any] = []

    async def get(self, path: str, weight: int = 1, **params: Any) -> Any:
        return self.answer

    async def post(self, path: str, body: Any, weight: int = 1) -> Any:
        self.bodies.append(body)
        return self.answer


@pytest.mark.parametrize(
    ("adapter", "answer"),
    [
        (
            BitgetFutures(),
            {"code": "00000", "data": [{"fundingRate": "0.1", "fundingTime": "2000"}, {"fundingRate": "0.2", "fundingTime": "1000"}]},
        ),
        (Hyperliquid(), [{"coin": "S", "fundingRate": "0.2", "time": 1000}, {"coin": "S", "fundingRate": "0.1", "time": 2000}]),
    ],
    ids=["BITGET", "HYPERLIQUID"],
)
def test_a_settlement_is_said_once(adapter: Adapter, answer: Any) -> None:
    (poll,) = [poll for poll in adapter.polls() if "history" in poll.name.lower()]
    market = Market("S", "X:S-PERP", {})
    venue: Any = Once(answer)
    first = asyncio.run(poll.fetch(venue, [market], 3000))
    assert [(record["event_time"], record["settled_rate"]) for _, _, record in first] == [(1000, 0.2), (2000, 0.1)]
    assert asyncio.run(poll.fetch(venue, [market], 3000)) == []
    if venue.bodies:
        assert [body["startTime"] for body in venue.bodies] == [3000 - 24 * 3_600_000 + 1, 2001]
    for row in answer["data"] if isinstance(answer, dict) else answer:
        for field in ("time", "fundingTime"):
            if field in row:
                row[field] = type(row[field])(int(row[field]) + 1000)
    assert [record["event_time"] for _, _, record in asyncio.run(poll.fetch(venue, [market], 3000))] == [3000]


def needed(adapter: Adapter) -> list[tuple[Any, Any, str]]:
    """Return (reader, contract, field) of the contract of the payload files and each field that it must have."""
    folder = DATA / "venues" / adapter.venue.lower()
    (case,) = [case for case in orjson.loads((folder / "rest.json").read_bytes())["cases"] if case["call"] == "facts"]
    answer = case["answers"][0]["answer"]
    fields = {
        "BITGET": "symbol symbolType baseCoin quoteCoin pricePlace priceEndStep volumePlace sizeMultiplier symbolStatus",
        "HYPERLIQUID": "name szDecimals",
        "COINBASE": "id base_currency quote_currency quote_increment base_increment status",
    }
    rows = answer if isinstance(answer, list) else answer.get("data") or answer["universe"]
    reader = {"BITGET": bitget, "HYPERLIQUID": hyperliquid, "COINBASE": coinbase}[adapter.venue].instrument_facts
    return [(reader, rows[0], field) for field in fields[adapter.venue].split()]


@pytest.mark.parametrize(("reader", "row", "field"), [entry for adapter in ADAPTERS for entry in needed(adapter)])
def test_a_contract_without_what_it_must_have_is_refused_by_name(reader: Any, row: dict[str, Any], field: str) -> None:
    assert reader(row, "author")
    with pytest.raises(MappingError) as caught:
        reader({key: value for key, value in row.items() if key != field}, "author")
    assert caught.value.field == field


class Trades:
    """Serves Coinbase's trades: ids from ``first`` on without holes, at given times."""

    def __init__(self, first: int, times: list[int]) -> None:
        self.times = {first + index: time for index, time in enumerate(times)}
        self.requests = 0

    async def get(self, path: str, weight: int = 1, limit: int = 100, after: int | None = None) -> Any:
        self.requests += 1
        found = sorted((identity for identity in self.times if after is None or identity < after), reverse=True)[:limit]
        iso = {identity: datetime.fromtimestamp(self.times[identity] / 1000, UTC).isoformat() for identity in found}
        return [{"trade_id": identity, "time": iso[identity], "side": "buy", "price": "1", "size": "1"} for identity in found]


@given(st.integers(1, 5000), st.lists(st.integers(0, 40), max_size=60), st.integers(-100, 2500))
@settings(deadline=None)
def test_coinbases_first_trade_since_a_time_is_found(first: int, gaps: list[int], since: int) -> None:
    times = [1_700_000_000_000 + sum(gaps[: index + 1]) for index in range(len(gaps))]
    venue: Any = Trades(first, times)
    found = asyncio.run(CoinbaseSpot().first_trade(venue, Market("BTC-USD", "COINBASE:BTC-USD", {}), 1_700_000_000_000 + since))
    assert found == next((first + index for index, time in enumerate(times) if time >= 1_700_000_000_000 + since), None)
    assert venue.requests <= 40


@given(st.integers(1, 10**6), st.integers(0, 2500), st.integers(0, 2500))
@settings(deadline=None, max_examples=25)
def test_coinbases_pages_bring_every_trade_once(first: int, count: int, skipped: int) -> None:
    venue: Any = Trades(first, [1_700_000_000_000] * count)
    market, got, at, more = Market("BTC-USD", "COINBASE:BTC-USD", {}), [], first + skipped, True
    while more:
        page, more = asyncio.run(CoinbaseSpot().trades_from(venue, market, at, 1_800_000_000_000))
        got += [row["agg_id"] for row in page if isinstance(row, dict)]
        at = got[-1] + 1 if got else at
    assert got == list(range(first + skipped, first + count))


def test_only_hyperliquid_is_funded_by_a_rule() -> None:
    assert [adapter.schedule_rule() for adapter in ADAPTERS] == [None, {"interval_hours": 1}, None]

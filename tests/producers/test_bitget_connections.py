"""What Bitget, Hyperliquid and Coinbase are asked for: every stream once, on connections as large as the venue allows."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from producers.bitget.adapter import BOOKS, BitgetFutures
from producers.coinbase.adapter import CoinbaseSpot
from producers.hyperliquid.adapter import Hyperliquid
from producers.venue.adapter import Adapter, Market

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
    return [f"{channel['name']}:{symbol}" for channel in said["channels"] for symbol in channel["product_ids"]]


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


def test_only_hyperliquid_is_funded_by_a_rule() -> None:
    assert [adapter.schedule_rule() for adapter in ADAPTERS] == [None, {"interval_hours": 1}, None]

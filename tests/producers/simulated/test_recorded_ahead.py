"""Messages made before the venue opens: the same as those made when they are due, at the same places of the timeline."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from producers.simulated.market.generated import Making
from producers.simulated.venue import RecordedVenue

RATE, MESSAGES = 2000.0, 1200
STREAMS = ("aggTrade", "depth@100ms", "markPrice@1s")


async def heard(ahead: tuple[str, ...]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], int]:
    """Return what each route sent, BTCUSDT's book as REST tells it before the first message, and when the first was sent, ms UTC."""
    making = Making(3, rate=RATE, messages=MESSAGES, ahead=ahead)
    async with RecordedVenue(generated=making, seed=5, settle_s=0.1) as serving, asyncio.timeout(60):
        answer = await asyncio.to_thread(urllib.request.urlopen, f"{serving.rest_url}/fapi/v1/depth?symbol=BTCUSDT&limit=50")
        book: dict[str, Any] = orjson.loads(answer.read())
        wanted = {"market": ("aggTrade", "markPrice@1s"), "public": ("depth@100ms",)}

        async def listen(route: str) -> list[dict[str, Any]]:
            names = "/".join(f"{symbol.lower()}@{stream}" for symbol in serving.markets for stream in wanted[route])
            messages = []
            async with connect(f"{serving.ws_url}/{route}/stream?streams={names}") as socket:
                try:
                    async for text in socket:
                        messages.append(orjson.loads(text))
                except ConnectionClosed:
                    pass
            return messages

        market, public = await asyncio.gather(listen("market"), listen("public"))
        assert serving.generation is not None
        return {"market": market, "public": public}, book, serving.generation._start


def timeless(messages: list[dict[str, Any]]) -> list[Any]:
    """Return messages without their times, and without those that a mark price tells of the next funding."""
    return [(one["stream"], {name: value for name, value in one["data"].items() if name not in ("E", "T")}) for one in messages]


def test_what_is_made_ahead_is_what_would_be_made_when_due() -> None:
    before = int(time.time() * 1000)
    made, book, start = asyncio.run(heard(STREAMS))
    due, same_book, _ = asyncio.run(heard(()))
    assert start >= before
    assert len(made["market"]) > 300 and len(made["public"]) > 200
    for route in ("market", "public"):
        assert timeless(made[route]) == timeless(due[route])
        # The clock is that of the timeline on which they are sent, not of the one on which they were made.
        clocks = [one["data"]["E"] for one in made[route]]
        assert clocks == sorted(clocks) and start <= clocks[0] and clocks[-1] <= start + MESSAGES * 1000 / RATE
    assert (book["lastUpdateId"], book["bids"], book["asks"]) == (same_book["lastUpdateId"], same_book["bids"], same_book["asks"])
    first = next(one["data"] for one in made["public"] if one["data"]["s"] == "BTCUSDT")
    assert first["pu"] == book["lastUpdateId"]


@pytest.mark.parametrize(
    ("venue", "making", "problem"),
    [
        ("BINANCE", Making(1, ahead=("aggTrade",)), "number of messages"),
        ("BINANCE", Making(1, messages=10, ahead=("trade",)), "expected some of"),
        ("OKX", Making(1, messages=10, ahead=("trades-all",)), "books of OKX"),
    ],
)
def test_what_cannot_be_made_ahead(venue: str, making: Making, problem: str) -> None:
    async def work() -> None:
        async with RecordedVenue(venue=venue, generated=making):
            pass

    with pytest.raises(ValueError, match=problem):
        asyncio.run(work())

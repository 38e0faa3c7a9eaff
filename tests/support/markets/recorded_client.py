"""What the tests of the recorded venue share: slices of recordings, a plain websocket client, and a book of their own."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.paths import DATA, RECORDINGS

BTC_2024 = RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz"
BTC_2023 = RECORDINGS / "binance_usdm_raw" / "btcusdt_20230405.gz"
LTC = RECORDINGS / "ltcusdt_spot_trades"
CAPTURES = DATA / "depth_gap_csv"


def head(path: Path, lines: int, target: Path) -> Path:
    """Write the first lines of a gzip recording to a plain file."""
    with gzip.open(path, "rt") as source:
        target.write_text("".join(itertools.islice(source, lines)))
    return target


class Client:
    """Reads one websocket connection to its end."""

    def __init__(self, url: str, on_frame: Callable[[int, Any], Awaitable[None]] | None = None, stop_after: int | None = None) -> None:
        self.url = url
        self.texts: list[str] = []
        self.code: int | None = None
        self.reason = ""
        self._on_frame = on_frame
        self._stop_after = stop_after

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [orjson.loads(text) for text in self.texts]

    def of(self, stream: str) -> list[dict[str, Any]]:
        return [frame["data"] for frame in self.frames if frame.get("stream") == stream]

    async def run(self) -> Client:
        async with connect(self.url, max_size=None, compression=None) as socket:
            try:
                async for text in socket:
                    assert isinstance(text, str)
                    self.texts.append(text)
                    if self._on_frame is not None:
                        await self._on_frame(len(self.texts), text)
                    if self._stop_after is not None and len(self.texts) >= self._stop_after:
                        break
            except ConnectionClosed:
                pass  # how it ended is what the test looks at
        self.code, self.reason = socket.close_code, socket.close_reason or ""
        return self


async def get(url: str) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON (or text) and headers of a GET."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        body = await (answer.json() if answer.content_type == "application/json" else answer.text())
        return answer.status, body, dict(answer.headers)


async def post(url: str, body: Any = None) -> tuple[int, str]:
    """Return status and text of a POST."""
    async with aiohttp.ClientSession() as session, session.post(url, data=orjson.dumps(body)) as answer:
        return answer.status, await answer.text()


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


class Book:
    """The sync rule of the venue's documents in a few lines, to check the venue against."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.last = snapshot["lastUpdateId"]
        self.sides = tuple({Decimal(p): Decimal(q) for p, q in snapshot[side]} for side in ("bids", "asks"))
        self.applied = 0
        self.gaps = 0

    def feed(self, diff: dict[str, Any]) -> None:
        if self.applied == 0:
            if diff["u"] < self.last:
                return
            if not (diff["U"] <= self.last or diff["pu"] == self.last):
                self.gaps += 1
        elif diff["pu"] != self.last:
            self.gaps += 1
        self.applied += 1
        self.last = diff["u"]
        for side, levels in zip(self.sides, (diff["b"], diff["a"]), strict=True):
            for price, quantity in levels:
                side[Decimal(price)] = Decimal(quantity)
                if not Decimal(quantity):
                    del side[Decimal(price)]

    def best(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        bid, ask = max(self.sides[0]), min(self.sides[1])
        return bid, self.sides[0][bid], ask, self.sides[1][ask]

"""The websocket connection on real sockets: backoff, refusals, reconnects, the end of a recording, rotation; and the REST client."""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from producers.binance.adapter import BinanceUsdm
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from producers.venue.network.connection import END_OF_RECORDING, Connection, Ended, backoff_delays, retry_after
from producers.venue.network.rest import Limit, Limiter, Rest, RestError
from tests.support.markets.recorded_client import BTC_2024, head


def test_backoff_doubles_from_one_to_thirty_two_seconds_with_jitter() -> None:
    runs = [list(itertools.islice(backoff_delays(random.Random(seed)), 9)) for seed in range(200)]
    for index, full in enumerate([1, 2, 4, 8, 16, 32, 32, 32, 32]):
        drawn = [run[index] for run in runs]
        low, high = (1.0, 1.25) if index == 0 else (full / 2, full)
        assert all(low <= delay <= high for delay in drawn)
        assert max(drawn) - min(drawn) > 0.2 * (high - low)


def test_retry_after() -> None:
    assert (retry_after("7"), retry_after(None), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")) == (7.0, None, None)


class Recorder:
    """Takes frames and notes what a connection tells."""

    def __init__(self) -> None:
        self.raws: list[bytes] = []
        self.events: list[str] = []

    def frames(self, raws: Sequence[bytes]) -> Iterator[Awaitable[None]]:
        self.raws.extend(raws)
        return iter(())

    async def pause(self) -> None:
        await asyncio.sleep(0)

    def must_wait(self) -> bool:
        return False

    def connected(self) -> None:
        self.events.append("connected")

    def disconnected(self, reason: str) -> None:
        self.events.append(reason)


def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/market/stream?streams=x"


async def session(handler: Callable[[ServerConnection], Awaitable[None]], **options: Any) -> tuple[Recorder, Ended, float]:
    refuse = options.pop("process_request", None)
    async with serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        recorder = Recorder()
        started = time.monotonic()
        ended = await asyncio.wait_for(Connection("market-0", url(server), recorder, "BINANCE", backoff_first_s=0.05, **options).run(), 20)
        return recorder, ended, time.monotonic() - started


def test_reconnects_until_the_recording_ends() -> None:
    count = itertools.count()

    async def venue(socket: ServerConnection) -> None:
        number = next(count)
        await socket.send(f"frame {number}")
        if number == 0:
            socket.transport.abort()
        elif number == 1:
            await socket.close(1001, "maintenance")
        elif number == 2:
            await socket.close(1000, "bye")  # a proper close is no end of data
        else:
            await socket.close(1000, END_OF_RECORDING)

    recorder, ended, _ = asyncio.run(session(venue))
    assert ended is Ended.RECORDING
    assert recorder.raws == [b"frame 0", b"frame 1", b"frame 2", b"frame 3"]
    assert recorder.events == ["connected", "lost", "connected", "close 1001", "connected", "close 1000", "connected"]


@pytest.mark.parametrize(("status", "after", "least"), [(418, "0", 0.6), (418, "1", 1.0), (429, "1", 1.0), (503, None, 0.05)])
def test_refusals_are_obeyed(status: int, after: str | None, least: float) -> None:
    count = itertools.count()

    def refuse(socket: ServerConnection, request: Any) -> Any:
        if next(count) == 0:
            response = socket.respond(http.HTTPStatus(status), "no")
            if after is not None:
                response.headers["Retry-After"] = after
            return response
        return None

    async def venue(socket: ServerConnection) -> None:
        await socket.close(1000, END_OF_RECORDING)

    recorder, ended, took = asyncio.run(session(venue, process_request=refuse, ban_wait_s=0.6))
    assert ended is Ended.RECORDING and recorder.events == [f"http {status}", "connected"]
    assert least <= took < least + 1.5


def test_nobody_there_is_tried_again() -> None:
    async def work() -> None:
        recorder = Recorder()
        connection = Connection("market-0", "ws://127.0.0.1:9/market/stream", recorder, "BINANCE", backoff_first_s=0.02)
        running = asyncio.create_task(connection.run())
        while recorder.events.count("connect") < 3:
            await asyncio.sleep(0.01)
        await connection.stop()
        assert await asyncio.wait_for(running, 5) is Ended.STOPPED

    asyncio.run(asyncio.wait_for(work(), 20))


def test_rotation_misses_nothing() -> None:
    """The venue numbers its frames by time; each connection gets those sent while it is open. Together they have all."""

    async def work() -> tuple[Recorder, int]:
        open_: set[ServerConnection] = set()
        total = 0

        async def venue(socket: ServerConnection) -> None:
            nonlocal total
            total += 1
            open_.add(socket)
            try:
                await socket.wait_closed()
            finally:
                open_.discard(socket)

        async with serve(venue, "127.0.0.1", 0) as server:
            recorder = Recorder()
            connection = Connection("market-0", url(server), recorder, "BINANCE", rotate_after_s=0.3, overlap_s=0.2)
            running = asyncio.create_task(connection.run())
            while not open_:
                await asyncio.sleep(0.005)
            for number in range(600):
                for socket in list(open_):
                    with contextlib.suppress(ConnectionClosed):  # rotated away just now; its successor is open
                        await socket.send(str(number))
                await asyncio.sleep(0.002)
            for socket in list(open_):
                await socket.close(1000, END_OF_RECORDING)
            assert await asyncio.wait_for(running, 10) is Ended.RECORDING
        return recorder, total

    recorder, connections = asyncio.run(asyncio.wait_for(work(), 30))
    assert connections >= 3
    seen = [int(frame) for frame in recorder.raws]
    assert set(seen) == set(range(600))
    assert len(seen) > 600  # the overlap brings doubles, which ids drop
    first = list(dict.fromkeys(seen))
    assert first == sorted(first)  # the first occurrences are in order: dropping doubles restores the sequence


# --- REST ------------------------------------------------------------------------------------------------------------


VENUE = BinanceUsdm()


def rest_session(path: Path, work: Callable[[RecordedVenue, Rest], Awaitable[None]], faults: list[str], **options: Any) -> None:
    async def run() -> None:
        async with RecordedVenue([Recording(path, "BTCUSDT")], faults=faults, weight_limit=options.pop("venue_limit", 2400)) as venue:
            limiter = Limiter("BINANCE", (Limit(options.pop("weight_limit", 2400), 60.0),))
            rest = Rest("BINANCE", venue.rest_url, limiter, used_header=VENUE.used_header, bans={418: 0.7}, **options)
            try:
                await work(venue, rest)
            finally:
                await rest.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("fault", "least"), [("rest:418,n=1,retry_after=0", 0.7), ("rest:429,n=1,retry_after=1", 1.0), ("rest:500,n=2", 0.0)]
)
def test_rest_refusals_are_obeyed_and_tried_again(tmp_path: Path, fault: str, least: float) -> None:
    async def work(venue: RecordedVenue, rest: Rest) -> None:
        started = time.monotonic()
        assert len(await VENUE.facts(rest, "author")) == 1
        assert time.monotonic() - started >= least
        assert rest.requests >= 2

    rest_session(head(BTC_2024, 300, tmp_path / "btc"), work, [fault])


def test_rest_failures_that_last_and_requests_that_are_wrong(tmp_path: Path) -> None:
    async def work(venue: RecordedVenue, rest: Rest) -> None:
        with pytest.raises(RestError, match="no success in 2 attempts: HTTP 500"):
            await VENUE.server_time(rest)
        with pytest.raises(RestError, match="HTTP 400"):
            await VENUE.snapshot(rest, "NOPE")
        assert await VENUE.server_time(rest) == venue.playbacks["BTCUSDT"].facts.first

    rest_session(head(BTC_2024, 300, tmp_path / "btc"), work, ["rest:500,n=2"], attempts=2)


def test_rest_keeps_below_the_weight_limit(tmp_path: Path) -> None:
    async def work(venue: RecordedVenue, rest: Rest) -> None:
        for _ in range(4):
            await VENUE.snapshot(rest, "BTCUSDT")
        assert rest.limiter.used == 80
        # The fifth would pass 90 % of 100: it waits for room in the window instead of being refused.
        waiting = asyncio.create_task(VENUE.snapshot(rest, "BTCUSDT"))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done and rest.requests == 4
        waiting.cancel()

    rest_session(head(BTC_2024, 300, tmp_path / "btc"), work, [], weight_limit=100, venue_limit=100)


def test_a_limiter_is_busy_while_there_is_no_room() -> None:
    """Nobody is held up for a request that would have to wait: 600 books ask for their snapshots at once."""

    async def work() -> None:
        limiter = Limiter("BINANCE", (Limit(100, 60.0),))
        assert not limiter.busy
        for _ in range(4):
            await limiter.admit(20)
        assert not limiter.busy
        waiting = asyncio.create_task(limiter.admit(20))  # 100 of the 90 that we allow ourselves
        await asyncio.sleep(0.05)
        assert limiter.busy and not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not limiter.busy
        limiter.refused(30.0)
        assert limiter.busy

    asyncio.run(asyncio.wait_for(work(), 10))

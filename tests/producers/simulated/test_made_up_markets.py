"""Made-up markets: they hold together in every dialect, are a function of their seed, and come as fast as asked for."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from decimal import Decimal

import orjson
import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from deploy.cli.services.simulate import app
from producers.simulated.dialects.registry import DIALECTS, dialect_of
from producers.simulated.market.generated import Making
from producers.simulated.market.instrument import Instrument, spec_of
from producers.simulated.recording.events import AGG, DEPTH, SNAPSHOT, TICKER, TRADE
from producers.simulated.venue import RecordedVenue
from tests.producers.simulated.dialect_readers import FUNDING_READERS, READERS
from tests.producers.simulated.dialect_sessions import START, VENUES, heard, pace, run
from tests.support.markets.recorded_client import Book, post
from tests.support.paths import ROOT


@pytest.mark.parametrize("venue", VENUES)
def test_made_up_markets_hold_together(venue: str) -> None:
    async def work() -> None:
        making = Making(3, rate=pace(venue), messages=3000, start=START)
        async with RecordedVenue(venue=venue, generated=making, settle_s=0.1, seed=5) as serving:
            reader = await heard(venue, serving)
            assert not reader.refused and reader.gaps == 0 and reader.synced
            sells = sum(sell for *_, sell in reader.trades)
            assert 0.3 < sells / len(reader.trades) < 0.7 and len(reader.trades) > 200
            assert all(bid < ask and bid_size > 0 < ask_size for bid, bid_size, ask, ask_size in reader.quotes)
            if venue != "COINBASE":  # its ticker comes with trades, which the book learns of later
                assert reader.agreed >= (0.3 if pace(venue) else 0.95) * len(reader.quotes) > 30  # some come before the book is known
            if venue in ("OKX", "BITGET", "COINBASE", "BINANCE", "BINANCE_SPOT"):
                numbers = [number for number, *_ in reader.trades]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            wanted = {
                "BINANCE": {"markPrice@1s", "forceOrder"},
                "BYBIT": {"ticker snapshot", "ticker delta", "allLiquidation"},
                "OKX": {"mark-price", "index-tickers", "funding-rate", "open-interest", "liquidation-orders"},
                "BITGET": {"ticker"},
                "HYPERLIQUID": {"activeAssetCtx"},
            }
            assert reader.others.keys() >= wanted.get(venue, set())

    run(work())


def test_the_past_of_a_made_up_market_is_as_long_as_asked_for() -> None:
    """Trades a second apart up to the start, with the ids before the first one to come; and bars of a day ago, for who asks what 24 hours changed."""

    async def work() -> None:
        making = Making(1, rate=100.0, messages=1, start=START, past_trades=700, first=12)
        async with RecordedVenue(venue="BINANCE", generated=making, settle_s=60) as serving:
            (market,) = serving.generation.markets
            trades = market.history.page(None, START - 3_600_000, None, 1000)
            assert [trade.time for trade in trades] == list(range(START - 700_000, START, 1000))
            assert [trade.number for trade in trades] == list(range(trades[0].number, trades[0].number + 700))
            bars = market.statistics.bars(300_000, None, None, 1000)
            assert bars[0].start + 300_000 <= START - 86_400_000 - 300_000 and bars[-1].start < START
            day = market.statistics.day()
            assert day.quote == pytest.approx(market.instrument.spec.volume) and day.high >= market.instrument.first_price

    run(work())
    with pytest.raises(ValueError, match="past_trades"):
        Making(1, past_trades=0)


def test_made_up_markets_are_a_function_of_the_seed() -> None:
    async def frames(seed: int) -> list[str]:
        making = Making(3, rate=None, messages=400, start=START, kinds=("trades", "depth", "bookTicker"))
        texts = []
        async with (
            RecordedVenue(venue="HYPERLIQUID", generated=making, settle_s=0.1, seed=seed) as serving,
            connect(serving.ws_url + "/ws", max_size=None, compression=None) as socket,
        ):
            for kind in ("trades", "bbo", "l2Book"):
                await socket.send(orjson.dumps({"method": "subscribe", "subscription": {"type": kind, "coin": "BTC"}}).decode())
            try:
                async for text in socket:
                    message = orjson.loads(text)
                    data = message.get("data")
                    for row in data if isinstance(data, list) else [data]:
                        if isinstance(row, dict):
                            row.pop("time", None)  # at no given rate the time is that of the run
                    texts.append(orjson.dumps(message).decode())
            except ConnectionClosed:
                pass  # the end of the market
        return texts

    async def work() -> None:
        one = await frames(1)
        assert len(one) > 100 and one == await frames(1) and one != await frames(2)

    run(work())


def test_an_instrument_keeps_its_rules() -> None:
    """Quotes are the book after the diffs, trades take from the best level of the true book, and no book is ever crossed."""
    for number in (0, 4, 11, 40):
        spec = spec_of(number, "USDT")
        instrument = Instrument(spec, 3, START, TRADE)
        snapshot = instrument.facts(START).snapshot
        assert snapshot is not None and snapshot.kind == SNAPSHOT
        book = Book(snapshot.body)
        best = book.best()
        kinds = itertools.islice(itertools.cycle([TRADE, TRADE, DEPTH, TICKER, TRADE]), 6000)
        trades = 0
        for at, kind in enumerate(kinds):
            event = instrument.step(kind, START + at)
            if kind == DEPTH:
                book.feed(event.body)
                best = book.best()
                assert best[0] < best[2] and len(book.sides[0]) == len(book.sides[1]) == 25
            elif kind == TICKER:
                assert best == tuple(Decimal(event.body[name]) for name in "bBaA")
            else:
                price, quantity = Decimal(event.body["p"]), Decimal(event.body["q"])
                assert quantity > 0 and (price <= best[0] if event.body["m"] else price >= best[2])
                trades += 1
        assert book.gaps == 0 and trades == 3600
    assert AGG in {Instrument(spec_of(0, "USDT"), 1, START, AGG).step(AGG, START).kind}


def test_a_burst_is_sent_as_fast_as_the_client_reads() -> None:
    async def work() -> None:
        making = Making(4, rate=10.0, burst=20_000)
        async with RecordedVenue(generated=making, settle_s=0.1) as serving:
            names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in serving.markets)
            ids: dict[str, list[int]] = {}
            async with connect(f"{serving.ws_url}/market/stream?streams={names}", max_size=None, compression=None) as socket:
                for _ in range(20_000):
                    message = orjson.loads(await socket.recv())
                    ids.setdefault(message["data"]["s"], []).append(message["data"]["a"])
                assert all(numbers == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in ids.values())
                assert (await post(f"{serving.rest_url}/control/burst", {"messages": 500}))[0] == 200
                async with asyncio.timeout(5):
                    for _ in range(500):
                        await socket.recv()

    run(work())


def test_a_stream_asked_for_early_begins_when_its_instrument_is_listed() -> None:
    async def work() -> None:
        making = Making(1, rate=200.0)
        async with RecordedVenue(generated=making, settle_s=0.05, faults=["list=NEWUSDT@0.3", "delist=BTCUSDT@0.4"]) as serving:
            url = f"{serving.ws_url}/market/stream?streams=newusdt@aggTrade/btcusdt@aggTrade"
            async with connect(url) as socket, asyncio.timeout(10):
                heard = [orjson.loads(await socket.recv())["data"]["s"] for _ in range(120)]
            assert heard[0] == "BTCUSDT" and heard[-20:] == ["NEWUSDT"] * 20

    run(work())


def test_the_command_serves_any_venue() -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.cli.services.simulate",
        "--venue",
        "okx",
        "--instruments",
        "2",
        "--rate",
        "max",
        "--messages",
        "500",
    ]
    faults = "drop:stream=trades,at=3 ; list=NEWUSDT@0"
    process = subprocess.Popen(
        [*command, "--faults", faults, "--settle", "0.1", "--exit-at-end"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["venue"], ready["symbols"][:2]) == ("OKX", ["BTC-USDT-SWAP", "ETH-USDT-SWAP"])

        async def work() -> None:
            reader = READERS["OKX"][0]("BTC-USDT-SWAP")
            async with connect(ready["ws_url"] + reader.path, max_size=None) as socket:
                for text in reader.subscribe():
                    await socket.send(text)
                async for frame in socket:
                    reader.take(str(frame))
            numbers = [number for number, *_ in reader.trades]
            assert numbers[:5] == [numbers[0], numbers[0] + 1, numbers[0] + 2, numbers[0] + 4, numbers[0] + 5] and reader.gaps == 0

        run(work())
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for options in (["--venue", "nasdaq", "--instruments", "1"], ["--instruments", "1", "--rate", "fast"], []):
        wrong = CliRunner().invoke(app, options)
        assert wrong.exit_code == 2 and "expected" in wrong.output


async def bare_reader(serving: RecordedVenue, path: str, count: int) -> float:
    """Return the seconds from the first byte to frame number ``count``, of a reader that looks at nothing but the frames' lengths."""
    reader, writer = await asyncio.open_connection(serving.host, serving.port, limit=1 << 22)
    key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: venue\r\n{key}".encode())
    await reader.readuntil(b"\r\n\r\n")
    rest, frames, started = b"", 0, 0.0
    while frames < count:
        chunk = await reader.read(1 << 20)
        assert chunk, f"the venue ended the connection after {frames} frames"
        started = started or asyncio.get_running_loop().time()
        rest += chunk
        at = 0
        while len(rest) - at >= 4:
            size, head_size = rest[at + 1] & 127, 2
            if size == 126:
                size, head_size = int.from_bytes(rest[at + 2 : at + 4], "big"), 4
            if len(rest) - at < head_size + size:
                break
            at += head_size + size
            frames += 1
        rest = rest[at:]
    writer.close()
    return asyncio.get_running_loop().time() - started


@pytest.mark.long
def test_a_burst_outruns_every_producer() -> None:
    """One process sends well over 100,000 trades a second to one reader (measured: 494,000 to 1,013,000 on a busy 2-core machine)."""

    async def work() -> None:
        count = 200_000
        async with RecordedVenue(generated=Making(20, rate=10.0, burst=count), settle_s=0.1) as serving:
            names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in serving.markets)
            took = await bare_reader(serving, f"/market/stream?streams={names}", count)
            assert count / took > 150_000, f"{count / took:,.0f} frames a second"

    run(work())


@pytest.mark.long
@pytest.mark.parametrize("venue", VENUES)
def test_600_instruments_with_all_streams(venue: str) -> None:
    """6,000 messages a second of 600 instruments on all streams of each venue: all of them speak, and none is late at the end."""

    async def work() -> None:
        dialect = dialect_of(venue)
        making = Making(600, rate=6000.0, messages=60_000)
        async with RecordedVenue(venue=venue, generated=making, settle_s=1.0, snapshot_hold_s=0) as serving:
            connections = [FakeListener(route) for route in ("public", "market")]
            serving.connections.update(connections)  # type: ignore[arg-type]
            for market in serving.markets.values():
                for stream in dialect.streams:
                    for connection in connections:
                        if connection.route == dialect.route(stream.name):
                            connection.streams[f"{stream.name}:{market.symbol}"] = None
                            market.subscribe(connection, stream.name)  # type: ignore[arg-type]
            started = asyncio.get_running_loop().time()
            await serving.wait_finished()
            assert asyncio.get_running_loop().time() - started < 20  # 10 s, a second to settle, and some more for a busy machine
            serving.connections.clear()
            topics = {stream.topic for stream in dialect.streams}
            for market in serving.markets.values():
                spoken = {dialect.topic(stream) for stream, count in market.sent.items() if count}
                assert spoken >= topics & {"depth", "mark"}
            assert sum(connection.frames for connection in connections) >= 60_000

    run(work())


class FakeListener:
    """A connection that counts what it is sent, for load without sockets."""

    def __init__(self, route: str) -> None:
        self.route, self.named, self.open = route, False, True
        self.path = ""
        self.streams: dict[str, None] = {}
        self.frames = 0

    def write(self, frame: bytes) -> None:
        self.frames += 1

    def flush(self) -> None:
        pass  # nothing is kept

    async def drain(self) -> None:
        pass  # and nothing is waited for

    def close(self, code: int, reason: str) -> None:
        self.open = False


def test_what_cannot_be_made() -> None:
    assert set(DIALECTS) == set(READERS) | set(FUNDING_READERS)
    with pytest.raises(ValueError, match="expected one of BINANCE"):
        RecordedVenue(venue="NASDAQ", generated=Making(1))
    for options in (
        {"instruments": 0},
        {"instruments": 1, "rate": 0.0},
        {"instruments": 1, "rate": None},
        {"instruments": 1, "kinds": ("x",)},
    ):
        with pytest.raises(ValueError):
            Making(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one or more"):
        RecordedVenue()

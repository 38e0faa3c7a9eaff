"""Every dialect over real sockets: a recording means the same in each."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from tests.producers.simulated.dialect_readers import READERS, BybitReader
from tests.producers.simulated.dialect_sessions import VENUES, connected, heard, run
from tests.support.markets.recorded_client import BTC_2023, BTC_2024, Book, head, until


@pytest.fixture(scope="module")
def slice_of_btc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 3,000 lines of the 2024 capture: 10 s with diffs, quotes, trades and the snapshot."""
    return head(BTC_2024, 3000, tmp_path_factory.mktemp("dialects") / "btcusdt")


@pytest.fixture(scope="module")
def truth(slice_of_btc: Path) -> dict[str, Any]:
    """What the recording says, read line by line without the code under test."""
    messages = [orjson.loads(line.partition(" ")[2]) for line in slice_of_btc.read_text().splitlines()]
    snapshot = next(message for message in messages if "lastUpdateId" in message)
    datas = [message["data"] for message in messages if "stream" in message]
    trades = [data for data in datas if data["e"] == "trade" and data.get("X", "MARKET") == "MARKET"]
    book = Book(snapshot)
    for data in datas:
        if data["e"] == "depthUpdate":
            book.feed(data)
    return {
        "bought": sum(Decimal(one["q"]) for one in trades if not one["m"]),
        "sold": sum(Decimal(one["q"]) for one in trades if one["m"]),
        "first": Decimal(trades[0]["p"]),
        "last": Decimal(trades[-1]["p"]),
        "trades": len(trades),
        "quotes": sum(data["e"] == "bookTicker" for data in datas),
        "best": book.best(),
    }


@pytest.mark.parametrize("venue", VENUES)
def test_a_recording_means_the_same_in_every_dialect(venue: str, slice_of_btc: Path, truth: dict[str, Any]) -> None:
    async def work() -> None:
        recording = Recording(slice_of_btc, "BTCUSDT")
        async with RecordedVenue([recording], venue=venue, speed=None, settle_s=0.1) as serving:
            reader = await heard(venue, serving)
            assert not reader.refused
            sold = sum(size for _, _, size, sell in reader.trades if sell)
            bought = sum(size for _, _, size, sell in reader.trades if not sell)
            assert (bought, sold) == (truth["bought"], truth["sold"])
            assert (reader.trades[0][1], reader.trades[-1][1]) == (truth["first"], truth["last"])
            assert len({number for number, *_ in reader.trades}) == len(reader.trades)
            assert reader.gaps == 0 and reader.synced
            if venue != "HYPERLIQUID":  # its books come every half second, and the last one before the end
                assert reader.best() == truth["best"]
            if venue in ("BINANCE", "BINANCE_SPOT", "HYPERLIQUID"):
                assert len(reader.quotes) == truth["quotes"]  # the others conflate
            assert len(reader.quotes) > 100
            if venue not in ("BINANCE", "BINANCE_SPOT"):
                assert len(reader.trades) == truth["trades"]

    run(work())


def test_a_book_of_few_levels_loses_and_gains_levels_at_its_edge(slice_of_btc: Path) -> None:
    """Bybit's 50 levels: at every moment the client holds exactly the best 50, though diffs of the recording reach far below."""

    async def work() -> None:
        async with RecordedVenue([Recording(slice_of_btc, "BTCUSDT")], venue="BYBIT", speed=None, settle_s=0.1) as serving:
            sizes: set[int] = set()

            class Counting(BybitReader):
                def change(self, bids: list[Any], asks: list[Any]) -> None:
                    super().change(bids, asks)
                    sizes.update((len(self.bids), len(self.asks)))

            reader = Counting("BTCUSDT")
            await connected(serving, reader.path, reader)
            assert sizes == {50}
            top = serving.markets["BTCUSDT"].book.top(50)
            assert top is not None
            assert {Decimal(price): Decimal(size) for price, size in top.bids} == reader.bids

    run(work())


@pytest.mark.parametrize("venue", ["BYBIT", "OKX", "BITGET", "COINBASE"])
def test_who_joins_later_or_again_disturbs_nobody(venue: str, slice_of_btc: Path, truth: dict[str, Any]) -> None:
    """A planned change of connections: every stream begins with a whole book for the newcomer, and goes on for the others."""

    async def work() -> None:
        kind, symbol = READERS[venue]
        async with RecordedVenue([Recording(slice_of_btc, "BTCUSDT")], venue=venue, speed=None, settle_s=0.05) as serving:
            readers = [kind(symbol) for _ in range(3)]
            (playback,) = serving.playbacks.values()
            (market,) = serving.markets.values()
            joins = (900, 1800)  # after so many messages
            playback.watcher = lambda market, event: playback.pause() if market.events in joins else None

            def subscribed(clients: int) -> bool:
                counts = {len(connection.streams) for connection in serving.connections}
                return len(serving.connections) == clients and len(counts) == 1 and counts != {0}

            async with asyncio.TaskGroup() as group:
                group.create_task(connected(serving, kind.path, readers[0]))
                for number, (at, reader) in enumerate(zip(joins, readers[1:], strict=True), 2):
                    await until(lambda at=at: playback.state == "paused" and market.events >= at, 60)  # type: ignore[misc]
                    group.create_task(connected(serving, kind.path, reader))
                    await until(lambda number=number: subscribed(number), 60)  # type: ignore[misc]
                    playback.resume()
            assert [reader.gaps for reader in readers] == [0, 0, 0]
            assert {reader.best() for reader in readers} == {truth["best"]}
            assert len(readers[0].trades) > len(readers[1].trades) > len(readers[2].trades) > 0
            assert readers[0].trades[-len(readers[2].trades) :] == readers[2].trades

    run(work())


def test_bybit_tickers_leave_out_what_did_not_change(slice_of_btc: Path) -> None:
    async def work() -> None:
        recording = Recording(head(BTC_2023, 4000, slice_of_btc.parent / "btc2023"), "BTCUSDT", funding_interval_hours=8)
        async with RecordedVenue([recording], venue="BYBIT", speed=None, settle_s=0.1) as serving:
            reader = BybitReader("BTCUSDT")
            deltas: list[dict[str, str]] = []
            async with connect(serving.ws_url + reader.path, max_size=None) as socket:
                await socket.send('{"op":"subscribe","args":["tickers.BTCUSDT"]}')
                state: dict[str, str] = {}
                try:
                    async for text in socket:
                        message = orjson.loads(text)
                        if message.get("type") == "delta":
                            changed = {name: value for name, value in message["data"].items() if name != "symbol"}
                            assert changed and all(state.get(name) != value for name, value in changed.items())
                            deltas.append(changed)
                        state |= message.get("data", {})
                except ConnectionClosed:
                    pass
            assert len(deltas) > 20 and not all("fundingIntervalHour" in delta for delta in deltas)
            mark = serving.markets["BTCUSDT"].mark
            assert mark is not None
            assert (state["markPrice"], state["fundingRate"], state["fundingIntervalHour"]) == (mark["p"], mark["r"], "8")

    run(work())

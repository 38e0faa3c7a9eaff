"""What each dialect answers as its venue does: frames as in its documents, pings, refusals, lists of contracts, volumes, and trades by id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect

from producers.simulated.dialects.registry import dialect_of
from producers.simulated.market.generated import Making
from producers.simulated.venue import RecordedVenue
from tests.producers.simulated.dialect_readers import FUNDING_READERS, READERS
from tests.producers.simulated.dialect_sessions import START, VENUES, asked, connected, hear, heard, pace, run
from tests.support.markets.recorded_client import DATA, get, post, until

# Also those without trades and books, whose streams have their own tests (test_funding_dialects).
ALL = READERS | FUNDING_READERS


def missing(document: Any, frame: Any, where: str) -> list[str]:
    """Return what a document's message has and a frame has not, or has as another JSON type."""
    if isinstance(document, dict) and isinstance(frame, dict):
        lacks = [f"{where}.{name}" for name in document if name not in frame]
        return lacks + [one for name in document if name in frame for one in missing(document[name], frame[name], f"{where}.{name}")]
    if isinstance(document, list) and isinstance(frame, list):
        return missing(document[0], frame[0], f"{where}[0]") if document and frame else []
    return [] if type(document) is type(frame) else [f"{where}: {type(document).__name__}, not {type(frame).__name__}"]


def sort_of(message: Any) -> Any:
    """Return what kind of message it is: channel and action, whatever the venue calls them."""
    if not isinstance(message, dict):
        return None
    if "stream" in message:
        return message["stream"].partition("@")[2].partition("@")[0]
    if "topic" in message:
        return message["topic"].rpartition(".")[0], message["type"]
    if "arg" in message and "data" in message:
        return message["arg"]["channel"], message.get("action")
    return message.get("channel") or message.get("type")


# Of what a document shows, what the simulated venue does not say: prices of an hour ago, the index of spot tickers in USD, and fields of Binance that the
# recordings do not have and no adapter reads (nq and st of aggregate trades, ap of mark prices).
UNSAID = {".data.prevPrice1h", ".data.usdIndexPrice", ".data.nq", ".data.st", ".data.ap"}


@pytest.mark.parametrize("venue", [venue for venue in VENUES if (DATA / "venues" / venue.lower() / "PROVENANCE.md").exists()])
def test_frames_have_the_fields_and_types_of_the_documents(venue: str) -> None:
    """Against payloads that others collected from documents and recordings: every field that they show is there, as text or as number."""

    async def work() -> None:
        found: dict[Any, Any] = {}

        class Keeping(READERS[venue][0]):  # type: ignore[misc]
            def take(self, text: str) -> None:
                super().take(text)
                if text[0] == "{":
                    message = orjson.loads(text)
                    found.setdefault(sort_of(message), message)

        making = Making(1, rate=pace(venue), messages=2000, start=START)
        async with RecordedVenue(venue=venue, generated=making, settle_s=0.1) as serving:
            await hear(venue, serving, Keeping(READERS[venue][1]))
        compared = 0
        for path in sorted((DATA / "venues" / venue.lower()).glob("*.json")):
            file = orjson.loads(path.read_bytes())
            if file.get("kind") != "frame" or path.stem.startswith("spot_"):
                continue
            first: dict[Any, Any] = {}
            for case in file["cases"]:
                if case.get("expect"):
                    first.setdefault(sort_of(case["frame"]), case["frame"])
            for sort, document in first.items():
                if sort in found and not (isinstance(sort, tuple) and sort[1] == "delta" and sort[0] == "tickers"):
                    assert set(missing(document, found[sort], "")) <= UNSAID, path.name
                    compared += 1
        assert compared >= 3

    run(work())


@pytest.mark.parametrize("venue", [venue for venue in ALL if ALL[venue][0].unknown])
def test_pings_are_answered_and_unknown_topics_refused(venue: str) -> None:
    async def work() -> None:
        kind, symbol = ALL[venue]
        reader = kind(symbol)
        async with (
            RecordedVenue(venue=venue, generated=Making(2, rate=50.0), settle_s=30.0) as serving,
            connect(serving.ws_url + kind.path, max_size=None) as socket,
        ):
            if kind.ping:
                await socket.send(kind.ping)
                answer = await socket.recv()
                if isinstance(kind.pong, str):
                    assert answer == kind.pong
                else:
                    assert orjson.loads(answer).items() >= kind.pong.items()
            await socket.send(kind.unknown)
            reader.take(str(await socket.recv()))
            assert len(reader.refused) == 1 and "NOPE" in orjson.dumps(reader.refused[0]).decode()
            await socket.send('{"hello"')  # no JSON: answered, and the connection lives
            reader.take(str(await socket.recv()))
            assert len(reader.refused) == 2
            assert not [connection for connection in serving.connections if connection.streams]

    run(work())


def test_who_says_nothing_is_cut_off() -> None:
    async def work() -> None:
        making = Making(1, rate=1.0)
        async with (
            RecordedVenue(venue="BITGET", generated=making, settle_s=60.0, client_idle_s=0.3) as serving,
            connect(serving.ws_url + "/v2/ws/public", ping_interval=None) as socket,
        ):
            for _ in range(3):
                await asyncio.sleep(0.15)
                await socket.send("ping")
                assert await socket.recv() == "pong"
            await socket.wait_closed()
            assert socket.close_code == 1008
        async with (
            RecordedVenue(venue="OKX", generated=making, settle_s=60.0, server_idle_s=0.2) as serving,
            connect(serving.ws_url + "/ws/v5/public", ping_interval=None) as socket,
        ):
            await socket.wait_closed()
            assert socket.close_code == 1008

    run(work())


INSTRUMENTS: dict[str, tuple[str | dict[str, Any], Callable[[Any], dict[str, bool]]]] = {
    "BINANCE": ("/fapi/v1/exchangeInfo", lambda body: {one["symbol"]: one["status"] == "TRADING" for one in body["symbols"]}),
    "BINANCE_SPOT": ("/api/v3/exchangeInfo", lambda body: {one["symbol"]: one["status"] == "TRADING" for one in body["symbols"]}),
    "BYBIT": (
        "/v5/market/instruments-info?category=linear&limit=1000",
        lambda body: {one["symbol"]: True for one in body["result"]["list"]},
    ),
    "OKX": ("/api/v5/public/instruments?instType=SWAP", lambda body: {one["instId"]: one["state"] == "live" for one in body["data"]}),
    "BITGET": (
        "/api/v2/mix/market/contracts?productType=USDT-FUTURES",
        lambda body: {one["symbol"]: one["symbolStatus"] == "normal" for one in body["data"]},
    ),
    "HYPERLIQUID": ({"type": "meta"}, lambda body: {one["name"]: not one.get("isDelisted") for one in body["universe"]}),
    "COINBASE": ("/products", lambda body: {one["id"]: one["status"] == "online" for one in body}),
    "LIGHTER": (
        "/api/v1/orderBookDetails",
        lambda body: {one["symbol"]: one["status"] == "active" for one in body["order_book_details"]},
    ),
    "GRVT": ({"is_active": True}, lambda body: {one["instrument"]: True for one in body["result"]}),
}


VOLUMES: dict[str, tuple[str | dict[str, Any], Callable[[Any], dict[str, float]]]] = {
    "BINANCE": ("/fapi/v1/ticker/24hr", lambda body: {one["symbol"]: float(one["quoteVolume"]) for one in body}),
    "BINANCE_SPOT": ("/api/v3/ticker/24hr", lambda body: {one["symbol"]: float(one["quoteVolume"]) for one in body}),
    "BYBIT": (
        "/v5/market/tickers?category=linear",
        lambda body: {one["symbol"]: float(one["turnover24h"]) for one in body["result"]["list"]},
    ),
    "OKX": (
        "/api/v5/market/tickers?instType=SWAP",
        lambda body: {one["instId"]: float(one["volCcy24h"]) * float(one["last"]) for one in body["data"]},
    ),
    "BITGET": (
        "/api/v2/mix/market/tickers?productType=USDT-FUTURES",
        lambda body: {one["symbol"]: float(one["quoteVolume"]) for one in body["data"]},
    ),
    "HYPERLIQUID": (
        {"type": "metaAndAssetCtxs"},
        lambda body: {one["name"]: float(two["dayNtlVlm"]) for one, two in zip(body[0]["universe"], body[1], strict=True)},
    ),
    "COINBASE": (
        "/products/stats",
        lambda body: {name: float(one["stats_24hour"]["volume"]) * float(one["stats_24hour"]["last"]) for name, one in body.items()},
    ),
    "LIGHTER": (
        "/api/v1/orderBookDetails",
        lambda body: {one["symbol"]: one["daily_quote_token_volume"] for one in body["order_book_details"]},
    ),
}


@pytest.mark.parametrize("venue", list(ALL))
def test_instruments_come_and_go_and_have_volumes(venue: str) -> None:
    async def work() -> None:
        dialect = dialect_of(venue)
        quote = dialect.quote
        names = [dialect.market_symbol(name) for name in (f"BTC{quote}", f"ETH{quote}", f"SOL{quote}", f"NEW{quote}")]
        faults = [f"list={names[3]}@0.3", f"delist={names[1]}@0.3"]
        options: dict[str, Any] = {"faults": faults, "settle_s": 0.05, "weight_limit": 10_000}
        async with RecordedVenue(venue=venue, generated=Making(3, rate=300.0), **options) as serving:
            path, trading = INSTRUMENTS[venue]
            assert trading(await asked(serving, path)) == dict.fromkeys(names[:3], True)
            assert abs(serving.now() - time.time_ns() // 1_000_000) < 1000  # the venue's clock runs before anybody listens
            if venue in VOLUMES:  # GRVT has no call for all
                path_of_volumes, volumes = VOLUMES[venue]
                before = volumes(await asked(serving, path_of_volumes))
                assert sorted(before, key=lambda name: -before[name]) == names[:3] and min(before.values()) > 1e6
            kind, symbol = ALL[venue]
            reader = kind(symbol)
            task = asyncio.create_task(connected(serving, kind.path, reader, skip_garbage=True))
            await until(lambda: serving.plan.applied == {"list": 1, "delist": 1})
            after = trading(await asked(serving, path))
            assert {name for name, live in after.items() if live} == {names[0], names[2], names[3]}
            await until(lambda: serving.markets[names[3]].events > 5)
            stopped = serving.markets[names[1]].events
            await asyncio.sleep(0.1)
            assert serving.markets[names[1]].events == stopped
            assert (await post(f"{serving.rest_url}/control/delist", {"symbol": names[1]}))[0] == 400
            assert (await post(f"{serving.rest_url}/control/delist", {"symbol": names[3]}))[0] == 200
            assert (await post(f"{serving.rest_url}/control/list", {"symbol": names[3]}))[0] == 200
            assert serving.plan.applied == {"list": 2, "delist": 2}
            assert not task.done()  # nobody's connection ended for it
            task.cancel()

    run(work())


REFUSALS = {
    "BINANCE": ("/fapi/v1/time", 429),
    "BINANCE_SPOT": ("/api/v3/time", 429),
    "BYBIT": ("/v5/market/time", 200),
    "OKX": ("/api/v5/public/time", 429),
    "BITGET": ("/api/v2/public/time", 429),
    "COINBASE": ("/time", 429),
}


@pytest.mark.parametrize("venue", REFUSALS)
def test_too_many_requests_are_refused_in_the_words_of_the_venue(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # One window for all time: that of the venue may end between two requests.
    monkeypatch.setattr(type(dialect_of(venue)), "weight_s", 1e12)

    async def work() -> None:
        path, status = REFUSALS[venue]
        async with RecordedVenue(venue=venue, generated=Making(1), weight_limit=3, faults=["rest:429,retry_after=3"]) as serving:
            first = await get(serving.rest_url + path)
            assert (first[0], first[2]["Retry-After"]) == (status, "3")
            if venue == "BYBIT":
                assert first[1]["retCode"] == 10006
            if venue == "OKX":
                assert first[1]["code"] == "50011"
            unknown = await get(f"{serving.rest_url}{path}/nothing")
            assert unknown[0] == 404
            answers = [await get(serving.rest_url + path) for _ in range(5)]
            assert [answer[0] for answer in answers] == [200, 200, status, status, status]
            if venue == "BYBIT":
                assert [answer[1]["retCode"] for answer in answers] == [0, 0, 10006, 10006, 10006]

    run(work())


TRADES = {
    "BINANCE": ("/fapi/v1/aggTrades?symbol=BTCUSDT&fromId={first}&limit=1000", lambda body: [row["a"] for row in body]),
    "BINANCE_SPOT": ("/api/v3/aggTrades?symbol=BTCUSDT&fromId={first}&limit=1000", lambda body: [row["a"] for row in body]),
    "OKX": (
        "/api/v5/market/history-trades?instId=BTC-USDT-SWAP&type=1&after={end}&limit=100",
        lambda body: [int(row["tradeId"]) for row in body["data"]][::-1],
    ),
    "BITGET": (
        "/api/v2/mix/market/fills-history?symbol=BTCUSDT&productType=USDT-FUTURES&idLessThan={end}&limit=100",
        lambda body: [int(row["tradeId"]) for row in body["data"]][::-1],
    ),
    "COINBASE": ("/products/BTC-USD/trades?after={end}&limit=100", lambda body: [row["trade_id"] for row in body][::-1]),
}


@pytest.mark.parametrize("venue", TRADES)
def test_what_was_lost_can_be_fetched_by_id(venue: str) -> None:
    async def work() -> None:
        making = Making(1, rate=None, messages=500, start=START, kinds=("trades", "depth"))
        async with RecordedVenue(venue=venue, generated=making, settle_s=0.1, faults=["gap:stream=trades,at=40,n=30"]) as serving:
            reader = await heard(venue, serving)
            numbers = [number for number, *_ in reader.trades]
            lost = [number for number in range(numbers[0], numbers[-1]) if number not in numbers]
            assert len(lost) == 30
            path, ids = TRADES[venue]
            found = ids(await asked(serving, path.format(first=lost[0], end=lost[-1] + 1)))
            assert set(lost) <= set(found) and found == sorted(found)

    run(work())

"""The recorded venue over real sockets: golden figures, the venue's rules, faults, and the same frames at any speed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect

from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from tests.support.markets.recorded_client import BTC_2023, BTC_2024, CAPTURES, LTC, Book, Client, get, head, post, until
from tests.support.paths import ROOT


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def venue(path: Path | str, symbol: str, kind: str = "perp", **options: Any) -> RecordedVenue:
    options = {"speed": None, "settle_s": 0.05, **options}
    return RecordedVenue([Recording(path, symbol, kind)], **options)


@pytest.fixture
def slice_of_btc(tmp_path: Path) -> Path:
    """The first 3,000 lines of the 2024 capture: 10 s with diffs, tickers, trades and the snapshot."""
    return head(BTC_2024, 3000, tmp_path / "btcusdt")


def snapshot_taker(serving: RecordedVenue, symbol: str, taken: list[dict[str, Any]]) -> Any:
    """Return a frame hook that fetches the depth snapshot after the first frame, as the venue's documents ask."""

    async def hook(number: int, text: str) -> None:
        if number == 1:
            status, body, headers = await get(f"{serving.rest_url}/fapi/v1/depth?symbol={symbol}&limit=1000")
            assert status == 200 and int(headers["X-MBX-USED-WEIGHT-1M"]) == 20
            taken.append(body)

    return hook


@pytest.mark.parametrize("cadence", ["0ms", "100ms"])
def test_golden_figures_of_the_2024_capture(cadence: str) -> None:
    async def work() -> None:
        async with venue(BTC_2024, "BTCUSDT") as serving:
            taken: list[dict[str, Any]] = []
            depth = Client(f"{serving.ws_url}/public/ws/btcusdt@depth@{cadence}", snapshot_taker(serving, "BTCUSDT", taken))
            ticker = Client(f"{serving.ws_url}/public/stream?streams=btcusdt@bookTicker")
            market = Client(f"{serving.ws_url}/market/stream?streams=btcusdt@aggTrade")
            await asyncio.gather(depth.run(), ticker.run(), market.run())

            trades = market.of("btcusdt@aggTrade")
            covered = [number for one in trades for number in range(one["f"], one["l"] + 1)]
            assert len(covered) == 21_313 and covered == list(range(covered[0], covered[-1] + 1))
            assert sum(Decimal(one["q"]) for one in trades if not one["m"]) == Decimal("1251.576")
            assert sum(Decimal(one["q"]) for one in trades if one["m"]) == Decimal("1177.790")
            assert (trades[0]["p"], trades[-1]["p"]) == ("61800.30", "61659.80")
            assert [one["a"] for one in trades] == list(range(1, len(trades) + 1))

            book = Book(taken[0])
            diffs = depth.frames
            for diff in diffs:
                book.feed(diff)
            last = ticker.of("btcusdt@bookTicker")[-1]
            assert book.gaps == 0 and book.applied > 3000
            assert book.best() == tuple(Decimal(text) for text in ("61659.70", "1.486", "61659.80", "0.981"))
            assert book.best() == tuple(Decimal(last[name]) for name in "bBaA")
            assert (len(diffs), len(ticker.texts)) == (6551 if cadence == "0ms" else 3443, 66_089)
            assert {(c.code, c.reason) for c in (depth, ticker, market)} == {(1000, "end of recording")}

    run(work())


async def frames_at(path: Path, speed: float | None, faults: tuple[str, ...] = ()) -> tuple[dict[str, list[str]], dict[str, Any]]:
    async with venue(path, "BTCUSDT", speed=speed, faults=faults, seed=7) as serving:
        taken: list[dict[str, Any]] = []
        urls = (
            "/public/stream?streams=btcusdt@depth@100ms",
            "/public/stream?streams=btcusdt@bookTicker",
            "/market/stream?streams=btcusdt@aggTrade/btcusdt@trade",
        )
        clients = [
            Client(serving.ws_url + url, snapshot_taker(serving, "BTCUSDT", taken) if not at else None) for at, url in enumerate(urls)
        ]
        await asyncio.gather(*(client.run() for client in clients))
        return {client.url.partition("streams=")[2]: client.texts for client in clients}, taken[0]


def test_frames_and_snapshot_are_the_same_at_any_speed(slice_of_btc: Path) -> None:
    async def work() -> None:
        fast = await frames_at(slice_of_btc, None)
        assert sum(map(len, fast[0].values())) > 3000
        assert fast == await frames_at(slice_of_btc, 8.0)
        faults = (
            "drop:rate=0.02",
            "delay:stream=aggTrade,rate=0.01,ms=300",
            "reorder:rate=0.02",
            "garbage:rate=0.01",
            "duplicate:rate=0.01",
        )
        spoiled = await frames_at(slice_of_btc, None, faults)
        assert spoiled[0] != fast[0]
        assert spoiled == await frames_at(slice_of_btc, 8.0, faults)

    run(work())


def test_real_time_is_real_time(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", speed=4.0, expect_routes=["public"]) as serving:
            started = asyncio.get_running_loop().time()
            await Client(f"{serving.ws_url}/public/ws/btcusdt@bookTicker").run()
            took = asyncio.get_running_loop().time() - started
            span = (serving.playbacks["BTCUSDT"].facts.last - serving.playbacks["BTCUSDT"].facts.first) / 4000
            assert span > 0.5 and span <= took < span + 2

    run(work())


def test_recorded_bytes_are_served_unchanged(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", snapshot_hold_s=0) as serving:
            public = Client(f"{serving.ws_url}/public/stream?streams=btcusdt@depth@0ms/btcusdt@bookTicker")
            market = Client(f"{serving.ws_url}/market/stream?streams=btcusdt@trade")
            await asyncio.gather(public.run(), market.run())
            recorded = [line.partition(" ")[2] for line in slice_of_btc.read_text().splitlines()]
            assert public.texts == [text for text in recorded if '"e":"depthUpdate"' in text or '"e":"bookTicker"' in text]
            assert market.texts == [text for text in recorded if '"e":"trade"' in text]

    run(work())


def test_the_wrong_route_is_accepted_and_silent(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", snapshot_hold_s=0) as serving:
            wrong = [
                Client(f"{serving.ws_url}/public/stream?streams=btcusdt@aggTrade"),
                Client(f"{serving.ws_url}/market/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker/dogeusdt@aggTrade"),
            ]
            right = [Client(serving.ws_url + url) for url in ("/public/ws/btcusdt@bookTicker", "/market/ws/btcusdt@aggTrade")]
            await asyncio.gather(*(client.run() for client in wrong + right))
            assert [len(client.texts) for client in wrong] == [0, 0]
            assert all(len(client.texts) > 50 for client in right)
            assert {client.code for client in wrong + right} == {1000}
            for path in ("/ws", "/stream?streams=btcusdt@aggTrade", "/private/ws"):
                status, *_ = await get(serving.rest_url + path)
                assert status == 404

    run(work())


def test_subscription_methods_and_limits(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT") as serving:
            async with connect(f"{serving.ws_url}/market/stream") as socket:

                async def ask(text: str) -> Any:
                    await socket.send(text)
                    return orjson.loads(await socket.recv())

                assert await ask('{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","btcusdt@trade"],"id":1}') == {"result": None, "id": 1}
                assert await ask('{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":2}') == {"result": None, "id": 2}
                assert await ask('{"method":"LIST_SUBSCRIPTIONS","id":3}') == {"result": ["btcusdt@aggTrade"], "id": 3}
                assert (await ask('{"method":"DANCE","id":4}'))["error"]["code"] == 2
                assert (await ask('{"method":"SUBSCRIBE","params":"x","id":5}'))["error"]["code"] == 2
                assert (await ask("{"))["error"]["code"] == 3
                await until(lambda: serving.playbacks["BTCUSDT"].missing() == {"public"})
            flood = Client(f"{serving.ws_url}/market/ws")
            async with connect(flood.url) as socket:
                for number in range(11):
                    await socket.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{number}}}')
                await socket.wait_closed()
                assert socket.close_code == 1008 and "messages a second" in (socket.close_reason or "")
            many = await Client(f"{serving.ws_url}/market/stream?streams=" + "/".join(f"x{n}usdt@trade" for n in range(201))).run()
            assert many.code == 1008 and "200 streams" in many.reason

    run(work())


def test_server_pings_and_ends_old_connections(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with (
            venue(slice_of_btc, "BTCUSDT", ping_interval_s=0.05, max_connection_s=0.3) as serving,
            connect(f"{serving.ws_url}/market/ws/btcusdt@aggTrade", ping_interval=None) as socket,
        ):
            await socket.wait_closed()
            assert socket.close_code == 1001 and "24 h" in (socket.close_reason or "")

    run(work())


def test_planted_faults_are_served_as_they_are() -> None:
    async def work() -> None:
        async with venue(CAPTURES / "trxusdt_usdm_trade_stream_negative.csv.gz", "TRXUSDT") as serving:
            client = await Client(f"{serving.ws_url}/market/ws/trxusdt@aggTrade").run()
            assert client.frames[0]["p"] == "-1"
            assert sum(one["l"] - one["f"] + 1 for one in client.frames) == 10_000
        async with venue(CAPTURES / "trxusdt_usdm_merged_negative.csv.gz", "TRXUSDT") as serving:
            taken: list[dict[str, Any]] = []
            depth = Client(f"{serving.ws_url}/public/ws/trxusdt@depth@100ms", snapshot_taker(serving, "TRXUSDT", taken))
            market = Client(f"{serving.ws_url}/market/ws/trxusdt@aggTrade")
            await asyncio.gather(depth.run(), market.run())
            diffs = depth.frames
            assert [n for n in range(1, len(diffs)) if diffs[n]["pu"] != diffs[n - 1]["u"]] == [1]
            assert sum(one["l"] - one["f"] + 1 for one in market.frames) == 199

    run(work())


def test_rest_pages_equal_the_stream_and_never_run_ahead() -> None:
    async def work() -> None:
        path = LTC / "LTCUSDT_2025-06-22_00h_trades.csv.gz"
        async with venue(path, "LTCUSDT", "spot", weight_limit=10_000) as serving:
            url = f"{serving.rest_url}/fapi/v1/aggTrades?symbol=LTCUSDT"
            assert (await get(url))[1] == []
            halfway: list[int] = []

            async def look(number: int, text: str) -> None:
                if number == 2000:
                    halfway.append((await get(url))[1][-1]["a"])

            client = await Client(f"{serving.ws_url}/market/ws/ltcusdt@aggTrade", look).run()
            streamed = [{name: one[name] for name in ("a", "p", "q", "f", "l", "T", "m")} for one in client.frames]
            assert 2000 <= halfway[0] < len(streamed)
            paged: list[dict[str, Any]] = []
            while len(paged) < len(streamed):
                status, page, _ = await get(f"{url}&fromId={len(paged) + 1}&limit=1000")
                assert status == 200 and page
                paged += page
            assert paged == streamed
            start, end = streamed[50]["T"], streamed[80]["T"]
            by_time = (await get(f"{url}&startTime={start}&endTime={end}"))[1]
            assert by_time == [one for one in streamed if start <= one["T"] <= end]
            assert (await get(f"{url}&limit=1001"))[0] == 400

    run(work())


def test_rest_describes_the_recording_and_invents_nothing() -> None:
    async def work() -> None:
        funding = CAPTURES.parent / "funding_history/BTCUSDT_binance_funding_2020_2024.csv.gz"
        recordings = [
            Recording(BTC_2023, "BTCUSDT", funding=funding, funding_interval_hours=8),
            Recording(f"{LTC}/*21_06h*", "LTCUSDT", "spot"),
        ]
        async with RecordedVenue(recordings, speed=None, settle_s=0.05, snapshot_hold_s=0) as serving:
            base = f"{serving.rest_url}/fapi/v1"
            info = {one["symbol"]: one for one in (await get(f"{base}/exchangeInfo"))[1]["symbols"]}
            btc, ltc = info["BTCUSDT"], info["LTCUSDT"]
            assert (btc["contractType"], ltc["contractType"]) == ("PERPETUAL", "SPOT") and btc["recorded"] is ltc["recorded"] is True
            filters = {one["filterType"]: one for one in btc["filters"]}
            assert filters.keys() == {"PRICE_FILTER", "LOT_SIZE"}  # a recording does not tell the smallest order
            assert (filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]) == ("0.1", "0.001")
            assert (btc["baseAsset"], btc["quoteAsset"], btc["pricePrecision"], btc["quantityPrecision"]) == ("BTC", "USDT", 2, 3)
            assert (await get(f"{base}/time?symbol=BTCUSDT"))[1] == {"serverTime": 1680652800016}
            assert (await get(f"{base}/fundingInfo"))[1] == [{"symbol": "BTCUSDT", "fundingIntervalHours": 8, "recorded": True}]
            rates = (await get(f"{base}/fundingRate?symbol=BTCUSDT&limit=2"))[1]
            assert [row["fundingTime"] for row in rates] == [1680624000008, 1680652800000]  # up to the position, not beyond
            assert (await get(f"{base}/fundingRate?symbol=LTCUSDT"))[1] == []
            assert (await get(f"{base}/klines?symbol=BTCUSDT&interval=1m"))[1] == []  # bars are of trades played
            for path in ("premiumIndex?symbol=BTCUSDT", "openInterest?symbol=BTCUSDT", "depth?symbol=LTCUSDT", "ticker/bookTicker"):
                status, body, _ = await get(f"{base}/{path}")
                assert status == 404 and body["code"] < 0 and body["msg"], path
            status, body, _ = await get(f"{base}/depth?symbol=BTCUSDT")
            assert status == 503 and "no book is known yet" in body["msg"]
            assert (await get(f"{base}/depth?symbol=NOUSDT"))[1]["code"] == -1121
            public = Client(f"{serving.ws_url}/public/ws/btcusdt@bookTicker")
            market = Client(f"{serving.ws_url}/market/ws/btcusdt@markPrice@1s")
            slow = Client(f"{serving.ws_url}/market/ws/btcusdt@markPrice")
            await asyncio.gather(public.run(), market.run(), slow.run())
            mark = market.frames[-1]
            premium = (await get(f"{base}/premiumIndex?symbol=BTCUSDT"))[1]
            assert (premium["markPrice"], premium["lastFundingRate"], premium["time"]) == (mark["p"], mark["r"], mark["E"])
            assert len(market.frames) == 415 and len(slow.frames) == 139
            assert serving.status()["symbols"]["LTCUSDT"]["state"] == "waiting"  # each on its own timeline

    run(work())


def test_request_weights_are_counted_and_refused(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", weight_limit=45) as serving:
            url = f"{serving.rest_url}/fapi/v1/depth?symbol=BTCUSDT&limit=1000"
            answers = [await get(url) for _ in range(3)]
            assert [status for status, *_ in answers] == [200, 200, 429]
            assert int(answers[2][2]["Retry-After"]) >= 1 and answers[2][1]["code"] == -1003

    run(work())


def test_a_client_that_comes_late_or_again_goes_on_from_the_position(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", expect_routes=["market"], speed=20.0) as serving:
            url = f"{serving.ws_url}/market/ws/btcusdt@aggTrade"
            first = await Client(url, stop_after=40).run()
            playback = serving.playbacks["BTCUSDT"]
            await until(lambda: playback.state == "waiting")  # nobody listens: the recording stands still
            position = playback.events
            await asyncio.sleep(0.3)
            assert playback.events == position
            second = await Client(url).run()
            lost_from, lost_to = first.frames[-1]["a"] + 1, second.frames[0]["a"]
            assert lost_from <= lost_to
            rest = f"{serving.rest_url}/fapi/v1/aggTrades?symbol=BTCUSDT&fromId={lost_from}"
            lost = [row["a"] for row in (await get(rest))[1] if row["a"] < lost_to]
            ids = [one["a"] for one in first.frames] + lost + [one["a"] for one in second.frames]
            assert ids == list(range(1, len(playback.history) + 1))
            later = await Client(url).run()
            assert (later.texts, later.code, later.reason) == ([], 1000, "end of recording")
            assert (await get(f"{serving.rest_url}/fapi/v1/time"))[0] == 200

    run(work())


def test_cut_connections_break_without_a_close_and_can_come_back(slice_of_btc: Path) -> None:
    async def work() -> None:
        faults = ["cut:after=100,route=market", "cut:after=1000,route=public,code=1001"]
        async with venue(slice_of_btc, "BTCUSDT", faults=faults, speed=8.0) as serving:  # slow enough that the client comes back in time
            public = Client(f"{serving.ws_url}/public/ws/btcusdt@bookTicker")
            market = Client(f"{serving.ws_url}/market/ws/btcusdt@aggTrade")
            other = asyncio.create_task(public.run())
            await market.run()
            assert market.code == 1006 and len(market.texts) <= 100
            again = await Client(market.url).run()
            await other
            assert again.code == 1000 and again.frames[0]["a"] > 100
            assert public.code == 1001 and len(public.texts) == 1000
            assert serving.status()["faults_applied"] == {"cut": 2}

    run(work())


def test_control_interface(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", expect_routes=["market"], speed=5.0) as serving:
            control = f"{serving.rest_url}/control"
            client = Client(f"{serving.ws_url}/market/ws/btcusdt@aggTrade")
            task = asyncio.create_task(client.run())
            await until(lambda: len(client.texts) > 5)
            assert (await post(f"{control}/pause"))[0] == 200
            await until(lambda: serving.playbacks["BTCUSDT"].state == "paused")
            position = serving.playbacks["BTCUSDT"].events
            assert (await post(f"{control}/faults", {"faults": ["drop:stream=aggTrade,n=3", "rest:418,retry_after=9"]}))[0] == 200
            assert (await post(f"{control}/faults", {"faults": ["nonsense"]})) == (
                400,
                "fault: unknown kind 'nonsense' in 'nonsense' "
                "(known: drop, gap, silence, duplicate, reorder, delay, garbage, cut, rest, snapshot, list, delist)\n",
            )
            status, body, headers = await get(f"{serving.rest_url}/fapi/v1/time")
            assert (status, body["code"], headers["Retry-After"]) == (418, -1003, "9")
            assert serving.playbacks["BTCUSDT"].events == position
            assert (await post(f"{control}/speed", {"speed": 0}))[0] == 400
            assert (await post(f"{control}/speed", {"speed": "max"}))[0] == 200
            assert serving.status()["symbols"]["BTCUSDT"]["speed"] == "max"
            await post(f"{control}/resume")
            await task
            ids = [one["a"] for one in client.frames]
            missing = sorted(set(range(1, ids[-1] + 1)) - set(ids))
            assert len(missing) == 3 and missing[2] - missing[0] == 2
            report = (await get(f"{control}/status"))[1]
            assert report["finished"] and report["faults_applied"] == {"rest": 1, "drop": 3}
            assert report["symbols"]["BTCUSDT"]["frames_sent"]["aggTrade"] == len(ids)
            assert (await get(f"{serving.rest_url}/health"))[1]["ok"] is True

    run(work())


def test_playback_holds_for_the_snapshot_but_not_for_ever(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", expect_routes=["public"], snapshot_hold_s=0.5) as serving:
            client = Client(f"{serving.ws_url}/public/ws/btcusdt@depth@0ms")
            task = asyncio.create_task(client.run())
            await until(lambda: serving.playbacks["BTCUSDT"].state == "held")
            await asyncio.sleep(0.1)
            assert len(client.texts) == 1
            await task
            assert len(client.texts) > 100

    run(work())


def test_a_second_connection_joins_without_a_hold(slice_of_btc: Path) -> None:
    async def work() -> None:
        async with venue(slice_of_btc, "BTCUSDT", expect_routes=["public"], speed=5.0) as serving:
            taken: list[dict[str, Any]] = []
            url = f"{serving.ws_url}/public/ws/btcusdt@depth@100ms"
            first = Client(url, snapshot_taker(serving, "BTCUSDT", taken))
            task = asyncio.create_task(first.run())
            await until(lambda: len(first.texts) > 10)
            second = Client(url)
            started = asyncio.get_running_loop().time()
            await asyncio.gather(task, second.run())
            assert asyncio.get_running_loop().time() - started < 8  # no rendezvous of 10 s
            assert second.texts and second.texts == first.texts[-len(second.texts) :]

    run(work())


def test_playback_can_wait_for_streams_and_for_every_route(slice_of_btc: Path) -> None:
    async def work() -> None:
        options: dict[str, Any] = {"expect_streams": ["aggTrade", "markPrice"], "wait_for": "route", "speed": 20.0}
        async with venue(slice_of_btc, "BTCUSDT", **options) as serving:
            playback = serving.playbacks["BTCUSDT"]
            assert playback.missing() == {"public", "market", "aggTrade", "markPrice"}
            public = asyncio.create_task(Client(f"{serving.ws_url}/public/ws/btcusdt@bookTicker").run())
            market = asyncio.create_task(Client(f"{serving.ws_url}/market/ws/btcusdt@aggTrade", stop_after=20).run())
            await until(lambda: playback.missing() == {"markPrice"})
            await asyncio.sleep(0.2)
            assert playback.events == 0
            mark = asyncio.create_task(Client(f"{serving.ws_url}/market/ws/btcusdt@markPrice@1s").run())
            await market
            await until(lambda: playback.state == "waiting")
            assert playback.missing() == {"aggTrade"} and not mark.done()
            position = playback.events
            await asyncio.sleep(0.2)
            assert playback.events == position and not public.done()
            await post(f"{serving.rest_url}/control/resume")
            assert (await public).code == (await mark).code == 1000

    run(work())


def test_a_slow_reader_gets_every_frame() -> None:
    async def work() -> None:
        async with venue(BTC_2024, "BTCUSDT", expect_routes=["public"]) as serving:
            seen: list[int] = []

            async def dawdle(number: int, text: str) -> None:
                if number in (1, 20_000):
                    await asyncio.sleep(0.5)
                    seen.append(serving.playbacks["BTCUSDT"].sent["bookTicker"])

            client = await Client(f"{serving.ws_url}/public/ws/btcusdt@bookTicker", dawdle).run()
            assert len(client.texts) == 66_089 and client.code == 1000
            assert seen[0] < 66_089  # the venue waited: it did not pile up the recording in memory

    run(work())


def test_options_that_cannot_be(slice_of_btc: Path) -> None:
    one = Recording(slice_of_btc, "BTCUSDT")
    for options in ({"speed": 0.0}, {"wait_for": "nobody"}, {"expect_routes": ["private"]}, {"faults": ["nonsense"]}):
        with pytest.raises(ValueError):
            RecordedVenue([one], **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different symbols"):
        RecordedVenue([one, one])


def test_the_command_serves_and_stops_cleanly(slice_of_btc: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.cli.services.simulate",
        "--recording",
        f"{slice_of_btc}=BTCUSDT",
        "--speed",
        "max",
        "--exit-at-end",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())

        async def work() -> None:
            clients = [Client(ready["ws_url"] + path) for path in ("/public/ws/btcusdt@bookTicker", "/market/ws/btcusdt@aggTrade")]
            await asyncio.gather(*(client.run() for client in clients))
            assert all(client.code == 1000 and client.texts for client in clients)

        run(work())
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        _, errors = process.communicate()
    assert "recording ended" in errors
    wrong = subprocess.run([*command[:4], "nowhere=BTCUSDT"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert wrong.returncode == 2 and "no file at" in wrong.stderr

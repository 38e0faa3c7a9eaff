"""Trading beside market data: orders are filled in the market that the streams of the same venue show."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pybit.unified_trading import HTTP
from websockets.asyncio.client import connect

from producers.simulated.market.generated import Making
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from tests.support.markets.recorded_client import BTC_2024, LTC, head
from tests.support.trading.exchange_cases import KEY, SECRET, SYMBOL, Client, D, desk_account, runs, until


@asynccontextmanager
async def beside(*recordings: Recording, **options: Any) -> AsyncIterator[tuple[RecordedVenue, Client]]:
    """Serve markets with an account that trades in them."""
    async with RecordedVenue(recordings, accounts=[desk_account()], **options) as venue, aiohttp.ClientSession() as session:
        yield venue, Client(venue.rest_url, session)


def walked(levels: list[list[str]], quantity: Decimal) -> Decimal:
    """Return what a taker pays for a quantity on levels of a book."""
    paid, left = D(0), quantity
    for price, size in levels:
        part = min(left, D(size))
        paid, left = paid + part * D(price), left - part
    assert left == 0
    return paid


@runs
async def test_an_order_walks_the_very_book_that_the_venue_shows(tmp_path: Path) -> None:
    path = head(BTC_2024, 4000, tmp_path / "BTCUSDT")
    async with (
        beside(Recording(path, SYMBOL), speed=50.0, settle_s=0.01, snapshot_hold_s=0) as (venue, client),
        aiohttp.ClientSession() as session,
    ):
        sockets = [await session.ws_connect(f"{venue.ws_url}/{route}/stream?streams=btcusdt@{name}") for route, name in
                   (("public", "depth@100ms"), ("market", "aggTrade"))]  # fmt: skip
        readers = [asyncio.create_task(_drop(one)) for one in sockets]
        market = venue.playbacks[SYMBOL]
        await until(lambda: market.events > 300)
        market.pause()
        await until(lambda: market.state == "paused")
        async with session.get(f"{venue.rest_url}/fapi/v1/depth?symbol={SYMBOL}&limit=100") as answer:
            book = await answer.json()
        quantity = D("0.1")
        # A second order of the same instant finds what the first one left.
        for side, levels in (("BUY", book["asks"]), ("SELL", book["bids"])):
            _, made = await client.ask("POST", "/fapi/v1/order", symbol=SYMBOL, side=side, type="MARKET", quantity=str(quantity))
            _, order = await client.ask("GET", "/fapi/v1/order", symbol=SYMBOL, orderId=made["orderId"])
            assert order["status"] == "FILLED" and D(order["cumQuote"]) == walked(levels, quantity)
        for reader in readers:
            reader.cancel()


async def _drop(ws: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in ws:
        continue


@runs
async def test_resting_orders_fill_when_the_streamed_market_reaches_them_and_only_then() -> None:
    async with beside(generated=Making(1, rate=2000.0), settle_s=0.0, seed=7) as (venue, client):
        market = venue.generation.markets[0]  # type: ignore[union-attr]
        symbol, tick = market.symbol, D("0.1")
        seen: list[tuple[str, Decimal]] = []

        async with aiohttp.ClientSession() as session:

            async def read(route: str, stream: str) -> None:
                async with session.ws_connect(f"{venue.ws_url}/{route}/stream?streams={symbol.lower()}@{stream}") as ws:
                    async for message in ws:
                        data = message.json()["data"]
                        seen.append(("trade", D(data["p"])) if data["e"] == "aggTrade" else ("ask", D(data["a"])))

            tasks = [asyncio.create_task(read("market", "aggTrade")), asyncio.create_task(read("public", "bookTicker"))]
            await until(lambda: {kind for kind, _ in seen} == {"trade", "ask"})
            (best,) = [D(market.book.top(1).bids[0][0])]  # type: ignore[union-attr]
            orders = {}
            for away in (0, 1, 2, 3, 500):
                price = best - away * tick
                _, answer = await client.ask(
                    "POST", "/fapi/v1/order", symbol=symbol, side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.002", price=str(price)
                )
                orders[answer["orderId"]] = (price, len(seen))
            core = venue.trading.exchange  # type: ignore[union-attr]
            await until(lambda: any(core.orders[number].status == "FILLED" for number in orders), 30)
            await asyncio.sleep(0.2)
            filled = {number for number in orders if core.orders[number].status == "FILLED"}
            for number in filled:
                price, begun = orders[number]
                reached = [what for what, at in seen[begun:] if at < price or (what == "ask" and at <= price)]
                assert reached, (price, seen[begun:])
            assert {orders[number][0] for number in filled} == set(
                sorted((price for price, _ in orders.values()), reverse=True)[: len(filled)]
            )
            assert core.orders[max(orders)].status == "NEW"  # far away
            for task in tasks:
                task.cancel()


@runs
async def test_a_recording_of_trades_alone_can_be_traded_and_stops_by_its_prices() -> None:
    async with beside(Recording(LTC, "LTCUSDT", "spot"), speed=2000.0, settle_s=0.0) as (venue, client), aiohttp.ClientSession() as session:
        ws = await session.ws_connect(f"{venue.ws_url}/market/ws/ltcusdt@aggTrade")
        reader = asyncio.create_task(_drop(ws))
        playback = venue.playbacks["LTCUSDT"]
        await until(lambda: playback.events > 50)
        _, made = await client.ask(
            "POST", "/fapi/v1/order", symbol="LTCUSDT", side="BUY", type="MARKET", quantity="5", newOrderRespType="RESULT"
        )
        assert made["status"] == "FILLED"
        core = venue.trading.exchange  # type: ignore[union-attr]
        last = core.markets["LTCUSDT"].last
        for side, way in (("SELL", -1), ("BUY", 1)):
            status, _ = await client.ask(
                "POST", "/fapi/v1/algoOrder", algoType="CONDITIONAL", symbol="LTCUSDT", side=side, type="STOP_MARKET", quantity="5",
                triggerPrice=str(last + way * D("0.05")), workingType="MARK_PRICE",
            )  # fmt: skip
            assert status == 200
        await until(lambda: any(one.status == "FINISHED" for one in core.conditionals.values()), 30)
        reader.cancel()


@runs
async def test_what_is_listed_and_delisted_can_and_cannot_be_traded() -> None:
    async with beside(generated=Making(2, rate=500.0), settle_s=0.0) as (venue, client):
        _, info = await client.ask("GET", "/fapi/v1/exchangeInfo")
        symbols = [one["symbol"] for one in info["symbols"]]
        assert symbols == [market.symbol for market in venue.generation.markets]  # type: ignore[union-attr]
        assert {one["filterType"] for one in info["symbols"][0]["filters"]} >= {"MARKET_LOT_SIZE", "MIN_NOTIONAL", "PERCENT_PRICE"}
        order = {"symbol": symbols[0], "side": "BUY", "type": "MARKET", "quantity": "0.01"}
        assert (await client.ask("POST", "/fapi/v1/order", **order))[0] == 200
        venue.delist_instrument(symbols[0])
        assert (await client.ask("POST", "/fapi/v1/order", **order))[1]["code"] == -4140
        _, rows = await client.ask("GET", "/fapi/v3/positionRisk")
        assert rows == []
        venue.list_instrument("NEWUSDT")
        assert (await client.ask("POST", "/fapi/v1/order", **{**order, "symbol": "NEWUSDT", "quantity": "20"}))[0] == 200
        venue.list_instrument(symbols[0])
        assert (await client.ask("POST", "/fapi/v1/order", **order))[0] == 200
        ids = [fill.trade_id for fill in venue.trading.exchange.accounts["desk"].fills if fill.symbol == symbols[0]]  # type: ignore[union-attr]
        assert len(ids) == len(set(ids)) == 3
        # Market data of the simulator is where it was.
        async with aiohttp.ClientSession() as session, session.get(f"{venue.rest_url}/fapi/v1/premiumIndex?symbol=NEWUSDT") as answer:
            assert answer.status == 200


@runs
async def test_funding_is_settled_when_the_announced_time_passes() -> None:
    hour = 3_600_000
    start = 1_700_000_000_000 // (8 * hour) * 8 * hour + 8 * hour - 1500
    async with beside(generated=Making(1, rate=400.0, start=start), settle_s=0.0) as (venue, client):
        market = venue.generation.markets[0]  # type: ignore[union-attr]
        status, answer = await client.ask("POST", "/fapi/v1/order", symbol=market.symbol, side="BUY", type="MARKET", quantity="0.02")
        assert status == 200, answer
        account = venue.trading.exchange.accounts["desk"]  # type: ignore[union-attr]
        await until(lambda: any(row.type == "FUNDING_FEE" for row in account.ledger), 20)
        (row,) = [row for row in account.ledger if row.type == "FUNDING_FEE"]
        settled = market.funding[-1]
        worth = -row.amount / D(settled["fundingRate"])
        assert worth / D("0.02") == pytest.approx(D(market.statistics.last_price or "0"), rel=D("0.01"))
        assert row.time >= settled["fundingTime"]


@runs
async def test_bybit_trades_in_its_market_too() -> None:
    async with beside(venue="BYBIT", generated=Making(2, rate=500.0), settle_s=0.0) as (venue, _):
        made = HTTP(api_key=KEY, api_secret=SECRET, max_retries=1)
        made.endpoint = venue.rest_url
        symbol = venue.generation.markets[0].symbol  # type: ignore[union-attr]
        order = {"category": "linear", "symbol": symbol, "side": "Buy", "orderType": "Market", "qty": "0.01", "orderLinkId": "a"}
        assert (await asyncio.to_thread(made.place_order, **order))["retCode"] == 0
        (row,) = (await asyncio.to_thread(made.get_executions, category="linear", symbol=symbol))["result"]["list"]
        (ticker,) = (await asyncio.to_thread(made.get_tickers, category="linear", symbol=symbol))["result"]["list"]
        assert D(row["execPrice"]) == pytest.approx(D(ticker["lastPrice"]), rel=D("0.01"))


@runs
async def test_a_spot_account_trades_beside_made_up_spot_markets() -> None:
    async with beside(venue="BINANCE_SPOT", generated=Making(1, rate=300.0), settle_s=0.0) as (venue, client):
        (symbol,) = venue.markets

        async def price() -> Decimal:
            return D((await client.ask("GET", "/api/v3/ticker/price", symbol=symbol))[1]["price"])

        end = time.monotonic() + 120
        while not await price():
            assert time.monotonic() < end, "the market plays"
            await asyncio.sleep(0.05)
        status, info = await client.ask("GET", "/api/v3/exchangeInfo", symbol=symbol)
        lot = D(next(one["stepSize"] for one in info["symbols"][0]["filters"] if one["filterType"] == "LOT_SIZE"))
        tick = D(next(one["tickSize"] for one in info["symbols"][0]["filters"] if one["filterType"] == "PRICE_FILTER"))
        order = {"symbol": symbol, "side": "BUY", "type": "MARKET", "quantity": lot * 20}
        status, bought = await client.ask("POST", "/api/v3/order", **order)
        assert (status, bought["status"]) == (200, "FILLED") and D(bought["fills"][0]["price"]) > 0
        at = await price()
        levels = {"abovePrice": at * D("1.02") // tick * tick, "belowStopPrice": at * D("0.98") // tick * tick}
        sell = {"symbol": symbol, "side": "SELL", "quantity": lot * 19, "aboveType": "LIMIT_MAKER", "belowType": "STOP_LOSS", **levels}
        status, made = await client.ask("POST", "/api/v3/orderList/oco", **sell)
        assert (status, made["listOrderStatus"]) == (200, "EXECUTING"), made
        held = {one["asset"]: D(one["locked"]) for one in (await client.ask("GET", "/api/v3/account"))[1]["balances"]}
        assert held[info["symbols"][0]["baseAsset"]] == lot * 19


@runs
async def test_a_market_with_expected_listeners_waits_for_one_beside_its_accounts() -> None:
    """Who trades may be there first: a session that lasts a minute must not pass before its producer listens."""
    making = Making(1, rate=1000.0, messages=50)
    async with beside(generated=making, settle_s=0.0, expect_streams=("aggTrade",)) as (venue, client):
        (symbol,) = venue.markets
        await asyncio.sleep(0.2)
        assert (await client.ask("GET", "/fapi/v2/balance"))[0] == 200 and venue.generation.made == 0
        async with connect(f"{venue.ws_url}/market/stream?streams={symbol.lower()}@aggTrade") as socket:
            await asyncio.wait_for(socket.recv(), 20)
        assert venue.generation.made > 0


def test_accounts_need_a_venue_that_can_trade() -> None:
    with pytest.raises(ValueError, match="accounts"):
        RecordedVenue(venue="OKX", generated=Making(1), accounts=[desk_account()])


def test_the_command_serves_trading_to_another_process(tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f'[[accounts]]\nname="desk"\nkeys=[{{key="{KEY}", secret="{SECRET}"}}]\n')
    command = [sys.executable, "-m", "deploy.cli.services.simulate", "--instruments", "2", "--rate", "300", "--trading", str(accounts)]
    with subprocess.Popen(
        [*command, "--trading-fault", "lost:on=order.place,how=503"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PERPFLOW_HTTP_PORT": "0"},
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            symbol = ready["symbols"][0]

            @runs
            async def trade() -> None:
                async with aiohttp.ClientSession() as session:
                    client = Client(ready["rest_url"], session)
                    order = {"symbol": symbol, "side": "BUY", "type": "MARKET", "quantity": "0.01", "newClientOrderId": "pf-1"}
                    assert (await client.ask("POST", "/fapi/v1/order", **order))[0] == 503
                    _, found = await client.ask("GET", "/fapi/v1/order", symbol=symbol, origClientOrderId="pf-1")
                    assert found["status"] == "FILLED"
                    async with session.get(f"{ready['rest_url']}/control/trading/truth/desk") as answer:
                        assert len((await answer.json())["fills"]) >= 1

            trade()
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            process.kill()

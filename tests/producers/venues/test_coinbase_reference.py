"""The premium as it reaches the log: heard on Coinbase, compared with what the reference venue answers on a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from producers.coinbase.adapter import MATCHES, CoinbaseSpot
from producers.venue.adapter.base import Market
from producers.venue.network.rest import Limiter, Rest, RestError
from schemas.codec.avro import Record

NOW = 1_700_000_100_000
ANSWER = [
    {"symbol": "BTCUSDT", "bidPrice": "61999.00", "bidQty": "1", "askPrice": "62001.00", "askQty": "2"},
    {"symbol": "ETHUSDT", "bidPrice": "0", "bidQty": "1", "askPrice": "2", "askQty": "2"},  # no market: passed over
]


def polled(answer: Any, markets: list[Market], status: int = 200) -> tuple[list[tuple[str, str, Record]], list[str]]:
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.query["symbols"])
        return web.json_response(answer, status=status)

    async def work() -> list[tuple[str, str, Record]]:
        app = web.Application()
        app.router.add_get("/api/v3/ticker/bookTicker", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        adapter = CoinbaseSpot(f"http://127.0.0.1:{port}")
        rest = Rest("COINBASE", adapter.rest_url, Limiter("COINBASE", ()))
        try:
            (poll,) = adapter.polls()
            for market in markets:
                if market.symbol != "SOL-USD":
                    row = {"type": "match", "trade_id": 7, "maker_order_id": "a", "taker_order_id": "b", "side": "sell", "size": "1",
                           "price": "62310.00", "product_id": market.symbol, "sequence": 9, "time": "2023-11-14T22:14:20.000000Z"}  # fmt: skip
                    adapter.take(MATCHES, row, market, NOW)
            return await poll.fetch(rest, markets, NOW)
        finally:
            await rest.close()
            if adapter._reference._rest is not None:
                await adapter._reference._rest.close()
            await runner.cleanup()

    return asyncio.run(asyncio.wait_for(work(), 30)), asked


def market(symbol: str) -> Market:
    return Market(symbol, f"COINBASE:{symbol}", {"base_asset": symbol.split("-")[0]})


def test_premiums_of_what_was_heard() -> None:
    found, asked = polled(ANSWER, [market("BTC-USD"), market("ETH-USD"), market("SOL-USD")])
    assert asked == ['["BTCUSDT","ETHUSDT"]']  # of SOL nothing was heard: undefined, not zero
    ((symbol, topic, record),) = found
    assert (symbol, topic) == ("BTC-USD", "market_indicators")
    # 62310 over a mid of 62000 is half a per cent; it is as old as its older side.
    assert record == {
        "instrument": "BINANCE:BTCUSDT-PERP", "event_time": 1_700_000_060_000, "receive_time": NOW, "indicator": "coinbase_premium",
        "value": 0.005,
    }  # fmt: skip


def test_nothing_is_asked_before_something_was_heard() -> None:
    assert polled(ANSWER, [market("SOL-USD")]) == ([], [])


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(RestError, match="HTTP 400"):
        polled({"code": -1121, "msg": "Invalid symbol."}, [market("BTC-USD")], 400)

"""Spot over real sockets: the adapter against the simulated spot exchange, and the live executor with broker and database around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets

from producers.simulated.exchange.server import SimulatedExchange
from schemas.secret import Secrets
from sinks.guard.kill import close_everything
from sinks.guard.preflight import AccountRequirements, passed, preflight
from sinks.venues.binance_spot.venue import BinanceSpotVenue
from sinks.venues.common.adapter import MalformedResponse, PairVenue, RequestRejected
from stream_apps.core.execution.orders.venue_reports import (
    BalanceReport,
    FillReport,
    OrderReport,
    OrderRequest,
    OrderType,
    PairRequest,
    Side,
    StreamLost,
    StreamReady,
    TimeInForce,
)
from tests.support.trading.live_lab import KEY, SECRET, SYMBOL, D, prepare, wait_for
from tests.support.trading.spot_lab import INSTRUMENT, SpotLab, assert_coins_equal, exchange, spot_adapter


def adapter(venue: SimulatedExchange) -> BinanceSpotVenue:
    return spot_adapter(venue.rest_url, venue.ws_url)


def pair(number: int, quantity: str, target: str = "51000", stop: str = "49000") -> PairRequest:
    sell = {"symbol": SYMBOL, "side": Side.SELL, "quantity": D(quantity)}
    limit = OrderRequest(client_order_id=f"t{number}", type=OrderType.LIMIT, price=D(target), time_in_force=TimeInForce.POST_ONLY, **sell)
    return PairRequest(
        f"l{number}", limit, OrderRequest(client_order_id=f"s{number}", type=OrderType.STOP_MARKET, trigger_price=D(stop), **sell)
    )


def test_the_adapter_says_what_the_exchange_does():
    async def run() -> None:
        async with exchange() as venue:
            venue.set_price(SYMBOL, "50000")
            spot = adapter(venue)
            assert isinstance(spot, PairVenue)
            await spot.open()
            heard: list[Any] = []

            async def listen() -> None:
                async for event in spot.user_events():
                    heard.append(event)

            task = asyncio.create_task(listen())
            await until(lambda: any(isinstance(one, StreamReady) for one in heard))
            bought = await spot.place(OrderRequest("in1", SYMBOL, Side.BUY, OrderType.MARKET, D("0.01")))
            assert (bought.status.value, bought.average_price) == ("FILLED", D("50000.1"))
            with pytest.raises(RequestRejected) as refused:
                await spot.place_pair(pair(1, "0.01"))
            assert refused.value.reason == "insufficient_balance"
            with pytest.raises(RequestRejected) as refused:
                await spot.place_pair(pair(1, "0.001", target="49500"))
            assert refused.value.reason == "prices"
            both = await spot.place_pair(pair(1, "0.00999"))
            assert [(one.client_order_id, one.type.value, one.status.value) for one in both] == [
                ("t1", "LIMIT", "NEW"),
                ("s1", "STOP_MARKET", "NEW"),
            ]
            assert both[1].trigger_price == D(49_000)
            assert {one.client_order_id for one in await spot.open_orders()} == {"t1", "s1"}
            cancelled = await spot.cancel(SYMBOL, "s1", conditional=True)
            assert cancelled is not None and (cancelled.client_order_id, cancelled.status.value) == ("s1", "CANCELED")
            assert await spot.cancel(SYMBOL, "t1", conditional=False) is None
            other = await spot.query(SYMBOL, "t1", conditional=False)
            assert other is not None and other.status.value == "CANCELED" and await spot.query(SYMBOL, "nobody", conditional=False) is None
            await spot.place_pair(pair(2, "0.00999"))
            venue.set_price(SYMBOL, "48900")
            await until(lambda: sum(isinstance(one, FillReport) for one in heard) == 2)
            fills = await spot.fills(SYMBOL, spot_time(venue) - 60_000)
            assert [(one.client_order_id, one.fee_asset, one.fee) for one in fills] == [
                ("in1", "BTC", D("0.00001")),
                ("s2", "USDT", D("0.48851000")),
            ]
            assert [one for one in heard if isinstance(one, FillReport)] == [
                next(fill for fill in (_as(one, heard) for one in fills) if fill.trade_id == told.trade_id)
                for told in heard
                if isinstance(told, FillReport)
            ]
            ends = {one.client_order_id: one.status.value for one in heard if isinstance(one, OrderReport)}
            assert ends == {"in1": "FILLED", "t1": "CANCELED", "s1": "CANCELED", "t2": "EXPIRED", "s2": "FILLED"}
            held = {one.asset: (one.wallet, one.available) for one in await spot.balances()}
            newest = {one.asset: (one.wallet, one.available) for one in heard if isinstance(one, BalanceReport)}
            assert held == newest and await spot.positions() == []
            venue.control.cut()
            await until(lambda: isinstance(heard[-1], StreamReady) and any(isinstance(one, StreamLost) for one in heard))
            task.cancel()
            found = await preflight(spot, AccountRequirements((SYMBOL,), 1, D(20)))
            assert passed(found, strict=True), found
            # The kill switch: locked coins are freed, then sold.
            await spot.place(OrderRequest("in2", SYMBOL, Side.BUY, OrderType.MARKET, D("0.01")))
            await spot.place_pair(pair(3, "0.00999", target="49500", stop="48000"))
            killed = await close_everything(spot, asyncio.sleep)
            assert not killed.left and not await spot.open_orders() and D(venue.truth("lab")["balances"]["BTC"]) < D("0.00001")
            await spot.close()

    asyncio.run(run())


def test_a_coin_without_a_price_makes_the_answer_unreadable_and_is_never_left_out():
    """Left out, it would seem to be sold, and the reconciler would end its trade."""

    async def run() -> None:
        async with exchange() as venue:
            venue.set_price(SYMBOL, "50000")
            spot = adapter(venue)
            await spot.open()
            await spot.place(OrderRequest("in1", SYMBOL, Side.BUY, OrderType.MARKET, D("0.01")))
            (held,) = await spot.positions()
            assert (held.symbol, held.quantity) == (SYMBOL, D("0.00999"))
            request = spot._rest.request

            async def silent(method: str, path: str, *rest: Any, **more: Any) -> Any:
                return [] if path == "/api/v3/ticker/price" else await request(method, path, *rest, **more)

            spot._rest.request = silent  # type: ignore[method-assign]
            with pytest.raises(MalformedResponse) as failed:
                await spot.positions()
            assert failed.value.field == SYMBOL
            await spot.close()

    asyncio.run(run())


@pytest.mark.parametrize("answer", [None, b"", b"no JSON", b"[]", b'{"id":"user"}', b'{"id":"user","status":403,"error":{"msg":"no"}}'])
def test_a_stream_that_is_not_granted_is_opened_again(answer: bytes | None, monkeypatch: pytest.MonkeyPatch):
    """Also by a venue that answers nonsense, or closes at once."""
    opened = 0

    async def serve(socket: websockets.ServerConnection) -> None:
        nonlocal opened
        opened += 1
        await socket.recv()
        if opened > 2:
            await socket.send('{"id":"user","status":200,"result":{"subscriptionId":0}}')
            await socket.wait_closed()
        elif answer is not None:
            await socket.send(answer.decode())

    async def run() -> None:
        async with exchange() as venue, websockets.serve(serve, "127.0.0.1", 0) as server:
            spot = BinanceSpotVenue(venue.rest_url, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEY, SECRET, Secrets())
            await spot.open()
            monkeypatch.setattr("sinks.venues.common.user_stream.BACKOFF_S", (0.01, 0.01))
            heard: list[Any] = []
            async with asyncio.timeout(20):
                async for event in spot.user_events():
                    heard.append(type(event))
                    if isinstance(event, StreamReady):
                        break
            assert heard == [StreamLost, StreamLost, StreamReady]
            await spot.close()

    asyncio.run(run())


def _as(fill: FillReport, heard: list[Any]) -> FillReport:
    """A fill of a query as the stream told it: the stream names the type of its order too."""
    from dataclasses import replace

    told = next(one for one in heard if isinstance(one, FillReport) and one.trade_id == fill.trade_id)
    return replace(fill, order_type=told.order_type)


def spot_time(venue: SimulatedExchange) -> int:
    return venue.desk.clock()


async def until(condition: Any, seconds: float = 120.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not come to pass"
        await asyncio.sleep(0.01)


# --- the executor -------------------------------------------------------------------------------------------------------------


@pytest.mark.stack
def test_a_spot_signal_lives_through_faults_and_a_restart_and_its_coins_are_the_exchanges(environment, topics):
    prepare(environment)
    with SpotLab(environment) as lab:
        with lab.running():
            lab.faults("lost:on=list.place,at=1,how=503", "lost:on=order.place,at=1,how=cut", "duplicate:on=executionReport,rate=0.3")
            lab.signal()
            wait_for(lambda: lab.resting == ["LIMIT_MAKER", "STOP_LOSS"], 40, "one pair rests")
            lab.clear_faults()
        with lab.running():
            assert lab.resting == ["LIMIT_MAKER", "STOP_LOSS"]
            stop = next(one for one in lab.truth()["open_orders"] if one["type"] == "STOP_LOSS")
            lab.on_exchange(lambda: lab.venue.exchange.cancel("lab", SYMBOL, stop["orderId"], None, lab.venue.desk.clock()))
            lab.on_exchange(lab.venue.server.flush)
            wait_for(lambda: lab.resting == ["LIMIT_MAKER", "STOP_LOSS"], 40, "a lost pair is placed anew")
            lab.price(50_400)
            wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)], 40)
            wait_for(lambda: lab.query("SELECT count(*) FROM live_outbox") == [(0,)], 40)
        assert_coins_equal(lab)
        assert lab.position == 0 and not lab.resting
        (closed,) = lab.written("trades_closed")
        assert (closed["exit_reason"], closed["instrument"]) == ("tp2", INSTRUMENT)
        assert lab.written("reconciliations")[-1]["state"] != "red"

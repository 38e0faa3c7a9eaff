"""The Binance adapter against the simulated exchange, which the venue's own client library checks (``test_exchange_oracle.py``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from producers.simulated.exchange.server import SimulatedExchange
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey
from schemas.secret import Secrets
from sinks.guard.kill import close_everything
from sinks.guard.preflight import AccountRequirements, passed, preflight
from sinks.venues.binance.venue import BinanceVenue
from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueError
from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    OrderReport,
    OrderRequest,
    OrderType,
    Side,
    StreamLost,
    StreamReady,
    TimeInForce,
    VenueStatus,
)
from tests.support.trading.exchange_cases import KEY, SECRET, SYMBOL, D, desk_account, runs, serving


@asynccontextmanager
async def opened(venue: SimulatedExchange, **more: Any) -> AsyncIterator[BinanceVenue]:
    account = BinanceVenue(venue.rest_url, venue.ws_url + "/private", KEY, SECRET, Secrets(), key_url=venue.rest_url, **more)
    await account.open()
    try:
        yield account
    finally:
        await account.close()


def market(client: str, side: Side, quantity: str, reduce_only: bool = False) -> OrderRequest:
    return OrderRequest(client, SYMBOL, side, OrderType.MARKET, D(quantity), reduce_only=reduce_only)


def stop(client: str, quantity: str, trigger: str) -> OrderRequest:
    return OrderRequest(client, SYMBOL, Side.SELL, OrderType.STOP_MARKET, D(quantity), trigger_price=D(trigger), reduce_only=True)


@runs
async def test_a_position_from_entry_to_its_stop_as_told_by_answers_queries_stream_and_lists() -> None:
    async with serving() as venue, opened(venue) as account:
        heard: list[Any] = []

        async def listen() -> None:
            async for event in account.user_events():
                heard.append(event)

        listener = asyncio.create_task(listen())
        while not heard:
            await asyncio.sleep(0.01)
        begun = int(time.time() * 1000)
        entry = await account.place(market("pf-e1", Side.BUY, "0.100"))
        # The answer tells no price since 2026; the query does.
        assert (entry.status, entry.filled, entry.average_price) == (VenueStatus.FILLED, D("0.100"), None)
        asked = await account.query(SYMBOL, "pf-e1", conditional=False)
        assert asked is not None and asked.average_price == D("60000.1")
        placed = await account.place(stop("pf-s1", "0.100", "59000"))
        assert (placed.status, placed.type, placed.trigger_price, placed.reduce_only) == (
            VenueStatus.NEW,
            OrderType.STOP_MARKET,
            D(59000),
            True,
        )
        limit = OrderRequest("pf-t1", SYMBOL, Side.SELL, OrderType.LIMIT, D("0.050"), D(61000), None, TimeInForce.POST_ONLY, True)
        await account.place(limit)
        assert {one.client_order_id for one in await account.open_orders(SYMBOL)} == {"pf-s1", "pf-t1"}
        (held,) = await account.positions()
        assert (held.quantity, held.entry_price, held.leverage) == (D("0.100"), D("60000.1"), 20)
        venue.set_price(SYMBOL, "58990")
        done = await account.query(SYMBOL, "pf-s1", conditional=True)
        assert done is not None and (done.status, done.filled) == (VenueStatus.FILLED, D("0.100"))
        assert await account.positions() == [] or all(not one.quantity for one in await account.positions())
        fills = await account.fills(SYMBOL, begun - 1_000)
        assert [(one.client_order_id, one.side, one.quantity) for one in fills] == [
            ("pf-e1", Side.BUY, D("0.100")),
            ("pf-s1", Side.SELL, D("0.100")),
        ]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and sum(isinstance(one, FillReport) for one in heard) < 2:
            await asyncio.sleep(0.01)
        streamed = [one for one in heard if isinstance(one, FillReport)]
        assert [(one.trade_id, one.client_order_id, one.price, one.fee) for one in streamed] == [
            (one.trade_id, one.client_order_id, one.price, one.fee) for one in fills
        ]
        states = [one.status for one in heard if isinstance(one, OrderReport) and one.client_order_id == "pf-s1"]
        assert states[0] is VenueStatus.NEW and states[-1] is VenueStatus.FILLED
        truth = venue.truth("desk")
        (balance,) = [one for one in await account.balances() if one.asset == "USDT"]
        assert balance.wallet == D(truth["wallet"])
        listener.cancel()


@runs
async def test_what_the_venue_refuses_has_the_same_words_everywhere() -> None:
    async with serving() as venue, opened(venue) as account:
        cases = {
            "reduce_only": market("r1", Side.SELL, "0.1", reduce_only=True),
            "post_only": OrderRequest("r2", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.1"), D(61000), None, TimeInForce.POST_ONLY),
            "insufficient_balance": market("r3", Side.BUY, "90"),
            "filter": OrderRequest("r4", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.0001"), D(60000)),
        }
        for reason, request in cases.items():
            with pytest.raises(RequestRejected) as refused:
                await account.place(request)
            assert refused.value.reason == reason
        await account.place(market("pos", Side.BUY, "0.1"))
        with pytest.raises(RequestRejected) as refused:
            await account.place(stop("r5", "0.1", "60500"))
        assert refused.value.reason == "would_trigger"
        await account.place(OrderRequest("dup", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.1"), D(50000)))
        with pytest.raises(RequestRejected) as refused:
            await account.place(OrderRequest("dup", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.1"), D(50000)))
        assert refused.value.reason == "duplicate_id"
        assert await account.query(SYMBOL, "never", conditional=False) is None
        assert await account.query(SYMBOL, "never", conditional=True) is None
        assert await account.cancel(SYMBOL, "never", conditional=False) is None
        assert await account.cancel(SYMBOL, "never", conditional=True) is None


@pytest.mark.parametrize("how", ["cut", "503", "504", "timeout"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_lost_answer_is_unknown_and_a_query_tells(how: str, conditional: bool) -> None:
    async def run() -> None:
        async with serving() as venue, opened(venue) as account:
            await account.place(market("base", Side.BUY, "0.1"))
            venue.control.faults([f"lost:how={how},on={'algo' if conditional else 'order'}.place"])
            request = stop("pf-x", "0.1", "59000") if conditional else market("pf-x", Side.BUY, "0.1")
            with pytest.raises(OutcomeUnknown):
                await account.place(request)
            found = await account.query(SYMBOL, "pf-x", conditional)
            assert found is not None and found.status is (VenueStatus.NEW if conditional else VenueStatus.FILLED)

    asyncio.run(run())


@runs
async def test_what_never_arrived_is_told_apart_where_the_venue_tells() -> None:
    async with serving() as venue, opened(venue) as account:
        venue.control.faults(["status:code=503,on=order.place"])
        with pytest.raises(RateLimited):
            await account.place(market("a", Side.BUY, "0.1"))
        venue.control.clear_faults()
        venue.control.faults(["unsent:on=order.place"])
        with pytest.raises(OutcomeUnknown):  # a cut connection says nothing
            await account.place(market("b", Side.BUY, "0.1"))
        assert await account.query(SYMBOL, "b", conditional=False) is None
        venue.control.clear_faults()
        venue.control.faults(["skew:ms=9000"])
        assert (await account.place(market("c", Side.BUY, "0.1"))).status is VenueStatus.FILLED
        assert 8_500 < await account.clock_skew_ms() < 9_500


@runs
async def test_a_cut_stream_is_told_and_comes_back_with_a_new_key() -> None:
    async with serving() as venue, opened(venue) as account:
        heard: list[Any] = []

        async def listen() -> None:
            async for event in account.user_events():
                heard.append(event)

        listener = asyncio.create_task(listen())
        for act in (lambda: venue.control.cut("desk"), lambda: venue.control.expire_listen_keys("desk")):
            ready = sum(isinstance(one, StreamReady) for one in heard)
            while sum(isinstance(one, StreamReady) for one in heard) == ready:
                await asyncio.sleep(0.01)
            act()
        async with asyncio.timeout(10):
            while sum(isinstance(one, StreamReady) for one in heard) < 3:
                await asyncio.sleep(0.01)
        assert [type(one) for one in heard] == [StreamReady, StreamLost, StreamReady, StreamLost, StreamReady]
        listener.cancel()


@runs
async def test_funding_liquidation_and_deleveraging_are_named() -> None:
    async with serving() as venue, opened(venue) as account:
        begun = int(time.time() * 1000) - 1
        await account.place(market("e", Side.BUY, "0.2"))
        venue.funding(SYMBOL, "0.0001")
        (payment,) = await account.funding(begun)
        assert payment.symbol == SYMBOL and payment.paid == D("0.2") * D(60000) * D("0.0001") and payment.asset == "USDT"
        venue.control.deleverage("desk", SYMBOL, D("0.1"))
        venue.liquidate("desk", SYMBOL)
        kinds = [one.order_type for one in await account.fills(SYMBOL, begun) if one.client_order_id != "e"]
        assert kinds == ["ADL", "LIQUIDATION"]


@runs
async def test_fills_come_in_pages_and_each_once() -> None:
    async with serving() as venue, opened(venue) as account:
        begun = int(time.time() * 1000) - 1
        # A book of thin levels: one order has many fills.
        venue.set_book(SYMBOL, [(D("59999.9"), D(1))], [(D("60000.1") + D("0.1") * level, D("0.001")) for level in range(1_500)])
        await account.place(market("many", Side.BUY, "1.200"))
        fills = await account.fills(SYMBOL, begun)
        assert len(fills) == 1_200 == len({one.trade_id for one in fills})
        assert sum(one.quantity for one in fills) == D("1.200")


# --- preflight and the kill switch ------------------------------------------------------------------------------------------------


def failed(found: list[Any]) -> set[str]:
    return {one.check for one in found if not one.ok}


@runs
async def test_preflight_passes_a_sound_account_and_names_each_fault() -> None:
    wanted = AccountRequirements((SYMBOL,), 5, D(100))
    async with serving() as venue, opened(venue) as account:
        found = await preflight(account, wanted)
        assert passed(found, strict=True) and failed(found) == set()
        assert [one.ok for one in await preflight(account, wanted)] == [one.ok for one in found]  # what is set already is no error
        assert failed(await preflight(account, AccountRequirements((SYMBOL, "NOPEUSDT"), 5, D(100)))) == {"NOPEUSDT trades"}
        assert failed(await preflight(account, AccountRequirements((SYMBOL,), 5, D(999999)))) == {"balance"}
        told = {one.check: one for one in await preflight(account, AccountRequirements((SYMBOL,), 5, D(100), budget=D(10_400)))}
        assert told["budget"].detail.endswith("400.00000000 USDT short: move it to the futures wallet by hand") and told["budget"].ok
        assert told["key moves no money"].detail == "right"
    async with serving([desk_account(keys=(ApiKey(KEY, "desk", SECRET, transfer=True),))]) as venue, opened(venue) as account:
        told = {one.check: one for one in await preflight(account, wanted)}
        assert "remove this permission" in told["key moves no money"].detail and passed(list(told.values()), strict=True)
    bad = AccountSpec("desk", dual=True, keys=(ApiKey(KEY, "desk", SECRET, withdraw=True),))
    async with serving([bad]) as venue, opened(venue) as account:
        found = await preflight(account, wanted)
        assert failed(found) == {"position mode", "key may not withdraw"} and not passed(found, strict=False)
    async with serving([desk_account(keys=(ApiKey(KEY, "desk", SECRET, trade=False),))]) as venue, opened(venue) as account:
        assert "key may trade" in failed(await preflight(account, wanted))


@runs
async def test_what_a_venue_does_not_tell_fails_live_only() -> None:
    async with serving() as venue:
        account = BinanceVenue(venue.rest_url, venue.ws_url + "/private", KEY, SECRET, Secrets())
        await account.open()
        found = await preflight(account, AccountRequirements((SYMBOL,), 5, D(100)))
        assert failed(found) == {"key may not withdraw"} and passed(found, strict=False) and not passed(found, strict=True)
        await account.close()


@runs
async def test_the_kill_switch_closes_and_cancels_whatever_fails_on_the_way() -> None:
    async with serving() as venue, opened(venue) as account:
        venue.set_price("ETHUSDT", "3000")
        await account.place(market("long", Side.BUY, "0.3"))
        await account.place(OrderRequest("short", "ETHUSDT", Side.SELL, OrderType.MARKET, D(2)))
        await account.place(stop("stop", "0.3", "59000"))
        await account.place(OrderRequest("rest", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.1"), D(50000)))
        venue.control.faults(
            [
                "lost:on=order.place",
                "status:code=503,on=positions,at=1",
                "partial:on=order.place,share=0.5,at=1",
                "unknown:on=order.cancel_all",
            ]
        )
        waits: list[float] = []

        async def pause(seconds: float) -> None:
            waits.append(seconds)

        killed = await close_everything(account, pause)
        truth = venue.truth("desk")
        assert truth["positions"] == {} and truth["open_orders"] == [] and truth["open_conditionals"] == []
        assert killed.left == {} and killed.closed == {SYMBOL: D("0.3"), "ETHUSDT": D(-2)} and killed.errors and waits
        again = await close_everything(account, pause)
        assert again.closed == {} and again.left == {}


@runs
async def test_the_kill_switch_says_what_it_could_not_close() -> None:
    async with serving() as venue, opened(venue) as account:
        await account.place(market("long", Side.BUY, "0.3"))
        venue.control.faults(["reject:on=order.place,code=-2010,n=0"])

        async def pause(seconds: float) -> None:
            pass

        killed = await close_everything(account, pause)
        assert killed.left == {SYMBOL: D("0.3")} and killed.errors
        venue.control.faults(["maintenance"])
        with pytest.raises(VenueError):
            await close_everything(account, pause)
        assert Decimal(venue.truth("desk")["positions"][SYMBOL]["quantity"]) == D("0.3")

"""The simulated exchange in Bybit's words: its own client library signs and sends, and the adapter reads answers and the private stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pybit.exceptions import FailedRequestError, InvalidRequestError
from pybit.unified_trading import HTTP

from producers.simulated.exchange.server import SimulatedExchange
from producers.simulated.exchange.session.keys import ApiKey
from schemas.secret import Secrets
from sinks.venues.bybit.venue import BybitVenue
from sinks.venues.common.adapter import OutcomeUnknown, RequestRejected
from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    OrderReport,
    OrderRequest,
    OrderType,
    Side,
    StreamReady,
    TimeInForce,
    UserEvent,
    VenueStatus,
)
from tests.support.trading.exchange_cases import KEY, SECRET, SYMBOL, D, desk_account, runs, serving, until


def official(venue: SimulatedExchange, key: str = KEY, secret: str = SECRET) -> HTTP:
    """Return Bybit's own client, pointed at a simulated exchange; its calls block."""
    made = HTTP(api_key=key, api_secret=secret, max_retries=1)
    made.endpoint = venue.rest_url
    return made


async def ask(call: Callable[..., Any], **options: Any) -> Any:
    """Make a blocking call and return the result."""
    answer = await asyncio.to_thread(call, **options)
    assert answer["retCode"] == 0
    return answer["result"]


async def refused(call: Callable[..., Any], **options: Any) -> int:
    """Make a call that must be refused; return the code."""
    with pytest.raises((InvalidRequestError, FailedRequestError)) as caught:
        await asyncio.to_thread(call, **options)
    return int(caught.value.status_code)


@runs
async def test_the_order_life_as_the_venues_own_client_sees_it() -> None:
    async with serving(venue="BYBIT") as venue:
        client = official(venue)
        linear = {"category": "linear", "symbol": SYMBOL}
        info = await ask(client.get_instruments_info, category="linear")
        assert info["list"][0]["priceFilter"]["tickSize"] == "0.1"
        resting = {
            **linear,
            "side": "Buy",
            "orderType": "Limit",
            "qty": "0.1",
            "price": "59000",
            "timeInForce": "PostOnly",
            "orderLinkId": "pf-1",
        }
        made = await ask(client.place_order, **resting)
        assert made["orderLinkId"] == "pf-1"
        (row,) = (await ask(client.get_open_orders, **linear))["list"]
        assert (row["orderId"], row["orderStatus"], row["timeInForce"]) == (made["orderId"], "New", "PostOnly")
        assert await refused(client.place_order, **resting) == 110072
        assert (await ask(client.cancel_order, **linear, orderLinkId="pf-1"))["orderId"] == made["orderId"]
        assert await refused(client.cancel_order, **linear, orderLinkId="pf-1") == 110001
        (row,) = (await ask(client.get_open_orders, **linear, orderLinkId="pf-1"))["list"]
        assert (row["orderStatus"], row["cancelType"]) == ("Cancelled", "CancelByUser")
        # A post-only order that would take is taken in, and cancelled.
        await ask(client.place_order, **{**resting, "price": "60000.1", "orderLinkId": "pf-2"})
        (row,) = (await ask(client.get_order_history, category="linear", orderLinkId="pf-2"))["list"]
        assert (row["orderStatus"], row["rejectReason"]) == ("Cancelled", "EC_PostOnlyWillTakeLiquidity")
        await ask(client.place_order, **linear, side="Buy", orderType="Market", qty="0.1", orderLinkId="pf-3")
        (row,) = (await ask(client.get_executions, **linear))["list"]
        assert (row["orderLinkId"], row["execPrice"], row["execFee"], row["isMaker"]) == ("pf-3", "60000.1", "3.000005", False)
        (position,) = (await ask(client.get_positions, category="linear", settleCoin="USDT"))["list"]
        assert (position["side"], position["size"], position["avgPrice"]) == ("Buy", "0.1", "60000.1")
        (wallet,) = (await ask(client.get_wallet_balance, accountType="UNIFIED"))["list"]
        assert wallet["coin"][0]["walletBalance"] == "9996.999995"


@runs
async def test_a_stop_is_one_order_from_its_placing_to_its_fill() -> None:
    async with serving(venue="BYBIT") as venue:
        client = official(venue)
        linear = {"category": "linear", "symbol": SYMBOL}
        await ask(client.place_order, **linear, side="Buy", orderType="Market", qty="0.1")
        stop = {
            **linear,
            "side": "Sell",
            "orderType": "Market",
            "qty": "0.1",
            "triggerDirection": 2,
            "triggerBy": "MarkPrice",
            "reduceOnly": True,
        }
        assert await refused(client.place_order, **stop, triggerPrice="61000") == 110093
        made = await ask(client.place_order, **stop, triggerPrice="59000", orderLinkId="pf-s")
        (row,) = (await ask(client.get_open_orders, **linear))["list"]
        assert (row["orderStatus"], row["stopOrderType"], row["triggerPrice"], row["reduceOnly"]) == ("Untriggered", "Stop", "59000", True)
        venue.set_price(SYMBOL, "58990")
        (row,) = (await ask(client.get_order_history, category="linear", orderLinkId="pf-s"))["list"]
        assert (row["orderId"], row["orderStatus"], row["cumExecQty"], row["avgPrice"]) == (made["orderId"], "Filled", "0.1", "58989.9")
        assert (await ask(client.get_positions, category="linear", settleCoin="USDT"))["list"] == []


@runs
async def test_what_is_refused_in_the_venues_words() -> None:
    reader = ApiKey("reader", "desk", "s2", trade=False)
    async with serving([desk_account(keys=(*desk_account().keys, reader))], venue="BYBIT") as venue:
        order = {"category": "linear", "symbol": SYMBOL, "side": "Sell", "orderType": "Market", "qty": "0.1"}
        client = official(venue)
        assert await refused(client.place_order, **order, reduceOnly=True) == 110017
        assert await refused(client.place_order, **{**order, "qty": "50"}) == 110007
        assert await refused(client.place_order, **{**order, "qty": "0.00001"}) == 10001
        assert await refused(client.place_order, **{**order, "category": "spot"}) == 10001
        assert await refused(client.get_positions, category="linear") == 10001
        assert await refused(official(venue, secret="other").place_order, **order) == 10004
        assert await refused(official(venue, key="unknown").place_order, **order) == 10003
        assert await refused(official(venue, key="reader", secret="s2").place_order, **order) == 10005
        assert await refused(client.set_leverage, category="linear", symbol=SYMBOL, buyLeverage="20", sellLeverage="20") == 110043
        await ask(client.set_leverage, category="linear", symbol=SYMBOL, buyLeverage="5", sellLeverage="5")
        venue.plan.add(["skew:ms=60000"])
        # The library takes 10002 for a slow network, and gives up after its retries.
        assert await refused(client.place_order, **order) == 400
        assert not venue.exchange.orders


@asynccontextmanager
async def adapter(**options: Any) -> AsyncIterator[tuple[BybitVenue, SimulatedExchange, list[UserEvent]]]:
    """Open the adapter on an exchange, its private stream up."""
    async with serving(venue="BYBIT", **options) as exchange:
        venue = BybitVenue(exchange.rest_url, exchange.ws_url + "/v5/private", KEY, SECRET, Secrets())
        await venue.open()
        heard: list[UserEvent] = []

        async def listen() -> None:
            async for event in venue.user_events():
                heard.append(event)

        task = asyncio.create_task(listen())
        try:
            await until(lambda: exchange.server.streams.listeners("desk"))
            yield venue, exchange, heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await venue.close()


@runs
async def test_the_adapter_and_the_exchange_written_apart_agree_on_every_fact() -> None:
    async with adapter() as (venue, exchange, heard):
        await venue.place(OrderRequest("pf-e", SYMBOL, Side.BUY, OrderType.MARKET, D("0.1")))
        stop = OrderRequest("pf-s", SYMBOL, Side.SELL, OrderType.STOP_MARKET, D("0.1"), trigger_price=D("59000"), reduce_only=True)
        assert (await venue.place(stop)).status is VenueStatus.NEW
        taking = OrderRequest("pf-t", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.1"), D("60000.1"), time_in_force=TimeInForce.POST_ONLY)
        await venue.place(taking)
        assert [one.client_order_id for one in await venue.open_orders(SYMBOL)] == ["pf-s"]
        (held,) = await venue.positions()
        assert (held.quantity, held.entry_price, held.leverage) == (D("0.1"), D("60000.1"), 20)
        exchange.funding(SYMBOL, "0.0001")
        exchange.set_price(SYMBOL, "58990")
        await until(lambda: sum(isinstance(one, FillReport) for one in heard) == 2)
        asked = {one.trade_id: one for one in await venue.fills(SYMBOL, exchange.desk.now() - 3_600_000)}
        assert {one.trade_id: one for one in heard if isinstance(one, FillReport)} == asked
        assert [one.client_order_id for one in sorted(asked.values(), key=lambda one: one.time)] == ["pf-e", "pf-s"]
        (paid,) = await venue.funding(exchange.desk.now() - 3_600_000)
        assert paid.paid == D("0.6")
        (balance,) = await venue.balances()
        assert balance.wallet == 10_000 - D("0.6") + sum((one.realised or 0) - one.fee for one in asked.values())
        assert balance.wallet == D(exchange.truth("desk")["wallet"])
        last = {one.client_order_id: one.status for one in heard if isinstance(one, OrderReport)}
        assert last == {"pf-e": VenueStatus.FILLED, "pf-s": VenueStatus.FILLED, "pf-t": VenueStatus.CANCELED}
        await venue.set_leverage(SYMBOL, 7)
        await venue.set_leverage(SYMBOL, 7)
        await venue.set_isolated(SYMBOL)
        facts = await venue.account()
        assert (facts.can_trade, facts.can_withdraw, facts.one_way, facts.ip_restricted) == (True, False, True, True)
        exchange.server.streams.cut("desk")
        await until(lambda: sum(isinstance(one, StreamReady) for one in heard) == 2)


@runs
async def test_lost_answers_and_messages_twice_late_and_lost() -> None:
    faults = ["lost:on=order.place,how=timeout", "lost:on=order.place,at=1", "duplicate:on=execution", "drop:on=order,at=1"]
    async with adapter(faults=faults) as (venue, exchange, heard):
        for name in ("a", "b"):
            with pytest.raises(OutcomeUnknown):
                await venue.place(OrderRequest(name, SYMBOL, Side.BUY, OrderType.MARKET, D("0.01")))
            found = await venue.query(SYMBOL, name, conditional=False)
            assert found is not None and found.status is VenueStatus.FILLED
        assert await venue.query(SYMBOL, "c", conditional=False) is None
        await until(lambda: sum(isinstance(one, FillReport) for one in heard) == 3)
        with pytest.raises(RequestRejected) as caught:
            await venue.place(OrderRequest("a", SYMBOL, Side.BUY, OrderType.MARKET, D("0.01")))
        assert caught.value.reason == "duplicate_id"
        assert exchange.plan.applied == {"lost": 2, "duplicate": 1, "drop": 1}

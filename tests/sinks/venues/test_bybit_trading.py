"""The Bybit adapter against documents: requests, payloads, what each kind of answer means; over real sockets where sockets matter."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from schemas.secret import Secrets
from sinks.venues.account_login import addresses
from sinks.venues.bybit import mapping
from sinks.venues.bybit.private_stream import facts_of
from sinks.venues.bybit.rest import BybitRest, error_of
from sinks.venues.bybit.venue import BybitVenue
from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueUnreachable
from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    OrderReport,
    OrderRequest,
    OrderType,
    PositionReport,
    Side,
    TimeInForce,
    VenueStatus,
)

KEY, SECRET = "the-api-key-of-a-test", "the-api-secret-of-a-test"

# As printed in the venue's documents (private stream "Order", "Execution", "Position"), values unchanged but for what is noted.
ORDER = {
    "symbol": "ETHUSDT", "orderId": "5cf98598-39a7-459e-97bf-76ca765ee020", "side": "Sell", "orderType": "Market", "cancelType": "UNKNOWN",
    "price": "72.5", "qty": "1", "orderIv": "", "timeInForce": "IOC", "orderStatus": "Filled", "orderLinkId": "pf-1", "lastPriceOnCreated": "",
    "reduceOnly": False, "leavesQty": "", "leavesValue": "", "cumExecQty": "1", "cumExecValue": "75", "avgPrice": "75", "blockTradeId": "",
    "positionIdx": 0, "cumExecFee": "0.358635", "closedPnl": "0", "createdTime": "1672364262444", "updatedTime": "1672364262457",
    "rejectReason": "EC_NoError", "stopOrderType": "", "tpslMode": "", "triggerPrice": "", "takeProfit": "", "stopLoss": "", "category": "linear",
    "isLeverage": "", "smpType": "None", "unknownField": 1,
}  # fmt: skip
EXECUTION = {
    "category": "linear", "symbol": "BTCUSDT", "closedSize": "0", "execFee": "0.005061", "execId": "7e2ae69c-4edf-5800-a352-893d52b446aa",
    "execPrice": "3374", "execQty": "0.005", "execType": "Trade", "execValue": "16.87", "feeRate": "0.0003", "tradeIv": "", "markIv": "",
    "blockTradeId": "", "markPrice": "3391", "indexPrice": "", "underlyingPrice": "", "leavesQty": "0",
    "orderId": "f6e324ff-99c2-4e89-9739-3086e47f9381", "orderLinkId": "pf-1", "orderPrice": "3207", "orderQty": "0.005", "orderType": "Market",
    "stopOrderType": "UNKNOWN", "side": "Sell", "execTime": "1672364174443", "isLeverage": "0", "isMaker": False, "seq": 4688002127,
    "execPnl": "-0.25",
}  # fmt: skip
POSITION = {
    "positionIdx": 0, "tradeMode": 0, "riskId": 41, "riskLimitValue": "200000", "symbol": "XRPUSDT", "side": "Sell", "size": "75",
    "entryPrice": "0.3615", "leverage": "10", "positionValue": "27.1125", "markPrice": "0.3674", "unrealisedPnl": "-0.4425", "liqPrice": "",
    "updatedTime": "1672121182224", "category": "linear",
}  # fmt: skip


def test_an_order_an_execution_and_a_position_field_by_field() -> None:
    (order,) = facts_of({"topic": "order.linear", "data": [ORDER]})
    assert isinstance(order, OrderReport)
    assert (order.client_order_id, order.symbol, order.side, order.type) == ("pf-1", "ETHUSDT", Side.SELL, OrderType.MARKET)
    assert (order.status, order.filled, order.average_price, order.price) == (VenueStatus.FILLED, Decimal(1), Decimal(75), None)
    assert order.reason is None and order.trigger_price is None and order.updated_at == 1672364262457
    (fill,) = facts_of({"topic": "execution", "data": [EXECUTION, {**EXECUTION, "execType": "Funding"}, {**EXECUTION, "category": "spot"}]})
    assert fill == FillReport(
        "BTCUSDT", mapping.trade_number(EXECUTION["execId"]), "pf-1", "f6e324ff-99c2-4e89-9739-3086e47f9381", Side.SELL, Decimal(3374),  # type: ignore[arg-type]
        Decimal("0.005"), Decimal("0.005061"), "USDT", "taker", 1672364174443, Decimal("-0.25"), "Market",
    )  # fmt: skip
    (position,) = facts_of({"topic": "position.linear", "data": [POSITION]})
    assert isinstance(position, PositionReport)
    assert (position.quantity, position.entry_price, position.leverage) == (Decimal(-75), Decimal("0.3615"), 10)
    assert list(facts_of({"op": "pong"})) == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("New", VenueStatus.NEW),
        ("Untriggered", VenueStatus.NEW),
        ("Triggered", VenueStatus.TRIGGERED),
        ("PartiallyFilled", VenueStatus.PARTIALLY_FILLED),
        ("PartiallyFilledCanceled", VenueStatus.CANCELED),
        ("Deactivated", VenueStatus.CANCELED),
        ("Rejected", VenueStatus.REJECTED),
    ],
)
def test_states(status: str, expected: VenueStatus) -> None:
    row = {**ORDER, "orderStatus": status, "stopOrderType": "Stop", "triggerPrice": "70", "rejectReason": "EC_PostOnlyWillTakeLiquidity"}
    report = mapping.order_of(row)
    assert report.status is expected and report.type is OrderType.STOP_MARKET and report.trigger_price == Decimal(70)
    assert report.reason == "EC_PostOnlyWillTakeLiquidity"


def test_what_the_venue_closes_by_itself_is_named() -> None:
    kinds = {}
    for text in ("AdlTrade", "BustTrade", "Delivery", "Trade"):
        fill = mapping.fill_of({**EXECUTION, "execType": text})
        assert fill is not None
        kinds[text] = fill.order_type
    assert kinds == {"AdlTrade": "ADL", "BustTrade": "LIQUIDATION", "Delivery": "SETTLEMENT", "Trade": "Market"}


def test_trade_numbers_fit_a_long_and_differ() -> None:
    numbers = {mapping.trade_number(f"id-{index}") for index in range(10_000)}
    assert len(numbers) == 10_000 and all(0 <= one < 2**62 for one in numbers)


@pytest.mark.parametrize(("side", "direction"), [(Side.SELL, 2), (Side.BUY, 1)])
def test_a_stop_triggers_towards_the_loss(side: Side, direction: int) -> None:
    request = OrderRequest(
        "pf", "BTCUSDT", side, OrderType.STOP_MARKET, Decimal("0.010"), trigger_price=Decimal("60000.10"), reduce_only=True
    )
    body = mapping.order_body(request)
    assert (body["orderType"], body["triggerDirection"], body["triggerBy"]) == ("Market", direction, "MarkPrice")
    assert body["triggerPrice"] == "60000.10" and body["reduceOnly"] is True and body["timeInForce"] is None


def test_funding_received_is_a_negative_cost() -> None:
    row = {"symbol": "BTCUSDT", "funding": "1.5", "currency": "USDT", "transactionTime": "1672128000000", "id": "592324"}
    assert mapping.funding_of(row).paid == Decimal("-1.5")


@pytest.mark.parametrize(
    ("code", "expected", "reason"),
    [
        (110007, RequestRejected, "insufficient_balance"),
        (110017, RequestRejected, "reduce_only"),
        (110072, RequestRejected, "duplicate_id"),
        (110001, RequestRejected, "not_found"),
        (110093, RequestRejected, "would_trigger"),
        (10004, RequestRejected, "auth"),
        (10002, RequestRejected, "clock"),
        (999999, RequestRejected, "other"),
        (10006, RateLimited, None),
        (10016, OutcomeUnknown, None),
        (10000, OutcomeUnknown, None),
    ],
)
def test_each_code(code: int, expected: type[Exception], reason: str | None) -> None:
    error = error_of(code, "x", "2500", 1000)
    assert type(error) is expected
    assert not isinstance(error, RequestRejected) or error.reason == reason
    assert not isinstance(error, RateLimited) or error.retry_after == 1.5


# --- over sockets -------------------------------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_requests_are_signed_over_what_is_sent() -> None:
    """timestamp + key + window + query or body, byte for byte, as the documents say; checked by a computation of its own."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        text = (await request.read()).decode() if request.method == "POST" else request.raw_path.partition("?")[2]
        heads = request.headers
        payload = heads["X-BAPI-TIMESTAMP"] + KEY + heads["X-BAPI-RECV-WINDOW"] + text
        assert heads["X-BAPI-SIGN"] == hmac.new(SECRET.encode(), payload.encode(), hashlib.sha256).hexdigest()
        assert heads["X-BAPI-API-KEY"] == KEY
        seen.append(text)
        return web.json_response({"retCode": 0, "retMsg": "OK", "result": {"list": [], "orderId": "1"}})

    async def run() -> None:
        async with serving(handler) as url:
            venue = BybitVenue(url, url, KEY, SECRET, Secrets())
            await venue._rest.open()
            limit = OrderRequest(
                "pf:a/b", "BTCUSDT", Side.BUY, OrderType.LIMIT, Decimal("1E-3"), Decimal(60000), None, TimeInForce.POST_ONLY
            )
            report = await venue.place(limit)
            assert report.status is VenueStatus.NEW and report.venue_order_id == "1"
            assert await venue.open_orders() == [] and await venue.query("BTCUSDT", "pf:a/b", False) is None
            await venue.close()

    asyncio.run(run())
    body = orjson.loads(seen[0])
    assert body["orderLinkId"] == "pf:a/b" and body["qty"] == "0.001" and body["timeInForce"] == "PostOnly"


def test_lost_answers_are_unknown_and_a_shut_out_address_waits() -> None:
    answers: list[Any] = [
        web.Response(text="<html>", status=502),
        web.json_response({"retCode": 10016, "retMsg": "Internal error"}),
        web.json_response({"retCode": 0, "retMsg": "", "result": {}}, status=500),
        web.Response(status=403),
    ]

    async def handler(request: web.Request) -> web.Response:
        answer: web.Response = answers.pop(0)
        return answer

    async def run() -> None:
        async with serving(handler) as url:
            rest = BybitRest(url, KEY, SECRET, Secrets())
            await rest.open()
            for _ in range(3):
                with pytest.raises(OutcomeUnknown):
                    await rest.post("/v5/order/create", {})
            for _ in range(3):  # the address is shut out: asked once
                with pytest.raises(RateLimited) as limited:
                    await rest.post("/v5/order/create", {})
                assert limited.value.retry_after > 590
            await rest.close()
        closed = BybitRest("http://127.0.0.1:9", KEY, SECRET, Secrets())
        await closed.open()
        with pytest.raises(VenueUnreachable):
            await closed.post("/v5/order/create", {})
        await closed.close()

    asyncio.run(run())


def test_the_private_stream_logs_in_and_tells_its_losses() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        login = await socket.receive_json()
        key, expires, signature = login["args"]
        assert (login["op"], key) == ("auth", KEY)
        assert signature == hmac.new(SECRET.encode(), f"GET/realtime{expires}".encode(), hashlib.sha256).hexdigest()
        await socket.send_json({"success": True, "op": "auth"})
        assert set((await socket.receive_json())["args"]) == {"order.linear", "execution.linear", "position.linear"}
        await socket.send_json({"success": True, "op": "subscribe"})
        await socket.send_json({"topic": "order.linear", "data": [ORDER]})
        await socket.send_json({"topic": "order.linear", "data": [{**ORDER, "orderStatus": "Dancing"}]})
        async for _ in socket:
            pass
        return socket

    async def run() -> list[str]:
        found = []
        async with serving(handler) as url:
            venue = BybitVenue(url, url.replace("http", "ws") + "/v5/private", KEY, SECRET, Secrets())
            events = venue.user_events()
            async with asyncio.timeout(10):
                async for event in events:
                    found.append(type(event).__name__)
                    if len(found) == 4:
                        break
            await events.aclose()  # type: ignore[attr-defined]
        return found

    assert asyncio.run(run()) == ["StreamReady", "OrderReport", "StreamLost", "StreamReady"]


def test_under_isolated_margin_what_is_available_is_told_by_coin() -> None:
    coin = {"coin": "USDT", "walletBalance": "1000.5", "totalPositionIM": "300", "totalOrderIM": "20.25", "locked": "0", "equity": "1010"}
    account = {"accountType": "UNIFIED", "totalAvailableBalance": "812.75", "coin": [coin]}
    (told,) = mapping.balances_of({"list": [account]})
    assert (told.wallet, told.available) == (Decimal("1000.5"), Decimal("812.75"))
    (isolated,) = mapping.balances_of({"list": [{**account, "totalAvailableBalance": ""}]})
    assert isolated.available == Decimal("680.25")
    with pytest.raises(ArithmeticError):  # neither told: no figure, not zero
        mapping.balances_of({"list": [{**account, "totalAvailableBalance": "", "coin": [{**coin, "totalOrderIM": ""}]}]})


def test_a_position_without_mark_price_has_none() -> None:
    assert mapping.position_of({**POSITION, "markPrice": ""}).mark_price is None
    assert mapping.position_of(POSITION).mark_price == Decimal("0.3674")


def test_addresses() -> None:
    assert addresses("BYBIT", "simulated", "http://127.0.0.1:1").stream == "ws://127.0.0.1:1/v5/private"
    assert addresses("BYBIT", "testnet").rest != addresses("BYBIT", "live").rest

"""The Binance adapter against documents: signatures, payloads, what each kind of answer means; over real sockets where sockets matter."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.secret import Secrets
from sinks.venues.account_login import AccountError, addresses
from sinks.venues.binance import mapping
from sinks.venues.binance.errors import error_of
from sinks.venues.binance.rest import BinanceRest
from sinks.venues.binance.signing import KeyFormatError, signer
from sinks.venues.binance.venue import BinanceVenue
from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueUnreachable
from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    OrderRequest,
    OrderType,
    Side,
    StreamLost,
    StreamReady,
    TimeInForce,
    VenueStatus,
)

KEY, SECRET = "the-api-key-of-a-test", "the-api-secret-of-a-test"

# --- signatures ---------------------------------------------------------------------------------------------------------


def test_hmac_is_that_of_the_documents_example() -> None:
    """Key, text and signature as printed in the venue's general information of USD-M futures."""
    sign = signer("2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9")
    query = "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943"
    assert sign(query) == "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"


def test_ed25519_is_verified_by_its_public_key() -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    private.public_key().verify(base64.b64decode(signer(pem)("a=1&b=2")), b"a=1&b=2")


def test_a_broken_pem_is_named_without_its_contents() -> None:
    with pytest.raises(KeyFormatError) as error:
        signer("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXN0dWZm\n-----END PRIVATE KEY-----")
    assert "c2VjcmV0" not in str(error.value)


# --- what an answer means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected", "reason"),
    [
        (400, b'{"code":-2019,"msg":"Margin is insufficient."}', RequestRejected, "insufficient_balance"),
        (400, b'{"code":-2022,"msg":"ReduceOnly Order is rejected."}', RequestRejected, "reduce_only"),
        (400, b'{"code":-5022,"msg":"Post Only order will be rejected"}', RequestRejected, "post_only"),
        (400, b'{"code":-2021,"msg":"Order would immediately trigger."}', RequestRejected, "would_trigger"),
        (400, b'{"code":-4116,"msg":"ClientOrderId is duplicated."}', RequestRejected, "duplicate_id"),
        (400, b'{"code":-2013,"msg":"Order does not exist."}', RequestRejected, "not_found"),
        (400, b'{"code":-1021,"msg":"Timestamp outside of the recvWindow."}', RequestRejected, "clock"),
        (400, b'{"code":-9999,"msg":"something new"}', RequestRejected, "other"),
        (401, b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}', RequestRejected, "auth"),
        (429, b'{"code":-1003,"msg":"Too many requests"}', RateLimited, None),
        (418, b'{"code":-1003,"msg":"banned"}', RateLimited, None),
        (503, b'{"code":-1008,"msg":"Request throttled by system-level protection."}', RateLimited, None),
        (503, b'{"code":0,"msg":"Service Unavailable."}', RateLimited, None),
        (503, b'{"code":0,"msg":"Unknown error, please check your request or try again later."}', OutcomeUnknown, None),
        (408, b'{"code":-1007,"msg":"Timeout waiting for response from backend server."}', OutcomeUnknown, None),
        (400, b'{"code":-1006,"msg":"An unexpected response was received. Execution status unknown."}', OutcomeUnknown, None),
        (502, b"<html>Bad Gateway</html>", OutcomeUnknown, None),
        (504, b"", OutcomeUnknown, None),
    ],
)
def test_each_kind_of_answer(status: int, body: bytes, expected: type[Exception], reason: str | None) -> None:
    error = error_of(status, body, None)
    assert type(error) is expected
    if isinstance(error, RequestRejected):
        assert error.reason == reason


def test_retry_after_is_obeyed_and_a_ban_is_two_minutes_without_it() -> None:
    for status, header, wait in ((429, "7", 7.0), (429, None, 10.0), (418, "300", 300.0), (418, None, 120.0), (429, "soon", 10.0)):
        error = error_of(status, b'{"code":-1003,"msg":"x"}', header)
        assert isinstance(error, RateLimited) and error.retry_after == wait


# --- payloads -----------------------------------------------------------------------------------------------------------------

# As printed in the venue's documents (event Order Update), ids and numbers unchanged.
ORDER_TRADE_UPDATE = {
    "e": "ORDER_TRADE_UPDATE", "E": 1568879465651, "T": 1568879465650,
    "o": {
        "s": "BTCUSDT", "c": "TEST", "S": "SELL", "o": "LIMIT", "f": "GTC", "q": "0.005", "p": "7103.04", "ap": "7103.10", "sp": "0",
        "x": "TRADE", "X": "PARTIALLY_FILLED", "i": 8886774, "l": "0.002", "z": "0.003", "L": "7103.08", "N": "USDT", "n": "0.00852",
        "T": 1568879465650, "t": 4001, "b": "0", "a": "9.91", "m": True, "R": True, "wt": "CONTRACT_PRICE", "ot": "LIMIT", "ps": "BOTH",
        "cp": False, "rp": "-0.52", "pP": False, "si": 0, "ss": 0, "V": "EXPIRE_TAKER", "pm": "OPPONENT", "gtd": 0, "er": "0", "unknown": 1,
    },
}  # fmt: skip
ALGO_UPDATE = {
    "e": "ALGO_UPDATE", "T": 1750515742297, "E": 1750515742303,
    "o": {
        "caid": "Q5xaq5EGKgXXa0fD7fs0Ip", "aid": 2148719, "at": "CONDITIONAL", "o": "STOP_MARKET", "s": "BNBUSDT", "S": "SELL", "ps": "BOTH",
        "f": "GTC", "q": "0.01", "X": "TRIGGERED", "ai": "8886774", "ap": "0.00000", "aq": "0.00000", "act": "MARKET", "tp": "750", "p": "0",
        "V": "EXPIRE_MAKER", "wt": "MARK_PRICE", "pm": "NONE", "cp": False, "pP": False, "R": True, "tt": 1750515742290, "gtd": 0, "rm": "",
    },
}  # fmt: skip
ORDER = {
    "avgPrice": "0.00000", "clientOrderId": "abc", "cumQuote": "0", "executedQty": "0", "orderId": 1917641, "origQty": "0.40",
    "origType": "LIMIT", "price": "9300", "reduceOnly": False, "side": "BUY", "positionSide": "BOTH", "status": "NEW", "stopPrice": "0",
    "closePosition": False, "symbol": "BTCUSDT", "time": 1579276756075, "timeInForce": "GTX", "type": "LIMIT", "updateTime": 1579276756075,
    "workingType": "CONTRACT_PRICE", "priceProtect": False, "priceMatch": "NONE", "selfTradePreventionMode": "NONE", "goodTillDate": 0,
}  # fmt: skip
ALGO_ORDER = {
    "algoId": 2146760, "clientAlgoId": "6B2I9XVcJpCjqPAJ4YoFX7", "algoType": "CONDITIONAL", "orderType": "STOP_MARKET", "symbol": "BNBUSDT",
    "side": "SELL", "positionSide": "BOTH", "timeInForce": "GTC", "quantity": "0.01", "algoStatus": "FINISHED", "triggerPrice": "750.000",
    "price": "0", "icebergQuantity": None, "workingType": "CONTRACT_PRICE", "priceMatch": "NONE", "closePosition": False,
    "priceProtect": False, "reduceOnly": True, "createTime": 1750485492076, "updateTime": 1750485492080, "triggerTime": 1750485492078,
    "goodTillDate": 0, "actualOrderId": "77", "actualPrice": "749.5", "executedQty": "0.01",
}  # fmt: skip


def test_an_order_update_and_its_fill_field_by_field() -> None:
    report, fill = mapping.order_update(ORDER_TRADE_UPDATE), mapping.fill_update(ORDER_TRADE_UPDATE)
    assert (report.client_order_id, report.venue_order_id, report.symbol, report.side) == ("TEST", "8886774", "BTCUSDT", Side.SELL)
    assert (report.status, report.quantity, report.filled) == (VenueStatus.PARTIALLY_FILLED, Decimal("0.005"), Decimal("0.003"))
    assert (report.average_price, report.price, report.trigger_price) == (Decimal("7103.10"), Decimal("7103.04"), None)
    assert report.reduce_only and report.updated_at == 1568879465650 and report.reason is None
    assert fill == FillReport(
        "BTCUSDT", 4001, "TEST", "8886774", Side.SELL, Decimal("7103.08"), Decimal("0.002"), Decimal("0.00852"), "USDT", "maker",
        1568879465650, Decimal("-0.52"), "LIMIT",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("0", None),
        (None, None),
        ("4", "knocked out by another reduce-only order, or would have reversed the position"),
        (9, "the rest of a market order"),
        ("77", "77"),
    ],
)
def test_why_an_order_expired_is_told_in_words(code: str | int | None, reason: str | None) -> None:
    event = {**ORDER_TRADE_UPDATE, "o": {**ORDER_TRADE_UPDATE["o"], "X": "EXPIRED", "er": code}}  # type: ignore[dict-item]
    assert mapping.order_update(event).reason == reason


@pytest.mark.parametrize(
    ("client", "kind"),
    [("autoclose-1568879465651", "LIQUIDATION"), ("adl_autoclose", "ADL"), ("settlement_autoclose-1", "SETTLEMENT"), ("pf1", "LIMIT")],
)
def test_what_the_venue_closes_by_itself_is_named(client: str, kind: str) -> None:
    fill = mapping.fill_update({**ORDER_TRADE_UPDATE, "o": {**ORDER_TRADE_UPDATE["o"], "c": client}})  # type: ignore[dict-item]
    assert fill is not None and fill.order_type == kind


def test_an_order_and_a_conditional_order() -> None:
    order = mapping.order_of(ORDER)
    assert (order.status, order.filled, order.average_price, order.trigger_price) == (VenueStatus.NEW, Decimal(0), None, None)
    conditional = mapping.conditional_of(ALGO_ORDER)
    assert conditional.status is VenueStatus.FILLED and conditional.average_price == Decimal("749.5") and conditional.reduce_only
    cancelled = mapping.conditional_of({**ALGO_ORDER, "executedQty": "0"})
    assert cancelled.status is VenueStatus.CANCELED and cancelled.average_price is None
    update = mapping.conditional_update(ALGO_UPDATE)
    assert update.status is VenueStatus.TRIGGERED and update.trigger_price == Decimal(750) and update.reduce_only


def test_a_stop_goes_to_the_algo_service_and_a_post_only_order_is_gtx() -> None:
    stop = OrderRequest(
        "pf1", "BTCUSDT", Side.SELL, OrderType.STOP_MARKET, Decimal("0.010"), trigger_price=Decimal("60000.10"), reduce_only=True
    )
    params = mapping.conditional_params(stop)
    assert params["algoType"] == "CONDITIONAL" and params["clientAlgoId"] == "pf1" and params["workingType"] == "MARK_PRICE"
    assert params["reduceOnly"] is True
    limit = OrderRequest("pf2", "BTCUSDT", Side.BUY, OrderType.LIMIT, Decimal("0.010"), Decimal("60000.10"), None, TimeInForce.POST_ONLY)
    assert mapping.order_params(limit)["timeInForce"] == "GTX" and mapping.order_params(limit)["reduceOnly"] is None


# --- over sockets ---------------------------------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_the_signed_text_arrives_byte_for_byte() -> None:
    """Characters that URL libraries like to quote again (: / + in client ids and Ed25519 signatures) stay as they were signed."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        assert request.headers["X-MBX-APIKEY"] == KEY
        return web.json_response({})

    async def run() -> None:
        async with serving(handler) as url:
            rest = BinanceRest(url, KEY, SECRET, Secrets())
            await rest.open()
            await rest.request(
                "POST", "/fapi/v1/order", {"newClientOrderId": "pf:a/b+c=", "quantity": Decimal("1E-3"), "price": None}, signed=True
            )
            await rest.close()

    asyncio.run(run())
    query = seen[0].partition("?")[2]
    signed, _, signature = query.partition("&signature=")
    assert signer(SECRET)(signed) == signature
    values = dict(parse_qsl(signed))
    assert values["newClientOrderId"] == "pf:a/b+c=" and values["quantity"] == "0.001" and "price" not in values
    assert abs(int(values["timestamp"]) - time.time() * 1000) < 5_000 and values["recvWindow"] == "5000"


def test_lost_answers_are_unknown_and_refused_connections_are_not() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.close()  # after the request was read: it may have been executed
            return web.Response()
        return web.Response(text="not json")

    async def run() -> None:
        async with serving(handler) as url:
            rest = BinanceRest(url, KEY, SECRET, Secrets())
            await rest.open()
            for path in ("/cut", "/garbage"):
                with pytest.raises(OutcomeUnknown) as unknown:
                    await rest.request("POST", path, signed=True)
                assert KEY not in str(unknown.value) and SECRET not in str(unknown.value)
        # The kept connection died with the server, maybe with a request in it; a new one cannot be made at all.
        with pytest.raises((OutcomeUnknown, VenueUnreachable)):
            await rest.request("POST", "/fapi/v1/order", signed=True)
        with pytest.raises(VenueUnreachable):
            await rest.request("POST", "/fapi/v1/order", signed=True)
        await rest.close()

    asyncio.run(run())


def test_a_pause_that_the_venue_asks_for_is_kept_without_asking_again() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"code": -1003, "msg": "Too many requests"}, status=429, headers={"Retry-After": "1"})

    async def run() -> None:
        async with serving(handler) as url:
            rest = BinanceRest(url, KEY, SECRET, Secrets())
            await rest.open()
            for _ in range(3):
                with pytest.raises(RateLimited) as limited:
                    await rest.request("GET", "/fapi/v1/openOrders", signed=True)
                assert 0 < limited.value.retry_after <= 1
            assert len(asked) == 1
            await asyncio.sleep(1.05)
            with pytest.raises(RateLimited):
                await rest.request("GET", "/fapi/v1/openOrders", signed=True)
            assert len(asked) == 2
            await rest.close()

    asyncio.run(run())


def test_queries_leave_the_rest_of_the_minutes_weight_to_orders() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response([], headers={"X-MBX-USED-WEIGHT-1M": "2250"})

    async def run() -> None:
        async with serving(handler) as url:
            rest = BinanceRest(url, KEY, SECRET, Secrets())
            await rest.open()
            await rest.request("GET", "/fapi/v1/openOrders", signed=True)
            with pytest.raises(RateLimited):
                await rest.request("GET", "/fapi/v1/openOrders", signed=True)
            await rest.request("DELETE", "/fapi/v1/order", signed=True, urgent=True)
            await rest.close()

    asyncio.run(run())


def test_a_drifted_clock_is_measured_anew_and_the_same_order_sent_again() -> None:
    skew = 30_000
    orders: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        there = int(time.time() * 1000) + skew
        if request.path == "/fapi/v1/time":
            return web.json_response({"serverTime": there})
        stamp = int(request.query["timestamp"])
        if not there - 5000 <= stamp <= there + 1000:
            return web.json_response({"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}, status=400)
        orders.append(stamp)
        return web.json_response(ORDER)

    async def run() -> None:
        async with serving(handler) as url:
            venue = BinanceVenue(url, url, KEY, SECRET, Secrets())
            await venue._rest.open()
            request = OrderRequest("abc", "BTCUSDT", Side.BUY, OrderType.LIMIT, Decimal("0.40"), Decimal(9300))
            assert (await venue.place(request)).status is VenueStatus.NEW
            assert abs(await venue.clock_skew_ms() - skew) < 500
            await venue.close()

    asyncio.run(run())
    assert len(orders) == 1


def test_the_user_stream_frames_its_losses_and_names_the_fills_of_a_triggered_stop() -> None:
    """The order that a stop became has an id of its own: its fills must come under the stop's client id."""
    became = {**ORDER_TRADE_UPDATE, "o": {**ORDER_TRADE_UPDATE["o"], "c": "x-venue-made"}}  # type: ignore[dict-item]
    connections = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal connections
        if request.path == "/fapi/v1/listenKey":
            return web.json_response({"listenKey": "abc"})
        assert request.path == "/private/ws/abc"
        connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if connections == 1:
            await socket.send_json(ALGO_UPDATE)
            await socket.send_json(became)
            await socket.send_json({"e": "TRADE_LITE", "E": 1})
            await socket.send_json({"e": "listenKeyExpired", "E": 2})
        elif connections == 2:
            await socket.send_str('{"e":"ORDER_TRADE_UPDATE","o":{}}')
        async for _ in socket:
            pass
        return socket

    async def run() -> list[Any]:
        found: list[Any] = []
        async with serving(handler) as url:
            venue = BinanceVenue(url, url.replace("http", "ws") + "/private", KEY, SECRET, Secrets())
            await venue._rest.open()
            events = venue.user_events()
            async with asyncio.timeout(20):
                async for event in events:
                    found.append(event)
                    if sum(isinstance(one, StreamReady) for one in found) == 3:
                        break
            await events.aclose()  # type: ignore[attr-defined]
            await venue.close()
        return found

    found = asyncio.run(run())
    assert [type(one).__name__ for one in found] == [
        "StreamReady", "OrderReport", "OrderReport", "FillReport", "StreamLost", "StreamReady", "StreamLost", "StreamReady",
    ]  # fmt: skip
    assert found[2].client_order_id == found[3].client_order_id == "Q5xaq5EGKgXXa0fD7fs0Ip"
    assert isinstance(found[4], StreamLost)


def test_addresses_are_the_modes_own() -> None:
    assert addresses("BINANCE", "testnet").rest != addresses("BINANCE", "live").rest
    assert addresses("BINANCE", "simulated", "http://127.0.0.1:1").stream == "ws://127.0.0.1:1/private"
    for venue, mode, url in (
        ("BINANCE", "live", "http://elsewhere"),
        ("BINANCE", "simulated", ""),
        ("KRAKEN", "live", ""),
        ("BINANCE", "real", ""),
    ):
        with pytest.raises(AccountError):
            addresses(venue, mode, url)

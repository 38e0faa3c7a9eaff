"""The simulated exchange on sockets: limits, clocks, permissions, the user stream, and every fault of the menu, seen by a plain client."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from producers.simulated.exchange.session.faults import ExchangeFault, ExchangePlan
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey, read_accounts
from tests.support.trading.exchange_cases import KEY, SECRET, SYMBOL, Client, D, Heard, desk_account, runs, serving, until


@asynccontextmanager
async def trading(*faults: str, stream: str | None = None, **options: Any) -> AsyncIterator[tuple[Client, Heard | None]]:
    """Serve an exchange with faults; ``stream``: address of the user stream to listen on, ``{}`` for the listen key."""
    async with serving(**options) as venue, aiohttp.ClientSession() as session:
        client, heard = Client(venue.rest_url, session), None
        client.venue = venue
        if stream is not None:
            _, answer = await client.ask("POST", "/fapi/v1/listenKey")
            heard = Heard(await session.ws_connect(venue.ws_url + stream.format(answer["listenKey"])))
            await until(lambda: venue.server.streams.listeners("desk"))
        venue.plan.add(faults)
        try:
            yield client, heard
        finally:
            if heard is not None:
                heard.task.cancel()
                await heard.ws.close()


# --- keys, clocks, limits ---------------------------------------------------------------------------------------------
@runs
async def test_what_a_request_must_bear() -> None:
    reader = ApiKey("reader", "desk", "s2", trade=False, withdraw=True, ip_restricted=False)
    async with trading(accounts=[desk_account(keys=(*desk_account().keys, reader))]) as (client, _):
        assert (await client.ask("GET", "/fapi/v3/account", skew=-6000))[1]["code"] == -1021
        assert (await client.ask("GET", "/fapi/v3/account", skew=2000))[1]["code"] == -1021
        assert (await client.ask("GET", "/fapi/v3/account", skew=-6000, recvWindow=20000))[0] == 200
        assert (await client.ask("GET", "/fapi/v3/account", recvWindow=60001))[1]["code"] == -1131
        assert (await client.ask("GET", "/fapi/v3/account", secret="wrong"))[1]["code"] == -1022
        assert (await client.ask("GET", "/fapi/v3/account", key="unknown"))[1]["code"] == -2015
        assert (await client.ask("GET", "/fapi/v3/account", key=""))[1]["code"] == -2014
        async with aiohttp.ClientSession() as session, session.get(f"{client.venue.rest_url}/fapi/v3/account") as answer:
            assert answer.status == 401
        # A key without trading may look and not trade, and says so.
        assert (await client.ask("GET", "/fapi/v3/account", key="reader", secret="s2"))[0] == 200
        refused = await client.ask(
            "POST", "/fapi/v1/order", key="reader", secret="s2", symbol=SYMBOL, side="BUY", type="MARKET", quantity="1"
        )
        assert refused[1]["code"] == -2015
        _, rights = await client.ask("GET", "/sapi/v1/account/apiRestrictions", key="reader", secret="s2")
        assert (rights["enableWithdrawals"], rights["enableFutures"], rights["ipRestrict"]) == (True, False, False)
        assert (await client.ask("GET", "/fapi/v1/positionSide/dual"))[1] == {"dualSidePosition": False}


@pytest.mark.parametrize(
    ("code", "params"),
    [
        (-1102, {"side": "BUY", "type": "MARKET"}),
        (-1117, {"side": "UP", "type": "MARKET", "quantity": "1"}),
        (-1116, {"side": "BUY", "type": "SOMETHING", "quantity": "1"}),
        (-1115, {"side": "BUY", "type": "LIMIT", "quantity": "1", "price": "1", "timeInForce": "LATER"}),
        (-1130, {"side": "BUY", "type": "MARKET", "quantity": "NaN"}),
        (-1130, {"side": "BUY", "type": "MARKET", "quantity": "one"}),
        (-1106, {"side": "BUY", "type": "MARKET", "quantity": "1", "price": "3"}),
        (-1121, {"symbol": "NOPE", "side": "BUY", "type": "MARKET", "quantity": "1"}),
        (-4120, {"side": "SELL", "type": "STOP_MARKET", "quantity": "1", "stopPrice": "50000"}),
        (-4061, {"side": "BUY", "type": "MARKET", "quantity": "1", "positionSide": "LONG"}),
    ],
)
def test_bad_parameters_are_named(code: int, params: dict[str, str]) -> None:
    @runs
    async def check() -> None:
        async with trading() as (client, _):
            status, answer = await client.ask("POST", "/fapi/v1/order", **{"symbol": SYMBOL, **params})
            assert (status, answer["code"]) == (400, code)
            assert not client.venue.exchange.orders

    check()


@runs
async def test_parameters_may_come_in_the_body_and_in_both() -> None:
    async with trading() as (client, _), aiohttp.ClientSession() as session:
        headers = {"X-MBX-APIKEY": KEY, "Content-Type": "application/x-www-form-urlencoded"}
        fields = f"symbol={SYMBOL}&side=BUY&type=MARKET&quantity=0.01"
        for query in ("", fields):
            body = ("" if query else fields + "&") + f"timestamp={int(time.time() * 1000)}"
            # As documented: of query and body together, without anything between them.
            body += "&signature=" + hmac.new(SECRET.encode(), (query + body).encode(), hashlib.sha256).hexdigest()
            async with session.post(f"{client.rest_url}/fapi/v1/order?{query}", data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()


@runs
async def test_garbage_is_answered_and_breaks_nothing() -> None:
    async with trading(stream="/private/stream?streams={}") as (client, heard), aiohttp.ClientSession() as session:
        assert heard is not None
        for method, path in [("POST", "/fapi/v1/nothing"), ("GET", "/fapi/v9/order"), ("DELETE", "/sapi/v1/x")]:
            async with session.request(method, client.rest_url + path) as answer:
                assert (answer.status, (await answer.json())["code"]) == (404, -5000)
        for data in (b"\xff\xfe=\x00", b"a=%ff&signature=%ff&timestamp=1", b"&&&=", b"x" * 100_000):
            async with session.post(f"{client.rest_url}/fapi/v1/order", data=data, headers={"X-MBX-APIKEY": KEY}) as answer:
                assert answer.status == 400 and (await answer.json())["code"] < 0
        for text in ("", "[]", "{", '{"method": 3}', '{"method":"SUBSCRIBE","params":7}', '{"method":"SUBSCRIBE","params":[{}]}', "null"):
            await heard.ws.send_str(text)
        await heard.ws.send_bytes(b"\x00")
        await client.market(newClientOrderId="a")
        await until(lambda: any(one.get("stream") and one["data"].get("e") == "ACCOUNT_UPDATE" for one in heard.messages))


@runs
async def test_order_limits_are_counted_and_enforced() -> None:
    async with trading(order_limits=((3, 10_000, "10S"), (1200, 60_000, "1M"))) as (client, _):
        for count in (1, 2, 3):
            assert (await client.market())[0] == 200
            assert client.headers["X-MBX-ORDER-COUNT-10S"] == str(count)
        status, answer = await client.market()
        assert (status, answer["code"], await client.position()) == (429, -1015, D("0.03"))


@runs
async def test_too_much_weight_is_429_and_then_a_ban() -> None:
    async with trading() as (client, _):
        statuses = []
        for _ in range(95):  # 30 each, 2400 allowed
            status, answer = await client.ask("GET", "/fapi/v1/income")
            statuses.append(status)
        assert statuses[:70] == [200] * 70
        if 429 in statuses:  # the minute may have ended meanwhile
            assert answer["code"] == -1003 and int(client.headers["Retry-After"]) > 0
        assert statuses[-1] in (200, 418, 429)


# --- the user stream --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("address", ["/ws/{}", "/private/ws/{}", "/private/ws?listenKey={}&events=ORDER_TRADE_UPDATE/ACCOUNT_UPDATE"])
def test_the_user_stream_tells_fills_on_every_address(address: str) -> None:
    @runs
    async def check() -> None:
        async with trading(stream=address) as (client, heard):
            assert heard is not None
            await client.market(newClientOrderId="a")
            await until(lambda: heard.orders() == ["a:NEW", "a:TRADE"])
            assert [one["e"] for one in heard.messages if one["e"] != "TRADE_LITE"] == [
                "ORDER_TRADE_UPDATE",
                "ACCOUNT_UPDATE",
                "ORDER_TRADE_UPDATE",
            ]
            assert ("TRADE_LITE" in {one["e"] for one in heard.messages}) == ("events" not in address)

    check()


@runs
async def test_a_listen_key_that_ran_out_is_told_and_silent() -> None:
    async with trading(stream="/private/ws/{}") as (client, heard):
        assert heard is not None
        client.venue.control.expire_listen_keys("desk")
        await until(lambda: heard.of("listenKeyExpired"))
        await client.market()
        assert (await client.ask("PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125
        await asyncio.sleep(0.05)
        assert not heard.orders()


@runs
async def test_what_the_venue_does_by_itself_is_told() -> None:
    async with trading(stream="/ws/{}") as (client, heard):
        assert heard is not None
        venue = client.venue
        await client.market(quantity="0.1")
        venue.funding(SYMBOL, "0.0001")
        venue.control.deleverage("desk", SYMBOL, D("0.04"))
        venue.liquidate("desk", SYMBOL)
        await until(lambda: len(heard.of("ORDER_TRADE_UPDATE")) >= 6)
        reasons = [one["a"]["m"] for one in heard.of("ACCOUNT_UPDATE")]
        assert reasons == ["ORDER", "FUNDING_FEE", "ORDER", "ORDER", "INSURANCE_CLEAR"]
        forced = [one["o"] for one in heard.of("ORDER_TRADE_UPDATE") if one["o"]["x"] == "CALCULATED"]
        assert [(one["c"].rstrip("0123456789"), one["l"], one["X"]) for one in forced] == [
            ("adl_autoclose", "0.040", "FILLED"),
            ("autoclose-", "0.060", "FILLED"),
        ]
        # A price that jumps through the stop fills it where the market is.
        await client.market(quantity="0.1")
        await client.ask(
            "POST", "/fapi/v1/algoOrder", algoType="CONDITIONAL", symbol=SYMBOL, side="SELL", type="STOP_MARKET", quantity="0.1",
            triggerPrice="59000", workingType="MARK_PRICE", reduceOnly="true", clientAlgoId="stop",
        )  # fmt: skip
        venue.set_price(SYMBOL, "57000")
        await until(lambda: [one["o"]["X"] for one in heard.of("ALGO_UPDATE")] == ["NEW", "TRIGGERING", "TRIGGERED", "FINISHED"])
        assert heard.of("ORDER_TRADE_UPDATE")[-1]["o"]["L"] == "56999.9"


# --- faults of requests -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "status", "code", "executed"),
    [
        ("lost:on=order.place", None, None, True),
        ("lost:on=order.place,how=503", 503, -1000, True),
        ("lost:on=order.place,how=504", 504, -1000, True),
        ("lost:on=order.place,how=timeout", 408, -1007, True),
        ("unknown:on=order.place", 503, -1000, False),
        ("unsent:on=order.place", None, None, False),
        ("status:on=order.place,code=503", 503, -1001, False),
        ("status:on=order.place,code=429,retry_after=7", 429, -1003, False),
        ("status:on=order.place,code=418", 418, -1003, False),
        ("reject:on=order.place,code=-2019", 400, -2019, False),
        ("reject:on=order.*", 400, -2010, False),
        ("late:on=order.place,ms=300", None, None, True),
    ],
)
def test_a_fault_of_one_request(fault: str, status: int | None, code: int | None, executed: bool) -> None:
    @runs
    async def check() -> None:
        async with trading(fault) as (client, _):
            if status is None:
                with pytest.raises(aiohttp.ClientError):
                    await client.market(newClientOrderId="once")
            else:
                answer = await client.market(newClientOrderId="once")
                assert (answer[0], answer[1]["code"]) == (status, code)
            if fault.startswith("late"):
                assert await client.position() == 0
                await asyncio.sleep(0.4)
            assert await client.position() == (D("0.01") if executed else 0)
            known = (await client.ask("GET", "/fapi/v1/order", symbol=SYMBOL, origClientOrderId="once"))[1]
            assert known.get("code") == (None if executed else -2013)
            assert (await client.market())[0] == 200  # only the first one was hit

    check()


@runs
async def test_a_request_that_is_late_beyond_its_window_never_happens() -> None:
    async with trading("late:on=order.place,ms=600") as (client, _):
        with pytest.raises(aiohttp.ClientError):
            await client.market(recvWindow=300)
        await asyncio.sleep(0.7)
        assert await client.position() == 0 and not client.venue.exchange.orders


@runs
async def test_latency_before_and_after() -> None:
    async with trading("latency:on=order.place,ms=200", "latency:on=order.place,ms=200,side=out,at=1") as (client, _):
        for _ in range(2):
            begun = time.monotonic()
            assert (await client.market())[0] == 200
            assert time.monotonic() - begun >= 0.2


@runs
async def test_a_thin_book_fills_a_part() -> None:
    async with trading("partial:on=order.place,share=0.00005") as (client, _):
        _, answer = await client.market(quantity="0.01", newOrderRespType="RESULT")
        assert (answer["status"], answer["executedQty"]) == ("EXPIRED", "0.005")


@runs
async def test_skew_and_maintenance_hold_until_they_are_taken_back() -> None:
    async with trading("skew:ms=60000", stream="/ws/{}") as (client, heard):
        assert heard is not None
        assert (await client.ask("GET", "/fapi/v3/account"))[1]["code"] == -1021
        _, answer = await client.ask("GET", "/fapi/v1/time")
        assert abs(answer["serverTime"] - time.time() * 1000 - 60_000) < 5000
        assert (await client.ask("GET", "/fapi/v3/account", skew=60_000))[0] == 200
        client.venue.plan.clear()
        client.venue.plan.add(["maintenance"])
        assert (await client.ask("GET", "/fapi/v3/account"))[1]["code"] == -1016
        await until(lambda: heard.ws.closed)
        client.venue.plan.clear()
        assert (await client.ask("GET", "/fapi/v3/account"))[0] == 200


# --- faults of the user stream ----------------------------------------------------------------------------------------
@runs
async def test_messages_twice_lost_swapped_late_and_held() -> None:
    async with trading(
        "duplicate:on=ORDER_TRADE_UPDATE,at=1", "drop:on=ORDER_TRADE_UPDATE,at=2", "swap:on=ORDER_TRADE_UPDATE,at=4", stream="/ws/{}"
    ) as (client, heard):
        assert heard is not None
        for name in ("a", "b", "c"):
            await client.market(newClientOrderId=name)
        await until(lambda: len(heard.orders()) == 6)
        assert heard.orders() == ["a:NEW", "a:TRADE", "a:TRADE", "b:TRADE", "c:NEW", "c:TRADE"]
        kinds = [one["e"] for one in heard.messages]
        assert kinds[-4:] == ["ACCOUNT_UPDATE", "ORDER_TRADE_UPDATE", "TRADE_LITE", "ORDER_TRADE_UPDATE"]  # c:NEW behind its successor
        client.venue.plan.add(["late_event:on=ORDER_TRADE_UPDATE,ms=300"])
        await client.market(newClientOrderId="d")
        await until(lambda: len(heard.orders()) == 8)
        assert heard.orders()[-2:] == ["d:TRADE", "d:NEW"]
        client.venue.plan.add(["hold:on=ORDER_TRADE_UPDATE,ms=300"])
        begun = time.monotonic()
        await client.market(newClientOrderId="e")
        await until(lambda: len(heard.orders()) == 10)
        assert heard.orders()[-2:] == ["e:NEW", "e:TRADE"] and time.monotonic() - begun >= 0.29


@runs
async def test_a_stream_that_breaks_behind_a_message_can_be_taken_up_again() -> None:
    async with trading("cut:on=ORDER_TRADE_UPDATE,at=1", stream="/private/ws/{}") as (client, heard):
        assert heard is not None
        await client.market(newClientOrderId="a")
        await until(lambda: heard.ws.closed)
        assert (await client.market(newClientOrderId="b"))[0] == 200
        _, answer = await client.ask("POST", "/fapi/v1/listenKey")
        async with aiohttp.ClientSession() as session:
            again = Heard(await session.ws_connect(f"{client.venue.ws_url}/ws/{answer['listenKey']}"))
            await until(lambda: client.venue.server.streams.listeners("desk"))
            await client.market(newClientOrderId="c")
            await until(lambda: again.orders() == ["c:NEW", "c:TRADE"])
            again.task.cancel()


# --- the plan, the accounts, control ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "",
        "burn",
        "lost:how=quietly",
        "latency:rate=0",
        "latency:rate=2",
        "latency:ms=fast",
        "reject:n=-1",
        "skew:on=order.place",
        "hold:color=red",
        "drop:at",
    ],
)
def test_a_fault_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        ExchangeFault.parse(text)


def test_draws_depend_on_the_seed_and_the_ordinal_alone() -> None:
    def draws(seed: int) -> list[bool]:
        plan = ExchangePlan(["lost:on=order.*,rate=0.3"], seed)
        return [bool(plan.request("order.place" if at % 2 else "order.cancel", "desk")) for at in range(200)]

    assert draws(1) == draws(1) != draws(2)
    assert 30 < sum(draws(1)) < 90
    plan = ExchangePlan(["lost:account=other"])
    assert not plan.request("order.place", "desk") and plan.request("order.place", "other")


def test_accounts_are_read_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    path.write_text('[[accounts]]\nname="a"\ndeposit="500.5"\nleverage=5\nkeys=[{key="k", secret="s", trade=false}]\n')
    assert read_accounts(path) == [AccountSpec("a", D("500.5"), 5, keys=(ApiKey("k", "a", "s", trade=False),))]
    for text, named in [
        ("", "accounts"),
        ('[[accounts]]\nname="a"\ndeposit="much"', "deposit"),
        ('[[accounts]]\nname="a"\ncolour="red"', "colour"),
        ('[[accounts]]\nname="a"\nleverage="5"', "leverage"),
        ('[[accounts]]\nname="a"\nkeys=[{key="k"}]', "secret or public_key"),
        ('[[accounts]]\nname="a"\nkeys=[{key="k", public_key="x"}]', "public_key"),
        ("[[accounts]]\ndeposit='3'", "name"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=named):
            read_accounts(path)


@runs
async def test_control_over_http_steers_what_another_process_cannot_reach() -> None:
    async with trading(control=True) as (client, _), aiohttp.ClientSession(f"{client.venue.rest_url}/control/trading/") as control:

        async def do(what: str, **body: Any) -> int:
            async with control.post(what, json=body) as answer:
                return answer.status

        await client.market(quantity="0.1")
        assert await do("price", symbol=SYMBOL, price="61000") == 200
        assert await do("funding", symbol=SYMBOL, rate="0.001") == 200
        assert await do("faults", faults=["reject:on=order.place,code=-2019"]) == 200
        assert (await client.market())[1]["code"] == -2019
        assert await do("deposit", account="desk", amount="5") == 200
        assert await do("book", symbol=SYMBOL, bids=[["60990", "1"]], asks=[["61010", "1"]]) == 200
        assert await do("liquidate", account="desk", symbol=SYMBOL) == 200
        async with control.get("truth/desk") as answer:
            truth = await answer.json()
        assert truth["positions"] == {} and [row["kind"] for row in truth["fills"]] == ["ORDER", "LIQUIDATION"]
        assert D(truth["wallet"]) == sum(D(row["income"]) for row in truth["ledger"])
        assert truth["faults_applied"] == {"reject": 1}
        for what, body in [("price", {"symbol": "NOPE", "price": "1"}), ("price", {"symbol": SYMBOL}), ("faults", {"faults": ["burn"]})]:
            assert await do(what, **body) == 400
        assert await do("liquidate", account="desk", symbol=SYMBOL) == 400  # nothing is held any more
        async with control.get("truth/nobody") as answer:
            assert answer.status == 404


@runs
async def test_control_is_not_there_unless_asked_for() -> None:
    async with trading() as (client, _):
        body = {"symbol": SYMBOL, "price": "1"}
        async with aiohttp.ClientSession(client.venue.rest_url) as session, session.post("/control/trading/price", json=body) as answer:
            assert answer.status == 404

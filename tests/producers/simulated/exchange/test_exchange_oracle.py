"""The simulated exchange against the venue's own client library: it signs, sends, and its strict models read every answer and message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from binance_common.errors import BadRequestError, UnauthorizedError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from producers.simulated.exchange.session.keys import ApiKey
from tests.support.trading.exchange_cases import KEY, SYMBOL, D, Deferred, desk_account, official, runs, serving

models: Any = Deferred("binance_sdk_derivatives_trading_usds_futures.rest_api.models")

# What the venue tells of other kinds of contracts and orders, or leaves empty.
LEFT_OUT = {"activate_price", "price_rate", "iceberg_quantity", "base_qty", "pair", "fee_burn", "rpi_commission_rate"}


async def ask(call: Any, *arguments: Any, **options: Any) -> Any:
    """Make a blocking call of the client, and return what its models made of the answer."""
    answer = await asyncio.to_thread(call, *arguments, **options)
    data = answer.data()
    rows = data if isinstance(data, list) else [data]
    for row in rows:
        extra = getattr(row, "additional_properties", {})
        assert set(extra) <= {"simulated", "futuresType"}, f"fields that the venue does not have: {extra}"
        names = [name for name in getattr(type(row), "model_fields", {}) if not name.startswith("oneof_")]
        missing = {name for name in names if getattr(row, name) is None} - LEFT_OUT
        assert not missing, f"fields that the venue has: {missing}"
    return data


@runs
async def test_the_order_life_as_the_venues_own_client_sees_it() -> None:
    async with serving() as venue:
        rest = official(venue).rest_api
        made = await ask(
            rest.new_order,
            SYMBOL,
            models.NewOrderSideEnum.BUY,
            models.NewOrderTypeEnum.LIMIT,
            time_in_force=models.NewOrderTimeInForceEnum.GTX,
            quantity=0.1,
            price=59999.0,
            new_client_order_id="pf-entry-1",
        )
        assert (made.status, made.client_order_id, made.orig_qty) == ("NEW", "pf-entry-1", "0.100")
        (row,) = await ask(rest.current_all_open_orders, symbol=SYMBOL)
        assert row.order_id == made.order_id
        cancelled = await ask(rest.cancel_order, SYMBOL, orig_client_order_id="pf-entry-1")
        assert cancelled.status == "CANCELED"
        filled = await ask(
            rest.new_order,
            SYMBOL,
            models.NewOrderSideEnum.BUY,
            models.NewOrderTypeEnum.MARKET,
            quantity=0.1,
            new_client_order_id="pf-entry-2",
            new_order_resp_type=models.NewOrderNewOrderRespTypeEnum.RESULT,
        )
        assert (filled.status, filled.executed_qty) == ("FILLED", "0.100")
        queried = await ask(rest.query_order, SYMBOL, orig_client_order_id="pf-entry-2")
        assert (queried.order_id, queried.cum_quote, queried.avg_price) == (filled.order_id, "6000.01", "60000.10000")
        (position,) = await ask(rest.position_information_v3, symbol=SYMBOL)
        assert (position.position_amt, position.entry_price) == ("0.100", "60000.1")
        (trade,) = await ask(rest.account_trade_list, SYMBOL)
        assert (trade.price, trade.qty, trade.commission, trade.maker) == ("60000.1", "0.100", "3.00000500", False)
        incomes = await ask(rest.get_income_history)
        assert [(row.income_type, row.income) for row in incomes] == [("TRANSFER", "10000.00000000"), ("COMMISSION", "-3.00000500")]
        account = await ask(rest.account_information_v3)
        assert account.total_wallet_balance == "9996.99999500"
        assert account.positions[0].symbol == SYMBOL


@runs
async def test_conditional_orders_as_the_venues_own_client_sees_them() -> None:
    async with serving() as venue:
        rest = official(venue).rest_api
        await ask(rest.new_order, SYMBOL, models.NewOrderSideEnum.BUY, models.NewOrderTypeEnum.MARKET, quantity=0.1)
        conditional = {
            "algo_type": models.NewAlgoOrderAlgoTypeEnum.CONDITIONAL,
            "symbol": SYMBOL,
            "side": models.NewAlgoOrderSideEnum.SELL,
            "type": models.NewAlgoOrderTypeEnum.STOP_MARKET,
            "quantity": 0.1,
            "working_type": models.NewAlgoOrderWorkingTypeEnum.MARK_PRICE,
            "reduce_only": models.NewAlgoOrderReduceOnlyEnum.TRUE,
        }
        first = await ask(rest.new_algo_order, trigger_price=59000.0, client_algo_id="pf-stop-1", **conditional)
        assert (first.algo_status, first.client_algo_id, first.reduce_only) == ("NEW", "pf-stop-1", True)
        second = await ask(rest.new_algo_order, trigger_price=58000.0, client_algo_id="pf-stop-2", **conditional)
        rows = await ask(rest.current_all_algo_open_orders, symbol=SYMBOL)
        assert [row.algo_id for row in rows] == [first.algo_id, second.algo_id]
        gone = await ask(rest.cancel_algo_order, client_algo_id="pf-stop-2")
        assert (gone.algo_id, gone.code) == (second.algo_id, "200")
        venue.set_price(SYMBOL, "58990")
        done = await ask(rest.query_algo_order, client_algo_id="pf-stop-1")
        assert done.algo_status == "FINISHED" and done.actual_qty == "0.100"
        order = await ask(rest.query_order, SYMBOL, order_id=int(done.actual_order_id))
        assert (order.status, order.orig_type, order.client_order_id) == ("FILLED", "STOP_MARKET", "pf-stop-1")
        with pytest.raises(BadRequestError, match="would immediately trigger"):
            await ask(rest.new_algo_order, trigger_price=59000.0, **conditional)


@runs
async def test_settings_and_rules_as_the_venues_own_client_sees_them() -> None:
    async with serving() as venue:
        rest = official(venue).rest_api
        info = await ask(rest.exchange_information)
        by_name = {one.symbol: one for one in info.symbols}
        filters = {one.filter_type: one for one in by_name[SYMBOL].filters}
        assert filters["PRICE_FILTER"].tick_size == "0.1" and filters["MIN_NOTIONAL"].notional == "50"
        changed = await ask(rest.change_initial_leverage, SYMBOL, 10)
        assert (changed.leverage, changed.max_notional_value) == (10, "100000000")
        await ask(rest.change_margin_type, SYMBOL, models.ChangeMarginTypeMarginTypeEnum.ISOLATED)
        with pytest.raises(BadRequestError, match="No need to change margin type"):
            await ask(rest.change_margin_type, SYMBOL, models.ChangeMarginTypeMarginTypeEnum.ISOLATED)
        (config,) = await ask(rest.symbol_configuration, symbol=SYMBOL)
        assert (config.margin_type, config.leverage) == ("ISOLATED", 10)
        assert (await ask(rest.get_current_position_mode)).dual_side_position is False
        assert (await ask(rest.futures_account_configuration)).can_trade is True
        (fees,) = [await ask(rest.user_commission_rate, SYMBOL)]
        assert (fees.maker_commission_rate, fees.taker_commission_rate) == ("0.0002", "0.0005")
        await ask(rest.test_connectivity)
        assert abs((await ask(rest.check_server_time)).server_time - venue.desk.now()) < 5000
        await ask(rest.auto_cancel_all_open_orders, SYMBOL, 120_000)
        await ask(rest.cancel_all_open_orders, SYMBOL)
        await ask(rest.cancel_all_algo_open_orders, SYMBOL)
        await ask(rest.notional_and_leverage_brackets)
        for answer in (await ask(rest.position_information_v2, symbol=SYMBOL), await ask(rest.account_information_v2)):
            assert answer


@runs
async def test_refusals_carry_the_venues_words() -> None:
    async with serving() as venue:
        rest = official(venue).rest_api
        with pytest.raises(BadRequestError, match="ReduceOnly Order is rejected"):
            await ask(
                rest.new_order,
                SYMBOL,
                models.NewOrderSideEnum.SELL,
                models.NewOrderTypeEnum.MARKET,
                quantity=0.1,
                reduce_only=models.NewOrderReduceOnlyEnum.TRUE,
            )
        with pytest.raises(BadRequestError, match="Margin is insufficient"):
            await ask(rest.new_order, SYMBOL, models.NewOrderSideEnum.BUY, models.NewOrderTypeEnum.MARKET, quantity=50)
        with pytest.raises(BadRequestError, match="Order does not exist"):
            await ask(rest.query_order, SYMBOL, orig_client_order_id="never")


@runs
async def test_a_signature_of_another_secret_is_refused_and_ed25519_is_read() -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    keys = (*desk_account().keys, ApiKey("edkey", "desk", public_key=public))
    async with serving([desk_account(keys=keys)]) as venue:
        with pytest.raises(BadRequestError, match="Signature for this request is not valid"):
            await ask(official(venue, api_secret="other").rest_api.account_information_v3)
        with pytest.raises(UnauthorizedError, match="Invalid API-key"):
            await ask(official(venue, api_key="unknown").rest_api.account_information_v3)
        signed = official(venue, api_key="edkey", api_secret=None, private_key=pem).rest_api
        assert (await ask(signed.account_information_v3)).total_wallet_balance == "10000.00000000"
        other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        wrong = official(venue, api_key="edkey", api_secret=None, private_key=other).rest_api
        with pytest.raises(BadRequestError, match="Signature for this request is not valid"):
            await ask(wrong.account_information_v3)


@runs
async def test_the_user_stream_as_the_venues_own_client_reads_it() -> None:
    async with serving() as venue:
        client = official(venue)
        rest = client.rest_api
        key = (await ask(rest.start_user_data_stream)).listen_key
        streams = client.websocket_streams
        await streams.create_connection()
        got: list[Any] = []
        handle = await streams.user_data(key)
        handle.on("message", got.append)
        while not venue.server.streams.listeners("desk"):
            await asyncio.sleep(0.01)
        await ask(
            rest.new_order, SYMBOL, models.NewOrderSideEnum.BUY, models.NewOrderTypeEnum.MARKET, quantity=0.1, new_client_order_id="pf-1"
        )
        venue.funding(SYMBOL, "0.0001")
        await ask(rest.change_initial_leverage, SYMBOL, 5)
        for _ in range(300):
            if len(got) >= 6:
                break
            await asyncio.sleep(0.01)
        events = [message.actual_instance for message in got]
        assert [type(event).__name__ for event in events] == [
            "OrderTradeUpdate",
            "AccountUpdate",
            "TradeLite",
            "OrderTradeUpdate",
            "AccountUpdate",
            "AccountConfigUpdate",
        ]
        accepted, moved, lite, traded, funded, _ = events
        assert (accepted.o.x, accepted.o.X) == ("NEW", "NEW")
        assert (traded.o.x, traded.o.X, traded.o.c, traded.o.L, traded.o.n) == ("TRADE", "FILLED", "pf-1", "60000.1", "3.00000500")
        assert traded.o.t == lite.t and moved.a.P[0].pa == "0.1" and moved.a.m == "ORDER"
        assert D(moved.a.B[0].wb) == 10000 - D("3.00000500")
        assert (funded.a.m, funded.a.B[0].bc) == ("FUNDING_FEE", "-0.60000000")
        kept = await ask(rest.keepalive_user_data_stream)
        assert kept.listen_key == key
        await streams.close_connection()


def test_a_key_does_not_show_its_secret() -> None:
    assert "testsecret" not in repr(ApiKey(KEY, "desk", "testsecret"))

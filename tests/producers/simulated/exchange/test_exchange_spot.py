"""The simulated exchange as a spot exchange: order lists and balances by the rules, and every answer through the venue's own client library."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from binance_common.errors import BadRequestError
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulated.exchange.core.orders import ListChanged, NewOrder, OrderChanged
from producers.simulated.exchange.core.rules import Contract, Reason, Refusal
from producers.simulated.exchange.spot import wire_format
from producers.simulated.exchange.spot.engine import SpotExchange
from producers.simulated.exchange.spot.lists import NewList, SpotAccount
from tests.support.trading.exchange_cases import KEY, NOW, SECRET, SYMBOL, D, Deferred, desk_account, levels, runs, serving

sdk: Any = Deferred("binance_sdk_spot.spot")
common: Any = Deferred("binance_common.configuration")
models: Any = Deferred("binance_sdk_spot.rest_api.models")
messages: Any = Deferred("binance_sdk_spot.websocket_api.models")
CONTRACT = Contract.of(SYMBOL, "0.1", "0.00001")


def spot(usdt: str = "10000", btc: str = "0", contract: Contract = CONTRACT) -> SpotExchange:
    exchange = SpotExchange([contract])
    exchange.add_account(SpotAccount("desk", maker=D("0.001"), taker=D("0.001")))
    exchange.deposit("desk", D(usdt), NOW)
    exchange.deposit("desk", D(btc), NOW, "BTC")
    move(exchange, "60000")
    exchange.drain()
    return exchange


def move(exchange: SpotExchange, price: str, size: str = "10") -> None:
    at = D(price)
    exchange.on_book(SYMBOL, levels((str(at - D("0.1")), size)), levels((str(at + D("0.1")), size)), NOW)
    exchange.on_mark(SYMBOL, at, NOW)
    exchange.on_trade(SYMBOL, at, D("0.001"), "BUY", NOW)


def oco(quantity: str, target: str, stop: str, name: str = "a") -> NewList:
    limit = NewOrder(SYMBOL, "SELL", "LIMIT", D(quantity), D(target), "GTX", client_id=f"{name}-target")
    return NewList(limit, NewOrder(SYMBOL, "SELL", "MARKET", D(quantity), client_id=f"{name}-stop"), D(stop), f"{name}-list")


def test_a_list_locks_its_quantity_once_and_each_leg_ends_the_other():
    exchange = spot(btc="1")
    made, (target, stop) = exchange.place_list("desk", oco("0.6", "61000", "59000"), NOW)
    assert exchange.locked("desk", "BTC") == D("0.6") and exchange.free("desk", "BTC") == D("0.4")
    assert [one.client_id for one in exchange.open_orders("desk")] == ["a-target", "a-stop"]
    with pytest.raises(Refusal) as refused:
        exchange.place_list("desk", oco("0.5", "61000", "59000", "b"), NOW)
    assert refused.value.reason is Reason.MARGIN
    move(exchange, "61001")
    assert (exchange.orders[target.id].status, exchange.orders[stop.id].status) == ("FILLED", "EXPIRED")
    assert exchange.lists[made.id].done and exchange.locked("desk", "BTC") == 0
    exchange.place_list("desk", oco("0.4", "62000", "60500", "c"), NOW)
    move(exchange, "60400")
    stopped = {one.client_id: one for one in exchange.orders.values()}
    assert (stopped["c-stop"].status, stopped["c-target"].status) == ("FILLED", "EXPIRED")
    # The stop sells at the bid, a tick under the price; its fee is taken from what is received.
    assert exchange.owner("desk").balances["USDT"] == D(10_000) + D("0.999") * (D("0.6") * 61_000 + D("0.4") * D("60399.9"))


def test_a_target_that_is_filled_in_part_leaves_its_rest_without_a_stop():
    exchange = spot(btc="1")
    exchange.place_list("desk", oco("1", "61000", "59000"), NOW)
    exchange.on_book(SYMBOL, levels(("61000", "0.3")), levels(("61000.1", "1")), NOW)
    (left,) = exchange.open_orders("desk")
    assert (left.client_id, left.left) == ("a-target", D("0.7")) and exchange.locked("desk", "BTC") == D("0.7")


def test_cancelling_a_leg_cancels_the_list():
    exchange = spot(btc="1")
    exchange.place_list("desk", oco("1", "61000", "59000"), NOW)
    exchange.cancel("desk", SYMBOL, None, "a-target", NOW)
    assert not exchange.open_orders("desk") and exchange.free("desk", "BTC") == 1
    ends = [one.order.client_id for one in exchange.events if isinstance(one, OrderChanged) and one.execution == "CANCELED"]
    assert sorted(ends) == ["a-stop", "a-target"]
    assert [one.done for one in exchange.events if isinstance(one, ListChanged)] == [False, True]


@pytest.mark.parametrize(
    ("target", "stop", "reason"),
    [
        ("59999", "59000", Reason.LIST_PRICES),
        ("61000", "60000", Reason.LIST_PRICES),
        ("61000.05", "59000", Reason.PRECISION),
    ],
)
def test_prices_of_a_list_that_are_wrong_are_refused_and_nothing_of_it_is_placed(target: str, stop: str, reason: Reason):
    exchange = spot(btc="1")
    with pytest.raises(Refusal) as refused:
        exchange.place_list("desk", oco("1", target, stop), NOW)
    assert refused.value.reason is reason and not exchange.orders and not exchange.lists


STEPS = st.lists(
    st.tuples(st.sampled_from(["buy", "sell", "bid", "oco", "stop", "cancel", "move"]), st.integers(1, 40), st.integers(-20, 20)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_balances_are_the_sum_of_the_fills_and_nothing_is_spent_twice(steps: list[tuple[str, int, int]]):
    exchange = spot(usdt="2000", btc="0.02")
    for number, (what, size, shift) in enumerate(steps):
        quantity, price, name = D(size) / 1000, D(60_000) + 50 * shift, f"n{number}"
        try:
            if what in ("buy", "sell"):
                exchange.place("desk", NewOrder(SYMBOL, what.upper(), "MARKET", quantity, client_id=name), NOW)
            elif what == "bid":
                exchange.place("desk", NewOrder(SYMBOL, "BUY", "LIMIT", quantity, price, client_id=name), NOW)
            elif what == "oco":
                exchange.place_list("desk", oco(str(quantity), str(price + 800), str(price - 800), name), NOW)
            elif what == "stop":
                exchange.place("desk", NewOrder(SYMBOL, "SELL", "MARKET", quantity, client_id=name), NOW, price - 800)
            elif what == "cancel":
                exchange.cancel_all("desk", SYMBOL, NOW)
            else:
                move(exchange, str(price), str(D(size) / 2000))
        except Refusal:
            pass
        owner = exchange.owner("desk")
        for asset in ("USDT", "BTC"):
            # A buy at market may cost a little more than the best price foretold; nothing else goes below zero.
            assert owner.balances[asset] >= (D(-1) if asset == "USDT" else 0)
            assert exchange.locked("desk", asset) >= 0
        assert exchange.free("desk", "BTC") >= 0
    btc, usdt = D("0.02"), D(2000)
    for fill in exchange.owner("desk").fills:
        sign = 1 if fill.side == "BUY" else -1
        btc += sign * fill.quantity - (fill.fee if fill.fee_asset == "BTC" else 0)
        usdt -= sign * fill.quantity * fill.price + (fill.fee if fill.fee_asset == "USDT" else 0)
    assert (exchange.owner("desk").balances["BTC"], exchange.owner("desk").balances["USDT"]) == (btc, usdt)
    for made in exchange.lists.values():
        legs = [exchange.orders[one] for one in made.orders]
        assert sum(one.filled > 0 for one in legs) <= 1 and made.done == (not any(one.open for one in legs))


# --- the venue's own client ---------------------------------------------------------------------------------------------
# What the venue tells only of other kinds of orders.
LEFT_OUT = {"iceberg_qty", "stop_price", "time_in_force", "used_sor", "working_floor", "expiry_reason", "uid"}
SPECIAL = ("prevented", "strategy", "trailing", "peg_price", "peg_offset", "pegged")


def read(answer: Any, without: frozenset[str] = frozenset()) -> Any:
    """Return what the client's strict models made of an answer: no field unknown to them, none missing."""
    rows = answer if isinstance(answer, list) else [answer]
    for row in rows:
        assert not getattr(row, "additional_properties", {}), row.additional_properties
        missing = {name for name in type(row).model_fields if getattr(row, name) is None} - LEFT_OUT - without
        assert not {name for name in missing if not name.startswith(SPECIAL)}, f"{type(row).__name__}: {missing}"
    return answer


@runs
async def test_an_order_list_as_the_venues_own_client_sees_it():
    async with serving([desk_account()], venue="BINANCE_SPOT", contracts=[CONTRACT]) as venue:
        rest = sdk.Spot(
            config_rest_api=common.ConfigurationRestAPI(api_key=KEY, api_secret=SECRET, base_path=venue.rest_url, retries=0)
        ).rest_api

        async def ask(call: Any, *arguments: Any, **options: Any) -> Any:
            return (await asyncio.to_thread(call, *arguments, **options)).data()

        bought = read(
            await ask(
                rest.new_order,
                SYMBOL,
                models.NewOrderSideEnum.BUY,
                models.NewOrderTypeEnum.MARKET,
                quantity=0.01,
                new_client_order_id="in-1",
            )
        )
        assert (bought.status, bought.fills[0].commission_asset) == ("FILLED", "BTC")
        prices = {"above_price": 61_000.0, "below_stop_price": 59_000.0}
        names = {"list_client_order_id": "l-1", "above_client_order_id": "t-1", "below_client_order_id": "s-1"}
        limit, stop = models.OrderListOcoAboveTypeEnum.LIMIT_MAKER, models.OrderListOcoBelowTypeEnum.STOP_LOSS
        with pytest.raises(BadRequestError, match="insufficient balance"):
            # All that was bought: the fee was taken from it.
            await ask(rest.order_list_oco, SYMBOL, models.OrderListOcoSideEnum.SELL, 0.01, limit, stop, **prices, **names)
        made = read(await ask(rest.order_list_oco, SYMBOL, models.OrderListOcoSideEnum.SELL, 0.00999, limit, stop, **prices, **names))
        assert (made.contingency_type, made.list_order_status, [one.client_order_id for one in made.orders]) == (
            "OCO",
            "EXECUTING",
            ["t-1", "s-1"],
        )
        for report in made.order_reports:
            read(report)
        assert [one.type for one in made.order_reports] == ["LIMIT_MAKER", "STOP_LOSS"]
        one = read(await ask(rest.get_order, SYMBOL, orig_client_order_id="s-1"))
        assert (one.status, one.stop_price, one.is_working) == ("NEW", "59000.00000000", False)
        read(await ask(rest.get_open_orders, SYMBOL))
        read(await ask(rest.get_order_list, orig_client_order_id="l-1"))
        account = read(await ask(rest.get_account))
        held = {row.asset: (row.free, row.locked) for row in account.balances}
        # 0.01 less the fee of 0.05 %.
        assert held["BTC"] == ("0.00000500", "0.00999000")
        venue.set_price(SYMBOL, "58900")
        ends = {row.client_order_id: row.status for row in await ask(rest.all_orders, SYMBOL)}
        assert ends == {"in-1": "FILLED", "t-1": "EXPIRED", "s-1": "FILLED"}
        trades = read(await ask(rest.my_trades, SYMBOL))
        assert [row.commission_asset for row in trades] == ["BTC", "USDT"]
        read((await ask(rest.exchange_info, SYMBOL)).symbols)
        with pytest.raises(BadRequestError, match="relationship of the prices"):
            await ask(rest.order_list_oco, SYMBOL, models.OrderListOcoSideEnum.SELL, 0.001, limit, stop, **prices)


def test_every_message_of_the_user_stream_fits_the_venues_models():
    exchange = spot()
    exchange.place("desk", NewOrder(SYMBOL, "BUY", "MARKET", D("0.1"), client_id="in"), NOW)
    exchange.place_list("desk", oco("0.09", "61000", "59000"), NOW)
    exchange.cancel("desk", SYMBOL, None, "a-stop", NOW)
    kinds = {
        "executionReport": messages.ExecutionReport,
        "listStatus": messages.ListStatus,
        "outboundAccountPosition": messages.OutboundAccountPosition,
    }
    seen = set()
    special = {
        "W",
        "d",
        "D",
        "j",
        "J",
        "v",
        "A",
        "B",
        "u",
        "U",
        "Cs",
        "pl",
        "pL",
        "pY",
        "b",
        "a",
        "k",
        "uS",
        "gP",
        "gp",
        "eR",
        "g_ot",
        "g_ov",
        "N",
    }
    for event in exchange.drain():
        for kind, message in wire_format.messages(event, NOW):
            seen.add(kind)
            body = {name: value for name, value in message.items() if name != "e"}
            row = kinds[kind].from_dict(body)
            assert row is not None and not getattr(row, "additional_properties", {}), row
            assert not {name for name in type(row).model_fields if getattr(row, name) is None} - special, (kind, message)
    assert seen == set(kinds)


def test_words_have_a_number_for_every_quantity():
    exchange = spot(btc="1")
    _, orders = exchange.place_list("desk", oco("0.5", "61000", "59000"), NOW)
    row = wire_format.order_row(orders[1], queried=True)
    assert (Decimal(row["origQty"]), Decimal(row["stopPrice"]), row["workingTime"], row["timeInForce"]) == (D("0.5"), D(59_000), -1, "GTC")

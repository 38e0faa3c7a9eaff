"""The matching core of the simulated exchange, rule by rule."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from producers.simulated.exchange.core import conditional, funds, risk
from producers.simulated.exchange.core.orders import ConditionalChanged, NewConditional, OrderChanged
from producers.simulated.exchange.core.rules import Contract, Reason, Refusal
from tests.support.trading.exchange_cases import SYMBOL, Bench, D, bench


def refused(reason: Reason, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.reason is reason


def stop(one: Bench, side: str, trigger: str, quantity: str = "0", **changes: Any) -> Any:
    request = NewConditional(
        SYMBOL, side, **{"type": "STOP_MARKET", "quantity": D(quantity), "trigger": D(trigger), "working": "MARK_PRICE", **changes}
    )
    return conditional.wait(one.exchange, "desk", request, one.now)


def told(one: Bench) -> list[str]:
    """Execution types and statuses of what happened since the last look."""
    return [
        f"{event.execution}:{event.order.status}" if isinstance(event, OrderChanged) else event.conditional.status
        for event in one.exchange.drain()
        if isinstance(event, OrderChanged | ConditionalChanged)
    ]


def test_a_market_order_walks_the_book_and_pays_the_taker_fee() -> None:
    one = bench()
    one.book(asks=[("60000.1", "0.1"), ("60001.0", "0.2"), ("60005.0", "9")])
    order = one.order("BUY", "0.4")
    assert order.status == "FILLED"
    assert order.quote == D("0.1") * D("60000.1") + D("0.2") * D("60001.0") + D("0.1") * D("60005.0")
    fees = sum((fill.fee for fill in one.account.fills), D(0))
    assert fees == order.quote * D("0.0005")
    assert one.account.wallet == D(10000) - fees
    assert told(one) == ["NEW:NEW", "TRADE:PARTIALLY_FILLED", "TRADE:PARTIALLY_FILLED", "TRADE:FILLED"]
    assert one.exchange.markets[SYMBOL].asks == [(D("60005.0"), D("8.9"))]  # what was taken is gone


def test_a_market_order_takes_what_there_is_and_the_rest_expires() -> None:
    one = bench()
    one.book(asks=[("60000.1", "0.1")])
    order = one.order("BUY", "0.4")
    assert (order.status, order.filled, order.expired) == ("EXPIRED", D("0.1"), 9)


def test_a_market_order_goes_no_further_than_percent_price() -> None:
    one = bench()
    one.book(asks=[("60000.1", "0.1"), ("63000.1", "5")])
    assert one.order("BUY", "0.2").filled == D("0.1")
    one.book(asks=[("63000.1", "5")])
    refused(Reason.COUNTERPARTY_BAND, one.order, "BUY", "0.2")


@pytest.mark.parametrize(
    ("reason", "quantity", "price"),
    [
        (Reason.QUANTITY_NOT_POSITIVE, "0", "60000"),
        (Reason.PRECISION, "0.0015", "60000"),
        (Reason.QUANTITY_TOO_LARGE, "5000", "60000"),
        (Reason.PRECISION, "0.01", "60000.05"),
        (Reason.PRICE_NOT_POSITIVE, "0.01", "0"),
        (Reason.PRICE_ABOVE_BAND, "0.01", "63000.1"),
        (Reason.MIN_NOTIONAL, "0.001", "49999.9"),
        (Reason.MARGIN, "4", "59000"),
    ],
)
def test_filters_refuse_and_nothing_happens(reason: Reason, quantity: str, price: str) -> None:
    one = bench()
    refused(reason, one.order, "BUY", quantity, price)
    assert not one.exchange.orders and not one.exchange.events


def test_a_price_of_enough_decimals_between_two_ticks_is_refused_by_its_own_word() -> None:
    contract = Contract.of(SYMBOL, "0.1", "0.001", price_decimals=2)
    refused(Reason.PRICE_STEP, bench(contract=contract).order, "BUY", "0.01", "60000.05")


def test_market_orders_have_their_own_largest_quantity() -> None:
    one = bench(deposit="100000000")
    refused(Reason.QUANTITY_TOO_LARGE, one.order, "BUY", "121")
    assert one.order("BUY", "121", "59000").status == "NEW"


def test_post_only_that_would_take_and_fill_or_kill_that_cannot_fill_leave_no_order() -> None:
    one = bench()
    refused(Reason.POST_ONLY, one.order, "BUY", "0.1", "60000.1", tif="GTX")
    refused(Reason.FILL_OR_KILL, one.order, "BUY", "1.5", "60000.1", tif="FOK")
    assert not one.exchange.orders
    assert one.order("BUY", "0.1", "60000.0", tif="GTX").status == "NEW"
    assert one.order("BUY", "1", "60000.1", tif="FOK").status == "FILLED"


def test_immediate_or_cancel_keeps_its_part() -> None:
    one = bench()
    order = one.order("BUY", "1.5", "60000.1", tif="IOC")
    assert (order.status, order.filled, order.expired) == ("EXPIRED", D(1), 2)


def test_client_ids_are_unique_among_open_orders_only() -> None:
    # As measured at the venue: two market orders of one id are both filled, so the id alone does not protect against doing it twice.
    one = bench()
    first = one.order("BUY", "0.01", client_id="same")
    second = one.order("BUY", "0.01", client_id="same")
    assert first.id != second.id and one.position == D("0.02")
    assert one.exchange.query("desk", SYMBOL, None, "same").id == second.id
    one.order("BUY", "0.01", "59000", client_id="open")
    refused(Reason.CLIENT_ID_TAKEN, one.order, "BUY", "0.01", "59000", client_id="open")
    refused(Reason.CLIENT_ID_FORM, one.order, "BUY", "0.01", "59000", client_id="x" * 37)
    refused(Reason.CLIENT_ID_FORM, one.order, "BUY", "0.01", "59000", client_id="a b")


@pytest.mark.parametrize(("queue", "filled"), [("through", "0"), ("volume", "0.2"), ("touch", "0.5")])
def test_a_trade_at_the_price_fills_by_the_model_of_the_queue(queue: str, filled: str) -> None:
    one = bench(queue=queue)
    one.book(bids=[("59999.9", "0.3")])
    order = one.order("BUY", "0.5", "59999.9")
    one.exchange.on_trade(SYMBOL, D("59999.9"), D("0.5"), "SELL", one.now)
    assert one.exchange.query("desk", SYMBOL, order.id, None).filled == D(filled)


def test_a_trade_beyond_the_price_fills_all_at_the_limit_as_maker() -> None:
    one = bench()
    order = one.order("BUY", "0.5", "59999.9")
    one.exchange.on_trade(SYMBOL, D("59999.8"), D("0.001"), "SELL", one.now)
    assert one.exchange.query("desk", SYMBOL, order.id, None).status == "FILLED"
    (fill,) = one.account.fills
    assert fill.maker and fill.price == D("59999.9") and fill.fee == D("59999.9") * D("0.5") * D("0.0002")


def test_the_other_side_of_the_book_reaching_a_resting_order_fills_what_it_holds() -> None:
    one = bench()
    order = one.order("BUY", "0.5", "59999.9")
    one.book(bids=[("59998.0", "1")], asks=[("59999.0", "0.2"), ("59999.9", "0.1"), ("60000.0", "4")])
    assert one.exchange.query("desk", SYMBOL, order.id, None).filled == D("0.3")
    assert {fill.price for fill in one.account.fills} == {D("59999.9")}


def test_reduce_only_is_refused_without_a_position_and_never_turns_one() -> None:
    one = bench()
    refused(Reason.REDUCE_ONLY, one.order, "SELL", "0.1", reduce_only=True)
    one.order("BUY", "0.1")
    refused(Reason.REDUCE_ONLY, one.order, "BUY", "0.1", reduce_only=True)
    order = one.order("SELL", "0.3", reduce_only=True)
    assert (order.status, order.filled, order.expired) == ("EXPIRED", D("0.1"), 4)
    assert one.position == 0


def test_resting_reduce_only_orders_end_when_nothing_is_left_for_them() -> None:
    one = bench()
    one.order("BUY", "0.3")
    near, far = one.order("SELL", "0.2", "60100", reduce_only=True), one.order("SELL", "0.1", "60200", reduce_only=True)
    refused(Reason.REDUCE_ONLY, one.order, "SELL", "0.1", "60300", reduce_only=True)  # the better ones use the position up
    better = one.order("SELL", "0.1", "60050", reduce_only=True)
    assert one.exchange.query("desk", SYMBOL, far.id, None).expired == 4
    one.order("SELL", "0.2")
    left = {order.id: order.status for order in one.exchange.open_orders("desk")}
    assert left == {better.id: "NEW"} and near.id not in left
    one.order("SELL", "0.1")
    assert not one.exchange.open_orders("desk")


def test_a_stop_by_mark_price_triggers_and_is_followed_to_its_fill() -> None:
    one = bench()
    one.order("BUY", "0.1")
    one.exchange.drain()
    made = stop(one, "SELL", "59000", "0.1", reduce_only=True, client_id="stop1")
    one.exchange.on_trade(SYMBOL, D("58000"), D("1"), "SELL", one.now)  # the last price is not asked
    assert one.position == D("0.1")
    one.book(bids=[("58990.0", "5")], asks=[("58990.1", "5")])
    one.exchange.on_mark(SYMBOL, D("59000"), one.now + 5)
    assert told(one) == ["NEW", "TRIGGERING", "TRIGGERED", "NEW:NEW", "TRADE:FILLED", "FINISHED"]
    found = conditional.query_conditional(one.exchange, "desk", made.id, None)
    assert found.status == "FINISHED" and found.order is not None
    assert (found.order.client_id, found.order.average, found.order.original) == ("stop1", D("58990"), "STOP_MARKET")
    assert one.position == 0


def test_the_order_that_a_stop_becomes_may_bear_the_venues_name() -> None:
    one = bench()
    one.exchange.renames_triggered = True
    one.order("BUY", "0.1")
    made = stop(one, "SELL", "59000", "0.1", reduce_only=True, client_id="stop1")
    one.exchange.on_mark(SYMBOL, D("59000"), one.now)
    found = conditional.query_conditional(one.exchange, "desk", made.id, None).order
    assert found is not None and (found.original, found.client_id) == ("MARKET", f"triggered-{found.id}")


def test_a_stop_in_a_thin_book_fills_a_part_and_is_finished() -> None:
    one = bench()
    one.order("BUY", "0.1")
    made = stop(one, "SELL", "59000", "0.1", reduce_only=True)
    one.book(bids=[("58990.0", "0.03")], asks=[("58990.1", "5")])
    one.exchange.on_mark(SYMBOL, D("59000"), one.now)
    found = conditional.query_conditional(one.exchange, "desk", made.id, None)
    assert found.status == "FINISHED" and found.order is not None
    assert (found.order.status, found.order.filled, one.position) == ("EXPIRED", D("0.03"), D("0.07"))  # and nothing protects the rest


def test_a_stop_behind_a_gap_is_filled_where_the_market_is() -> None:
    one = bench()
    one.order("BUY", "0.1")
    stop(one, "SELL", "59000", "0.1", reduce_only=True)
    one.exchange.markets[SYMBOL].mark = D("55000")
    one.book(bids=[("54990.0", "0.04"), ("54980.0", "5")], asks=[("55000.0", "5")])
    one.exchange.on_mark(SYMBOL, D("55000"), one.now)
    assert [(fill.price, fill.quantity) for fill in one.account.fills[1:]] == [(D("54990"), D("0.04")), (D("54980"), D("0.06"))]


def test_two_stops_do_not_close_twice() -> None:
    one = bench()
    one.order("BUY", "0.1")
    first, second = (stop(one, "SELL", trigger, "0.1", reduce_only=True) for trigger in ("59000", "58900"))
    one.exchange.on_mark(SYMBOL, D("58800"), one.now)
    assert conditional.query_conditional(one.exchange, "desk", first.id, None).status == "FINISHED"
    late = conditional.query_conditional(one.exchange, "desk", second.id, None)
    assert (late.status, late.failed) == ("REJECTED", "Reduce Only reject")
    assert one.position == 0


def test_a_stop_without_reduce_only_opens_when_the_position_is_gone() -> None:
    # The venue does not know what the order was for: this is how an orphaned stop makes a counter position.
    one = bench()
    stop(one, "SELL", "59000", "0.1")
    one.exchange.on_mark(SYMBOL, D("58800"), one.now)
    assert one.position == D("-0.1")


def test_a_stop_that_would_trigger_at_once_is_refused() -> None:
    one = bench()
    one.order("BUY", "0.1")
    refused(Reason.WOULD_TRIGGER, stop, one, "SELL", "60000", "0.1")
    refused(Reason.WOULD_TRIGGER, stop, one, "SELL", "59000", "0.1", type="TAKE_PROFIT_MARKET")
    assert stop(one, "SELL", "61000", "0.1", type="TAKE_PROFIT_MARKET").status == "NEW"


def test_closing_stops_are_one_a_direction_and_end_with_the_position() -> None:
    one = bench()
    refused(Reason.NOTHING_TO_CLOSE, stop, one, "SELL", "59000", close_position=True)
    one.order("BUY", "0.1")
    made = stop(one, "SELL", "59000", close_position=True)
    assert (made.tif, made.quantity) == ("GTE_GTC", 0)
    refused(Reason.CLOSE_POSITION_TAKEN, stop, one, "SELL", "58000", close_position=True)
    stop(one, "SELL", "61000", close_position=True, type="TAKE_PROFIT_MARKET")
    one.order("SELL", "0.1")
    assert not conditional.open_conditionals(one.exchange, "desk")
    assert conditional.query_conditional(one.exchange, "desk", made.id, None).status == "EXPIRED"


def test_a_trailing_stop_follows_the_best_price() -> None:
    one = bench()
    one.order("BUY", "0.1")
    trailing = {"type": "TRAILING_STOP_MARKET", "callback": D("1"), "activation": D("60500"), "reduce_only": True}
    made = stop(one, "SELL", "0", "0.1", **trailing)
    for mark in ("60400", "60500", "62000", "61381"):
        one.exchange.on_mark(SYMBOL, D(mark), one.now)
    assert conditional.query_conditional(one.exchange, "desk", made.id, None).status == "NEW"
    one.exchange.on_mark(SYMBOL, D("61380"), one.now)  # 1 % below 62000
    assert conditional.query_conditional(one.exchange, "desk", made.id, None).status == "FINISHED"


def test_funding_is_paid_by_longs_and_received_by_shorts() -> None:
    one = bench()
    one.order("BUY", "0.5")
    before = one.account.wallet
    risk.settle_funding(one.exchange, SYMBOL, D("0.0001"), one.now)
    assert one.account.wallet - before == -D("0.5") * 60000 * D("0.0001")
    one.order("SELL", "1")
    before = one.account.wallet
    risk.settle_funding(one.exchange, SYMBOL, D("0.0001"), one.now)
    assert one.account.wallet - before == D("0.5") * 60000 * D("0.0001")


def test_the_liquidation_price_is_where_the_margin_equals_its_maintenance() -> None:
    one = bench(deposit="1000")
    one.order("BUY", "0.2")
    price = risk.liquidation_price(one.exchange, one.account, SYMBOL)
    assert price is not None
    bracket = one.exchange.markets[SYMBOL].contract.bracket(D("0.2") * price)
    equity = one.account.wallet + D("0.2") * price - one.account.position(SYMBOL).cost
    assert abs(equity - (D("0.2") * price * bracket.rate - bracket.deduction)) < D("1e-18")
    one.exchange.on_mark(SYMBOL, price + D("0.01"), one.now)
    assert one.position == D("0.2")
    one.book(bids=[("55100", "9")], asks=[("55200", "9")])
    one.exchange.on_mark(SYMBOL, price - D("0.01"), one.now)
    assert one.position == 0


def test_liquidation_takes_its_fee_ends_the_orders_and_never_more_than_there_is() -> None:
    one = bench(deposit="1000")
    one.order("BUY", "0.3")
    resting = one.order("SELL", "0.001", "61000")
    waiting = stop(one, "SELL", "50000", "0.3", reduce_only=True)
    one.book(bids=[("55000", "9")], asks=[("55000.1", "9")])
    one.exchange.drain()
    one.exchange.on_mark(SYMBOL, D("55000"), one.now)
    assert one.position == 0 and one.account.wallet == 0
    cleared = sum((row.amount for row in one.account.ledger if row.type == "INSURANCE_CLEAR"), D(0))
    assert cleared > 0  # the fund bore what was missing
    assert one.exchange.query("desk", SYMBOL, resting.id, None).expired == 5
    assert conditional.query_conditional(one.exchange, "desk", waiting.id, None).status == "EXPIRED"
    forced = [event for event in one.exchange.drain() if isinstance(event, OrderChanged) and event.execution == "CALCULATED"]
    assert forced and forced[0].order.client_id.startswith("autoclose-")


def test_an_isolated_position_loses_what_was_set_aside_and_no_more() -> None:
    one = bench()
    one.exchange.set_margin_mode("desk", SYMBOL, True, one.now)
    one.order("BUY", "0.1")
    aside = one.account.position(SYMBOL).isolated_wallet
    assert aside == D("0.1") * D("60000.1") / 20
    before = one.account.wallet
    one.book(bids=[("50000", "9")], asks=[("50000.1", "9")])
    one.exchange.on_mark(SYMBOL, D("50000"), one.now)
    assert one.position == 0 and one.account.wallet == before - aside


def test_deleveraging_takes_a_part_without_fee() -> None:
    one = bench()
    one.order("SELL", "0.4")
    before = one.account.wallet
    risk.deleverage(one.exchange, "desk", SYMBOL, D("0.1"), D("59000"), one.now)
    assert one.position == D("-0.3")
    assert one.account.wallet - before == D("0.1") * (D("59999.9") - D("59000"))
    assert one.exchange.query("desk", SYMBOL, None, "adl_autoclose").filled == D("0.1")


def test_a_delisted_instrument_settles_positions_and_takes_no_orders() -> None:
    one = bench()
    one.order("BUY", "0.1")
    resting = one.order("SELL", "0.1", "61000", reduce_only=True)
    risk.delist(one.exchange, SYMBOL, one.now)
    assert one.position == 0
    assert one.exchange.query("desk", SYMBOL, resting.id, None).status == "EXPIRED"
    refused(Reason.NOT_TRADING, one.order, "BUY", "0.1")


def test_orders_reserve_margin_and_reduce_only_ones_do_not() -> None:
    one = bench()
    one.order("BUY", "0.1", "59000")
    assert funds.available(one.exchange, one.account) == D(10000) - D("0.1") * 59000 / 20
    one.exchange.cancel_all("desk", SYMBOL, one.now)
    one.order("BUY", "0.1")
    before = funds.available(one.exchange, one.account)
    one.order("SELL", "0.1", "61000", reduce_only=True)
    assert funds.available(one.exchange, one.account) == before


def test_a_countdown_cancels_unless_it_is_asked_again() -> None:
    one = bench()
    one.order("BUY", "0.1", "59000")
    one.exchange.countdown("desk", SYMBOL, 1000, one.now)
    one.exchange.tick(one.now + 999)
    one.exchange.countdown("desk", SYMBOL, 1000, one.now + 999)
    one.exchange.tick(one.now + 1500)
    assert one.exchange.open_orders("desk")
    one.exchange.tick(one.now + 1999)
    assert not one.exchange.open_orders("desk")


def test_settings_are_refused_as_the_venue_does() -> None:
    one = bench()
    refused(Reason.LEVERAGE, one.exchange.set_leverage, "desk", SYMBOL, 126, one.now)
    refused(Reason.MARGIN_MODE_SAME, one.exchange.set_margin_mode, "desk", SYMBOL, False, one.now)
    refused(Reason.POSITION_MODE_SAME, one.exchange.set_dual, "desk", False)
    order = one.order("BUY", "0.1", "59000")
    refused(Reason.MARGIN_MODE_ORDERS, one.exchange.set_margin_mode, "desk", SYMBOL, True, one.now)
    refused(Reason.POSITION_MODE_ORDERS, one.exchange.set_dual, "desk", True)
    one.exchange.cancel("desk", SYMBOL, order.id, None, one.now)
    one.exchange.set_dual("desk", True)
    refused(Reason.POSITION_SIDE, one.order, "BUY", "0.1", "59000")
    refused(Reason.UNKNOWN_ORDER, one.exchange.cancel, "desk", SYMBOL, order.id, None, one.now)
    refused(Reason.ORDER_NOT_FOUND, one.exchange.query, "desk", SYMBOL, None, "never")
    assert Decimal(one.exchange.set_leverage("desk", SYMBOL, 50, one.now)) == 12_000_000

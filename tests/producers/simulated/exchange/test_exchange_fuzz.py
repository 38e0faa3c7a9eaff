"""Whatever a client sends to any endpoint, the simulated exchange answers or refuses in the venue's words, and its books stay in order."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulated.exchange.binance import errors, wire_format
from producers.simulated.exchange.binance.api import MARKET, TRADING, verdict
from producers.simulated.exchange.bybit import api as bybit
from producers.simulated.exchange.bybit import wire_format as bybit_words
from producers.simulated.exchange.core.rules import SPOT_REASONS, Reason
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.wire.protocol import Query, VenueError
from tests.support.trading.exchange_cases import KEY, NOW, SYMBOL, D, bench, desk_account

NAMES = {
    "symbol": st.sampled_from([SYMBOL, "btcusdt", "", "NOPE"]),
    "side": st.sampled_from(["BUY", "SELL", "sell", "?"]),
    "type": st.sampled_from(["LIMIT", "MARKET", "STOP_MARKET", "TAKE_PROFIT", "STOP", "TRAILING_STOP_MARKET", "?"]),
    "algoType": st.sampled_from(["CONDITIONAL", "VP"]),
    "timeInForce": st.sampled_from(["GTC", "IOC", "FOK", "GTX", "GTD", "?"]),
    "positionSide": st.sampled_from(["BOTH", "LONG", "?"]),
    "marginType": st.sampled_from(["ISOLATED", "CROSSED", "?"]),
    "workingType": st.sampled_from(["MARK_PRICE", "CONTRACT_PRICE", "?"]),
    "newOrderRespType": st.sampled_from(["ACK", "RESULT"]),
    **{name: st.sampled_from(["true", "false", "maybe", ""]) for name in ("reduceOnly", "closePosition", "dualSidePosition")},
}
NUMBERS = [
    "quantity",
    "price",
    "triggerPrice",
    "callbackRate",
    "activatePrice",
    "leverage",
    "limit",
    "startTime",
    "endTime",
    "fromId",
    "orderId",
]
NUMBERS += ["page", "countdownTime", "goodTillDate", "algoId"]
VALUES = st.one_of(
    st.sampled_from(
        ["0", "0.001", "0.1", "1", "100", "60000", "59000.5", "-1", "1e9", "1e-9", "9" * 30, "NaN", "Infinity", "1_0", "\u0661", "", " "]
    ),
    st.text(max_size=8),
)
PARAMS = st.fixed_dictionaries({}, optional={**NAMES, **dict.fromkeys(NUMBERS, VALUES), "newClientOrderId": VALUES, "clientAlgoId": VALUES})


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from([*TRADING, *MARKET]), PARAMS), min_size=1, max_size=12))
def test_every_call_is_answered_or_refused(calls: list[tuple[Action, dict[str, str]]]) -> None:
    one = bench()
    desk = Desk(one.exchange, lambda: NOW)
    (key,) = desk_account().keys
    assert key.key == KEY
    for action, params in calls:
        params.setdefault("symbol", SYMBOL)
        try:
            orjson.dumps(verdict(action, Call(desk, Query(action.path, params, errors.malformed), NOW, key)))
        except VenueError as error:
            assert error.code < 0 and "{}" not in error.text
        for event in one.exchange.drain():
            for message in wire_format.messages(one.exchange, event, NOW):
                orjson.dumps(message)
    account = one.account
    assert account.wallet == sum((row.amount for row in account.ledger), D(0))


BYBIT_PARAMS = st.fixed_dictionaries(
    {"category": st.sampled_from(["linear", "linear", "linear", "spot"])},
    optional={
        "symbol": NAMES["symbol"],
        "side": st.sampled_from(["Buy", "Sell", "?"]),
        "orderType": st.sampled_from(["Limit", "Market", "?"]),
        "timeInForce": st.sampled_from(["GTC", "IOC", "FOK", "PostOnly", "?"]),
        "triggerBy": st.sampled_from(["MarkPrice", "LastPrice"]),
        "triggerDirection": st.sampled_from(["1", "2", ""]),
        "setMarginMode": st.sampled_from(["ISOLATED_MARGIN", "REGULAR_MARGIN", "?"]),
        "settleCoin": st.sampled_from(["USDT", ""]),
        "reduceOnly": st.sampled_from(["true", "false"]),
        **dict.fromkeys(["qty", "price", "triggerPrice", "orderId", "orderLinkId", "limit", "cursor", "startTime", "endTime"], VALUES),
        **dict.fromkeys(["buyLeverage", "sellLeverage", "positionIdx", "type"], VALUES),
    },
)


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from([*bybit.TRADING, *bybit.MARKET]), BYBIT_PARAMS), min_size=1, max_size=12))
def test_every_call_in_bybits_words_is_answered_or_refused(calls: list[tuple[Action, dict[str, str]]]) -> None:
    one = bench()
    desk = Desk(one.exchange, lambda: NOW)
    (key,) = desk_account().keys
    for action, params in calls:
        try:
            orjson.dumps(bybit.verdict(action, Call(desk, Query(action.path, params, bybit.wrong), NOW, key)))
        except VenueError as error:
            assert error.code > 0 and "{}" not in error.text
        for event in one.exchange.drain():
            for _, message in bybit_words.messages(one.exchange, event, NOW):
                orjson.dumps(message)
    assert one.account.wallet == sum((row.amount for row in one.account.ledger), D(0))


def test_every_reason_has_its_words() -> None:
    assert set(errors.CODES) == set(Reason) - SPOT_REASONS

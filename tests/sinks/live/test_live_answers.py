"""Answers of a venue that are not as documented: an error that names call and field, the bytes in dead_letters, entries blocked, and the process alive."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer

from schemas import metrics
from sinks.venues.binance import mapping as binance
from sinks.venues.bybit import mapping as bybit
from sinks.venues.common.adapter import MalformedResponse, OutcomeUnknown
from sinks.venues.common.response_parsing import read, read_rows
from sinks.venues.common.rest_connection import rules_by_symbol
from tests.support.trading.live_lab import Lab, assert_books_equal, prepare, wait_for

ORDER = {
    "clientOrderId": "a",
    "orderId": 7,
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "status": "NEW",
    "origQty": "1",
    "executedQty": "0",
    "updateTime": 1,
}
BALANCES = {"list": [{"totalAvailableBalance": "1", "coin": [{"coin": "USDT", "walletBalance": "2"}, {"coin": "BTC"}]}]}
WITHOUT = object()


def without(name: str, record: dict[str, Any], value: Any = WITHOUT) -> dict[str, Any]:
    left = {key: one for key, one in record.items() if key != name}
    return left if value is WITHOUT else {**left, name: value}


@pytest.mark.parametrize(
    ("convert", "answer", "field", "reason"),
    [
        (binance.order_of, without("orderId", ORDER), "orderId", "missing"),
        (binance.order_of, without("status", ORDER, "HALF_FILLED"), "status", "unknown value 'HALF_FILLED'"),
        (binance.order_of, without("side", ORDER, "SIDEWAYS"), "side", "ValueError"),
        (binance.order_of, without("origQty", ORDER, "much"), "origQty", "InvalidOperation"),
        (binance.order_of, without("origQty", ORDER, None), "origQty", "TypeError"),
        (binance.order_of, ["a list"], "answer", "AttributeError"),
        (lambda answer: binance.position_of(answer, 5), {"symbol": "BTCUSDT", "isolatedWallet": "0"}, "positionAmt", "missing"),
        (bybit.balances_of, BALANCES, "list[0].coin[1].walletBalance", "missing"),
        (bybit.balances_of, {"list": []}, "list", "ValueError"),
    ],
)
def test_an_error_names_the_field(convert: Any, answer: Any, field: str, reason: str) -> None:
    with pytest.raises(MalformedResponse) as failed:
        read("GET /here", convert, answer)
    assert isinstance(failed.value, OutcomeUnknown), "for an order: its outcome is not known"
    assert failed.value.field == field and reason in str(failed.value) and str(failed.value).startswith(f"GET /here: field {field}: ")


def test_a_row_is_named_by_its_number_and_kept() -> None:
    with pytest.raises(MalformedResponse) as failed:
        read_rows("GET /rows", binance.order_of, [ORDER, without("symbol", ORDER)])
    assert failed.value.field == "[1].symbol" and b'"orderId":7' in failed.value.answer
    with pytest.raises(MalformedResponse, match="expected a list, got dict"):
        read_rows("GET /rows", binance.order_of, {"code": 1})
    assert [one.client_order_id for one in read_rows("GET /rows", binance.order_of, [ORDER])] == ["a"]


def test_instruments_whose_rules_cannot_be_read_are_left_out_and_told() -> None:
    good = {
        "symbol": "AUSDT",
        "baseAsset": "A",
        "quoteAsset": "USDT",
        "status": "TRADING",
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.1"},
            {"filterType": "LOT_SIZE", "stepSize": "1", "minQty": "1", "maxQty": "9"},
            {"filterType": "MARKET_LOT_SIZE", "stepSize": "1", "maxQty": "9"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
    }
    bad = {**good, "symbol": "BUSDT", "filters": good["filters"][1:]}
    counter = metrics.DEAD_LETTERS.labels("live", "venue")
    before = counter._value.get()
    assert set(rules_by_symbol("BINANCE", "GET /rules", binance.rules_of, [bad, good])) == {"AUSDT"}
    assert counter._value.get() == before + 1
    with pytest.raises(MalformedResponse, match="PRICE_FILTER"):
        rules_by_symbol("BINANCE", "GET /rules", binance.rules_of, [bad])


class Mutilated:
    """Takes a field out of every answer to some requests, on its way from the real exchange to a real adapter."""

    def __init__(self, rest: Any) -> None:
        self.paths: set[str] = set()
        self.field, self._send = "", rest._send
        rest._send = self.send

    async def send(self, method: str, url: str, path: str) -> Any:
        answer = await self._send(method, url, path)
        if f"{method} {path}" not in self.paths:
            return answer
        rows = answer if isinstance(answer, list) else [answer]
        for row in rows:
            row.pop(self.field, None)
        return answer


def letters(settings: Any) -> list[dict[str, Any]]:
    """Every dead letter so far."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "letters", "auto.offset.reset": "earliest"})
    consumer.subscribe([settings.topic("dead_letters")])
    found: list[dict[str, Any]] = []
    wait_for(lambda: found.extend(_decoded(settings, consumer.consume(100, 0.5))) or found, 30)
    consumer.close()
    return found


def _decoded(settings: Any, messages: list[Any]) -> list[dict[str, Any]]:
    return [settings.codec.decode("dead_letters", one.value()) for one in messages if one.error() is None]


@pytest.fixture
def lab(environment, topics):
    prepare(environment)
    with Lab(environment) as made:
        yield made


@pytest.mark.stack
def test_a_live_executor_outlives_answers_that_it_cannot_read(lab, environment):
    """With a position open: lists without a field, then answers to orders without one. Red and blocked, the stop stays, and all ends well."""
    with lab.running() as executor:
        lab.signal()
        wait_for(lambda: lab.position > 0 and len(lab.stops()) == 1 and len(lab.truth()["open_orders"]) == 2, 40, "open and protected")
        bad = Mutilated(executor._venue._rest)
        bad.field, bad.paths = "symbol", {"GET /fapi/v1/openOrders"}
        executor._reconciler.want("period")
        wait_for(lambda: "reconcile" in executor.book.blocks, 40, "blocked")
        assert executor.book.blocks["reconcile"] == "GET /fapi/v1/openOrders: field [0].symbol: missing"
        assert executor._reconciler.state == "red" and executor._service.health()["reconciled"] == "red"
        lab.signal(strategy_id="s2", instrument="BINANCE:ETHUSDT-PERP")
        wait_for(lambda: any("openOrders" in (one["reason"] or "") for one in lab.written("orders")), 40, "no entry meanwhile")
        assert len(lab.stops()) == 1
        # The answers to orders too: whether they happened is asked for.
        bad.field, bad.paths = "origQty", {"POST /fapi/v1/order"}
        wait_for(lambda: "reconcile" not in executor.book.blocks, 40, "green again by itself")
        lab.signal(flip=True, direction="SHORT")
        wait_for(lambda: lab.position < 0 and len(lab.stops()) == 1, 60, "closed and turned round")
        bad.paths.clear()
        lab.price(50_400)
        wait_for(lambda: not executor.book.active and lab.query("SELECT count(*) FROM live_outbox") == [(0,)], 60, "stopped out")
    assert_books_equal(lab)
    told = letters(environment)
    assert {(one["service"], one["source"], one["field"]) for one in told} >= {
        ("live", "venue", "[0].symbol"),
        ("live", "venue", "origQty"),
    }
    assert all(one["value"] and one["key"] == b"BINANCE-simulated" for one in told)

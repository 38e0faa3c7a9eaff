"""Binance's messages to our records: canonical payloads, the recorded ones, and broken ones."""

from __future__ import annotations

import gzip
from decimal import Decimal
from typing import Any

import orjson
import pytest

from producers.binance import mapping
from producers.binance.mapping import MappingError
from schemas.codec.avro import Codec
from tests.support.paths import RECORDINGS

PAYLOADS = RECORDINGS / "binance_usdm_raw"
ID = "BINANCE:BTCUSDT-PERP"
NOW = 1_800_000_000_000

# Shapes of the venue's documents (2026), with fields that we do not use.
AGG_TRADE: dict[str, Any] = {
    "e": "aggTrade", "E": 1723161256330, "s": "BTCUSDT", "a": 5933014, "p": "61800.30", "q": "0.100", "nq": "0.090",
    "f": 100, "l": 105, "T": 1723161256322, "m": True, "st": 1,
}  # fmt: skip
TICKER: dict[str, Any] = {
    "e": "bookTicker", "u": 400900217, "E": 1568014460893, "T": 1568014460891, "s": "BTCUSDT",
    "b": "25.35190000", "B": "31.21000000", "a": "25.36520000", "A": "40.66000000",
}  # fmt: skip
DEPTH: dict[str, Any] = {
    "e": "depthUpdate", "E": 1571889248277, "T": 1571889248276, "s": "BTCUSDT", "U": 390497796, "u": 390497878, "pu": 390497794,
    "b": [["7403.89", "0.002"], ["7403.90", "0"]], "a": [["7405.96", "3.340"]],
}  # fmt: skip
MARK: dict[str, Any] = {
    "e": "markPriceUpdate", "E": 1562305380000, "s": "BTCUSDT", "p": "11794.15000000", "ap": "11794.1", "i": "11784.62659091",
    "P": "11784.25641265", "r": "0.00038167", "T": 1562306400000,
}  # fmt: skip
FORCE: dict[str, Any] = {
    "e": "forceOrder", "E": 1568014460893,
    "o": {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9910", "X": "FILLED",
          "l": "0.014", "z": "0.014", "T": 1568014460893},
}  # fmt: skip
CONTRACT: dict[str, Any] = {
    "symbol": "1000PEPEUSDT", "pair": "1000PEPEUSDT", "contractType": "PERPETUAL", "status": "TRADING", "baseAsset": "1000PEPE",
    "quoteAsset": "USDT", "pricePrecision": 7, "quantityPrecision": 0,
    "filters": [
        {"filterType": "PRICE_FILTER", "tickSize": "0.0000100"}, {"filterType": "LOT_SIZE", "stepSize": "1"},
        {"filterType": "MARKET_LOT_SIZE", "stepSize": "1"}, {"filterType": "MIN_NOTIONAL", "notional": "5"},
    ],
}  # fmt: skip

codec = Codec()


def test_agg_trade() -> None:
    record = mapping.agg_trade(AGG_TRADE, ID, NOW)
    assert record == {
        "instrument": ID, "event_time": 1723161256322, "receive_time": NOW, "agg_id": 5933014, "first_trade_id": 100,
        "last_trade_id": 105, "price": 61800.3, "quantity": 0.1, "buyer_is_maker": True, "backfilled": False,
    }  # fmt: skip
    assert codec.decode("agg_trades", codec.encode("agg_trades", record)) == {**record, "venue_trade_id": None}


def test_quote() -> None:
    record = mapping.quote(TICKER, ID, NOW)
    assert (record["update_id"], record["event_time"]) == (400900217, 1568014460891)
    assert [record[f"{side}_{what}"] for side in ("bid", "ask") for what in ("price", "quantity")] == [25.3519, 31.21, 25.3652, 40.66]
    assert codec.decode("quotes", codec.encode("quotes", record)) == record


def test_mark_price_carries_the_estimate_and_the_published_interval() -> None:
    record = mapping.mark_price(MARK, ID, NOW, 4)
    assert (record["mark_price"], record["index_price"], record["estimated_rate"]) == (11794.15, 11784.62659091, 0.00038167)
    assert (record["settled_rate"], record["next_funding_time"], record["interval_hours"]) == (None, 1562306400000, 4)
    assert codec.decode("funding", codec.encode("funding", record)) == {**record, "schedule_source": None}
    bare = mapping.mark_price({**MARK, "r": "", "T": 0, "P": None}, ID, NOW, None)
    assert (bare["estimated_rate"], bare["next_funding_time"], bare["estimated_settle_price"]) == (None, None, None)


def test_a_sell_order_liquidates_a_long() -> None:
    record = mapping.liquidation(FORCE, ID, "BTCUSDT", NOW)
    assert (record["side"], record["price"], record["quantity"], record["filled_quantity"]) == ("LONG", 9910.0, 0.014, 0.014)
    assert record["sampling_cap_ms"] == 1000
    short = mapping.liquidation({**FORCE, "o": {**FORCE["o"], "S": "BUY"}}, ID, "BTCUSDT", NOW)
    assert short["side"] == "SHORT"
    assert codec.decode("liquidations", codec.encode("liquidations", record)) == record


def test_depth() -> None:
    diff = mapping.depth_diff(DEPTH)
    assert diff[:6] == (1571889248276, 390497796, 390497878, 390497794, [(7403.89, 0.002), (7403.9, 0.0)], [(7405.96, 3.34)])
    snapshot = mapping.depth_snapshot({"lastUpdateId": 7, "E": 1, "T": 1, "bids": [["1.5", "2"]], "asks": []})
    assert snapshot[:3] == (7, [(1.5, 2.0)], [])


def test_contract_facts() -> None:
    facts = mapping.instrument_facts(CONTRACT, "me", 4)
    assert facts == {
        "instrument": "BINANCE:1000PEPEUSDT-PERP", "author": "me", "venue": "BINANCE", "symbol": "1000PEPEUSDT", "base_asset": "PEPE",
        "quote_asset": "USDT", "kind": "perp", "status": "trading", "tick_size": 0.00001, "step_size": 1.0, "min_notional": 5.0,
        "price_decimals": 5, "quantity_decimals": 0, "funding_interval_hours": 4, "recorded": False,
    }  # fmt: skip
    assert mapping.instrument_facts(CONTRACT, "me", None)["funding_interval_hours"] == 8
    spot = mapping.instrument_facts({**CONTRACT, "contractType": "SPOT", "recorded": True, "status": "BREAK"}, "me", None)
    assert (spot["instrument"], spot["kind"], spot["funding_interval_hours"]) == ("BINANCE:1000PEPEUSDT", "spot", None)
    assert (spot["recorded"], spot["status"]) == (True, "closed")
    for change, at in (({"contractType": "CURRENT_QUARTER"}, "contractType"), ({"filters": []}, "PRICE_FILTER.tickSize")):
        with pytest.raises(MappingError) as caught:
            mapping.instrument_facts({**CONTRACT, **change}, "me", None)
        assert caught.value.field == at


BROKEN = ["", "abc", "nan", "inf", "1_0", None, 1.5, [], {}]
MAPPERS = {
    "agg_trade": (lambda data: mapping.agg_trade(data, ID, NOW), AGG_TRADE, ["p", "q"], ["a", "f", "l", "T"]),
    "quote": (lambda data: mapping.quote(data, ID, NOW), TICKER, ["b", "B", "a", "A"], ["u", "T"]),
    "depth": (mapping.depth_diff, DEPTH, [], ["U", "u", "pu", "T"]),
    "mark_price": (lambda data: mapping.mark_price(data, ID, NOW, 8), MARK, ["p"], ["E", "T"]),
    "liquidation": (
        lambda data: mapping.liquidation({**FORCE, "o": data}, ID, "BTCUSDT", NOW), FORCE["o"], ["p", "q"], ["T"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPERS)
def test_a_bad_or_missing_field_is_named(name: str) -> None:
    function, canonical, numbers, integers = MAPPERS[name]
    function(canonical)
    cases = [(at, value) for at in numbers for value in [*BROKEN, "-1"]]
    cases += [(at, value) for at in integers for value in [None, "1x", 1.5, -1, True, [], {}]]
    for at, value in cases:
        with pytest.raises(MappingError) as caught:
            function({**canonical, at: value})
        assert caught.value.field == at, (at, value)
        assert at in str(caught.value)
    for at in numbers + integers:
        with pytest.raises(MappingError) as caught:
            function({key: value for key, value in canonical.items() if key != at})
        assert caught.value.field == at
    for nothing in (None, [], 5, "text"):
        with pytest.raises(MappingError):
            function(nothing)


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"m": "true"}, "m"),
        ({"m": None}, "m"),
        ({"p": "0"}, "p"),
        ({"q": "0.0"}, "q"),
        ({"l": 99}, "l"),
        ({"T": NOW + 61_000}, "T"),
    ],
)
def test_trades_that_cannot_be(change: dict[str, Any], at: str) -> None:
    with pytest.raises(MappingError) as caught:
        mapping.agg_trade({**AGG_TRADE, **change}, ID, NOW)
    assert caught.value.field == at


@pytest.mark.parametrize("levels", [None, "x", [["1"]], [[1, 2]], [["-1", "1"]], [["0", "1"]], [["1", "-1"]], ["12"], [["1", "nan"]]])
def test_broken_levels(levels: Any) -> None:
    with pytest.raises(MappingError) as caught:
        mapping.depth_diff({**DEPTH, "a": levels})
    assert caught.value.field == "a"


def test_clock_and_symbol() -> None:
    assert mapping.event_clock({"E": NOW + 59_000}, NOW) == NOW + 59_000
    for data in ({"E": NOW + 61_000}, {"E": "1x"}, {"E": None}, {}, None, [1]):
        with pytest.raises(MappingError) as caught:
            mapping.event_clock(data, NOW)
        assert caught.value.field == "E"
    with pytest.raises(MappingError, match="expected ETHUSDT"):
        mapping.check_symbol(AGG_TRADE, "ETHUSDT", "aggTrade")


@pytest.mark.parametrize("name", ["btcusdt_20240808", "btcusdt_20230405"])
def test_every_recorded_message_maps_and_keeps_its_decimals(name: str) -> None:
    counts: dict[str, int] = {}
    with gzip.open(PAYLOADS / f"{name}.gz") as lines:
        for line in lines:
            data = orjson.loads(line.split(b" ", 1)[1])
            if "lastUpdateId" in data:
                assert len(mapping.depth_snapshot(data).bids) == 1000
                continue
            data = data["data"]
            counts[data["e"]] = counts.get(data["e"], 0) + 1
            mapping.event_clock(data, NOW)
            if data["e"] == "bookTicker":
                record = mapping.quote(data, ID, NOW)
                assert Decimal(repr(record["bid_price"])) == Decimal(data["b"]) and Decimal(repr(record["ask_quantity"])) == Decimal(
                    data["A"]
                )
            elif data["e"] == "depthUpdate":
                diff = mapping.depth_diff(data)
                assert len(diff.bids) == len(data["b"]) and len(diff.asks) == len(data["a"])
            elif data["e"] == "markPriceUpdate":
                record = mapping.mark_price(data, ID, NOW, 8)
                assert Decimal(repr(record["index_price"])) == Decimal(data["i"])
    assert counts["depthUpdate"] == {"btcusdt_20240808": 6551, "btcusdt_20230405": 11788}[name]

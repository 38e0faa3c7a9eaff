"""The Coinbase premium: by hand, and against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.coinbase.premium import Premium, Price, indicator, last, mid, newest, premium
from schemas.codec.avro import Codec, Record

PRICES = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)
TIMES = st.integers(0, 2**50)


def quote(bid: float, ask: float, time: int = 5) -> Record:
    return {"event_time": time, "bid_price": bid, "ask_price": ask}


def test_five_basis_points_by_hand() -> None:
    found = premium(mid(quote(100_049.0, 100_051.0, 2_000)), Price(100_000.0, 1_000))
    assert found == Premium(0.0005, 1_000)
    assert premium(Price(99_900.0, 7), Price(100_000.0, 9)) == Premium(-0.001, 7)


def test_the_age_is_that_of_the_older_side() -> None:
    assert premium(Price(1.0, 10), Price(1.0, 3)) == Premium(0.0, 3)
    assert premium(Price(1.0, 3), Price(1.0, 10)) == Premium(0.0, 3)


@pytest.mark.parametrize("side", [None, Price(0.0, 1), Price(-1.0, 1), Price(float("inf"), 1), Price(float("nan"), 1)])
def test_a_side_that_is_missing_or_no_price_leaves_it_undefined(side: Price | None) -> None:
    assert premium(side, Price(1.0, 1)) is None
    assert premium(Price(1.0, 1), side) is None


def test_a_crossed_quote_is_no_price_and_a_locked_one_is() -> None:
    assert mid(quote(10.1, 10.0)) is None
    assert mid(quote(10.0, 10.0)) == Price(10.0, 5)
    assert mid(None) is None


def test_the_newest_of_mid_and_last_trade_counts_and_the_mid_of_two_of_one_time() -> None:
    trade = {"event_time": 9, "price": 3.0}
    assert newest(mid(quote(1.0, 2.0, 8)), last(trade)) == Price(3.0, 9)
    assert newest(mid(quote(1.0, 2.0, 9)), last(trade)) == Price(1.5, 9)
    assert newest(mid(quote(1.0, 2.0, 9)), last(None)) == Price(1.5, 9)
    assert newest(None, last(trade)) == Price(3.0, 9)
    assert newest(None, None) is None


@given(PRICES, TIMES, PRICES, TIMES)
def test_it_is_the_exact_fraction_within_two_roundings(coinbase: float, first: int, reference: float, second: int) -> None:
    found = premium(Price(coinbase, first), Price(reference, second))
    assert found is not None and found.time == min(first, second)
    exact = (Fraction(coinbase) - Fraction(reference)) / Fraction(reference)
    assert abs(Fraction(found.value) - exact) <= abs(exact) * Fraction(2, 2**53) + Fraction(1, 2**1000)


def test_its_record_fits_its_topic() -> None:
    record = indicator("BINANCE:BTCUSDT-PERP", Premium(0.0005, 1_000), 1_500)
    codec = Codec()
    assert codec.decode("market_indicators", codec.encode("market_indicators", record)) == record
    assert (record["indicator"], record["value"], record["event_time"], record["receive_time"]) == (
        "coinbase_premium",
        0.0005,
        1_000,
        1_500,
    )

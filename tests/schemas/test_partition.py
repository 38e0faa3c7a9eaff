"""The partition rule against the client's own murmur2 and the identities of instruments."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as client_murmur2
from hypothesis import given
from hypothesis import strategies as st

from schemas.partition import base_of_instrument, instrument_id, murmur2, partition_of


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(data):
    assert murmur2(data) == client_murmur2(data) & 0xFFFFFFFF


# org.apache.kafka.common.utils.UtilsTest.testMurmur2
@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_murmur2_equals_the_vectors_of_the_java_client(text, signed):
    assert murmur2(text.encode()) == signed & 0xFFFFFFFF


def test_every_contract_of_an_asset_has_one_partition():
    for symbol, asset in (("1000PEPEUSDT", "PEPE"), ("kPEPEUSD", "PEPE"), ("XBTUSD", "BTC"), ("BTCUSDT", "BTC"), ("BTCUSDC", "BTC")):
        assert base_of_instrument(f"ANY:{symbol}-PERP") == asset == base_of_instrument(f"OTHER:{symbol}")
    assert 0 <= partition_of("BTC", 12) < 12


def test_longer_quotes_win():
    assert base_of_instrument("BINANCE:BTCFDUSD") == "BTC"


@pytest.mark.parametrize("bad", ["BTCUSDT", "BINANCE:", ":BTCUSDT", "BINANCE:USDT", "BINANCE:ABCXYZ"])
def test_ids_without_venue_or_quote_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="instrument"):
        base_of_instrument(bad)


def test_instrument_ids():
    assert instrument_id("BINANCE", "BTCUSDT", "perp") == "BINANCE:BTCUSDT-PERP"
    assert instrument_id("BINANCE", "LTCUSDT", "spot") == "BINANCE:LTCUSDT"
    with pytest.raises(ValueError, match="kind"):
        instrument_id("BINANCE", "LTCUSDT", "option")

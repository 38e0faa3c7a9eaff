"""The partition rule against the client's own murmur2 and the identities of instruments."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as client_murmur2
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.partition import AssetGroups, base_of_instrument, instrument_id, murmur2
from schemas.settings import Settings


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
    assert Settings(partitions=12).partition_of("BTC") == client_murmur2(b"BTC") % 2**31 % 12


@pytest.mark.parametrize("partitions", [1, 12, 48])
def test_the_assets_of_a_group_have_the_partition_of_its_first(partitions):
    """The partition follows from the client's own hash; assets outside the groups stay where they were."""
    alone, grouped = Settings(partitions=partitions), Settings(partitions=partitions, asset_groups=" BTC+ETH, SOL + XRP+DOT")
    for group in (("BTC", "ETH"), ("SOL", "XRP", "DOT"), ("LTC",)):
        wanted = client_murmur2(group[0].encode()) % 2**31 % partitions
        assert [grouped.partition_of(asset) for asset in group] == [wanted] * len(group)
        assert alone.partition_of(group[0]) == wanted
    assert all(
        Settings(partitions=48).partition_of(asset) == client_murmur2(asset.encode()) % 2**31 % 48 for asset in ("ETH", "XRP", "DOT")
    )


@pytest.mark.parametrize("text", ["BTC", "BTC+", "BTC+ETH,", "BTC+ETH,ETH+SOL", "BTC+BTC", "+"])
def test_groups_that_do_not_hold_are_refused_by_their_variable(text, monkeypatch):
    monkeypatch.setenv("PERPFLOW_ASSET_GROUPS", text)
    if text.endswith(","):
        assert Settings().groups == AssetGroups((("BTC", "ETH"),))
        return
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert caught.value.errors()[0]["loc"] == ("PERPFLOW_ASSET_GROUPS",)


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

"""Instrument ids, base assets and the partition rule (DESIGN 2).

A record's partition is murmur2(name of the asset's group) mod the partition count, so that one worker sees every contract and spot pair of
a group on every venue. A group is one base asset, or several that ``PERPFLOW_ASSET_GROUPS`` names; its name is its first asset. Producers
set the partition explicitly; no Kafka default partitioner is involved. Every process asks ``Settings.partition_of``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from schemas.assets import base_asset

__all__ = ["AssetGroups", "base_asset", "base_of_instrument", "instrument_id", "murmur2", "partition_of", "split_symbol"]


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 hash of ``data`` as an unsigned integer (org.apache.kafka.common.utils.Utils)."""
    mask = 0xFFFFFFFF
    m = 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    full = len(data) & ~3
    for i in range(0, full, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = (h * m) & mask
        h ^= k
    rest = data[full:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    h ^= h >> 15
    return h


@dataclass(frozen=True)
class AssetGroups:
    """Base assets that are judged together, so that one strategy may trade them. Without a group an asset is judged alone.

    Attributes:
        groups: The groups. The first asset of each is its name.
    """

    groups: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> AssetGroups:
        """Return the groups in ``BTC+ETH,SOL+XRP``.

        Raises:
            ValueError: a group of fewer than two assets, or an asset that is named twice.
        """
        groups = tuple(tuple(asset.strip() for asset in part.split("+")) for part in text.split(",") if part.strip())
        for group in groups:
            if len(group) < 2 or not all(group):
                raise ValueError(f"expected groups of assets like BTC+ETH,SOL+XRP, got {'+'.join(group)!r}")
        named = [asset for group in groups for asset in group]
        if twice := sorted({asset for asset in named if named.count(asset) > 1}):
            raise ValueError(f"an asset may be in one group only: {', '.join(twice)}")
        return cls(groups)

    def of(self, asset: str) -> str:
        """Return the name of the group of a (mapped) base asset."""
        return next((group[0] for group in self.groups if asset in group), asset)


@lru_cache(maxsize=65536)
def partition_of(asset: str, partitions: int, groups: AssetGroups) -> int:
    """Return the partition of a (mapped) base asset: ``toPositive(murmur2(group)) mod partitions``."""
    return (murmur2(groups.of(asset).encode()) & 0x7FFFFFFF) % partitions


def instrument_id(venue: str, symbol: str, kind: str) -> str:
    """Return ``VENUE:SYMBOL-PERP`` for a perpetual and ``VENUE:SYMBOL`` for a spot pair.

    Raises:
        ValueError: ``kind`` is neither ``perp`` nor ``spot``.
    """
    if kind not in ("perp", "spot"):
        raise ValueError(f"kind: expected perp or spot, got {kind!r}")
    return f"{venue}:{symbol}-PERP" if kind == "perp" else f"{venue}:{symbol}"


# Longest first, so that FDUSD is not read as ...FD + USD. TUSD is left out: XBTUSD is bitcoin against the dollar. U is a dollar token in
# Binance's and Bitget's lists of 2026 (BTCU).
_QUOTES = ("FDUSD", "USDT", "USDC", "BUSD", "USD1", "USD", "BTC", "ETH", "EUR", "TRY", "U")
# Venues that name a perpetual by the base asset alone (``BTC``, ``kPEPE``).
_BARE_VENUES = ("HYPERLIQUID", "LIGHTER")
_SEPARATORS = ("-", "_", "/")


def base_of_instrument(instrument: str) -> str:
    """Return the mapped base asset of an instrument id.

    It is used only without an ``instruments`` record (a strategy file names its instrument). Producers take the base asset from the venue's
    own exchange information.

    Raises:
        ValueError: the id has no venue or no known quote asset.
    """
    venue, sep, rest = instrument.partition(":")
    symbol = rest.removesuffix("-PERP")
    if not sep or not venue or not symbol:
        raise ValueError(f"instrument: expected VENUE:SYMBOL or VENUE:SYMBOL-PERP, got {instrument!r}")
    if venue in _BARE_VENUES and symbol != rest:
        return base_asset(symbol, venue)
    for separator in _SEPARATORS:
        base, found, _ = symbol.partition(separator)
        if found and base:
            return base_asset(base, venue)
    # Bybit's contracts against USDC: BTCPERP. A token of that name is followed by a quote asset (PERPUSDT).
    if venue == "BYBIT" and symbol != rest and symbol.endswith("PERP") and symbol != "PERP":
        return base_asset(symbol.removesuffix("PERP"), venue)
    try:
        return base_asset(split_symbol(symbol)[0], venue)
    except ValueError as error:
        raise ValueError(f"instrument: {instrument!r}: {error}") from error


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return (base, quote) of a venue's joined symbol, spelled as the venue does: ``1000PEPEUSDT`` -> ``1000PEPE``, ``USDT``.

    Raises:
        ValueError: the symbol ends with no known quote asset.
    """
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol[: -len(quote)], quote
    raise ValueError(f"symbol: no known quote asset at the end of {symbol!r} (known: {', '.join(_QUOTES)})")

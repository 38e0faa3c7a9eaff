"""Instrument ids, base assets and the partition rule (DESIGN 2).

A record's partition is murmur2(base asset) mod the partition count, so that one worker sees every contract and
spot pair of an asset on every venue. Producers set it explicitly; no Kafka default partitioner is involved.
"""

from __future__ import annotations

from functools import lru_cache

from schemas.assets import base_asset

__all__ = ["base_asset", "base_of_instrument", "instrument_id", "murmur2", "partition_of", "split_symbol"]


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


@lru_cache(maxsize=65536)
def partition_of(asset: str, partitions: int) -> int:
    """Return the partition of a (mapped) base asset: ``toPositive(murmur2(asset)) mod partitions``."""
    return (murmur2(asset.encode()) & 0x7FFFFFFF) % partitions


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

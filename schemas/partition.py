"""Instrument ids, base assets and the partition rule (DESIGN 2).

A record's partition is murmur2(base asset) mod the partition count, so that one worker sees every contract and
spot pair of an asset on every venue. Producers set it explicitly; no Kafka default partitioner is involved.
"""

from __future__ import annotations

from functools import lru_cache

# Venue spellings of an asset -> the asset. Multiplier contracts (1000PEPE, kPEPE, 1MBABYDOGE) trade the same asset.
BASE_ASSET_ALIASES: dict[str, str] = {
    "XBT": "BTC",
    "1000PEPE": "PEPE",
    "kPEPE": "PEPE",
    "1000SHIB": "SHIB",
    "SHIB1000": "SHIB",
    "kSHIB": "SHIB",
    "1000BONK": "BONK",
    "kBONK": "BONK",
    "1000FLOKI": "FLOKI",
    "kFLOKI": "FLOKI",
    "1000LUNC": "LUNC",
    "kLUNC": "LUNC",
    "1000XEC": "XEC",
    "1000SATS": "SATS",
    "10000SATS": "SATS",
    "1000RATS": "RATS",
    "1000CAT": "CAT",
    "1000CHEEMS": "CHEEMS",
    "1000WHY": "WHY",
    "1000X": "X",
    "1000000MOG": "MOG",
    "1MBABYDOGE": "BABYDOGE",
}


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


def base_asset(symbol_base: str) -> str:
    """Return the asset behind a venue's spelling of a base asset, e.g. ``1000PEPE`` -> ``PEPE``."""
    return BASE_ASSET_ALIASES.get(symbol_base, symbol_base)


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


# Longest first, so that FDUSD is not read as ...FD + USD. TUSD is left out: XBTUSD is bitcoin against the dollar.
_QUOTES = ("FDUSD", "USDT", "USDC", "BUSD", "USD", "BTC", "ETH", "EUR", "TRY")


def base_of_instrument(instrument: str) -> str:
    """Return the mapped base asset of an instrument id.

    Used only where no ``instruments`` record is at hand (a strategy file names its instrument); producers take the
    base asset from the venue's own exchange information.

    Raises:
        ValueError: the id has no venue or no known quote asset.
    """
    venue, sep, rest = instrument.partition(":")
    if not sep or not venue or not rest:
        raise ValueError(f"instrument: expected VENUE:SYMBOL or VENUE:SYMBOL-PERP, got {instrument!r}")
    symbol = rest.removesuffix("-PERP").replace("-", "").replace("_", "").replace("/", "")
    try:
        return base_asset(split_symbol(symbol)[0])
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

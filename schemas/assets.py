"""The asset behind a venue's spelling of a base asset, and the units of it in one contract unit.

The same asset must have one name on all venues (spreads, premium, one partition, DESIGN 2), and two assets must never share one. Cheap
tokens trade by the thousand or million: ``1000PEPE``, ``10000SATS``, ``1000000MOG``, ``1MBABYDOGE``, ``kPEPE``, ``SHIB1000``. Rules cover
these; the tables below hold the exceptions. A spelling in no table that follows no rule is its own asset: not joining is the safe side.

``tests/schemas/test_assets.py`` compares the tables with the instrument lists that the venues published (tests/data/venues).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

# A multiplier stands before a letter. 1INCH, 0G, 2Z, 4, 10SET have none; an upper-case K is a letter (KAVA, KAS).
_PREFIX = re.compile(r"(1000000|100000|10000|1000|1M|k)(?=[A-Z])(.+)")
_PREFIX_UNITS = {"1000000": 1_000_000, "100000": 100_000, "10000": 10_000, "1000": 1_000, "1M": 1_000_000, "k": 1_000}
# Bybit's suffix. These are no multipliers: KODEX200, NDX100, SP500, BANANAS31.
_SUFFIX = re.compile(r"([A-Z]{2,})1000")

# Spellings of an asset -> (the asset, units of it in one). Applied after the rules, so 1000NEIROCTO is 1000 x NEIRO.
SPELLINGS: dict[str, tuple[str, int]] = {
    # Codes in other lists.
    "XBT": ("BTC", 1),
    "BCHABC": ("BCH", 1),
    "BCHSV": ("BSV", 1),
    # GRVT writes Hyperliquid's kilo-tokens in capitals.
    "KBONK": ("BONK", 1000),
    "KFLOKI": ("FLOKI", 1000),
    "KLUNC": ("LUNC", 1000),
    "KNEIRO": ("NEIRO", 1000),
    "KPEPE": ("PEPE", 1000),
    "KSHIB": ("SHIB", 1000),
    # A venue has, or had, another contract under the plain name.
    "BEAMX": ("BEAM", 1),
    "BOBBOB": ("BOB", 1),
    "BTTC": ("BTT", 1),
    "DODOX": ("DODO", 1),
    "LUNA2": ("LUNA", 1),
    "NEIROCTO": ("NEIRO", 1),
    "PUMPFUN": ("PUMP", 1),
    "RAYDIUM": ("RAY", 1),
    "RAYSOL": ("RAY", 1),
    "SOLAYER": ("LAYER", 1),
    # Full names.
    "CORECHAIN": ("CORE", 1),
    "JUPITER": ("JUP", 1),
    "LIGHTER": ("LIT", 1),
    "MANTLE": ("MNT", 1),
    "RONIN": ("RON", 1),
    # Renamed, and not yet by all venues. In the recorded lists of August to October 2026 OKX, Bybit and Bitget have the new name in place
    # of the old one, Coinbase has the old one, and Binance's contracts have both.
    "TON": ("GRAM", 1),
    "IP": ("DATA", 1),
    "DATAIP": ("DATA", 1),
    # Shares: on no venue is the plain ticker a token.
    "AMDSTOCK": ("AMD", 1),
    "APPSTOCK": ("APP", 1),
    "GMESTOCK": ("GME", 1),
    "NOKIA": ("NOK", 1),
    "NOKSTOCK": ("NOK", 1),
    "PENGSTOCK": ("PENG", 1),
    "VRTXSTOCK": ("VRTX", 1),
    "WENSTOCK": ("WEN", 1),
}

# Names with another meaning than they suggest: (venue, or "" for all; spelling) -> as above, before any rule.
VENUE_SPELLINGS: dict[tuple[str, str], tuple[str, int]] = {
    # A token of BNB Chain. BOB is Build on Bitcoin, which trades beside it.
    ("", "1000000BOB"): ("1000000BOB", 1),
    # Caterpillar. The token of that name is their 1000CAT.
    ("BINANCE", "CAT"): ("CATSTOCK", 1),
    ("BITGET", "CAT"): ("CATSTOCK", 1),
}


class Asset(NamedTuple):
    """An asset, and the units of it in one unit of the contract or pair: 1000PEPE is (``PEPE``, 1000)."""

    name: str
    units: int


@lru_cache(maxsize=65536)
def asset_of(spelling: str, venue: str = "") -> Asset:
    """Return the asset behind a venue's spelling of a base asset.

    Args:
        spelling: The venue's spelling, with upper and lower case (``kPEPE``).
        venue: E.g. ``BITGET``. Without it, names with a meaning on one venue only are not resolved.
    """
    special = VENUE_SPELLINGS.get((venue, spelling)) or VENUE_SPELLINGS.get(("", spelling))
    if special is not None:
        return Asset(*special)
    name, units = spelling, 1
    if prefix := _PREFIX.fullmatch(spelling):
        name, units = prefix[2], _PREFIX_UNITS[prefix[1]]
    elif suffix := _SUFFIX.fullmatch(spelling):
        name, units = suffix[1], 1_000
    asset, each = SPELLINGS.get(name, (name, 1))
    return Asset(asset, units * each)


def base_asset(spelling: str, venue: str = "") -> str:
    """Return the asset behind a venue's spelling of a base asset, e.g. ``1000PEPE`` -> ``PEPE``; see ``asset_of``."""
    return asset_of(spelling, venue).name

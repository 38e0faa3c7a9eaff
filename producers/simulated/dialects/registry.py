"""Every venue that can be simulated, by name."""

from __future__ import annotations

from producers.simulated.dialects.binance.spot import BinanceSpot
from producers.simulated.dialects.binance.usdm import Binance
from producers.simulated.dialects.bitget import Bitget
from producers.simulated.dialects.bybit import Bybit
from producers.simulated.dialects.coinbase import Coinbase
from producers.simulated.dialects.grvt import Grvt
from producers.simulated.dialects.hyperliquid import Hyperliquid
from producers.simulated.dialects.lighter import Lighter
from producers.simulated.dialects.okx.dialect import Okx
from producers.simulated.dialects.shared.dialect import Dialect

_ALL: tuple[type[Dialect], ...] = (Binance, BinanceSpot, Bybit, Okx, Bitget, Hyperliquid, Coinbase, Lighter, Grvt)
DIALECTS: dict[str, type[Dialect]] = {dialect.venue: dialect for dialect in _ALL}


def dialect_of(venue: str) -> Dialect:
    """Return a venue's protocol. Raises ValueError for an unknown one."""
    if venue not in DIALECTS:
        raise ValueError(f"venue: expected one of {', '.join(DIALECTS)}, got {venue!r}")
    return DIALECTS[venue]()

"""Every venue by name."""

from __future__ import annotations

from importlib import import_module

from producers.venue.adapter.base import Adapter

# Name for --venue -> module and class. Names of instrument ids (``Adapter.venue``) are those of the exchange: BINANCE_SPOT writes BINANCE:BTCUSDT.
VENUES = {
    "BINANCE": ("producers.binance.adapter", "BinanceUsdm"),
    "BINANCE_SPOT": ("producers.binance.spot_adapter", "BinanceSpot"),
    "BITGET": ("producers.bitget.adapter", "BitgetFutures"),
    "BYBIT": ("producers.bybit.adapter", "BybitLinear"),
    "BYBIT_SPOT": ("producers.bybit.adapter", "BybitSpot"),
    "COINBASE": ("producers.coinbase.adapter", "CoinbaseSpot"),
    "GRVT": ("producers.grvt.adapter", "Grvt"),
    "HYPERLIQUID": ("producers.hyperliquid.adapter", "Hyperliquid"),
    "LIGHTER": ("producers.lighter.adapter", "Lighter"),
    "OKX": ("producers.okx.adapter", "OkxSwap"),
}


def adapter_of(name: str, *, depth_speed: str = "100ms") -> Adapter:
    """Return a venue's adapter.

    Args:
        name: One of ``VENUES``, in any case.
        depth_speed: Cadence of Binance's depth diffs.

    Raises:
        ValueError: no such venue.
    """
    found = VENUES.get(name.upper().replace("-", "_"))
    if found is None:
        raise ValueError(f"venue: {name!r} is unknown (known: {', '.join(VENUES)})")
    module, cls = found
    kind: type[Adapter] = getattr(import_module(module), cls)
    return kind(depth_speed) if name.upper().startswith("BINANCE") else kind()  # type: ignore[call-arg]

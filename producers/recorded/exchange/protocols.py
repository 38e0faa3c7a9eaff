"""The venues whose protocol the simulated exchange speaks."""

from __future__ import annotations

from producers.recorded.exchange.binance.protocol import BinanceProtocol
from producers.recorded.exchange.bybit.protocol import BybitProtocol
from producers.recorded.exchange.protocol import Protocol
from producers.recorded.exchange.spot.protocol import BinanceSpotProtocol

PROTOCOLS: dict[str, type[Protocol]] = {"BINANCE": BinanceProtocol, "BINANCE_SPOT": BinanceSpotProtocol, "BYBIT": BybitProtocol}

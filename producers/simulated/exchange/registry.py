"""The venues whose protocol the simulated exchange implements."""

from __future__ import annotations

from producers.simulated.exchange.binance.protocol import BinanceProtocol
from producers.simulated.exchange.bybit.protocol import BybitProtocol
from producers.simulated.exchange.session.protocol import Protocol
from producers.simulated.exchange.spot.protocol import BinanceSpotProtocol

PROTOCOLS: dict[str, type[Protocol]] = {"BINANCE": BinanceProtocol, "BINANCE_SPOT": BinanceSpotProtocol, "BYBIT": BybitProtocol}

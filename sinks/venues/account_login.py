"""Open the venue of an account. API keys come from the environment or from files, never from arguments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from schemas.secret import Secrets
from sinks.venues.binance.venue import BinanceVenue
from sinks.venues.binance_spot.venue import BinanceSpotVenue
from sinks.venues.bybit.venue import BybitVenue
from sinks.venues.common.adapter import TradingVenue

# Modes in which orders leave this machine. ``simulated`` sends them to a simulated venue, whose address must be given.
SIMULATED, TESTNET, LIVE = "simulated", "testnet", "live"
MODES = (SIMULATED, TESTNET, LIVE)
VENUES = ("BINANCE", "BINANCE_SPOT", "BYBIT")
# Spot accounts -> venue in their instrument ids, for example BINANCE:BTCUSDT.
SPOT = {"BINANCE_SPOT": "BINANCE"}
KEY, SECRET = "PERPFLOW_API_KEY", "PERPFLOW_API_SECRET"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a venue: REST, user stream (Binance: without ``/ws/<key>``), and the host that answers for a key's restrictions ("" for none)."""

    rest: str
    stream: str
    key: str = ""


ADDRESSES = {
    ("BINANCE", LIVE): Addresses("https://fapi.binance.com", "wss://fstream.binance.com/private", "https://api.binance.com"),
    # The testnet still uses the stream paths of before the split by route.
    ("BINANCE", TESTNET): Addresses("https://testnet.binancefuture.com", "wss://stream.binancefuture.com"),
    ("BINANCE_SPOT", LIVE): Addresses("https://api.binance.com", "wss://ws-api.binance.com:443/ws-api/v3", "https://api.binance.com"),
    ("BINANCE_SPOT", TESTNET): Addresses("https://testnet.binance.vision", "wss://ws-api.testnet.binance.vision/ws-api/v3"),
    ("BYBIT", LIVE): Addresses("https://api.bybit.com", "wss://stream.bybit.com/v5/private"),
    ("BYBIT", TESTNET): Addresses("https://api-testnet.bybit.com", "wss://stream-testnet.bybit.com/v5/private"),
}

# Path of a simulated venue's user stream.
SIMULATED_PATHS = {"BINANCE": "/private", "BINANCE_SPOT": "/ws-api/v3", "BYBIT": "/v5/private"}


class AccountError(ValueError):
    """An account cannot be opened as requested. The message names what is missing, never a secret."""


def account_id(venue: str, mode: str) -> str:
    """Return the id of an account in its records, for example BINANCE-testnet."""
    return f"{venue}-{mode}"


def addresses(venue: str, mode: str, base_url: str = "") -> Addresses:
    """Return the addresses of a venue.

    Args:
        base_url: Address of a simulated venue, http://HOST:PORT.

    Raises:
        AccountError: unknown venue or mode, or an address in a mode that has its own.
    """
    if venue not in VENUES:
        raise AccountError(f"venue: {venue!r} cannot be traded on yet (there is {', '.join(VENUES)})")
    if mode not in MODES:
        raise AccountError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if mode == SIMULATED:
        if not base_url.startswith("http"):
            raise AccountError("base_url: a simulated venue needs its address, http://HOST:PORT")
        return Addresses(base_url, base_url.replace("http", "ws", 1) + SIMULATED_PATHS[venue], base_url)
    if base_url:
        raise AccountError(f"base_url: mode {mode} has its own addresses; an address goes with mode {SIMULATED}")
    return ADDRESSES[venue, mode]


def open_venue(venue: str, mode: str, secrets: Secrets, base_url: str = "") -> TradingVenue:
    """Return the adapter of an account. It is not connected yet.

    The key is read from PERPFLOW_API_KEY and PERPFLOW_API_SECRET, or from the files that PERPFLOW_API_KEY_FILE and PERPFLOW_API_SECRET_FILE name.

    Raises:
        AccountError: see ``addresses``.
        SecretError: the key is missing.
    """
    where = addresses(venue, mode, base_url)
    key, secret = (_secret(secrets, name) for name in (KEY, SECRET))
    if venue == "BYBIT":
        return BybitVenue(where.rest, where.stream, key, secret, secrets)
    if venue == "BINANCE_SPOT":
        return BinanceSpotVenue(where.rest, where.stream, key, secret, secrets, key_url=where.key)
    return BinanceVenue(where.rest, where.stream, key, secret, secrets, key_url=where.key)


def _secret(secrets: Secrets, name: str) -> str:
    file = os.environ.get(f"{name}_FILE", "")
    value = secrets.read(name, None if file else name, Path(file) if file else None)
    assert value is not None
    return value

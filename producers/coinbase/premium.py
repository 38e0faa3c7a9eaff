"""The Coinbase premium (pure): a coin's price on Coinbase in dollars against its price on a reference venue in USDT.

premium = Coinbase price / reference price - 1, a fraction: 0.0005 is 0.05 % (signal-engine-algorithms: "Coinbase BTC/USD vs Binance BTC/USDT",
``premium_pct / 100``). The price of the dollar in USDT is part of it, as in the source.

All times are venue times, ms UTC.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from producers.venue.adapter import records
from schemas.codec.avro import Record


class Price(NamedTuple):
    """A price and its venue time."""

    value: float
    time: int


class Premium(NamedTuple):
    """The premium as a fraction. ``time`` is that of its older side, so a limit on its age holds for both."""

    value: float
    time: int


def mid(quote: Record | None) -> Price | None:
    """Return the mid price of a ``quotes`` record. None without one, or if it is crossed (bad data)."""
    if quote is None or quote["bid_price"] > quote["ask_price"]:
        return None
    return Price((quote["bid_price"] + quote["ask_price"]) / 2, quote["event_time"])


def last(trade: Record | None) -> Price | None:
    """Return the price of an ``agg_trades`` record."""
    return None if trade is None else Price(trade["price"], trade["event_time"])


def newest(*prices: Price | None) -> Price | None:
    """Return the newest known price; of equal times the first one (pass the mid before the last trade)."""
    known = [price for price in prices if price is not None]
    return max(known, key=lambda price: price.time) if known else None


def premium(coinbase: Price | None, reference: Price | None) -> Premium | None:
    """Return the premium. None when a side is missing or not a price."""
    if coinbase is None or reference is None or not (0.0 < coinbase.value < inf and 0.0 < reference.value < inf):
        return None
    # Difference first: for two close prices it is exact, while the quotient minus one is not.
    return Premium((coinbase.value - reference.value) / reference.value, min(coinbase.time, reference.time))


def indicator(instrument: str, found: Premium, received: int) -> Record:
    """Return the ``market_indicators`` record of a premium for a perpetual of the asset."""
    return records.indicator("coinbase_premium", found.value, found.time, received, instrument)

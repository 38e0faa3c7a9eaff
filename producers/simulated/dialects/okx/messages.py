"""Rows and frames of OKX, shared by websocket channels and REST responses. Sizes are in contracts."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

from producers.simulated.market.market import Market
from producers.simulated.recording.book import Levels
from producers.simulated.recording.trade_history import Trade
from producers.simulated.wire.protocol import Stream, dumps

HOUR_MS = 3_600_000
# Base asset -> n of the contract value, 10^-n base units, from the venue's list.
_CONTRACTS = {"BTC": 2, "ETH": 1, "LTC": 0, "SOL": 0, "BNB": 2, "XRP": -2, "DOGE": -3, "TRX": -3, "ADA": -2}


def push(channel: str, instrument: str, row: dict[str, Any]) -> bytes:
    """Return the frame of one row of a channel."""
    return dumps({"arg": {"channel": channel, "instId": instrument}, "data": [row]})


def shift(market: Market) -> int:
    """Return n of the contract's value, 10^-n base units."""
    return _CONTRACTS.get(market.facts.base_asset, max(0, market.facts.step_decimals))


@lru_cache(maxsize=65536)
def contracts(text: str, exponent: int) -> str:
    """Return a quantity of base units as a number of contracts of 10^-``exponent`` base units."""
    value = format(Decimal(text).scaleb(exponent), "f")
    return value.rstrip("0").rstrip(".") if "." in value else value


def size(market: Market, text: str) -> str:
    """Return a quantity of base units as the market's number of contracts."""
    return contracts(text, shift(market))


def levels(market: Market, levels: Levels) -> list[list[str]]:
    """Return book levels as the venue writes them: price, contracts, ``0``, number of orders."""
    exponent = shift(market)
    rows = []
    for price, quantity in levels:
        amount = contracts(quantity, exponent)
        rows.append([price, amount, "0", "0" if amount == "0" else "1"])
    return rows


def book(market: Market, stream: Stream, action: str, bids: Levels, asks: Levels, clock: int, previous: int, number: int) -> bytes:
    """Return the frame of a book update or snapshot."""
    row = {
        "asks": levels(market, asks),
        "bids": levels(market, bids),
        "ts": str(clock),
        "checksum": 0,
        "prevSeqId": previous,
        "seqId": number,
    }
    return dumps({"arg": {"channel": stream.name, "instId": market.symbol}, "action": action, "data": [row]})


def trade_row(market: Market, trade: Trade) -> dict[str, Any]:
    """Return the fields that all trade messages share."""
    return {
        "instId": market.symbol,
        "tradeId": str(trade.number),
        "px": trade.price,
        "sz": size(market, trade.quantity),
        "side": "sell" if trade.sell else "buy",
        "ts": str(trade.time),
    }


def funding_rate(market: Market) -> dict[str, Any]:
    """Return a row of the ``funding-rate`` channel."""
    mark = market.mark or {}
    hours = market.funding_interval_hours
    return {
        "formulaType": "noRate",
        "fundingRate": mark["r"],
        "fundingTime": str(mark["T"]),
        "impactValue": "",
        "instId": market.symbol,
        "instType": "SWAP",
        "interestRate": "",
        "method": "current_period",
        "maxFundingRate": "0.00375",
        "minFundingRate": "-0.00375",
        "nextFundingRate": "",
        # Fields missing in a recording stay empty, as at the venue.
        "nextFundingTime": str(mark["T"] + hours * HOUR_MS) if hours is not None else "",
        "premium": "",
        "settFundingRate": market.funding[-1]["fundingRate"] if market.funding else "",
        "settState": "settled",
        "ts": str(market.clock),
    }


def open_interest(market: Market) -> dict[str, Any]:
    """Return a row of the ``open-interest`` channel."""
    amount = market.interest["openInterest"] if market.interest is not None else "0"
    price = float(market.mark["p"]) if market.mark is not None else 0.0
    return {
        "instId": market.symbol,
        "instType": "SWAP",
        "oi": size(market, amount),
        "oiCcy": amount,
        "oiUsd": f"{float(amount) * price:.8f}",
        "ts": str(market.clock),
    }


def ticker(market: Market) -> dict[str, Any]:
    """Return a row of the ``tickers`` channel."""
    day, statistics, places = market.statistics.day(), market.statistics, market.facts.price_decimals
    quote = market.quote or {}
    opened = f"{day.open:.{places}f}" if day is not None else ""
    return {
        "instType": "SWAP",
        "instId": market.symbol,
        "last": statistics.last_price or "",
        "lastSz": size(market, statistics.last_quantity),
        "askPx": quote.get("a", ""),
        "askSz": size(market, quote["A"]) if quote else "",
        "bidPx": quote.get("b", ""),
        "bidSz": size(market, quote["B"]) if quote else "",
        "open24h": opened,
        "high24h": f"{day.high:.{places}f}" if day is not None else "",
        "low24h": f"{day.low:.{places}f}" if day is not None else "",
        "volCcy24h": f"{day.volume:.4f}" if day is not None else "0",
        "vol24h": size(market, f"{day.volume:.4f}") if day is not None else "0",
        "sodUtc0": opened,
        "sodUtc8": opened,
        "ts": str(market.clock),
    }


def liquidation(market: Market, order: dict[str, Any]) -> bytes:
    """Return the frame of a forced order."""
    long = order["S"] == "SELL"
    detail = {
        "bkLoss": "0",
        "bkPx": order["p"],
        "ccy": "",
        "posSide": "long" if long else "short",
        "side": "sell" if long else "buy",
        "sz": size(market, order["q"]),
        "ts": str(order["T"]),
    }
    pair = market.symbol.removesuffix("-SWAP")
    row = {"details": [detail], "instFamily": pair, "instId": market.symbol, "instType": "SWAP", "uly": pair}
    return dumps({"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [row]})

"""The reference side of the Coinbase premium: the prices on Binance spot, polled once a minute in one call.

The premium is written for the perpetual ``BINANCE:<base>USDT-PERP``, which is in the partition of the same base asset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from producers.coinbase import premium
from producers.coinbase.mapping import VENUE
from producers.venue.adapter.base import MappingError, Market
from producers.venue.adapter.json_values import positive, text
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Limit, Rest, limiter_of
from schemas.codec.avro import Record

EVERY_S = 60.0
REFERENCE_URL = "https://api.binance.com"
PATH = "/api/v3/ticker/bookTicker"
# Weights of the venue's document.
LIMIT, WEIGHT = Limit(6000, 60.0), 4


class Reference:
    """Polls the reference venue.

    Args:
        base_url: Its REST interface.
    """

    def __init__(self, base_url: str = REFERENCE_URL) -> None:
        self._base_url = base_url
        self._rest: Rest | None = None

    async def premiums(self, _rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
        """Return the premiums of the products with a known price. The reference quote has no time, so it gets the time of its response.

        Raises:
            RestError: the reference venue does not answer.
            MappingError: its response is not a list.
        """
        heard = {f"{market.facts['base_asset']}USDT": market for market in markets if market.memory.keys() & {"quote", "trade"}}
        if not heard:
            return []
        if self._rest is None:
            self._rest = Rest("BINANCE", self._base_url, limiter_of("BINANCE", self._base_url, (LIMIT,)))
        answer = await self._rest.get(PATH, WEIGHT, symbols=orjson.dumps(sorted(heard)).decode())
        if type(answer) is not list:
            raise MappingError("bookTicker", "answer", f"expected a list, got {type(answer).__name__}")
        found = []
        for symbol, price in valid_rows(VENUE, "bookTicker", answer, lambda row: _mid(row, received)):
            market = heard.get(symbol)
            if market is None:
                continue
            ours = premium.newest(premium.mid(market.memory.get("quote")), premium.last(market.memory.get("trade")))
            difference = premium.premium(ours, price)
            if difference is not None:
                record = premium.indicator(f"BINANCE:{symbol}-PERP", difference, received)
                found.append((market.symbol, "market_indicators", record))
        return found


def _mid(row: Any, received: int) -> tuple[str, premium.Price]:
    bid, ask = positive(row, "bidPrice", "bookTicker"), positive(row, "askPrice", "bookTicker")
    return text(row, "symbol", "bookTicker"), premium.Price((bid + ask) / 2, received)

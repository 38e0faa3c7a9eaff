"""The Coinbase Exchange adapter: spot trades and best quotes, for the premium over other venues.

The feed's order book (level2) is not used: nothing is built on it. Sources: the venue's documents (exchange/websocket-feed, exchange/rest-api).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson

from producers.coinbase import mapping
from producers.coinbase.mapping import VENUE
from producers.venue.adapter import Adapter, Channel, Event, Facts, MappingError, Market, Part, Plan, Refused, mapped
from producers.venue.rest import Limit, Rest
from producers.venue.values import text
from schemas.codec import Record

# Trades of a page, the venue's most.
PAGE = 1000

MATCHES = Channel("matches", "agg_trades", 60.0)
TICKER = Channel("ticker", "quotes", 60.0)
# Message types -> the channel that brings them; the first message of a subscription is the trade before it.
TYPES = {"match": MATCHES, "last_match": MATCHES, "ticker": TICKER}


class CoinbaseSpot(Adapter):
    """Coinbase Exchange; symbols are products (``BTC-USD``).

    Trade ids are consecutive in a product. Quotes come with trades (the ticker channel), so their silence is that of the trades.
    """

    venue: ClassVar[str] = VENUE
    author: ClassVar[str] = "coinbase"
    kind: ClassVar[Literal["perp", "spot"]] = "spot"
    ws_url: ClassVar[str] = "wss://ws-feed.exchange.coinbase.com"
    rest_url: ClassVar[str] = "https://api.exchange.coinbase.com"
    channels: ClassVar[tuple[Channel, ...]] = (MATCHES, TICKER)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "full"
    consecutive_ids: ClassVar[bool] = True
    limits: ClassVar[tuple[Limit, ...]] = (Limit(10, 1.0),)
    max_streams: ClassVar[int] = 100
    rotate_after_s: ClassVar[float | None] = None
    default_symbols: ClassVar[str] = "BTC-USD,ETH-USD,SOL-USD,XRP-USD"

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        return f"{channel.name}:{symbol}"

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[Plan]:
        found: list[Plan] = []
        for start in range(0, len(wanted), self.max_streams):
            streams = list(wanted[start : start + self.max_streams])
            products: dict[str, list[str]] = {}
            for symbol, channel in streams:
                products.setdefault(channel.name, []).append(symbol)
            channels = [{"name": name, "product_ids": symbols} for name, symbols in products.items()]
            opening = orjson.dumps({"type": "subscribe", "channels": channels}).decode()
            found.append(Plan(f"feed-{len(found) + 1}", base_url, streams, [opening]))
        return found

    def split(self, raw: bytes, received: int) -> Sequence[Part]:
        try:
            message = orjson.loads(raw)
        except ValueError as error:
            raise MappingError("frame", "frame", f"no JSON: {error}") from error
        kind = text(message, "type", "frame")
        if kind == "subscriptions":
            return ()
        if kind == "error":
            raise MappingError("frame", "type", f"the venue refuses: {message.get('message')} {message.get('reason', '')}".rstrip())
        channel = TYPES.get(kind)
        stream = f"{kind if channel is None else channel.name}:{text(message, 'product_id', 'frame')}"
        return (Part(stream, mapping.event_ms(message, "time", "frame", received), message),)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        if channel is MATCHES:
            return [("agg_trades", mapping.trade(data, market.instrument, received))]
        return mapping.ticker(data, market.instrument, received)

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        return (f"the venue answers: {answer['message']}", None) if type(answer) is dict and set(answer) == {"message"} else None

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.get("/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, Facts]:
        answer = await rest.get("/products")
        if type(answer) is not list:
            raise MappingError("products", "products", f"expected a list, got {type(answer).__name__}")
        records = [mapping.instrument_facts(row, author) for row in answer]
        return {record["symbol"]: Facts(record, {}) for record in records}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        return mapping.volumes(await rest.get("/products/stats"))

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | Refused], bool]:
        """Return trades ``first`` to ``first + 999``: ``after`` gives those below an id, newest first.

        At the end of the trades the venue gives older ones instead; they are left out, and the page was not full.
        """
        answer = await rest.get(f"/products/{market.symbol}/trades", limit=PAGE, after=first + PAGE)
        if type(answer) is not list:
            raise MappingError("trades", "trades", f"expected a list, got {type(answer).__name__}")
        found = mapped(answer, lambda row: mapping.trade(row, market.instrument, received, backfilled=True))
        refused = [row for row in found if isinstance(row, Refused)]
        good = sorted((row for row in found if not isinstance(row, Refused)), key=lambda row: int(row["agg_id"]))
        wanted = [row for row in good if first <= row["agg_id"] < first + PAGE]
        return [*refused, *wanted], bool(wanted) and wanted[-1]["agg_id"] == first + PAGE - 1

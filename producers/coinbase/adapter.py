"""The Coinbase Exchange adapter: spot trades and best quotes, for the premium over other venues.

The feed's order book (level2) is not used. Whole-market calls: products and products/stats; streams are product by product. Sources: the
venue's documents (exchange/websocket-feed, exchange/rest-api).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson

from producers.coinbase import mapping
from producers.coinbase.mapping import VENUE
from producers.coinbase.reference import EVERY_S, REFERENCE_URL, Reference
from producers.venue.adapter.base import (
    Adapter,
    Channel,
    ConnectionPlan,
    ContractInfo,
    Event,
    MappingError,
    Market,
    Message,
    Poll,
    RejectedRow,
    map_rows,
)
from producers.venue.adapter.json_values import MAX_LONG, integer, json_object, row_list, text
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Record

# Trades of a page, the venue's maximum.
PAGE = 1000

MATCHES = Channel("matches", "agg_trades", 300.0)
TICKER = Channel("ticker", "quotes", 300.0)
# Message type -> its channel. The first message of a subscription is the trade before it.
TYPES = {"match": MATCHES, "last_match": MATCHES, "ticker": TICKER}


class CoinbaseSpot(Adapter):
    """Coinbase Exchange; symbols are products (``BTC-USD``).

    Trade ids are consecutive in a product. Quotes come with trades (the ticker channel), so both are silent together.

    Args:
        reference_url: REST interface of the premium's reference venue.
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
    # An address may send 100 messages a second.
    send_pause_s: ClassVar[float] = 0.05
    rotate_after_s: ClassVar[float | None] = None
    kline_page: ClassVar[int] = 300
    klines_leave_out_quiet: ClassVar[bool] = True
    default_symbols: ClassVar[str] = "BTC-USD,ETH-USD,SOL-USD,XRP-USD"

    def __init__(self, reference_url: str = REFERENCE_URL) -> None:
        self._reference = Reference(reference_url)

    # --- streams -----------------------------------------------------------------------------------------------------

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        found: list[ConnectionPlan] = []
        for streams in self.parts(wanted):
            # One unknown product fails its whole message, so each product has its own.
            channels: dict[str, list[str]] = {}
            for symbol, channel in streams:
                channels.setdefault(symbol, []).append(channel.name)
            opening = [
                orjson.dumps({"type": "subscribe", "product_ids": [symbol], "channels": names}).decode()
                for symbol, names in channels.items()
            ]
            found.append(ConnectionPlan(f"feed-{len(found) + 1}", base_url, streams, opening))
        return found

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        message = json_object(raw)
        kind = text(message, "type", "frame")
        if kind == "subscriptions":
            return ()
        if kind == "error":
            raise MappingError("frame", "type", f"the venue refuses: {message.get('message')} {message.get('reason', '')}".rstrip())
        channel = TYPES.get(kind)
        stream = f"{kind if channel is None else channel.name}:{text(message, 'product_id', 'frame')}"
        return (Message(stream, mapping.event_ms(message, "time", "frame", received), message),)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        if channel is MATCHES:
            trade = mapping.trade(data, market.instrument, received)
            market.memory["trade"] = trade
            return [("agg_trades", trade)]
        quotes = mapping.ticker(data, market.instrument, received)
        if quotes:
            market.memory["quote"] = quotes[-1][1]
        return quotes

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        return (f"the venue answers: {answer['message']}", None) if type(answer) is dict and set(answer) == {"message"} else None

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.get("/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        answer = await rest.get("/products")
        records = valid_rows(VENUE, "products", row_list(answer, "products"), lambda row: mapping.instrument_facts(row, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in records}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        answer = await rest.get("/products/stats")
        if type(answer) is not dict:
            raise MappingError("stats", "stats", f"expected an object, got {type(answer).__name__}")
        return dict(valid_rows(VENUE, "stats", answer.items(), mapping.volume))

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return trades ``first`` to ``first + 999``: ``after`` returns those below an id, newest first. At the end of the trades the venue
        returns older ones instead. They are left out, and the page was not full.
        """
        answer = await rest.get(f"/products/{market.symbol}/trades", limit=PAGE, after=first + PAGE)
        if type(answer) is not list:
            raise MappingError("trades", "trades", f"expected a list, got {type(answer).__name__}")
        found = map_rows(answer, lambda row: mapping.trade(row, market.instrument, received, backfilled=True))
        refused = [row for row in found if isinstance(row, RejectedRow)]
        good = sorted((row for row in found if not isinstance(row, RejectedRow)), key=lambda row: int(row["agg_id"]))
        wanted = [row for row in good if first <= row["agg_id"] < first + PAGE]
        return [*refused, *wanted], bool(wanted) and wanted[-1]["agg_id"] == first + PAGE - 1

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        window = {"start": first // 1000, "end": last // 1000}
        answer = await rest.get(f"/products/{market.symbol}/candles", granularity=300, **window)
        if type(answer) is not list:
            raise MappingError("candles", "candles", f"expected a list, got {type(answer).__name__}")
        return map_rows(answer, lambda row: mapping.bar(row, market, received))

    def polls(self) -> list[Poll]:
        return [Poll("premium", "market_indicators", EVERY_S, True, self._reference.premiums)]

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        """Search the consecutive ids by time: back from the newest in doubling steps, then by bisection."""
        newest = await _trade_below(rest, market, MAX_LONG)
        if newest is None or newest[1] < since:
            return None
        # Trade ``high`` is young enough. All up to ``low`` are too old or do not exist.
        high, low, step = newest[0], 0, PAGE
        while high > 1:
            at = max(1, high - step)
            found = await _trade_below(rest, market, at + 1)
            if found is None or found[1] < since:
                low = at
                break
            high, step = found[0], step * 2
        while high - low > 1:
            at = (low + high) // 2
            found = await _trade_below(rest, market, at + 1)
            if found is None or found[1] < since or found[0] <= low:
                low = at
            else:
                high = found[0]
        return high


async def _trade_below(rest: Rest, market: Market, after: int) -> tuple[int, int] | None:
    """Return id and time of the newest trade below an id, None without one."""
    query = {} if after == MAX_LONG else {"after": after}
    answer = await rest.get(f"/products/{market.symbol}/trades", limit=1, **query)
    if type(answer) is not list:
        raise MappingError("trades", "trades", f"expected a list, got {type(answer).__name__}")
    if not answer:
        return None
    found = integer(answer[0], "trade_id", "trades")
    if found >= after:
        raise MappingError("trades", "trade_id", f"expected a trade below {after}, got {found}")
    return found, mapping.iso_ms(answer[0], "time", "trades")

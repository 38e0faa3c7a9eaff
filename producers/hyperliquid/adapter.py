"""The Hyperliquid adapter: perpetuals of the main universe, without builder-deployed markets.

The venue has no public source of liquidations, long/short ratios, or trades older than recentTrades. Whole-market calls: meta and
metaAndAssetCtxs; settled funding and streams are symbol by symbol. Sources: the venue's documents (for-developers/api: websocket, info
endpoint, rate limits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson

from producers.hyperliquid import mapping
from producers.hyperliquid.mapping import VENUE
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
from producers.venue.adapter.json_values import array, get, json_object, text, time_ms
from producers.venue.adapter.message_time import estimated_time, note_time
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Record

PATH = "/info"
# Weights of the venue's document; lists of history cost one more for each 20 items.
STATUS_WEIGHT = 2
INFO_WEIGHT = 20
TRADES_WEIGHT = 21
HISTORY_WEIGHT = 22
# 20, and one for each 60 bars.
CANDLES_WEIGHT = 26
HISTORY_MS = 24 * 3_600_000
# Rows of a full response ("only the last 500 are returned") and its weight; pages of a history.
PAGE = 500
FULL_PAGE_WEIGHT = 45
MAX_PAGES = 100

TRADES = Channel("trades", "agg_trades", 300.0)
BOOK = Channel("l2Book", "depth", 60.0)
QUOTES = Channel("bbo", "quotes", 300.0)  # sent only when it changes
CONTEXT = Channel("activeAssetCtx", "funding", 60.0)


class Hyperliquid(Adapter):
    """Hyperliquid perpetuals; symbols are the venue's coins (``BTC``, ``kPEPE``).

    The trades stream begins with recent trades, which are duplicates after a reconnect. activeAssetCtx has no time, so its clock is 0. Its
    records get the newest time of the coin's other streams, plus the time passed since (``estimated_time``). Funding is hourly by the venue's
    documentation: see ``schedule_rule``.
    """

    venue: ClassVar[str] = VENUE
    author: ClassVar[str] = "hyperliquid"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://api.hyperliquid.xyz"
    rest_url: ClassVar[str] = "https://api.hyperliquid.xyz"
    channels: ClassVar[tuple[Channel, ...]] = (TRADES, BOOK, QUOTES, CONTEXT)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "full"
    consecutive_ids: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = (Limit(1200, 60.0),)
    heartbeat: ClassVar[Heartbeat | None] = Heartbeat('{"method":"ping"}', 50.0)
    # An address may have 1,000 subscriptions, and send 2,000 messages a minute over all its connections.
    max_streams: ClassVar[int] = 100
    send_pause_s: ClassVar[float] = 0.05
    rotate_after_s: ClassVar[float | None] = None
    kline_page: ClassVar[int] = 5000
    default_symbols: ClassVar[str] = "BTC,ETH,SOL,XRP"

    # --- streams -----------------------------------------------------------------------------------------------------

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        return [
            ConnectionPlan(f"ws-{number}", f"{base_url}/ws", streams, [_message("subscribe", *stream) for stream in streams])
            for number, streams in enumerate(self.parts(wanted), 1)
        ]

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        message = json_object(raw)
        name = text(message, "channel", "frame")
        if name in ("subscriptionResponse", "pong"):
            return ()
        if name == "error":
            raise MappingError("frame", "channel", f"the venue refuses: {message.get('data')}")
        if name != TRADES.name:
            data = get(message, "data", "frame")
            stream = f"{name}:{text(data, 'coin', 'frame')}"
            return (Message(stream, 0 if name == CONTEXT.name else time_ms(data, "time", "frame", received), data),)
        coins: dict[str, list[Any]] = {}
        for row in array(message, "data", "frame"):
            coins.setdefault(text(row, "coin", "frame"), []).append(row)
        return [
            Message(f"{name}:{coin}", max(time_ms(row, "time", "frame", received) for row in rows), rows) for coin, rows in coins.items()
        ]

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        if channel is TRADES:
            records = mapping.ascending([mapping.trade(row, market.instrument, received) for row in data])
            if records:
                note_time(market, records[-1]["event_time"], received)
            return [("agg_trades", record) for record in records]
        if channel is BOOK:
            book = mapping.book(data, received)
            note_time(market, book.last, received)
            return [("depth", book)]
        if channel is QUOTES:
            note_time(market, time_ms(data, "time", "bbo", received), received)
            quote = mapping.quote(data, market.instrument, received)
            return [] if quote is None else [("quotes", quote)]
        return mapping.context(data, market.instrument, estimated_time(market, received), received)

    # --- REST --------------------------------------------------------------------------------------------------------

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.post(PATH, {"type": "exchangeStatus"}, STATUS_WEIGHT))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        answer = await rest.post(PATH, {"type": "meta"}, INFO_WEIGHT)
        records = valid_rows(VENUE, "meta", array(answer, "universe", "meta"), lambda row: mapping.instrument_facts(row, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in records}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        answer = await rest.post(PATH, {"type": "metaAndAssetCtxs"}, INFO_WEIGHT)
        return dict(valid_rows(VENUE, "metaAndAssetCtxs", mapping.contexts(answer), mapping.volume))

    async def trades_since(self, rest: Rest, market: Market, since: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return the trades of recentTrades: the newest ones, some seconds of a busy market."""
        answer = await rest.post(PATH, {"type": "recentTrades", "coin": market.symbol}, TRADES_WEIGHT)
        if type(answer) is not list:
            raise MappingError("recentTrades", "recentTrades", f"expected a list, got {type(answer).__name__}")
        found = map_rows(answer, lambda row: mapping.trade(row, market.instrument, received, backfilled=True))
        refused = [row for row in found if isinstance(row, RejectedRow)]
        good = mapping.ascending([row for row in found if not isinstance(row, RejectedRow)])
        reached = bool(good) and good[0]["event_time"] < since
        return [*refused, *(row for row in good if row["event_time"] >= since)], reached

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        wanted = {"coin": market.symbol, "interval": "5m", "startTime": first, "endTime": last}
        answer = await rest.post(PATH, {"type": "candleSnapshot", "req": wanted}, CANDLES_WEIGHT)
        if type(answer) is not list:
            raise MappingError("candleSnapshot", "candleSnapshot", f"expected a list, got {type(answer).__name__}")
        return map_rows(answer, lambda row: mapping.bar(row, market, received))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return settled rates. The venue serves no past open interest."""
        found: list[Record] = []
        start = since
        for _ in range(MAX_PAGES):
            body = {"type": "fundingHistory", "coin": market.symbol, "startTime": start, "endTime": until}
            page = [
                record for record in mapping.settled(await rest.post(PATH, body, FULL_PAGE_WEIGHT), until) if record["event_time"] >= start
            ]
            found += page
            if len(page) < PAGE:
                break
            start = page[-1]["event_time"] + 1
        return [("funding", record) for record in found if record["event_time"] <= until]

    def polls(self) -> list[Poll]:
        return [Poll("fundingHistory", "funding", 600.0, False, _settled)]

    # --- schedule ----------------------------------------------------------------------------------------------------

    def schedule_rule(self) -> Mapping[str, Any] | None:
        """Return the rule of hourly funding, on the full hour UTC (R001-226)."""
        return {"interval_hours": mapping.FUNDING_HOURS}


def _message(method: str, symbol: str, channel: Channel) -> str:
    return orjson.dumps({"method": method, "subscription": {"type": channel.name, "coin": symbol}}).decode()


async def _settled(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    """Return the new settlements, each once. The first call returns those of a day."""
    found = []
    for market in markets:
        start = market.memory.get("settled", received - HISTORY_MS) + 1
        answer = await rest.post(PATH, {"type": "fundingHistory", "coin": market.symbol, "startTime": start}, HISTORY_WEIGHT)
        records = [record for record in mapping.settled(answer, received) if record["event_time"] >= start]
        if records:
            market.memory["settled"] = records[-1]["event_time"]
        found += [(market.symbol, "funding", record) for record in records]
    return found

"""Binance spot: trades, depth, best quotes.

Frames are combined as on USD-M, on one route. Whole-market calls: exchangeInfo and ticker/24hr; streams are pair by pair.
Sources: the venue's spot documents (web-socket-streams, rest-api).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import structlog

from producers.binance import mapping as binance
from producers.binance import spot_mapping as mapping
from producers.binance.adapter import BinanceUsdm
from producers.venue.adapter.base import (
    BookSnapshot,
    Channel,
    ConnectionPlan,
    ContractInfo,
    Event,
    Market,
    Poll,
    RejectedRow,
    Scanner,
    map_rows,
)
from producers.venue.adapter.json_values import array, row_list
from producers.venue.adapter.message_time import note_time
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Codec, Record

PATH = "/api/v3"
PAGE = 1000
DEPTH_LIMIT = 1000
# Weights of the venue's document; an address has 6,000 a minute.
DEPTH_WEIGHT = 50
TRADES_WEIGHT = 4
INFO_WEIGHT = 20
TICKERS_WEIGHT = 80
KLINES_WEIGHT = 2
VOLUME_EVERY_S = 60.0

AGG_TRADE = Channel("aggTrade", "agg_trades", 60.0)
DEPTH = Channel("depth", "depth", 30.0)
BOOK_TICKER = Channel("bookTicker", "quotes", 30.0)


class BinanceSpot(BinanceUsdm):
    """Binance spot; the envelope of its frames, the trades and the contract list are those of USD-M.

    Args:
        depth_speed: Cadence of the depth diffs: ``100ms`` or ``1000ms``.
    """

    author: ClassVar[str] = "binance-spot"
    kind: ClassVar[Literal["perp", "spot"]] = "spot"
    ws_url: ClassVar[str] = "wss://stream.binance.com:9443"
    rest_url: ClassVar[str] = "https://api.binance.com"
    channels: ClassVar[tuple[Channel, ...]] = (AGG_TRADE, DEPTH, BOOK_TICKER)
    limits: ClassVar[tuple[Limit, ...]] = (Limit(6000, 60.0),)
    kline_page: ClassVar[int] = 1000
    default_symbols: ClassVar[str] = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"

    def __init__(self, depth_speed: str = "100ms") -> None:
        # The venue's slow cadence has no suffix.
        self._suffix = {} if depth_speed == "1000ms" else {"depth": f"@{depth_speed}"}
        self._log = structlog.get_logger().bind(venue=self.venue, kind=self.kind)

    # --- streams -----------------------------------------------------------------------------------------------------

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        """Return as many connections as the streams need. The URL subscribes."""
        plans = []
        for start in range(0, len(wanted), self.max_streams):
            part = list(wanted[start : start + self.max_streams])
            names = "/".join(self.wire_name(symbol, channel) for symbol, channel in part)
            plans.append(ConnectionPlan(f"spot-{start // self.max_streams}", f"{base_url}/stream?streams={names}", part))
        return plans

    def clock_of(self, name: str, data: Any, received: int) -> int:
        """Return the venue's time of a message; a bookTicker has none."""
        return 0 if name.endswith(BOOK_TICKER.name) else binance.event_clock(data, received)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        """Return the content of a message."""
        binance.check_symbol(data, market.symbol, channel.name)
        if channel is BOOK_TICKER:
            return (("quotes", mapping.quote(data, market, received)),)
        event: Event
        if channel is AGG_TRADE:
            event = ("agg_trades", binance.agg_trade(data, market.instrument, received))
        else:
            event = ("depth", mapping.depth_diff(data, received))
        note_time(market, binance.event_clock(data, received), received)
        return (event,)

    def scanner(self, streams: Sequence[tuple[str, Channel, Market]], codec: Codec) -> Scanner | None:
        """Return None, because a bookTicker of spot has no time and takes that of other messages."""
        return None

    # --- REST --------------------------------------------------------------------------------------------------------

    async def server_time(self, rest: Rest) -> int:
        """Return the venue's clock, ms UTC."""
        return binance.server_time(await rest.get(f"{PATH}/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        """Return the pairs. Unusable ones are logged and left out."""
        rows = array(await rest.get(f"{PATH}/exchangeInfo", INFO_WEIGHT), "symbols", "exchangeInfo")
        records = valid_rows(self.venue, "exchangeInfo", rows, lambda row: mapping.instrument_facts(row, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in records}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        """Return 24 h volumes."""
        rows = row_list(await rest.get(f"{PATH}/ticker/24hr", TICKERS_WEIGHT), "ticker/24hr")
        return dict(valid_rows(self.venue, "ticker/24hr", rows, binance.volume))

    async def snapshot(self, rest: Rest, symbol: str) -> BookSnapshot:
        """Return the book."""
        return binance.depth_snapshot(await rest.get(f"{PATH}/depth", DEPTH_WEIGHT, symbol=symbol, limit=DEPTH_LIMIT))

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return up to 1,000 aggregate trades from an id on; the venue has all of them."""
        answer = await rest.get(f"{PATH}/aggTrades", TRADES_WEIGHT, symbol=market.symbol, fromId=first, limit=PAGE)
        rows = row_list(answer, "aggTrades")
        return map_rows(rows, lambda row: binance.agg_trade(row, market.instrument, received, backfilled=True)), len(rows) >= PAGE

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        """Return the id of the first aggregate trade at or after a time."""
        answer = await rest.get(f"{PATH}/aggTrades", TRADES_WEIGHT, symbol=market.symbol, startTime=since, limit=1)
        rows = row_list(answer, "aggTrades")
        return int(binance.agg_trade(rows[0], market.instrument, since + 10**12)["agg_id"]) if rows else None

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        """Return bars with their taker buy volume."""
        answer = await rest.get(
            f"{PATH}/klines", KLINES_WEIGHT, symbol=market.symbol, interval="5m", startTime=first, endTime=last, limit=self.kline_page
        )
        return map_rows(row_list(answer, "klines"), lambda row: binance.bar(row, market, received))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return nothing, because spot has neither funding nor open interest."""
        return []

    def polls(self) -> list[Poll]:
        """Return 24 h volumes."""
        return [Poll("ticker24h", "market_indicators", VOLUME_EVERY_S, True, self._volumes)]

    async def _volumes(self, rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
        rows = row_list(await rest.get(f"{PATH}/ticker/24hr", TICKERS_WEIGHT), "ticker/24hr")
        return valid_rows(self.venue, "ticker/24hr", rows, lambda row: binance.volume_record(row, received))

"""Binance USD-M perpetuals.

Routes since 2026-04-23: ``/public`` carries depth and bookTicker, ``/market`` the rest. A subscription on the wrong route is accepted but
stays silent. Frames are combined: ``{"stream": NAME, "data": {...}}``.

Whole-market calls over REST: contracts, funding intervals, 24 h volumes and the newest settled rates (exchangeInfo, fundingInfo, ticker/24hr,
fundingRate). Open interest and the ratios need one call a symbol. Whole-market streams are not subscribed, also for ``all`` symbols:

- ``!bookTicker`` is sampled every few seconds (2,000 updates of 744 contracts in 20 s, as another client measured). A symbol's own stream
  has every change.
- ``!markPrice@arr@1s`` repeats the symbols' ``markPrice@1s`` in one frame of all contracts. It only saves subscriptions, and trades of the
  same connection would wait behind a frame of hundreds of marks.
- ``!forceOrder@arr`` has the same sample as ``forceOrder`` (a symbol's newest within a second). It only saves subscriptions.

So a named symbol is followed like one from ``top:N`` or ``all``. 560 contracts take 2,800 streams on 15 connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson
import structlog

from producers.binance import indicators, mapping
from producers.venue.adapter.base import (
    Adapter,
    BookSnapshot,
    Channel,
    ConnectionPlan,
    ContractInfo,
    Event,
    MappingError,
    Market,
    Message,
    Poll,
    RejectedRow,
    Scanner,
    map_rows,
)
from producers.venue.adapter.json_values import row_list
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Codec, Record

PAGE = 1000
DEPTH_LIMIT = 1000
# Of up to 499 bars.
KLINES_WEIGHT = 2

AGG_TRADE = Channel("aggTrade", "agg_trades", 60.0)
DEPTH = Channel("depth", "depth", 15.0)
BOOK_TICKER = Channel("bookTicker", "quotes", 15.0)
MARK_PRICE = Channel("markPrice", "funding", 10.0)
# Liquidations can be silent for hours, so their connection is watched instead.
FORCE_ORDER = Channel("forceOrder", "liquidations", None)
ROUTES = {AGG_TRADE: "market", DEPTH: "public", BOOK_TICKER: "public", MARK_PRICE: "market", FORCE_ORDER: "market"}


class BinanceUsdm(Adapter):
    """Binance USD-M.

    Args:
        depth_speed: Cadence of the depth diffs: ``100ms``, ``250ms``, ``500ms``; recordings have ``0ms``.
    """

    venue: ClassVar[str] = "BINANCE"
    author: ClassVar[str] = "binance-usdm"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://fstream.binance.com"
    rest_url: ClassVar[str] = "https://fapi.binance.com"
    channels: ClassVar[tuple[Channel, ...]] = (AGG_TRADE, DEPTH, BOOK_TICKER, MARK_PRICE, FORCE_ORDER)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "rest"
    consecutive_ids: ClassVar[bool] = True
    limits: ClassVar[tuple[Limit, ...]] = (Limit(2400, 60.0),)
    used_header: ClassVar[str | None] = "X-MBX-USED-WEIGHT-1M"
    # The venue accepts up to 1,024 streams a connection, and advises 200.
    max_streams: ClassVar[int] = 200
    kline_page: ClassVar[int] = 499
    default_symbols: ClassVar[str] = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"

    def __init__(self, depth_speed: str = "100ms") -> None:
        self._suffix = {"depth": f"@{depth_speed}", "markPrice": "@1s"}
        self._log = structlog.get_logger().bind(venue=self.venue)

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        """Return the venue's name of a symbol's stream, e.g. ``btcusdt@depth@100ms``."""
        return f"{symbol.lower()}@{channel.name}{self._suffix.get(channel.name, '')}"

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        """Return one connection a route, or more if a route has too many streams. The URL subscribes."""
        by_route: dict[str, list[tuple[str, Channel]]] = {}
        for symbol, channel in wanted:
            by_route.setdefault(ROUTES[channel], []).append((symbol, channel))
        plans = []
        for route, streams in sorted(by_route.items()):
            for number, part in enumerate(self.parts(streams)):
                names = "/".join(self.wire_name(symbol, channel) for symbol, channel in part)
                plans.append(ConnectionPlan(f"{route}-{number}", f"{base_url}/{route}/stream?streams={names}", part))
        return plans

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        """Return the one message of a combined frame."""
        try:
            message = orjson.loads(raw)
            name = message["stream"]
            data = message["data"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            return self._odd_frame(raw, error)
        if type(name) is not str:
            raise MappingError("frame", "stream", f"expected text, got {name!r}")
        try:
            return (Message(name, self.clock_of(name, data, received), data),)
        except MappingError as error:
            raise MappingError(name, error.field, error.reason) from None

    def clock_of(self, name: str, data: Any, received: int) -> int:
        """Return the venue's time of a message, 0 without one. Raises MappingError."""
        return mapping.event_clock(data, received)

    def scanner(self, streams: Sequence[tuple[str, Channel, Market]], codec: Codec) -> Scanner | None:
        """Return the compiled reader of aggTrade, bookTicker and depthUpdate."""
        from producers.binance import scan  # imports the compiler, which other venues' producers do not need

        kinds = {AGG_TRADE: scan.TRADE, BOOK_TICKER: scan.QUOTE, DEPTH: scan.BOOK}
        return scan.FrameScanner(
            [(name, kinds.get(channel, scan.OTHER), market.symbol, market.instrument) for name, channel, market in streams], codec
        )

    def _odd_frame(self, raw: bytes, error: Exception) -> Sequence[Message]:
        if isinstance(error, orjson.JSONDecodeError):
            # Truncated frames still begin with the stream's name, which helps a reader of the dead letters.
            start = raw.find(b'"stream":"')
            end = raw.find(b'"', start + 10) if start >= 0 else -1
            name = raw[start + 10 : end].decode(errors="replace") if end > 0 else "frame"
            raise MappingError(name, "frame", f"no JSON: {error}")
        message = orjson.loads(raw)
        if isinstance(message, dict) and "stream" not in message and ("result" in message or "error" in message):
            # The response to a control message is not market data.
            (self._log.warning if message.get("error") else self._log.info)("answer of the venue", answer=message)
            return ()
        raise MappingError("frame", "stream", f"no combined frame: {error}")

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        """Return the content of a message."""
        if channel is AGG_TRADE:
            mapping.check_symbol(data, market.symbol, "aggTrade")
            return (("agg_trades", mapping.agg_trade(data, market.instrument, received)),)
        if channel is FORCE_ORDER:  # it contains its symbol
            return (("liquidations", mapping.liquidation(data, market.instrument, market.symbol, received)),)
        mapping.check_symbol(data, market.symbol, channel.name)
        if channel is DEPTH:
            return (("depth", mapping.depth_diff(data)),)
        if channel is BOOK_TICKER:
            return (("quotes", mapping.quote(data, market.instrument, received)),)
        record = mapping.mark_price(data, market.instrument, received, market.facts["funding_interval_hours"])
        market.memory["mark_price"] = record["mark_price"]
        return (("funding", record),)

    # --- REST --------------------------------------------------------------------------------------------------------

    async def server_time(self, rest: Rest) -> int:
        """Return the venue's clock, ms UTC."""
        return mapping.server_time(await rest.get("/fapi/v1/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        """Return the contracts. Unusable ones are logged and left out."""
        listed = row_list(await rest.get("/fapi/v1/fundingInfo"), "fundingInfo")
        hours = dict(valid_rows(self.venue, "fundingInfo", listed, mapping.funding_hours))
        found = {}
        for entry in mapping.contracts(await rest.get("/fapi/v1/exchangeInfo")):
            # Recordings of spot pairs are served beside the perpetuals; delivery contracts are not followed.
            if "PERPETUAL" not in str(entry.get("contractType")) and entry.get("contractType") != "SPOT":
                continue
            try:
                found[entry["symbol"]] = ContractInfo(mapping.instrument_facts(entry, author, hours.get(entry["symbol"])), {})
            except MappingError as error:
                self._log.warning("contract cannot be used", error=str(error))
        return found

    async def volumes(self, rest: Rest) -> dict[str, float]:
        """Return 24 h volumes."""
        rows = row_list(await rest.get("/fapi/v1/ticker/24hr", 40), "ticker/24hr")
        return dict(valid_rows(self.venue, "ticker/24hr", rows, mapping.volume))

    async def snapshot(self, rest: Rest, symbol: str) -> BookSnapshot:
        """Return the book."""
        return mapping.depth_snapshot(await rest.get("/fapi/v1/depth", 20, symbol=symbol, limit=DEPTH_LIMIT))

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return up to 1,000 aggregate trades from an id on; the venue reaches two days back."""
        answer = await rest.get("/fapi/v1/aggTrades", 20, symbol=market.symbol, fromId=first, limit=PAGE)
        rows = row_list(answer, "aggTrades")
        return map_rows(rows, lambda row: mapping.agg_trade(row, market.instrument, received, backfilled=True)), len(rows) >= PAGE

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        """Return the id of the first aggregate trade at or after a time (within an hour of it, the venue's window)."""
        answer = await rest.get("/fapi/v1/aggTrades", 20, symbol=market.symbol, startTime=since, limit=1)
        rows = row_list(answer, "aggTrades")
        return int(mapping.agg_trade(rows[0], market.instrument, since + 10**12)["agg_id"]) if rows else None

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        """Return bars with their taker buy volume."""
        answer = await rest.get(
            "/fapi/v1/klines", KLINES_WEIGHT, symbol=market.symbol, interval="5m", startTime=first, endTime=last, limit=self.kline_page
        )
        return map_rows(row_list(answer, "klines"), lambda row: mapping.bar(row, market, received))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return settled funding and open-interest history."""
        return await indicators.history(rest, market, since, until)

    def polls(self) -> list[Poll]:
        """Return open interest, ratios, 24 h volumes and settled funding."""
        return indicators.polls()

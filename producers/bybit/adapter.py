"""Bybit v5 as adapters: ``BybitLinear`` (USDT and USDC perpetuals) and ``BybitSpot``.

Whole-market calls: tickers (volumes, funding, open interest) and instruments-info; settled funding, ratios and streams are symbol by symbol.

Sources: the venue's v5 documents, ws/connect, websocket/public/* and market/*, rate-limit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson

from producers.bybit import history, mapping
from producers.bybit.tickers import merged
from producers.venue.adapter import records
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
from producers.venue.adapter.json_values import array, integer, json_object, text, time_ms
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Record

# Length of all arguments of a connection, in characters; the document says 21,000.
ARGUMENTS_LENGTH = 20_000
# The window of the venue's limit: the wait after a refusal without a time.
WINDOW_S = 5.0
# Too many visits of this key or address; the matching system or the service is busy.
TOO_MANY = (10006, 10018)
BUSY = (10000, 10016)
# Most pages of instruments-info (1,000 contracts each). More would mean that its cursor loops.
MAX_PAGES = 50
RATIO_PERIOD = "5min"
# The topic in the venue's refusals: "error:handler not found,topic:tickers.X", "Invalid symbol :[tickers.X]".
_REFUSED = re.compile(r"(?:topic:\s*|:\[)([\w.-]+)")

_Polled = list[tuple[str, str, Record]]
_Fetch = Callable[[Rest, Sequence[Market], int], Awaitable[_Polled]]
_Read = Callable[[str, dict[str, Any], int, int], _Polled]

TRADES = Channel("publicTrade", "agg_trades", 300.0)
DEPTH = Channel("orderbook.50", "depth", 60.0)
QUOTES = Channel("orderbook.1", "quotes", 15.0)  # sent again after 3 s without change
TICKERS = Channel("tickers", "funding", 60.0)
LIQUIDATIONS = Channel("allLiquidation", "liquidations", None)
SPOT_TICKERS = Channel("tickers", "market_indicators", 60.0)


class _Bybit(Adapter):
    """The part that both categories share.

    Attributes:
        category: The venue's name of the contract kind. recent_limit: Number of trades over REST.
    """

    category: ClassVar[str]
    recent_limit: ClassVar[int]
    venue: ClassVar[str] = mapping.VENUE
    ws_url: ClassVar[str] = "wss://stream.bybit.com"
    rest_url: ClassVar[str] = "https://api.bybit.com"
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "stream"
    consecutive_ids: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = (Limit(600, 5.0),)
    # The document says 20 s. But the venue closed connections on which it sent nothing for 10 s, so a quiet one needs pongs sooner.
    heartbeat: ClassVar[Heartbeat | None] = Heartbeat('{"op":"ping"}', 8.0)
    max_streams: ClassVar[int] = 200
    send_pause_s: ClassVar[float] = 0.05
    # "403, access too frequent": wait at least ten minutes (rate-limit document).
    bans: ClassVar[Mapping[int, float]] = {403: 600.0}
    kline_page: ClassVar[int] = 1000
    default_symbols: ClassVar[str] = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        return f"{channel.name}.{symbol}"

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        plans: list[ConnectionPlan] = []
        streams: list[tuple[str, Channel]] = []
        length = 0
        for symbol, channel in wanted:
            size = len(self.wire_name(symbol, channel)) + 3  # quotes and comma
            if streams and (len(streams) == self.max_streams or length + size > ARGUMENTS_LENGTH):
                plans.append(self._plan(base_url, len(plans), streams))
                streams, length = [], 0
            streams.append((symbol, channel))
            length += size
        if streams:
            plans.append(self._plan(base_url, len(plans), streams))
        return plans

    def _plan(self, base_url: str, number: int, streams: list[tuple[str, Channel]]) -> ConnectionPlan:
        # One refused argument fails its whole message, and a delisted symbol must not affect others. So each symbol has its own message,
        # with at most six arguments (spot allows ten).
        by_symbol: dict[str, list[str]] = {}
        for symbol, channel in streams:
            by_symbol.setdefault(symbol, []).append(self.wire_name(symbol, channel))
        opening = [_message("subscribe", names) for names in by_symbol.values()]
        return ConnectionPlan(f"{self.category}-{number}", f"{base_url}/v5/public/{self.category}", streams, opening)

    def resubscribe(self, symbol: str, channel: Channel) -> list[str]:
        name = self.wire_name(symbol, channel)
        return [_message("unsubscribe", [name]), _message("subscribe", [name])]

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        message = json_object(raw)
        if "topic" not in message:
            _answer(message)
            return ()
        topic = message["topic"]
        if type(topic) is not str:
            raise MappingError("frame", "topic", f"expected text, got {topic!r}")
        return (Message(topic, time_ms(message, "ts", topic, received), message),)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        name, instrument, symbol = channel.name, market.instrument, market.symbol
        if name == "publicTrade":
            return [("agg_trades", mapping.trade(row, instrument, symbol, received)) for row in array(data, "data", name)]
        if name == "orderbook.50":
            return [("depth", mapping.book(data, symbol, received))]
        if name == "orderbook.1":
            record = mapping.quote(data, instrument, symbol, received, market.memory)
            return [] if record is None else [("quotes", record)]
        if name == "allLiquidation":
            return [("liquidations", mapping.liquidation(row, instrument, symbol, received)) for row in array(data, "data", name)]
        if name == "tickers":
            kinds = ("market_indicators",) if self.kind == "spot" else ("funding", "market_indicators")
            return merged(data, symbol, instrument, received, market.memory, kinds)
        raise MappingError(name, "topic", "no stream of this venue")

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        code = answer.get("retCode") if type(answer) is dict else None
        if code == 0:
            return None
        reason = f"the venue answers {code}: {answer.get('retMsg')}" if type(answer) is dict else "no answer of the venue's form"
        return reason, WINDOW_S if code in TOO_MANY else 1.0 if code in BUSY else None

    async def server_time(self, rest: Rest) -> int:
        return integer(await rest.get("/v5/market/time"), "time", "time")

    async def volumes(self, rest: Rest) -> dict[str, float]:
        answer = await rest.get("/v5/market/tickers", category=self.category)
        return dict(valid_rows(self.venue, "tickers", mapping.rows(answer, "tickers"), mapping.volume))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        records = await self._facts(rest, lambda entry: self._fact(entry, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in records}

    def _fact(self, entry: Any, author: str) -> Record | None:
        raise NotImplementedError

    async def _facts(self, rest: Rest, read: Callable[[Any], Record | None]) -> list[Record]:
        """Read all pages of instruments-info. Contracts that no longer trade are missing or not ``Trading``."""
        found: list[Record] = []
        more: dict[str, Any] = {}
        for _ in range(MAX_PAGES):
            answer = await rest.get("/v5/market/instruments-info", category=self.category, limit=1000, **more)
            found += valid_rows(self.venue, "instruments-info", mapping.rows(answer, "instruments-info"), read)
            cursor = answer["result"].get("nextPageCursor")
            if not cursor:
                return found
            if type(cursor) is not str or cursor == more.get("cursor"):
                break
            more = {"cursor": cursor}
        raise MappingError("instruments-info", "nextPageCursor", f"leads nowhere: {cursor!r}")

    async def trades_since(self, rest: Rest, market: Market, since: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return the newest trades (1,000; 60 on spot). The venue serves no older ones."""
        answer = await rest.get("/v5/market/recent-trade", category=self.category, symbol=market.symbol, limit=self.recent_limit)
        newest_first = mapping.rows(answer, "recent-trade")
        found = map_rows(reversed(newest_first), lambda row: mapping.recent_trade(row, market.instrument, market.symbol, received))
        times = [row["event_time"] for row in found if not isinstance(row, RejectedRow)]
        wanted = [row for row in found if isinstance(row, RejectedRow) or row["event_time"] >= since]
        return wanted, bool(times) and min(times) < since

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        answer = await rest.get(
            "/v5/market/kline", category=self.category, symbol=market.symbol, interval="5", start=first, end=last, limit=self.kline_page
        )
        return map_rows(mapping.rows(answer, "kline"), lambda row: mapping.bar(row, market, received))


class BybitLinear(_Bybit):
    """Perpetuals against USDT and USDC. Quantities are in units of the base coin."""

    category: ClassVar[str] = "linear"
    author: ClassVar[str] = "bybit"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    recent_limit: ClassVar[int] = 1000
    channels: ClassVar[tuple[Channel, ...]] = (TRADES, DEPTH, QUOTES, TICKERS, LIQUIDATIONS)

    def _fact(self, entry: Any, author: str) -> Record | None:
        return mapping.linear_facts(entry, author)

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        return await history.past(rest, market.symbol, since, until)

    def polls(self) -> list[Poll]:
        return [
            Poll("tickers-funding", "funding", 60.0, True, self._tickers(_funding)),
            Poll("tickers-indicators", "market_indicators", 60.0, True, self._tickers(_indicators)),
            Poll("funding-history", "funding", 600.0, False, _settled),
            Poll("account-ratio", "market_indicators", 300.0, False, _account_ratio),
        ]

    def _tickers(self, read: _Read) -> _Fetch:
        """Return a poll over the tickers of the whole market, one call. It also completes a schedule that is missing in the stream."""

        async def fetch(rest: Rest, markets: Sequence[Market], received: int) -> _Polled:
            answer = await rest.get("/v5/market/tickers", category=self.category)
            time = time_ms(answer, "time", "tickers", received)

            def one(entry: Any) -> _Polled:
                symbol = text(entry, "symbol", "tickers")
                return read(symbol, mapping.ticker(entry), time, received)

            return [found for part in valid_rows(self.venue, "tickers", mapping.rows(answer, "tickers"), one) for found in part]

        return fetch


class BybitSpot(_Bybit):
    """Spot pairs against USDT and USDC."""

    category: ClassVar[str] = "spot"
    author: ClassVar[str] = "bybit-spot"
    kind: ClassVar[Literal["perp", "spot"]] = "spot"
    recent_limit: ClassVar[int] = 60
    channels: ClassVar[tuple[Channel, ...]] = (TRADES, DEPTH, QUOTES, SPOT_TICKERS)

    def _fact(self, entry: Any, author: str) -> Record | None:
        return mapping.spot_facts(entry, author)


def _message(op: str, names: Iterable[str]) -> str:
    return orjson.dumps({"op": op, "args": list(names)}).decode()


def _answer(message: dict[str, Any]) -> None:
    """Skip acknowledgements and pongs.

    Raises:
        MappingError: the venue refuses a subscription (its record is the stream, if the venue names it), or it is not a response.
    """
    reason = message.get("ret_msg", message.get("retMsg"))
    if message.get("success") is False:
        stream = _REFUSED.search(str(reason))
        raise MappingError(stream[1] if stream else "subscribe", "ret_msg", f"the venue refuses: {reason}")
    if message.get("op") not in ("subscribe", "unsubscribe", "ping", "pong") and message.get("type") != "COMMAND_RESP":
        raise MappingError("frame", "topic", "is missing")


def _funding(symbol: str, fields: dict[str, Any], time: int, received: int) -> _Polled:
    if not any(name in fields for name in mapping.FUNDING_FIELDS):
        return []
    return [(symbol, "funding", mapping.funding(fields, time, received))]


def _indicators(symbol: str, fields: dict[str, Any], time: int, received: int) -> _Polled:
    return [
        (symbol, "market_indicators", records.indicator(name, fields[name], time, received))
        for name in mapping.INDICATORS
        if name in fields
    ]


async def _settled(rest: Rest, markets: Sequence[Market], received: int) -> _Polled:
    found: _Polled = []
    for market in markets:
        answer = await rest.get("/v5/market/funding/history", category="linear", symbol=market.symbol, limit=3)
        found += [(market.symbol, "funding", record) for record in history.settlements(answer, market.symbol, received)]
    return found


async def _account_ratio(rest: Rest, markets: Sequence[Market], received: int) -> _Polled:
    found: _Polled = []
    for market in markets:
        answer = await rest.get("/v5/market/account-ratio", category="linear", symbol=market.symbol, period=RATIO_PERIOD, limit=1)
        for entry in mapping.rows(answer, "account-ratio"):
            if (record := mapping.account_ratio(entry, market.symbol, received)) is not None:
                found.append((market.symbol, "market_indicators", record))
    return found

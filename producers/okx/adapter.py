"""OKX v5 as adapter: linear swaps against USDT and USDC.

Trades come from ``trades-all``: one fill a message, with ids that grow by one. REST serves the same fills with the same ids (three months
back), so every gap is detected and can be filled exactly. ``trades`` groups the fills of one taker order at one price under the last id,
which REST does not serve. So a record is a fill, as on Bybit, not a taker order.

Whole-market: instruments, tickers, funding-rate (``ANY``) and open-interest over REST, liquidation-orders as one subscription; the rest is
symbol by symbol.

Sources: the venue's v5 documents, overview (websocket), WS / channels, market data, public data, trading statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson
import structlog

from producers.okx import mapping, polls
from producers.okx.contracts import Contract, contract
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
from producers.venue.adapter.json_values import array, get, integer, json_object, text, time_ms
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import Limit, Rest, RestError
from schemas.codec.avro import Record

# Channels of one subscribe message; the document allows 64 kB.
BATCH = 20
# "If you need to subscribe to many 50 or 400 depth level channels, ... each [connection] of less than 30 channels."
MAX_BOOKS = 29
# Trades of a REST page, and most pages to search for the first trade of a young contract.
PAGE = 100
MAX_PAGES = 100
TOO_MANY = ("50011", "50061")
BUSY = ("50001", "50004", "50013", "50026")
SLOW_DOWN_S = 2.0

TRADES = Channel("trades-all", "agg_trades", 300.0)
DEPTH = Channel("books", "depth", 90.0)  # an unchanged book is repeated after a minute
QUOTES = Channel("bbo-tbt", "quotes", 90.0)
MARK = Channel("mark-price", "funding", 30.0)
INDEX = Channel("index-tickers", "funding", 150.0)
FUNDING = Channel("funding-rate", "funding", 300.0)  # every 30 to 90 s
OPEN_INTEREST = Channel("open-interest", "market_indicators", 300.0)
LIQUIDATIONS = Channel("liquidation-orders", "liquidations", None, whole_market=True)

OPEN_INTEREST_STEP_MS = 15_000


class OkxSwap(Adapter):
    """Perpetual swaps settled in USDT and USDC. Quantities are base quantities: contracts times the contract's value, exactly."""

    venue: ClassVar[str] = mapping.VENUE
    author: ClassVar[str] = "okx"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://ws.okx.com:8443"
    rest_url: ClassVar[str] = "https://www.okx.com"
    channels: ClassVar[tuple[Channel, ...]] = (TRADES, DEPTH, QUOTES, MARK, INDEX, FUNDING, LIQUIDATIONS, OPEN_INTEREST)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "stream"
    consecutive_ids: ClassVar[bool] = True
    # Each call has its own limit; most allow 20 requests in 2 s. One budget for all calls is safe. The weights are below.
    limits: ClassVar[tuple[Limit, ...]] = (Limit(20, 2.0),)
    heartbeat: ClassVar[Heartbeat | None] = Heartbeat("ping", 20.0)
    max_streams: ClassVar[int] = 200
    # 480 subscribe and unsubscribe messages an hour on a connection.
    send_pause_s: ClassVar[float] = 0.2
    kline_page: ClassVar[int] = 300
    default_symbols: ClassVar[str] = "BTC-USDT-SWAP,ETH-USDT-SWAP,SOL-USDT-SWAP,XRP-USDT-SWAP"

    def __init__(self) -> None:
        self._hours: dict[str, int] = {}  # symbol -> funding interval, as last published

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        return f"{channel.name}:{mapping.index_of(symbol) if channel.name == INDEX.name else symbol}"

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        groups: dict[str, list[tuple[str, Channel]]] = {"trades": [], "books": [], "public": [], "liquidations": []}
        for symbol, channel in wanted:
            group = {TRADES.name: "trades", DEPTH.name: "books", LIQUIDATIONS.name: "liquidations"}.get(channel.name, "public")
            groups[group].append((symbol, channel))
        plans = []
        for group, streams in groups.items():
            # One subscription covers the liquidations of all symbols, so they count as one stream.
            most = {"books": MAX_BOOKS, "liquidations": len(streams)}.get(group)
            url = f"{base_url}/ws/v5/{'business' if group == 'trades' else 'public'}"
            for number, part in enumerate(self.parts(streams, most)):
                plans.append(ConnectionPlan(f"{group}-{number}", url, part, _messages("subscribe", part)))
        return plans

    def resubscribe(self, symbol: str, channel: Channel) -> list[str]:
        return [*_messages("unsubscribe", [(symbol, channel)]), *_messages("subscribe", [(symbol, channel)])]

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        if raw == b"pong":
            return ()
        message = json_object(raw)
        if "event" in message:
            _answer(message)
            return ()
        arg = get(message, "arg", "frame")
        channel = text(arg, "channel", "frame")
        if channel == LIQUIDATIONS.name:
            # The venue does not order them by time, so such a message does not set the connection's clock.
            return [Message(f"{channel}:{text(row, 'instId', channel)}", 0, row) for row in array(message, "data", channel)]
        stream = f"{channel}:{text(arg, 'instId', 'frame')}"
        rows = array(message, "data", stream)
        if channel == DEPTH.name:
            return [Message(stream, time_ms(row, "ts", stream, received), (message.get("action"), row)) for row in rows]
        return [Message(stream, time_ms(row, "ts", stream, received), row) for row in rows]

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        name, instrument, symbol = channel.name, market.instrument, market.symbol
        if name == TRADES.name:
            return [("agg_trades", mapping.trade(data, instrument, symbol, _contract(market), received))]
        if name == DEPTH.name:
            action, row = data
            return [("depth", mapping.book(action, row, _contract(market), received))]
        if name == QUOTES.name:
            quote = mapping.quote(data, instrument, _contract(market), received)
            return [] if quote is None else [("quotes", quote)]
        if name == MARK.name:
            return [("funding", {"instrument": instrument, **mapping.mark_price(data, symbol, received)})]
        if name == INDEX.name:
            return [("funding", {"instrument": instrument, **mapping.index_price(data, symbol, received)})]
        if name == FUNDING.name:
            mapping.check_symbol(data, symbol, name)
            return [("funding", {"instrument": instrument, **mapping.funding_rate(data, received)})]
        if name == LIQUIDATIONS.name:
            return [("liquidations", found) for found in mapping.liquidations(data, instrument, symbol, _contract(market), received)]
        if name == OPEN_INTEREST.name:
            return self._open_interest(data, market, received)
        raise MappingError(name, "channel", "no stream of this venue")

    def _open_interest(self, data: Any, market: Market, received: int) -> list[Event]:
        """Return open interest at most once in 15 s. The venue sends it every 3 s."""
        mapping.check_symbol(data, market.symbol, OPEN_INTEREST.name)
        record = mapping.open_interest(data, received)
        if record["event_time"] - market.memory.get("open_interest", 0) < OPEN_INTEREST_STEP_MS:
            return []
        market.memory["open_interest"] = record["event_time"]
        return [("market_indicators", {"instrument": market.instrument, **record})]

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        code = answer.get("code") if type(answer) is dict else None
        if code == "0":
            return None
        reason = f"the venue answers {code}: {answer.get('msg')}" if type(answer) is dict else "no answer of the venue's form"
        return reason, SLOW_DOWN_S if code in TOO_MANY else 1.0 if code in BUSY else None

    async def server_time(self, rest: Rest) -> int:
        answer = await rest.get("/api/v5/public/time", 2)
        rows = array(answer, "data", "time")
        if not rows:
            raise MappingError("time", "data", "is empty")
        return integer(rows[0], "ts", "time")

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        try:
            rates = array(await rest.get("/api/v5/public/funding-rate", 2, instId="ANY"), "data", "funding-rate")
        except (RestError, MappingError) as error:
            structlog.get_logger().warning("no funding intervals", venue=self.venue, error=str(error)[:300])
        else:
            # Times of the response are not checked, because only their difference is used. Missing fields stay unchanged.
            self._hours |= dict(valid_rows(self.venue, "funding-rate", rates, lambda entry: mapping.funding_hours(entry, mapping.ANY_TIME)))
        hours = self._hours
        answer = await rest.get("/api/v5/public/instruments", instType="SWAP")
        read = valid_rows(
            self.venue, "instruments", array(answer, "data", "instruments"), lambda entry: mapping.instrument_facts(entry, author, hours)
        )
        return {record["symbol"]: ContractInfo(record, {"units": units}) for record, units in read}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        answer = await rest.get("/api/v5/market/tickers", instType="SWAP")
        return dict(valid_rows(self.venue, "tickers", array(answer, "data", "tickers"), mapping.volume))

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        # ``after`` returns trades older than an id, newest first. So [first, first + 100) are the trades older than its end.
        answer = await rest.get("/api/v5/market/history-trades", instId=market.symbol, type=1, after=first + PAGE, limit=PAGE)
        size = _contract(market)
        found = map_rows(
            reversed(array(answer, "data", "history-trades")),
            lambda row: mapping.trade(row, market.instrument, market.symbol, size, received, backfilled=True),
        )
        wanted = [row for row in found if isinstance(row, RejectedRow) or row["agg_id"] >= first]
        return wanted, any(not isinstance(row, RejectedRow) and row["agg_id"] == first + PAGE - 1 for row in wanted)

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        # This requests the newest trade before the time. The next id is the first one at or after it.
        answer = await rest.get("/api/v5/market/history-trades", instId=market.symbol, type=2, after=since, limit=1)
        rows = array(answer, "data", "history-trades")
        return integer(rows[0], "tradeId", "history-trades") + 1 if rows else await self._oldest_trade(rest, market)

    async def _oldest_trade(self, rest: Rest, market: Market) -> int | None:
        """Return the id of the first trade of a contract that is younger than the requested time, page by page back from the newest."""
        oldest: int | None = None
        for _ in range(MAX_PAGES):
            more = {} if oldest is None else {"type": 1, "after": oldest}
            answer = await rest.get("/api/v5/market/history-trades", instId=market.symbol, limit=PAGE, **more)
            ids = [integer(row, "tradeId", "history-trades") for row in array(answer, "data", "history-trades")]
            if not ids or (oldest is not None and min(ids) >= oldest):
                break
            oldest = min(ids)
        return oldest

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        # ``after`` returns older rows than a time, ``before`` younger ones.
        answer = await rest.get(
            "/api/v5/market/candles", instId=market.symbol, bar="5m", after=last + 1, before=first - 1, limit=self.kline_page
        )
        return map_rows(array(answer, "data", "candles"), lambda row: mapping.bar(row, market, received))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        return await polls.past(rest, market.symbol, since, until)

    def polls(self) -> list[Poll]:
        return polls.all_polls()


def _contract(market: Market) -> Contract:
    return contract(market.extra["units"])


def _messages(op: str, streams: Sequence[tuple[str, Channel]]) -> list[str]:
    arguments: list[dict[str, str]] = []
    for symbol, channel in streams:
        if channel.name == LIQUIDATIONS.name:
            argument = {"channel": channel.name, "instType": "SWAP"}
        else:
            argument = {"channel": channel.name, "instId": mapping.index_of(symbol) if channel.name == INDEX.name else symbol}
        if argument not in arguments[-1:]:
            arguments.append(argument)
    return [orjson.dumps({"op": op, "args": arguments[at : at + BATCH]}).decode() for at in range(0, len(arguments), BATCH)]


def _answer(message: dict[str, Any]) -> None:
    """Skip acknowledgements and notices.

    Raises:
        MappingError: the venue refuses a subscription (its record is the stream, if the venue names it).
    """
    event = message["event"]
    if event in ("error", "channel-conn-count-error"):
        arg = message.get("arg")
        stream = f"{arg.get('channel')}:{arg.get('instId')}" if type(arg) is dict else "subscribe"
        raise MappingError(stream, "event", f"the venue refuses: {message.get('code')} {message.get('msg')}")
    if event not in ("subscribe", "unsubscribe", "channel-conn-count", "notice"):
        raise MappingError("frame", "event", f"unknown: {event!r}")

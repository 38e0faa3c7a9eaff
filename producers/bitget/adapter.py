"""The Bitget adapter: USDT-M perpetuals, v2.

The venue has no public source of liquidations (neither a stream nor REST) or of a top-trader ratio. Whole-market calls: contracts, tickers,
current-fund-rate; settled funding, the ratio and streams are symbol by symbol. Sources: the venue's v2 documents (common/websocket-intro,
contract/websocket/public, contract/market).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal
from zlib import crc32

import orjson

from producers.bitget import mapping
from producers.bitget.mapping import VENUE
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
from producers.venue.adapter.json_values import array, get, json_object, one_of, text, time_ms
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import SLOW_DOWN_S, Limit, Rest
from schemas.codec.avro import Record

PRODUCT = "USDT-FUTURES"
MARKET_PATH = "/api/v2/mix/market"
SUBSCRIBE_BATCH = 25  # arguments of one message: about 2 kB, half of the venue's limit
# An address may send 20 requests a second to most calls, 10 to fills-history and 1 to account-long-short. The weights follow from this.
FILLS_HISTORY_WEIGHT = 2
ACCOUNT_RATIO_WEIGHT = 20
RECENT_FILLS = 100
HISTORY_FILLS = 1000
# Pages of a back-fill. Without a time fills-history reaches back a week.
MAX_PAGES = 200
SETTLEMENTS = 20
SETTLEMENTS_PAGE = 100
RATIO_PERIOD = "5m"
TOO_MANY = ("429", "40429", "30007")

TRADE = Channel("trade", "agg_trades", 300.0)
BOOKS = Channel("books", "depth", 60.0)
QUOTES = Channel("books1", "quotes", 60.0)
TICKER = Channel("ticker", "funding", 60.0)


class BitgetFutures(Adapter):
    """Bitget USDT-FUTURES.

    The trade stream begins with recent trades, which are duplicates after a reconnect. Ids ascend with gaps. The book carries a checksum
    and, in newer pushes, the number of the push before (see ``mapping.books``).
    """

    venue: ClassVar[str] = VENUE
    author: ClassVar[str] = "bitget"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://ws.bitget.com"
    rest_url: ClassVar[str] = "https://api.bitget.com"
    channels: ClassVar[tuple[Channel, ...]] = (TRADE, BOOKS, QUOTES, TICKER)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "stream"
    consecutive_ids: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = (Limit(20, 1.0), Limit(6000, 60.0))
    heartbeat: ClassVar[Heartbeat | None] = Heartbeat("ping", 25.0)
    # "We highly recommend not to subscribe more than 50 channels on one connection"; at most 10 messages a second.
    max_streams: ClassVar[int] = 50
    send_pause_s: ClassVar[float] = 0.2
    checksum_levels: ClassVar[int] = 25
    kline_page: ClassVar[int] = 1000
    default_symbols: ClassVar[str] = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"

    # --- streams -----------------------------------------------------------------------------------------------------

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        return [
            ConnectionPlan(
                f"public-{number}", f"{base_url}/v2/ws/public", streams,
                [_message("subscribe", part) for part in self.parts(streams, SUBSCRIBE_BATCH)],
            )
            for number, streams in enumerate(self.parts(wanted), 1)
        ]  # fmt: skip

    def resubscribe(self, symbol: str, channel: Channel) -> list[str]:
        return [_message("unsubscribe", [(symbol, channel)]), _message("subscribe", [(symbol, channel)])]

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        if raw == b"pong":
            return ()
        message = json_object(raw)
        if "event" in message:
            if one_of(message, "event", "frame", ("subscribe", "unsubscribe", "error")) == "error":
                raise MappingError("frame", "event", f"the venue refuses: {message.get('code')} {message.get('msg')}")
            return ()
        arg = get(message, "arg", "frame")
        one_of(arg, "instType", "frame", (PRODUCT,))
        stream = f"{text(arg, 'channel', 'frame')}:{text(arg, 'instId', 'frame')}"
        array(message, "data", "frame")
        return (Message(stream, mapping.clock(message, received), message),)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        if channel is BOOKS:
            return [("depth", change) for change in mapping.books(data, market, received)]
        if channel is TRADE:
            return [("agg_trades", record) for record in mapping.trades(data, market.instrument, received)]
        if channel is QUOTES:
            return [("quotes", record) for record in mapping.quotes(data, market.instrument, received)]
        return mapping.ticker(data, market.instrument, received)

    def checksum(self, bids: Sequence[str], asks: Sequence[str]) -> int:
        """Return the signed CRC-32 of the best 25 levels, bids and asks alternating. If one side is shorter, the other continues alone."""
        parts = []
        for index in range(min(self.checksum_levels, max(len(bids), len(asks)))):
            parts += [side[index] for side in (bids, asks) if index < len(side)]
        value = crc32(":".join(parts).encode())
        return value - 2**32 if value >= 2**31 else value

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        code = answer.get("code") if type(answer) is dict else None
        if code == "00000":
            return None
        reason = f"the venue answers {code}: {answer.get('msg')}" if type(answer) is dict else "no answer of the venue's form"
        return reason, SLOW_DOWN_S if str(code) in TOO_MANY else None

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.get("/api/v2/public/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        answer = await rest.get(f"{MARKET_PATH}/contracts", productType=PRODUCT)
        records = valid_rows(VENUE, "contracts", array(answer, "data", "contracts"), lambda row: mapping.instrument_facts(row, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in records}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        answer = await rest.get(f"{MARKET_PATH}/tickers", productType=PRODUCT)
        return dict(valid_rows(VENUE, "tickers", array(answer, "data", "tickers"), mapping.volume))

    async def trades_since(self, rest: Rest, market: Market, since: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return the newest 100 fills, and the pages of fills-history before them (the last week)."""
        good: list[Record] = []
        refused: list[Record | RejectedRow] = []
        for page in range(MAX_PAGES):
            if page == 0:
                answer = await rest.get(f"{MARKET_PATH}/fills", symbol=market.symbol, productType=PRODUCT, limit=RECENT_FILLS)
            else:
                answer = await rest.get(
                    f"{MARKET_PATH}/fills-history", FILLS_HISTORY_WEIGHT, symbol=market.symbol, productType=PRODUCT, limit=HISTORY_FILLS,
                    idLessThan=good[0]["venue_trade_id"],
                )  # fmt: skip
            rows = array(answer, "data", "fills")
            found = map_rows(rows, lambda row: mapping.trade(row, market.instrument, received, backfilled=True))
            refused += [row for row in found if isinstance(row, RejectedRow)]
            # A page without older trades would be requested for ever.
            older = [row for row in found if not isinstance(row, RejectedRow) and (not good or mapping.age(row) < mapping.age(good[0]))]
            if not older:
                break
            good = sorted(older, key=mapping.age) + good
            if good[0]["event_time"] < since:
                return [*refused, *(row for row in good if row["event_time"] >= since)], True
        return [*refused, *good], False

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        answer = await rest.get(
            f"{MARKET_PATH}/candles", symbol=market.symbol, productType=PRODUCT, granularity="5m", startTime=first, endTime=last + 1,
            limit=self.kline_page,
        )  # fmt: skip
        return map_rows(array(answer, "data", "candles"), lambda row: mapping.bar(row, market, received))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return settled rates and the account ratios of the venue's last 5 min steps. The venue serves no past open interest."""
        found: list[tuple[str, Record]] = []
        for page in range(1, MAX_PAGES):
            answer = await rest.get(
                f"{MARKET_PATH}/history-fund-rate", symbol=market.symbol, productType=PRODUCT, pageSize=SETTLEMENTS_PAGE, pageNo=page
            )
            records = mapping.settled(answer, 0, until)
            found += [("funding", record) for record in records]
            if len(records) < SETTLEMENTS_PAGE or records[0]["event_time"] < since:
                break
        answer = await rest.get(f"{MARKET_PATH}/account-long-short", ACCOUNT_RATIO_WEIGHT, symbol=market.symbol, period=RATIO_PERIOD)
        found += [("market_indicators", record) for record in mapping.account_ratios(answer, until)]
        within = (entry for entry in found if since <= entry[1]["event_time"] <= until)
        return sorted(within, key=lambda entry: int(entry[1]["event_time"]))

    def polls(self) -> list[Poll]:
        return [
            Poll("current-fund-rate", "funding", 60.0, True, _schedule),
            Poll("history-fund-rate", "funding", 600.0, False, _settled),
            Poll("account-long-short", "market_indicators", 300.0, False, _account_ratio),
        ]


def _message(op: str, streams: Sequence[tuple[str, Channel]]) -> str:
    arguments = [{"instType": PRODUCT, "channel": channel.name, "instId": symbol} for symbol, channel in streams]
    return orjson.dumps({"op": op, "args": arguments}).decode()


async def _schedule(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    answer = await rest.get(f"{MARKET_PATH}/current-fund-rate", productType=PRODUCT)
    time = time_ms(answer, "requestTime", "current-fund-rate", received)
    rows = array(answer, "data", "current-fund-rate")
    return valid_rows(VENUE, "current-fund-rate", rows, lambda row: mapping.schedule(row, time, received))


async def _settled(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    """Return the new settlements, each once. The first call returns the newest twenty."""
    found = []
    for market in markets:
        answer = await rest.get(f"{MARKET_PATH}/history-fund-rate", symbol=market.symbol, productType=PRODUCT, pageSize=SETTLEMENTS)
        records = mapping.settled(answer, market.memory.get("settled", 0), received)
        if records:
            market.memory["settled"] = records[-1]["event_time"]
        found += [(market.symbol, "funding", record) for record in records]
    return found


async def _account_ratio(rest: Rest, markets: Sequence[Market], received: int) -> list[tuple[str, str, Record]]:
    found = []
    for market in markets:
        answer = await rest.get(f"{MARKET_PATH}/account-long-short", ACCOUNT_RATIO_WEIGHT, symbol=market.symbol, period=RATIO_PERIOD)
        found += [(market.symbol, "market_indicators", record) for record in mapping.account_ratios(answer, received)[-1:]]
    return found

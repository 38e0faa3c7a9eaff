"""How a client of each venue reads it, in a few lines of its own: what to subscribe, what a frame says, and the venue's book rule.

Written from the venues' documents, not from the simulated venue: every reader keeps a book by its venue's sequence rule and counts the gaps.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import orjson


@dataclass
class Reader:
    """What one client heard of one symbol.

    Attributes:
        symbol: The venue's. trades: (id, price, base quantity, taker sold). quotes: (update id or None, bid, bid size, ask, ask size).
        agreed: Quotes that the book confirmed. gaps: breaks of the venue's sequence rule. refused: what the venue would not do.
    """

    symbol: str
    unit: Decimal = Decimal(1)
    trades: list[tuple[Any, Decimal, Decimal, bool]] = field(default_factory=list)
    quotes: list[tuple[Decimal, Decimal, Decimal, Decimal]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    gaps: int = 0
    agreed: int = 0
    garbage: int = 0
    sequence: int | None = None
    synced: bool = False
    bids: dict[Decimal, Decimal] = field(default_factory=dict)
    asks: dict[Decimal, Decimal] = field(default_factory=dict)
    refused: list[Any] = field(default_factory=list)

    def reset(self, bids: list[Any], asks: list[Any]) -> None:
        self.bids, self.asks, self.synced = {}, {}, True
        self.change(bids, asks)

    def change(self, bids: list[Any], asks: list[Any]) -> None:
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for price, size, *_ in levels:
                side[Decimal(price)] = Decimal(size) * self.unit
                if not Decimal(size):
                    del side[Decimal(price)]

    def best(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        bid, ask = max(self.bids), min(self.asks)
        return bid, self.bids[bid], ask, self.asks[ask]

    def quote(self, bid: Any, bid_size: Any, ask: Any, ask_size: Any) -> None:
        self.quotes.append((Decimal(bid), Decimal(bid_size) * self.unit, Decimal(ask), Decimal(ask_size) * self.unit))
        self.agreed += self.synced and bool(self.bids) and self.quotes[-1] == self.best()

    def trade(self, number: Any, price: str, size: str, sell: bool) -> None:
        self.trades.append((number, Decimal(price), Decimal(size) * self.unit, sell))

    def other(self, name: str) -> None:
        self.others[name] = self.others.get(name, 0) + 1

    # --- what differs ---
    path = ""
    ping = ""
    pong: Any = None
    unknown = ""

    def subscribe(self) -> list[str]:
        raise NotImplementedError

    def take(self, text: str) -> None:
        raise NotImplementedError

    async def first_diff(self, rest_url: str) -> None:
        """Fetch a snapshot, where the venue's books want one."""


class BinanceReader(Reader):
    api = "/fapi/v1"
    path = "/public/stream"

    def subscribe(self) -> list[str]:
        names = [f"{self.symbol.lower()}@{name}" for name in ("depth@100ms", "bookTicker", "aggTrade", "markPrice@1s", "forceOrder")]
        return [orjson.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}).decode()]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "stream" not in message:
            self.refused += [message] if "error" in message else []
            return
        name, data = message["stream"].partition("@")[2], message["data"]
        if name == "aggTrade":
            self.trade(data["a"], data["p"], data["q"], data["m"])
        elif name == "bookTicker":
            self.quote(data["b"], data["B"], data["a"], data["A"])
        elif name.startswith("depth"):
            self.diff(data, data.get("pu", data["U"] - 1))
        else:
            self.other(name)

    def diff(self, data: dict[str, Any], previous: int) -> None:
        if self.sequence is None or data["u"] < self.sequence:
            return
        if not self.synced:
            self.gaps += not (data["U"] <= self.sequence + 1 <= data["u"] + 1)
        elif previous != self.sequence:
            self.gaps += 1
        self.synced, self.sequence = True, data["u"]
        self.change(data["b"], data["a"])

    async def first_diff(self, rest_url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{rest_url}{self.api}/depth?symbol={self.symbol}&limit=1000") as answer:
            book = await answer.json()
        self.reset(book["bids"], book["asks"])
        self.sequence, self.synced = book["lastUpdateId"], False


class SpotReader(BinanceReader):
    api = "/api/v3"
    path = "/stream"

    def subscribe(self) -> list[str]:
        names = [f"{self.symbol.lower()}@{name}" for name in ("depth@100ms", "bookTicker", "aggTrade")]
        return [orjson.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}).decode()]


class BybitReader(Reader):
    path = "/v5/public/linear"
    ping, pong = '{"op":"ping"}', {"ret_msg": "pong", "success": True}
    unknown = '{"op":"subscribe","args":["publicTrade.NOPEUSDT"]}'
    ticker: dict[str, str]
    best_quote: dict[str, tuple[str, str]]

    def subscribe(self) -> list[str]:
        self.ticker, self.best_quote = {}, {}
        names = ("orderbook.50", "orderbook.1", "publicTrade", "tickers", "allLiquidation")
        return [orjson.dumps({"op": "subscribe", "args": [f"{name}.{self.symbol}" for name in names]}).decode()]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "topic" not in message:
            self.refused += [] if message["success"] else [message]
            return
        name, data = message["topic"].removesuffix("." + self.symbol), message["data"]
        if name == "publicTrade":
            for row in data:
                self.trade(row["i"], row["p"], row["v"], {"Sell": True, "Buy": False}[row["S"]])
        elif name == "orderbook.1":
            if message["type"] == "snapshot":
                self.best_quote = {}
            for side, levels in (("b", data["b"]), ("a", data["a"])):
                for price, size in levels:
                    if size != "0":
                        self.best_quote[side] = (price, size)
            self.quote(*self.best_quote["b"], *self.best_quote["a"])
        elif name == "orderbook.50":
            if message["type"] == "snapshot":
                self.reset(data["b"], data["a"])
            else:
                self.gaps += data["u"] != (self.sequence or 0) + 1
                self.change(data["b"], data["a"])
            self.sequence = data["u"]
        elif name == "tickers":
            if message["type"] == "snapshot":
                self.ticker = {}
            assert message["type"] == "snapshot" or self.ticker
            self.ticker |= data
            self.other("ticker " + message["type"])
        else:
            self.other(name)


class OkxReader(Reader):
    path = "/ws/v5/public"
    ping, pong = "ping", "pong"
    unknown = '{"op":"subscribe","args":[{"channel":"books","instId":"NOPE-USDT-SWAP"}]}'

    def subscribe(self) -> list[str]:
        self.unit = Decimal("0.01")
        names = ("books", "bbo-tbt", "trades", "mark-price", "funding-rate", "open-interest")
        arguments: list[dict[str, str]] = [{"channel": name, "instId": self.symbol} for name in names]
        arguments += [{"channel": "index-tickers", "instId": "BTC-USDT"}, {"channel": "liquidation-orders", "instType": "SWAP"}]
        return [orjson.dumps({"op": "subscribe", "args": arguments}).decode()]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "event" in message:
            self.refused += [message] if message["event"] == "error" else []
            return
        name = message["arg"]["channel"]
        for row in message["data"]:
            if name == "trades":
                self.trade(int(row["tradeId"]), row["px"], row["sz"], {"sell": True, "buy": False}[row["side"]])
            elif name == "bbo-tbt":
                self.quote(*row["bids"][0][:2], *row["asks"][0][:2])
            elif name == "books":
                if row["prevSeqId"] == -1:
                    self.reset(row["bids"], row["asks"])
                else:
                    self.gaps += row["prevSeqId"] != self.sequence
                    self.change(row["bids"], row["asks"])
                self.sequence = row["seqId"]
            elif name != "liquidation-orders" or row["instId"] == self.symbol:
                self.other(name)


class BitgetReader(Reader):
    path = "/v2/ws/public"
    ping, pong = "ping", "pong"
    unknown = '{"op":"subscribe","args":[{"instType":"USDT-FUTURES","channel":"books","instId":"NOPEUSDT"}]}'

    def subscribe(self) -> list[str]:
        self.texts: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
        names = ("books", "books1", "trade", "ticker")
        arguments = [{"instType": "USDT-FUTURES", "channel": name, "instId": self.symbol} for name in names]
        return [orjson.dumps({"op": "subscribe", "args": arguments}).decode()]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "event" in message:
            self.refused += [message] if message["event"] == "error" else []
            return
        name, action = message["arg"]["channel"], message["action"]
        for row in message["data"]:
            if name == "trade":
                if action == "update":  # the first push is of what was before
                    self.trade(int(row["tradeId"]), row["price"], row["size"], {"sell": True, "buy": False}[row["side"]])
            elif name == "books1":
                self.quote(*row["bids"][0], *row["asks"][0])
            elif name == "books":
                self.book(action, row)
            else:
                self.other(name)

    def book(self, action: str, row: dict[str, Any]) -> None:
        if action == "snapshot":
            self.texts = {"bids": {}, "asks": {}}
            self.reset(row["bids"], row["asks"])
        else:
            self.gaps += row["pseq"] != self.sequence
            self.change(row["bids"], row["asks"])
        self.sequence = row["seq"]
        for name, side in self.texts.items():
            for price, size in row[name]:
                side[price] = size
                if not Decimal(size):
                    del side[price]
        bids = sorted(self.texts["bids"].items(), key=lambda level: -Decimal(level[0]))[:25]
        asks = sorted(self.texts["asks"].items(), key=lambda level: Decimal(level[0]))[:25]
        words = []
        for at in range(max(len(bids), len(asks))):
            words += [f"{side[at][0]}:{side[at][1]}" for side in (bids, asks) if at < len(side)]
        self.gaps += row["checksum"] % (1 << 32) != zlib.crc32(":".join(words).encode())


class HyperliquidReader(Reader):
    path = "/ws"
    ping, pong = '{"method":"ping"}', {"channel": "pong"}
    unknown = '{"method":"subscribe","subscription":{"type":"trades","coin":"NOPE"}}'

    def subscribe(self) -> list[str]:
        self.replayed = False
        kinds = ("l2Book", "bbo", "trades", "activeAssetCtx")
        return [orjson.dumps({"method": "subscribe", "subscription": {"type": kind, "coin": self.symbol}}).decode() for kind in kinds]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        name, data = message["channel"], message.get("data")
        if name == "error":
            self.refused.append(message)
        elif name == "trades":
            if len(data) == 1:  # more of them are of what was before
                row = data[0]
                self.trade(row["tid"], row["px"], row["sz"], {"A": True, "B": False}[row["side"]])
        elif name == "bbo":
            self.quote(*(one[field] for one in data["bbo"] for field in ("px", "sz")))
        elif name == "l2Book":
            self.reset(*([[level["px"], level["sz"]] for level in side] for side in data["levels"]))
        elif name not in ("subscriptionResponse", "pong"):
            self.other(name)


class CoinbaseReader(Reader):
    path = "/"
    unknown = '{"type":"subscribe","product_ids":["NOPE-USD"],"channels":["matches"]}'

    def subscribe(self) -> list[str]:
        return [
            orjson.dumps({"type": "subscribe", "product_ids": [self.symbol], "channels": ["matches", "ticker", "level2_batch"]}).decode()
        ]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        kind = message["type"]
        if kind == "error":
            self.refused.append(message)
        elif kind == "match":
            self.trade(message["trade_id"], message["price"], message["size"], {"buy": True, "sell": False}[message["side"]])
        elif kind == "ticker":
            self.quote(message["best_bid"], message["best_bid_size"], message["best_ask"], message["best_ask_size"])
        elif kind == "snapshot":
            self.reset(message["bids"], message["asks"])
        elif kind == "l2update":
            self.change(*([level[1:] for level in message["changes"] if level[0] == side] for side in ("buy", "sell")))
        elif kind != "subscriptions":
            self.other(kind)


class LighterReader(Reader):
    """States, not trades: ``marks`` of (time ms, mark, index, rate, open interest in quote units, next settlement ms)."""

    path = "/stream"
    ping, pong = '{"type":"ping"}', {"type": "pong"}
    unknown = '{"type":"subscribe","channel":"market_stats/NOPE"}'

    def subscribe(self) -> list[str]:
        self.marks: list[tuple[Any, ...]] = []
        return ['{"type":"subscribe","channel":"market_stats/all"}']

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "error" in message:
            self.refused.append(message)
        elif message["type"].endswith("/market_stats"):
            for number, row in message["market_stats"].items():
                assert str(row["market_id"]) == number
                if row["symbol"] == self.symbol:
                    rate = Decimal(row["current_funding_rate"]) / 100
                    figures = (Decimal(row["mark_price"]), Decimal(row["index_price"]), rate, Decimal(row["open_interest"]))
                    self.marks.append((message["timestamp"], *figures, row["funding_timestamp"] // 3_600_000 * 3_600_000 + 3_600_000))
        elif message["type"] != "pong":
            self.other(message["type"])


class GrvtReader(Reader):
    """States as those of ``LighterReader``; the venue's open interest is in base units."""

    path = "/ws/full"
    unknown = '{"jsonrpc":"2.0","method":"subscribe","params":{"stream":"v1.ticker.s","selectors":["NOPE@500"]},"id":1}'

    def subscribe(self) -> list[str]:
        self.marks: list[tuple[Any, ...]] = []
        params = {"stream": "v1.ticker.s", "selectors": [f"{self.symbol}@500"]}
        return [orjson.dumps({"jsonrpc": "2.0", "method": "subscribe", "params": params, "id": 1}).decode()]

    def take(self, text: str) -> None:
        message = orjson.loads(text)
        if "error" in message:
            self.refused.append(message)
        elif "feed" in message:
            feed = message["feed"]
            self.gaps += self.sequence is not None and int(message["prev_sequence_number"]) != self.sequence
            self.sequence = int(message["sequence_number"])
            mark = Decimal(feed["mark_price"])
            figures = (mark, Decimal(feed["index_price"]), Decimal(feed["funding_rate"]) / 100, Decimal(feed["open_interest"]) * mark)
            self.marks.append((int(feed["event_time"]) // 10**6, *figures, int(feed["next_funding_time"]) // 10**6))


# Venues of which only the state of a contract is followed.
FUNDING_READERS: dict[str, tuple[type[Reader], str]] = {
    "LIGHTER": (LighterReader, "BTC"),
    "GRVT": (GrvtReader, "BTC_USDT_Perp"),
}

READERS: dict[str, tuple[type[Reader], str]] = {
    "BINANCE": (BinanceReader, "BTCUSDT"),
    "BINANCE_SPOT": (SpotReader, "BTCUSDT"),
    "BYBIT": (BybitReader, "BTCUSDT"),
    "OKX": (OkxReader, "BTC-USDT-SWAP"),
    "BITGET": (BitgetReader, "BTCUSDT"),
    "HYPERLIQUID": (HyperliquidReader, "BTC"),
    "COINBASE": (CoinbaseReader, "BTC-USD"),
}

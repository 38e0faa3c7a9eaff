"""The Lighter adapter: funding, mark and index price, open interest and 24 h volume of all perpetuals over one subscription.

Whole-market: one subscription (``market_stats/all``) and orderBookDetails; settled funding is asked market by market.
Trades and books are not followed: this venue is used for its funding (specification W section 15). Sources: the venue's websocket reference
and the models of its public SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import orjson

from producers.lighter import mapping
from producers.lighter.mapping import VENUE
from producers.venue.adapter.base import Adapter, Channel, ConnectionPlan, ContractInfo, Event, MappingError, Market, Message, Poll
from producers.venue.adapter.json_values import get, json_object, text
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.adapter.settlements import new_settlements
from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import SLOW_DOWN_S, Limit, Rest
from schemas.codec.avro import Record

PATH = "/api/v1"
# The venue's code of "too many requests".
TOO_MANY = 23000
STATS = Channel("market_stats", "funding", 60.0, whole_market=True)


class Lighter(Adapter):
    """Lighter perpetuals; symbols are the venue's (``BTC``, ``1000PEPE``).

    The first frame of the subscription has every market, later ones only the changed markets. Settlements are hourly by the venue's
    documentation. The meaning of its only time field varies, so next times are marked as made by a rule.
    """

    venue: ClassVar[str] = VENUE
    author: ClassVar[str] = "lighter"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://mainnet.zklighter.elliot.ai"
    rest_url: ClassVar[str] = "https://mainnet.zklighter.elliot.ai"
    channels: ClassVar[tuple[Channel, ...]] = (STATS,)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "full"
    consecutive_ids: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = (Limit(60, 60.0),)
    # The server closes connections that sent nothing for two minutes, and sends its own pings. This is the reply to them.
    heartbeat: ClassVar[Heartbeat | None] = Heartbeat('{"type":"pong"}', 30.0)
    default_symbols: ClassVar[str] = "BTC,ETH,SOL,XRP"

    def __init__(self) -> None:
        self._symbols: dict[int, str] = {}  # the venue's number of a market -> symbol; older frames have only the number

    # --- streams -----------------------------------------------------------------------------------------------------

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        opening = [orjson.dumps({"type": "subscribe", "channel": "market_stats/all"}).decode()]
        return [ConnectionPlan("stream-1", f"{base_url}/stream", list(wanted), opening)] if wanted else []

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        message = json_object(raw)
        if "error" in message:
            raise MappingError("frame", "error", f"the venue refuses: {message['error']}")
        kind = text(message, "type", "frame")
        if kind in ("connected", "ping", "pong", "shutdown"):
            return ()
        if kind not in ("subscribed/market_stats", "update/market_stats"):
            raise MappingError("frame", "type", f"{kind!r} was not asked for")
        clock = mapping.clock(message, received)
        markets = get(message, "market_stats", "frame")
        if type(markets) is not dict:
            raise MappingError("frame", "market_stats", f"expected an object, got {markets!r}")
        # The stats of one market (channel market_stats:0), or an object of them by number (market_stats:all).
        rows = [markets] if "market_id" in markets else [row for row in markets.values() if type(row) is dict]
        return [Message(f"{STATS.name}:{self._symbol(row)}", clock, (clock, row)) for row in rows if "market_id" in row]

    def _symbol(self, row: dict[str, Any]) -> str:
        symbol, number = row.get("symbol"), row["market_id"]
        if type(symbol) is str and symbol:
            return symbol
        return self._symbols.get(number, f"#{number}") if type(number) is int else f"#{number}"

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        clock, row = data
        return mapping.stats(row, market.instrument, clock, received)

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        if type(answer) is not dict:
            return "no answer of the venue's form", None
        code = answer.get("code", 200)
        if code == 200:
            return None
        return f"the venue answers {code}: {answer.get('message')}", SLOW_DOWN_S if code == TOO_MANY else None

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.get("/"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        rows = mapping.details(await rest.get(f"{PATH}/orderBookDetails"))
        found = valid_rows(VENUE, "orderBookDetails", rows, lambda row: mapping.instrument_facts(row, author))
        self._symbols.update({number: record["symbol"] for record, number in found})
        return {record["symbol"]: ContractInfo(record, {"market_id": number}) for record, number in found}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        return dict(valid_rows(VENUE, "orderBookDetails", mapping.details(await rest.get(f"{PATH}/orderBookDetails")), mapping.volume))

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return the settled rates, hour by hour."""
        hours = mapping.hours_between(since, until)
        if "market_id" not in market.extra or not hours:
            return []
        answer = await rest.get(
            f"{PATH}/fundings", market_id=market.extra["market_id"], resolution="1h",
            start_timestamp=since // 1000, end_timestamp=until // 1000, count_back=hours,
        )  # fmt: skip
        return [("funding", record) for record in mapping.history(answer, since, until)]

    def polls(self) -> list[Poll]:
        # One call a market, and few calls a minute, so that a round leaves room for other requests.
        return [Poll("fundings", "funding", 600.0, False, partial(new_settlements, self), gap_s=1.5)]

    # --- schedule ----------------------------------------------------------------------------------------------------

    def schedule_rule(self) -> Mapping[str, Any] | None:
        """Return the rule of one hour. The venue publishes neither interval nor next time."""
        return mapping.RULE._asdict()

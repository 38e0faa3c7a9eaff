"""The GRVT adapter: funding, mark and index price, open interest, 24 h volume and the ratio of accounts.

Trades and books are not followed: this venue is used for its funding (specification W section 15). The venue has no whole-market call for
tickers. Sources: the venue's market-data documents and the types of its public SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import orjson

from producers.grvt import mapping
from producers.grvt.mapping import NS_PER_MS, VENUE
from producers.venue.adapter.base import Adapter, Channel, ConnectionPlan, ContractInfo, Event, MappingError, Market, Message, Poll
from producers.venue.adapter.json_values import get, json_object, text
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.adapter.settlements import new_settlements
from producers.venue.network.rest import Limit, Rest
from schemas.codec.avro import Record

PATH = "/full/v1"
# Interval of the venue's tickers, ms, changed or not.
TICKER_MS = 500
TICKER = Channel("v1.ticker.s", "funding", 30.0)
SUBSCRIBE_BATCH = 25
SETTLEMENTS = 500


class Grvt(Adapter):
    """GRVT perpetuals; symbols are the venue's instruments (``BTC_USDT_Perp``)."""

    venue: ClassVar[str] = VENUE
    author: ClassVar[str] = "grvt"
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    ws_url: ClassVar[str] = "wss://market-data.grvt.io"
    rest_url: ClassVar[str] = "https://market-data.grvt.io"
    channels: ClassVar[tuple[Channel, ...]] = (TICKER,)
    book_mode: ClassVar[Literal["rest", "stream", "full"]] = "full"
    consecutive_ids: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = (Limit(75, 10.0),)
    max_streams: ClassVar[int] = 100
    default_symbols: ClassVar[str] = "BTC_USDT_Perp,ETH_USDT_Perp,SOL_USDT_Perp,XRP_USDT_Perp"

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        return f"{channel.name}:{symbol}@{TICKER_MS}"

    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        return [
            ConnectionPlan(
                f"full-{number}", f"{base_url}/ws/full", streams,
                [_subscribe(part, index * SUBSCRIBE_BATCH + 1) for index, part in enumerate(self.parts(streams, SUBSCRIBE_BATCH))],
            )
            for number, streams in enumerate(self.parts(wanted), 1)
        ]  # fmt: skip

    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        message = json_object(raw)
        if message.get("error") is not None:
            raise MappingError("frame", "error", f"the venue refuses: {message['error']}")
        if "result" in message or "subs" in message:
            return ()
        stream = f"{text(message, 'stream', 'frame')}:{text(message, 'selector', 'frame')}"
        feed = get(message, "feed", "frame")
        return (Message(stream, mapping.time_of(feed, "event_time", "ticker", received), feed),)

    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        if get(data, "instrument", "ticker") != market.symbol:
            raise MappingError("ticker", "instrument", f"expected {market.symbol}, got {data['instrument']!r}")
        return mapping.ticker(data, market.instrument, received)

    # --- REST --------------------------------------------------------------------------------------------------------

    async def server_time(self, rest: Rest) -> int:
        return mapping.server_time(await rest.get("/time"))

    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        rows = mapping.perpetuals(await rest.post(f"{PATH}/all_instruments", {"is_active": True}))
        found = valid_rows(VENUE, "all_instruments", rows, lambda row: mapping.instrument_facts(row, author))
        return {record["symbol"]: ContractInfo(record, {}) for record in found}

    async def volumes(self, rest: Rest) -> dict[str, float]:
        """Return 24 h volumes. The venue needs one call an instrument."""
        found = {}
        for row in mapping.perpetuals(await rest.post(f"{PATH}/all_instruments", {"is_active": True})):
            symbol = text(row, "instrument", "all_instruments")
            answer = await rest.post(f"{PATH}/ticker", {"instrument": symbol})
            found[symbol] = mapping.volume(get(answer, "result", "ticker"))
        return found

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return the settled rates."""
        asked = {
            "instrument": market.symbol,
            "start_time": str(since * NS_PER_MS),
            "end_time": str(until * NS_PER_MS),
            "limit": SETTLEMENTS,
        }
        records = mapping.settled(await rest.post(f"{PATH}/funding", asked), until)
        return [("funding", record) for record in records if since <= record["event_time"] <= until]

    def polls(self) -> list[Poll]:
        return [Poll("funding", "funding", 600.0, False, partial(new_settlements, self), gap_s=0.25)]

    # --- schedule ----------------------------------------------------------------------------------------------------

    def schedule_rule(self) -> Mapping[str, Any] | None:
        """Return the rule of eight hours, for tickers without a settlement time."""
        return mapping.RULE._asdict()


def _subscribe(streams: Sequence[tuple[str, Channel]], number: int) -> str:
    selectors = [f"{symbol}@{TICKER_MS}" for symbol, _ in streams]
    return orjson.dumps(
        {"jsonrpc": "2.0", "method": "subscribe", "params": {"stream": TICKER.name, "selectors": selectors}, "id": number}
    ).decode()

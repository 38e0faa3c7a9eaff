"""Bybit's and OKX's adapters at the simulated venue of each: what comes out is what the recording holds, by figures computed independently.

The simulated venue speaks the protocol from the venue's documents and knows nothing of the adapters. Golden figures: tests/data/PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from producers.bybit.adapter import BybitLinear
from producers.okx.adapter import OkxSwap
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from producers.venue.adapter.base import Adapter, BookDiff, BookSnapshot, ConnectionPlan, Market
from producers.venue.network.rest import Limiter, Rest
from producers.venue.state.order_book import OrderBook, Outcome
from schemas.codec.avro import Codec, Record
from tests.support.markets.recorded_client import BTC_2024, head

codec = Codec()


class Listener:
    """Hears all plans of one symbol."""

    def __init__(self, adapter: Adapter, market: Market) -> None:
        self.adapter = adapter
        self.market = market
        self.streams = {adapter.wire_name(market.symbol, channel): channel for channel in adapter.channels}
        self.book = OrderBook(mode="stream")
        self.outcomes: Counter[Outcome] = Counter()
        self.records: dict[str, list[Record]] = {"agg_trades": [], "quotes": [], "funding": [], "market_indicators": [], "liquidations": []}

    async def hear(self, plan: ConnectionPlan) -> None:
        async with connect(plan.url, ping_interval=None, max_size=None) as socket:
            for message in plan.opening:
                await socket.send(message)
            try:
                while True:
                    self.take(await socket.recv(decode=False))
            except ConnectionClosed:
                pass

    def take(self, raw: bytes) -> None:
        received = int(time.time() * 1000)
        for part in self.adapter.split(raw, received):
            for topic, said in self.adapter.take(self.streams[part.stream], part.data, self.market, received):
                if isinstance(said, BookSnapshot):
                    self.outcomes[self.book.replace(said)] += 1
                elif isinstance(said, BookDiff):
                    self.outcomes[self.book.diff(said)] += 1
                else:
                    codec.encode(topic, said)
                    self.records[topic].append(said)


def same(left: Any, right: Any) -> bool:
    return {**left, "receive_time": 0, "backfilled": False} == {**right, "receive_time": 0, "backfilled": False}


@pytest.mark.parametrize("adapter", [BybitLinear(), OkxSwap()], ids=lambda adapter: adapter.venue)
def test_a_recording_at_both_venues(adapter: Adapter, tmp_path: Path) -> None:
    path = head(BTC_2024, 12_000, tmp_path / "btcusdt")
    raw = [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()]
    prints = [message.get("data", message) for message in raw]
    trades = [message for message in prints if message.get("e") == "trade"]
    expected = {maker: sum((Decimal(message["q"]) for message in trades if message["m"] is maker), Decimal(0)) for maker in (False, True)}
    heard = asyncio.run(asyncio.wait_for(played(adapter, path), 120))
    assert check_trades(heard) == (len(trades), expected[False], expected[True]) and len(trades) > 1200


@pytest.mark.long
@pytest.mark.parametrize("adapter", [BybitLinear(), OkxSwap()], ids=lambda adapter: adapter.venue)
def test_golden_figures_of_the_2024_capture(adapter: Adapter) -> None:
    heard = asyncio.run(asyncio.wait_for(played(adapter, BTC_2024), 280))
    assert check_trades(heard) == (21313, Decimal("1251.576"), Decimal("1177.790"))
    trades = heard.records["agg_trades"]
    assert (trades[0]["price"], trades[-1]["price"], max(trade["quantity"] for trade in trades)) == (61800.3, 61659.8, 46.0)
    top, quote = heard.book.top(1), heard.records["quotes"][-1]
    assert (top.bid_prices, top.bid_quantities, top.ask_prices, top.ask_quantities) == ([61659.7], [1.486], [61659.8], [0.981])
    assert [quote[f"{side}_{what}"] for side in ("bid", "ask") for what in ("price", "quantity")] == [61659.7, 1.486, 61659.8, 0.981]


def check_trades(heard: Listener) -> tuple[int, Decimal, Decimal]:
    """Return the number of trades and what takers bought and sold, exactly."""
    trades = heard.records["agg_trades"]
    bought, sold = (
        sum((Decimal(str(trade["quantity"])) for trade in trades if trade["buyer_is_maker"] is maker), Decimal(0))
        for maker in (False, True)
    )
    return len(trades), bought, sold


async def played(adapter: Adapter, path: Path) -> Listener:
    """Hear a recording to its end, then ask REST about the same."""
    async with RecordedVenue([Recording(path, "BTCUSDT", "perp")], venue=adapter.venue, speed=None, settle_s=0.05) as serving:
        rest = Rest(adapter.venue, serving.rest_url, Limiter("golden", adapter.limits), refusal=adapter.refusal, attempts=1)
        try:
            return await hear_and_ask(adapter, serving, rest)
        finally:
            await rest.close()


async def hear_and_ask(adapter: Adapter, serving: RecordedVenue, rest: Rest) -> Listener:
    ((symbol, facts),) = (await adapter.facts(rest, "author")).items()
    assert facts.record["base_asset"] == "BTC" and facts.record["tick_size"] == 0.1 and facts.record["step_size"] == 0.001
    assert 0 < await adapter.server_time(rest) < time.time() * 1000
    market = Market(symbol, facts.record["instrument"], facts.record, facts.extra)
    heard = Listener(adapter, market)
    plans = adapter.plans(serving.ws_url, [(symbol, channel) for channel in adapter.channels])
    tasks = {asyncio.create_task(heard.hear(plan)): plan for plan in plans}
    # The recording has no liquidations: a connection that waits for them is not told of its end.
    ending = [task for task, plan in tasks.items() if not all(channel.topic == "liquidations" for _, channel in plan.streams)]
    await asyncio.wait(ending)
    for task in tasks:
        task.cancel()
    for task in ending:
        task.result()

    assert set(heard.outcomes) == {Outcome.APPLIED} and heard.outcomes[Outcome.APPLIED] > 200 and heard.book.epoch == 1
    assert len(heard.records["quotes"]) > 500
    await ask_for_trades(adapter, rest, market, heard.records["agg_trades"])
    return heard


async def ask_for_trades(adapter: Adapter, rest: Rest, market: Market, trades: list[Record]) -> None:
    """REST tells the same trades as the stream."""
    now = int(time.time() * 1000)
    rows: Any
    if adapter.consecutive_ids:
        assert [trade["agg_id"] for trade in trades] == list(range(trades[0]["agg_id"], trades[0]["agg_id"] + len(trades)))
        rows, full = await adapter.trades_from(rest, market, trades[1000]["agg_id"], now)
        assert full and len(rows) == 100 and all(map(same, rows, trades[1000:1100])) and all(row["backfilled"] for row in rows)
        at = trades[1100]["event_time"]
        assert await adapter.first_trade(rest, market, at) == next(trade["agg_id"] for trade in trades if trade["event_time"] >= at)
        rows, full = await adapter.trades_from(rest, market, trades[-1]["agg_id"] + 1, now)
        assert rows == [] and not full
    else:
        since = trades[-500]["event_time"]
        rows, reaches = await adapter.trades_since(rest, market, since, now)
        newer = [trade for trade in trades if trade["event_time"] >= since]
        assert reaches and len(rows) == len(newer) and all(map(same, rows, newer))
        rows, reaches = await adapter.trades_since(rest, market, trades[0]["event_time"], now)
        assert not reaches and len(rows) == 1000

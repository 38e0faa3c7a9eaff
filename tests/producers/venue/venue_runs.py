"""A venue's producer against its simulated venue on real sockets and a real broker: run to the end, and what the run left."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from producers.simulated.market.market import Market
from producers.simulated.venue import RecordedVenue
from producers.venue.adapter.base import Channel
from producers.venue.config import ProducerConfig
from producers.venue.producer import VenueProducer
from producers.venues import adapter_of
from schemas import metrics
from schemas.catalogue import TOPICS
from schemas.codec.avro import Record
from schemas.process.service import Service
from schemas.settings import Settings

VENUES = ("BINANCE", "BINANCE_SPOT", "BYBIT", "OKX", "BITGET", "HYPERLIQUID", "COINBASE")
MARKET = (
    "agg_trades",
    "depth",
    "quotes",
    "funding",
    "liquidations",
    "market_indicators",
    "klines",
    "gaps",
    "instruments",
    "progress",
    "dead_letters",
)
# What a venue does not have: see the adapters.
WITHOUT = {
    "BINANCE_SPOT": {"funding", "liquidations"},
    "BITGET": {"liquidations"},
    "HYPERLIQUID": {"liquidations"},
    "COINBASE": {"depth", "funding", "liquidations"},
}


@dataclass
class Run:
    """What a run left: the log, the simulator's markets, the producer."""

    log: dict[str, list[Record]]
    markets: dict[str, Market]
    producer: VenueProducer
    states: Counter[str]
    reconnects: Counter[str]
    alarm_s: float | None  # seconds from a stream's limit to its alarm, the longest; without the longest pause of a busy machine
    faults: dict[str, int]  # what the simulator did to the streams, by kind
    resyncs: float  # times that the venue itself began a live book anew

    def of(self, topic: str, symbol: str) -> list[Record]:
        return [record for record in self.log[topic] if record["instrument"] == self.producer.feeds.feeds[symbol].instrument]


def read_all(settings: Settings) -> dict[str, list[Record]]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader", "enable.auto.commit": False})
    log: dict[str, list[Record]] = {topic: [] for topic in MARKET}
    left = {}
    for topic in MARKET:
        for partition in range(TOPICS[topic].partition_count(settings.partitions)):
            _, high = consumer.get_watermark_offsets(TopicPartition(settings.topic(topic), partition), timeout=10)
            if high:
                left[topic, partition] = high
    consumer.assign([TopicPartition(settings.topic(topic), partition, 0) for topic, partition in left])
    while left:
        for message in consumer.consume(10_000, timeout=1.0):
            topic, partition = (message.topic() or "").removeprefix(settings.topic_prefix), message.partition() or 0
            log[topic].append(settings.codec.decode(topic, message.value()))
            if (message.offset() or 0) + 1 >= left.get((topic, partition), 0):
                left.pop((topic, partition), None)
    consumer.close()
    return log


def run(settings: Settings, name: str, venue: dict[str, Any], *, limit_s: float = 60, **config: Any) -> Run:
    """Play a venue to its end."""
    states: Counter[str] = Counter()

    beyond: list[float] = []
    pauses: list[float] = []
    before = reconnects(name)
    resyncs = metrics.BOOK_RESYNCS.labels(adapter_of(name).venue, "venue")
    resyncs_before = resyncs._value.get()

    async def work() -> tuple[VenueProducer, RecordedVenue]:
        async with RecordedVenue(**{"recordings": [], "venue": name, "settle_s": 0.1, **venue}) as simulated:
            chosen = ProducerConfig(
                **{"symbols": "all", "ws_url": simulated.ws_url, "rest_url": simulated.rest_url, "poll_recorded": True, **config}
            )
            adapter = adapter_of(name, depth_speed="0ms" if name == "BINANCE" and simulated.playbacks else "100ms")
            with Service("produce-test") as service:
                producer = VenueProducer(adapter, chosen, settings, service)
                running = asyncio.create_task(producer.run())
                seen: set[str] = set()
                while not running.done():
                    looked = time.monotonic()
                    await asyncio.sleep(0.05)
                    pauses.append(time.monotonic() - looked - 0.05)
                    if hasattr(producer, "feeds"):
                        states.update({state.value for _, state in producer.feeds.states()})
                        now = time.monotonic()
                        alarmed = {
                            stream.name: now - stream.seen - (stream.channel.silence_s or 0.0)
                            for stream in producer.feeds.streams.values()
                            if stream.silent
                        }
                        beyond.extend(late for stream, late in alarmed.items() if stream not in seen)
                        seen = set(alarmed)
                assert await running
                return producer, simulated

    producer, simulated = asyncio.run(asyncio.wait_for(work(), limit_s))
    return Run(
        read_all(settings), simulated.markets, producer, states, reconnects(name) - before, max(beyond) - max(pauses) if beyond else None,
        dict(simulated.plan.applied), resyncs._value.get() - resyncs_before,
    )  # fmt: skip


def reconnects(name: str) -> Counter[str]:
    """Return the counts of the metric by reason."""
    venue = adapter_of(name).venue
    samples = next(iter(metrics.RECONNECTS.collect())).samples
    return Counter(
        {one.labels["reason"]: int(one.value) for one in samples if one.labels["venue"] == venue and one.name.endswith("_total")}
    )


def made(market: Market) -> list[tuple[float, float, bool, int]]:
    """Return all trades that the venue had, as (price, quantity, taker sold, time)."""
    return [(float(one.price), float(one.quantity), one.sell, one.time) for one in market.history.page(0, None, None, 10**9)]


def written(records: list[Record]) -> list[tuple[float, float, bool, int]]:
    return [(one["price"], one["quantity"], one["buyer_is_maker"], one["event_time"]) for one in records]


def turnover(market: Market) -> float:
    """Return what the venue says was traded in 24 h, in quote units."""
    day = market.statistics.day()
    assert day is not None
    return day.quote


def check_trades(found: Run, symbol: str) -> None:
    """Every trade since the first one written is there, once, in the venue's order of ids."""
    records = found.of("agg_trades", symbol)
    ids = [record["agg_id"] for record in records]
    assert len(set(ids)) == len(ids)
    truth, ours = made(found.markets[symbol]), sorted(written(records), key=lambda one: one[3])
    # What came before the producer is history; from its first trade on nothing is missing.
    assert ours and Counter(ours) == Counter(truth[-len(ours) :])


def shorten(monkeypatch: pytest.MonkeyPatch, name: str, limit_s: float, topic: str = "quotes") -> None:
    """Make the silence limit of a topic's stream a short one: the real ones are seconds to minutes."""
    adapter = type(adapter_of(name))
    module = import_module(adapter.__module__)
    short = tuple(channel._replace(silence_s=limit_s) if channel.topic == topic else channel for channel in adapter.channels)
    chosen = next(channel for channel in short if channel.topic == topic)
    monkeypatch.setattr(adapter, "channels", short)
    monkeypatch.setattr("producers.venue.producer.WATCH_S", 0.1)
    for constant, value in list(vars(module).items()):
        if isinstance(value, Channel) and value.topic == topic:
            monkeypatch.setattr(module, constant, chosen)
    if name == "BINANCE":
        monkeypatch.setitem(module.ROUTES, chosen, "public")

"""Every venue end to end: its simulated protocol on real sockets, its adapter, the shared producer, a real broker.

The simulator and the adapters were written from the venues' documents apart from each other; what the simulator's markets hold is the truth.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise, repeat
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from recorded_client import BTC_2024, head

from producers.recorded.generated import Making
from producers.recorded.market import Market
from producers.recorded.recording import Recording
from producers.recorded.venue import RecordedVenue
from producers.venue.adapter import Channel
from producers.venue.config import ProducerConfig
from producers.venue.producer import VenueProducer
from producers.venues import adapter_of
from schemas import metrics
from schemas.catalogue import TOPICS
from schemas.codec import Record
from schemas.service import Service
from schemas.settings import Settings

pytestmark = pytest.mark.stack

VENUES = ("BINANCE", "BINANCE_SPOT", "BYBIT", "OKX", "BITGET", "HYPERLIQUID", "COINBASE")
MARKET = (
    "agg_trades",
    "depth",
    "quotes",
    "funding",
    "liquidations",
    "market_indicators",
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
    stale_after: float | None  # seconds from a stream's last message to the alarm, the longest

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

    stale: list[float] = []
    before = reconnects(name)

    async def work() -> tuple[VenueProducer, dict[str, Market]]:
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
                    await asyncio.sleep(0.05)
                    if hasattr(producer, "feeds"):
                        states.update({state.value for _, state in producer.feeds.states()})
                        alarmed = {
                            stream.name: time.monotonic() - stream.seen for stream in producer.feeds.streams.values() if stream.silent
                        }
                        stale.extend(age for stream, age in alarmed.items() if stream not in seen)
                        seen.update(alarmed)
                assert await running
                return producer, simulated.markets

    producer, markets = asyncio.run(asyncio.wait_for(work(), limit_s))
    return Run(read_all(settings), markets, producer, states, reconnects(name) - before, max(stale, default=None))


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


@pytest.mark.parametrize("name", VENUES)
def test_every_stream_of_a_venue_reaches_its_topic(environment: Settings, topics: list[str], name: str) -> None:
    found = run(environment, name, {"generated": Making(3, 2000.0, 5000)})
    log = found.log
    assert not log["dead_letters"] and not log["gaps"]
    assert "live" in found.states and not {"stale", "invalid"} & set(found.states)
    without = WITHOUT.get(name, set())
    assert len(found.markets) == 3
    for symbol, market in found.markets.items():
        check_trades(found, symbol)
        for topic in ("depth", "quotes", "funding", "liquidations"):
            records = found.of(topic, symbol)
            assert bool(records) is (topic not in without) or topic == "liquidations", topic
            assert all(record["receive_time"] >= record["event_time"] - 1000 for record in records)
        assert market.quote is not None
        best = tuple(float(market.quote[field]) for field in ("b", "B", "a", "A"))
        last = found.of("quotes", symbol)[-1]
        if name != "COINBASE":  # whose quotes come with trades
            assert (last["bid_price"], last["bid_quantity"], last["ask_price"], last["ask_quantity"]) == pytest.approx(best)
        assert last["bid_price"] < last["ask_price"]
        if "depth" not in without:
            book = found.of("depth", symbol)
            assert {record["state"] for record in book} == {"live"} and {record["epoch"] for record in book} == {1}
            for record in book:
                assert record["bid_prices"] == sorted(record["bid_prices"], reverse=True)
                assert record["ask_prices"] == sorted(record["ask_prices"])
                assert record["bid_prices"][0] < record["ask_prices"][0]
        if "funding" not in without:
            newest = [record for record in found.of("funding", symbol) if record["mark_price"] is not None][-1]
            assert market.mark is not None and newest["mark_price"] == pytest.approx(float(market.mark["p"]), rel=1e-3)
            schedule = [record for record in found.of("funding", symbol) if record["next_funding_time"] is not None]
            assert schedule and all(record["next_funding_time"] > record["event_time"] for record in schedule)
            assert {record["interval_hours"] for record in schedule} <= {1, 2, 4, 8}
    # Asked for symbol by symbol: a short run may end before all had their turn.
    assert "funding" in without or any(record["settled_rate"] is not None for record in log["funding"])
    assert name in ("COINBASE", "BINANCE_SPOT") or "open_interest" in {record["indicator"] for record in log["market_indicators"]}
    sides = Counter(record["side"] for record in log["liquidations"])
    assert "liquidations" in without or set(sides) == {"LONG", "SHORT"}
    facts = {record["instrument"]: record for record in log["instruments"]}
    assert len(facts) == 3 and all(record["recorded"] or record["venue"] for record in facts.values())
    # The marks say that all of it is there.
    marks = [mark for mark in log["progress"] if mark["author"] == found.producer.author]
    assert marks and max(mark["event_time"] for mark in marks) >= max(record["event_time"] for record in log["agg_trades"])


@pytest.mark.parametrize("name", [name for name in VENUES if name != "COINBASE"])
def test_the_recorded_book_in_every_protocol(environment: Settings, topics: list[str], tmp_path: Any, name: str) -> None:
    """Diffs and best quotes are two streams of the recording: the book rebuilt from one ends where the other says."""
    recording = Recording(head(BTC_2024, 9_000, tmp_path / "btcusdt"), "BTCUSDT", "spot" if name == "BINANCE_SPOT" else "perp")
    found = run(environment, name, {"recordings": [recording], "speed": None}, streams="agg_trades,depth,quotes", poll_recorded=False)
    (symbol,) = found.markets
    assert not found.log["dead_letters"] and not found.log["gaps"]
    check_trades(found, symbol)
    quotes, books = found.of("quotes", symbol), found.of("depth", symbol)
    assert len(books) > 50 and len(quotes) > 100
    by_price = {(quote["bid_price"], quote["ask_price"]) for quote in quotes}
    # The streams are cut at different moments; nearly every best price of the book was once the best quote.
    agree = sum((book["bid_prices"][0], book["ask_prices"][0]) in by_price for book in books)
    assert agree >= 0.95 * len(books)


# Faults by what a stream carries; ``at`` counts messages of each symbol's stream.
def menu(gaps: int, cuts: int, garbage: int, silence: int) -> list[str]:
    found = [f"gap:stream=trades,at={60 + 40 * number},n=5" for number in range(gaps)]
    found += [f"gap:stream=depth,at={50 + 45 * number},n=3" for number in range(gaps)]
    found += [f"cut:after=900,times={cuts}"]
    found += [f"garbage:mode=insert,at={30 + 11 * number},n=1" for number in range(garbage)]
    found += [f"duplicate:stream=trades,at={45 + 60 * number},n=2" for number in range(gaps)]
    found += [f"silence:stream=quotes,at={40},n={silence}"]
    return found


def check_faults(found: Run, name: str) -> None:
    """No wrong book, every trade that the venue still serves, every hole told."""
    log = found.log
    without = WITHOUT.get(name, set())
    adapter = found.producer.adapter
    assert log["dead_letters"] and all(letter["value"] and letter["reason"] for letter in log["dead_letters"])
    for symbol in found.markets:
        records = found.of("agg_trades", symbol)
        ids = [record["agg_id"] for record in records]
        assert len(set(ids)) == len(ids), "doubled"
        if adapter.consecutive_ids:
            assert sorted(ids) == list(range(min(ids), max(ids) + 1)), "lost"
            check_trades(found, symbol)
        if "depth" not in without:
            books = found.of("depth", symbol)
            epochs = [record["epoch"] for record in books]
            assert epochs == sorted(epochs)
            for before, after in pairwise(books):
                if after["epoch"] != before["epoch"] and adapter.book_mode != "full":
                    assert before["state"] == "invalid"  # nothing live between the break and the new epoch
            for record in books:
                if record["state"] == "live":
                    assert record["bid_prices"][0] < record["ask_prices"][0]
    gaps = Counter((gap["stream"], gap["kind"]) for gap in log["gaps"])
    if adapter.consecutive_ids:
        assert gaps["agg_trades", "id_gap"] > 0
    if "depth" not in without and adapter.book_mode != "full":
        assert gaps["depth", "sequence_gap"] + gaps["depth", "checksum"] > 0
    assert any(kind == "disconnect" for _, kind in gaps)
    if adapter.consecutive_ids:
        holes = [gap for gap in log["gaps"] if gap["stream"] == "agg_trades"]
        mended = {(gap["instrument"], gap["from_id"], gap["to_id"]) for gap in holes if gap["repaired"]}
        # What was mended only later was noted as open first, and as mended then.
        assert {(gap["instrument"], gap["from_id"], gap["to_id"]) for gap in holes} == mended


@pytest.mark.parametrize("name", VENUES)
def test_faults_of_every_venue(environment: Settings, topics: list[str], name: str) -> None:
    started = time.monotonic()
    making = Making(2, 1500.0, 6000)
    found = run(environment, name, {"generated": making, "faults": menu(4, 2, 25, 200)}, rest_hold_s=2.0)
    check_faults(found, name)
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "OKX", "COINBASE"])
def test_rotation_under_load_loses_and_doubles_nothing(environment: Settings, topics: list[str], name: str) -> None:
    found = run(environment, name, {"generated": Making(2, 2500.0, 9000)}, rotate_after_s=0.8, overlap_s=0.3, poll_recorded=False)
    assert sum(found.reconnects.values()) >= 2 and set(found.reconnects) == {"rotation"}
    assert not found.log["dead_letters"] and not found.log["gaps"]
    for symbol in found.markets:
        check_trades(found, symbol)
        times = [quote["event_time"] for quote in found.of("quotes", symbol)]
        assert times == sorted(times)
        books = [record for record in found.of("depth", symbol)]
        assert {record["state"] for record in books} <= {"live"}
        ids = [(record["epoch"], record["last_update_id"]) for record in books]
        assert len(set(ids)) == len(ids)


def test_a_named_contract_that_is_delisted_is_closed_and_the_others_go_on(environment: Settings, topics: list[str]) -> None:
    """Bybit leaves it out of its list: the name that the user gave is no error then."""
    options = {"generated": Making(2, 600.0, 2400), "faults": ["delist=ETHUSDT@1"]}
    found = run(environment, "BYBIT", options, symbols="BTCUSDT,ETHUSDT", refresh_s=0.3, poll_recorded=False)
    assert [record["status"] for record in found.log["instruments"] if record["symbol"] == "ETHUSDT"] == ["trading", "closed"]
    assert [record["status"] for record in found.log["instruments"] if record["symbol"] == "BTCUSDT"] == ["trading"]
    check_trades(found, "BTCUSDT")


def test_listings_and_delistings_are_followed_without_a_restart(environment: Settings, topics: list[str]) -> None:
    faults = ["list=NEWUSDT@1", "delist=SOLUSDT@2"]
    found = run(environment, "BYBIT", {"generated": Making(3, 800.0, 4800), "faults": faults}, refresh_s=0.4, poll_recorded=False)
    states: dict[str, list[str]] = {}
    for record in found.log["instruments"]:
        states.setdefault(record["symbol"], []).append(record["status"])
    assert states["SOLUSDT"] == ["trading", "closed"] and states["NEWUSDT"][0] == "trading"
    assert set(states) == {"BTCUSDT", "ETHUSDT", "SOLUSDT", "NEWUSDT"}
    news = [record for record in found.log["agg_trades"] if record["instrument"] == "BYBIT:NEWUSDT-PERP"]
    check_trades(found, "NEWUSDT")
    assert len(news) > 10 and not found.log["dead_letters"]
    assert "closed" in found.states and "stale" not in found.states  # a contract that is gone is not silent
    partitions = {mark["cut"].get("agg_trades") is not None for mark in found.log["progress"]}
    assert partitions == {True}


def test_the_busiest_are_chosen(environment: Settings, topics: list[str]) -> None:
    found = run(environment, "OKX", {"generated": Making(6, 600.0, 900)}, symbols="top:2", poll_recorded=False)
    volumes = {symbol: turnover(market) for symbol, market in found.markets.items()}
    busiest = sorted(volumes, key=lambda symbol: -volumes[symbol])[:2]
    assert {record["symbol"] for record in found.log["instruments"]} == set(busiest)


def test_a_producer_that_is_behind_thins_out_books_and_quotes_and_nothing_else(environment: Settings, topics: list[str]) -> None:
    before = metrics.CONFLATED.labels("BYBIT", "quotes")._value.get()
    found = run(environment, "BYBIT", {"generated": Making(1, 1500.0, 4500)}, conflate_after_s=0.0001, poll_recorded=False)
    (symbol,) = found.markets
    check_trades(found, symbol)
    quotes, books = found.of("quotes", symbol), found.of("depth", symbol)
    assert 4 < len(quotes) < 60 and 4 < len(books) < 60  # three seconds, four a second, and what was not behind
    assert found.producer.feeds.thinned > 300
    assert metrics.CONFLATED.labels("BYBIT", "quotes")._value.get() - before > 300


def shorten(monkeypatch: pytest.MonkeyPatch, name: str, limit_s: float) -> None:
    """Make the silence limit of quotes a short one: the real ones are seconds to minutes."""
    adapter = type(adapter_of(name))
    module = import_module(adapter.__module__)
    short = tuple(channel._replace(silence_s=limit_s) if channel.topic == "quotes" else channel for channel in adapter.channels)
    quotes = next(channel for channel in short if channel.topic == "quotes")
    monkeypatch.setattr(adapter, "channels", short)
    monkeypatch.setattr("producers.venue.producer.WATCH_S", 0.1)
    for constant, value in list(vars(module).items()):
        if isinstance(value, Channel) and value.topic == "quotes":
            monkeypatch.setattr(module, constant, quotes)
    if name == "BINANCE":
        monkeypatch.setitem(module.ROUTES, quotes, "public")


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "HYPERLIQUID"])
def test_a_silent_stream_is_alarmed_within_its_limit(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The moment of the alarm is measured."""
    shorten(monkeypatch, name, 0.6)
    faults = ["silence:stream=quotes,at=60,n=300"]
    found = run(environment, name, {"generated": Making(1, 1000.0, 6000), "faults": faults}, poll_recorded=False)
    assert "stale" in found.states and found.stale_after is not None
    assert found.stale_after < 0.6 + 0.6  # its limit, a round of the watch, and what a busy machine adds
    assert any(gap["stream"] == "quotes" and gap["kind"] == "silence" and not gap["certain"] for gap in found.log["gaps"])


@pytest.mark.long
@pytest.mark.parametrize("name", VENUES)
def test_two_hundred_gaps_fifty_disconnects_twenty_silences_a_thousand_broken_frames(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shorten(monkeypatch, name, 0.4)
    # Fifty outages in minutes would else be waited for for half an hour.
    monkeypatch.setattr("producers.venue.connection.backoff_delays", lambda *_: repeat(0.3))
    faults = [f"gap:stream=trades,symbol={{symbol}},at={60 + 70 * number},n=5" for number in range(100)]
    faults += [f"gap:stream=depth,at={50 + 100 * number},n=3" for number in range(50)]
    faults += [f"garbage:mode=insert,at={30 + 17 * number},n=1" for number in range(330)]
    faults += [f"silence:stream=quotes,at={100 + 400 * number},n=200" for number in range(10)]
    faults += ["cut:after=650,times=60"]
    symbols = list(run_symbols(name))
    plan = [fault.format(symbol=symbol) for fault in faults for symbol in (symbols if "{symbol}" in fault else [""])]
    found = run(
        environment, name, {"generated": Making(2, 1200.0, 90_000), "faults": plan}, limit_s=590, rest_hold_s=2.0, poll_recorded=False
    )
    check_faults(found, name)
    gaps = Counter((gap["stream"], gap["kind"]) for gap in found.log["gaps"])
    print(name, dict(gaps), dict(found.reconnects), len(found.log["dead_letters"]), found.producer.numbers())
    assert sum(found.reconnects.values()) >= 50
    assert len(found.log["dead_letters"]) >= 900  # a thousand were sent, some into a broken connection
    if adapter_of(name).consecutive_ids:
        assert gaps["agg_trades", "id_gap"] >= 150  # a disconnect swallows some
    assert found.stale_after is not None and found.stale_after < 0.4 + 0.6
    # Nothing is left behind in memory.
    producer = found.producer
    assert producer.pipeline.sequencer.held == 0 and producer.out.idle and not producer.holes._tasks
    for feed in producer.feeds.feeds.values():
        assert len(feed.recent) <= 10_000 and not feed.ids.missing and feed.snapshot is None


def run_symbols(name: str) -> list[str]:
    """Return the symbols of a venue's first two made-up markets."""

    async def ask() -> list[str]:
        async with RecordedVenue([], venue=name, generated=Making(2, 1.0)) as venue:
            return list(venue.markets)

    return asyncio.run(ask())


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "OKX", "BITGET"])
def test_a_cold_start_with_history(environment: Settings, topics: list[str], name: str) -> None:
    found = run(environment, name, {"generated": Making(2, 800.0, 1600)}, history_hours=6.0, poll_recorded=False)
    assert not found.log["dead_letters"]
    for symbol, market in found.markets.items():
        records = found.of("agg_trades", symbol)
        assert Counter(written(records)) == Counter(made(market))  # all that the venue ever had
        past = [record for record in records if record["backfilled"]]
        assert len(past) >= 50 and min(record["event_time"] for record in past) < min(
            record["event_time"] for record in records if not record["backfilled"]
        )
        assert [record["agg_id"] for record in records] == sorted(record["agg_id"] for record in records)
        settled = [record for record in found.of("funding", symbol) if record["settled_rate"] is not None]
        assert settled and all(record["event_time"] % 3_600_000 < 60_000 for record in settled)  # on the hour, as the venues settle


@pytest.mark.parametrize("name", ["BYBIT", "OKX"])
def test_a_producer_that_died_goes_on_where_the_log_ends(environment: Settings, topics: list[str], name: str) -> None:
    """What was sent while it was away comes over REST, what is in the log already is not written again."""

    async def work() -> dict[str, Market]:
        async with RecordedVenue([], venue=name, generated=Making(2, 700.0, 5600), settle_s=0.1) as simulated:
            chosen = ProducerConfig(symbols="all", ws_url=simulated.ws_url, rest_url=simulated.rest_url)
            for life in range(3):
                with Service("produce-test") as service:
                    producer = VenueProducer(adapter_of(name), chosen, environment, service)
                    running = asyncio.create_task(producer.run())
                    done, _ = await asyncio.wait({running}, timeout=2.0 if life < 2 else 40)
                    if not done:
                        running.cancel()  # records of open steps are lost with it, as after kill -9
                        await asyncio.gather(running, return_exceptions=True)
            assert running.done() and running.result()
            return simulated.markets

    markets = asyncio.run(asyncio.wait_for(work(), 90))
    log = read_all(environment)
    assert not log["dead_letters"]
    for symbol, market in markets.items():
        records = [record for record in log["agg_trades"] if record["instrument"].split(":")[1].startswith(symbol)]
        ids = [record["agg_id"] for record in records]
        assert len(set(ids)) == len(ids)
        ours, truth = Counter(written(records)), made(market)
        first = min(record["event_time"] for record in records)
        lost = Counter(one for one in truth if one[3] > first) - ours
        assert not lost and not ours - Counter(truth), (lost, ours - Counter(truth))
    assert any(record["backfilled"] for record in log["agg_trades"])

"""The producer between the recorded venue and a real broker: golden figures, the same log at any speed, faults, kill -9."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition

from producers.binance.adapter import BinanceUsdm
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from producers.venue.adapter.base import BookSnapshot
from producers.venue.config import ProducerConfig
from producers.venue.contracts import ConfigurationError
from producers.venue.producer import VenueProducer
from producers.venue.state.feed import ConnectionState
from producers.venue.streams import feeds as feeds_module
from schemas.catalogue import TOPICS
from schemas.codec.avro import Record
from schemas.process.service import Service
from schemas.settings import Settings
from tests.support.markets.recorded_client import BTC_2023, BTC_2024, LTC, head

pytestmark = pytest.mark.stack

ALL = "agg_trades,depth,quotes,funding,liquidations"
GRID, LATENESS, STEP = 15_000, 250, 250
MARKET = ("agg_trades", "depth", "quotes", "funding", "liquidations", "gaps", "instruments")


@dataclass
class Log:
    """Everything in the topics: topic -> partition -> records in order of their offsets."""

    records: dict[str, dict[int, list[Record]]] = field(default_factory=dict)
    stamps_fit: bool = True

    def all(self, topic: str) -> list[Record]:
        return [record for partition in sorted(self.records.get(topic, {})) for record in self.records[topic][partition]]


def read_log(settings: Settings) -> Log:
    """Read all topics of an environment to their ends."""
    log = Log()
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
    )
    left: dict[tuple[str, int], int] = {}
    for name in (*MARKET, "progress", "dead_letters"):
        for partition in range(TOPICS[name].partition_count(settings.partitions)):
            _, high = consumer.get_watermark_offsets(TopicPartition(settings.topic(name), partition), timeout=10)
            if high:
                left[name, partition] = high
    consumer.assign([TopicPartition(settings.topic(name), partition, 0) for name, partition in left])
    while left:
        for message in consumer.consume(10_000, timeout=1.0):
            assert message.error() is None
            name, partition = message.topic().removeprefix(settings.topic_prefix), message.partition()
            record = settings.codec.decode(name, message.value())
            kept = log.records.setdefault(name, {}).setdefault(partition, [])
            assert message.offset() == len(kept)  # no transaction markers, nothing compacted
            kept.append(record)
            key = record.get("instrument") if name in MARKET else record.get("author", record.get("source"))
            log.stamps_fit &= message.timestamp()[1] == record["event_time"] and message.key().decode() == key
            if message.offset() + 1 >= left.get((name, partition), 0):
                left.pop((name, partition), None)
    consumer.close()
    return log


def without_receive_time(log: Log, topics: Iterable[str]) -> dict[str, Any]:
    return {
        topic: {
            partition: [{name: value for name, value in record.items() if name != "receive_time"} for record in records]
            for partition, records in log.records.get(topic, {}).items()
        }
        for topic in topics
    }


def without_cut(log: Log) -> dict[int, list[Record]]:
    """Return the marks without their wall clock and without how far beyond their time the records before them reach."""
    return {
        partition: [{name: value for name, value in mark.items() if name not in ("receive_time", "cut")} for mark in marks]
        for partition, marks in log.records["progress"].items()
    }


def counted_at(log: Log) -> dict[tuple[int, int, str], list[int]]:
    """Return what each instant is decided on: (partition, mark, topic) -> places of the records before its cut that are not after it."""
    found = {}
    for partition, marks in log.records["progress"].items():
        for mark in marks:
            instant = mark["event_time"] - LATENESS
            if instant % GRID == 0:
                for topic, cut in mark["cut"].items():
                    records = log.records.get(topic, {}).get(partition, [])[:cut]
                    found[partition, instant, topic] = [at for at, record in enumerate(records) if record["event_time"] <= instant]
    return found


def check_marks(log: Log, author: str = "binance-usdm") -> None:
    """Marks grow, are whole steps, leave no instant out, and their cuts grow and end at the end."""
    for partition, every in log.records["progress"].items():
        marks = [mark for mark in every if mark["author"] == author]
        times = [mark["event_time"] for mark in marks]
        assert times == sorted(set(times)) and all(time % STEP == 0 for time in times)
        instants = [time for time in times if (time - LATENESS) % GRID == 0]
        assert instants == list(range(instants[0], times[-1] + 1, GRID))
        assert (times[-1] - LATENESS) % GRID == 0
        for before, after in itertools.pairwise(marks):
            assert all(after["cut"][topic] >= offset for topic, offset in before["cut"].items())
        topics = marks[-1]["cut"]
        assert {"agg_trades", "gaps", "instruments"} <= set(topics)
        assert topics == {topic: len(log.records.get(topic, {}).get(partition, [])) for topic in topics}


def config(venue: RecordedVenue, symbols: str, streams: str = ALL, **more: Any) -> ProducerConfig:
    return ProducerConfig(
        symbols=symbols, streams=streams, ws_url=venue.ws_url, rest_url=venue.rest_url, depth_speed="0ms", ban_wait_s=0.5, **more
    )


def produce(settings: Settings, recordings: list[Recording], streams: str = ALL, **venue_options: Any) -> VenueProducer:
    """Run the venue and the producer to the end of the recordings in this process."""

    async def work() -> VenueProducer:
        options = {"speed": None, "settle_s": 0.05, **venue_options}
        async with RecordedVenue(recordings, **options) as venue:
            with Service("produce-test") as service:
                producer = VenueProducer(
                    BinanceUsdm("0ms"), config(venue, ",".join(one.symbol for one in recordings), streams), settings, service
                )
                assert await producer.run()
                return producer

    return asyncio.run(asyncio.wait_for(work(), 200))


@pytest.fixture
def slice_of_btc(tmp_path: Path) -> Path:
    return head(BTC_2024, 12_000, tmp_path / "btcusdt")


def test_golden_figures_out_of_the_topics(environment: Settings, topics: list[str]) -> None:
    producer = produce(environment, [Recording(BTC_2024, "BTCUSDT")])
    log = read_log(environment)
    partition = environment.partition_of("BTC")
    assert all(set(partitions) == {partition} for topic, partitions in log.records.items() if topic != "dead_letters")
    assert log.stamps_fit
    trades = log.all("agg_trades")
    assert [trade["agg_id"] for trade in trades] == list(range(1, len(trades) + 1))
    assert sum(trade["last_trade_id"] - trade["first_trade_id"] + 1 for trade in trades) == 21_313
    sums = {True: Decimal(0), False: Decimal(0)}
    for trade in trades:
        sums[trade["buyer_is_maker"]] += Decimal(repr(trade["quantity"]))
    assert (sums[False], sums[True]) == (Decimal("1251.576"), Decimal("1177.790"))
    book = log.all("depth")
    assert {record["state"] for record in book} == {"live"} and {record["epoch"] for record in book} == {1}
    last, quote = book[-1], log.all("quotes")[-1]
    assert len(book) == 6547 and len(last["bid_prices"]) == 20
    top = (last["bid_prices"][0], last["bid_quantities"][0], last["ask_prices"][0], last["ask_quantities"][0])
    assert top == (61659.7, 1.486, 61659.8, 0.981)
    assert top == (quote["bid_price"], quote["bid_quantity"], quote["ask_price"], quote["ask_quantity"])
    assert len(log.all("quotes")) == 66_089
    assert log.all("gaps") == [] and log.all("dead_letters") == []
    (instrument,) = log.all("instruments")
    assert (instrument["instrument"], instrument["recorded"], instrument["author"]) == ("BINANCE:BTCUSDT-PERP", True, "binance-usdm")
    assert (instrument["price_decimals"], instrument["quantity_decimals"]) == (1, 3)
    market = [record for topic in MARKET for record in log.all(topic)]
    assert instrument["event_time"] <= min(record["event_time"] for record in market)
    check_marks(log)
    marks = log.all("progress")
    assert marks[-1]["event_time"] == 1723161615000 + LATENESS  # the grid instant after the last clock, 1723161601105
    # In this capture a trade's event time is at most 99 ms after its trade time.
    for mark in marks:
        cut = mark["cut"]["agg_trades"]
        assert all(trade["event_time"] > mark["event_time"] - 100 for trade in trades[cut : cut + 50])
    assert producer.numbers()["records"] == len(market)


def test_funding_and_a_book_without_a_recorded_snapshot(environment: Settings, topics: list[str], tmp_path: Path) -> None:
    produce(environment, [Recording(head(BTC_2023, 6000, tmp_path / "btcusdt"), "BTCUSDT", funding_interval_hours=8)])
    log = read_log(environment)
    funding = log.all("funding")
    assert len(funding) > 30
    first = funding[0]
    assert (first["mark_price"], first["index_price"], first["estimated_rate"], first["interval_hours"]) == (
        28155.1,
        28165.04857143,
        0.0000276,
        8,
    )
    # The message is of 10 ms past midnight and still names midnight: a time that has passed is moved on by the interval.
    assert first["next_funding_time"] == 1680652800000 + 8 * 3_600_000 and first["settled_rate"] is None
    assert log.all("depth") and log.all("gaps") == []
    check_marks(log)


def test_the_same_streams_and_decisions_at_two_speeds(
    environment: Settings, topics: list[str], slice_of_btc: Path, stack: Any, request: pytest.FixtureRequest
) -> None:
    from deploy.stack.topics import create_topics, delete_topics

    other = environment.model_copy(update={"topic_prefix": f"{environment.topic_prefix}slow."})
    create_topics(other)
    try:
        produce(environment, [Recording(slice_of_btc, "BTCUSDT")])
        produce(other, [Recording(slice_of_btc, "BTCUSDT")], speed=12.0)
        fast, slow = read_log(environment), read_log(other)
    finally:
        delete_topics(other)
    check_marks(fast)
    assert len(fast.all("quotes")) > 7000
    for topic in MARKET:
        assert without_receive_time(fast, [topic]) == without_receive_time(slow, [topic]), topic
    assert without_cut(fast) == without_cut(slow)
    assert counted_at(fast) == counted_at(slow) and len(counted_at(fast)) >= 3 * len(MARKET)


FAULTS = {
    "drop": ["drop:stream=aggTrade,rate=0.02", "drop:stream=depth,rate=0.005"],
    "gap": ["gap:stream=aggTrade,at=300,n=120", "gap:stream=depth,at=200,n=20"],
    "duplicate": ["duplicate:rate=0.1"],
    "reorder": ["reorder:stream=aggTrade,rate=0.02", "reorder:stream=bookTicker,rate=0.02"],
    "garbage": ["garbage:rate=0.01"],
    "cut": ["cut:route=market,after=500,times=2", "cut:route=public,after=3000,times=1"],
    "refusals": ["drop:stream=aggTrade,rate=0.01", "rest:429,n=3,path=aggTrades,retry_after=1", "rest:418,n=1,path=depth", "rest:500,n=2"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_misbehaviour_is_survived(environment: Settings, topics: list[str], slice_of_btc: Path, fault: str) -> None:
    recording = Recording(slice_of_btc, "BTCUSDT")
    expected = [event.body["a"] for event in recording.events() if event.kind == "aggTrade"]
    producer = produce(environment, [recording], faults=FAULTS[fault], seed=3)
    log = read_log(environment)
    trades = log.all("agg_trades")
    gaps, dead = log.all("gaps"), log.all("dead_letters")
    assert sorted(trade["agg_id"] for trade in trades) == expected  # each once
    check_marks(log)
    certain = {(gap["stream"], gap["repaired"]) for gap in gaps if gap["certain"]}
    if fault in ("drop", "gap"):
        assert {("agg_trades", True), ("depth", False), ("depth", True)} <= certain
        assert any(trade["backfilled"] for trade in trades)
        book = log.all("depth")
        broken = [index for index, record in enumerate(book) if record["state"] == "invalid"]
        assert broken and all(book[index]["bid_prices"] == [] for index in broken)
        epochs = [record["epoch"] for record in book]
        assert epochs == sorted(epochs) and epochs[-1] >= 1 + len(broken) - 1
        mended = [gap for gap in gaps if gap["stream"] == "agg_trades"]
        filled = {trade["agg_id"] for trade in trades if trade["backfilled"]}
        assert {number for gap in mended for number in range(gap["from_id"], gap["to_id"] + 1)} <= filled
    elif fault == "duplicate":
        assert gaps == [] and dead == [] and producer.numbers()["duplicates"] > 500
        updates = [quote["update_id"] for quote in log.all("quotes")]
        assert len(updates) == len(set(updates))
    elif fault == "garbage":
        assert len(dead) == producer.numbers()["refused"] > 50
        assert all(letter["value"] and letter["reason"] and letter["service"] == "produce-binance" for letter in dead)
        named = [letter for letter in dead if letter["field"] is not None]
        assert named and all(letter["field"] in letter["reason"] for letter in named)
        for letter in named:
            assert orjson.loads(letter["value"])["stream"] == letter["source"]
        assert {("agg_trades", True), ("depth", True)} <= certain
    elif fault == "cut":
        assert any(gap["kind"] == "disconnect" and gap["stream"] == "quotes" and not gap["certain"] for gap in gaps)
        assert any(trade["backfilled"] for trade in trades)


def test_a_second_run_adds_nothing(environment: Settings, topics: list[str], tmp_path: Path) -> None:
    recording = [Recording(LTC / "LTCUSDT_2025-06-22_00h_trades.csv.gz", "LTCUSDT", "spot")]
    produce(environment, recording, "agg_trades", expect_routes=["market"])
    before = read_log(environment)
    produce(environment, recording, "agg_trades", expect_routes=["market"])
    after = read_log(environment)
    assert before.all("instruments")[0]["instrument"] == "BINANCE:LTCUSDT"
    assert without_receive_time(before, before.records) == without_receive_time(after, after.records)


def start(
    settings_env: dict[str, str], venue: RecordedVenue, symbol: str, log_file: Path, streams: str = "agg_trades"
) -> subprocess.Popen[bytes]:
    arguments = ["--symbols", symbol, "--streams", streams, "--ws-url", venue.ws_url, "--rest-url", venue.rest_url, "--depth-speed", "0ms"]
    code = "from deploy.cli.services.produce import app; app()"
    with log_file.open("ab") as out:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], env=settings_env, stdout=out, stderr=out)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_kill_9_loses_and_doubles_no_trade(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path, seed: int
) -> None:
    """A killed producer's successor goes on so that every instant fires with every trade that an undisturbed run has."""
    path = LTC / "LTCUSDT_2025-06-21_15h_trades.csv.gz"
    recording = Recording(path, "LTCUSDT", "spot")
    expected = [event.body["a"] for event in recording.events() if event.kind == "aggTrade"]
    rng = random.Random(seed)
    out = tmp_path / "produce.log"

    async def work() -> None:
        options: dict[str, Any] = {
            "speed": 1500.0,
            "settle_s": 0.05,
            "expect_routes": ["market"],
            "wait_for": "none" if seed == 2 else "client",
        }
        async with RecordedVenue([recording], **options) as venue:
            playback = venue.playbacks["LTCUSDT"]
            for _ in range(3):
                process = start(environment_variables(), venue, "LTCUSDT", out)
                begun = playback.events
                while playback.events < begun + 200 and playback.state != "finished":
                    await asyncio.sleep(0.02)
                    assert process.poll() is None, out.read_text()
                await asyncio.sleep(rng.uniform(0.0, 0.8))
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
            process = start(environment_variables(), venue, "LTCUSDT", out)
            assert await asyncio.to_thread(process.wait) == 0, out.read_text()

    asyncio.run(asyncio.wait_for(work(), 150))
    log = read_log(environment)
    trades = log.all("agg_trades")
    assert [trade["agg_id"] for trade in trades] == expected
    assert len(log.all("instruments")) == 1
    check_marks(log)
    for mark in log.all("progress"):
        if (mark["event_time"] - LATENESS) % GRID == 0:
            rest = trades[mark["cut"]["agg_trades"] :]
            assert [trade for trade in rest[:200] if trade["event_time"] <= mark["event_time"]] == [], mark


def test_kill_9_with_all_streams(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], slice_of_btc: Path, tmp_path: Path
) -> None:
    """Trades continue exactly; of books and quotes, what was in flight is gone: said in gap rows and by a new epoch, never doubled."""
    recording = Recording(slice_of_btc, "BTCUSDT")
    expected = [event.body["a"] for event in recording.events() if event.kind == "aggTrade"]
    out = tmp_path / "produce.log"

    async def work() -> None:
        async with RecordedVenue([recording], speed=8.0, settle_s=0.05) as venue:
            playback = venue.playbacks["BTCUSDT"]
            process = start(environment_variables(), venue, "BTCUSDT", out, ALL)
            while playback.events < 3000:
                await asyncio.sleep(0.02)
                assert process.poll() is None, out.read_text()
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            process = start(environment_variables(), venue, "BTCUSDT", out, ALL)
            assert await asyncio.to_thread(process.wait) == 0, out.read_text()

    asyncio.run(asyncio.wait_for(work(), 100))
    log = read_log(environment)
    assert [trade["agg_id"] for trade in log.all("agg_trades")] == expected
    assert len(log.all("instruments")) == 1
    updates = [quote["update_id"] for quote in log.all("quotes")]
    assert updates == sorted(set(updates))
    epochs = [record["epoch"] for record in log.all("depth")]
    assert sorted(set(epochs)) == [1, 2] and epochs == sorted(epochs)
    assert {gap["stream"] for gap in log.all("gaps")} >= {"quotes", "funding", "liquidations"}
    assert {gap["kind"] for gap in log.all("gaps") if gap["stream"] == "quotes"} == {"disconnect"}
    check_marks(log)


def test_sigterm_ends_it_cleanly(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "produce.log"

    async def work() -> None:
        recording = Recording(LTC / "LTCUSDT_2025-06-21_15h_trades.csv.gz", "LTCUSDT", "spot")
        async with RecordedVenue([recording], speed=100.0, settle_s=0.05, expect_routes=["market"]) as venue:
            process = start(environment_variables(), venue, "LTCUSDT", out)
            while venue.playbacks["LTCUSDT"].events < 50:
                await asyncio.sleep(0.02)
                assert process.poll() is None, out.read_text()
            os.kill(process.pid, signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0, out.read_text()

    asyncio.run(asyncio.wait_for(work(), 60))
    assert "Traceback" not in out.read_text()


def test_a_silent_connection_does_not_hold_the_others_for_ever(environment: Settings, topics: list[str], slice_of_btc: Path) -> None:
    recording = Recording(slice_of_btc, "BTCUSDT")
    expected = [event.body["a"] for event in recording.events() if event.kind == "aggTrade"]

    async def work() -> tuple[int | None, int]:
        faults = ["silence:stream=aggTrade,at=100,n=1000000"]
        async with RecordedVenue([recording], speed=12.0, settle_s=0.05, faults=faults) as venue:
            with Service("produce-test") as service:
                producer = VenueProducer(BinanceUsdm("0ms"), config(venue, "BTCUSDT", hold_s=0.5), environment, service)
                running = asyncio.create_task(producer.run())
                playback = venue.playbacks["BTCUSDT"]
                while playback.state != "finished":
                    await asyncio.sleep(0.02)
                    if playback.state == "playing":
                        seen = producer.out.last_mark, playback.clock
                assert await running
                return seen

    mark, clock = asyncio.run(asyncio.wait_for(work(), 60))
    assert mark is not None and clock - mark < 12 * 1500  # a second and a half behind the venue at most, though trades stopped long ago
    log = read_log(environment)
    assert [trade["agg_id"] for trade in log.all("agg_trades")] == expected  # the end of the recording was checked over REST
    check_marks(log)


def test_records_leave_at_once_whatever_the_marks_wait_for(environment: Settings, topics: list[str], slice_of_btc: Path) -> None:
    """A connection that says nothing more holds the marks up for ten seconds; what the other brings is in the log all the same."""
    recording = Recording(slice_of_btc, "BTCUSDT")
    delays: list[int] = []
    waits: list[int] = []

    async def work() -> None:
        faults = ["silence:stream=aggTrade,at=20,n=1000000"]
        async with RecordedVenue([recording], speed=1.0, settle_s=0.05, faults=faults) as venue:
            with Service("produce-test") as service:
                producer = VenueProducer(BinanceUsdm("0ms"), config(venue, "BTCUSDT", "agg_trades,quotes"), environment, service)
                running = asyncio.create_task(producer.run())
                while venue.playbacks["BTCUSDT"].state != "playing":
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(tail)
                waits.append(venue.playbacks["BTCUSDT"].clock - (producer.out.last_mark or 0))
                service.stop()
                assert not await running

    def tail() -> None:
        consumer = Consumer({"bootstrap.servers": environment.kafka_bootstrap_servers, "group.id": "tail", "fetch.wait.max.ms": 20})
        partition = environment.partition_of("BTC")
        consumer.assign([TopicPartition(environment.topic("quotes"), partition, 0)])
        until = time.monotonic() + 7
        while time.monotonic() < until:
            for message in consumer.consume(500, timeout=0.05):
                if message.error() is None:
                    record = environment.codec.decode("quotes", message.value())
                    delays.append(int(time.time() * 1000) - record["receive_time"])
        consumer.close()

    asyncio.run(asyncio.wait_for(work(), 60))
    assert len(delays) > 300 and waits[0] > 3_000  # the marks did wait
    # Milliseconds on an idle machine; a record that waited for a step or a connection would be seconds old.
    assert sorted(delays)[len(delays) * 9 // 10] < 1_000


def test_silence_and_liquidations(environment: Settings, topics: list[str], slice_of_btc: Path) -> None:
    """Frames by hand into a producer that is set up but not connected; the clock of the alarm is an argument."""
    now = 1723161256322
    trade = {"e": "aggTrade", "E": now, "s": "BTCUSDT", "a": 1, "p": "61800.30", "q": "0.006", "f": 1, "l": 1, "T": now, "m": False}
    mark = {"e": "markPriceUpdate", "E": now, "s": "BTCUSDT", "p": "1.5", "i": "1.5", "P": "1.5", "r": "0.0001", "T": now + 1000}
    order = {"s": "BTCUSDT", "S": "SELL", "q": "0.014", "p": "9910", "ap": "9910", "z": "0.014", "T": now + 5}

    async def work() -> VenueProducer:
        async with RecordedVenue([Recording(slice_of_btc, "BTCUSDT")]) as venue:
            with Service("produce-test") as service:
                producer = VenueProducer(
                    BinanceUsdm("0ms"), config(venue, "BTCUSDT", "agg_trades,funding,liquidations"), environment, service
                )
                await producer._prepare()
                (plan,) = producer.adapter.plans(venue.ws_url, [("BTCUSDT", channel) for channel in producer.channels])
                line = ConnectionState(producer.pipeline.join(plan.name, 0))
                for symbol, channel in plan.streams:
                    producer.feeds.subscribe(producer.feeds.feeds[symbol], channel, line)

                def send(stream: str, data: Any) -> None:
                    raw = orjson.dumps({"stream": f"btcusdt@{stream}", "data": data})
                    assert producer.feeds.frame(line, raw) is None

                feeds, start = producer.feeds, time.monotonic()
                assert feeds.watch(start + 1000) == []  # a recording without a stream is no alarm
                send("aggTrade", trade)
                send("markPrice@1s", mark)
                send("markPrice@1s", mark)
                for _ in range(2):
                    send("forceOrder", {"e": "forceOrder", "E": now + 10, "o": order})
                send("forceOrder", {"e": "forceOrder", "E": now + 10, "o": {**order, "s": "ETHUSDT"}})
                assert feeds.watch(start + 1) == []
                assert feeds.watch(start + 20) == ["btcusdt@markPrice@1s"]
                assert feeds.watch(start + 70) == ["btcusdt@aggTrade", "btcusdt@markPrice@1s"]  # liquidations may be silent
                assert producer.health()["ok"] is False and len(producer.health()["silent"]) == 2
                line.source.busy += 1  # while we do not read, silence says nothing
                assert feeds.watch(start + 80) == []
                line.source.busy -= 1
                send("markPrice@1s", {**mark, "E": now + 90_000})
                send("aggTrade", {**trade, "E": now + 90_001, "a": 2})
                assert feeds.watch(time.monotonic() + 1) == []
                assert feeds.frame(line, b'{"result":null,"id":1}') is None  # the answer to a control message is no data
                assert feeds.frame(line, b'{"stream":"ethusdt@aggTrade","data":{}}') is None
                assert feeds.frame(line, b"[1]") is None
                producer.pipeline.leave(line.source)
                producer.pipeline.finish()
                assert await producer.pipeline.flush(20)
                await producer.rest.close()
                return producer

    producer = asyncio.run(asyncio.wait_for(work(), 60))
    log = read_log(environment)
    assert len(log.all("agg_trades")) == 2 and len(log.all("funding")) == 2
    (liquidation,) = log.all("liquidations")
    assert (liquidation["side"], liquidation["quantity"], liquidation["event_time"]) == ("LONG", 0.014, now + 5)
    (gap,) = log.all("gaps")  # ids prove that no trade is missing; of mark prices nobody knows
    assert (gap["stream"], gap["kind"], gap["certain"], gap["from_time"], gap["to_time"]) == (
        "funding",
        "silence",
        False,
        now,
        now + 90_000,
    )
    assert {letter["source"] for letter in log.all("dead_letters")} == {"btcusdt@forceOrder", "frame"}
    assert producer.numbers()["duplicates"] == 2 and producer.numbers()["refused"] == 3
    check_marks(log)


def test_what_is_wrong_is_said(environment: Settings, topics: list[str], slice_of_btc: Path) -> None:
    async def work(symbols: str) -> None:
        async with RecordedVenue([Recording(slice_of_btc, "BTCUSDT")]) as venue:
            with Service("produce-test") as service:
                await VenueProducer(BinanceUsdm("0ms"), config(venue, symbols), environment, service).run()

    with pytest.raises(ConfigurationError, match="'NOPEUSDT'"):
        asyncio.run(work("BTCUSDT,NOPEUSDT"))
    with pytest.raises(ConfigurationError, match="top:N"):
        asyncio.run(work("top:x"))


def test_frames_in_bulk_become_the_records_that_they_become_one_by_one(
    environment: Settings, topics: list[str], slice_of_btc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades doubled, quotes overtaken, frames broken, a book followed and broken: the same records, clocks and counts in the same order."""
    now = 1723161256322
    raws = []
    for n in range(1, 400):
        at = now + 7 * n
        trade = {
            "e": "aggTrade",
            "E": at,
            "s": "BTCUSDT",
            "a": n,
            "p": f"{61800 + n / 10:.2f}",
            "q": "0.006",
            "f": n,
            "l": n,
            "T": at - 1,
            "m": n % 3 == 0,
        }
        quote = {
            "e": "bookTicker",
            "u": 9 * n,
            "s": "BTCUSDT",
            "b": "61800.10",
            "B": "1",
            "a": f"{61801 + n / 10:.1f}",
            "A": "2",
            "T": at,
            "E": at + 1,
        }
        diff = {
            "e": "depthUpdate",
            "E": at,
            "T": at,
            "s": "BTCUSDT",
            "U": n,
            "u": n,
            "pu": n - 1 if n != 300 else 7,
            "b": [[f"{61000 + n}", "1"]],
            "a": [],
        }
        raws += [
            orjson.dumps({"stream": f"btcusdt@{name}", "data": data})
            for name, data in (("aggTrade", trade), ("bookTicker", quote), ("depth@0ms", diff))
        ]
        if n % 11 == 0:
            raws += [raws[-3], raws[-5], raws[-1][:-4], raws[-3].replace(b'"q":"0.006"', b'"q":"x"')]  # doubled, overtaken, cut off, wrong

    async def work(few: int) -> tuple[list[Any], dict[str, Any], list[Any]]:
        monkeypatch.setattr(feeds_module, "FEW_FRAMES", few)
        async with RecordedVenue([Recording(slice_of_btc, "BTCUSDT")]) as venue:
            with Service("produce-test") as service:
                producer = VenueProducer(BinanceUsdm("0ms"), config(venue, "BTCUSDT", "agg_trades,quotes,depth"), environment, service)
                await producer._prepare()
                producer.gap_repair.wall_ms = lambda: now + 5000
                emitted: list[Any] = []
                producer.pipeline.sequencer.push = lambda name, item, at, partition: emitted.append((name, item, at, partition))
                line = ConnectionState(producer.pipeline.join("all", 0))
                for channel in producer.channels:
                    producer.feeds.subscribe(producer.feeds.feeds["BTCUSDT"], channel, line)
                producer.feeds.compile(line)
                feed = producer.feeds.feeds["BTCUSDT"]
                feed.book.load(BookSnapshot(0, [(61000.0, 1.0)], [(61900.0, 2.0)]))
                for start in range(0, len(raws), 50):
                    for held in producer.feeds.frames(line, raws[start : start + 50]):
                        asyncio.ensure_future(held).cancel()  # the book's snapshot: it stays broken
                states = [(stream.name, stream.count, stream.last_time) for stream in line.streams]
                counts = {
                    "clock": line.clock,
                    "doubled": producer.gap_repair.duplicates,
                    "refused": producer.gap_repair.refused,
                    "epoch": feed.book.epoch,
                }
                await producer.out.close(5)
                await producer.rest.close()
                return emitted, counts, states

    one_by_one, in_bulk = asyncio.run(work(10**9)), asyncio.run(work(1))
    assert in_bulk == one_by_one
    topics_seen = Counter(item[0] for _, item, _, _ in in_bulk[0])
    assert topics_seen["agg_trades"] == 399 and topics_seen["quotes"] == 399 and topics_seen["depth"] >= 298 and topics_seen["gaps"] == 1
    assert in_bulk[1]["doubled"] >= 72 and in_bulk[1]["refused"] == 72

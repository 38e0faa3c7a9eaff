"""A log for the executor: recorded trades, hand-made signals and steps, as records with the offsets they get in empty topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from schemas.catalogue import TOPICS
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from stream_apps.core.paper.fills import Book, Books, Filters
from stream_apps.core.paper.model import PaperBook, TradeColumns
from stream_apps.core.paper.records import PAPER_TOPICS
from tests.support.trading.paper_cases import GRID, settlement, synthetic_signals

Record = dict[str, Any]
LATENESS = 250
# Instruments with an order book in the log.
WITH_BOOKS = ("BINANCE:BTCUSDT-PERP", "OKX:LTCUSDT-PERP")
OUTPUTS = PAPER_TOPICS


@dataclass
class Instrument:
    """One instrument of the log: its author, recorded trades (times shifted by ``shift`` ms) and signals."""

    name: str
    author: str
    trades: TradeColumns
    seed: int
    shift: int = 0
    signals: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.times = self.trades.event_time + self.shift
        start, end = (int(edge) // GRID * GRID for edge in (self.times[0], self.times[-1]))
        self.signals = synthetic_signals(start, end, self.seed, self.name)


@dataclass
class Message:
    """A record on its way to a topic."""

    topic: str
    partition: int
    record: Record


def log_of(instruments: list[Instrument], settings: Settings) -> Iterator[list[Message]]:
    """Yield the messages of each grid step of all partitions, in the order in which they are to be written."""
    edges = [int(edge) for one in instruments for edge in (one.times[0], one.times[-1])]
    start, end = min(edges) // GRID * GRID, max(edges) // GRID * GRID
    counts: dict[tuple[str, int], int] = defaultdict(int)
    places = {one.name: settings.partition_of(base_of_instrument(one.name)) for one in instruments}

    def message(topic: str, partition: int, record: Record) -> Message:
        counts[topic, partition] += 1
        return Message(topic, partition, record)

    yield [message("instruments", places[one.name], instrument_record(one, start)) for one in instruments]
    row = {one.name: 0 for one in instruments}
    for step, time in enumerate(range(start + GRID, end + 1, GRID)):
        batch = []
        # What is before the cut reaches beyond T: producers mark at T + lateness.
        pane = []
        for one in instruments:
            upto = int(np.searchsorted(one.times, time + LATENESS, "right"))
            pane += [(int(one.times[i]), one, i) for i in range(row[one.name], upto)]
            row[one.name] = upto
        for at, one, i in sorted(pane, key=lambda entry: (entry[0], entry[1].name, entry[2])):
            batch.append(message("agg_trades", places[one.name], trade_record(one, at, i)))
        for one in instruments:
            if one.name in WITH_BOOKS and step % 2:
                batch += [message("depth", places[one.name], depth_record(one, time - 9_000 + more, pane)) for more in (0, 3_000)]
        if step % 240 == 239:
            for one in instruments:
                record = settlement(time - 1000, 0.0001, instrument=one.name)
                batch.append(message("funding", places[one.name], funding_record(record)))
        for one in instruments:
            batch += [message("signals", places[one.name], made) for made in one.signals if made["event_time"] == time]
        for partition, author in sorted({(places[one.name], one.author) for one in instruments}):
            cut = {
                topic: counts[topic, partition] for topic in ("agg_trades", "depth", "funding", "instruments") if counts[topic, partition]
            }
            done = {
                "author": author,
                "venue": author.split("-")[0],
                "event_time": time,
                "receive_time": time + LATENESS,
                "progress_offset": step,
                "cut": cut,
                "signals_offset": counts["signals", partition],
            }
            batch.append(message("worker_progress", partition, done))
        yield batch


def instrument_record(one: Instrument, time: int) -> Record:
    return {
        "instrument": one.name,
        "event_time": time,
        "receive_time": time,
        "author": one.author,
        "venue": one.name.partition(":")[0],
        "symbol": one.name.partition(":")[2],
        "base_asset": base_of_instrument(one.name),
        "quote_asset": "USDT",
        "kind": "perp",
        "status": "trading",
        "tick_size": 0.01,
        "step_size": 0.001,
        "min_notional": None,
        "price_decimals": 2,
        "quantity_decimals": 3,
        "funding_interval_hours": 8,
        "recorded": True,
    }


def trade_record(one: Instrument, time: int, row: int) -> Record:
    identity = int(one.trades.agg_id[row])
    return {
        "instrument": one.name,
        "event_time": time,
        "receive_time": time,
        "agg_id": identity,
        "first_trade_id": identity,
        "last_trade_id": identity,
        "price": float(one.trades.price[row]),
        "quantity": 1.0,
        "buyer_is_maker": False,
        "backfilled": False,
    }


def depth_record(one: Instrument, time: int, pane: list[tuple[int, Instrument, int]]) -> Record:
    """Return a thin book around the newest trade of the pane; every fifth is invalid."""
    last = next((float(one.trades.price[i]) for _, other, i in reversed(pane) if other is one), None)
    live = last is not None and time // GRID % 5 != 0
    prices = [round(last * (1 + sign * k * 0.0002), 2) for sign in (-1, 1) for k in range(1, 4)] if live and last is not None else []
    return {
        "instrument": one.name, "event_time": time, "receive_time": time, "epoch": 1, "state": "live" if live else "invalid", "last_update_id": time,
        "bid_prices": prices[:3], "bid_quantities": [50.0 * k for k in (1, 2, 3)] if live else [],
        "ask_prices": prices[3:], "ask_quantities": [40.0 * k for k in (1, 2, 3)] if live else [],
    }  # fmt: skip


def books_until(rows: list[Record], time: int) -> Books:
    """Return the books of an instrument that hold in the step up to a time."""
    known = [row for row in rows[-10:] if row["event_time"] <= time]
    return Books(np.array([row["event_time"] for row in known], np.int64), lambda at: Book.of(known[at]))


def funding_record(record: Record) -> Record:
    absent = ("index_price", "estimated_settle_price", "estimated_rate", "next_funding_time", "interval_hours")
    return {**record, "receive_time": record["event_time"], **dict.fromkeys(absent)}


def expected(instruments: list[Instrument], settings: Settings) -> dict[str, dict[tuple[Any, ...], Record]]:
    """Return what a book per partition makes of the same log, driven directly: topic -> record id -> record."""
    books: dict[int, PaperBook] = defaultdict(PaperBook)
    waiting: dict[str, list[tuple[int, int, Record]]] = defaultdict(list)
    funding: dict[str, list[Record]] = defaultdict(list)
    signals: dict[str, list[Record]] = defaultdict(list)
    depth: dict[str, list[Record]] = defaultdict(list)
    filters = {one.name: Filters(Decimal("0.01"), Decimal("0.001")) for one in instruments}
    counts: dict[int, int] = defaultdict(int)
    out: dict[str, dict[tuple[Any, ...], Record]] = {topic: {} for topic in OUTPUTS}
    for batch in log_of(instruments, settings):
        for one in batch:
            record = one.record
            if one.topic == "agg_trades":
                waiting[record["instrument"]].append((record["event_time"], counts[one.partition], record))
                counts[one.partition] += 1
            elif one.topic == "funding":
                funding[record["instrument"]].append(record)
            elif one.topic == "depth":
                depth[record["instrument"]].append(record)
            elif one.topic == "signals":
                signals[record["instrument"]].append(record)
            elif one.topic == "worker_progress":
                time = record["event_time"]
                mine = [i.name for i in instruments if i.author == record["author"]]
                mine = [name for name in mine if settings.partition_of(base_of_instrument(name)) == one.partition]
                trades = {}
                for name in mine:
                    due = [entry for entry in waiting[name] if entry[0] <= time]
                    waiting[name] = [entry for entry in waiting[name] if entry[0] > time]
                    cells = [(at, offset, trade["agg_id"], trade["price"]) for at, offset, trade in due]
                    trades[name] = TradeColumns.of(*zip(*cells, strict=True)) if cells else TradeColumns.of([], [], [], [])
                made = books[one.partition].step(
                    time=time,
                    decided_at=record["receive_time"],
                    instruments=mine,
                    trades=trades,
                    signals=[entry for name in mine for entry in signals.pop(name, [])],
                    settlements=[entry for name in mine for entry in funding.pop(name, [])],
                    books={name: books_until(depth[name], time) for name in mine},
                    filters=filters,
                )
                for topic, result in made:
                    out[topic][identity(topic, result)] = result
    return out


def identity(topic: str, record: Record) -> tuple[Any, ...]:
    """Return the id by which readers drop repeats."""
    return tuple(record[name] for name in TOPICS[topic].record_id)


class Writer:
    """Writes a log to Kafka."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "linger.ms": 5})

    def write(self, batch: list[Message]) -> None:
        """Hand a batch to the producer."""
        for one in batch:
            value = self.settings.codec.encode(one.topic, one.record)
            key = str(one.record[TOPICS[one.topic].key]).encode()
            self.raw(one.topic, one.partition, key, value, one.record["event_time"])

    def raw(self, topic: str, partition: int, key: bytes, value: bytes, time: int) -> None:
        """Hand any bytes to the producer."""
        while True:
            try:
                self.producer.produce(self.settings.topic(topic), value, key, partition, timestamp=time)
                break
            except BufferError:
                self.producer.poll(0.05)
        self.producer.poll(0)

    def flush(self) -> None:
        """Wait for the acknowledgements."""
        assert self.producer.flush(30) == 0


def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Return all messages of a topic."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader", "enable.auto.commit": False})
    try:
        name = settings.topic(topic)
        ends = {
            p: consumer.get_watermark_offsets(TopicPartition(name, p), 10)[1]
            for p in consumer.list_topics(name, 10).topics[name].partitions
        }
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for partition in ends])
        found: list[Any] = []
        while len(found) < sum(ends.values()):
            messages = consumer.consume(5000, 0.2)
            assert all(message.error() is None for message in messages)
            found += messages
        return found
    finally:
        consumer.close()


def written(settings: Settings) -> dict[str, dict[tuple[Any, ...], Record]]:
    """Return what the executor wrote, repeats dropped: topic -> record id -> record. Repeats must be equal."""
    out: dict[str, dict[tuple[Any, ...], Record]] = {topic: {} for topic in OUTPUTS}
    for topic in OUTPUTS:
        for message in read_topic(settings, topic):
            record = settings.codec.decode(topic, message.value())
            known = out[topic].setdefault(identity(topic, record), record)
            assert known == record, "a repeat differs"
            assert message.timestamp()[1] == record["event_time"]
            assert message.key() == str(record[TOPICS[topic].key]).encode()
    return out

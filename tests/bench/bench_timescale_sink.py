"""How fast the sink writes aggregate trades, beside the bare COPY of the same rows into the same table, in one run.

Run: ``python tests/bench/bench_timescale_sink.py [RECORDS]`` with KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL set (``perpflow stack env``).
It makes a topic prefix and a database of its own and removes both. Bare COPY: batches of as many rows as the sink's, encoded beforehand,
one transaction each, from one connection. Report ratios; machines are noisy.
"""

from __future__ import annotations

import sys
import time
import uuid

import numpy as np
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy import database
from deploy.stack.topics import create_topics, delete_topics
from schemas.codec import Codec
from schemas.service import Service
from schemas.settings import Settings
from sinks.timescale import rows as row_format
from sinks.timescale.partitions import Partitions
from sinks.timescale.rows import COPY_HEADER, COPY_TRAILER
from sinks.timescale.sink import Options, Sink
from sinks.timescale.tables import table

TOPIC = "agg_trades"
BATCH = 20_000
START_MS = 1_723_075_200_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "DOGEUSDT")


def values(count: int) -> list[bytes]:
    """Return encoded trades of four instruments, 5 ms apart."""
    encode = Codec().encoder(TOPIC)
    return [
        encode(
            {
                "instrument": f"BINANCE:{SYMBOLS[n % 4]}-PERP",
                "event_time": START_MS + n * 5,
                "receive_time": START_MS + n * 5 + 40,
                "agg_id": 2_000_000_000 + n,
                "first_trade_id": 5_000_000_000 + n,
                "last_trade_id": 5_000_000_001 + n,
                "price": 61659.7 + n % 1000 / 10,
                "quantity": n % 997 / 1000,
                "buyer_is_maker": n % 3 == 0,
                "backfilled": False,
            }
        )
        for n in range(count)
    ]


def feed(settings: Settings, made: list[bytes]) -> None:
    """Write the trades into four partitions."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for n, value in enumerate(made):
        while True:
            try:
                producer.produce(settings.topic(TOPIC), value=value, key=b"k", partition=n % 4)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def consume_only(settings: Settings, count: int) -> float:
    """Return records/s of the client alone."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(settings.topic(TOPIC), n, 0) for n in range(4)])
    got, began = 0, 0.0
    while got < count:
        messages = consumer.consume(10_000, 0.1)
        if messages and not began:
            began = time.perf_counter()
            continue_from = len(messages)
        got += len(messages)
    took = time.perf_counter() - began
    consumer.close()
    return (count - continue_from) / took


def encode_only(made: list[bytes]) -> tuple[float, list[row_format.Rows]]:
    """Return rows/s of making COPY rows alone, and the rows in batches."""
    codec = Codec()
    row_format.encode(codec, TOPIC, made[:10], range(10), 0)
    began = time.perf_counter()
    batches = [
        row_format.encode(codec, TOPIC, made[at : at + BATCH], range(at, at + len(made[at : at + BATCH])), 0)
        for at in range(0, len(made), BATCH)
    ]
    return len(made) / (time.perf_counter() - began), batches


def bare_copy(settings: Settings, batches: list[row_format.Rows]) -> float:
    """Return rows/s of COPY of the same rows; the table is empty before and after."""
    columns = ", ".join(table(TOPIC).column_names)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        Partitions(connection).ensure(TOPIC, np.concatenate([batch.event_times for batch in batches]))
        began = time.perf_counter()
        for batch in batches:
            with connection.transaction(), connection.cursor().copy(f"COPY {TOPIC} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:  # type: ignore[call-overload]
                copy.write(COPY_HEADER)
                copy.write(batch.payload)
                copy.write(COPY_TRAILER)
        took = time.perf_counter() - began
        connection.execute(f"TRUNCATE {TOPIC}")  # type: ignore[call-overload]
    return sum(map(len, batches)) / took


def whole_sink(settings: Settings, count: int) -> float:
    """Return rows/s of the sink from Kafka to the database, from its first to its last commit."""
    import threading

    with Service("bench") as service, psycopg.connect(settings.database_url, autocommit=True) as watch:
        sink = Sink(settings, Options(topics=(TOPIC,), batch_rows=BATCH), service)
        thread = threading.Thread(target=sink.run)
        thread.start()
        first: tuple[float, int] | None = None
        while True:
            written = sink.health()["rows_written"]
            if written and first is None:
                first = (time.perf_counter(), written)
            if written >= count:
                break
            time.sleep(0.005)
        took = time.perf_counter() - (first or (0.0, 0))[0]
        service.stop()
        thread.join()
        row = watch.execute("SELECT count(*) FROM agg_trades").fetchone()
        assert row is not None
        assert row[0] == count
    return (count - (first or (0.0, 0))[1]) / took


def main(count: int) -> None:
    """Measure and print."""
    base = Settings()
    name = f"bench{uuid.uuid4().hex[:8]}"
    with psycopg.connect(base.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    settings = base.model_copy(update={"database_url": f"{base.database_url.rpartition('/')[0]}/{name}", "topic_prefix": f"{name}."})
    try:
        create_topics(settings)
        database.migrate(settings.database_url)
        made = values(count)
        feed(settings, made)
        encoded, batches = encode_only(made)
        bare = bare_copy(settings, batches)
        consumed = consume_only(settings, count)
        whole = whole_sink(settings, count)
        again = bare_copy_after(settings, batches)
        print(f"client alone        {consumed:>12,.0f} records/s")
        print(f"rows alone          {encoded:>12,.0f} rows/s")
        print(f"bare COPY           {bare:>12,.0f} rows/s (before), {again:,.0f} rows/s (after)")
        print(f"sink                {whole:>12,.0f} rows/s, {whole / ((bare + again) / 2):.0%} of the bare COPY")
    finally:
        delete_topics(settings)
        with psycopg.connect(base.database_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]


def bare_copy_after(settings: Settings, batches: list[row_format.Rows]) -> float:
    """As ``bare_copy``, once more after the sink, on an emptied table: machines change while one measures."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE agg_trades")
    return bare_copy(settings, batches)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000)

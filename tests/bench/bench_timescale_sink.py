"""How fast sinks write aggregate trades, beside the bare COPY of the same rows into the same table, in one run, with one writer and with two.

Run: ``perpflow bench --only sink``. Bare COPY: as many connections as sinks, rows encoded beforehand, transactions as large as the sink's largest,
before and after the sinks. The sinks are processes; they are frozen while the topic is filled, and timed from thawing to the last commit.
Report ratios; machines are noisy. CPU seconds are less so: server and sink run side by side, so on two cores one sink can reach the bare COPY
as long as it needs less of a core than the server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import psycopg
from confluent_kafka import Producer

from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from schemas.settings import Settings
from sinks.timescale import rows as row_format
from sinks.timescale.copying import try_copy
from sinks.timescale.partitions import Partitions
from sinks.timescale.sink import CATCH_UP, Options
from tests.bench.rows import Figure, Row
from tests.bench.running import ROOT, Run
from tests.bench.sizing import grown

TOPIC = "agg_trades"
PARTITIONS = 4
BATCH = CATCH_UP * Options().batch_rows
WARM_UP = 1_000
FULL = 1_000_000
START_MS = 1_723_075_200_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "DOGEUSDT")


def values(first: int, count: int) -> list[bytes]:
    """Return encoded trades of four instruments, 5 ms apart."""
    encode = Codec().encoder(TOPIC)
    return [
        encode(
            {
                "instrument": f"BINANCE:{SYMBOLS[n % PARTITIONS]}-PERP",
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
        for n in range(first, first + count)
    ]


def feed(settings: Settings, made: list[bytes]) -> None:
    """Write trades into four partitions, one instrument each."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for n, value in enumerate(made):
        while True:
            try:
                producer.produce(settings.topic(TOPIC), value=value, key=b"k", partition=n % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def encoded(made: list[bytes]) -> tuple[float, list[row_format.Rows]]:
    """Return rows/s of making COPY rows alone, and the rows of each partition."""
    codec = Codec()
    sets = [
        RecordSet.from_messages([(WARM_UP // PARTITIONS + n, 0, b"k", value) for n, value in enumerate(made[number::PARTITIONS])])
        for number in range(PARTITIONS)
    ]
    row_format.encode(codec, TOPIC, sets[0].rows(0, 10), 0)
    began = time.perf_counter()
    rows = [row_format.encode(codec, TOPIC, one, number) for number, one in enumerate(sets)]
    return len(made) / (time.perf_counter() - began), rows


def bare_copy(settings: Settings, rows: list[row_format.Rows], writers: int) -> float:
    """Return rows/s of COPY of the same rows; the table is empty before and after."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE agg_trades")
        Partitions(connection).ensure(TOPIC, np.concatenate([one.event_times for one in rows]))
    started = threading.Barrier(writers + 1)

    def write(mine: list[row_format.Rows]) -> None:
        with psycopg.connect(settings.database_url, autocommit=True) as connection:
            started.wait()
            step = BATCH // len(mine)
            for at in range(0, max(map(len, mine)), step):
                pieces = [piece for one in mine for piece in one.slices(np.arange(at, min(at + step, len(one))))]
                with connection.transaction():
                    assert try_copy(connection, TOPIC, pieces) is None

    threads = [threading.Thread(target=write, args=(rows[number::writers],)) for number in range(writers)]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM agg_trades").fetchone() == (sum(map(len, rows)),)
        connection.execute("TRUNCATE agg_trades")
    return sum(map(len, rows)) / took


@contextlib.contextmanager
def sinks(run: Run, settings: Settings, writers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run so many sinks as processes."""
    command = [sys.executable, "-m", "deploy.cli", "sink", "--topics", TOPIC, "--session-timeout", "240"]
    with (run.folder / f"sinks-{writers}.log").open("wb") as log:
        running = [
            subprocess.Popen(command, env=run.variables(settings), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) for _ in range(writers)
        ]
        try:
            yield running
        finally:
            for process in running:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in running:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


@contextlib.contextmanager
def everywhere(settings: Settings) -> Iterator[None]:
    """Let the database's sessions run on all cores: two of them on one would say nothing of two writers."""
    with psycopg.connect(settings.database_url) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    assert server is not None
    before = server.cpu_affinity() or []
    server.cpu_affinity(sorted(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        server.cpu_affinity(before)


def whole_sinks(run: Run, settings: Settings, made: list[bytes], warm: list[bytes], writers: int) -> tuple[float, float, float]:
    """Return rows/s of the sinks from Kafka to the database, and CPU seconds per million rows of the sinks and of the server's sessions."""
    with psycopg.connect(settings.database_url, autocommit=True) as watch, sinks(run, settings, writers) as running:

        def written() -> int:
            row = watch.execute("SELECT coalesce(sum(next_offset), 0) FROM sink_offsets WHERE topic = %s", (TOPIC,)).fetchone()
            assert row is not None
            return int(row[0])

        def sessions() -> list[int]:
            return [pid for (pid,) in watch.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'perpflow-sink'")]

        until(lambda: len(sessions()) == writers)
        time.sleep(5)  # the group settles
        feed(settings, warm)
        until(lambda: written() == len(warm))
        for process in running:
            process.send_signal(signal.SIGSTOP)
        feed(settings, made)
        mine = [psutil.Process(process.pid) for process in running]
        servers = [psutil.Process(pid) for pid in sessions()]
        before = cpu(mine), cpu(servers)
        began = time.perf_counter()
        for process in running:
            process.send_signal(signal.SIGCONT)
        until(lambda: written() == len(made) + len(warm))
        took = time.perf_counter() - began
        spent = cpu(mine) - before[0], cpu(servers) - before[1]
        assert watch.execute("SELECT count(*) FROM agg_trades").fetchone() == (len(made) + len(warm),)
    return len(made) / took, spent[0] / len(made) * 1e6, spent[1] / len(made) * 1e6


def cpu(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds that processes have used."""
    return sum(used.user + used.system for used in (process.cpu_times() for process in processes))


def until(check: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a check holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(run: Run) -> Iterator[Row]:
    """Yield one sink and two beside as many connections of COPY."""
    count = 200_000 if run.quick else FULL
    warm, made = values(0, WARM_UP), values(WARM_UP, count)
    speed, prepared = encoded(made)
    for writers in (1,) if run.quick else (1, 2):
        with run.environment(tables=True) as settings, everywhere(settings):
            before = bare_copy(settings, prepared, writers)
            # The sink writes at most as fast as COPY alone, so it lasts at least as long.
            if run.quick and (wanted := grown(count, count / before, FULL)) > count:
                made += values(WARM_UP + count, wanted - count)
                count = wanted
                speed, prepared = encoded(made)
                before = bare_copy(settings, prepared, writers)
            whole, own, server = whole_sinks(run, settings, made, warm, writers)
            after = bare_copy(settings, prepared, writers)
        cpu_seconds = {"CPU seconds per million rows": round(own, 2), "of the database sessions": round(server, 2)}
        ours = Figure(whole, durable="rows and offsets in one transaction", detail=cpu_seconds)
        peers = {"raw binary COPY": Figure.of([before, after], "committed"), "making rows alone": Figure(speed)}
        name = f"sink, agg_trades to its table, {writers} writer{'s' if writers > 1 else ''}"
        note = f"CPU seconds per million rows: sink {own:.2f}, its database sessions {server:.2f}"
        if writers >= len(os.sched_getaffinity(0)):
            # The bare COPY has every core to itself; beside as many sessions the sinks (and the broker, which is not counted here) need the same cores.
            note += f"; COPY has all cores, the sinks' sessions {server / (server + own):.0%} of them at most"
        yield Row(name, "rows/s", ours, peers, bars={"raw binary COPY": 0.7}, size={"rows": count}, note=note)

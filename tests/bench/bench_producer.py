"""How fast a producer writes a venue's trades, beside a plain websockets + aiokafka writer (one await a message), in one run.

Run: ``perpflow bench --only producer``. The simulated venue sends trades that were made beforehand as fast as they are read; each writer runs alone, as
a process on one core, the venue and the broker on the others. Both must leave the same trades. Then all streams are played at several rates, up to ten
times the worst second that was measured, and of every record it is stated how long it took from the socket to Kafka's acknowledgement
(measured_producer.py), as exact quantiles, with the shares of producer and broker in them, memory, and how busy each process was.
``bench_signals.py`` measures on to the decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from confluent_kafka import Consumer, TopicPartition

from deploy.stack import processes
from producers.venue.adapter.base import Channel, Market
from producers.venue.network.rest import Rest, limiter_of
from producers.venue.state.order_book import APPLIED, OrderBook
from producers.venues import adapter_of
from schemas.codec.avro import Codec
from schemas.codec.columnar import decode
from schemas.codec.key_table import KeyTable
from schemas.settings import Settings
from stream_apps.core.paper.market_rows import numbers_of
from stream_apps.replay.sources.topics import TopicSource
from tests.bench.measured_producer import spread, steady
from tests.bench.rows import Figure, Row
from tests.bench.running import ROOT, Run
from tests.bench.sizing import grown

MEASURED = Path(__file__).with_name("measured_producer.py")
INSTRUMENTS = 20
# What the producer subscribes to.
STREAMS = "aggTrade,depth@100ms,bookTicker,markPrice@1s,forceOrder"
# Messages a second: ten times the worst second that was recorded.
BUSIEST = 25_000
# Rates at which the plain writer is heard, too: one that it can take, and the busiest.
BESIDE_PLAIN = (5_000, BUSIEST)
# Trades of the comparison with the plain writer.
FULL, QUICK = 600_000, 100_000
HZ = os.sysconf("SC_CLK_TCK")


class Program:
    """A process of ours on some of the cores."""

    def __init__(self, arguments: list[str], cores: set[int], variables: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=self._errors,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip

    def last_words(self) -> str:
        """Return the end of its standard error."""
        end = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), 2_000, max(0, end - 2_000)).decode(errors="replace")

    def first_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"the venue did not come up: {self.last_words()}")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / HZ

    def rss_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def venue(
    trades: int,
    others: set[int],
    *,
    rate: str = "10",
    kinds: str = "trades",
    messages: int = 1,
    instruments: int = INSTRUMENTS,
    ahead: str = "",
) -> tuple[Program, dict[str, Any]]:
    program = Program(
        ["-m", "deploy.cli", "simulate", "--venue", "BINANCE", "--instruments", str(instruments), "--rate", rate, "--messages", str(messages),
         "--burst", str(trades), "--kinds", kinds, "--ahead", ahead, "--settle", "1", "--seed", "7"],
        others, {"PERPFLOW_LOG_LEVEL": "error"},
    )  # fmt: skip
    return program, program.first_line()


class Watch:
    """How many records a topic of an environment holds."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "watch"})
        self.places = [TopicPartition(settings.topic(topic), partition) for partition in range(settings.partitions)]

    def count(self) -> int:
        return sum(self.consumer.get_watermark_offsets(place, timeout=10)[1] for place in self.places)


def measure(writer: Program, watch: Watch, trades: int) -> tuple[float, float, int]:
    """Return (trades a second of the writer's CPU, of the wall, trades counted) between the first tenth and the end."""
    deadline = time.monotonic() + 300
    while (begun := watch.count()) < trades // 10:
        if time.monotonic() > deadline or writer.process.poll() is not None:
            raise RuntimeError(f"the writer stopped at {begun} trades")
        time.sleep(0.02)
    started, cpu = time.monotonic(), writer.cpu_s()
    count = begun
    while count < trades and writer.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        count = watch.count()
        last, last_cpu = time.monotonic(), writer.cpu_s()
    return (count - begun) / max(last_cpu - cpu, 1e-9), (count - begun) / (last - started), count


def sums(settings: Settings) -> dict[str, tuple[int, int]]:
    """Return instrument -> (trades, quantity in 1e-8) of all trades in the topics, repeats counted once."""
    keys, parts = KeyTable(), []
    with TopicSource(settings, ("agg_trades",)) as source:
        for _, _, records in source.everything():
            columns = decode(settings.codec, "agg_trades", records)
            assert columns.good.all(), columns.rejected[:3]
            code = numbers_of(records, keys, np.ones(len(records), dtype=np.bool_))
            parts.append(np.stack([code, columns.long("agg_id"), np.round(columns.double("quantity") * 1e8).astype(np.int64)], axis=1))
    rows = np.unique(np.concatenate(parts), axis=0)  # a trade that was written twice is the same row
    return {name: (int((rows[:, 0] == n).sum()), int(rows[rows[:, 0] == n, 2].sum())) for n, name in enumerate(keys.keys)}


# --- the plain writer ------------------------------------------------------------------------------------------------


async def plain(info: dict[str, Any], settings: Settings, figures: Path | None) -> None:
    """websockets in, one record mapped and encoded with fastavro, ``await send`` to aiokafka: what a first version looks like.

    Args:
        info: Addresses of the venue, its symbols with their base assets, and which channels to hear.
        settings: Where to write.
        figures: Where to write how long each record took when the process is told to stop; None: it is not measured.
    """
    from aiokafka import AIOKafkaProducer
    from websockets.asyncio.client import connect

    venue = adapter_of("BINANCE")
    rest = Rest(venue.venue, info["rest_url"], limiter_of(venue.venue, info["rest_url"], venue.limits))
    streams: dict[str, tuple[Channel, Market, int]] = {}
    wanted = []
    for symbol, base in info["symbols"].items():
        for channel in (one for one in venue.channels if one.name in info["channels"]):
            market = Market(symbol, f"BINANCE:{symbol}-PERP", {"funding_interval_hours": 8})
            streams[venue.wire_name(symbol, channel)] = channel, market, settings.partition_of(base)
            wanted.append((symbol, channel))
    books = {symbol: OrderBook() for symbol in info["symbols"]}
    encoders = {channel.topic: Codec().encoder(channel.topic) for channel in venue.channels}
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", enable_idempotence=True, linger_ms=5)
    waits = array("q")  # said by the venue, acknowledged, said, ...
    await producer.start()

    async def hear(url: str) -> None:
        async with connect(url, compression=None, max_size=None) as ws:
            async for raw in ws:
                message = orjson.loads(raw)
                channel, market, partition = streams[message["stream"]]
                received = time.time_ns() // 1_000_000
                for topic, said in venue.take(channel, message["data"], market, received):
                    record = said if isinstance(said, dict) else await top_of(market, said, received)
                    if record is None:
                        continue
                    future = await producer.send(
                        settings.topic(topic), encoders[topic](record), market.instrument.encode(), partition, record["event_time"]
                    )
                    if figures is not None:
                        future.add_done_callback(lambda _, at=record["event_time"]: waits.extend((at * 1_000_000, time.time_ns())))

    async def top_of(market: Market, change: Any, received: int) -> dict[str, Any] | None:
        book = books[market.symbol]
        if book.diff(change) is not APPLIED:
            if book.waiting:
                book.load(await venue.snapshot(rest, market.symbol))
            return None
        top = book.top()._asdict()
        return {
            "instrument": market.instrument,
            "event_time": top.pop("time"),
            "receive_time": received,
            "epoch": book.epoch,
            "state": "live",
            **top,
        }

    plans = venue.plans(info["ws_url"], wanted)
    work = asyncio.gather(*(hear(plan.url) for plan in plans))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        if figures is not None:
            said, end = steady(np.array(waits, dtype=np.int64).reshape(-1, 2), by=0).T
            figures.write_text(json.dumps({"records": len(said), "said_to_acknowledged": spread(end - said)}))
        await producer.stop()


def plain_program(argv: list[str]) -> None:
    """Run the plain writer: what to do as JSON, and where its figures go, if anywhere."""
    asyncio.run(plain(json.loads(argv[0]), Settings(), Path(argv[1]) if argv[1:] else None))


def plain_arguments(urls: dict[str, Any], channels: Sequence[str]) -> list[str]:
    """Return the command of the plain writer, without the file of its figures."""
    with urllib.request.urlopen(f"{urls['rest_url']}/fapi/v1/exchangeInfo") as answer:
        symbols = {entry["symbol"]: entry["baseAsset"] for entry in json.load(answer)["symbols"]}
    info = {"ws_url": urls["ws_url"], "rest_url": urls["rest_url"], "symbols": symbols, "channels": list(channels)}
    return [str(Path(__file__)), "--plain", json.dumps(info)]


# --- the run ---------------------------------------------------------------------------------------------------------


def one(run: Run, ours: bool, trades: int) -> tuple[float, float, int, dict[str, tuple[int, int]]]:
    """Measure one writer; return trades a CPU second and a second, how many there were, and their sums."""
    with run.environment() as settings:
        serving, urls = venue(trades, run.cores.others)
        try:
            if ours:
                arguments = ["-m", "deploy.cli", "produce", "--base-url", urls["rest_url"], "--symbols", "all", "--streams", "agg_trades"]
            else:
                arguments = plain_arguments(urls, ("aggTrade",))
            writer = Program(arguments, run.cores.contestant, run.variables(settings))
            try:
                by_cpu, by_wall, count = measure(writer, Watch(settings, "agg_trades"), trades)
            finally:
                writer.stop()
            return by_cpu, by_wall, count, sums(settings)
        finally:
            serving.stop()


@contextlib.contextmanager
def all_streams(run: Run, seconds: int, rate: int, instruments: int) -> Iterator[tuple[Settings, Program, dict[str, Any]]]:
    """Yield topics, and a venue that plays all streams at a rate for so many seconds after somebody listens, with its addresses."""
    with run.environment() as settings:
        # The writer is waited for, and what it hears first is not measured: hence some more messages than the seconds take.
        messages = rate * (seconds + 15)
        serving, urls = venue(0, run.cores.others, rate=str(rate), kinds="", messages=messages, instruments=instruments, ahead=STREAMS)
        try:
            yield settings, serving, urls
        finally:
            serving.stop()


def mix(run: Run, seconds: int, rate: int = BUSIEST, instruments: int = INSTRUMENTS) -> dict[str, float]:
    """Play all streams at a rate; return what the producer kept up with, its memory at the first third and at the end, and how long records took."""
    with all_streams(run, seconds, rate, instruments) as (settings, serving, urls), tempfile.TemporaryDirectory() as folder:
        port = processes.free_port()
        variables = run.variables(settings) | {"PERPFLOW_HTTP_PORT": str(port)}
        figures = Path(folder) / "figures.json"
        arguments = [str(MEASURED), str(figures), "--base-url", urls["rest_url"], "--symbols", "all"]
        writer = Program(arguments, run.cores.contestant, variables)
        try:
            wait_for_frames(writer, port)
            samples = []
            started = time.monotonic()
            frames: list[tuple[float, float]] = []
            busy = {"producer": writer.cpu_s(), "venue": serving.cpu_s(), "broker": broker_cpu_s(settings)}
            for second in range(seconds):
                if writer.process.poll() is not None:
                    break
                time.sleep(max(0.0, started + second + 1 - time.monotonic()))
                samples.append(writer.rss_mb())
                if second in (seconds // 3, seconds - 1):  # not more often: Prometheus scrapes every 15 s
                    frames.append((time.monotonic(), _metric(port, "perpflow_frames_received_total")))
            passed = time.monotonic() - started
            now = {"producer": writer.cpu_s(), "venue": serving.cpu_s(), "broker": broker_cpu_s(settings)}
            writer.stop()
            found = json.loads(figures.read_text())
        finally:
            writer.stop()
    return {
        "messages_a_second": (frames[-1][1] - frames[0][1]) / (frames[-1][0] - frames[0][0]),
        "offered": float(rate),
        "rss_mb_third": samples[len(samples) // 3],
        "rss_mb_end": samples[-1],
        "records_measured": float(found["records"]),
        **{f"received_to_acknowledged_{name}": value for name, value in found["received_to_acknowledged"].items()},
        "of_which_in_the_producer_p99_ms": found["received_to_client_library"]["p99_ms"],
        "of_which_at_the_broker_p99_ms": found["client_library_to_acknowledged"]["p99_ms"],
        "said_to_received_p99_ms": found["said_to_received"]["p99_ms"],
        **{f"said_to_acknowledged_{name}": value for name, value in found["said_to_acknowledged"].items()},
        **{f"cpu_share_{name}": (now[name] - busy[name]) / passed for name in busy},
    }


def plain_mix(run: Run, seconds: int, rate: int = BUSIEST, instruments: int = INSTRUMENTS) -> dict[str, float]:
    """Play the same to the plain writer; return how long its records took from the venue's time to the acknowledgement.

    What waits in its socket while it does not read is part of that, as it is for ours.
    """
    with all_streams(run, seconds, rate, instruments) as (settings, _, urls), tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        channels = ("aggTrade", "depth", "bookTicker", "markPrice", "forceOrder")
        writer = Program([*plain_arguments(urls, channels), str(figures)], run.cores.contestant, run.variables(settings))
        try:
            watch, deadline = Watch(settings, "agg_trades"), time.monotonic() + 60
            while not watch.count():
                if time.monotonic() > deadline or writer.process.poll() is not None:
                    raise RuntimeError("the plain writer writes nothing")
                time.sleep(0.1)
            time.sleep(seconds)
        finally:
            writer.stop()
        found = json.loads(figures.read_text())
    return {
        "records_measured": float(found["records"]),
        **{f"said_to_acknowledged_{name}": at for name, at in found["said_to_acknowledged"].items()},
    }


def wait_for_frames(writer: Program, port: int) -> None:
    """Wait until a producer hears its venue. Raises RuntimeError when it does not within a minute."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            if _metric(port, "perpflow_frames_received_total"):
                return
        if time.monotonic() > deadline or writer.process.poll() is not None:
            raise RuntimeError(f"the producer hears nothing: {writer.last_words()}")
        time.sleep(0.1)


def broker_cpu_s(settings: Settings) -> float:
    """Return the CPU seconds of the Kafka broker that listens on the first of the bootstrap servers; 0 where it is not this machine's."""
    port = int(settings.kafka_bootstrap_servers.split(",")[0].rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            times = psutil.Process(connection.pid).cpu_times()
            return float(times.user + times.system)
    return 0.0


def _samples(port: int, name: str) -> list[tuple[str, float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines if line.startswith(name)]


def _metric(port: int, name: str) -> float:
    return sum(value for _, value in _samples(port, name))


def rows(run: Run) -> Iterator[Row]:
    """Yield the producer beside the plain writer, and how long records take at several rates."""
    trades, rates = (QUICK, dict[int, int]()) if run.quick else (FULL, {5_000: 20, 12_000: 20, BUSIEST: 60})
    values: dict[bool, list[tuple[float, float, int, dict[str, tuple[int, int]]]]] = {True: [], False: []}
    for number in range(run.repetitions):
        for ours in (True, False)[:: -1 if number % 2 else 1]:
            values[ours].append(one(run, ours, trades))
    for _, _, count, found in values[True]:
        assert count >= trades, f"{count} of {trades} trades were written"
        # The venue is the same by its seed: what both read to the end is the same. The plain writer may have been stopped before its last ones.
        for _, _, plain_count, plain_found in values[False]:
            assert plain_count >= trades * 0.98, f"{plain_count} of {trades} trades were written by the plain writer"
            assert any(found[name] == plain_found.get(name) for name in found), "no instrument has the same trades"
    # Both must read the same trades to be compared; those last the plain writer ten times as long as ours.
    while run.quick and (wanted := grown(trades, trades / values[True][-1][1], FULL)) > trades:
        trades = wanted
        values[True] = [one(run, True, trades)]
        assert values[True][0][2] >= trades, f"{values[True][0][2]} of {trades} trades were written"
    ours, plain = (Figure.of([by_wall for _, by_wall, _, _ in of], "acknowledged by all replicas, idempotent",
                             per_cpu_second=[round(by_cpu) for by_cpu, _, _, _ in of]) for of in (values[True], values[False]))  # fmt: skip
    peers = {"plain websockets + aiokafka": plain}
    yield Row("producer, frames to acknowledged records", "trades/s", ours, peers, bars={"ours": 60_000.0}, size={"trades": trades})
    for rate, seconds in rates.items():
        found = mix(run, seconds, rate)
        peers = {
            "p50": Figure(found["received_to_acknowledged_p50_ms"]),
            "p99 inside the producer": Figure(found["of_which_in_the_producer_p99_ms"]),
        }
        yield Row(
            f"producer, socket to acknowledgement p99, all streams at {rate:,}/s", "ms", Figure(found["received_to_acknowledged_p99_ms"], detail=found),
            peers, more_is_better=False, bars={"ours": 50.0} if rate == BUSIEST else {}, size={"seconds": seconds, "instruments": INSTRUMENTS},
        )  # fmt: skip
        if rate in BESIDE_PLAIN:
            plain_found = plain_mix(run, seconds, rate)
            yield Row(
                f"producer, the venue's time to acknowledgement p99, all streams at {rate:,}/s", "ms", Figure(found["said_to_acknowledged_p99_ms"]),
                {"plain websockets + aiokafka": Figure(plain_found["said_to_acknowledged_p99_ms"], detail=plain_found)}, more_is_better=False,
                size={"seconds": seconds, "instruments": INSTRUMENTS},
            )  # fmt: skip


if __name__ == "__main__":  # the plain writer is a process of its own
    assert sys.argv[1] == "--plain"
    plain_program(sys.argv[2:])

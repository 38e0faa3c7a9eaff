"""How fast a producer writes a venue's trades, beside a plain websockets + aiokafka writer (one await a message), in one run.

Run: ``python tests/bench/bench_producer.py [--trades N] [--quick]`` with KAFKA_BOOTSTRAP_SERVERS set (``perpflow stack env``). The simulated venue
sends trades that were made beforehand as fast as they are read; each writer runs alone, as a process on one core, the venue and the broker on the
others. Both must leave the same trades. ``--mix SECONDS`` also plays all streams at 25,000 messages a second, ten times the worst second that was
measured, and states memory and latency. Report ratios; machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from deploy.stack.topics import create_topics, delete_topics
from producers.binance import mapping
from schemas.codec import Codec
from schemas.partition import partition_of
from schemas.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTS = 20
HZ = os.sysconf("SC_CLK_TCK")


class Program:
    """A process of ours on some of the cores."""

    def __init__(self, arguments: list[str], cores: set[int], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip

    def first_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError("the venue did not come up")

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


def cores() -> tuple[set[int], set[int]]:
    """Return the writer's core and the others."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, set(available[1:]) or {available[0]}


def venue(
    trades: int, others: set[int], *, rate: str = "10", kinds: str = "trades", messages: int = 1, instruments: int = INSTRUMENTS
) -> tuple[Program, dict[str, Any]]:
    program = Program(
        ["-m", "deploy.cli", "simulate", "--venue", "BINANCE", "--instruments", str(instruments), "--rate", rate, "--messages", str(messages),
         "--burst", str(trades), "--kinds", kinds, "--settle", "1", "--seed", "7"],
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


def sums(settings: Settings, topic: str) -> dict[str, tuple[int, int]]:
    """Return instrument -> (trades, quantity in 1e-8) of all that is in a topic."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "sums", "enable.auto.commit": False})
    left = {}
    for partition in range(settings.partitions):
        _, high = consumer.get_watermark_offsets(TopicPartition(settings.topic(topic), partition), timeout=10)
        if high:
            left[partition] = high
    consumer.assign([TopicPartition(settings.topic(topic), partition, 0) for partition in left])
    found: dict[str, tuple[int, int]] = {}
    seen: set[tuple[str, int]] = set()
    while left:
        for message in consumer.consume(20_000, timeout=1):
            record = settings.codec.decode("agg_trades", message.value())
            name = record["instrument"]
            if (name, record["agg_id"]) not in seen:
                seen.add((name, record["agg_id"]))
                count, quantity = found.get(name, (0, 0))
                found[name] = (count + 1, quantity + round(record["quantity"] * 1e8))
            if (message.offset() or 0) + 1 >= left.get(message.partition() or 0, 0):
                left.pop(message.partition() or 0, None)
    consumer.close()
    return found


# --- the plain writer ------------------------------------------------------------------------------------------------


async def plain(ws_url: str, symbols: list[str], bases: dict[str, str], settings: Settings) -> None:
    """websockets in, one record mapped and encoded with fastavro, ``await send`` to aiokafka: what a first version looks like."""
    from aiokafka import AIOKafkaProducer
    from websockets.asyncio.client import connect

    encode = Codec().encoder("agg_trades")
    topic = settings.topic("agg_trades")
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", enable_idempotence=True, linger_ms=5)
    await producer.start()
    names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in symbols)
    try:
        async with connect(f"{ws_url}/market/stream?streams={names}", compression=None, max_size=None) as ws:
            async for raw in ws:
                data = orjson.loads(raw)["data"]
                received = time.time_ns() // 1_000_000
                instrument = f"BINANCE:{data['s']}-PERP"
                record = mapping.agg_trade(data, instrument, received)
                partition = partition_of(bases[data["s"]], settings.partitions)
                await producer.send(topic, encode(record), instrument.encode(), partition, record["event_time"])
    finally:
        await producer.stop()


def plain_program(argv: list[str]) -> None:
    info = json.loads(argv[0])
    asyncio.run(plain(info["ws_url"], info["symbols"], info["bases"], Settings()))


# --- the run ---------------------------------------------------------------------------------------------------------


def environment(servers: str) -> tuple[Settings, dict[str, str]]:
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "PERPFLOW_TOPIC_PREFIX": f"bench{uuid.uuid4().hex[:8]}.",
        "PERPFLOW_LOG_LEVEL": "error",
    }
    settings = Settings(kafka_bootstrap_servers=servers, topic_prefix=variables["PERPFLOW_TOPIC_PREFIX"])
    create_topics(settings)
    return settings, variables


def contracts(rest_url: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{rest_url}/fapi/v1/exchangeInfo") as answer:
        return {entry["symbol"]: entry["baseAsset"] for entry in json.load(answer)["symbols"]}


def one(ours: bool, trades: int) -> tuple[float, float, int, dict[str, tuple[int, int]]]:
    servers = Settings().kafka_bootstrap_servers
    settings, variables = environment(servers)
    own, others = cores()
    serving, urls = venue(trades, others)
    try:
        if ours:
            arguments = ["-m", "deploy.cli", "produce", "--base-url", urls["rest_url"], "--symbols", "all", "--streams", "agg_trades"]
        else:
            bases = contracts(urls["rest_url"])
            info = {"ws_url": urls["ws_url"], "symbols": list(bases), "bases": bases}
            arguments = [str(Path(__file__)), "--plain", json.dumps(info)]
        writer = Program(arguments, own, variables)
        try:
            by_cpu, by_wall, count = measure(writer, Watch(settings, "agg_trades"), trades)
        finally:
            writer.stop()
        return by_cpu, by_wall, count, sums(settings, "agg_trades")
    finally:
        serving.stop()
        delete_topics(settings)


def mix(seconds: int, rate: int = 25_000, instruments: int = INSTRUMENTS) -> dict[str, float]:
    """Play all streams at a rate; return what the producer kept up with, its memory at the start and at the end, and its latency."""
    servers = Settings().kafka_bootstrap_servers
    settings, variables = environment(servers)
    own, others = cores()
    serving, urls = venue(0, others, rate=str(rate), kinds="", messages=rate * seconds, instruments=instruments)
    port = int(urls["port"]) + 1
    variables |= {"PERPFLOW_HTTP_PORT": str(port)}
    writer = Program(["-m", "deploy.cli", "produce", "--base-url", urls["rest_url"], "--symbols", "all"], own, variables)
    try:
        samples = []
        started = time.monotonic()
        frames: list[tuple[float, float]] = []
        while time.monotonic() - started < seconds and writer.process.poll() is None:
            time.sleep(1)
            samples.append(writer.rss_mb())
            frames.append((time.monotonic(), _metric(port, "perpflow_frames_received_total")))
        quantiles = _quantile(port, "perpflow_ack_latency_seconds", 0.99)
        behind = _quantile(port, "perpflow_receive_delay_seconds", 0.99)
        steady = frames[len(frames) // 3 :]
        return {
            "messages_a_second": (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0]),
            "offered": float(rate),
            "rss_mb_third": samples[len(samples) // 3],
            "rss_mb_end": samples[-1],
            "step_to_acknowledged_p99_s": quantiles,
            "venue_to_received_p99_s": behind,
            "cpu_share": writer.cpu_s() / (time.monotonic() - started),
        }
    finally:
        writer.stop()
        serving.stop()
        delete_topics(settings)


def _samples(port: int, name: str) -> list[tuple[str, float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines if line.startswith(name)]


def _metric(port: int, name: str) -> float:
    return sum(value for _, value in _samples(port, name))


def _quantile(port: int, name: str, share: float) -> float:
    """Return the upper bound of the bucket that holds a quantile."""
    buckets: dict[float, float] = {}
    for labels, value in _samples(port, f"{name}_bucket"):
        bound = float(labels.partition('le="')[2].partition('"')[0])
        buckets[bound] = buckets.get(bound, 0.0) + value
    total = buckets.get(float("inf"), 0.0)
    return min((bound for bound, count in buckets.items() if count >= share * total), default=float("nan"))


def run(trades: int) -> dict[str, float]:
    """Measure both writers; raises AssertionError when they left different trades."""
    ours_cpu, ours_wall, ours_count, ours_sums = one(True, trades)
    plain_cpu, plain_wall, plain_count, plain_sums = one(False, trades)
    # The venue is the same by its seed: what both read to the end is the same.
    assert ours_count >= trades and plain_count >= trades * 0.98, (ours_count, plain_count)
    shared = {name for name in ours_sums if ours_sums[name] == plain_sums.get(name)}
    return {
        "ours_per_cpu_s": ours_cpu, "ours_per_s": ours_wall, "plain_per_cpu_s": plain_cpu, "plain_per_s": plain_wall,
        "ratio_cpu": ours_cpu / plain_cpu, "ratio_wall": ours_wall / plain_wall, "instruments_with_equal_sums": float(len(shared)),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--plain"]:
        plain_program(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=600_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mix", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--rate", type=int, default=25_000, help="messages a second of --mix")
    parser.add_argument("--instruments", type=int, default=INSTRUMENTS, help="instruments of --mix")
    parser.add_argument("--only-mix", action="store_true")
    options = parser.parse_args()
    if options.only_mix:
        for name, value in mix(options.mix, options.rate, options.instruments).items():
            print(f"{name:30} {value:,.4g}")
        return
    found = run(100_000 if options.quick else options.trades)
    print(f"ours   {found['ours_per_s']:>10,.0f} trades/s wall, {found['ours_per_cpu_s']:>10,.0f} a CPU second")
    print(f"plain  {found['plain_per_s']:>10,.0f} trades/s wall, {found['plain_per_cpu_s']:>10,.0f} a CPU second (websockets + aiokafka)")
    print(f"ratio  {found['ratio_wall']:.1f} wall, {found['ratio_cpu']:.1f} by CPU")
    if options.mix:
        for name, value in mix(options.mix, options.rate, options.instruments).items():
            print(f"{name:30} {value:,.4g}")


if __name__ == "__main__":
    main()

"""The console's live stream: CPU of the process with 100 clients at 25,000 market messages a second. Run: ``perpflow bench --only console-live``.

The server is a process of its own; clients and producer are here. Staleness is the longest time between two books of an instrument that a client got.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator

import psutil
from confluent_kafka import Producer

from deploy.stack.processes import free_port
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from tests.bench.rows import OURS, Figure, Row
from tests.bench.running import Run

CLIENTS, RATE = 100, 25_000
NAMES = [f"BINANCE:{base}USDT-PERP" for base in ("BTC", "ETH", "SOL", "XRP", "LTC", "DOGE", "ADA", "AVAX", "LINK", "DOT")]
STEP_S = 0.05


def serve(port: int) -> None:
    """Serve the stream until killed."""
    from tests.sinks.console.live.live_lab import Server

    with Server(Settings(), port=port):
        threading.Event().wait()


def produce(settings: Settings, stop: threading.Event, sent: list[int]) -> None:
    """Write RATE records a second: nine trades for each book."""
    from tests.sinks.console.live.live_lab import record, trade

    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 5, "queue.buffering.max.messages": 500_000})
    levels = {side: [float(n) for n in range(20)] for side in ("bid_prices", "bid_quantities", "ask_prices", "ask_quantities")}
    encode, due = settings.codec.encode, time.monotonic()
    while not stop.is_set():
        now = int(time.time() * 1000)
        for n in range(int(RATE * STEP_S)):
            name = NAMES[n % len(NAMES)]
            topic = "depth" if (n // len(NAMES)) % 10 == 0 else "agg_trades"
            one = record("depth", instrument=name, event_time=now, last_update_id=now, state="live", **levels) if topic == "depth" else None
            value = encode(topic, one or trade(sent[0], now, 100.0, 0.5, instrument=name))
            producer.produce(settings.topic(topic), value, name, settings.partition_of(base_of_instrument(name)), timestamp=now)
            sent[0] += 1
        producer.poll(0)
        due += STEP_S
        time.sleep(max(0.0, due - time.monotonic()))
    producer.flush(10)


async def watch(port: int, channels: str, seconds: float, worst: list[float]) -> None:
    """Read a stream; note the longest silence after the first book."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/v1/live?channels={channels} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    end, last, longest = time.monotonic() + seconds, 0.0, 0.0
    while time.monotonic() < end:
        chunk = await asyncio.wait_for(reader.read(1 << 18), 30)
        now = time.monotonic()
        if b"event: books" in chunk:
            longest, last = max(longest, now - last if last else 0.0), now
    writer.close()
    worst.append(longest)


def rows(run: Run) -> Iterator[Row]:
    """Yield percent of a core and the longest staleness."""
    import subprocess

    seconds = 12.0 if run.quick else 60.0
    channels = ",".join(f"{c}" for name in NAMES[:3] for c in (f"books:{name}", f"candles:{name}:1m", f"cvd:{name}"))
    with run.environment() as settings:
        port, stop, sent, worst = free_port(), threading.Event(), [0], list[float]()
        command = [sys.executable, "-c", f"from tests.bench.bench_console_live import serve; serve({port})"]
        server = subprocess.Popen(command, env=run.variables(settings))
        feeding = threading.Thread(target=produce, args=(settings, stop, sent))
        feeding.start()
        try:
            time.sleep(8)
            process, used = psutil.Process(server.pid), [0.0, 0.0]

            async def all_clients() -> None:
                watching = [asyncio.create_task(watch(port, channels, seconds + 5, worst)) for _ in range(CLIENTS)]
                await asyncio.sleep(5)
                before, begin, had = sum(process.cpu_times()[:2]), time.monotonic(), sent[0]
                await asyncio.sleep(seconds - 1)
                took = time.monotonic() - begin
                used[:] = [(sum(process.cpu_times()[:2]) - before) / took * 100, (sent[0] - had) / took]
                await asyncio.gather(*watching)

            asyncio.run(all_clients())
        finally:
            stop.set()
            feeding.join()
            server.kill()
            server.wait()
        size = {"clients": CLIENTS, "messages/s": round(used[1])}
        note = f"{len(worst)} clients read to the end; {used[1]:,.0f} messages/s were written of {RATE:,} wanted, 10 % of them books"
        yield Row(
            "console: 100 live clients",
            "% of a core",
            Figure(round(used[0], 1)),
            more_is_better=False,
            bars={OURS: 30},
            size=size,
            note=note,
        )
        yield Row("console: longest silence of a book", "s", Figure(round(max(worst), 2)), more_is_better=False, bars={OURS: 1}, size=size)

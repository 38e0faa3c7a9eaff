"""A console that serves only the live stream, records written to its topics, and a client that reads the stream as browsers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from confluent_kafka import Consumer, Producer, TopicPartition
from fastapi import FastAPI

from deploy.stack.processes import free_port
from schemas import catalogue
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from sinks.console.api.live import VIEWER, live_of, permitted_of, router
from sinks.console.http.problems import add_handlers
from sinks.console.live.live import Live, LiveOptions

BTC, ETH, LTC = "BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP", "BINANCE:LTCUSDT-PERP"
T0 = 1_726_000_020_000  # a whole minute
_PLAIN: dict[str, Any] = {"string": "x", "int": 1, "long": 1, "double": 1.5, "boolean": False, "bytes": b"\x00\xff"}


def record(topic: str, **fields: Any) -> dict[str, Any]:
    """Return a record of a topic; what is not given is null, empty or a plain value."""
    made = {one["name"]: _value(one["type"]) for one in catalogue.schema(topic)["fields"]}
    made.update({"event_time": T0, **({"instrument": BTC} if "instrument" in made else {}), **fields})
    assert not set(fields) - set(catalogue.field_names(topic))
    return made


def _value(kind: Any) -> Any:
    if isinstance(kind, list):
        return None
    if isinstance(kind, dict):
        return [] if kind["type"] == "array" else {} if kind["type"] == "map" else _value(kind["type"])
    return _PLAIN[kind]


def trade(number: int, time_ms: int, price: float, quantity: float, maker: bool = False, instrument: str = BTC) -> dict[str, Any]:
    """Return a trade."""
    return record(
        "agg_trades", instrument=instrument, agg_id=number, event_time=time_ms, price=price, quantity=quantity, buyer_is_maker=maker
    )


def instrument(name: str = BTC, quantity_decimals: int = 3) -> dict[str, Any]:
    """Return an instrument's facts."""
    return record("instruments", instrument=name, base_asset=base_of_instrument(name), quantity_decimals=quantity_decimals)


def produce(settings: Settings, topic: str, *records: dict[str, Any] | bytes, key: str = BTC) -> None:
    """Write records as their writers do; bytes are written as they are, under ``key``."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 1})
    single = catalogue.TOPICS[topic].partitions == 1
    for one in records:
        name = key if isinstance(one, bytes) else one.get("instrument", "")
        partition = 0 if single else settings.partition_of(base_of_instrument(name))
        if isinstance(one, bytes):
            value, kept, at = one, key, T0
        else:
            value, kept, at = settings.codec.encode(topic, one), str(one.get(catalogue.TOPICS[topic].key, name)), one["event_time"]
        producer.produce(settings.topic(topic), value, kept.encode(), partition, timestamp=at)
    assert producer.flush(30) == 0


def in_topic(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """Return all records of a topic that can be decoded, read by a consumer of its own: what the stream is held to."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "oracle", "enable.partition.eof": True})
    count = catalogue.TOPICS[topic].partition_count(settings.partitions)
    consumer.assign([TopicPartition(settings.topic(topic), partition, 0) for partition in range(count)])
    found, ended = [], 0
    while ended < count:
        for message in consumer.consume(1000, 1.0):
            if message.error() is not None:
                ended += 1
            else:
                with contextlib.suppress(ValueError):
                    found.append(settings.codec.decode(topic, message.value()))
    consumer.close()
    return found


async def _always() -> bool:
    return True


class Server:
    """The live room behind a real server, in a thread with an event loop of its own."""

    def __init__(self, settings: Settings, options: LiveOptions | None = None, port: int = 0) -> None:
        self.port = port or free_port()
        self.live = Live(settings, options)
        app = FastAPI(lifespan=self._lifespan)
        add_handlers(app)
        app.include_router(router(), prefix="/api/v1")
        app.dependency_overrides = {live_of: lambda: self.live, VIEWER: lambda: None, permitted_of: lambda: _always}
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error", timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        self.live.start()
        yield
        await asyncio.to_thread(self.live.stop)

    def __enter__(self) -> Server:
        self._thread.start()
        until("the server answers", lambda: self._server.started)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.live.end_streams)
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def url(self, channels: str) -> str:
        """Return the address of a stream."""
        return f"http://127.0.0.1:{self.port}/api/v1/live?channels={channels}"


@dataclass
class Browser:
    """What a client has received, parsed by the rules of server-sent events.

    Attributes:
        events: (event, payload) in order.
        last_id: As a browser keeps it.
        comments: Number of heartbeats.
    """

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    last_id: str = ""
    comments: int = 0
    ended: bool = False

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the payloads of an event."""
        return [payload for event, payload in list(self.events) if event == name]

    def read(self, lines: Iterator[str], stop: threading.Event) -> None:
        """Read until the stream ends."""
        name, data, seen = "message", "", self.last_id
        for line in lines:
            if stop.is_set():
                break
            if not line:
                self.last_id = seen
                if data:
                    self.events.append((name, json.loads(data)))
                name, data = "message", ""
            elif line.startswith(":"):
                self.comments += 1
            else:
                key, _, value = line.partition(": ")
                name, data, seen = (value, data, seen) if key == "event" else (name, data, value) if key == "id" else (
                    (name, data + value, seen) if key == "data" else (name, data, seen)
                )  # fmt: skip


@contextlib.contextmanager
def browsing(server: Server, channels: str, last_id: str = "") -> Iterator[Browser]:
    """Open a stream and read it in a thread."""
    browser, stop = Browser(last_id=last_id), threading.Event()
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with (
        httpx.Client(timeout=httpx.Timeout(10, read=60), trust_env=False) as client,
        client.stream("GET", server.url(channels), headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()

        def work() -> None:
            with contextlib.suppress(httpx.HTTPError, RuntimeError, AttributeError):
                browser.read(response.iter_lines(), stop)
            browser.ended = True

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield browser
        finally:
            stop.set()


@contextlib.contextmanager
def greeted(server: Server, channels: str, last_id: str = "") -> Iterator[Browser]:
    """Open a stream, and wait until its events are complete."""
    with browsing(server, channels, last_id) as browser:
        until("hello", lambda: bool(browser.of("hello")), 30)
        yield browser


def until(what: str, holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)

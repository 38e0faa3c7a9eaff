"""The live stream when something fails: slow clients, a restart of the console, a broker that is killed, missing events."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from schemas import metrics
from schemas.process.service import summed
from schemas.settings import Settings
from sinks.console.live import event_ids
from sinks.console.live.live import LiveOptions
from tests.sinks.console.live.live_lab import BTC, ETH, T0, Server, browsing, greeted, produce, record, until

pytestmark = pytest.mark.stack


def signals(first: int, last: int) -> list[dict[str, Any]]:
    return [record("signals", signal_id=f"s{number}", event_time=T0 + number, score=float(number)) for number in range(first, last)]


def scores_of(browser: Any) -> list[float]:
    return [one["score"] for one in browser.of("signals")]


def test_a_restart_of_the_console_loses_and_doubles_nothing(environment: Settings, topics: list[str]) -> None:
    """Events come before, while and after no console runs; a client that resumes in the middle gets each once, and one without an id none of old."""
    with Server(environment) as server, greeted(server, "signals,orders") as browser:
        produce(environment, "signals", *signals(0, 10))
        produce(environment, "orders", *(record("orders", instrument=ETH, order_id=f"o{n}") for n in range(5)))
        until("the first events", lambda: len(browser.events) >= 16)
    produce(environment, "signals", *signals(10, 25))
    with Server(environment, port=server.port) as server:
        with greeted(server, "signals,orders", browser.last_id) as again, greeted(server, "signals") as fresh:
            assert again.of("hello") == [{"channels": ["orders:*", "signals:*"], "resumed": True}]
            produce(environment, "signals", *signals(25, 30))
            until("the missed and the new events", lambda: len(again.of("signals")) >= 20)
            until("the new events", lambda: len(fresh.of("signals")) >= 5)
            assert scores_of(again) == [float(n) for n in range(10, 30)]
            assert scores_of(fresh) == [float(n) for n in range(25, 30)]
            assert not again.of("orders") and not again.of("reset")
        with greeted(server, "signals,orders", browser.last_id) as twice:
            until("the same again", lambda: scores_of(twice) == [float(n) for n in range(10, 30)])


def test_a_client_whose_events_are_gone_is_asked_to_load_again(environment: Settings, topics: list[str]) -> None:
    before = summed(metrics.CONSOLE_RESETS)
    with Server(environment, LiveOptions(ring=20)) as server:
        with greeted(server, "signals,orders") as browser:
            until("an id", lambda: bool(browser.last_id))
        with greeted(server, "signals") as witness:
            produce(environment, "signals", *signals(0, 50))
            until("all were read", lambda: scores_of(witness)[-1:] == [49.0])
        with greeted(server, "signals,orders", browser.last_id) as late:
            until("the newest", lambda: scores_of(late)[-1:] == [49.0])
            assert late.of("reset") == [{"channels": ["signals"], "reason": "the missed events are no longer kept here"}]
            assert late.of("hello")[0]["resumed"] is False
        position, topics_of = event_ids.decode(late.last_id)
        strangers = [
            "garbage!",
            event_ids.encode({place: offset + 1_000 for place, offset in position.items()}, topics_of),
            event_ids.encode(position, {**topics_of, "signals": topics_of["signals"] % 65_535 + 1}),
        ]
        reasons = ["not one of ours", "was cut", "was made again"]
        for stranger, reason in zip(strangers, reasons, strict=True):
            with greeted(server, "signals", stranger) as other:
                assert reason in other.of("reset")[0]["reason"]
    assert summed(metrics.CONSOLE_RESETS) > before


@pytest.mark.long  # it fills the kernel's buffers first: a minute
def test_a_client_that_does_not_read_costs_no_memory_and_slows_nobody(environment: Settings, topics: list[str]) -> None:
    """It gets the newest snapshot when it reads again, and none of those between."""
    conflated = summed(metrics.CONSOLE_CONFLATED)
    levels = {side: [float(n) for n in range(20)] for side in ("bid_prices", "bid_quantities", "ask_prices", "ask_quantities")}
    names = [f"BINANCE:{base}USDT-PERP" for base in ("BTC", "ETH", "LTC", "XRP", "SOL", "ADA", "DOT", "BNB")]
    channels = ",".join(f"books:{name}" for name in names)
    with Server(environment, LiveOptions(tick_ms=10)) as server, greeted(server, channels) as good:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(f"GET /api/v1/live?channels={channels} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until("both are there", lambda: server.live.health()["clients"] == 2)
        stopping, sent = threading.Event(), [0]

        def feed() -> None:
            while not stopping.is_set():
                sent[0] += 1
                produce(
                    environment,
                    "depth",
                    *(
                        record("depth", instrument=n, last_update_id=sent[0], state="live", event_time=T0 + sent[0], **levels)
                        for n in names
                    ),
                )

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            until("the slow one is behind", lambda: summed(metrics.CONSOLE_CONFLATED) - conflated > 200, 90)
        finally:
            stopping.set()
            feeder.join()
        until(
            "the good one has the newest",
            lambda: {b["instrument"]: b["last_update_id"] for b in good.of("books")} == dict.fromkeys(names, sent[0]),
        )
        (client,) = [one for one in server.live._hub._all if one.dirty]
        assert set(client.dirty) <= {f"books:{name}" for name in names}
        slow.settimeout(5)
        got = b""
        while got.count(b'"last_update_id":%d,' % sent[0]) < len(names):
            got += slow.recv(1 << 20)
        books = got.count(b"event: books")
        assert books < len(names) * sent[0]
        slow.close()
        until("it has left", lambda: server.live.health()["clients"] == 1)


@pytest.mark.private_stack
def test_a_broker_that_is_killed_and_comes_back(environment: Settings, topics: list[str], private_stack: Any) -> None:
    """The clients stay connected, ``health`` says what happens, and each event comes once."""
    with Server(environment) as server, greeted(server, f"signals,health,quotes:{BTC}") as browser:
        produce(environment, "signals", *signals(0, 5))
        until("the first", lambda: len(browser.of("signals")) == 5)
        private_stack.local.kill_broker()
        until("it says so", lambda: browser.of("health")[-1]["kafka"] == "away", 30)
        assert not server.live.health()["ok"] and "does not answer" in browser.of("health")[-1]["reason"]
        with browsing(server, "signals,health") as during:
            until("a new client hears it, too", lambda: bool(during.of("health")) and during.of("health")[-1]["kafka"] == "away", 30)
        private_stack.local.up()
        produce(environment, "signals", *signals(5, 10))
        produce(environment, "quotes", record("quotes", bid_price=7.0, ask_price=8.0))
        until("all events", lambda: scores_of(browser) == [float(n) for n in range(10)], 60)
        until("states, too", lambda: bool(browser.of("quotes")), 30)
        until("it is well again", lambda: browser.of("health")[-1]["kafka"] == "ok", 30)
        assert not browser.of("reset") and not browser.ended


def test_a_console_that_starts_before_its_topics(environment: Settings) -> None:
    from deploy.stack.topics import create_topics

    with Server(environment) as server, browsing(server, f"signals,books:{BTC}") as browser:
        until("hello", lambda: bool(browser.of("hello")), 30)
        create_topics(environment)
        time.sleep(0.1)
        produce(environment, "signals", *signals(0, 3))
        produce(environment, "depth", record("depth", state="live", bid_prices=[1.0], bid_quantities=[1.0]))
        until("the events", lambda: scores_of(browser) == [0.0, 1.0, 2.0], 30)
        until("the book", lambda: bool(browser.of("books")), 30)

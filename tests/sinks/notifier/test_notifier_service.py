"""The notifier on a real broker: nothing is lost, repeats are bounded, replays are labelled, and no secret gets into a topic or a log."""

from __future__ import annotations

import contextlib
import json
import signal as signals
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.stack.processes import free_port
from schemas import catalogue, metrics
from schemas.partition import base_of_instrument
from schemas.process.service import Service, summed
from schemas.settings import Settings
from sinks.notifier import service as service_module
from sinks.notifier.delivery import channel as channel_module
from sinks.notifier.rules.config import load
from sinks.notifier.service import TOPICS, Notifier
from tests.sinks.notifier.notifier_places import (
    DISCORD_PATH,
    SECRETS,
    TELEGRAM_PATH,
    WEBHOOK_PATH,
    Answer,
    Mail,
    Web,
    channel_tables,
    secret_variables,
    serving,
)
from tests.sinks.notifier.notifier_records import BTC, ETH, LTC, T0, announced, record, signal
from tests.support.trading.paper_log import read_topic

pytestmark = pytest.mark.stack

EVERYTHING = '[[route]]\nchannels = ["robot"]\n'
FAST = "rate_per_minute = 60000\nburst = 1000\ntimeout_s = 2\n"


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Web, Mail]]:
    with serving() as both:
        yield both


@pytest.fixture
def web(places: tuple[Web, Mail], monkeypatch: pytest.MonkeyPatch) -> Web:
    places[0].requests.clear()
    places[0].script.clear()
    for name, value in secret_variables(places[0]).items():
        monkeypatch.setenv(name, value)
    return places[0]


def produce(settings: Settings, topic: str, *records: Any) -> None:
    """Write records as their writers do; bytes are written as they are."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 1})
    for one in records:
        garbage = isinstance(one, bytes)
        key = BTC if garbage else one.get(catalogue.TOPICS[topic].key) or BTC
        partition = (
            0
            if topic in ("dead_letters", "risk_state")
            else settings.partition_of("BTC" if garbage else base_of_instrument(one["instrument"]))
        )
        value = one if garbage else settings.codec.encode(topic, one)
        producer.produce(settings.topic(topic), value, key.encode(), partition, timestamp=T0 if garbage else one["event_time"])
    assert producer.flush(30) == 0


def written(tmp_path: Path, *tables: str) -> Path:
    path = tmp_path / "notifier.toml"
    path.write_text("".join(tables))
    return path


def robot(web: Web, mail: Mail, more: str = "") -> str:
    return channel_tables(web, mail, FAST + more)["robot"]


def notify_here(settings: Settings, config: Path, until_idle: float = 0.3, **more: Any) -> None:
    with Service("notifier") as service:
        Notifier(settings, service, load(config), **more).run(until_idle)


@contextlib.contextmanager
def process(variables: dict[str, str], config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "deploy.cli", "notify", "--config", str(config), "--from-beginning", "--instance", "one"]
    with log.open("ab") as file:
        running = subprocess.Popen(command, env=variables, stderr=file)
        try:
            yield running
        finally:
            running.kill()
            running.wait(10)


def ids(web: Web) -> Counter[str]:
    return Counter(one.json["event_id"] for one in web.to(WEBHOOK_PATH))


def committed(settings: Settings) -> dict[tuple[str, int], int]:
    group = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group("notifier")})
    places = [
        TopicPartition(settings.topic(topic), number)
        for topic in TOPICS
        for number in range(catalogue.TOPICS[topic].partition_count(settings.partitions))
    ]
    try:
        found = group.committed(places, timeout=10)
        return {(one.topic.removeprefix(settings.topic_prefix), one.partition): one.offset for one in found}
    finally:
        group.close()


def test_every_kind_goes_out_once_labelled_as_what_it_is(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path, environment_variables: Any
) -> None:
    """As a process, from start to SIGTERM: BTC is a recording, ETH is live, LTC is outside the top 2."""
    mail = places[1]
    produce(environment, "instruments", announced(BTC, True), announced(ETH, False), announced(LTC, False))
    windows = {f"volume_{name}": 5.0 for name in ("24h", "4h", "1h", "30m", "15m", "5m")}
    produce(
        environment,
        "features",
        *(record("features", instrument=name, price=price, **windows) for name, price in ((BTC, 6e4), (ETH, 3e3), (LTC, 60.0))),
    )
    first = signal(0)
    produce(environment, "signals", first, first, signal(1, ETH), signal(2, LTC))
    produce(environment, "trades_closed", record("trades_closed", trade_id="t1", instrument=LTC, net_r=-1.0))
    produce(
        environment,
        "positions",
        *(record("positions", position_id="p1", status=status) for status in ("pending", "open", "tp1_hit", "closed")),
    )
    produce(environment, "orders", record("orders", status="filled"), record("orders", status="rejected", reason="margin"))
    produce(
        environment,
        "data_quality",
        *(record("data_quality", quality_id=str(n), stream="depth", kind="stale", severity="error") for n in range(20)),
    )
    produce(environment, "gaps", record("gaps", stream="agg_trades", kind="id_gap", certain=True))
    produce(
        environment,
        "dead_letters",
        record("dead_letters", service="sink", source="depth", event_time=T0),
        record("dead_letters", service="notifier"),
    )
    # A guard says every two seconds what it allows; of it only what is new is told: that it halted, and that it let go.
    said = (
        [("normal", n) for n in range(1, 6)]
        + [("halted", n) for n in range(6, 20)]
        + [("halted", 19), ("normal", 3), ("normal", 20), ("normal", 21)]
    )
    produce(
        environment,
        "risk_state",
        *(record("risk_state", account="BINANCE-live", sequence=n, state=state, block_entries=state == "halted") for state, n in said),
    )
    tables = channel_tables(web, mail, FAST)
    config = written(
        tmp_path, "top = 2\n", *tables.values(), EVERYTHING, '[[route]]\nchannels = ["phone", "desk", "mail"]\nkinds = ["trade_closed"]\n'
    )
    port, log = free_port(), tmp_path / "log"
    variables = environment_variables(PERPFLOW_HTTP_PORT=port, PERPFLOW_LOG_LEVEL="debug", **secret_variables(web))
    with process(variables, config, log) as running:
        web.wait(WEBHOOK_PATH, 11)
        web.wait(TELEGRAM_PATH, 1)
        web.wait(DISCORD_PATH, 1)
        deadline = time.monotonic() + 120
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                shown = answer.read().decode()
            if 'perpflow_notifications_sent_total{channel="mail",kind="trade_closed"} 1.0' in shown:
                break
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        assert 'perpflow_notifications_suppressed_total{channel="robot",reason="window"} 19.0' in shown
        assert 'perpflow_notifications_suppressed_total{channel="",reason="repeat"} 1.0' in shown
        assert 'perpflow_notifications_suppressed_total{channel="",reason="top"} 1.0' in shown
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            health = json.load(answer)
        assert health["ok"] and set(health["channels"]) == {"phone", "desk", "robot", "mail"}
        running.send_signal(signals.SIGTERM)
        assert running.wait(120) == 0
    sent = web.to(WEBHOOK_PATH)
    assert Counter(one.json["kind"] for one in sent) == {
        "signal": 2,
        "trade_closed": 1,
        "position_opened": 1,
        "position_tp1": 1,
        "order_rejected": 1,
        "data_quality": 1,
        "gap": 1,
        "dead_letter": 1,
        "guard": 2,
    }
    assert [one.json["title"].rpartition(": ")[2] for one in sent if one.json["kind"] == "guard"] == ["halted, nothing is opened", "normal"]
    for one in sent:
        origin = {BTC: "replay", ETH: "live", LTC: "live", None: "mixed"}[one.json["instrument"]]
        assert one.json["origin"] == origin
        assert one.json["title"].startswith("[REPLAY] ") is (origin == "replay")
        assert ("Recorded data played back" in one.json["message"]) is (origin == "replay")
    assert len(mail.messages) == 2
    # All positions are at the ends.
    ends = {(topic, number): 0 for topic, number in committed(environment)}
    for topic in TOPICS:
        for message in read_topic(environment, topic):
            ends[topic, message.partition()] += 1
    assert committed(environment) == ends
    told = log.read_text()
    assert '"stopped"' in told and not any(secret in told for secret in SECRETS)


def test_killed_in_the_middle_nothing_is_lost_and_little_comes_again(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path, environment_variables: Any
) -> None:
    produce(environment, "instruments", announced(BTC, True))
    events = [signal(number) for number in range(120)]
    produce(environment, "signals", *events[:100])
    web.script[WEBHOOK_PATH] = [Answer(200, delay=0.05)] * 1000
    config = written(tmp_path, robot(web, places[1], "digest_over = 1000\n"), EVERYTHING)
    variables = environment_variables(PERPFLOW_HTTP_PORT=0, **secret_variables(web))
    with process(variables, config, tmp_path / "log") as running:
        killed = web.wait(WEBHOOK_PATH, 45)[-1].at
        running.send_signal(signals.SIGKILL)
        running.wait(10)
    time.sleep(0.1)
    before = web.to(WEBHOOK_PATH)
    assert 45 <= len(before) < 100
    produce(environment, "signals", *events[100:], *events[:3])  # and a worker that was killed too writes some again
    web.script.clear()
    with process(variables, config, tmp_path / "log"):
        deadline = time.monotonic() + 120
        while len(ids(web)) < 120:
            assert time.monotonic() < deadline, len(ids(web))
            time.sleep(0.05)
        time.sleep(0.5)
    counts = ids(web)
    assert set(counts) == {f"signal|{one['signal_id']}" for one in events}
    # Committed every second: what was sent in the second before the kill, and in the time of a commit, may come again.
    late = sum(1 for one in before if one.at > killed - 1.5) + 1
    again = sum(count - 1 for count in counts.values())
    assert max(counts.values()) <= 2 and again <= late, (again, late)
    assert counts[f"signal|{events[0]['signal_id']}"] == 1, "the worker's repeat was told again"


def test_what_cannot_be_sent_or_read_is_in_dead_letters_with_its_bytes(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path
) -> None:
    produce(environment, "instruments", announced(BTC, False))
    one, two = signal(0), signal(1)
    produce(environment, "signals", one, b"garbage", two)
    # The place wants neither the first nor anything of it, and says so with the secret in its words.
    web.script[WEBHOOK_PATH] = [Answer(400, {}, {"message": SECRETS[0]})]
    config = written(tmp_path, robot(web, places[1]), EVERYTHING)
    notify_here(environment, config, from_beginning=True)
    letters = [environment.codec.decode("dead_letters", message.value()) for message in read_topic(environment, "dead_letters")]
    assert {letter["source_offset"]: (letter["value"], letter["service"], letter["source"]) for letter in letters} == {
        0: (environment.codec.encode("signals", one), "notifier", "signals"),
        1: (b"garbage", "notifier", "signals"),
    }
    reasons = {letter["source_offset"]: letter["reason"] for letter in letters}
    assert reasons[0].startswith("channel robot: refused: HTTP 400") and "unknown frame" in reasons[1]
    assert all(letter["instrument"] == BTC and letter["key"] == BTC.encode() and letter["event_time"] for letter in letters)
    assert list(ids(web)) == [f"signal|{one['signal_id']}", f"signal|{two['signal_id']}"]
    # Its own letters are no news, and nothing is left to do.
    notify_here(environment, config)
    assert sum(ids(web).values()) == 2
    for topic in catalogue.TOPICS:
        for message in read_topic(environment, topic):
            assert not any(secret.encode() in (message.value() or b"") for secret in SECRETS)


def test_it_begins_at_the_end_and_goes_on_where_it_stopped(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path
) -> None:
    produce(environment, "instruments", announced(BTC, False))
    config = written(tmp_path, robot(web, places[1]), EVERYTHING)
    produce(environment, "signals", signal(0))
    notify_here(environment, config)
    assert not ids(web)
    produce(environment, "signals", signal(1), signal(0))  # signal 0 again: its id is known from before the position
    repeats = summed(metrics.NOTIFICATIONS_SUPPRESSED, reason="repeat")
    notify_here(environment, config)
    assert list(ids(web)) == [f"signal|{signal(1)['signal_id']}"]
    assert summed(metrics.NOTIFICATIONS_SUPPRESSED, reason="repeat") - repeats == 1


def test_a_failing_channel_holds_up_neither_the_others_nor_the_stop_and_is_made_good_later(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path
) -> None:
    produce(environment, "instruments", announced(BTC, False))
    produce(environment, "signals", *(signal(number) for number in range(10)))
    tables = channel_tables(web, places[1], FAST)
    config = written(tmp_path, tables["robot"], tables["desk"], '[[route]]\nchannels = ["robot", "desk"]\n')
    web.script[DISCORD_PATH] = [Answer(429, {"Retry-After": "600"})]
    with Service("notifier") as service:
        notifier = Notifier(environment, service, load(config), from_beginning=True)
        thread = threading.Thread(target=notifier.run)
        thread.start()
        web.wait(WEBHOOK_PATH, 10)
        web.wait(DISCORD_PATH, 1)
        assert service.health()["channels"]["desk"]["waiting"] >= 1
        begun = time.monotonic()
        service.stop()
        thread.join(20)
        assert not thread.is_alive() and time.monotonic() - begun < 15  # what is left is not waited for
    assert sum(ids(web).values()) == 10 and len(web.to(DISCORD_PATH)) == 1
    web.script.clear()
    notify_here(environment, config)
    discord = [one.json["content"] for one in web.to(DISCORD_PATH)]
    assert len(discord) == 11 and all("score 87.5" in text for text in discord)
    assert set(ids(web).values()) == {2}  # the price of one position for all channels; receivers know the ids


def test_reading_waits_for_a_slow_channel_that_works(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MOST_WAITING", 10)
    monkeypatch.setattr(service_module, "MESSAGES_PER_ROUND", 5)
    produce(environment, "instruments", announced(BTC, False))
    produce(environment, "signals", *(signal(number) for number in range(100)))
    web.script[WEBHOOK_PATH] = [Answer(200, delay=0.01), Answer(429, {"Retry-After": "0.1"}), Answer(500)] + [Answer(200, delay=0.01)] * 100
    notify_here(environment, written(tmp_path, robot(web, places[1], "digest_over = 1000\n"), EVERYTHING), from_beginning=True)
    assert len(ids(web)) == 100 and not list(read_topic(environment, "dead_letters"))


@pytest.mark.long
def test_partitions_that_move_take_their_messages_with_them(
    environment: Settings, topics: list[str], web: Web, places: tuple[Web, Mail], tmp_path: Path
) -> None:
    """The first notifier's channel is asked to wait; meanwhile a second one takes half of the partitions, and leaves again."""
    names = [f"BINANCE:{base}USDT-PERP" for base in ("BTC", "ETH", "SOL", "XRP", "LTC", "ADA", "DOGE", "LINK", "AVAX", "DOT", "TRX", "BCH")]
    assert len({environment.partition_of(base_of_instrument(name)) for name in names}) > 4
    produce(environment, "instruments", *(announced(name, False) for name in names))
    produce(environment, "signals", *(signal(number, name) for number in range(3) for name in names))
    config = load(written(tmp_path, "top = 0\n", robot(web, places[1], "digest_over = 1000\n"), EVERYTHING))
    web.script[WEBHOOK_PATH] = [Answer(429, {"Retry-After": "2"})]
    with Service("notifier") as service:
        first = threading.Thread(target=Notifier(environment, service, config, from_beginning=True).run)
        first.start()
        web.wait(WEBHOOK_PATH, 1)
        with Service("notifier") as other:
            second = threading.Thread(target=Notifier(environment, other, config, from_beginning=True).run)
            second.start()
            deadline = time.monotonic() + 120
            while not other.health()["partitions"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            web.wait(WEBHOOK_PATH, 1 + len(names) * 3)
            other.stop()
            second.join(20)
        produce(environment, "signals", *(signal(3, name) for name in names))
        web.wait(WEBHOOK_PATH, 1 + len(names) * 4)
        service.stop()
        first.join(20)
    counts = ids(web)
    assert len(counts) == len(names) * 4
    # The one that was answered with 429 came twice; and what was being sent at the moment of the move may have.
    assert 1 <= sum(count - 1 for count in counts.values()) <= 3

"""Sending to real servers: what arrives, how failures are told apart, pace, retries, digests; and that no secret gets out."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.services.notify import notify
from schemas import metrics
from schemas.errors import UserError
from schemas.process.service import summed
from schemas.secret import Secrets
from sinks.notifier.delivery import channel as channel_module
from sinks.notifier.delivery.channel import Channel, DeliveryResult, TokenBucket
from sinks.notifier.delivery.offsets import PartitionOffsets, SourceRecord
from sinks.notifier.delivery.templating import Message, Templates
from sinks.notifier.delivery.transport import Sender, SendResult, senders
from sinks.notifier.rules.config import ConfigError, HealthChecks, NotifierConfig, load
from sinks.notifier.rules.events import Event, Level, event_of
from sinks.notifier.rules.origin import LIVE, REPLAY
from sinks.notifier.watching import HealthWatcher
from tests.sinks.notifier.notifier_places import (
    DISCORD_PATH,
    DISCORD_TOKEN,
    SECRETS,
    TELEGRAM_PATH,
    TELEGRAM_TOKEN,
    WEBHOOK_PATH,
    Answer,
    Mail,
    Web,
    channel_tables,
    secret_variables,
    serving,
)
from tests.sinks.notifier.notifier_records import BTC, T0, record, signal
from tests.support.paths import ROOT

TEMPLATES = Templates(ZoneInfo("UTC"))


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Web, Mail]]:
    with serving() as both:
        yield both


@pytest.fixture
def web(places: tuple[Web, Mail], monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    server = places[0]
    server.requests.clear()
    server.script.clear()
    for name, value in secret_variables(server).items():
        monkeypatch.setenv(name, value)
    yield server


@pytest.fixture
def mail(places: tuple[Web, Mail]) -> Mail:
    places[1].messages.clear()
    places[1].refuse.clear()
    return places[1]


def configured(tmp_path: Path, *tables: str) -> NotifierConfig:
    path = tmp_path / "notifier.toml"
    path.write_text("".join(tables))
    return load(path)


def one_sender(tmp_path: Path, table: str) -> Sender:
    (sender,) = senders(configured(tmp_path, table), Secrets()).values()
    return sender


def signal_message(number: int = 0, origin: str = LIVE) -> Message:
    event = event_of("signals", signal(number))
    assert event is not None
    return TEMPLATES.render(event, origin)


def letter_message(reason: str) -> Message:
    event = event_of("dead_letters", record("dead_letters", service="sink", reason=reason, event_time=T0))
    assert event is not None
    return TEMPLATES.render(event, LIVE)


# --- what arrives ----------------------------------------------------------------------------------------------------------


def test_each_place_gets_the_message_its_own_way(web: Web, mail: Mail, tmp_path: Path) -> None:
    config = configured(tmp_path, *channel_tables(web, mail).values())
    message = signal_message(origin=REPLAY)
    for sender in senders(config, Secrets()).values():
        assert sender.send(message, set()) == SendResult("sent")
    (telegram,) = web.to(TELEGRAM_PATH)
    assert telegram.json["chat_id"] == 4711 and telegram.json["parse_mode"] == "HTML"
    assert telegram.json["text"].startswith("<b>[REPLAY] LONG BINANCE:BTCUSDT-PERP score 87.5 (heavy)</b>")
    (discord,) = web.to(DISCORD_PATH)
    assert discord.path.endswith(DISCORD_TOKEN) and discord.json["content"].startswith("[REPLAY] LONG BINANCE:BTCUSDT-PERP")
    (hook,) = web.to(WEBHOOK_PATH)
    assert hook.headers["Authorization"].startswith("Bearer ")
    assert hook.json["event_id"] == message.event.event_id and hook.json["fields"] == dict(message.event.fields)
    assert [hook.json[name] for name in ("kind", "level", "origin", "instrument", "event_time", "type")] == [
        "signal",
        "info",
        "replay",
        BTC,
        T0,
        "info",
    ]
    assert [one["X-Envelope-To"] for one in mail.messages] == ["a@example.com", "b@example.com"]
    assert all(one["Subject"] == message.title for one in mail.messages)
    for text in (telegram.json["text"], discord.json["content"], hook.json["message"], mail.messages[0].get_content()):
        assert "Recorded data played back, not the live market." in text.replace("\r\n", "\n")


def test_text_from_outside_stays_text(web: Web, mail: Mail, tmp_path: Path) -> None:
    tables = channel_tables(web, mail)
    nasty = "<b>bold & </b> @everyone <@123> *star* {{ 7*7 }} & break_even_stop \u202e"
    for name in ("phone", "desk", "robot"):
        assert one_sender(tmp_path, tables[name]).send(letter_message(nasty), set()).ok
    text = web.to(TELEGRAM_PATH)[0].json["text"]
    assert "&lt;b&gt;bold &amp;" in text and "<b>bold" not in text and "{{ 7*7 }}" in text
    content = web.to(DISCORD_PATH)[0].json["content"]
    assert "@everyone" not in content and "<@123>" not in content and "@\u200beveryone" in content
    assert nasty in web.to(WEBHOOK_PATH)[0].json["message"]


def test_long_text_is_cut_to_what_the_place_takes(web: Web, mail: Mail, tmp_path: Path) -> None:
    tables = channel_tables(web, mail)
    event = Event("x", "digest", Level.INFO, None, T0, "", {"count": 1, "counts": {}, "titles": ["&" * 9000], "left_out": 0})
    message = TEMPLATES.render(event, LIVE)
    for name in ("phone", "desk"):
        assert one_sender(tmp_path, tables[name]).send(message, set()).ok
    assert len(web.to(TELEGRAM_PATH)) == 1 and len(web.to(DISCORD_PATH)) == 1
    assert len(web.to(DISCORD_PATH)[0].json["content"]) <= 2000
    assert len(web.to(TELEGRAM_PATH)[0].json["text"].replace("&amp;", "&")) <= 4096


def test_another_service_by_its_apprise_url(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_URL", f"ntfy://user:ntfy-password-31337@127.0.0.1:{web.port}/topic-of-the-desk")
    sender = one_sender(tmp_path, '[[channel]]\nname = "n"\nkind = "apprise"\nurl_env = "T_URL"\n')
    assert sender.send(signal_message(), set()).ok
    (sent,) = web.requests
    assert sent.json["topic"] == "topic-of-the-desk" and "87.5" in sent.json["title"]
    web.script["/"] = [Answer(429, {"Retry-After": "2"})]
    outcome = sender.send(signal_message(), set())
    assert (outcome.reason, outcome.wait_s) == ("rate_limited", 2.0)


# --- failures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["phone", "desk", "robot"])
@pytest.mark.parametrize(
    ("answer", "reason", "wait", "final"),
    [
        (Answer(429, {"Retry-After": "7"}), "rate_limited", 7.0, False),
        (Answer(429, {}, {"retry_after": 0.65}), "rate_limited", 0.65, False),
        (Answer(429, {}, {"ok": False, "parameters": {"retry_after": 3}}), "rate_limited", 3.0, False),
        (Answer(429, {"Retry-After": "Fri, 22 Nov 2999 00:00:00 GMT"}), "rate_limited", 3600.0, False),
        (Answer(429, {"Retry-After": "soon"}, "nonsense"), "rate_limited", None, False),
        (Answer(429, {"Retry-After": "-5"}), "rate_limited", None, False),
        (Answer(429, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}), "rate_limited", None, False),
        (Answer(500), "server", None, False),
        (Answer(503, {"Retry-After": "4"}), "server", 4.0, False),
        (Answer(401), "refused", None, False),
        (Answer(404), "refused", None, False),
        (Answer(400, {}, {"description": "chat not found"}), "refused", None, True),
        (Answer(200, delay=0.6), "timeout", None, False),
    ],
    ids=lambda value: f"{value.status}{value.headers or value.body or ''}" if isinstance(value, Answer) else "",
)
def test_failures_are_told_apart(
    web: Web, mail: Mail, tmp_path: Path, name: str, answer: Answer, reason: str, wait: float | None, final: bool
) -> None:
    sender = one_sender(tmp_path, channel_tables(web, mail, "timeout_s = 0.2")[name])
    web.script["/"] = [answer]
    begun = time.monotonic()
    outcome = sender.send(signal_message(), set())
    assert (outcome.reason, outcome.wait_s, outcome.final) == (reason, wait, final)
    assert time.monotonic() - begun < 1.0, "apprise waited by itself"
    assert len(web.requests) == 1, "apprise tried again by itself"
    assert not any(secret in outcome.detail for secret in SECRETS)
    assert sender.send(signal_message(), set()).ok


def test_a_server_that_trickles_is_left_behind(web: Web, mail: Mail, tmp_path: Path) -> None:
    sender = one_sender(tmp_path, channel_tables(web, mail, "timeout_s = 0.3")["robot"])
    web.script["/"] = [Answer(trickle=True)]
    begun = time.monotonic()
    assert sender.send(signal_message(), set()).reason == "timeout"
    assert time.monotonic() - begun < 1.5
    assert sender.send(signal_message(), set()).ok


def test_nobody_listens(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_WEBHOOK", f"http://127.0.0.1:1{WEBHOOK_PATH}")
    outcome = one_sender(tmp_path, channel_tables(web, mail)["robot"]).send(signal_message(), set())
    assert outcome.reason == "connection" and not outcome.final


def test_only_those_who_have_not_got_it_get_it_again(web: Web, mail: Mail, tmp_path: Path) -> None:
    sender = one_sender(tmp_path, channel_tables(web, mail)["mail"])
    mail.refuse.append("451 later")
    done: set[int] = set()
    assert not sender.send(signal_message(), done).ok and done == {1}
    assert sender.send(signal_message(), done).ok
    assert sorted(one["X-Envelope-To"] for one in mail.messages) == ["a@example.com", "b@example.com"]


def test_a_wrong_password_is_a_failure_without_the_password(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_MAIL", "wrong-password-123")
    outcome = one_sender(tmp_path, channel_tables(web, mail)["mail"]).send(signal_message(), set())
    assert not outcome.ok and "wrong-password-123" not in outcome.detail and mail.messages == []


@pytest.mark.parametrize(
    ("name", "variable", "value", "key"),
    [
        ("phone", "T_TELEGRAM", "no-bot-token-SECRET", "channel[0]"),
        ("desk", "T_DISCORD", "https://example.com/SECRET", "channel[0].webhook"),
        ("robot", "T_WEBHOOK", "ftp://SECRET", "channel[0].url"),
        ("robot", "T_BEARER", "", "channel[0].bearer_env"),
        ("mail", "T_MAIL", "", "channel[0].password_env"),
    ],
)
def test_a_secret_that_does_not_fit_is_refused_without_showing_it(
    web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, value: str, key: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        one_sender(tmp_path, channel_tables(web, mail)[name])
    assert key in str(caught.value) and "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None


def test_no_secret_is_logged_even_by_libraries(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the root logger, be it at DEBUG, under the worst of answers. (pytest's caplog also hears loggers that tell nobody.)"""
    tables = channel_tables(web, mail, "timeout_s = 0.3")
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # the test's own SMTP server
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        logging.getLogger("somebody").debug("heard")
        for name, sender in senders(configured(tmp_path, *tables.values()), Secrets()).items():
            for answer in (Answer(500, {}, TELEGRAM_TOKEN), Answer(400, {}, {"description": f"bad {TELEGRAM_TOKEN}"}), Answer(429)):
                web.script["/"] = [answer]
                mail.refuse.append(f"554 {Mail.password}")
                outcome = sender.send(signal_message(), set())
                assert not outcome.ok, name
                assert not any(secret in outcome.detail for secret in SECRETS), outcome
    finally:
        logging.getLogger().removeHandler(handler)
    assert "heard" in heard.getvalue() and not any(secret in heard.getvalue() for secret in SECRETS), heard.getvalue()


# --- a channel -------------------------------------------------------------------------------------------------------------


class Running:
    """A channel with its results."""

    def __init__(self, tmp_path: Path, table: str, give_up_s: float = 60.0) -> None:
        config = configured(tmp_path, table)
        self.results: SimpleQueue[DeliveryResult] = SimpleQueue()
        self.failures: list[tuple[SendResult, float]] = []
        (sender,) = senders(config, Secrets()).values()
        self.channel = Channel(
            config.channel[0],
            sender,
            TEMPLATES,
            give_up_s,
            self.results,
            lambda name, outcome, pause: self.failures.append((outcome, pause)),
        )
        self.partition = PartitionOffsets("signals", 0, 0)
        self.channel.start()

    def offer(self, message: Message, offset: int | None = None) -> None:
        tickets = []
        if offset is not None:
            self.partition.take(offset, 1)
            tickets = [SourceRecord(self.partition, offset, T0, b"k", b"v")]
        self.channel.offer(message, tickets)

    def result(self, timeout: float = 60.0) -> DeliveryResult:
        return self.results.get(timeout=timeout)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        self.channel.end()
        self.channel.join(5)


def quick(web: Web, mail: Mail, more: str = "") -> str:
    return channel_tables(web, mail, f"timeout_s = 0.3\nrate_per_minute = 60000\nburst = 1000\n{more}")["robot"]


def test_retry_after_is_heeded_to_the_moment(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(429, {"Retry-After": "0.8"})]
    with Running(tmp_path, quick(web, mail)) as running:
        running.offer(signal_message(), 0)
        assert running.result().failure == ""
    first, second = web.requests
    assert 0.8 <= second.at - first.at < 1.6
    ((outcome, pause),) = running.failures
    assert (outcome.reason, pause) == ("rate_limited", 0.8)


def test_failures_back_off_and_end(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "BACKOFF_FIRST_S", 0.1)
    web.script["/"] = [Answer(500)] * 3 + [Answer(200, delay=1.0)]
    failed = summed(metrics.NOTIFICATIONS_FAILED, channel="robot")
    with Running(tmp_path, quick(web, mail)) as running:
        running.offer(signal_message(), 0)
        assert running.result().failure == ""
        assert running.channel.failing_s == 0.0
    assert [outcome.reason for outcome, _ in running.failures] == ["server"] * 3 + ["timeout"]
    for (_, pause), expected in zip(running.failures, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert 0.75 * expected <= pause <= 1.25 * expected
    assert summed(metrics.NOTIFICATIONS_FAILED, channel="robot") - failed == 4


def test_what_cannot_be_sent_is_handed_back(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "BACKOFF_FIRST_S", 0.05)
    web.script["/"] = [Answer(500)] * 1000
    with Running(tmp_path, quick(web, mail), give_up_s=0.4) as running:
        for number in range(3):
            running.offer(signal_message(number), number)
        given_up = [running.result() for _ in range(3)]
        assert running.channel.failing_s > 0.4
    assert all("given up after" in one.failure and "server: HTTP 500" in one.failure for one in given_up)
    assert {one.item.tickets[0].offset for one in given_up} == {0, 1, 2}


def test_a_wait_longer_than_the_patience_does_not_hold_messages(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(429, {"Retry-After": "3000"})]
    with Running(tmp_path, quick(web, mail), give_up_s=0.5) as running:
        running.offer(signal_message(), 0)
        assert "given up after 1 attempts" in running.result(4).failure
    assert len(web.requests) == 1


def test_a_message_that_the_place_does_not_want_holds_up_nothing(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(400)]
    with Running(tmp_path, quick(web, mail)) as running:
        for number in range(2):
            running.offer(signal_message(number), number)
        first, second = running.result(), running.result()
    assert first.failure.startswith("refused: HTTP 400") and first.item.attempts == 1 and second.failure == ""


def test_what_is_critical_goes_first(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(429, {"Retry-After": "0.4"})]
    alarm = TEMPLATES.render(Event("a", "health_down", Level.CRITICAL, None, T0, "", {"service": "sink", "detail": "", "since": T0}), LIVE)
    with Running(tmp_path, quick(web, mail)) as running:
        for number in range(3):
            running.offer(signal_message(number), number)
        web.wait("/", 1)
        running.offer(alarm)
        for _ in range(4):
            running.result()
    assert [one.json["kind"] for one in web.requests] == ["signal", "health_down", "signal", "signal", "signal"]
    assert web.requests[1].json["title"] == "CRITICAL Service sink is not well"


def test_a_flood_becomes_a_digest_and_nothing_is_missing(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(429, {"Retry-After": "0.3"})]
    with Running(tmp_path, quick(web, mail, "digest_over = 5")) as running:
        running.offer(signal_message(0), 0)
        web.wait("/", 1)
        for number in range(1, 40):
            running.offer(signal_message(number, REPLAY), number)
        running.offer(letter_message("why"), 40)
        settled = running.result().item.tickets
    assert [ticket.offset for ticket in settled] == list(range(41))
    sent = web.requests[-1].json
    assert sent["kind"] == "digest" and sent["fields"]["counts"] == {"dead_letter": 1, "signal": 40}
    assert sent["title"] == "[LIVE AND REPLAY] 41 events at once" and sent["fields"]["left_out"] == 41 - 15
    assert "- [REPLAY] LONG" in sent["message"]
    assert sent["level"] == "error"


def test_a_dead_channel_holds_back_no_more_than_it_may(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MOST_WAITING", 20)
    web.script["/"] = [Answer(429, {"Retry-After": "3000"})]
    with Running(tmp_path, quick(web, mail)) as running:
        running.offer(signal_message(0), 0)
        web.wait("/", 1)
        for number in range(1, 30):
            running.offer(signal_message(number), number)
        while not running.failures:
            time.sleep(0.01)
        # It fails since a moment only: reading waits, nothing is given up.
        assert running.channel.full() and running.results.empty()
        monkeypatch.setattr(channel_module, "SHED_AFTER_S", 0.0)
        assert not running.channel.full()
        for number in range(30, 50):
            running.offer(signal_message(number), number)
        given_up = []
        try:
            while True:
                given_up.append(running.result(0.3).item.tickets[0].offset)
        except Empty:
            pass
    assert given_up == list(range(30))  # the oldest


def test_work_that_went_to_another_process_is_not_sent(web: Web, mail: Mail, tmp_path: Path) -> None:
    web.script["/"] = [Answer(429, {"Retry-After": "0.3"})]
    with Running(tmp_path, quick(web, mail)) as running:
        running.offer(signal_message(0), 0)
        web.wait("/", 1)
        running.partition.revoked = True
        running.partition = PartitionOffsets("signals", 1, 0)
        running.offer(signal_message(1), 0)
        assert running.result().item.tickets[0].partition.number == 1
    assert [one.json["fields"]["event_time"] for one in web.requests] == [T0, T0 + 15_000]


@given(st.floats(1, 600), st.integers(1, 20), st.lists(st.floats(0, 30), max_size=60))
def test_the_pace_is_kept(per_minute: float, burst: int, arrivals: list[float]) -> None:
    """In no span of s seconds go more than burst + rate x s messages."""
    now, sent = 0.0, []
    pace = TokenBucket(per_minute, burst, now)
    for pause in arrivals:
        now += pause
        while (wait := pace.wait(now)) > 0:
            now += wait
        pace.spend()
        sent.append(now)
    for i in range(len(sent)):
        for j in range(i, len(sent)):
            assert j - i + 1 <= burst + (sent[j] - sent[i]) * per_minute / 60 + 1e-6


# --- the command -----------------------------------------------------------------------------------------------------------


def test_the_test_message_reaches_every_channel_and_says_which_it_does_not(web: Web, mail: Mail, tmp_path: Path) -> None:
    path = tmp_path / "notifier.toml"
    path.write_text("".join(channel_tables(web, mail).values()))
    web.script[DISCORD_PATH] = [Answer(404, {}, {"message": f"Unknown Webhook {DISCORD_TOKEN}"})]
    command = [sys.executable, "-m", "deploy.cli", "notify", "--config", str(path), "--test"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **secret_variables(web)}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    lines = shown.stdout.splitlines()
    assert [lines[0], *lines[2:]] == ["phone: sent", "robot: sent", "mail: sent"], shown.stderr
    assert lines[1].startswith("desk: refused: HTTP 404")
    assert shown.returncode == 1 and shown.stderr == "perpflow: notify: no message reached desk\n"
    assert "Channel phone works." in web.to(TELEGRAM_PATH)[0].json["text"] and len(mail.messages) == 2
    assert not any(secret in shown.stdout + shown.stderr for secret in SECRETS)


def test_the_command_names_what_is_wrong(web: Web, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notifier.toml"
    path.write_text("")
    with pytest.raises(UserError, match="no channel is configured"):
        notify(path, test=True)
    path.write_text(channel_tables(web, mail)["phone"].replace("chat_ids", "chat_id"))
    with pytest.raises(UserError, match=r"channel\[0\].chat_id: no such key"):
        notify(path)
    path.write_text(channel_tables(web, mail)["phone"])
    monkeypatch.delenv("T_TELEGRAM")
    with pytest.raises(UserError, match=r"channel\[0\].token_env: environment variable T_TELEGRAM is not set"):
        notify(path, test=True)


def test_any_value_fits_a_webhooks_json(web: Web, mail: Mail, tmp_path: Path) -> None:
    fields: dict[str, Any] = record("dead_letters", nulls=False, service="sink", value=b"\x00\xff")
    event = event_of("dead_letters", fields)
    assert event is not None
    assert one_sender(tmp_path, channel_tables(web, mail)["robot"]).send(TEMPLATES.render(event, LIVE), set()).ok
    assert web.requests[0].json["fields"]["value"] == "00ff"


# --- services that are watched -----------------------------------------------------------------------------------------------


def test_a_service_goes_down_after_some_looks_and_comes_back_at_once(web: Web) -> None:
    path = "/watched"
    ill = Answer(503, {}, {"service": "sink", "ok": False, "lag": 12})
    web.script[path] = [Answer(200), ill, Answer(200), ill, ill, ill, ill, Answer(200)]
    found: SimpleQueue[Event] = SimpleQueue()
    stopping = threading.Event()
    checks = HealthChecks(services={"sink": web.url + path, "gone": "http://127.0.0.1:1/health"}, every_s=0.02, after=3)
    watching = HealthWatcher(checks, found, stopping)
    watching.start()
    events = [found.get(timeout=5) for _ in range(3)]
    web.wait(path, 12)
    stopping.set()
    watching.join(5)
    assert found.empty()
    told = {(event.kind, event.fields["service"]): event for event in events}
    assert set(told) == {("health_down", "gone"), ("health_down", "sink"), ("health_up", "sink")}
    assert told["health_down", "sink"].fields["detail"] == "HTTP 503 lag: 12"
    assert told["health_down", "gone"].fields["detail"] == "does not answer: ConnectError"
    assert all(event.level == Level.CRITICAL for event in events) and set(watching.down) == {"gone"}

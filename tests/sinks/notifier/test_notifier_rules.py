"""What is news, who hears of it and how it reads: the notifier's pure parts against hand-made truth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.secret import SecretError, Secrets
from sinks.notifier.delivery.offsets import PartitionOffsets
from sinks.notifier.delivery.templating import Templates, shown_number
from sinks.notifier.rules.config import ConfigError, NotifierConfig, load
from sinks.notifier.rules.events import KINDS, OWN_FIELDS, READERS, Event, GuardChanges, Level, event_of, health_event
from sinks.notifier.rules.origin import LABELS, LIVE, MIXED, REPLAY, UNKNOWN, Origins
from sinks.notifier.rules.policy import QUIET, REPEAT, TOP, UNROUTED, WINDOW, Decision, Policy
from sinks.notifier.rules.ranking import WINDOWS, Ranking
from tests.sinks.notifier.notifier_records import BTC, ETH, LTC, T0, announced, record, signal
from tests.support.paths import ROOT

# --- events ------------------------------------------------------------------------------------------------------------


def some(topic: str, **fields: Any) -> Event:
    event = event_of(topic, record(topic, **fields))
    assert event is not None
    return event


def test_what_is_news() -> None:
    assert some("signals").kind == "signal"
    assert some("trades_closed").kind == "trade_closed"
    assert [some("positions", status=status).kind for status in ("open", "tp1_hit")] == ["position_opened", "position_tp1"]
    assert [event_of("positions", record("positions", status=status)) for status in ("pending", "closed", "expired")] == [None] * 3
    assert some("orders", status="rejected").level == Level.ERROR
    assert event_of("orders", record("orders", status="filled")) is None
    assert event_of("data_quality", record("data_quality", kind="score", severity="info")) is None
    assert [some("data_quality", kind="stale", severity=one).level for one in ("info", "warning", "error", "new")] == [0, 1, 2, 2]
    assert some("gaps", repaired=True, certain=True).level == Level.INFO
    assert some("gaps", repaired=False, certain=True).level == Level.ERROR
    assert some("gaps", repaired=False, certain=False).level == Level.WARNING
    assert some("dead_letters", service="sink").level == Level.ERROR
    # What this service gives up must not become the next message.
    assert event_of("dead_letters", record("dead_letters", service="notifier")) is None


def test_of_a_guard_s_states_only_changes_are_news() -> None:
    """Against a plain walk over random states: news is what differs from the state before; the end of a halt is as loud as the halt."""
    reason = {"rule": "daily_loss", "level": "halted", "value": -3.0, "limit": -3.0, "since": 1, "until": None, "detail": "x"}
    kinds = [("normal", False, []), ("warning", False, [{**reason, "rule": "slow", "level": "warning"}]), ("halted", True, [reason]),
             ("halted", True, [reason, {**reason, "rule": "clock"}])]  # fmt: skip
    drawn = random.Random(7)
    for _ in range(50):
        said = [drawn.choice(kinds) for _ in range(drawn.randrange(1, 30))]
        changes, told, before = GuardChanges(), [], kinds[0]
        for number, (state, blocked, reasons) in enumerate(said):
            one = some("risk_state", account="A", sequence=number, state=state, block_entries=blocked, reasons=reasons)
            assert changes.news(some("risk_state", account="B", sequence=number, state="normal")) is None
            for repeat in range(3):  # a restarted guard's repeat, or one delivered again
                found = changes.news(one)
                assert repeat == 0 or found is None
                if found is not None:
                    told.append((number, found.level))
        wanted = []
        for number, now in enumerate(said):
            if now != before:
                wanted.append((number, Level.CRITICAL if "halted" in (now[0], before[0]) else Level.WARNING))
            before = now
        assert told == wanted


def test_ids_are_the_records_own() -> None:
    for topic in READERS:
        fields = {"status": "open"} if topic == "positions" else {"status": "rejected"} if topic == "orders" else {}
        one = some(topic, nulls=False, **fields, receive_time=1)
        again = some(topic, nulls=False, **fields, receive_time=2)
        assert one.event_id == again.event_id, topic
    # A position's state may be written again later; that it opened is one event.
    assert some("positions", status="open", event_time=1).event_id == some("positions", status="open", event_time=2).event_id
    assert some("signals", signal_id="a").event_id != some("signals", signal_id="b").event_id
    assert some("dead_letters", value=b"a").event_id != some("dead_letters", value=b"b").event_id
    assert some("gaps", from_id=1).event_id != some("gaps", from_id=2).event_id
    assert health_event("sink", False, 5, "").event_id != health_event("sink", True, 5, "").event_id


# --- configuration -----------------------------------------------------------------------------------------------------

PHONE = '[[channel]]\nname = "phone"\nkind = "telegram"\ntoken_env = "T"\nchat_ids = ["1"]\n'
HOOK = '[[channel]]\nname = "hook"\nkind = "webhook"\nurl = "http://localhost/x"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "notifier.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("= 3", "", "no TOML"),
        ("chanel = []", "chanel", "no such key"),
        (PHONE.replace('"telegram"', '"pigeon"'), "channel[0]", "telegram"),
        (PHONE.replace('token_env = "T"\n', ""), "channel[0]", "token_env or token_file is needed"),
        (PHONE + 'token_file = "f"\n', "channel[0]", "only one"),
        (PHONE + 'token = "123:SECRET"\n', "channel[0].token", "token_env or token_file"),
        (PHONE.replace('["1"]', "[]"), "channel[0].chat_ids", "at least 1"),
        (PHONE + "rate_per_minute = 0\n", "channel[0].rate_per_minute", "greater than 0"),
        (PHONE + 'rate_per_minute = "fast"\n', "channel[0].rate_per_minute", "number"),
        (PHONE + 'quiet_hours = "22-7"\n', "channel[0].quiet_hours", "HH:MM-HH:MM"),
        (PHONE + PHONE, "", "two are named 'phone'"),
        (PHONE.replace('"phone"', '"My phone"'), "channel[0].name", "match"),
        (HOOK.replace("http://", ""), "channel[0].url", "match"),
        ('quiet_hours = "08:00-08:00"', "quiet_hours", "begins when it ends"),
        ('time_zone = "Mars/Olympus"', "time_zone", "no time zone"),
        ('top_kinds = ["noise"]', "top_kinds[0]", "signal"),
        (PHONE + '[[route]]\nchannels = ["fax"]\n', "route[0].channels", "no channel 'fax'"),
        (PHONE + '[[route]]\nchannels = ["phone"]\nkinds = ["signals"]\n', "route[0].kinds[0]", "signal"),
        (PHONE + '[[route]]\nchannels = ["phone"]\nleast = "loud"\n', "route[0].least", "warning"),
        ('[health.services]\nsink = "localhost:9100"\n', "health.services", "sink: not an http URL"),
        ('[[channel]]\nname="m"\nkind="email"\nhost="h"\nsender="nobody"\nto=["a@b.c"]\n', "channel[0].sender", "match"),
        ('[[channel]]\nname="m"\nkind="email"\nhost="h"\nuser="u"\nsender="a@b.c"\nto=["a@b.c"]\n', "channel[0]", "both or neither"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    told = str(caught.value)
    assert f"notifier.toml: {key}" in told and why in told
    assert "SECRET" not in told


def test_the_example_that_is_shipped_is_valid() -> None:
    config = load(ROOT / "deploy" / "notifier" / "notifier.toml")
    assert config.channel == [] and config.top == 10


def test_secrets_come_from_variables_and_files_and_leave_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets()
    monkeypatch.setenv("T_SECRET", " abcdef-1 ")
    assert secrets.read("channel[0].token", "T_SECRET", None) == "abcdef-1"
    file = tmp_path / "secret"
    file.write_text("abcdef-1-longer\n")
    assert secrets.read("channel[0].token", None, file) == "abcdef-1-longer"
    assert secrets.redact("x abcdef-1-longer y abcdef-1 z") == "x [secret] y [secret] z"
    for env, path, why in (("T_UNSET", None, "T_UNSET"), (None, tmp_path / "none", "none"), (None, tmp_path, str(tmp_path))):
        with pytest.raises(SecretError, match=r"channel\[0\]\.token") as caught:
            secrets.read("channel[0].token", env, path)
        assert why in str(caught.value)


# --- the top-N rule --------------------------------------------------------------------------------------------------------


def features(instrument: str, price: float, **volumes: float) -> dict[str, Any]:
    return record("features", instrument=instrument, price=price, **{f"volume_{name}": volume for name, volume in volumes.items()})


def perp(number: int, venue: str = "BINANCE") -> str:
    return f"{venue}:C{number}USDT-PERP"


def test_the_largest_by_quote_volume_make_news() -> None:
    ranking = Ranking(10)
    # Base volume falls while quote volume rises with the number.
    for number in range(1, 31):
        ranking.put(features(perp(number), price=float(number**2), **dict.fromkeys(WINDOWS, 100.0 / number)))
    assert [number for number in range(1, 31) if ranking.admits(perp(number))] == list(range(21, 31))
    assert not ranking.admits("BINANCE:UNKNOWNUSDT-PERP")
    assert ranking.admits(perp(1, "BYBIT"))  # each venue has its own
    assert ranking.admits("BINANCE:C1USDT")  # and spot is no contract
    ranking.forget(perp(30))
    assert ranking.admits(perp(20)) and not ranking.admits(perp(19))
    ranking.put(features(perp(1), price=1e6, **dict.fromkeys(WINDOWS, 100.0)))
    assert ranking.admits(perp(1)) and not ranking.admits(perp(20))
    assert Ranking(0).admits("BINANCE:UNKNOWNUSDT-PERP")


def test_windows_are_not_mixed_and_a_missing_volume_is_not_zero() -> None:
    ranking = Ranking(1)
    assert ranking.admits(perp(1))  # nothing is known: nothing is held back
    ranking.put(features(perp(1), price=1.0, **dict.fromkeys(("24h", "4h", "1h"), 500.0), **dict.fromkeys(("30m", "15m", "5m"), 10.0)))
    # Only half an hour of it is known; in that half hour it is larger.
    ranking.put(features(perp(2), price=1.0, **dict.fromkeys(("30m", "15m", "5m"), 20.0)))
    assert ranking.admits(perp(2)) and not ranking.admits(perp(1))
    ranking.put(features(perp(3), price=1.0))  # without any volume: as if not seen
    assert not ranking.admits(perp(3)) and ranking.admits(perp(2))


# --- policy ----------------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


def policy(*routes: dict[str, Any], top: int = 0, ranking: Ranking | None = None, channels: str = "ab", **more: Any) -> Policy:
    quiet = more.pop("quiet", {})
    config = NotifierConfig.model_validate(
        {
            "channel": [{"name": name, "kind": "webhook", "url": "http://h/x", **quiet.get(name, {})} for name in channels],
            "route": list(routes) or [{"channels": list(channels)}],
            "top": top,
            **more,
        }
    )
    return Policy(config, ranking or Ranking(top))


def decided(rules: Policy, event: Event, now: float = NOW) -> list[tuple[str, str]]:
    return [(one.channel, one.reason) for one in rules.decide(event, f"title of {event.kind}", LIVE, now)]


def stale(number: int = 0, instrument: str = BTC, severity: str = "error") -> Event:
    return some("data_quality", quality_id=f"q{number}", instrument=instrument, stream="depth", kind="stale", severity=severity)


def test_routes_by_kind_level_and_instrument() -> None:
    rules = policy(
        {"channels": ["a"], "kinds": ["signal"], "instruments": ["BINANCE:B*"]},
        {"channels": ["b", "a"], "least": "error"},
        {"channels": ["b"], "kinds": ["health_down"]},
    )
    assert decided(rules, some("signals", signal_id="1", instrument=BTC)) == [("a", "")]
    assert decided(rules, some("signals", signal_id="2", instrument=ETH)) == [("", UNROUTED)]
    assert decided(rules, stale()) == [("b", ""), ("a", "")]
    assert decided(rules, some("gaps", repaired=True)) == [("", UNROUTED)]
    # Two routes name the channel: it hears once. Nobody's instrument passes patterns.
    assert decided(rules, health_event("sink", False, 1, "")) == [("b", ""), ("a", "")]


def test_the_same_event_is_told_once() -> None:
    rules = policy()
    event = some("signals", signal_id="1")
    assert decided(rules, event) == [("a", ""), ("b", "")]
    assert decided(rules, event, NOW + 1e6) == [("", REPEAT)]
    rules.forget(event.event_id)  # its partition went before it was sent
    assert decided(rules, event) == [("a", ""), ("b", "")]
    known = some("signals", signal_id="2")
    rules.remember(known)
    assert decided(rules, known) == [("", REPEAT)]


def test_an_alert_is_told_once_a_window_and_what_was_counted_is_told() -> None:
    rules = policy(repeat_window_s=300, channels="a")
    assert decided(rules, stale(0)) == [("a", "")]
    assert [decided(rules, stale(number), NOW + number) for number in range(1, 8)] == [[("a", WINDOW)]] * 7
    assert decided(rules, stale(9, ETH), NOW + 9) == [("a", "")]  # another instrument is another alert
    assert rules.due(NOW + 299) == []
    (due,) = rules.due(NOW + 300)
    assert (due.channel, due.event.kind, due.event.fields["count"], due.event.level) == ("a", "repeated", 7, Level.ERROR)
    assert due.event.fields["title"] == "title of data_quality" and due.event.instrument == BTC
    # It goes on: one message a window.
    assert decided(rules, stale(20), NOW + 310) == [("a", WINDOW)]
    (due,) = rules.due(NOW + 600)
    assert due.event.fields["count"] == 1
    # It stopped: the next one is news again.
    assert rules.due(NOW + 900) == []
    assert decided(rules, stale(30), NOW + 901) == [("a", "")]


def test_what_is_worse_than_what_was_told_is_told() -> None:
    rules = policy(channels="a")
    assert decided(rules, stale(0, severity="warning")) == [("a", "")]
    assert decided(rules, stale(1, severity="warning")) == [("a", WINDOW)]
    assert decided(rules, stale(2, severity="error")) == [("a", "")]
    assert decided(rules, stale(3, severity="warning")) == [("a", WINDOW)]


def test_signals_and_trades_are_never_counted_away() -> None:
    rules = policy(channels="a")
    for number in range(50):
        assert decided(rules, some("signals", signal_id=str(number))) == [("a", "")]
        assert decided(rules, some("trades_closed", trade_id=str(number))) == [("a", "")]


def test_a_forgotten_alert_opens_its_window_again() -> None:
    rules = policy(channels="a")
    assert decided(rules, stale(0)) == [("a", "")]
    rules.forget(stale(0).event_id)
    assert decided(rules, stale(0)) == [("a", "")]


def test_the_top_rule_holds_back_small_contracts_but_nothing_critical() -> None:
    ranking = Ranking(1)
    for instrument, price in ((BTC, 60_000.0), (LTC, 60.0)):
        ranking.put(features(instrument, price, **dict.fromkeys(WINDOWS, 5.0)))
    rules = policy(top=1, ranking=ranking, channels="a", top_kinds=["signal", "data_quality"])
    assert decided(rules, some("signals", signal_id="1", instrument=BTC)) == [("a", "")]
    assert decided(rules, some("signals", signal_id="2", instrument=LTC)) == [("", TOP)]
    assert decided(rules, stale(1, LTC)) == [("", TOP)]
    assert decided(rules, some("gaps", instrument=LTC)) == [("a", "")]  # not among the kinds
    assert decided(rules, some("trades_closed", instrument=LTC)) == [("a", "")]  # money is never noise
    alarm = Event("x", "signal", Level.CRITICAL, LTC, T0, "", {})
    assert decided(rules, alarm) == [("a", "")]


def at(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_quiet_hours_by_the_clock_on_the_wall() -> None:
    rules = policy(quiet_hours="22:00-07:00", time_zone="Europe/Berlin", channels="ab", quiet={"b": {"quiet_hours": ""}})
    quiet = {
        "2026-11-21T21:59:59": False,
        "2026-11-21T22:00:00": True,
        "2026-11-22T06:59:59": True,
        "2026-11-22T07:00:00": False,
        # Summer time begins on 29 March: 22:00 local is 20:00 UTC the evening after and 21:00 UTC before.
        "2026-03-28T22:00:00": True,
        "2026-03-29T21:59:59": False,
        "2026-03-29T22:00:00": True,
    }
    assert {text: rules.is_quiet("a", at(text, "Europe/Berlin")) for text in quiet} == quiet
    assert not any(rules.is_quiet("b", at(text, "Europe/Berlin")) for text in quiet)
    day = policy(quiet_hours="12:00-13:30", channels="a")
    assert [day.is_quiet("a", at(f"2026-11-22T{text}", "UTC")) for text in ("11:59", "12:00", "13:29", "13:30")] == [
        False,
        True,
        True,
        False,
    ]


def test_quiet_hours_hold_back_all_but_the_critical_and_tell_afterwards() -> None:
    rules = policy(quiet_hours="11:00-13:00", channels="a", repeat_window_s=60)
    assert decided(rules, some("signals", signal_id="1")) == [("a", QUIET)]
    assert decided(rules, stale(1)) == [("a", QUIET)]
    assert decided(rules, stale(2)) == [("a", QUIET)]
    assert decided(rules, health_event("sink", False, 1, "")) == [("a", "")]
    assert rules.due(NOW + 1800) == []
    (due,) = rules.due(NOW + 3600)
    assert due.event.kind == "quiet_summary" and due.event.fields["counts"] == {"data_quality": 2, "signal": 1}
    assert due.event.fields["count"] == 3 and due.event.fields["hours"] == "11:00-13:00 UTC"
    assert rules.due(NOW + 3601) == []
    assert decided(rules, stale(3), NOW + 3600) == [("a", "")]  # a held-back one opened no window


def test_a_window_that_ends_in_quiet_hours_is_told_with_them() -> None:
    rules = policy(quiet_hours="12:01-13:00", channels="a", repeat_window_s=120)
    assert decided(rules, stale(0)) == [("a", "")]
    assert decided(rules, stale(1)) == [("a", WINDOW)]
    assert rules.due(NOW + 120) == []
    (due,) = rules.due(NOW + 3600)
    assert due.event.fields["counts"] == {"data_quality": 1}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 400)), max_size=60))
def test_every_alert_is_sent_or_counted_and_every_count_is_told(steps: list[tuple[int, int, int]]) -> None:
    """What was sent and what was told as a count add up to the events."""
    rules = policy(repeat_window_s=300, channels="a")
    now, sent, told = NOW, 0, 0
    for number, (alert, level, pause) in enumerate(steps):
        now += pause
        event = Event(f"e{number}", "data_quality", Level(level), None, T0, f"alert{alert}", {})
        told += sum(due.event.fields["count"] for due in rules.due(now))
        (decision,) = rules.decide(event, "t", LIVE, now)
        assert decision in (Decision("a", ""), Decision("a", WINDOW))
        sent += decision.reason == ""
    for _ in range(2):
        now += 301
        told += sum(due.event.fields["count"] for due in rules.due(now))
    assert sent + told == len(steps)


# --- origin ----------------------------------------------------------------------------------------------------------------


def test_origin_of_what_is_told() -> None:
    origins = Origins()
    assert origins.of(None) == LIVE and origins.of(BTC) == UNKNOWN
    origins.put(announced(BTC, True))
    assert origins.of(BTC) == REPLAY and origins.of(None) == REPLAY and origins.of(ETH) == UNKNOWN
    origins.put(announced(ETH, False))
    assert origins.of(ETH) == LIVE and origins.of(None) == MIXED
    origins.put(announced(BTC, False))
    assert origins.of(BTC) == LIVE and origins.of(None) == LIVE


# --- templates -------------------------------------------------------------------------------------------------------------


def kind_events() -> Iterator[Event]:
    own: dict[str, Any] = {"count": 3, "counts": {"signal": 2, "gap": 1}, "titles": ["one", "two"], "left_out": 1, "since": T0}
    own |= {"service": "sink", "detail": "why", "title": "x", "hours": "22:00-07:00", "channel": "phone"}
    own |= {"rule": "Stale", "severity": "critical", "summary": "No trades.", "action": "Look.", "labels": "venue BINANCE"}
    for kind, topic in KINDS.items():
        for nulls in (True, False):
            fields = {name: own[name] for name in OWN_FIELDS[kind]} if topic is None else record(topic, nulls=nulls)
            if kind.startswith("alert") and nulls:
                fields |= {"action": "", "labels": ""}
            yield Event(f"{kind}|1", kind, Level.WARNING, BTC, T0, "", fields)


@pytest.mark.parametrize("origin", LABELS)
def test_every_kind_reads_with_all_and_with_no_optional_fields_and_says_where_it_comes_from(origin: str) -> None:
    templates = Templates(ZoneInfo("UTC"))
    label, line = LABELS[origin]
    for event in kind_events():
        message = templates.render(event, origin)
        assert message.title == label + message.bare_title and message.bare_title and "\n" not in message.title
        assert message.body.startswith(line) and "None" not in message.body, message
        assert "\n\n" not in message.body
    assert LABELS[LIVE] == ("", "") and all("REPLAY" in LABELS[one][0] or "ORIGIN" in LABELS[one][0] for one in (REPLAY, MIXED, UNKNOWN))


def test_a_signal_reads_as_written() -> None:
    event = event_of("signals", signal(0, atr=1.0, risk_distance=120.25, tp1_ratio=1.0, tp2_ratio=2.5, timeout_minutes=240, regime="trend"))
    assert event is not None
    message = Templates(ZoneInfo("Asia/Taipei")).render(event, REPLAY)
    assert message.title == "[REPLAY] LONG BINANCE:BTCUSDT-PERP score 87.5 (heavy)"
    lines = message.body.splitlines()
    assert lines[0] == "Recorded data played back, not the live market."
    assert lines[1] == "Strategy Breakout (s1 r1, x), regime trend"
    assert lines[3] == "Price 61,234.5, risk distance 120.25, targets 1R and 2.5R, at most 240 min"
    assert lines[4] == "2024-09-11 04:26:40 CST"  # T0 is 2024-09-10 20:26:40 UTC


def test_a_guard_s_halt_reads_as_written() -> None:
    reason = {
        "rule": "daily_loss",
        "level": "halted",
        "value": -3.2,
        "limit": -3.0,
        "since": T0,
        "until": None,
        "detail": "3.2 R lost today",
    }
    reasons = [reason, {**reason, "rule": "clock", "value": None, "detail": "the venue's clock is not known"}]
    event = some("risk_state", account="BINANCE-live", state="halted", block_entries=True, reasons=reasons)
    message = Templates(ZoneInfo("UTC")).render(event, LIVE)
    assert message.bare_title.endswith("Risk guard of BINANCE-live: halted, nothing is opened")
    assert message.body.splitlines() == [
        "daily_loss (halted): 3.2 R lost today; -3.2, limit -3",
        "clock (halted): the venue's clock is not known",
        "2024-09-10 20:26:40 UTC",
    ]


def test_numbers_are_short_and_never_in_powers_of_ten() -> None:
    shown = {None: "-", 0.0: "0", 1e-7: "0.0000001", 0.1 + 0.2: "0.3", 1234567.5: "1,234,567.5", -3.0: "-3", 12345: "12,345", 100.0: "100"}
    assert {value: shown_number(value) for value in shown} == shown


def test_templates_are_replaced_and_checked_by_name_and_field(tmp_path: Path) -> None:
    (tmp_path / "signal.j2").write_text("{{ direction }}!\n{{ score }}")
    event = event_of("signals", signal(0))
    assert event is not None
    message = Templates(ZoneInfo("UTC"), tmp_path).render(event, LIVE)
    assert (message.title, message.body) == ("LONG!", "87.5")
    for name, text, why in (
        ("signal.j2", "{{ direktion }}", "signal.j2: no field direktion; there are atr"),
        ("signal.j2", "{% if %}", "signal.j2: line 1"),
        ("signal.j2", " \n", "signal.j2: is empty"),
        ("signals.j2", "x", "there is no kind 'signals'"),
    ):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="templates: ") as caught:
            Templates(ZoneInfo("UTC"), tmp_path)
        assert why in str(caught.value)
    with pytest.raises(ConfigError, match="is no folder"):
        Templates(ZoneInfo("UTC"), tmp_path / "none")


def test_a_template_that_fails_tells_the_event_all_the_same_and_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "gap.j2").write_text("{{ from_id + 1 }}")
    (tmp_path / "signal.j2").write_text("{{ direction.__class__.__mro__ }}")
    templates = Templates(ZoneInfo("UTC"), tmp_path)
    for topic, kind, why in (("gaps", "gap", "TypeError"), ("signals", "signal", "SecurityError")):
        message = templates.render(some(topic), REPLAY)
        assert message.title == f"[REPLAY] {kind} {BTC}"
        assert f"template {kind}.j2 fails: {why}" in message.body and f"instrument: {BTC}" in message.body


def test_kinds_have_topics_or_fields() -> None:
    assert set(KINDS.values()) - {None} == set(READERS) <= set(catalogue.TOPICS)
    assert {kind for kind, topic in KINDS.items() if topic is None} == set(OWN_FIELDS)


# --- positions -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_position_never_passes_an_unfinished_record(messages: list[int], order: Any) -> None:
    partition = PartitionOffsets("signals", 0, 100)
    left = {100 + at: count for at, count in enumerate(messages)}
    for offset, count in left.items():
        partition.take(offset, count, f"e{offset}")
    work = [offset for offset, count in left.items() for _ in range(count)]
    order.shuffle(work)
    for offset in work:
        unfinished = [one for one, count in left.items() if count]
        assert partition.position == min(unfinished)
        assert partition.under_way == len(unfinished) and set(partition.events_under_way) == {f"e{one}" for one in unfinished}
        partition.settle(offset)
        left[offset] -= 1
    assert partition.position == 100 + len(messages) and partition.under_way == 0

"""``perpflow settings`` against a real broker: revisions, marks, two editors at once, refusals, the audit trail."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from deploy.cli.trading.settings import app
from schemas.settings import Settings
from sinks.commands.settings import log as settings_log
from sinks.commands.settings.publish import publish
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.engine_settings import load_file, markdown, parse_file, rules_of

pytestmark = pytest.mark.stack

NOW = 1_760_000_000_000
BTC = "BINANCE:BTCUSDT-PERP"


@pytest.fixture
def ready(environment: Settings, topics: list[str], environment_variables: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment_variables().items():
        monkeypatch.setenv(name, value)
    return environment


def read(settings: Settings) -> settings_log.EngineSettings:
    return settings_log.read(settings, rules_of(settings, "signals"))


def perpflow(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shown(*arguments: str) -> dict[str, Any]:
    done = perpflow("show", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_set_show_history_and_what_the_topic_holds(ready: Settings) -> None:
    assert shown()["revision"] == 0 and shown()["settings"]["stale_book_ms"] == {"value": 5_000, "unit": "ms", "from": "default"}
    done = perpflow("set", "stale_book_ms=3000", "whale_usd=250000", "--revision", "0", "--by", "ann", "--note", "faster feed")
    assert done.exit_code == 0 and "signals: written, revision 1" in done.output
    done = perpflow("set", "p99_floor=12", "--instrument", BTC, "--revision", "1", "--by", "ben")
    assert done.exit_code == 0 and "revision 2" in done.output
    done = perpflow("set", "stale_book_ms=", "oi_horizon_ms=600000", "--revision", "2", "--by", "ann")
    assert done.exit_code == 0 and "revision 3" in done.output
    values = shown("--instrument", BTC)["settings"]
    assert values["p99_floor"] == {"value": 12, "unit": "base units", "from": "log"}
    assert (values["stale_book_ms"]["from"], values["whale_usd"]["from"], values["oi_horizon_ms"]["value"]) == ("default", "log", 600_000)
    entries = [json.loads(line) for line in perpflow("history", "--json").stdout.splitlines()]
    assert [(one["revision"], one["by"], one["instrument"], one["changed"]) for one in entries] == [
        (1, "ann", None, {"stale_book_ms": [None, 3_000], "whale_usd": [None, 250_000]}),
        (2, "ben", BTC, {"p99_floor": [None, 12]}),
        (3, "ann", None, {"oi_horizon_ms": [None, 600_000], "stale_book_ms": [3_000, None]}),
    ]
    assert "faster feed" in perpflow("history").output
    # Every partition has the copies of the engine's revisions, one of them that of the instrument.
    log = read(ready)
    mine = ready.partition_of("BTC")
    assert all((log.ends[partition] > 2) == (partition == mine) or log.ends[partition] >= 2 for partition in range(ready.partitions))
    assert log.refused == [] and log.in_force.engine == {"whale_usd": 250_000, "oi_horizon_ms": 600_000}
    # The same again changes nothing, and writes the marks again.
    assert "unchanged, revision 3" in perpflow("set", "whale_usd=250000", "--revision", "3").output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stale_book_ms=90000",), "stale_book_ms: must be from 100 to 60000 ms, got 90000"),
        (("atr_length=20",), "atr_length: cannot change in the middle of a log"),
        (("grid_ms=5000",), "Set it by PERPFLOW_GRID_MS for worker and replay"),
        (("stale=1",), "stale: is not a setting of signals"),
        (("whale_usd=x",), "whale_usd: must be a number, got 'x'"),
        (("whale_usd",), "expected NAME=VALUE"),
        (("p99_floor=1",), "p99_floor: is set for one instrument"),
        (("p99_floor=1", "--instrument", "nonsense"), "instrument: "),
        (("whale_usd=5000", "--engine", "none"), "no engine 'none'"),
    ],
)
def test_what_is_refused_names_field_value_and_limit_and_writes_nothing(ready: Settings, arguments: tuple[str, ...], says: str) -> None:
    done = perpflow("set", *arguments, "--revision", "0")
    assert done.exit_code != 0 and says in str(done.exception)
    assert read(ready).revisions == [] and set(read(ready).ends.values()) == {0}


def test_an_edit_of_an_old_revision_is_refused_and_says_who_was_faster(ready: Settings) -> None:
    assert perpflow("set", "whale_usd=5000", "--revision", "0", "--by", "ann").exit_code == 0
    done = perpflow("set", "whale_usd=6000", "--revision", "0", "--by", "ben")
    assert "the edit names revision 0 of signals, the newest is 1 (written by ann)" in str(done.exception)
    assert read(ready).in_force.engine == {"whale_usd": 5_000}


def test_of_editors_at_once_one_wins_in_every_partition(ready: Settings) -> None:
    outcomes: dict[int, str] = {}

    def edit(number: int) -> None:
        try:
            rules = rules_of(ready, "signals")
            publish(ready, rules, {"whale_usd": 5_000.0 + number}, expected=0, time=NOW, by=str(number))
            outcomes[number] = "written"
        except Exception as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = read(ready)
    winners = [number for number, outcome in outcomes.items() if outcome == "written"]
    assert len(log.revisions) <= 1 and log.refused == []  # all partitions agree: no copy of a loser
    assert len(winners) == len(log.revisions)
    assert all(log.in_force.engine == {"whale_usd": 5_000.0 + winner} for winner in winners)
    losers = [outcome for number, outcome in outcomes.items() if number not in winners]
    assert all("newest is 1" in one or "another editor was faster" in one or "nothing was changed" in one for one in losers), losers


def test_a_bad_record_of_somebody_else_is_shown_and_passed_over(ready: Settings) -> None:
    assert perpflow("set", "whale_usd=5000", "--revision", "0").exit_code == 0
    producer = Producer({"bootstrap.servers": ready.kafka_bootstrap_servers})
    bad = SettingsRevision("signals", 7, {"whale_usd": 1.0}, event_time=NOW, receive_time=NOW)
    producer.produce(ready.topic("engine_settings"), ready.codec.encode("engine_settings", bad.to_record()), b"signals", 0)
    producer.produce(ready.topic("engine_settings"), b"garbage", b"signals", 1)
    producer.flush(20)
    log = read(ready)
    assert len(log.refused) == 2 and log.revision == 1
    assert "whale_usd: must be from 1000" in str(log.refused[0])
    assert perpflow("set", "whale_usd=7000", "--revision", "1").exit_code == 0


def test_the_document_names_every_setting_and_a_file_gives_its_revisions(ready: Settings, tmp_path: Any) -> None:
    text = markdown("signals")
    for setting in rules_of(ready, "signals").known.values():
        assert f"| {setting.name} |" in text and setting.meaning in text
    assert perpflow("doc").stdout == text
    file = tmp_path / "settings.toml"
    file.write_text(
        "[[revision]]\nstale_book_ms = 3000\n[[revision]]\nfrom = 2026-11-02T00:00:00Z\nwhale_usd = 250000\n"
        f'instruments."{BTC}".p99_floor = 12\n'
    )
    first, second, third = load_file(file, "signals", ready)
    assert (first.values, first.effective_time) == ({"stale_book_ms": 3_000}, 0)
    assert (second.values, second.effective_time) == ({"stale_book_ms": 3_000, "whale_usd": 250_000}, 1_793_577_600_000)
    assert (third.instrument, third.values, third.effective_time) == (BTC, {"p99_floor": 12}, 1_793_577_600_000)
    for wrong, says in (
        ("[[revision]]\natr_length = 3", "f: revision 1: atr_length: cannot change"),
        ("[[revision]]\nwhale_usd = true", "f: revision 1: whale_usd: must be a number, got True"),
        ("[[revision]]\nwhale_usd = 5000\n[[revision]]\nwhale_usd = 6000", "f: revision 2: from: must lie after"),
        ("whale_usd = 1", "f: expected tables"),
        ("=", "f: not TOML"),
    ):
        with pytest.raises(ValueError, match=r"^f") as raised:
            parse_file(wrong, "f", "signals", ready)
        assert says in str(raised.value)

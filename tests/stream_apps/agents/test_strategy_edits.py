"""Edits while two workers run and are killed: one instant for all, no evaluation lost or doubled, and a cooldown that outlives its worker."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.partition import base_of_instrument
from schemas.settings import Settings
from sinks.commands.strategies import revisions
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.core.signals.strategy_rules import strategy_from_record
from stream_apps.replay.results import differences
from stream_apps.replay.verify import read_results, replay_topics
from stream_apps.strategy_files import load_strategy_files, recorded_files
from tests.stream_apps.agents.faust_lab import Lab
from tests.support.markets import logs

pytestmark = pytest.mark.stack

COMMAND = "import typer; from deploy.cli.services.worker import worker; typer.run(worker)"
GRID, LATENESS = 15_000, 250
# Four partitions of six. Each has the recorded trades under a name of its own, and a flood of others beside them.
ASSETS = ("LTC", "BTC", "SOL", "DOT")
FLOOD = 200
# The recording enters SHORT at its 329th instant, and from the 458th on it would go LONG.
WARM, LAST = 336, 475
DAY_MINUTES = 1440
# Least seconds between two instants while strategies are edited; writing an edit must take a fraction of it, also where a machine is slow.
PAUSE = 0.5


class Market(threading.Thread):
    """Writes the log of all partitions in step, one instant after another, at a speed that can be changed.

    Attributes:
        step: Instants whose marks are written.
        pause: Seconds between two.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.step = 0
        self.pause = 0.0
        self.goal = 0
        self.offsets: dict[tuple[str, int], int] = {}
        rows = [row for row in logs.ltc_trades(15_000)]
        self.start_time = (rows[0][0] - LATENESS) // GRID * GRID
        self.panes = {number: list(group) for number, group in groupby(rows, lambda row: -(-(row[0] - self.start_time) // GRID))}
        self.producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 2, "enable.idempotence": True})
        self.encode = {topic: settings.codec.encoder(topic) for topic in ("agg_trades", "progress", "instruments")}
        template = logs.Log()
        for asset in ASSETS:
            for kind in ("", "-PERP"):
                template.instrument(f"BINANCE:{asset}USDT{kind}", author="p", quantity_decimals=8)
        for _, when, key, value in template.topics["instruments"]:
            asset = next(a for a in ASSETS if f":{a}USDT".encode() in (key or b""))
            self._send("instruments", settings.partition_of(asset), key or b"", value or b"", when)

    def _send(self, topic: str, partition: int, key: bytes, value: bytes, when: int) -> None:
        self.offsets[topic, partition] = self.offsets.get((topic, partition), 0) + 1
        while True:
            try:
                self.producer.produce(self.settings.topic(topic), value, key, partition, timestamp=when)
                return
            except BufferError:
                self.producer.poll(0.05)

    def run(self) -> None:
        while self.step < LAST:
            if self.step >= self.goal:
                time.sleep(0.01)
                continue
            self._write(self.step + 1)
            self.step += 1

    def _write(self, step: int) -> None:
        time_ = self.start_time + step * GRID
        for asset in ASSETS:
            partition = self.settings.partition_of(asset)
            flood = ((time_ - GRID + 1 + n, step * FLOOD + n, 100.0, 0.001, n % 2 == 0) for n in range(FLOOD if self.pause else 2))
            for kind, rows in (("", self.panes.get(step, ())), ("-PERP", flood)):
                name = f"BINANCE:{asset}USDT{kind}"
                for when, agg_id, price, quantity, maker in rows:
                    record = {
                        "instrument": name, "event_time": when, "receive_time": when, "agg_id": agg_id, "first_trade_id": agg_id,
                        "last_trade_id": agg_id, "price": price, "quantity": quantity, "buyer_is_maker": maker, "backfilled": False,
                    }  # fmt: skip
                    self._send("agg_trades", partition, name.encode(), self.encode["agg_trades"](record), when)
        if self.pause:
            assert self.producer.flush(60) == 0  # a mark comes after what it covers; a worker that reads it before waits
        for asset in ASSETS:
            partition = self.settings.partition_of(asset)
            cut = {topic: self.offsets.get((topic, partition), 0) for topic in ("agg_trades", "instruments")}
            at = time_ + LATENESS
            mark = {"author": "p", "venue": "BINANCE", "event_time": at, "receive_time": at, "cut": cut}
            self._send("progress", partition, b"p", self.encode["progress"](mark), at)
            if self.pause:  # one partition after another: an edit falls between them
                assert self.producer.flush(60) == 0
                time.sleep(self.pause / len(ASSETS))
        if step in (WARM, LAST):
            assert self.producer.flush(60) == 0

    def until(self, step: int, pause: float = 0.0) -> None:
        """Let the market run on to a step and wait for it."""
        self.pause, self.goal = pause, max(step, self.goal)
        while self.step < step:
            assert self.is_alive(), "the market broke"
            time.sleep(0.01)


@pytest.fixture
def lab(environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(environment, environment_variables(), tmp_path)
    yield lab
    lab.close()


def start(lab: Lab, number: int) -> subprocess.Popen[bytes]:
    with (lab.logs / f"worker-{len(lab.workers)}.log").open("wb") as out:
        options = ["--checkpoint-interval", "0.3", "--session-timeout", "6", "--instance-id", f"w{number}"]
        lab.workers.append(subprocess.Popen([sys.executable, "-c", COMMAND, *options], env=lab.variables, stdout=out, stderr=out))
    return lab.workers[-1]


def last_instants(lab: Lab) -> dict[int, int]:
    """Partition -> newest instant of its steps."""
    decode = lab.settings.codec.decode
    return {
        p: max((decode("worker_progress", value)["event_time"] for _, _, value in rows), default=0)
        for p, rows in lab.read("worker_progress").items()
    }


def wait_for(lab: Lab, instant: int) -> None:
    deadline = time.monotonic() + 60
    partitions = {lab.settings.partition_of(asset) for asset in ASSETS}
    while any(last_instants(lab)[partition] < instant for partition in partitions):
        assert time.monotonic() < deadline, "\n".join(lab.log(n)[-3000:] for n in range(len(lab.workers)))
        time.sleep(0.2)


def expected_revisions(lab: Lab, partition: int, first: int) -> dict[tuple[str, int], StrategyConfig]:
    """(strategy, instant) -> the revision in force, read off the log once more: the highest that lies before the cut and whose time has come."""
    decode = lab.settings.codec.decode
    written = [strategy_from_record(decode("strategies", value)) for _, _, value in lab.read("strategies")[partition]]
    found: dict[tuple[str, int], StrategyConfig] = {}
    cut, fired = 0, first - GRID
    for _, _, value in lab.read("progress")[partition]:
        mark = decode("progress", value)
        cut = max(cut, mark["cut"].get("strategies", 0))
        while mark["venue"] and fired + GRID + LATENESS <= mark["event_time"]:
            fired += GRID
            for one in sorted(written[:cut], key=lambda config: config.revision):
                if one.effective_time <= fired:
                    found[one.strategy_id, fired] = one
    return found


@pytest.mark.timeout(180)
def test_edits_under_load_with_two_workers_that_are_killed(lab: Lab) -> None:
    settings = lab.settings
    (made_for_ltc,) = (one for one in load_strategy_files(recorded_files()) if one.instrument == logs.LTC)
    easy = replace(made_for_ltc, entry_score=60.0, flip_threshold=60.0, gate_vol_enabled=False, gate_whale_enabled=False)
    edited, patient = [], []
    for asset in ASSETS:
        there = replace(easy, instrument=f"BINANCE:{asset}USDT")
        edited.append(replace(there, strategy_id=f"edited-{asset}"))
        patient.append(replace(there, strategy_id=f"patient-{asset}", cooldown_minutes=DAY_MINUTES))
    assert len({settings.partition_of(base_of_instrument(one.instrument)) for one in edited}) == 4

    now = time.time_ns() // 1_000_000
    revisions.publish(settings, [*edited, *patient], now)
    started = time.monotonic()
    revisions.publish(settings, [*edited, *patient], now)  # again: nothing to write, but it reads and marks all the same
    pause = max(PAUSE, 5 * (time.monotonic() - started))
    market = Market(settings)
    workers = [start(lab, 0), start(lab, 1)]
    market.start()
    market.until(WARM)
    wait_for(lab, market.start_time + WARM * GRID)  # the patient ones have entered

    # Each edit is of four strategies in four partitions, while the market goes on.
    published: list[revisions.PublishResult] = []
    market.goal, market.pause = LAST - 20, pause
    current = edited
    for number, change in enumerate(
        (
            {"entry_score": 62.0, "flip_threshold": 70.0},
            {"status": "paused"},
            {"status": "running"},
            {"status": "deprecated"},
            {"status": "running"},
        )
    ):
        time.sleep(0.3 * pause)  # some partitions have passed the next instant, others have not
        current = [replace(one, **change) for one in current]
        published.append(revisions.publish(settings, current, now, expected={one.strategy_id: number + 1 for one in current}))
        if number in (1, 3):
            victim = number // 2
            workers[victim].kill()
            workers[victim].wait(10)
            workers[victim] = start(lab, victim)
        market.until(market.step + 3, pause)
    market.pause, market.goal = 0.0, LAST
    market.until(LAST)
    wait_for(lab, market.start_time + LAST * GRID)
    for worker in workers:
        # On a busy machine the one that was started last may still be importing, and the other has done its work.
        assert lab.stop(worker) in (0, -signal.SIGTERM)

    # What the workers wrote is what one engine makes of the log: no evaluation lost, none doubled with another content.
    written = read_results(settings)
    assert written.conflicts == []
    report = replay_topics(settings, compare=False)
    assert differences(written, report.results, ("features", "scores", "signals")) == []
    decode = settings.codec.decode
    scores = [decode("scores", value) for value in written.records["scores"].values()]
    signals = [decode("signals", value) for value in written.records["signals"].values()]
    features = {
        (one["instrument"], one["event_time"]) for one in (decode("features", value) for value in written.records["features"].values())
    }

    # Every instant of every instrument was judged by the revision that the log says, once, and by none while none was running.
    expected = {}
    for asset in ASSETS:
        in_force = expected_revisions(lab, settings.partition_of(asset), market.start_time + GRID)
        expected |= {at: one.revision for at, one in in_force.items() if one.status == "running" and (one.instrument, at[1]) in features}
    found = {(score["strategy_id"], score["event_time"]): score["config_revision"] for score in scores}
    assert len(found) == len(scores) and found == expected
    assert len(features) >= 2 * 4 * (LAST - 1)

    # Where the edit was in time everywhere, all four changed at the one instant that it names.
    in_time = [one for one in published if not one.late]
    assert in_time, [one.late for one in published]
    for number, one in enumerate(published, start=2):
        if one.late:
            continue
        for strategy in edited:
            times = sorted(at for name, at in found if name == strategy.strategy_id)
            with_it = [at for at in times if found[strategy.strategy_id, at] == number]
            before = [at for at in times if found[strategy.strategy_id, at] < number]
            if number in (3, 5):  # paused, deprecated: nothing with this revision, and nothing of the one before after its instant
                assert with_it == [] and max(before) == one.effective_time - GRID
            else:
                assert min(with_it) == one.effective_time and max(before) < one.effective_time

    # Without that instant some would have changed earlier: their partition fired between the edit's mark and it.
    assert any(_fired_between(lab, one) for one in in_time)
    _check_cooldown(scores, signals)


def _fired_between(lab: Lab, published: revisions.PublishResult) -> bool:
    """Whether in some partition an instant before the common one fired after the edit's control mark."""
    decode = lab.settings.codec.decode
    for outcome in published.outcomes:
        marked = False
        for _, _, value in lab.read("progress")[lab.settings.partition_of(base_of_instrument(outcome.config.instrument))]:
            mark = decode("progress", value)
            marked = marked or (not mark["venue"] and mark["event_time"] == outcome.config.event_time)
            if marked and mark["venue"] and mark["event_time"] - LATENESS < published.effective_time:
                return True
    return False


def _check_cooldown(scores: list[dict[str, Any]], signals: list[dict[str, Any]]) -> None:
    """One entry in a day though both workers were killed after it, and every opposite signal closes meanwhile."""
    sent = {(signal["strategy_id"], signal["event_time"]): signal for signal in signals}
    for asset in ASSETS:
        name = f"patient-{asset}"
        mine = sorted((score for score in scores if score["strategy_id"] == name), key=lambda score: score["event_time"])
        entries = [signal for (strategy, _), signal in sent.items() if strategy == name and signal["entry"]]
        assert [signal["direction"] for signal in entries] == ["SHORT"]
        later = [
            score for score in mine if score["event_time"] > entries[0]["event_time"] and score["gate_passed"] and score["score"] >= 60
        ]
        same = [score for score in later if score["direction"] == "SHORT"]
        opposite = [score for score in later if score["direction"] == "LONG"]
        assert len(same) > 20 and len(opposite) > 5
        assert all(score["cooldown"] for score in later)
        assert not any((name, score["event_time"]) in sent for score in same)
        closing = [sent[name, score["event_time"]] for score in opposite]
        assert all(signal["flip"] and not signal["entry"] and signal["direction"] == "LONG" for signal in closing)

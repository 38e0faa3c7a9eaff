"""``perpflow evolve --every``: when a run is due, what a failure and a stop do."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from deploy.backtest.evolution import schedule as evolve_schedule
from deploy.backtest.evolution.schedule import Schedule, Stopped, newest_report
from schemas.errors import UserError
from schemas.process.service import Service


def report_at(folder: Path, day: str, written: float) -> None:
    path = folder / day / "010203_auto_evolve.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    os.utime(path, (written, written))


def test_the_newest_report_says_when_the_next_run_is_due(tmp_path: Path) -> None:
    assert newest_report(tmp_path / "missing") is None
    report_at(tmp_path, "2026-01-02", 1_000.0)
    report_at(tmp_path, "2026-01-01", 2_000.0)
    assert newest_report(tmp_path) == 2_000.0


def test_a_restart_within_the_interval_waits_for_the_rest_of_it(tmp_path: Path) -> None:
    report_at(tmp_path, "now", time.time())
    service, runs = Service("evolve"), 0

    def once() -> None:
        nonlocal runs
        runs += 1

    thread = threading.Thread(target=Schedule(once, tmp_path, 3_600, service).run)
    thread.start()
    time.sleep(0.2)
    service.stop()
    thread.join(5)
    assert not thread.is_alive() and runs == 0


def test_a_failed_run_is_unhealthy_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve_schedule, "FIRST_PAUSE_S", 0.01)
    service = Service("evolve")
    seen = []

    def once() -> None:
        seen.append(dict(service.health()))
        if len(seen) < 3:
            raise UserError("no database")
        report_at(tmp_path, "done", time.time())
        threading.Timer(0.1, service.stop).start()

    schedule = Schedule(once, tmp_path, 3_600, service)
    schedule.run()
    assert [one["ok"] for one in seen] == [True, False, False] and seen[1]["error"] == "no database"
    assert schedule.health() == {"ok": True, "rounds": 1, "running": False}


def test_a_stop_interrupts_a_run(tmp_path: Path) -> None:
    service = Service("evolve")

    def once() -> None:
        # The signal handler runs in this thread.
        with pytest.raises(Stopped):
            service.stop()
        raise Stopped

    schedule = Schedule(once, tmp_path, 3_600, service)
    schedule.run()
    assert service.stopping.is_set() and schedule.health()["rounds"] == 0 and newest_report(tmp_path) is None

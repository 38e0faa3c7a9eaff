"""From a rule of a real Prometheus to the notifier: what begins to fire is told once, and what ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from deploy.stack import processes, prometheus
from schemas.process.service import TARGETS_VARIABLE, Service
from sinks.notifier.rules.config import AlertChecks
from sinks.notifier.rules.events import Event, Level
from sinks.notifier.watching import AlertWatcher

RULES = """
groups:
  - name: test
    rules:
      - alert: Unwell
        expr: perpflow_up{service="sink"} == 0
        labels: { severity: critical }
        annotations: { summary: "{{ $labels.service }} is not well.", action: "Look." }
"""


def told(found: SimpleQueue[Event], timeout: float = 60.0) -> Event:
    return found.get(timeout=timeout)


@pytest.mark.stack
def test_what_fires_is_told_once_and_what_ends(prometheus_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    monkeypatch.setattr(prometheus, "RULES", (tmp_path / "rules.yml",))
    monkeypatch.setenv("PROMETHEUS", str(prometheus_program))
    server = prometheus.Prometheus(tmp_path / "prometheus", tmp_path)
    monkeypatch.setenv(TARGETS_VARIABLE, str(server.targets))
    port = processes.free_port()
    well, stopping = threading.Event(), threading.Event()
    found: SimpleQueue[Event] = SimpleQueue()
    alerts = AlertWatcher(AlertChecks(prometheus=prometheus.url(port), every_s=0.2), found, stopping)
    alerts.start()
    process = None
    try:
        deadline = time.monotonic() + 120
        while "ConnectError" not in alerts.trouble:  # Prometheus is not there yet: nothing is told
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with Service("sink", 0, lambda: {"ok": well.is_set()}):
            process = server.start(port, print)
            server.wait(process, port)
            one = told(found)
            assert (one.kind, one.level, one.instrument) == ("alert_fires", Level.CRITICAL, None)
            assert (one.fields["rule"], one.fields["summary"], one.fields["action"]) == ("Unwell", "sink is not well.", "Look.")
            assert abs(one.fields["since"] / 1000 - time.time()) < 60
            assert "service sink" in one.fields["labels"] and one.fields["severity"] == "critical"
            time.sleep(3)  # it goes on firing, over many looks
            assert found.empty() and alerts.trouble == ""
            well.set()
            over = told(found)
            assert (over.kind, over.level) == ("alert_ends", Level.CRITICAL) and over.fields["rule"] == "Unwell"
            well.clear()
            again = told(found)
            assert again.kind == "alert_fires" and again.event_id != one.event_id
            processes.stop(process)  # what is not known has not ended
            with pytest.raises(Empty):
                told(found, 1.0)
            assert alerts.trouble
    finally:
        stopping.set()
        alerts.join(10)
        if process is not None:
            processes.kill(process)

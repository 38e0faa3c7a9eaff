"""Poll the /health of services and the alerts of Prometheus, and report failures and recoveries."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Any

import httpx

from sinks.notifier.rules.config import AlertChecks, HealthChecks
from sinks.notifier.rules.events import Event, alert_event, health_event

TIMEOUT_S = 4.0
DETAIL_LIMIT = 400


class HealthWatcher(threading.Thread):
    """A thread that checks every service in turn.

    A service is down after ``after`` failed checks in a row (no answer, or a status other than 200). It is up again after one good check.

    Args:
        checks: Services to check.
        found: Receives events.
        stopping: Set to stop the thread.
    """

    def __init__(self, checks: HealthChecks, found: SimpleQueue[Event], stopping: threading.Event) -> None:
        super().__init__(name="watching", daemon=True)
        self._checks = checks
        self._found = found
        self._stopping = stopping
        self._failed = dict.fromkeys(checks.services, 0)
        self.down: dict[str, str] = {}

    @property
    def needed(self) -> bool:
        """Whether any service is configured."""
        return bool(self._checks.services)

    def run(self) -> None:
        """Poll until stopped."""
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            while not self._stopping.is_set():
                for name, url in self._checks.services.items():
                    self._take(name, look(client, url))
                self._stopping.wait(self._checks.every_s)

    def _take(self, name: str, trouble: str) -> None:
        now = int(time.time() * 1000)
        if not trouble:
            self._failed[name] = 0
            if self.down.pop(name, None) is not None:
                self._found.put(health_event(name, True, now, "answers ok"))
            return
        self._failed[name] += 1
        if self._failed[name] >= self._checks.after and name not in self.down:
            self.down[name] = trouble
            self._found.put(health_event(name, False, now, trouble))


class AlertWatcher(threading.Thread):
    """A thread that queries the alerts of Prometheus and reports those that started or ended since the last query.

    At a start all firing alerts are reported, because it is unknown whether the predecessor reported them. While Prometheus does not answer, no alert starts
    or ends here; the health checks report its outage.

    Args:
        checks: The Prometheus.
        found: Receives events.
        stopping: Set to stop the thread.
    """

    def __init__(self, checks: AlertChecks, found: SimpleQueue[Event], stopping: threading.Event) -> None:
        super().__init__(name="alerts", daemon=True)
        self._checks = checks
        self._found = found
        self._stopping = stopping
        self._firing: dict[str, dict[str, Any]] = {}
        self.trouble = ""

    @property
    def needed(self) -> bool:
        """Whether a Prometheus is configured."""
        return bool(self._checks.prometheus)

    def run(self) -> None:
        """Poll until stopped."""
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            while not self._stopping.is_set():
                try:
                    answer = client.get(f"{self._checks.prometheus.rstrip('/')}/api/v1/alerts")
                    listed = answer.raise_for_status().json()["data"]["alerts"]
                    self._take([one for one in listed if one["state"] == "firing"])
                    self.trouble = ""
                except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
                    self.trouble = f"{type(error).__name__}: {error}"[:DETAIL_LIMIT]
                self._stopping.wait(self._checks.every_s)

    def _take(self, firing: list[dict[str, Any]]) -> None:
        now = int(time.time() * 1000)
        newest = {alert_event(one, True, now).event_id: one for one in firing}
        for event_id, one in self._firing.items():
            if event_id not in newest:
                self._found.put(alert_event(one, False, now))
        for event_id, one in newest.items():
            if event_id not in self._firing:
                self._found.put(alert_event(one, True, now))
        self._firing = newest


def look(client: httpx.Client, url: str) -> str:
    """Return the problem of a service; empty if it is healthy."""
    try:
        answer = client.get(url)
    except httpx.HTTPError as error:
        return f"does not answer: {type(error).__name__}"
    if answer.status_code == 200:
        return ""
    try:
        report: Any = answer.json()
        told = ", ".join(f"{key}: {value}" for key, value in report.items() if key not in ("service", "ok"))
    except (ValueError, AttributeError):
        told = ""
    return f"HTTP {answer.status_code} {told}".strip()[:DETAIL_LIMIT]

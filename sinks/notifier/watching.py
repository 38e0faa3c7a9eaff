"""Looks at the /health of services and tells when one went down or came back."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Any

import httpx

from sinks.notifier.config import HealthChecks
from sinks.notifier.events import Event, health_event

TIMEOUT_S = 4.0
DETAIL_LIMIT = 400


class Watching(threading.Thread):
    """A thread that looks at every service in turn.

    A service is down after ``after`` failed looks in a row (no answer, or a status other than 200), and up again with the first good one.

    Args:
        checks: What to look at.
        found: Where events go.
        stopping: Set when it is over.
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
        """Whether there is anything to look at."""
        return bool(self._checks.services)

    def run(self) -> None:
        """Look until stopped."""
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


def look(client: httpx.Client, url: str) -> str:
    """Return what is wrong with a service; empty when it is well."""
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

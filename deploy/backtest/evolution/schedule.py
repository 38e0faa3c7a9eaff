"""``perpflow evolve --every``: the same run at an interval, as a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from schemas import metrics
from schemas.errors import UserError
from schemas.process.service import Service

# Pauses after a failed run, seconds: doubled from the first to the longest. A missing database or a missing log comes back within minutes.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


class Stopped(BaseException):
    """The service stops in the middle of a run. Nothing is half written: changes are one transaction, the report comes last."""


def newest_report(folder: Path) -> float | None:
    """Return when the newest report in a folder was written, Unix seconds; None without a report."""
    return max((path.stat().st_mtime for path in folder.glob("*/*_auto_evolve.json")), default=None)


class Schedule:
    """Runs auto-evolve at an interval until its service stops.

    A restart waits for the rest of the interval: the newest report says when the last run was.

    Args:
        once: One run, which writes its report into ``folder``.
        folder: Folder of the reports.
        every: Interval, seconds.
        service: Stop flag, log, health.
    """

    def __init__(self, once: Callable[[], None], folder: Path, every: float, service: Service) -> None:
        self._once = once
        self._folder = folder
        self._every = every
        self._service = service
        self._running = False
        self._rounds = 0
        self._trouble: str | None = None
        service.set_health(self.health)
        service.on_stop(self._interrupt)

    def health(self) -> dict[str, object]:
        """Return the health report: not ok after a failed run, until one succeeds."""
        report: dict[str, object] = {"ok": self._trouble is None, "rounds": self._rounds, "running": self._running}
        if self._trouble:
            report["error"] = self._trouble
        return report

    def run(self) -> None:
        """Run when a run is due, until the service stops. A failed run is tried again after a pause."""
        pause = FIRST_PAUSE_S
        while not self._service.stopping.is_set():
            if (wait := self._due_in()) > 0:
                self._service.stopping.wait(wait)
                continue
            began = time.perf_counter()
            try:
                self._running = True
                self._once()
            except Stopped:
                return
            except (UserError, OSError) as error:
                metrics.EVOLVE_RUNS.labels("failed").inc()
                self._trouble = str(error)
                self._service.log.warning("auto-evolve failed, trying again", error=str(error), pause_s=pause)
                self._running = False
                self._service.stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            finally:
                self._running = False
            metrics.EVOLVE_RUNS.labels("done").inc()
            self._trouble, pause = None, FIRST_PAUSE_S
            self._rounds += 1
            self._service.log.info("auto-evolve wrote its report", folder=str(self._folder), seconds=round(time.perf_counter() - began, 1))

    def _due_in(self) -> float:
        last = newest_report(self._folder)
        return 0.0 if last is None else last + self._every - time.time()

    def _interrupt(self) -> None:
        """Called by the signal handler, in the thread that runs."""
        if self._running:
            raise Stopped

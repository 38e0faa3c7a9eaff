"""One job: a process of its own, its progress, its end. It outlives the console that started it; the next one finds it by pid and start time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROGRESS, REPORT, TRADES, SAID = "progress.json", "report.json", "trades.csv", "output.txt"
# The end of what the command said, for a person.
MOST_SAID = 2_000


@dataclass(frozen=True)
class Place:
    """Where a job runs: machine, process id, start of the process (s since 1970)."""

    host: str
    pid: int
    started: float

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that ``str`` wrote."""
        host, pid, started = text.rsplit(" ", 2)
        return cls(host, int(pid), float(started))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started!r}"

    def process(self) -> psutil.Process | None:
        """Return the process; None if it ended, or if its number is another's now."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            alive = process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
            return process if alive else None
        except psutil.Error:
            return None


class Running:
    """A job that runs.

    Args:
        folder: Its folder.
        place: Where it runs.
        child: The process, if this console started it.
    """

    def __init__(self, folder: Path, place: Place, child: subprocess.Popen[bytes] | None = None) -> None:
        self.folder, self.place = folder, place
        self._child = child
        self._heard = time.monotonic()
        self._progress: Any = None
        # Why somebody ended it: ``cancelled`` or a failure.
        self.ended_as: tuple[str, str] | None = None

    @classmethod
    def start(cls, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> Running:
        """Start a command in a folder. Raises OSError."""
        with (folder / SAID).open("wb") as said:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        os.setpriority(os.PRIO_PROCESS, child.pid, 10)  # the live services come first
        return cls(folder, Place(socket.gethostname(), child.pid, psutil.Process(child.pid).create_time()), child)

    @property
    def alive(self) -> bool:
        """Return whether it still runs."""
        return self._child.poll() is None if self._child is not None else self.place.process() is not None

    def progress(self) -> Any:
        """Return the newest progress: phase, done, total; None before the first."""
        try:
            found = json.loads((self.folder / PROGRESS).read_bytes())
        except (OSError, ValueError):
            return self._progress
        if found != self._progress:
            self._progress, self._heard = found, time.monotonic()
        return found

    @property
    def silent_s(self) -> float:
        """Return for how long the progress has not changed, s."""
        return time.monotonic() - self._heard

    def end(self, status: str, reason: str) -> None:
        """Ask it to end (SIGTERM); ``kill`` follows if it does not."""
        self.ended_as = self.ended_as or (status, reason)
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.alive:
            try:
                os.killpg(self.place.pid, number)
            except ProcessLookupError:
                pass

    def outcome(self) -> tuple[str, Any, str | None]:
        """Return status, report and reason of a job that is over."""
        code = None if self._child is None else self._child.poll()
        report = self._report()
        if self.ended_as is not None and report is None:
            return self.ended_as[0], None, self.ended_as[1]
        if report is not None and code in (0, None):
            return "done", report, None
        if code is not None and code < 0:
            return "failed", None, f"the process was ended by {signal.Signals(-code).name}"
        said = self.said()
        return "failed", None, said or f"the command ended with {'an unknown code' if code is None else code} and said nothing"

    def _report(self) -> Any:
        try:
            return json.loads((self.folder / REPORT).read_bytes())
        except (OSError, ValueError):
            return None

    def said(self) -> str:
        """Return the end of what the command wrote."""
        try:
            return (self.folder / SAID).read_bytes()[-MOST_SAID:].decode("utf-8", "replace").replace("\x00", "").strip()
        except OSError:
            return ""

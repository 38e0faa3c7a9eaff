"""A service in its own process, with log files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.processes import free_port
from schemas.errors import UserError


class PipelineError(UserError):
    """A part of the pipeline cannot run. The message names its log."""


@dataclass
class Process:
    """A service in its own process. Its standard error goes to a log file."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    restart: bool = True
    process: subprocess.Popen[bytes] | None = None
    http_port: int = 0
    started: float = 0.0
    quick_deaths: int = 0
    starts: int = 0

    @property
    def log(self) -> Path:
        """File of its standard error."""
        return self.folder / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """File of its standard output."""
        return self.folder / f"{self.name}.out"

    def start(self) -> None:
        """Start it on a free HTTP port and in its own session. So Ctrl-C reaches only the demo, which stops all processes in order."""
        self.http_port = self.http_port or free_port()
        environment = {**os.environ, **self.environment, "PERPFLOW_HTTP_PORT": str(self.http_port)}
        with self.log.open("ab") as log, self.output.open("wb" if self.starts == 0 else "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *self.arguments],
                env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def finished(self) -> bool:
        """Whether it exited on its own with code 0."""
        return self.process is not None and self.process.poll() == 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def stop(self, timeout: float = 20.0) -> None:
        """Send SIGTERM, then SIGKILL if it does not exit in time."""
        self.send(signal.SIGTERM)
        if self.process is None:
            return
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self, lines: int = 12) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

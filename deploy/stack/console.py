"""The console, an optional part of the local stack: the HTTP API and the web pages of ``perpflow console`` on a port of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from deploy.stack import processes
from deploy.stack.java import Progress

# Its imports take seconds of one core, and other processes start beside it.
START_TIMEOUT_S = 120.0
# The port that `perpflow console` uses too. A second stack on a machine takes any free one.
PORT = 8700


class Console:
    """One console process of a stack.

    Args:
        folder: Folder of the stack; it identifies the process.
        logs: Folder of the log files.
    """

    program = "python"

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.log = logs / "console.log"

    @property
    def marker(self) -> str:
        """Command-line argument that identifies this console's process. Python ignores an option -X that it does not know."""
        return f"perpflow-stack={self.folder}"

    def start(self, port: int, environment: Mapping[str, str], progress: Progress) -> psutil.Process:
        """Start the process; ``wait`` returns when it answers.

        Args:
            port: Port of API and pages.
            environment: Variables that point it at this stack.
            progress: Called with the step.
        """
        progress("starting the console")
        command = [sys.executable, "-X", self.marker, "-m", "deploy.cli", "console", "--port", str(port)]
        # Its operations endpoint takes any free port: another service of this shell may have the port of the variable.
        return processes.start_detached(command, self.log, {**os.environ, **environment, "PERPFLOW_HTTP_PORT": "0"}, self.folder)

    def wait(self, process: psutil.Process, port: int) -> None:
        """Wait until it answers.

        Raises:
            StackError: it exited or did not answer in time. Shows the end of its log.
        """
        processes.wait_for_answer("The console", _health(port), process, START_TIMEOUT_S, self.log)


def url(port: int) -> str:
    """Return the address of the stack's console."""
    return f"http://{processes.HOST}:{port}"


def answers(port: int) -> bool:
    """Return whether a console answers there, with its database or without."""
    return processes.answers(_health(port))


def _health(port: int) -> str:
    return f"{url(port)}/api/v1/health"

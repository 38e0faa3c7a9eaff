"""The machine of a benchmark: what it is, and who runs on which core."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

OUR_PACKAGES = ("faust-streaming", "aiokafka", "confluent-kafka", "fastavro", "numba", "numpy", "pyarrow", "psycopg")


class Cores:
    """One core for the contestants, the others for the broker and us; on a machine with one core nothing is pinned."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.contestant = {cores[0]}
        self.others = set(cores[1:]) or {cores[0]}

    def pin(self, pid: int, cores: set[int]) -> None:
        """Keep a running process, with the threads that it has and will have, on some cores."""
        for thread in psutil.Process(pid).threads():
            try:
                os.sched_setaffinity(thread.id, cores)
            except ProcessLookupError:
                continue  # a thread that has ended since

    def start(self, command: list[str], variables: dict[str, str], log: Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start a contestant on its core."""
        with log.open("ab") as out:
            return subprocess.Popen(
                command, env=variables, stderr=out, preexec_fn=lambda: os.sched_setaffinity(0, self.contestant), **{"stdout": out, **more}
            )

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Put this process (and the threads it starts meanwhile) on the contestants' core."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.contestant)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def hardware() -> str:
    """Return processor, cores, memory and load in one line."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of what our own processes are made of."""
    return {"python": platform.python_version(), **{name: version(name) for name in OUR_PACKAGES}}

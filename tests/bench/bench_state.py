"""What the state of a worker weighs, and how soon it is there again after kill -9. Run: ``perpflow bench --only state``.

A worker process works off a log of 24 hours of event time, a mark every grid step. Its memory is then the resident size of the whole process: interpreter,
libraries, compiled code, buffers of Kafka clients and the state. After that it is killed, one more grid step is written, and the clock runs from the
start of the next process (interpreter and imports count) until the steps of that grid step are in the log: then the state of 24 hours has been read
from the changelog, rebuilt, and decided on.

``--quick`` takes the recovery of four instruments alone: what 600 weigh does not differ from run to run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from schemas.settings import Settings
from tests.bench.contest import WORKER, Contest, Size
from tests.bench.rows import Figure, Row
from tests.bench.running import Run
from tests.bench.worker_workload import Workload, fill

MEMORY_MB, RECOVERY_S = 1_000.0, 15.0
DAY_PANES = 5760


@dataclass(frozen=True)
class Kept:
    """What was found.

    Attributes:
        resident_mb, peak_mb: Resident memory after the day, and its peak, MB.
        recovery_s: Seconds from the start of the next process to the next decision.
        reading_s: Of them, reading the changelog and rebuilding.
    """

    resident_mb: float
    peak_mb: float
    recovery_s: float
    reading_s: float | None


class Keeping(Contest):
    """A worker that keeps the state of some instruments.

    Args:
        run, settings, size: As of ``Contest``.
        instruments: How many.
    """

    def __init__(self, run: Run, settings: Settings, size: Size, instruments: int) -> None:
        super().__init__(run, settings, size)
        self.workload = Workload(size.trades, size.panes, settings, instruments)

    def keep(self) -> Kept:
        """Work off all but the last grid step, weigh the process, kill it and time the next one."""
        last = self.size.panes - 1
        fill(self.workload, self.settings, 0, last)
        self.run.say(f"wrote the trades of {len(self.workload.instruments)} instruments")
        worker = self._start()
        try:
            self.wait_for_steps(last, worker)
            self.run.say("worked off")
            time.sleep(3.0)  # the last checkpoint
            resident = psutil.Process(worker.pid).memory_info().rss / 1e6
            status = Path(f"/proc/{worker.pid}/status").read_text()
            peak = next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), resident)
            worker.kill()
            worker.wait(10)
            fill(self.workload, self.settings, last, last + 1)
            began = time.perf_counter()
            worker = self._start()
            recovery = self.wait_for_steps(last + 1, worker) - began
            self.run.say("recovered")
        finally:
            worker.kill()
            worker.wait(10)
        self.check_features()
        events = [json.loads(line) for line in (self.logs / "worker.log").read_text(errors="replace").splitlines() if '"recovered"' in line]
        return Kept(resident, peak, recovery, events[-1].get("seconds") if events else None)

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {**self.run.variables(self.settings), "PERPFLOW_LOG_LEVEL": "info"}
        # Under its own name it takes its place in the group again at once: what is measured is the recovery, not a session timeout.
        command = [sys.executable, "-c", WORKER, "worker", "--session-timeout", "300", "--instance-id", "bench"]
        return self.cores.start(command, variables, self.logs / "worker.log")


def rows(run: Run) -> Iterator[Row]:
    """Yield the recovery of 4 instruments and, in the long form, the memory of 600 and their recovery."""
    few, many = Size(100_000 if run.quick else 1_000_000, DAY_PANES), Size(4_000_000, DAY_PANES)
    with run.environment() as settings:
        four = Keeping(run, settings, few, 4).keep()
    yield recovery("recovery, 24 h of 4 instruments", four, few, RECOVERY_S)
    if run.quick:
        return
    with run.environment() as settings:
        all_of_them = Keeping(run, settings, many, 600).keep()
    hours = many.panes * 15_000 / 3.6e6
    detail = {"peak_mb": round(all_of_them.peak_mb)}
    yield Row(
        "memory, 600 instruments", "MB", Figure(round(all_of_them.resident_mb), detail=detail), more_is_better=False, bars={"ours": MEMORY_MB},
        size={"instruments": 600, "hours": hours, "trades": many.trades}, note="resident size of the worker process with 24 h windows, all partitions in it",
    )  # fmt: skip
    yield recovery(f"recovery, {hours:g} h of 600 instruments", all_of_them, many, None)


def recovery(name: str, kept: Kept, size: Size, bar: float | None) -> Row:
    """Return the row of a recovery."""
    return Row(
        name, "s", Figure(round(kept.recovery_s, 2), durable="all", detail={"reading_and_rebuilding_s": kept.reading_s}), more_is_better=False,
        bars={"ours": bar} if bar else {}, size={"trades": size.trades, "hours": size.panes * 15_000 / 3.6e6},
        note="kill -9, then from the start of the next process to its first decision",
    )  # fmt: skip

"""Our worker process in a benchmark: warmed up, frozen, thawed, measured, and held to the trades."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from schemas.cluster import admin
from schemas.settings import Settings
from tests.bench.peer_jobs import Rate, consume
from tests.bench.running import Run
from tests.bench.sizing import grown
from tests.bench.truth import check_ours, truths
from tests.bench.worker_workload import Workload, add_strategies, fill

WARM_UP_PANES = 40
TIMEOUT_S = 900.0
WORKER = "from deploy.cli import main; main()"


@dataclass(frozen=True)
class Size:
    """How much a run works off, at most.

    Attributes:
        trades, panes: Trades and grid steps of the whole log.
        check_trades, check_panes: Those of the log that peers are checked with: long enough for an ATR.
        first_panes: Grid steps that are written and timed first. More follow until what is timed lasts long enough (``sizing``). None: all.
    """

    trades: int
    panes: int
    check_trades: int = 24_000
    check_panes: int = 340
    first_panes: int | None = None


class Contest:
    """One worker over one workload.

    Args:
        run: Where logs go and who runs where.
        settings: Topics of the run.
        size: How much.
        workload: What is written, if it has been made already.
        strategies: Running strategies an instrument.
    """

    def __init__(self, run: Run, settings: Settings, size: Size, workload: Workload | None = None, strategies: int = 0) -> None:
        self.run, self.settings, self.size, self.cores, self.logs = run, settings, size, run.cores, run.folder
        self.workload = workload or Workload(size.trades, size.panes, settings)
        self.strategies = strategies
        self.admin = admin(settings)
        self.process: subprocess.Popen[bytes] | None = None
        self.written = 0  # panes

    @property
    def warm(self) -> int:
        """How many panes are worked off before anything is measured."""
        return min(WARM_UP_PANES, (self.size.first_panes or self.size.panes) // 4)

    @property
    def trades(self) -> int:
        """How many trades are in the log so far."""
        return self.workload.before(self.written) if self.written < self.size.panes else self.workload.trades

    def steps(self) -> dict[int, int]:
        """Return the number of steps that the workers have written, by partition."""
        wire = self.settings.topic("worker_progress")
        asked = {TopicPartition(wire, partition): OffsetSpec.latest() for partition in self.workload.partitions}
        return {place.partition: future.result().offset for place, future in self.admin.list_offsets(asked, request_timeout=30).items()}

    def wait_for_steps(self, panes: int, worker: subprocess.Popen[bytes]) -> float:
        """Return when (perf_counter) all steps up to a pane were in the log."""
        wanted = (panes + 1) * len(self.workload.partitions)
        deadline = time.monotonic() + TIMEOUT_S
        while (found := sum(self.steps().values())) < wanted:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker wrote {found} of {wanted} steps:\n{self.log('worker')}")
            time.sleep(0.02)
        return time.perf_counter()

    def log(self, name: str) -> str:
        """Return the end of a log file."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-4000:]

    def prepare(self) -> None:
        """Write the log, and have a worker loaded and frozen behind the warm-up."""
        if self.strategies:
            add_strategies(self.workload, self.settings, each=self.strategies)
        fill(self.workload, self.settings, 0, self.warm)
        command = [sys.executable, "-c", WORKER, "worker", "--session-timeout", "1500"]
        self.process = self.cores.start(command, self.run.variables(self.settings), self.logs / "worker.log")
        self.wait_for_steps(self.warm, self.process)
        time.sleep(1.5)  # the checkpoint of the warm-up
        self.process.send_signal(signal.SIGSTOP)
        self.written = self.warm
        self._write(self.size.first_panes or self.size.panes)

    def measure(self) -> Rate:
        """Let the worker work off the log, and return the rate of its second half: of the trades whose steps are in the log.

        Where the size has ``first_panes``, the log grows behind a frozen worker until that half lasts long enough.
        A log so short that the worker writes all its steps at once has no second half: its rate is that of the whole, from the thaw on.
        """
        worker, first = self.process, self.warm
        assert worker is not None
        while True:
            rate = self._measure_once(worker, first)
            panes = self.written - first
            wanted = panes if self.size.first_panes is None else grown(panes, rate.seconds, self.size.panes - self.written)
            if wanted == panes:
                break
            time.sleep(1.5)  # the checkpoint of what was just worked off
            worker.send_signal(signal.SIGSTOP)
            first = self.written
            self._write(first + wanted)
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        return rate

    def _write(self, last: int) -> None:
        """Write the panes that are not in the log yet, up to one."""
        before = self.trades
        seconds = fill(self.workload, self.settings, self.written, last)
        self.written = last
        self.run.say(f"wrote {self.trades - before:,} trades in {seconds:.1f} s")

    def _measure_once(self, worker: subprocess.Popen[bytes], first: int) -> Rate:
        """Thaw the worker in front of the panes from ``first`` on, and return the rate of their second half."""
        cuts = {partition: self._cuts(partition) for partition in self.workload.partitions}
        began, cpu, done = time.perf_counter(), _cpu(worker), self.workload.before(first)
        worker.send_signal(signal.SIGCONT)
        self.wait_for_steps((first + self.written) // 2, worker)
        steps = self.steps()
        if sum(steps.values()) < (self.written + 1) * len(self.workload.partitions):
            began, cpu = time.perf_counter(), _cpu(worker)
            done = sum(int(cuts[partition][count - 1]) for partition, count in steps.items() if count)
        ended = self.wait_for_steps(self.written, worker)
        return Rate(self.trades - done, ended - began, _cpu(worker) - cpu)

    def _cuts(self, partition: int) -> npt.NDArray[np.int64]:
        """Return how many trades of a partition lie before each mark."""
        times = np.concatenate([i.times for i in self.workload.instruments if i.partition == partition])
        return np.searchsorted(np.sort(times), self.workload.mark_times, side="right")

    def check_features(self) -> int:
        """Hold every window and ATR of all features records to the trades; return how many records there were."""
        decode = self.settings.codec.decode
        records = (decode("features", message.value()) for message in consume(self.settings, self.settings.topic("features")))
        return check_ours(self.workload, truths(self.workload), records, self.written or self.workload.panes)

    def stop(self) -> None:
        """Kill the worker, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def _cpu(worker: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system)

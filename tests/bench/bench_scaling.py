"""Two workers that share the partitions on two cores, beside one on one core. Run: ``perpflow bench --only scaling``.

Workers scale as Kafka scales: each has its partitions, and they share nothing but the broker. On a machine of two cores the broker must have its part of
them, too, so two questions are asked:

- the system: broker and one worker pinned to one core, against broker and two workers on two cores. What is added is a core, and the bar (1.7) is here.
- the worker (not in ``--quick``): one worker on a core that it has for itself, against two workers where the broker shares their cores. Its note says
  what the broker took, and what two workers would do beside a broker on other machines: their trades per CPU second of their own, added up.

Each time the whole log is written while the workers, warm, are frozen; the clock runs from their thaw until every step is in the log. Features are held
to the trades.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from tests.bench.contest import WARM_UP_PANES, WORKER, Contest, Size
from tests.bench.rows import Figure, Row
from tests.bench.running import Run
from tests.bench.worker_workload import fill

SIZE = Size(3_000_000, 2880)  # two seconds of two workers; less would time the thaw
BAR = 1.7
JOIN_S = 120.0


@dataclass(frozen=True)
class Shared:
    """How fast some workers were together.

    Attributes:
        rate: Trades a second.
        per_cpu: Trades per CPU second of each worker, added up over the workers.
        worker_cpu, broker_cpu: CPU seconds of each worker, and of the broker.
        seconds: How long it took.
    """

    rate: float
    per_cpu: float
    worker_cpu: list[float]
    broker_cpu: float | None
    seconds: float

    def cost(self) -> str:
        """Return what a trade cost in CPU time, for people."""
        trades = self.rate * self.seconds
        return f"{sum(self.worker_cpu) / trades * 1e6:.2f} us of the workers and {(self.broker_cpu or 0.0) / trades * 1e6:.2f} us of the broker"


class Sharing(Contest):
    """Some workers of one group, on given cores."""

    def share(self, number: int, cores: list[set[int]], broker: psutil.Process | None) -> Shared:
        """Measure ``number`` workers, the n-th on ``cores[n]``."""
        warm, panes = min(WARM_UP_PANES, self.size.panes // 4), self.size.panes
        fill(self.workload, self.settings, 0, warm)
        variables = {**self.run.variables(self.settings), "PERPFLOW_LOG_LEVEL": "info"}
        workers: list[subprocess.Popen[bytes]] = []
        try:
            for n in range(number):
                command = [sys.executable, "-c", WORKER, "worker", "--session-timeout", "300"]
                workers.append(self.cores.start(command, variables, self.logs / f"worker-{self.settings.topic_prefix}{n}.log"))
                self.cores.pin(workers[n].pid, cores[n])
                if n == 0:
                    self.wait_for_steps(warm, workers[0])
            self._wait_until_shared(number)
            time.sleep(2.5)  # the checkpoint after the rebalance
            for worker in workers:
                worker.send_signal(signal.SIGSTOP)
            fill(self.workload, self.settings, warm, panes)
            trades = self.workload.trades - self.workload.before(warm)
            processes = [psutil.Process(worker.pid) for worker in workers]
            before = [_cpu(process) for process in processes]
            broker_before = _cpu(broker) if broker else 0.0
            began = time.perf_counter()
            for worker in workers:
                worker.send_signal(signal.SIGCONT)
            seconds = self.wait_for_steps(panes, workers[0]) - began
            spent = [_cpu(process) - start for process, start in zip(processes, before, strict=True)]
            broker_cpu = _cpu(broker) - broker_before if broker else None
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait(30)
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.send_signal(signal.SIGCONT)
                    worker.kill()
                    worker.wait(10)
        self.check_features()
        return Shared(trades / seconds, trades / sum(spent) * number, spent, broker_cpu, seconds)

    def _wait_until_shared(self, number: int) -> None:
        """Wait until every worker has recovered its partitions, and all have all."""
        deadline = time.monotonic() + JOIN_S
        while True:
            held = [self._held(n) for n in range(number)]
            if all(held) and sum(map(len, held)) == self.settings.partitions:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers did not share the partitions in {JOIN_S:.0f} s: {held}")
            time.sleep(0.1)

    def _held(self, n: int) -> list[int]:
        lines = (self.logs / f"worker-{self.settings.topic_prefix}{n}.log").read_text(errors="replace").splitlines()
        events = [json.loads(line) for line in lines if '"event": "recovered"' in line]
        partitions: list[int] = events[-1]["partitions"] if events else []
        return partitions


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def broker_of(bootstrap: str) -> psutil.Process | None:
    """Return the broker's process, None when it runs on another machine or belongs to somebody else."""
    port = urlsplit(f"//{bootstrap.split(',')[0]}").port
    for process in psutil.process_iter():
        try:
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections(kind="tcp")):
                return process
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return None


def rows(run: Run) -> Iterator[Row]:
    """Yield the row of the system and the row of the worker."""
    one, all_cores = set(run.cores.contestant), sorted(run.cores.contestant | run.cores.others)
    broker = broker_of(run.settings.kafka_bootstrap_servers)
    if len(all_cores) < 2 or broker is None:
        yield Row("scaling", "trades/s", Figure.none("needs two cores and the broker on this machine"))
        return
    two = [{all_cores[0]}, {all_cores[1]}]

    def measure(workers: int, cores: list[set[int]], broker_cores: set[int]) -> Shared:
        run.cores.pin(broker.pid, broker_cores)
        with run.environment() as settings:
            return Sharing(run, settings, SIZE).share(workers, cores, broker)

    try:
        together = measure(1, [one], one)
        apart = None if run.quick else measure(1, [one], set(run.cores.others))
        both = measure(2, two, set(all_cores[:2]))
    finally:
        run.cores.pin(broker.pid, set(run.cores.others))

    def figure(found: Shared) -> Figure:
        return Figure(round(found.rate), detail={
            "seconds": round(found.seconds, 2), "worker_cpu_seconds": [round(cpu, 2) for cpu in found.worker_cpu],
            "broker_cpu_seconds": found.broker_cpu, "trades_per_cpu_second_of_workers": round(found.per_cpu),
        })  # fmt: skip

    name, about = "scaling, the system", {"trades": SIZE.trades, "instruments": 20, "partitions": 12}
    note = (
        f"two workers and the broker on two cores, against one worker and the broker on one; a trade costs {both.cost()} in CPU time there, "
        f"{together.cost()} here: two cores cannot give more than twice the rate, and give less by what a trade costs more"
    )
    yield Row(name, "trades/s", figure(both), {"one core": figure(together)}, bars={"one core": BAR}, size=about, note=note)
    if apart is None:
        return
    share = (both.broker_cpu or 0.0) / (2 * both.seconds)
    beside = both.per_cpu / apart.per_cpu
    note = (
        f"of the two cores the broker took {share:.0%}; by trades per CPU second of their own two workers do {beside:.2f} times one, "
        "which is what a broker elsewhere leaves them"
    )
    yield Row("scaling, the worker", "trades/s", figure(both), {"one worker, broker on another core": figure(apart)}, size=about, note=note)

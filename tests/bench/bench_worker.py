"""How many Avro trades a second one core of the worker turns into features with durable state, beside its peers in the same run.

Run: ``python tests/bench/bench_worker.py [--quick] [--json FILE]``. It starts a broker of its own and removes it; with KAFKA_BOOTSTRAP_SERVERS set it
uses that one. Twenty instruments in 12 partitions over 24 hours of event time (``--quick``: fewer hours, the same density), a mark every grid step, as an
importer of history writes them. What is compared:

- ours: the worker process (`perpflow worker`), pinned to one core, the broker to the others. It first works off ten minutes of event time, which
  loads the compiled code; then it is frozen, the rest is written, and the clock runs from its thaw until every step of worker_progress is in the log
  (a step is written after its features are acknowledged).
- plain Faust: one agent, one event a message, fastavro, table and send per pane (plain_faust.py), on fewer trades of the same log, pinned to the same core.
- bare consume loop: confluent-kafka's consume() in batches, nothing decoded; and the same with every value decoded by the codec.

All sums are held to the trades themselves: a contestant that is fast and wrong fails the run. Machines are noisy: compare ratios, and where other
work shares the cores compare trades per second of the process's own CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from confluent_kafka import Consumer, TopicPartition  # noqa: E402
from confluent_kafka.admin import OffsetSpec  # noqa: E402
from worker_workload import Workload, fill  # noqa: E402

from deploy.stack import Stack  # noqa: E402
from deploy.stack.topics import admin, create_topics  # noqa: E402
from schemas.settings import Settings  # noqa: E402
from stream_apps.core.snapshot import WINDOW_MS, WINDOWS  # noqa: E402

WARM_UP_PANES = 40
TIMEOUT_S = 900.0
WORKER = "from deploy.cli import main; main()"


@dataclass(frozen=True)
class Size:
    """Trades and grid steps of a run; trades that plain Faust and the decoding loop get."""

    trades: int
    panes: int
    few: int


FULL = Size(5_000_000, 5760, 60_000)
QUICK = Size(1_250_000, 1440, 20_000)


@dataclass(frozen=True)
class Rate:
    """Trades a second of wall time and of the process's CPU time."""

    trades: int
    seconds: float
    cpu_seconds: float

    @property
    def wall(self) -> float:
        return self.trades / self.seconds

    @property
    def cpu(self) -> float:
        return self.trades / self.cpu_seconds


class Cores:
    """One core for the contestants, the others for the broker and us; on a machine with one core nothing is pinned."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.contestant = {cores[0]}
        self.others = set(cores[1:]) or {cores[0]}

    def pin_broker(self, pid: int) -> None:
        """Keep the broker off the contestants' core."""
        for thread in psutil.Process(pid).threads():
            try:
                os.sched_setaffinity(thread.id, self.others)
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


class Bench:
    """One run against one broker.

    Args:
        settings: Where the broker is, under a prefix of its own.
        size: How much.
        cores: Who runs where.
        logs: Folder for the logs of the processes.
        say: Told what happens.
    """

    def __init__(self, settings: Settings, size: Size, cores: Cores, logs: Path, say: Callable[[str], None] = print) -> None:
        self.settings, self.size, self.cores, self.logs, self.say = settings, size, cores, logs, say
        self.workload = Workload(size.trades, size.panes, settings)
        self.admin = admin(settings)
        # Plain Faust and the decoding loop get the first panes only: they would take a quarter of an hour for the day.
        few = np.array([self.workload.before(pane) for pane in range(WARM_UP_PANES + 1)])
        self.few_panes = max(4, int(np.searchsorted(few, size.few, side="right")) - 1)
        self.few_trades = self.workload.before(self.few_panes)

    def variables(self, settings: Settings) -> dict[str, str]:
        names = {field.alias: getattr(settings, name) for name, field in Settings.model_fields.items()}
        ours = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in names.items() if key}
        return {**os.environ, **ours, "PYTHONPATH": str(ROOT), "PERPFLOW_HTTP_PORT": "0", "PERPFLOW_LOG_LEVEL": "warning"}

    # --- ours --------------------------------------------------------------------------------------------------------
    def steps(self) -> int:
        """Return the number of steps that the worker has written."""
        wire = self.settings.topic("worker_progress")
        asked = {TopicPartition(wire, partition): OffsetSpec.latest() for partition in self.workload.partitions}
        return sum(future.result().offset for future in self.admin.list_offsets(asked, request_timeout=10).values())

    def wait_for_steps(self, panes: int, worker: subprocess.Popen[bytes]) -> float:
        """Return when (perf_counter) all steps up to a pane were in the log."""
        wanted = (panes + 1) * len(self.workload.partitions)
        deadline = time.monotonic() + TIMEOUT_S
        while self.steps() < wanted:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker wrote {self.steps()} of {wanted} steps:\n{self.log('worker')}")
            time.sleep(0.02)
        return time.perf_counter()

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")[-4000:]

    def worker(self) -> Rate:
        """Measure the worker."""
        warm, panes = min(WARM_UP_PANES, self.size.panes // 4), self.size.panes
        fill(self.workload, self.settings, 0, warm)
        command = [sys.executable, "-c", WORKER, "worker", "--session-timeout", "300"]
        worker = self.cores.start(command, self.variables(self.settings), self.logs / "worker.log")
        try:
            self.wait_for_steps(warm, worker)
            time.sleep(1.5)  # the checkpoint of the warm-up
            worker.send_signal(signal.SIGSTOP)
            seconds = fill(self.workload, self.settings, warm, panes)
            trades = self.workload.trades - self.workload.before(warm)
            self.say(f"wrote {trades:,} trades in {seconds:.1f} s")
            process = psutil.Process(worker.pid)
            before = process.cpu_times()
            began = time.perf_counter()
            worker.send_signal(signal.SIGCONT)
            ended = self.wait_for_steps(panes, worker)
            after = process.cpu_times()
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait(10)
        return Rate(trades, ended - began, after.user + after.system - before.user - before.system)

    def check_features(self) -> int:
        """Hold every window of every features record to the trades; return how many records there were."""
        index = {i.name: i for i in self.workload.instruments}
        sums = {name: np.concatenate([[0], np.cumsum(self.workload.panes_of(i))]) for name, i in index.items()}
        # A window is known once its whole length has passed since the first pane with a trade.
        first = {name: -(-int(i.times[0]) // self.workload.grid) - self.workload.first_pane for name, i in index.items()}
        lengths = {window: WINDOW_MS[window] // self.workload.grid for window in WINDOWS}
        decode, seen, total = self.settings.codec.decode, set(), 0
        for value in self.read("features"):
            record = decode("features", value)
            name, pane = record["instrument"], record["event_time"] // self.workload.grid - self.workload.first_pane
            cumulative = sums[name]
            for window, length in lengths.items():
                known = pane - first[name] + 1 >= length
                expected = (cumulative[pane + 1] - cumulative[pane + 1 - length]) / 1000 if known else None
                if record[f"cvd_{window}"] != expected:
                    raise AssertionError(f"{name} pane {pane}: cvd_{window} is {record[f'cvd_{window}']}, the trades say {expected}")
            total += record["pane_trades"]
            seen.add((name, pane))
        expected_records = sum(self.size.panes - start for start in first.values())
        assert len(seen) == expected_records, f"{len(seen)} features records, not {expected_records}"
        assert total >= self.workload.trades, f"{total} trades in the panes, not {self.workload.trades}"
        return len(seen)

    def read(self, topic: str) -> Iterator[bytes]:
        """Yield the values of a topic."""
        for message in self.consume(self.settings.topic(topic), 10_000):
            value = message.value()
            assert value is not None
            yield value

    def consume(self, wire: str, batch: int) -> Iterator[Any]:
        """Yield the messages that a topic holds now."""
        asked = {TopicPartition(wire, p): OffsetSpec.latest() for p in range(self.settings.partitions)}
        missing = sum(future.result().offset for future in self.admin.list_offsets(asked, request_timeout=10).values())
        consumer = self.consumer()
        consumer.assign([TopicPartition(wire, p, 0) for p in range(self.settings.partitions)])
        try:
            while missing > 0:
                messages = consumer.consume(batch, 5.0)
                assert messages, f"{wire}: {missing} records did not come"
                missing -= len(messages)
                yield from messages
        finally:
            consumer.close()

    def consumer(self) -> Consumer:
        return Consumer({
            "bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
            "max.partition.fetch.bytes": 4 << 20, "fetch.max.bytes": 64 << 20, "queued.max.messages.kbytes": 1 << 18,
        })  # fmt: skip

    # --- peers -------------------------------------------------------------------------------------------------------
    def plain_faust(self) -> tuple[Rate, dict[str, dict[int, int]]]:
        """Measure the plain Faust worker; returns its CVD per instrument and pane, lots."""
        settings = self.settings.model_copy(update={"topic_prefix": f"{self.settings.topic_prefix}plain."})
        create_topics(settings)
        fill(self.workload, settings, 0, self.few_panes)
        script = str(Path(__file__).with_name("plain_faust.py"))
        command = [sys.executable, script, f"{settings.topic_prefix}app", str(self.few_trades), str(self.logs / "plain-data")]
        process = self.cores.start(command, self.variables(settings), self.logs / "plain.log", stdout=subprocess.PIPE)
        try:
            out, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
        if process.returncode:
            raise RuntimeError(f"plain Faust ended with {process.returncode}:\n{self.log('plain')}")
        result = json.loads(out.splitlines()[-1])
        panes = {name: {int(pane): cvd for pane, cvd in of.items()} for name, of in result["panes"].items()}
        return Rate(self.few_trades, result["seconds"], result["cpu_seconds"]), panes

    def bare_loop(self) -> Rate:
        """Measure consume() over the whole log, nothing decoded."""
        wire, wanted, got = self.settings.topic("agg_trades"), self.workload.trades, 0
        with self.cores.ours():
            consumer = self.consumer()
            consumer.assign([TopicPartition(wire, p, 0) for p in range(self.settings.partitions)])
            messages = consumer.consume(1, 30.0)
            began, cpu = time.perf_counter(), time.process_time()
            while got < wanted:
                got += len(messages)
                messages = consumer.consume(10_000, 1.0) if got < wanted else []
            rate = Rate(wanted, time.perf_counter() - began, time.process_time() - cpu)
            consumer.close()
        return rate

    def decoding_loop(self) -> tuple[Rate, dict[str, dict[int, int]]]:
        """Measure consume() with every value decoded by the codec and added to its pane."""
        settings = self.settings.model_copy(update={"topic_prefix": f"{self.settings.topic_prefix}plain."})
        decode, grid, panes = settings.codec.decode, settings.grid_ms, {i.name: {} for i in self.workload.instruments}
        with self.cores.ours():
            began, cpu = time.perf_counter(), time.process_time()
            for message in self.consume(settings.topic("agg_trades"), 10_000):
                trade = decode("agg_trades", message.value())
                lots = round(trade["quantity"] * 1000)
                of, pane = panes[trade["instrument"]], -(-trade["event_time"] // grid)
                of[pane] = of.get(pane, 0) + (-lots if trade["buyer_is_maker"] else lots)
            rate = Rate(self.few_trades, time.perf_counter() - began, time.process_time() - cpu)
        return rate, panes

    def clean_up(self) -> None:
        """Delete the run's topics, those that Faust made among them."""
        wires = [t for t in self.admin.list_topics(timeout=10).topics if t.startswith(self.settings.topic_prefix)]
        for future in (self.admin.delete_topics(wires) if wires else {}).values():
            future.result(timeout=30)

    def check_panes(self, name: str, panes: dict[str, dict[int, int]]) -> None:
        """Hold a peer's CVD per pane to the trades."""
        for instrument in self.workload.instruments:
            expected = self.workload.panes_of(instrument)[: self.few_panes].tolist()
            found = [panes[instrument.name].get(self.workload.first_pane + pane, 0) for pane in range(self.few_panes)]
            assert found == expected, f"{name}: {instrument.name}: the CVD of its panes differs from the trades'"


def run(bench: Bench) -> dict[str, Any]:
    """Run all contestants, check their sums, and return the result."""
    create_topics(bench.settings)
    ours = bench.worker()
    records = bench.check_features()
    bench.say(f"ours: {records:,} features records agree with the trades in every window")
    plain, plain_panes = bench.plain_faust()
    bench.check_panes("plain Faust", plain_panes)
    bare = bench.bare_loop()
    decoding, decoded_panes = bench.decoding_loop()
    bench.check_panes("consume loop with codec", decoded_panes)
    bench.say("plain Faust and the decoding loop agree with the trades in every pane")
    peers = {"plain Faust": plain, "consume loop, not decoded": bare, "consume loop, decoded by the codec": decoding}
    return {
        "name": "worker: Avro trades to features with durable state, one core",
        "unit": "trades/s",
        "ours": round(ours.wall),
        "peers": {name: round(rate.wall) for name, rate in peers.items()},
        "ratio": {name: round(ours.wall / rate.wall, 3) for name, rate in peers.items()},
        "trades_per_cpu_second": {name: round(rate.cpu) for name, rate in {"ours": ours, **peers}.items()},
        "ratio_per_cpu_second": {name: round(ours.cpu / rate.cpu, 3) for name, rate in peers.items()},
        "size": {"trades": ours.trades, "features": records, "instruments": len(bench.workload.instruments),
                 "hours": bench.size.panes * bench.workload.grid / 3.6e6},
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in (
            "faust-streaming", "aiokafka", "confluent-kafka", "fastavro", "numba", "numpy",
        )}},
    }  # fmt: skip


def hardware() -> str:
    """Return processor, cores, memory and load in one line."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, {platform.system()} {platform.release()}"


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = [
        f"{result['name']} ({result['size']['trades']:,} trades, {result['size']['instruments']} instruments, {result['size']['hours']:g} h)",
        f"{'':36}{'trades/s':>12}{'ours is':>10}{'per CPU s':>12}{'ours is':>10}",
        f"{'ours':36}{result['ours']:>12,}{'':10}{result['trades_per_cpu_second']['ours']:>12,}",
    ]
    for name, rate in result["peers"].items():
        lines.append(
            f"{name:36}{rate:>12,}{result['ratio'][name]:>9.2f}x"
            f"{result['trades_per_cpu_second'][name]:>12,}{result['ratio_per_cpu_second'][name]:>9.2f}x"
        )
    lines += [result["hardware"], ", ".join(f"{name} {number}" for name, number in result["versions"].items())]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="six hours instead of a day")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is removed then, too
    cores = Cores()
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as folder:
        stack: Stack | None = None
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        try:
            if bootstrap is None:
                stack = Stack(Path(folder) / "stack")
                stack.up()
                bootstrap = stack.env()["KAFKA_BOOTSTRAP_SERVERS"]
                broker = next(part for part in stack.status() if part.name == "kafka")
                cores.pin_broker(broker.pid or 0)
            settings = Settings(kafka_bootstrap_servers=bootstrap, topic_prefix=f"bench{uuid.uuid4().hex[:8]}.", keep_history=True)
            bench = Bench(settings, QUICK if options.quick else FULL, cores, Path(folder))
            try:
                result = run(bench)
            finally:
                if stack is None:
                    bench.clean_up()
        finally:
            if stack is not None:
                stack.reset()
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

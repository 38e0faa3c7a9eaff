"""Evaluate strategies on periods of a source, on all cores. Searches, features and labels use this."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.backtest.files import FileArgument
from deploy.backtest.job import FILE, Job, Opened, open_job
from producers.simulated.recording.formats import recording_files
from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.sources.source import Piece, Source
from stream_apps.research.closed import ClosedTrades
from stream_apps.research.search import Trade
from stream_apps.research.splits import Interval

# Most records of a period to cache between the batches of a search: parsing text files takes most of a run.
MOST_KEPT = 3_000_000
# Periods that a process caches: a k-fold trains on two.
STRETCHES_KEPT = 2


@dataclass
class Kept:
    """A source whose pieces are cached during the first run. For files, because their pieces do not depend on the engine."""

    source: Source
    kept: list[Piece] | None = None

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the pieces."""
        if self.kept is None:
            self.kept = list(self.source.pieces(engine_of))
        yield from self.kept


class ReplayEvaluator:
    """Runs strategies over periods of a job's source, a share of the strategies in each process. Use as a context manager.

    A period is replayed from ``warm_up_ms`` before its start to its end, with ``run_out`` until its last trade must have closed. So a training
    cannot see later data. The results do not depend on the number of processes.

    Args:
        job: Source and costs. Its strategies and period are not used.
        settings: Settings of the environment.
        processes: Number of processes. None: one per core. 1: run in this process.
    """

    def __init__(self, job: Job, settings: Settings, processes: int | None = None) -> None:
        self._job = job
        self._settings = settings
        self._processes = processes or len(os.sched_getaffinity(0))
        self._pool: Executor | None = None

    def __enter__(self) -> ReplayEvaluator:
        if self._processes > 1:
            # Forking a process with threads (clients, BLAS) may deadlock, so processes are spawned.
            self._pool = ProcessPoolExecutor(self._processes, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_worker)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def __call__(self, strategies: Sequence[StrategyConfig], within: Interval, run_out: bool = False) -> list[list[Trade]]:
        """Return the closed trades of each strategy (``stream_apps.research.search.Evaluator``)."""
        if not strategies:
            return []
        if self._pool is None:
            return _evaluate(self._job, self._settings, list(strategies), within, run_out)
        shares = [list(strategies[place :: self._processes]) for place in range(min(self._processes, len(strategies)))]
        running = [self._pool.submit(_evaluate, self._job, self._settings, share, within, run_out) for share in shares]
        found: list[list[Trade]] = [[] for _ in strategies]
        for place, one in enumerate(running):
            found[place :: self._processes] = one.result()
        return found


def _quiet_worker() -> None:
    # Ctrl-C reaches the whole process group. The parent stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_opened: OrderedDict[str, Opened] = OrderedDict()


def _evaluate(job: Job, settings: Settings, strategies: list[StrategyConfig], within: Interval, run_out: bool) -> list[list[Trade]]:
    """Run strategies over one period. Runs in a worker process."""
    after = max(one.timeout_minutes for one in strategies) * 60_000 + 2 * settings.grid_ms if run_out else 0
    opened = _open(replace(job, since=within.begin, until=within.end - 1 + after), settings)
    begun = [replace(one, effective_time=within.begin) for one in strategies]
    collected = ClosedTrades(settings.codec)
    replace(opened, strategies=begun).run(collected.take, collected.on_piece)
    return [list(trades) for trades in collected.of(begun, within, run_out)]


def _open(job: Job, settings: Settings) -> Opened:
    key = repr((job, _numbers(settings)))
    known = _opened.get(key)
    if known is not None:
        _opened.move_to_end(key)
        return known
    opened = open_job(job, settings)
    if opened.files is not None and opened.files.total <= MOST_KEPT:
        opened = replace(opened, source=Kept(opened.source))
        _opened[key] = opened
        while len(_opened) > STRETCHES_KEPT:
            _opened.popitem(last=False)
    return opened


def _numbers(settings: Settings) -> tuple[int, int, str, str, int, str]:
    """Return the variables of the environment on which an engine's results depend."""
    return (
        settings.grid_ms,
        settings.allowed_lateness_ms,
        settings.analytics,
        settings.vpin_buckets,
        settings.vpin_bucket_count,
        settings.engine_settings,
    )


def parents(opened: Opened) -> list[StrategyConfig]:
    """Return the strategies of a job. Raises UserError if it names none."""
    if not opened.strategies:
        raise UserError("--strategy: missing; name the strategy to start from")
    return opened.strategies


def span(opened: Opened) -> Interval:
    """Return the period of a job: its options, or the period of its files. Raises UserError if both are missing."""
    job = opened.job
    if opened.files is not None:
        first, last = opened.files.span
        since, until = max(first, job.since or first), min(last + 1, job.until or last + 1)
    elif job.since is None or job.until is None:
        raise UserError("--from and --to: missing; topics and archive need a period")
    else:
        since, until = job.since, job.until
    if until <= since:
        raise UserError("--from and --to: the source has no data in this period")
    return Interval(since, until)


def data_mark(job: Job, settings: Settings) -> str:
    """Return the identity of a job's data and costs: names and sizes of files, or topics and period; numbers of the engine; paper model."""
    files = [
        (path.name, path.stat().st_size)
        for source in job.sources
        if source.startswith(FILE)
        for path in recording_files(FileArgument.parse(source.removeprefix(FILE), None, job.venue).path)
    ]
    named = [Path(source).name if source.startswith(FILE) else source for source in job.sources]
    return repr((named, files, job.symbols, job.warm_up_ms, sorted(job.contract_values.items()), _numbers(settings),
                 job.engine, job.revisions, job.paper))  # fmt: skip


def length_ms(option: str, text: str) -> int:
    """Return a duration such as ``30d``, ``12h`` or ``90m`` in ms. Raises UserError, naming the option."""
    units: dict[str, int] = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError) as error:
        raise UserError(f"{option}: expected a duration such as 30d, 12h or 90m, got {text!r}") from error
    if not 0 <= value < 1e14:
        raise UserError(f"{option}: must not be negative, got {text!r}")
    return round(value)


def plain(value: Any) -> Any:
    """Return a value as JSON types: dataclasses and named tuples as objects, numpy numbers as numbers."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value

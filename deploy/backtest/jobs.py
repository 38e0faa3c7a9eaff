"""Run a replay on several cores, split by partition and by strategy. The results do not depend on the number of processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from deploy.backtest.job import Opened
from deploy.report.series import FEATURES
from schemas.errors import UserError
from schemas.partition import base_of_instrument
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.collect import Collector
from stream_apps.replay.run import PartitionReplay
from stream_apps.replay.sources.source import Piece

# With fewer strategies per process, reading and windowing the market again costs more than it saves.
LEAST_STRATEGIES = 16
# With fewer records, starting processes takes longer than the replay.
LEAST_RECORDS = 500_000
POLL_S = 0.2

# Number of records done by each part. Shared with the parent process.
_done: Any = None


@dataclass(frozen=True)
class Part:
    """The part of a replay that one process runs.

    Attributes:
        number: Number of the part.
        partition: Partition of the log.
        strategies: Strategy ids. None: those of the log.
        leads: First part of its partition. It also reports the market.
    """

    number: int
    partition: int
    strategies: tuple[str, ...] | None
    leads: bool

    def __str__(self) -> str:
        names = "" if self.strategies is None else f" ({', '.join(self.strategies[:5])}{', ...' if len(self.strategies) > 5 else ''})"
        return f"partition {self.partition}{names}"


def parts_of(opened: Opened, jobs: int) -> list[Part]:
    """Split a job into parts: one per partition, and several per partition if there are more processes and many strategies."""
    apart = max(1, jobs // max(1, len(opened.partitions)))
    cut: list[tuple[int, tuple[str, ...] | None, bool]] = []
    for partition in opened.partitions:
        if opened.strategies is None:
            cut.append((partition, None, True))
            continue
        mine = [
            one.strategy_id for one in opened.strategies if opened.settings.partition_of(base_of_instrument(one.instrument)) == partition
        ]
        count = max(1, min(apart, len(mine) // LEAST_STRATEGIES))
        cut += [(partition, tuple(mine[at::count]), at == 0) for at in range(count)]
    return [Part(number, *one) for number, one in enumerate(cut)]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect(
    opened: Opened, jobs: int, on_piece: Callable[[Piece], None], progress: Callable[[int], None]
) -> tuple[Collector, list[StrategyConfig]]:
    """Run a job. Return the collected results and the strategies at its end.

    Args:
        opened: The job.
        jobs: Number of processes. 0: one per core, if that is faster.
        on_piece: Called with every piece, if one process runs.
        progress: Called with the number of records done, if several processes run.

    Raises:
        UserError: a part failed. The message names it.
    """
    parts = parts_of(opened, jobs or cores())
    if jobs == 1 or len(parts) < 2 or (jobs == 0 and opened.total < LEAST_RECORDS):
        collected, configs = _run(opened, on_piece)
    else:
        collected, configs = _in_processes(opened, parts, min(jobs or cores(), len(parts)), progress)
    collected.settle()
    return collected, sorted(configs, key=lambda one: one.strategy_id) if opened.strategies is None else opened.strategies


def _run(opened: Opened, on_piece: Callable[[Piece], None]) -> tuple[Collector, list[StrategyConfig]]:
    collected = Collector(opened.settings.codec, opened.instruments, opened.job.since, opened.job.until, FEATURES)

    def collect_piece(piece: Piece) -> None:
        collected.on_piece(piece)
        on_piece(piece)

    runs = opened.run(collected.take, collect_piece)
    in_force = [config for run in runs.values() if isinstance(run, PartitionReplay) for config, _ in run.engine.strategies.values()]
    return collected, [one for one in in_force if opened.instruments is None or set(one.all_instruments) & set(opened.instruments)]


def _in_processes(
    opened: Opened, parts: Sequence[Part], processes: int, progress: Callable[[int], None]
) -> tuple[Collector, list[StrategyConfig]]:
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", len(parts))
    found: dict[int, tuple[Collector, list[StrategyConfig]]] = {}
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_share, initargs=(done,)) as pool:
        waiting: dict[Future[Any], Part] = {
            pool.submit(_work, opened.part(part.partition, part.strategies), part.number): part for part in parts
        }
        try:
            while waiting:
                ended, _ = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
                progress(sum(done[:]))
                for future in ended:
                    found[waiting[future].number] = _result(future, waiting[future])
                    del waiting[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    collected, configs = found[0]
    for part in parts[1:]:
        collected.merge(found[part.number][0], part.leads)
        configs = configs + found[part.number][1]
    return collected, configs


def _result(future: Future[Any], part: Part) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(f"replay of {part}: a process was killed or ran out of memory") from error
    except Exception as error:
        raise UserError(f"replay of {part}: {error}") from error


# --- child process ----------------------------------------------------------------------------------------------


def _share(done: Any) -> None:
    global _done
    _done = done


def _work(opened: Opened, number: int) -> tuple[Collector, list[StrategyConfig]]:
    def on_piece(piece: Piece) -> None:
        _done[number] += len(piece.records)

    return _run(opened, on_piece)

"""How fast a replay runs from Kafka and from the archive, through features, scoring and the paper model, in one run on one core; and from the archive
in a process a core, the partitions dealt out, as ``perpflow replay --jobs`` does.

Run: ``perpflow bench --only replay``. Recorded trades of twenty instruments (``worker_workload``), one strategy each. Both replays are
first held to each other: every result, byte for byte. Report ratios; machines are noisy.
"""

from __future__ import annotations

import cProfile
import hashlib
import multiprocessing
import os
import pstats
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from schemas.archive.manifest import Manifest
from schemas.archive.read import PartitionReader
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.archive import inspect
from sinks.archive.service import Archiver, Options
from stream_apps.core.log.inbox import TRADE_FIELDS
from stream_apps.core.market.config import EngineConfig
from stream_apps.engines import SIGNALS
from stream_apps.replay.run import drive
from stream_apps.replay.sources.archive import Archive
from stream_apps.replay.sources.source import Piece, Source, Topics
from stream_apps.replay.sources.topics import TopicSource
from tests.bench.rows import Figure, Row, alternate
from tests.bench.running import Run
from tests.bench.sizing import grown
from tests.bench.worker_workload import Workload, add_strategies, fill

TOPICS = ("agg_trades", "instruments", "progress", "strategies")


class Preloaded:
    """Pieces that are in memory: what remains is the engine and the paper model."""

    def __init__(self, source: Source, config: EngineConfig, settings: Settings) -> None:
        self._pieces: list[Piece] = []
        drive(source, config, settings.codec, lambda partition, result: None, on_piece=self._pieces.append)

    def pieces(self, engine_of: Any) -> Any:
        """Yield them."""
        yield from self._pieces


class Seen(NamedTuple):
    """What a replay gave: records by result topic, and by partition a hash over all results in their order."""

    counts: Counter[str]
    hashes: dict[int, str]


def timed(source: Source, settings: Settings) -> tuple[float, Seen]:
    """Return the seconds of a replay and what it gave."""
    digests, counts = defaultdict[int, Any](hashlib.sha256), Counter[str]()

    def take(partition: int, result: Any) -> None:
        counts[result.topic] += 1
        digests[partition].update(result.value)

    began = time.perf_counter()
    drive(source, SIGNALS.config(settings), settings.codec, take)
    return time.perf_counter() - began, Seen(counts, {partition: digest.hexdigest() for partition, digest in digests.items()})


def bare_consumer(settings: Settings, partitions: list[int], count: int) -> float:
    """Return the seconds in which the client alone delivers the trades."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    began, got = time.perf_counter(), 0
    consumer.assign([TopicPartition(settings.topic("agg_trades"), partition, 0) for partition in partitions])
    while got < count:
        got += len(consumer.consume(min(20_000, count - got), 0.2))
    consumer.close()
    return time.perf_counter() - began


def read_only(root: Path, settings: Settings, partitions: list[int]) -> float:
    """Return the seconds in which the columns that replay needs are read and merged."""
    began = time.perf_counter()
    for partition in partitions:
        state = Manifest(root, "agg_trades", partition).load()
        for _ in PartitionReader(root, settings.codec, "agg_trades", state, TRADE_FIELDS).windows():
            pass
    return time.perf_counter() - began


def part(root: Path, settings: Settings, partitions: tuple[int, ...]) -> tuple[float, float, Seen]:
    """Replay some partitions of the archive; return when it began and ended, and what it gave. The work of another process."""
    began = time.time()
    seen = timed(replace(Archive.of(root, settings), partitions=partitions), settings)[1]
    return began, time.time(), seen


def beside(root: Path, settings: Settings, workload: Workload, pool: ProcessPoolExecutor, processes: int) -> tuple[float, Seen]:
    """Return the seconds from the first to the last moment of several processes that replay the archive, and what they gave together."""
    # The fullest partitions first, each to the process that has the least so far.
    weights = Counter(instrument.partition for instrument in workload.instruments)
    hands: list[list[int]] = [[] for _ in range(processes)]
    for partition, _ in weights.most_common():
        min(hands, key=lambda hand: sum(weights[one] for one in hand)).append(partition)
    found = [one.result() for one in [pool.submit(part, root, settings, tuple(hand)) for hand in hands]]
    seen = Seen(Counter(), {})
    for _, _, one in found:
        seen.counts.update(one.counts)
        seen.hashes.update(one.hashes)
    return max(end for _, end, _ in found) - min(begin for begin, _, _ in found), seen


def where(source: Source, settings: Settings, lines: int) -> list[dict[str, Any]]:
    """Return the functions with most time of their own, of a replay under the profiler (which slows calls, not kernels)."""
    profile = cProfile.Profile()
    profile.runcall(timed, source, settings)
    entries = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in entries.values())
    found = sorted(((entry[2], *place) for place, entry in entries.items()), reverse=True)[:lines]
    return [{"share": round(own / total, 3), "function": f"{Path(file).name}:{line} {name}"} for own, file, line, name in found]


def measure(
    settings: Settings,
    root: Path,
    trades: int,
    panes: int,
    everywhere: set[int],
    repetitions: int = 1,
    profile: int = 0,
    first_panes: int | None = None,
) -> dict[str, Any]:
    """Fill the topics, archive them, replay both ways; return the figures. The topics must be there, empty.

    Args:
        settings: Topics of the run.
        root: Folder of the archive.
        trades, panes: How much.
        everywhere: Cores, of which each has a process where several replay; none: that is not measured.
        repetitions: How often each way is measured, in turns.
        profile: So many lines of where the time of a replay from the archive goes.
        first_panes: Grid steps of the first log. It grows up to ``panes`` until a replay from the archive lasts long enough. None: all at once.

    Raises:
        AssertionError: the ways did not give the same results.
    """
    workload = Workload(trades, panes, settings)
    # Strategies stand first in the log: their mark is the first of its partition.
    add_strategies(workload, settings)
    written, wanted, archived = 0, first_panes or panes, 0
    while written < wanted:
        fill(workload, settings, written, wanted)
        began = time.perf_counter()
        with Service("archive") as service:
            Archiver(settings, Options(root, TOPICS, until_idle=0.5), service).run()
        archive_seconds = time.perf_counter() - began - 0.5
        trades = workload.trades if wanted == panes else workload.before(wanted)
        archiving = Figure((trades - archived) / archive_seconds)
        archive = Archive.of(root, settings)
        if not written:
            timed(archive, settings)  # compiles
        written, archived = wanted, trades
        seconds, first = timed(archive, settings)
        wanted = grown(written, seconds, panes)
    topics = Topics(lambda wanted: TopicSource(settings, wanted), tuple(workload.partitions))
    preloaded = Preloaded(archive, SIGNALS.config(settings), settings)

    def rate(source: Source) -> float:
        seconds, seen = timed(source, settings)
        assert seen == first, "every replay must give the same results"
        return trades / seconds

    several = {}
    if everywhere:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(everywhere), mp_context=context, initializer=os.sched_setaffinity, initargs=(0, everywhere)) as pool:

            def rate_beside() -> float:
                seconds, seen = beside(root, settings, workload, pool, len(everywhere))
                assert seen == first, "every replay must give the same results"
                return trades / seconds

            rate_beside()  # loads the compiled code
            several = alternate({"processes": rate_beside}, repetitions)
    figures = several | alternate(
        {
            "kafka": lambda: rate(topics),
            "archive": lambda: rate(archive),
            "engine": lambda: rate(preloaded),
            "reading": lambda: trades / read_only(root, settings, workload.partitions),
            "bare Kafka client": lambda: trades / bare_consumer(settings, workload.partitions, trades),
        },
        repetitions,
    )
    return {
        "trades": trades,
        "panes": written,
        "processes": len(everywhere),
        "instruments": len(workload.instruments),
        "results": first.counts,
        "figures": {**figures, "archiving": archiving},
        "bytes_per_trade": round(sum(one.bytes for one in inspect.holdings(root) if one.topic == "agg_trades") / trades, 2),
        "profile": where(archive, settings, profile) if profile else [],
    }


# Trades of an instrument in 15 s: 42 leave an instant's own work visible; BTCUSDT had 460 when it was captured (2,648,333 a day).
SPARSE = (4_000_000, 4_000_000 // 20 // 42)
DENSE = (4_000_000, 4_000_000 // 20 // 460)
FIRST_QUICK_PANES = 1_000_000 // 20 // 460


def rows(run: Run) -> Iterator[Row]:
    """Yield the replay from Kafka, the replay from the archive, and archiving: as dense as BTCUSDT was captured, and in the long form sparse, too."""
    yield from _rows(run, DENSE, ", as dense as BTCUSDT")
    if not run.quick:
        yield from _rows(run, SPARSE, "")


def _rows(run: Run, size: tuple[int, int], density: str) -> Iterator[Row]:
    root = run.folder / f"archive{size[1]}"
    everywhere = set() if run.quick else os.sched_getaffinity(0)
    with run.environment() as settings, run.cores.ours():
        profile, first = (0, FIRST_QUICK_PANES) if run.quick else (14, None)
        found = measure(settings, root, *size, everywhere, run.repetitions, profile, first)
    figures, size_of = (
        found["figures"],
        {name: found[name] for name in ("trades", "panes", "processes", "instruments", "results", "bytes_per_trade", "profile")},
    )
    client = {"bare Kafka client": figures["bare Kafka client"]}
    yield Row(
        f"replay from Kafka{density}", "trades/s", figures["kafka"], client, bars={"ours": 500_000.0}, size=size_of,
        note=f"through features, scoring (a strategy an instrument) and the paper model, {size[0] // 20 // size[1]} trades an instrument and 15 s; all "
        "replays gave the same results, byte for byte",
    )  # fmt: skip
    peers = {
        "replay from Kafka": figures["kafka"],
        "reading its columns alone": figures["reading"],
        "engine and paper model alone": figures["engine"],
    }
    yield Row(f"replay from the archive{density}", "trades/s", figures["archive"], peers, bars={"ours": 2_000_000.0}, size=size_of)
    if everywhere:
        yield Row(
            f"replay from the archive{density}, a process a core", "trades/s", figures["processes"], {"one process": figures["archive"]},
            bars={"ours": 2_000_000.0}, size=size_of, note=f"{found['processes']} processes, which share the partitions",
        )  # fmt: skip
    if density:
        yield Row("archiving", "trades/s", figures["archiving"], client, size=size_of)

"""How fast a replay runs from Kafka and from the archive, through features, scoring and the paper model, in one run on one core.

Run: ``python tests/bench/bench_replay.py [--trades N] [--panes N] [--json FILE]`` with KAFKA_BOOTSTRAP_SERVERS set (``perpflow stack env``). It makes a topic
prefix and a folder of its own and removes both. Recorded trades of twenty instruments (``worker_workload``), one strategy each. Both replays are
first held to each other: every result, byte for byte. Report ratios; machines are noisy.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from worker_workload import START_MS, Workload, Writer, fill

from deploy.stack.topics import create_topics, delete_topics
from schemas.archive.manifest import Manifest
from schemas.archive.read import PartitionReader
from schemas.service import Service
from schemas.settings import Settings
from sinks.archive import look
from sinks.archive.service import Archiver, Options
from stream_apps.core.config import EngineConfig
from stream_apps.core.strategy import StrategyConfig
from stream_apps.replay.from_archive import TRADE_FIELDS, Archive
from stream_apps.replay.run import drive
from stream_apps.replay.source import Piece, Source, Topics
from stream_apps.replay.topics import TopicSource

TOPICS = ("agg_trades", "instruments", "progress", "strategies")


def add_strategies(workload: Workload, settings: Settings) -> None:
    """Write one strategy an instrument, before everything else."""
    writer, encode, mark = Writer(settings), settings.codec.encoder("strategies"), settings.codec.encoder("progress")
    for partition in workload.partitions:
        mine = [one for one in workload.instruments if one.partition == partition]
        for one in mine:
            config = StrategyConfig.from_record({"strategy_id": one.asset, "instrument": one.name, "display_name": one.asset})
            value = encode({**config.to_record(), "revision": 1, "event_time": START_MS, "receive_time": START_MS})
            writer.produce(settings.topic("strategies"), value, one.asset.encode(), partition, timestamp=START_MS)
        cut = {"strategies": len(mine)}
        value = mark({"author": "strategies", "venue": "", "event_time": START_MS, "receive_time": START_MS, "cut": cut})
        writer.produce(settings.topic("progress"), value, b"strategies", partition, timestamp=START_MS)
    writer.flush()


class Preloaded:
    """Pieces that are in memory: what remains is the engine and the paper model."""

    def __init__(self, source: Source, config: EngineConfig, settings: Settings) -> None:
        self._pieces: list[Piece] = []
        drive(source, config, settings.codec, lambda partition, result: None, hear=self._pieces.append)

    def pieces(self, engine_of: Any) -> Any:
        """Yield them."""
        yield from self._pieces


def timed(source: Source, settings: Settings) -> tuple[float, dict[str, int], str]:
    """Return seconds, records by result topic, and a hash over all results in their order."""
    digest, counts = hashlib.sha256(), dict[str, int]()

    def take(partition: int, result: Any) -> None:
        counts[result.topic] = counts.get(result.topic, 0) + 1
        digest.update(result.value)

    began = time.perf_counter()
    drive(source, EngineConfig.from_settings(settings), settings.codec, take)
    return time.perf_counter() - began, counts, digest.hexdigest()


def bare_consumer(settings: Settings, partitions: list[int], count: int) -> float:
    """Return the seconds in which the client alone delivers the trades."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    began, got = time.perf_counter(), 0
    consumer.assign([TopicPartition(settings.topic("agg_trades"), partition, 0) for partition in partitions])
    while got < count:
        got += len(consumer.consume(20_000, 0.2))
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


def where(source: Source, settings: Settings, lines: int) -> list[dict[str, Any]]:
    """Return the functions with most time of their own, of a replay under the profiler (which slows calls, not kernels)."""
    profile = cProfile.Profile()
    profile.runcall(timed, source, settings)
    entries = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in entries.values())
    found = sorted(((entry[2], *place) for place, entry in entries.items()), reverse=True)[:lines]
    return [{"share": round(own / total, 3), "function": f"{Path(file).name}:{line} {name}"} for own, file, line, name in found]


def run(settings: Settings, root: Path, trades: int, panes: int, profile: int = 14) -> dict[str, Any]:
    """Fill the topics, archive them, replay both ways; return the figures. The topics must be there, empty."""
    workload = Workload(trades, panes, settings)
    # Strategies stand first in the log: their mark is the first of its partition.
    add_strategies(workload, settings)
    fill(workload, settings, 0, panes)
    began = time.perf_counter()
    with Service("archive") as service:
        Archiver(settings, Options(root, TOPICS, until_idle=0.5), service).run()
    archive_seconds = time.perf_counter() - began - 0.5
    trades = workload.trades
    topics = Topics(lambda wanted: TopicSource(settings, wanted), tuple(workload.partitions))
    archive = Archive(root, settings.codec, settings.grid_ms, settings.allowed_lateness_ms)
    timed(archive, settings)  # compiles
    from_archive = timed(archive, settings)
    from_kafka = timed(topics, settings)
    assert from_kafka[1:] == from_archive[1:], "both replays must give the same results"
    again = timed(archive, settings)
    assert again[1:] == from_archive[1:]
    engine = timed(Preloaded(archive, EngineConfig.from_settings(settings), settings), settings)
    assert engine[1:] == from_archive[1:]
    seconds = {
        "kafka": from_kafka[0],
        "archive": min(from_archive[0], again[0]),
        "archive, reading alone": read_only(root, settings, workload.partitions),
        "archive, engine and paper alone": engine[0],
        "archiving": archive_seconds,
        "bare Kafka client": bare_consumer(settings, workload.partitions, trades),
    }
    held = {one.topic: one for one in look.holdings(root)}
    size = sum(one.bytes for one in look.holdings(root) if one.topic == "agg_trades")
    return {
        "trades": trades,
        "panes": panes,
        "instruments": len(workload.instruments),
        "results": from_archive[1],
        "trades_per_second": {name: round(trades / value) for name, value in seconds.items()},
        "archive_to_kafka": round(seconds["kafka"] / seconds["archive"], 2),
        "archiving_to_bare_client": round(seconds["bare Kafka client"] / seconds["archiving"], 2),
        "bytes_per_trade": round(size / trades, 2),
        "topics": sorted(held),
        "profile": where(archive, settings, profile),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=4_000_000)
    parser.add_argument("--panes", type=int, default=960)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = Settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.", keep_history=True)
    root = Path(tempfile.mkdtemp(prefix="perpflow-bench-"))
    create_topics(settings)
    try:
        result = run(settings, root, arguments.trades, arguments.panes)
    finally:
        delete_topics(settings)
        shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

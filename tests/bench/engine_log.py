"""A workload's log in memory, as Kafka would deliver it, and engines that work it off in this process: what remains of the worker without Kafka."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from schemas.codec.recordset import RecordSet
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from tests.bench.worker_workload import Workload, add_strategies

# Trades of a fetch of 4 MiB, which is what a worker that catches up gets of each partition.
FETCHED = 40_000


class EngineLog:
    """The log of a workload: raw record sets by topic and partition.

    Args:
        workload: Trades and marks.
        strategies: Strategies an instrument.
    """

    def __init__(self, workload: Workload, strategies: int = 0) -> None:
        self.workload = workload
        rows: dict[tuple[str, int], list[tuple[int, bytes, bytes]]] = defaultdict(list)

        def produce(topic: str, value: bytes, key: bytes, partition: int, timestamp: int) -> None:
            rows[topic, partition].append((timestamp, key, value))

        settings = workload.settings.model_copy(update={"topic_prefix": ""})
        if strategies:
            add_strategies(workload, settings, produce, strategies)
        workload.write(settings, 0, workload.panes, produce)
        self.sets = {place: _record_sets(records) for place, records in rows.items()}
        self.codec = settings.codec

    def drive(
        self,
        config: EngineConfig,
        prepare: Callable[[SignalsEngine], None] | None = None,
        take: Callable[[OutputRecord], Any] | None = None,
    ) -> tuple[float, list[SignalsEngine]]:
        """Work the log off, partition after partition, with a checkpoint a fetch; return this thread's CPU seconds and the engines.

        Args:
            config: Numbers of the engines.
            prepare: Called with each engine at the start.
            take: Called with each output; its time does not count.
        """
        engines, spent = [], 0.0
        for partition in self.workload.partitions:
            engine = SignalsEngine(partition, config, self.codec)
            engines.append(engine)
            for one in self.workload.instruments:  # to make room for an instrument is paid once, not for its trades
                if one.partition == partition:
                    engine.state.row(one.name)
            if prepare is not None:
                prepare(engine)
            began = time.thread_time()
            for topic in ("strategies", "instruments", "progress"):
                for first, last, raw in self.sets.get((topic, partition), ()):
                    engine.feed(topic, RecordSet.from_raw(raw, first, last))
            for first, last, raw in self.sets["agg_trades", partition]:
                engine.feed("agg_trades", RecordSet.from_raw(raw, first, last))
                outputs = engine.advance()
                engine.checkpoint()
                if take is not None:
                    spent += time.thread_time() - began
                    for output in outputs:
                        take(output)
                    began = time.thread_time()
            spent += time.thread_time() - began
        return spent, engines


def _record_sets(records: list[tuple[int, bytes, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return (first offset, last offset, batch) of as many records each as a fetch brings."""
    found = []
    for base in range(0, len(records), FETCHED):
        part = records[base : base + FETCHED]
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
        for delta, (when, key, value) in enumerate(part):
            builder.append(delta, when, key, value, [])
        raw = bytearray(builder.build())
        raw[:8] = base.to_bytes(8, "big")  # the base offset stands first, outside the CRC
        found.append((base, base + len(part) - 1, bytes(raw)))
    return found

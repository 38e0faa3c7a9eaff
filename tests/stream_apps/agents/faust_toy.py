"""A toy engine of the shape of the real one, whose result says exactly which records it saw and in which order; and a worker that runs it.

A mark (value: decimal cut of agg_trades) makes it apply the trades before the cut: checksum and count of all so far go to features, every third
mark also to signals, each mark is a step. Its state has a head, and panes of which old ones are deleted.

    python -m tests.stream_apps.agents.faust_toy APP_ID [key=value ...]
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.instruments import Instruments

PANES = 5


class Out(NamedTuple):
    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int


class ToyEngine:
    WRITES = ("features", "signals", "worker_progress", "dead_letters")
    PROGRESS = "worker_progress"
    DECISIONS = "signals"

    def __init__(self, partition: int, config: Any, codec: Codec) -> None:
        self.partition = partition
        self.codec = codec
        self.trades: deque[tuple[int, bytes]] = deque()
        self.marks: deque[tuple[int, int]] = deque()
        self.fed: dict[str, int | None] = {"agg_trades": None, "progress": None}
        self.applied = self.passed = self.count = self.checksum = 0
        self.panes: dict[bytes, bytes] = {}
        self.dirty: dict[bytes, bytes | None] = {}
        self.counts = {"late": 0, "instants": 0}
        self.instruments = Instruments()  # it knows none by name

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        return ("agg_trades", "progress")

    def next_offset(self, topic: str) -> int | None:
        return self.fed[topic]

    def skip_to(self, topic: str, offset: int) -> None:
        self.fed[topic] = offset

    def feed(self, topic: str, records: RecordSet) -> list[Out]:
        for row, offset in enumerate(records.offsets.tolist()):
            if offset < (self.fed[topic] or 0):
                continue
            value = records.value(row) or b""
            if topic == "agg_trades":
                self.trades.append((offset, value))
            else:
                self.marks.append((offset, int(value)))
        self.fed[topic] = max(records.next_offset, self.fed[topic] or 0)
        return []

    def backlog(self) -> dict[str, int]:
        return {"agg_trades": len(self.trades), "progress": len(self.marks)}

    def wants(self) -> set[str]:
        if not self.marks:
            return {"progress"}
        return {"agg_trades"} if (self.fed["agg_trades"] or 0) < self.marks[0][1] else set()

    def positions(self) -> dict[str, int]:
        return {"agg_trades": self.applied, "progress": self.passed}

    def advance(self, limit: int | None = None) -> list[Out]:
        out: list[Out] = []
        while self.marks and (self.fed["agg_trades"] or 0) >= self.marks[0][1]:
            offset, cut = self.marks.popleft()
            while self.trades and self.trades[0][0] < cut:
                self.checksum = zlib.crc32(self.trades.popleft()[1], self.checksum)
                self.count += 1
            self.applied, self.passed = max(cut, self.applied), offset + 1
            value = json.dumps([offset, self.count, self.checksum]).encode()
            pane = b"pane-%d" % offset
            self.panes[pane] = self.dirty[pane] = value
            if (old := b"pane-%d" % (offset - PANES)) in self.panes:
                del self.panes[old]
                self.dirty[old] = None
            out.append(Out("features", b"toy", value, 1000 + offset))
            if offset % 3 == 0:
                out.append(Out("signals", b"toy", value, 1000 + offset))
            step = {
                "author": "toy",
                "venue": "TOY",
                "event_time": 1000 + offset,
                "receive_time": 1000 + offset,
                "progress_offset": offset,
                "cut": {"agg_trades": cut},
                "signals_offset": 0,
            }
            out.append(
                Out("worker_progress", b"toy", self.codec.encode("worker_progress", step)[:-1], 1000 + offset)
            )  # but for its last field
        return out

    def checkpoint(self) -> list[tuple[bytes, bytes | None]]:
        head = json.dumps([self.applied, self.passed, self.count, self.checksum]).encode()
        entries = [*self.dirty.items(), (b"head", head)]
        self.dirty = {}
        return entries

    @classmethod
    def restore(cls, partition: int, config: Any, codec: Codec, entries: Iterable[tuple[bytes, bytes]]) -> ToyEngine:
        engine = cls(partition, config, codec)
        rows = dict(entries)
        if rows:
            assert list(rows)[-1] == b"head", list(rows)
            engine.applied, engine.passed, engine.count, engine.checksum = json.loads(rows.pop(b"head"))
            engine.panes = rows
            wanted = {b"pane-%d" % offset for offset in range(max(0, engine.passed - PANES), engine.passed)}
            assert set(rows) == wanted, (sorted(rows), sorted(wanted))
            engine.fed = {"agg_trades": engine.applied, "progress": engine.passed}
        return engine


def lose_deliveries(every: int) -> None:
    """Drop every n-th composite between the fetch and the agent, as a defect of the machinery would."""
    from stream_apps.agents.transport import RawConsumer

    to_message, count = RawConsumer.getmany, iter(range(1, 1 << 60))

    async def getmany(self: Any, timeout: float) -> Any:
        async for tp, message in to_message(self, timeout):
            if next(count) % every:
                yield tp, message

    RawConsumer.getmany = getmany  # type: ignore[method-assign]


def main() -> int:
    from schemas.settings import Settings
    from stream_apps.agents.runner import Limits
    from stream_apps.agents.worker import run

    options = dict(option.split("=") for option in sys.argv[2:])
    if "lose" in options:
        lose_deliveries(int(options["lose"]))
    limits = Limits(checkpoint_s=float(options.get("checkpoint", 0.2)), backlog_high=int(options.get("backlog", 200_000)))
    return run(
        Settings(),
        sys.argv[1],
        ToyEngine,
        None,
        limits=limits,
        session_timeout_s=float(options.get("session", 6)),
        instance_id=options.get("instance"),
    )


if __name__ == "__main__":
    sys.exit(main())

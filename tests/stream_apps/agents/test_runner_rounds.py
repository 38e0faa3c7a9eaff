"""A worker that was away for long: what its runner holds at a time does not grow with that."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass
from typing import Any

from schemas.codec.avro import Codec
from stream_apps.agents.changelog import Ownership
from stream_apps.agents.runner import ROUND_OUTPUTS, Limits, PartitionRunner


@dataclass(eq=False)
class Output:
    """One record that an engine emits."""

    topic: str = "features"
    key: bytes = b"BTC"
    value: bytes = b"value"
    timestamp_ms: int = 0
    step: dict[str, Any] | None = None


class Behind:
    """An engine that has so many marks to pass, each of which gives 100 records."""

    INPUTS = ("agg_trades", "progress")
    DECISIONS, PROGRESS = "signals", "progress"

    def __init__(self, marks: int) -> None:
        self.marks = marks
        self.counts = {"late": 0, "instants": 0}
        self.alive: weakref.WeakSet[Output] = weakref.WeakSet()
        self.most_alive = 0

    def advance(self, limit: int | None = None) -> list[Output]:
        """Pass marks until there are ``limit`` outputs."""
        found: list[Output] = []
        while self.marks and (limit is None or len(found) < limit):
            found += [Output() for _ in range(100)]
            self.marks -= 1
        self.alive.update(found)
        self.most_alive = max(self.most_alive, len(self.alive))
        return found

    def backlog(self) -> dict[str, int]:
        """Nothing waits."""
        return {}

    def wants(self) -> set[str]:
        """It wants marks."""
        return {"progress"}


class Written:
    """Counts what is sent."""

    def __init__(self) -> None:
        self.records = 0

    async def send(self, topic: str, partition: int, records: list[Any]) -> list[Any]:
        """Take records; others of the loop have their turn meanwhile."""
        await asyncio.sleep(0)
        self.records += len(records)
        return []


def test_rounds_are_bounded_and_nothing_of_one_is_kept_after_it() -> None:
    async def catch_up() -> tuple[Behind, Written, list[BaseException]]:
        engine, outbox, failures = Behind(300), Written(), list[BaseException]()
        runner = PartitionRunner(
            0, engine, outbox, None, wire=str, codec=Codec(), changelog="state", ownership=Ownership(), changelog_end=0, decisions_end=0,
            fed={}, limits=Limits(checkpoint_s=60.0), failed=failures.append,
        )  # type: ignore[arg-type]  # fmt: skip
        runner.start()
        async with asyncio.timeout(30):
            while outbox.records < 30_000 and not failures:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)  # it waits for more to do
        assert not failures and len(engine.alive) == 0
        await runner.abandon()
        return engine, outbox, failures

    engine, outbox, failures = asyncio.run(catch_up())
    assert not failures and outbox.records == 30_000
    assert engine.most_alive < 2 * ROUND_OUTPUTS

"""From records of connections to the log: encode, order, write, and stop readers when there is no room.

Shared by the producers of all venues. Runs on one asyncio loop; nothing here awaits per record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from producers.output.kafka_writer import KafkaWriter, Outgoing
from producers.output.pacing import Pace
from producers.output.sequencer import Sequencer, Step
from schemas import metrics
from schemas.codec.avro import Codec, Record

# Seconds between two checks whether records may leave (see ``pacing``) and whether there is room.
POLL_S = 0.004
# This many waiting records leave at once, whatever the pace.
MOST_READY = 2048
# Seconds between two checks for silent sources.
WATCH_S = 0.25


@dataclass(slots=True)
class Source:
    """A connection (or a back-fill) as the pipeline sees it.

    Attributes:
        name: Its name in the sequencer.
        heard: ``time.monotonic()`` of its newest data; used for liveness only.
        busy: Number of reasons (back-pressure, REST) for which its reader is stopped. Its silence is then ignored.
        suspended: It was declared dead, and no mark waits for it.
    """

    name: str
    heard: float = field(default_factory=time.monotonic)
    busy: int = 0
    suspended: bool = False


class Pipeline:
    """Sequencer and Kafka writer of one producer.

    Args:
        sequencer: Decides when records leave and marks follow.
        out: Writes records and marks.
        codec: Encodes records.
        venue: Label of metrics.
        hold_s: Seconds of silence (wall clock) after which a source that the others wait for is declared dead.
            No mark waits for it until it sends data again.
        preamble: Returns records (topic, partition, record) that must be acknowledged before all others. Called once, with the smallest
            event time of the first release.
    """

    def __init__(
        self,
        sequencer: Sequencer[Outgoing],
        out: KafkaWriter,
        codec: Codec,
        venue: str,
        *,
        hold_s: float = 10.0,
        preamble: Callable[[int], list[tuple[str, int, Record]]] | None = None,
    ) -> None:
        self.sequencer = sequencer
        self.out = out
        self.hold_s = hold_s
        self.codec = codec
        self._venue = venue
        self._preamble = preamble
        self._pace = Pace()
        self._sources: dict[str, Source] = {}
        self._encoders: dict[str, Callable[[Record], bytes]] = {}
        self._keys: dict[str, bytes] = {}
        self._log = structlog.get_logger().bind(venue=venue)

    # --- sources -----------------------------------------------------------------------------------------------------

    def join(self, name: str, rank: int, *, suspended: bool = False) -> Source:
        """Add a source; see ``Sequencer.join``."""
        self.sequencer.join(name, rank, suspended=suspended)
        source = self._sources[name] = Source(name)
        return source

    def leave(self, source: Source) -> None:
        """Remove a source that has ended, and write the marks that waited for it."""
        self._sources.pop(source.name, None)
        self.sequencer.leave(source.name)
        self.release()

    def advance(self, source: Source, clock: int) -> None:
        """Move a source's venue clock; the marks that waited for it are written."""
        source.suspended = False
        if self.sequencer.advance(source.name, clock):
            self.release()

    def emit(self, source: Source, topic: str, partition: int, record: Record) -> None:
        """Add a record at the source's clock.

        Raises:
            CodecError: the record does not fit its schema; nothing was added.
        """
        self.sequencer.push(source.name, self._encode(topic, partition, record), record["event_time"], partition)

    def emit_encoded(
        self, source: Source, topic: str, partition: int, instrument: str, value: bytes, event_time: int, received: int
    ) -> None:
        """Add a record that is already encoded as Avro, at the source's clock; times in ms UTC."""
        self.sequencer.push(source.name, self._item(topic, partition, instrument, value, event_time, received), event_time, partition)

    def emit_aside(self, topic: str, partition: int, record: Record) -> None:
        """Write a record that came on no connection (a change of contract facts), before the next mark.

        Raises:
            CodecError: the record does not fit its schema; nothing was added.
        """
        self._send([Step(None, [self._encode(topic, partition, record)])])

    def _encode(self, topic: str, partition: int, record: Record) -> Outgoing:
        encode = self._encoders.get(topic)
        if encode is None:
            encode = self._encoders[topic] = self.codec.encoder(topic)
        return self._item(topic, partition, record["instrument"], encode(record), record["event_time"], record["receive_time"])

    def _item(self, topic: str, partition: int, instrument: str, value: bytes, event_time: int, received: int) -> Outgoing:
        key = self._keys.get(instrument)
        if key is None:
            key = self._keys[instrument] = instrument.encode()
        return (topic, partition, key, value, event_time, received)

    # --- writing -----------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Write the releasable records and the due marks."""
        self._send(self.sequencer.release())

    def finish(self) -> None:
        """Write the remaining records and the last marks. All sources have left."""
        self._send(self.sequencer.finish())

    def _send(self, steps: list[Step[Outgoing]]) -> None:
        if not steps:
            return
        if self._preamble is not None:
            first = min((item[4] for step in steps for item in step.items), default=None)
            if first is not None:
                preamble, self._preamble = self._preamble, None
                items = [self._encode(*entry) for entry in preamble(first)]
                self.out.offer([Step(None, items)], barrier=True)
        self._pace.spent(time.monotonic(), len({item[:2] for step in steps for item in step.items}))
        self.out.offer(steps)

    def _release_when_due(self) -> None:
        ready = self.sequencer.ready
        if ready and (ready >= MOST_READY or self._pace.due(time.monotonic())):
            self.release()

    # --- holding readers back ----------------------------------------------------------------------------------------

    def must_wait(self, source: Source) -> bool:
        """Return True when the source's reader must stop for now."""
        return self.out.congested or self.sequencer.blocked(source.name)

    async def gate(self, source: Source) -> None:
        """Wait until a source may continue. Other tasks run in any case."""
        self._release_when_due()
        if not self.must_wait(source):
            await asyncio.sleep(0)
            return
        started = time.monotonic()
        source.busy += 1
        try:
            while self.must_wait(source):
                await asyncio.sleep(POLL_S)
        finally:
            source.busy -= 1
            source.heard = time.monotonic()
            metrics.BACKPRESSURE.labels(self._venue).inc(source.heard - started)

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Release records and declare silent sources dead, until cancelled. Raises DeliveryFailed."""
        looked = time.monotonic()
        while True:
            self._release_when_due()
            self.out.pump()
            now = time.monotonic()
            if now - looked >= WATCH_S:
                looked = now
                self._watch(now)
            await asyncio.sleep(POLL_S)

    def _watch(self, now: float) -> None:
        if len(self._sources) < 2:
            return  # no other source waits
        for name in self.sequencer.waited_for():
            source = self._sources[name]
            silent = now - source.heard
            if (
                not source.busy
                and silent > self.hold_s
                and any(other is not source and other.heard > source.heard for other in self._sources.values())
            ):
                source.suspended = True
                self.sequencer.suspend(name)
                self._log.warning("connection no longer delays the marks", source=name, silent_s=round(silent, 1))
                self.release()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything written is acknowledged, marks included; False when that takes longer than ``timeout_s``. Raises DeliveryFailed."""
        return await self.out.flush(timeout_s)

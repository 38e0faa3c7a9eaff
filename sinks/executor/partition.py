"""One partition of the executor: read inputs, waiting steps, the paper book, and pending journal rows. No I/O."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

from schemas.catalogue import TOPICS
from schemas.codec.avro import Codec, CodecError, Record
from schemas.codec.key_table import KeyTable
from sinks.executor.decode import Message, Refuse, books_of, records_of, trades_of
from sinks.executor.journal import Checkpoint, OutboxRow
from stream_apps.core.paper.feed import DEPTH, FUNDING, INPUTS, INSTRUMENTS, SIGNALS, TRADES, PaperFeed, Step
from stream_apps.core.paper.model import Output, PaperBook, PaperSettings
from stream_apps.core.paper.records import PAPER_TOPICS

STEPS = "worker_progress"
TOPICS_READ = (STEPS, *INPUTS)


class PartitionRun:
    """The executor's work on one partition.

    Args:
        partition: Partition number.
        epoch: Epoch of the ownership, from the journal.
        at: Checkpoint of the journal.
        codec: Decodes inputs and encodes outputs.
        settings: Settings of the paper model.
        refuse: Receives steps and signals that cannot be decoded.
    """

    def __init__(self, partition: int, epoch: int, at: Checkpoint, codec: Codec, settings: PaperSettings, refuse: Refuse) -> None:
        self.partition = partition
        self.epoch = epoch
        self.committed = at
        self._codec = codec
        self._refuse = refuse
        self._keys = KeyTable()
        self._encoders = {topic: codec.encoder(topic) for topic in PAPER_TOPICS}
        if at.state:
            state = json.loads(at.state)
            self.book = PaperBook.from_bytes(state["book"].encode(), settings)
            self.feed = PaperFeed.from_json(state["feed"])
        else:
            self.book, self.feed = PaperBook(settings), PaperFeed()
        self._steps: deque[tuple[int, Step]] = deque()
        # Topic -> next offset to read.
        self.read = {topic: at.offsets.get(topic, 0) for topic in INPUTS} | {STEPS: at.progress_offset}
        self._progress_offset = at.progress_offset
        self._event_time = at.event_time
        self.outputs: list[Output] = []

    # --- reading --------------------------------------------------------------------------------------------------------

    def start_offsets(self) -> dict[str, int]:
        """Return the offset to read each topic from."""
        return dict(self.read)

    def offer(self, topic: str, messages: Sequence[Message]) -> None:
        """Add messages of one topic in log order; messages that were read before are skipped."""
        fresh = [message for message in messages if message.offset() >= self.read[topic]]
        if not fresh:
            return
        if topic == TRADES:
            self.feed.add_trades(trades_of(self._codec, fresh, self._keys))
        elif topic == DEPTH:
            self.feed.add_books(books_of(self._codec, fresh, self._keys))
        else:
            records = records_of(self._codec, topic, fresh, self._refuse if topic in (STEPS, SIGNALS) else _left_to_the_engine)
            if topic == STEPS:
                self._steps.extend((offset, Step.from_record(record)) for offset, record in records)
            elif topic == SIGNALS:
                self.feed.add_signals(records)
            elif topic == FUNDING:
                self.feed.add_settlements(records)
            elif topic == INSTRUMENTS:
                self.feed.add_instruments(records)
        self.read[topic] = fresh[-1].offset() + 1

    def reached(self, topic: str, offset: int) -> None:
        """Record that every message before ``offset`` was offered (end of the log; offsets may have gaps)."""
        self.read[topic] = max(self.read[topic], offset)

    def rows_ahead(self, topic: str) -> int:
        """Return the number of records of a topic that were read and not consumed."""
        return len(self._steps) if topic == STEPS else self.feed.rows_ahead(topic)

    def wants(self, topic: str) -> bool:
        """Return whether the next step waits for this topic."""
        return bool(self._steps) and topic in INPUTS and self.read[topic] < self._steps[0][1].reach[topic]

    # --- stepping ---------------------------------------------------------------------------------------------------------

    def advance(self, limit: int) -> int:
        """Execute up to ``limit`` steps whose inputs are complete; return their number, including repeats."""
        taken = 0
        while self._steps and taken < limit:
            offset, step = self._steps[0]
            if any(self.read[topic] < reach for topic, reach in step.reach.items()):
                break
            self._steps.popleft()
            taken += 1
            self._progress_offset = offset + 1
            if self.feed.is_repeat(step):
                continue
            self.outputs += self.feed.step(step, self.book)
            self._event_time = step.time if self._event_time is None else max(self._event_time, step.time)
        return taken

    # --- journalling --------------------------------------------------------------------------------------------------------

    @property
    def is_ahead(self) -> bool:
        """True if executed steps are not in the journal yet."""
        return self._progress_offset != self.committed.progress_offset

    def checkpoint(self) -> tuple[Checkpoint, list[OutboxRow]]:
        """Return the state to commit and the encoded records since the last commit."""
        first = self.committed.next_seq
        rows = [
            OutboxRow(first + index, topic, _key(topic, record), record["event_time"], self._encoders[topic](record))
            for index, (topic, record) in enumerate(self.outputs)
        ]
        state = json.dumps({"book": self.book.to_bytes().decode(), "feed": self.feed.to_json()}, sort_keys=True, separators=(",", ":"))
        now = Checkpoint(self._progress_offset, self.feed.resume_offsets(), first + len(rows), self._event_time, state.encode())
        return now, rows

    def was_committed(self, now: Checkpoint) -> list[Output]:
        """Record a commit; return the outputs that it made final."""
        self.committed = now
        final, self.outputs = self.outputs, []
        return final


def _left_to_the_engine(topic: str, message: Message, error: CodecError) -> None:
    """Skip it: the engine reads the same market data and writes the dead letter."""


def _key(topic: str, record: Record) -> bytes:
    return str(record[TOPICS[topic].key]).encode()

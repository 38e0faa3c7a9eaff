"""``perpflow produce`` with a stopwatch: when each frame was read from its socket, and when Kafka had acknowledged what it said.

Run by the benchmarks as ``python tests/bench/measured_producer.py FIGURES [arguments of perpflow produce]``; on SIGTERM it writes FIGURES, a JSON file.
The process is the real one; around some of its methods a time is noted, which costs it some microseconds a record. Nothing is sampled: every record
of every frame counts, but those of the first ``WARM_UP_S``, or of the first third of a shorter run. The times go to a file at once: the memory that is
seen is the producer's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from array import array
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.cli import main as command_line
from producers.output.kafka_writer import KafkaWriter, _Batch
from producers.output.pipeline import Pipeline
from producers.output.sequencer import Sequencer
from producers.venue.network.websocket import Socket

# In that time the broker makes the files of some hundred partitions at their first record, and of the marks' at the first instants: 2 s of its core.
WARM_UP_S = 15.0
# Entries that are kept before they are written away.
KEPT = 4096
REFUSED = -1
I64 = npt.NDArray[np.int64]


class Tape:
    """Columns of numbers, the most of them in a file."""

    def __init__(self, columns: int) -> None:
        self.columns = [array("q") for _ in range(columns)]
        self._files = [tempfile.TemporaryFile() for _ in range(columns)]  # noqa: SIM115 - as long as the process

    def put_away(self, least: int = 0) -> None:
        """Write what is kept to the files when it is so much."""
        if len(self.columns[0]) >= least:
            for column, file in zip(self.columns, self._files, strict=True):
                column.tofile(file)
                del column[:]

    def read(self) -> list[npt.NDArray[np.int64]]:
        """Return the columns."""
        self.put_away()
        for file in self._files:
            file.seek(0)
        return [np.fromfile(file, dtype=np.int64) for file in self._files]


class Stopwatch:
    """Times in ns of ``time.time_ns``, so that other processes of the machine can be compared."""

    def __init__(self) -> None:
        self.frame = 0  # when the frame at work was read; 0: none is
        self.marks: dict[int, int] = {}  # firing mark -> when the frame was read that made it due
        # Of each record: its place, said by the venue (ms), read, handed to the client library. Of each batch: its place, records, acknowledged.
        self._records, self._batches = Tape(4), Tape(3)
        self._places: dict[tuple[str, int], int] = defaultdict(lambda: len(self._places))

    def install(self) -> None:
        """Put the stopwatch around the producer's methods."""
        watch = self
        on_frame, take, gate = Socket.on_ws_frame, Socket.take, Pipeline.gate
        item, write, done, release = Pipeline._item, KafkaWriter._write, _Batch.done, Sequencer.release
        stamps: dict[Socket, deque[int]] = defaultdict(deque)

        def on_ws_frame(socket: Socket, transport: Any, frame_: Any) -> None:
            before = len(socket.frames)
            on_frame(socket, transport, frame_)
            if len(socket.frames) > before:
                stamps[socket].append(time.time_ns())

        def taken(socket: Socket, most: int) -> list[bytes]:
            frames = take(socket, most)
            of = stamps[socket]
            if frames:  # frames that are taken together count from when the first of them was read
                watch.frame = of.popleft()
                for _ in range(len(frames) - 1):
                    of.popleft()
            return frames

        async def gated(pipeline: Pipeline, source: Any) -> None:
            watch.frame = 0
            await gate(pipeline, source)

        def itemized(pipeline: Pipeline, topic: str, partition: int, instrument: str, value: bytes, event_time: int, received: int) -> Any:
            # In the place of receive_time, which the writer only shows in its metrics. 0: it came on no connection.
            return item(pipeline, topic, partition, instrument, value, event_time, watch.frame)

        def written(out: KafkaWriter, flight: Any) -> bool:
            before, items = flight.sent, flight.items
            whole = write(out, flight)
            now = time.time_ns()
            if flight.sent > before:
                topics, partitions, _, _, said, read = zip(*items[before : flight.sent], strict=True)
                place, said_at, read_at, sent = watch._records.columns
                place.extend(map(watch._places.__getitem__, zip(topics, partitions, strict=True)))
                said_at.extend(said)
                read_at.extend(read)
                sent.extend([now] * len(said))
                watch._records.put_away(KEPT)
            return whole

        def acknowledged(batch: _Batch, future: Any) -> None:
            done(batch, future)
            refused = future.cancelled() or future.exception() is not None
            place, count, end = watch._batches.columns
            place.append(watch._places[batch.place])
            count.append(sum(count for _, count in batch.flights))
            end.append(REFUSED if refused else time.time_ns())
            watch._batches.put_away(KEPT)

        def released(sequencer: Sequencer[Any]) -> Any:
            steps = release(sequencer)
            for step in steps:
                if step.grid and step.time is not None:
                    watch.marks[step.time] = watch.frame or time.time_ns()
            return steps

        for owner, name, method in (
            (Socket, "on_ws_frame", on_ws_frame), (Socket, "take", taken), (Pipeline, "gate", gated), (Pipeline, "_item", itemized),
            (KafkaWriter, "_write", written), (_Batch, "done", acknowledged), (Sequencer, "release", released),
        ):  # fmt: skip
            setattr(owner, name, method)

    def figures(self) -> dict[str, Any]:
        """Return what was measured, ms."""
        said, read, sent, end = steady(followed(*self._records.read(), *self._batches.read()), by=1).T
        return {
            "records": len(read),
            "received_to_acknowledged": spread(end - read),
            "received_to_client_library": spread(sent - read),
            "client_library_to_acknowledged": spread(end - sent),
            "said_to_received": spread(read - said),
            "said_to_acknowledged": spread(end - said),
            "marks": {str(mark): at for mark, at in self.marks.items()},
        }


def followed(place: I64, said: I64, read: I64, sent: I64, place_of: I64, count: I64, end: I64) -> I64:
    """Return (said, read, sent, acknowledged) in ns of each record that came on a connection and was acknowledged, in order of the acknowledgement.

    The records of a place are acknowledged in the order in which they were written.

    Args:
        place, said, read, sent: Of each record in the order of writing; said in ms, read 0: it came on no connection.
        place_of, count, end: Of each batch in the order of acknowledgement: its place, its records, when; REFUSED: it was not.
    """
    rows = [np.empty((0, 4), dtype=np.int64)]
    for one in np.unique(place):
        mine, batches = place == one, place_of == one
        ends = np.repeat(end[batches], count[batches])
        found = np.stack([said[mine][: len(ends)] * 1_000_000, read[mine][: len(ends)], sent[mine][: len(ends)], ends], axis=1)
        rows.append(found[(found[:, 1] > 0) & (ends != REFUSED)])
    all_ = np.concatenate(rows)
    return all_[np.argsort(all_[:, 3], kind="stable")]


def steady(rows: npt.NDArray[np.int64], by: int) -> npt.NDArray[np.int64]:
    """Return the rows of times in ns without those of the first ``WARM_UP_S``, or of the first third of a shorter run; ``by``: the column that tells."""
    if not len(rows):
        return rows
    began, ended = rows[0, by], rows[-1, by]
    return rows[rows[:, by] >= began + min(int(WARM_UP_S * 1e9), (ended - began) // 3)]


def spread(waits_ns: npt.ArrayLike) -> dict[str, float]:
    """Return exact quantiles of times in ns, as ms."""
    ordered = np.sort(waits_ns)
    if not len(ordered):
        return {}
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    return {name: round(float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) / 1e6, 2) for name, share in shares.items()}


def main() -> None:
    """Run the command and write the figures when it ends."""
    figures, arguments = Path(sys.argv[1]), sys.argv[2:]
    watch = Stopwatch()
    watch.install()
    sys.argv = ["perpflow", "produce", *arguments]
    try:
        command_line()
    finally:
        figures.write_text(json.dumps(watch.figures()))


if __name__ == "__main__":
    main()

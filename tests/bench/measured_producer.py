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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.cli import main as command_line
from producers.kafka_out import KafkaOut, _Batch
from producers.pipeline import Pipeline
from producers.sequencer import Sequencer
from producers.venue.socket import Socket

# In that time the broker makes the files of some hundred partitions at their first record, and of the marks' at the first instants: 2 s of its core.
WARM_UP_S = 15.0
# Numbers that are kept before they are written away: four a record.
KEPT = 4 * 4096


class Stopwatch:
    """Times in ns of ``time.time_ns``, so that other processes of the machine can be compared."""

    def __init__(self) -> None:
        self.frame = 0  # when the frame at work was read; 0: none is
        self._waits = array("q")  # said by the venue, read, handed to the client library, acknowledged, said, ...
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.marks: dict[int, int] = {}  # firing mark -> when the frame was read that made it due
        self._on_the_way: dict[tuple[str, int], deque[tuple[int, int, int]]] = defaultdict(deque)

    def install(self) -> None:
        """Put the stopwatch around the producer's methods."""
        watch = self
        on_frame, take, gate = Socket.on_ws_frame, Socket.take, Pipeline.gate
        item, write, done, release = Pipeline._item, KafkaOut._write, _Batch.done, Sequencer.release
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

        def written(out: KafkaOut, flight: Any) -> bool:
            before = flight.sent
            whole = write(out, flight)
            now = time.time_ns()
            for item in flight.items[before : flight.sent]:
                watch._on_the_way[item[:2]].append((item[4], item[5], now))
            return whole

        def acknowledged(batch: _Batch, future: Any) -> None:
            done(batch, future)
            if future.cancelled() or future.exception() is not None:
                return
            now = time.time_ns()
            queue = watch._on_the_way[batch.place]
            for _ in range(sum(count for _, count in batch.flights)):
                said, read, sent = queue.popleft()
                if read:
                    watch._waits.extend((said * 1_000_000, read, sent, now))
            if len(watch._waits) >= KEPT:
                watch._put_away()

        def released(sequencer: Sequencer[Any]) -> Any:
            steps = release(sequencer)
            for step in steps:
                if step.grid and step.time is not None:
                    watch.marks[step.time] = watch.frame or time.time_ns()
            return steps

        for owner, name, method in (
            (Socket, "on_ws_frame", on_ws_frame), (Socket, "take", taken), (Pipeline, "gate", gated), (Pipeline, "_item", itemized),
            (KafkaOut, "_write", written), (_Batch, "done", acknowledged), (Sequencer, "release", released),
        ):  # fmt: skip
            setattr(owner, name, method)

    def _put_away(self) -> None:
        self._waits.tofile(self._file)
        del self._waits[:]

    def figures(self) -> dict[str, Any]:
        """Return what was measured, ms."""
        self._put_away()
        self._file.seek(0)
        said, read, sent, end = steady(np.fromfile(self._file, dtype=np.int64).reshape(-1, 4), by=1).T
        return {
            "records": len(read),
            "received_to_acknowledged": spread(end - read),
            "received_to_client_library": spread(sent - read),
            "client_library_to_acknowledged": spread(end - sent),
            "said_to_received": spread(read - said),
            "said_to_acknowledged": spread(end - said),
            "marks": {str(mark): at for mark, at in self.marks.items()},
        }


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

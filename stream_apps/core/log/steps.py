"""Instants that marks fire, as columns, and the progress records that an engine writes after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas.codec.markreader import Mark
from schemas.codec.recordwriter import long_bytes, text_bytes
from schemas.codec.varints import write_long

I64 = npt.NDArray[np.int64]

# Columns of a table of steps, a row an instant: the first and the last instrument that fires (places in ``members``), the pane that ends at the
# instant, the end of the stretch topic's rows that come before it, and the event time of the mark that fires it, ms UTC.
FIRST_MEMBER, LAST_MEMBER, PANE, STOP, DECIDED = range(5)
N_STEP = 5
_LONG_BYTES = 10  # a long of Avro at most


class Steps(NamedTuple):
    """Instants that are due, a row each, in the order in which they fire.

    Attributes:
        table: Columns ``FIRST_MEMBER`` and those after it.
        cuts: Merged cut of the mark that fires the instant, columns ``topics``; 0 where no mark has named the topic.
        offsets: Offset of that mark in the progress log.
        heads: Number of the mark's author and venue.
        names: Author and venue by that number.
        members: Rows of instruments; those of one author stand together.
        topics: The engine's inputs in sorted order.
    """

    table: I64
    cuts: I64
    offsets: I64
    heads: I64
    names: list[tuple[str, str]]
    members: I64
    topics: Sequence[str]

    def part(self, first: int, last: int) -> Steps:
        """Return the rows [first, last)."""
        return self._replace(
            table=self.table[first:last], cuts=self.cuts[first:last], offsets=self.offsets[first:last], heads=self.heads[first:last]
        )

    def cut(self, row: int) -> dict[str, int]:
        """Return a merged cut by topic."""
        return cut_of(self.topics, self.cuts[row])

    def instruments(self, row: int) -> I64:
        """Return the instruments that fire at an instant."""
        return self.members[self.table[row, FIRST_MEMBER] : self.table[row, LAST_MEMBER]]


def cut_of(topics: Sequence[str], row: I64) -> dict[str, int]:
    """Return a row of cuts by topic; topics of which nothing is known are left out."""
    return {topic: offset for topic, offset in zip(topics, row.tolist(), strict=True) if offset}


def steps_of(mark: Mark, cut: dict[str, int], due: range, members: I64, topics: Sequence[str]) -> Steps:
    """Return the instants that one mark fires; all records before its cut have been applied."""
    n = len(due)
    table = np.empty((n, N_STEP), dtype=np.int64)
    table[:, FIRST_MEMBER], table[:, LAST_MEMBER], table[:, STOP] = 0, len(members), 0
    table[:, PANE], table[:, DECIDED] = np.arange(due.start, due.stop), mark.time
    cuts = np.tile(np.array([cut.get(topic, 0) for topic in topics], dtype=np.int64), (n, 1))
    return Steps(table, cuts, np.full(n, mark.offset), np.zeros(n, dtype=np.int64), [(mark.author, mark.venue)], members, topics)


@njit(cache=True, nogil=True)
def _write(table: Any, cuts: Any, offsets: Any, heads: Any, revisions: Any, grid: int, texts: Any, spans: Any, out: Any, ends: Any) -> None:
    """Write the records of steps without their last field; ``texts`` holds the topics' names, then the beginnings of records."""
    at = 0
    for s in range(len(table)):
        begin, end = spans[cuts.shape[1] + heads[s]], spans[cuts.shape[1] + heads[s] + 1]
        out[at : at + end - begin] = texts[begin:end]
        at = write_long(out, at + end - begin, table[s, PANE] * grid)
        at = write_long(out, at, table[s, DECIDED])
        at = write_long(out, at, offsets[s])
        topics = 0
        for column in range(cuts.shape[1]):
            topics += cuts[s, column] != 0
        if topics:
            at = write_long(out, at, topics)
            for column in range(cuts.shape[1]):
                if cuts[s, column]:
                    begin, end = spans[column], spans[column + 1]
                    out[at : at + end - begin] = texts[begin:end]
                    at = write_long(out, at + end - begin, cuts[s, column])
        out[at] = 0
        at = write_long(out, at + 1, revisions[s])
        ends[s] = at


class StepWriter:
    """Writes progress records (schema ``worker_progress``) without their last field, ``signals_offset``, which only Kafka knows.

    Args:
        header: The codec's header of the engine's progress topic.
        topics: The engine's inputs in sorted order.
    """

    def __init__(self, header: bytes, topics: Sequence[str]) -> None:
        self._header = header
        self._topics = [text_bytes(topic) for topic in topics]

    def write(self, steps: Steps, grid_ms: int, revisions: I64) -> list[bytes]:
        """Return the records' bytes, one a step; ``revisions``: the settings revision that each step used."""
        names = self._topics
        texts = [*names, *(self._header + text_bytes(author) + text_bytes(venue) for author, venue in steps.names)]
        spans = np.cumsum([0, *map(len, texts)])
        longest = max(map(len, texts[len(names) :])) + 6 * _LONG_BYTES + sum(map(len, names)) + len(names) * _LONG_BYTES
        out, ends = np.empty(len(steps.table) * longest, dtype=np.uint8), np.empty(len(steps.table), dtype=np.int64)
        _write(
            steps.table,
            steps.cuts,
            steps.offsets,
            steps.heads,
            revisions,
            grid_ms,
            np.frombuffer(b"".join(texts), dtype=np.uint8),
            spans,
            out,
            ends,
        )
        stops = ends.tolist()
        written = out[: stops[-1]].tobytes() if stops else b""
        return [written[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def completed(step: bytes, decisions_offset: int) -> bytes:
    """Return a progress record with its last field: the engine's decisions up to this step lie before that offset of their topic."""
    return step + long_bytes(decisions_offset)

"""What marks fire before which nothing comes but trades: found for a whole block of them by one compiled call, as columns.

The plain twin is ``MarkLog``, one mark after the other, which is also what passes a mark that brings anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas.avro_kernels import write_long
from schemas.catalogue import ENGINE_INPUTS
from schemas.markreader import Mark, Patterns
from schemas.recordwriter import long_bytes, text_bytes
from stream_apps.core import instants
from stream_apps.core.analytics.stamp import stamp
from stream_apps.core.marks import MarkLog

I64 = npt.NDArray[np.int64]

# Columns of cuts: the topics of a merged cut in their order.
TOPICS = tuple(sorted(ENGINE_INPUTS))
_COLUMN = {topic: column for column, topic in enumerate(TOPICS)}
_NEVER = -(1 << 62)  # of an author that has not fired, or has no mark
_LONG_BYTES = 10
_TOPIC_TEXTS = [text_bytes(topic) for topic in TOPICS]


class Voices(NamedTuple):
    """Whose marks are looked at, by numbers.

    Attributes:
        author_of: Author of a pattern of marks.
        speaks: Whether marks of a pattern fire: those without a venue do not.
        columns: Of ``TOPICS``, those of a pattern's topics, -1 for others; behind the last one -2.
        first, last: The instruments of an author, as a stretch of the members.
    """

    author_of: I64
    speaks: npt.NDArray[np.bool_]
    columns: I64
    first: I64
    last: I64


class Steps(NamedTuple):
    """Instants to be worked off, a row each.

    Attributes:
        table: As ``instants.run`` takes them.
        cuts: Merged cut of the mark that fires it, columns ``TOPICS``; 0 where nothing is known of a topic.
        offsets: Of that mark.
        heads: Number of its author and venue.
        names: Author and venue by that number.
        members: Rows of instruments that the table's stretches are of.
    """

    table: I64
    cuts: I64
    offsets: I64
    heads: I64
    names: list[tuple[str, str]]
    members: I64

    def part(self, first: int, last: int) -> Steps:
        """Return some of them."""
        return self._replace(
            table=self.table[first:last], cuts=self.cuts[first:last], offsets=self.offsets[first:last], heads=self.heads[first:last]
        )

    def cut(self, row: int) -> dict[str, int]:
        """Return a merged cut by topic."""
        return _cut(self.cuts[row])


def _cut(row: I64) -> dict[str, int]:
    return {topic: offset for topic, offset in zip(TOPICS, row.tolist(), strict=True) if offset}


def _make_look(stamp: int, trades_column: int) -> Any:
    @njit(cache=True, nogil=True)
    def look(
        begin: int, offsets: Any, times: Any, patterns: Any, starts: Any, numbers: Any, voices: Any, merged: Any, fired: Any, seen: Any,
        chunk: Any, stop: int, fed: int, grid: int, lateness: int, jump: int, most: int, n: int, table: Any, cuts: Any, step_offsets: Any, heads: Any,
        after: Any,
    ) -> Any:  # fmt: skip
        """Let marks pass as long as they bring nothing but trades of the chunk, and write what they fire behind the ``n`` steps that are there.

        ``merged``, ``fired`` and ``seen`` are as ``MarkLog``'s, by number, and move on; ``after`` gets the number of steps after each mark. Returns the end
        of the marks that were passed, and the number of steps.
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        row = begin
        while row < len(offsets) and n < most:
            pattern, time = patterns[row], times[row]
            author = voices.author_of[pattern]
            if time < 0 or (seen[author] != _NEVER and time > seen[author] + jump):  # what could run over is Python's
                break
            trades, other = np.int64(0), False
            for t in range(voices.columns.shape[1]):
                column = voices.columns[pattern, t]
                if column == -2:
                    break
                if column >= 0 and numbers[starts[row] + t] > merged[column]:
                    if column == trades_column:
                        trades = numbers[starts[row] + t]
                    else:
                        other = True
            if other or trades > fed:
                break
            reached = time - lateness
            newest = reached // grid
            known = newest
            if voices.speaks[pattern]:
                known = fired[author] if fired[author] != _NEVER else -(-reached // grid) - 1
                if newest - known > len(table) - n:
                    break
            if trades:
                merged[trades_column] = trades
                stop = max(stop, int(np.searchsorted(chunk, trades)))
            for pane in range(known + 1, newest + 1):
                table[n, instants.FIRST_MEMBER], table[n, instants.LAST_MEMBER] = voices.first[author], voices.last[author]
                table[n, instants.PANE], table[n, instants.STOP], table[n, instants.DECIDED] = pane, stop, time
                cuts[n] = merged
                step_offsets[n] = offsets[row]
                heads[n] = pattern + 1
                n += 1
            if voices.speaks[pattern]:
                seen[author] = max(seen[author], time)
                fired[author] = max(fired[author], newest)
            after[row - begin] = n
            row += 1
        return row, n

    return look


def _make_write(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def write(table: Any, cuts: Any, offsets: Any, heads: Any, grid: int, texts: Any, spans: Any, out: Any, ends: Any) -> None:
        """Write the records of steps, but for their last field; ``texts`` holds those of topics, then those that records begin with."""
        stamp  # noqa: B018
        at = 0
        for s in range(len(table)):
            begin, end = spans[cuts.shape[1] + heads[s]], spans[cuts.shape[1] + heads[s] + 1]
            out[at : at + end - begin] = texts[begin:end]
            at = write_long(out, at + end - begin, table[s, instants.PANE] * grid)
            at = write_long(out, at, table[s, instants.DECIDED])
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
            at += 1
            ends[s] = at

    return write


_STAMP = stamp(instants)
_look = _make_look(_STAMP, TOPICS.index("agg_trades"))
_write = _make_write(_STAMP)


class Went(NamedTuple):
    """How far marks may pass.

    Attributes:
        steps: What they fire, behind what was to be worked off before.
        after: The number of steps after each of them.
        merged, fired, times: What ``MarkLog`` comes to behind the last of them: columns ``TOPICS``, and by ``authors``.
    """

    steps: Steps
    after: I64
    merged: I64
    fired: I64
    times: I64
    authors: Sequence[str]


class Ahead:
    """Looks ahead in a partition's progress log.

    Args:
        grid_ms, lateness_ms: Of the grid, and how long after an instant it fires.
        jump_ms: A mark so far beyond its author's last one is not passed here.
    """

    def __init__(self, grid_ms: int, lateness_ms: int, jump_ms: int) -> None:
        self._grid, self._lateness, self._jump = grid_ms, lateness_ms, jump_ms
        self._table = Patterns()
        self._known = -1  # so many patterns of it
        self._authors: list[str] = []
        self._author_of = self._columns = np.empty(0, dtype=np.int64)
        self._speaks = np.empty(0, dtype=np.bool_)

    def look(self, steps: Steps, marks: MarkLog, offsets: I64, at: int, most: int, instruments_of: Callable[[str], I64]) -> Went:
        """Find what the marks that wait fire before which nothing comes but trades.

        Args:
            steps: Of the mark that was passed last.
            marks: The log, some marks of which wait; it stays where it is.
            offsets: Of the trades that have been fed together, of which the first ``at`` have been taken.
            most: No mark is looked at once there are so many steps, which there are not yet.
            instruments_of: Rows of an author's instruments.
        """
        block, begin = marks.waiting.front()
        if block.table is not self._table or len(block.table) != self._known:
            self._learn(block.table)
        voices, members = self._voices(steps, instruments_of)
        merged = np.array([marks.merged.get(topic, 0) for topic in TOPICS], dtype=np.int64)
        fired = np.array([marks.fired.get(author, _NEVER) for author in self._authors], dtype=np.int64)
        times = np.array([marks.times.get(author, _NEVER) for author in self._authors], dtype=np.int64)
        names = [*steps.names, *zip(self._table.authors, self._table.venues, strict=True)]
        room = Steps(
            np.empty((most, instants.N_STEP), dtype=np.int64), np.empty((most, len(TOPICS)), dtype=np.int64), np.empty(most, dtype=np.int64),
            np.empty(most, dtype=np.int64), names, members,
        )  # fmt: skip
        first = len(steps.table)
        room.table[:first], room.cuts[:first], room.offsets[:first], room.heads[:first] = (
            steps.table,
            steps.cuts,
            steps.offsets,
            steps.heads,
        )
        after = np.empty(len(block.offsets) - begin, dtype=np.int64)
        end, n = _look(
            begin, block.offsets, block.times, block.patterns, block.starts, block.numbers, voices, merged, fired, times,
            offsets, at, int(offsets[-1]) + 1 if len(offsets) else 0, self._grid, self._lateness, self._jump, most, first,
            room.table, room.cuts, room.offsets, room.heads, after,
        )  # fmt: skip
        return Went(room.part(0, n), after[: end - begin], merged, fired, times, self._authors)

    def pass_on(self, marks: MarkLog, went: Went) -> None:
        """Let all marks pass that were found."""
        block, begin = marks.waiting.front()
        n = len(went.after)
        marks.merged = _cut(went.merged)
        marks.next_offset = int(block.offsets[begin + n - 1]) + 1
        for author, fired, time in zip(went.authors, went.fired.tolist(), went.times.tolist(), strict=True):
            if fired != _NEVER:
                marks.fired[author], marks.times[author] = fired, time
        marks.waiting.drop(n)

    def _learn(self, table: Patterns) -> None:
        """Number the authors and topics of patterns."""
        self._table, self._known = table, len(table)
        numbers: dict[str, int] = {}
        self._author_of = np.array([numbers.setdefault(author, len(numbers)) for author in table.authors], dtype=np.int64)
        self._authors = list(numbers)
        self._speaks = np.array([bool(venue) for venue in table.venues])
        self._columns = np.full((len(table), max(map(len, table.topics), default=0) + 1), -2, dtype=np.int64)
        for pattern, topics in enumerate(table.topics):
            self._columns[pattern, : len(topics)] = [_COLUMN.get(topic, -1) for topic in topics]

    def _voices(self, steps: Steps, instruments_of: Callable[[str], I64]) -> tuple[Voices, I64]:
        """Return the authors with their instruments; the steps' own come first."""
        groups, end = [steps.members], len(steps.members)
        spans = {steps.names[0][0]: (0, end)}
        for author in self._authors:
            if author not in spans:
                group = instruments_of(author)
                groups.append(group)
                spans[author] = end, end + len(group)
                end += len(group)
        first, last = np.array([spans[author] for author in self._authors], dtype=np.int64).reshape(-1, 2).T.copy()
        return Voices(self._author_of, self._speaks, self._columns, first, last), np.concatenate(groups)


def steps_of(mark: Mark, cut: dict[str, int], due: range, members: I64) -> Steps:
    """Return the instants that a mark fires, before which no trades are left to be taken."""
    n = len(due)
    table = np.empty((n, instants.N_STEP), dtype=np.int64)
    table[:, instants.FIRST_MEMBER], table[:, instants.LAST_MEMBER], table[:, instants.STOP] = 0, len(members), 0
    table[:, instants.PANE], table[:, instants.DECIDED] = np.arange(due.start, due.stop), mark.time
    cuts = np.tile(np.array([cut.get(topic, 0) for topic in TOPICS], dtype=np.int64), (n, 1))
    return Steps(table, cuts, np.full(n, mark.offset), np.zeros(n, dtype=np.int64), [(mark.author, mark.venue)], members)


class StepWriter:
    """Writes the records of steps, but for their last field, the offset in signals, which only Kafka knows.

    Args:
        header: What a record begins with.
    """

    def __init__(self, header: bytes) -> None:
        self._header = header

    def write(self, steps: Steps, grid_ms: int) -> list[bytes]:
        """Return the records' bytes."""
        texts = [*_TOPIC_TEXTS, *(self._header + text_bytes(author) + text_bytes(venue) for author, venue in steps.names)]
        spans = np.cumsum([0, *map(len, texts)])
        longest = max(map(len, texts[len(TOPICS) :])) + 5 * _LONG_BYTES + sum(map(len, _TOPIC_TEXTS)) + len(TOPICS) * _LONG_BYTES
        out, ends = np.empty(len(steps.table) * longest, dtype=np.uint8), np.empty(len(steps.table), dtype=np.int64)
        _write(
            steps.table, steps.cuts, steps.offsets, steps.heads, grid_ms, np.frombuffer(b"".join(texts), dtype=np.uint8), spans, out, ends
        )
        stops = ends.tolist()
        written = out[: stops[-1]].tobytes() if stops else b""
        return [written[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def completed(step: bytes, signals_offset: int) -> bytes:
    """Return the record of a step that says where signals stood."""
    return step + long_bytes(signals_offset)

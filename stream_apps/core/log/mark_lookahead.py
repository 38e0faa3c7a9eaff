"""Which instants the waiting marks fire: found for a whole block of marks by one compiled call, as columns.

A worker that catches up passes hundreds of marks between which the log holds records of one topic only, the engine's stretch topic (``agg_trades`` for
signals). The call passes these marks and lists the instants that they fire. A mark that brings any other record ends it. ``MarkLog`` passes one mark at a
time; it is the reference that the tests hold this module to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas.codec.markreader import Patterns
from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.log import steps as step_columns
from stream_apps.core.log.marks import MarkLog
from stream_apps.core.log.steps import DECIDED, FIRST_MEMBER, LAST_MEMBER, N_STEP, PANE, STOP, Steps, cut_of

I64 = npt.NDArray[np.int64]

_NEVER = -(1 << 62)  # of an author that has not fired, or has no mark


class AuthorTables(NamedTuple):
    """The authors of marks and their instruments, by number.

    Attributes:
        author_of: The author of each pattern of marks. A pattern is a mark's texts: author, venue, topics.
        fires: Whether marks of a pattern fire instants; marks without a venue do not.
        columns: The column of each topic of a pattern; -1 for a topic that the engine does not read, -2 behind the last one.
        first, last: The places of an author's instruments in the members.
    """

    author_of: I64
    fires: npt.NDArray[np.bool_]
    columns: I64
    first: I64
    last: I64


def _make_find_steps(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def find_steps(
        begin: int, offsets: Any, times: Any, patterns: Any, starts: Any, numbers: Any, tables: Any, merged: Any, fired: Any, seen: Any, stretch: int,
        chunk: Any, stop: int, fed: int, grid: int, lateness: int, jump: int, most: int, n: int, table: Any, cuts: Any, step_offsets: Any, heads: Any,
        after: Any,
    ) -> Any:  # fmt: skip
        """Pass marks as long as they bring only records of the chunk of topic ``stretch``; append what they fire to the ``n`` steps.

        ``merged``, ``fired`` and ``seen`` are ``MarkLog``'s, by number, and are moved on. ``after`` gets the number of steps after each mark. Returns the
        end of the marks that were passed, and the number of steps.
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        row = begin
        while row < len(offsets) and n < most:
            pattern, time = patterns[row], times[row]
            author = tables.author_of[pattern]
            if time < 0 or (seen[author] != _NEVER and time > seen[author] + jump):  # what could run over is Python's
                break
            reached_rows, other = np.int64(0), False
            for t in range(tables.columns.shape[1]):
                column = tables.columns[pattern, t]
                if column == -2:
                    break
                if column >= 0 and numbers[starts[row] + t] > merged[column]:
                    if column == stretch:
                        reached_rows = numbers[starts[row] + t]
                    else:
                        other = True
            if other or reached_rows > fed:
                break
            reached = time - lateness
            newest = reached // grid
            known = newest
            if tables.fires[pattern]:
                known = fired[author] if fired[author] != _NEVER else -(-reached // grid) - 1
                if newest - known > len(table) - n:
                    break
            if reached_rows:
                merged[stretch] = reached_rows
                stop = max(stop, int(np.searchsorted(chunk, reached_rows)))
            for pane in range(known + 1, newest + 1):
                table[n, FIRST_MEMBER], table[n, LAST_MEMBER] = tables.first[author], tables.last[author]
                table[n, PANE], table[n, STOP], table[n, DECIDED] = pane, stop, time
                cuts[n] = merged
                step_offsets[n] = offsets[row]
                heads[n] = pattern + 1
                n += 1
            if tables.fires[pattern]:
                seen[author] = max(seen[author], time)
                fired[author] = max(fired[author], newest)
            after[row - begin] = n
            row += 1
        return row, n

    return find_steps


_find_steps = _make_find_steps(stamp(step_columns))


class LookaheadResult(NamedTuple):
    """How far marks can be passed.

    Attributes:
        steps: The instants that were due before, then those that these marks fire.
        after: The number of steps after each of the marks.
        merged, fired, times: What ``MarkLog`` holds behind the last mark: by topic, and by ``authors``.
    """

    steps: Steps
    after: I64
    merged: I64
    fired: I64
    times: I64
    authors: Sequence[str]


class MarkLookahead:
    """Looks ahead in a partition's progress log.

    Args:
        topics: The engine's inputs in sorted order.
        stretch: The input whose records may come between the instants of one call.
        grid_ms, lateness_ms: Distance of instants; how long after an instant it fires. Event time.
        jump_ms: A mark this far beyond its author's last one ends the call; ``MarkLog`` refuses it.
    """

    def __init__(self, topics: Sequence[str], stretch: str, grid_ms: int, lateness_ms: int, jump_ms: int) -> None:
        self._topics, self._stretch = topics, topics.index(stretch)
        self._column = {topic: column for column, topic in enumerate(topics)}
        self._grid, self._lateness, self._jump = grid_ms, lateness_ms, jump_ms
        self._table = Patterns()
        self._known = -1  # so many patterns of it
        self._authors: list[str] = []
        self._author_of = self._columns = np.empty(0, dtype=np.int64)
        self._fires = np.empty(0, dtype=np.bool_)

    def find_steps(
        self, steps: Steps, marks: MarkLog, offsets: I64, at: int, most: int, instruments_of: Callable[[str], I64]
    ) -> LookaheadResult:
        """Find the instants that waiting marks fire, as long as only records of the stretch topic are between them.

        Args:
            steps: The instants of the mark that was passed last.
            marks: The log; some of its marks wait. It is not changed.
            offsets: Offsets of the stretch topic's records that were fed together; the first ``at`` of them have been applied.
            at: See ``offsets``.
            most: Stop once there are so many steps. There are fewer yet.
            instruments_of: Gives the rows of an author's instruments.
        """
        block, begin = marks.waiting.front()
        if block.table is not self._table or len(block.table) != self._known:
            self._learn(block.table)
        tables, members = self._tables(steps, instruments_of)
        merged = np.array([marks.merged.get(topic, 0) for topic in self._topics], dtype=np.int64)
        fired = np.array([marks.fired.get(author, _NEVER) for author in self._authors], dtype=np.int64)
        times = np.array([marks.times.get(author, _NEVER) for author in self._authors], dtype=np.int64)
        names = [*steps.names, *zip(self._table.authors, self._table.venues, strict=True)]
        room = Steps(
            np.empty((most, N_STEP), dtype=np.int64), np.empty((most, len(self._topics)), dtype=np.int64), np.empty(most, dtype=np.int64),
            np.empty(most, dtype=np.int64), names, members, self._topics,
        )  # fmt: skip
        first = len(steps.table)
        room.table[:first], room.cuts[:first], room.offsets[:first], room.heads[:first] = (
            steps.table,
            steps.cuts,
            steps.offsets,
            steps.heads,
        )
        after = np.empty(len(block.offsets) - begin, dtype=np.int64)
        end, n = _find_steps(
            begin, block.offsets, block.times, block.patterns, block.starts, block.numbers, tables, merged, fired, times, self._stretch,
            offsets, at, int(offsets[-1]) + 1 if len(offsets) else 0, self._grid, self._lateness, self._jump, most, first,
            room.table, room.cuts, room.offsets, room.heads, after,
        )  # fmt: skip
        return LookaheadResult(room.part(0, n), after[: end - begin], merged, fired, times, self._authors)

    def pass_on(self, marks: MarkLog, found: LookaheadResult) -> None:
        """Pass all marks that ``find_steps`` examined."""
        block, begin = marks.waiting.front()
        n = len(found.after)
        marks.merged = cut_of(self._topics, found.merged)
        marks.next_offset = int(block.offsets[begin + n - 1]) + 1
        for author, fired, time in zip(found.authors, found.fired.tolist(), found.times.tolist(), strict=True):
            if fired != _NEVER:
                marks.fired[author], marks.times[author] = fired, time
        marks.waiting.drop(n)

    def _learn(self, table: Patterns) -> None:
        """Number the authors and topics of new patterns."""
        self._table, self._known = table, len(table)
        numbers: dict[str, int] = {}
        self._author_of = np.array([numbers.setdefault(author, len(numbers)) for author in table.authors], dtype=np.int64)
        self._authors = list(numbers)
        self._fires = np.array([bool(venue) for venue in table.venues])
        self._columns = np.full((len(table), max(map(len, table.topics), default=0) + 1), -2, dtype=np.int64)
        for pattern, topics in enumerate(table.topics):
            self._columns[pattern, : len(topics)] = [self._column.get(topic, -1) for topic in topics]

    def _tables(self, steps: Steps, instruments_of: Callable[[str], I64]) -> tuple[AuthorTables, I64]:
        """Return the authors with their instruments; the author of the steps comes first."""
        groups, end = [steps.members], len(steps.members)
        spans = {steps.names[0][0]: (0, end)}
        for author in self._authors:
            if author not in spans:
                group = instruments_of(author)
                groups.append(group)
                spans[author] = end, end + len(group)
                end += len(group)
        first, last = np.array([spans[author] for author in self._authors], dtype=np.int64).reshape(-1, 2).T.copy()
        return AuthorTables(self._author_of, self._fires, self._columns, first, last), np.concatenate(groups)

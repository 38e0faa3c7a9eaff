"""Decides when a producer's records and marks are written (DESIGN 3, the progress log).

A producer reads its venue over several connections. How their frames interleave depends on network and machine. It must not change a
decision. Records do not wait for each other: they are written on arrival, each connection's in its own order. Only the marks wait. Mark
``t`` is written once the clock of every active connection is beyond ``t``. A connection's clock is its largest venue event time. So all
records up to ``t`` lie before its cut, together with later records of faster connections. Those later records must not affect the instant
that fires at the mark. Therefore two kinds of records are held until that mark is written:

- late records: the connection's clock has passed the firing mark of instant T, and the record's event time is at most T. Before the cut it
  would count at T, after it it is late. Only its own connection's clock decides this.
- early records: more than ``lead_ms`` ahead of the firing mark. No instant depends on them. But the engine judges a trade by the state of
  two instants before, and its number of open panes is bounded.

Later records of the connection wait behind a held record, so a stream keeps its venue's order. All other records before a cut but after T
belong to later panes, because the engine selects an instant's records by event time. So decisions depend only on the sequence of each
connection. They depend neither on the order of different connections in the log, nor on how far a cut reaches beyond ``t``.

Memory is bounded: ``blocked`` makes the reader of a connection with too many held records stop. The owner suspends a connection that is
silent or down for long. It then delays no mark, and the next mark covers its later records.

Times are venue event times, ms UTC. This module reads no clock and awaits nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class Step(Generic[Item]):
    """Records to write, and the mark to write after them and all earlier records.

    Attributes:
        time: Time of the mark; None: no mark, the next one covers the records.
        items: The records in writing order.
        grid: True when every partition gets the mark, also one without a record.
        partitions: Further partitions that get the mark, besides those of ``items``.
    """

    time: int | None
    items: list[Item]
    grid: bool = False
    partitions: Iterable[int] = ()


@dataclass(slots=True)
class _Source(Generic[Item]):
    name: str
    rank: int
    step: int | None = None  # step of its clock; None before its first record
    clock: int | None = None
    suspended: bool = False
    held: deque[tuple[int, int, Item]] = field(default_factory=deque)  # clock, event time, record
    open: set[int] = field(default_factory=set)  # partitions of the newest step, also the last of ``steps``
    steps: deque[tuple[int, set[int]]] = field(default_factory=deque)


class Sequencer(Generic[Item]):
    """Releases the records of sources (connections, back-fills) and the due marks.

    Args:
        step_ms: Step of the marks.
        grid_ms: Evaluation grid; a whole number of steps.
        lateness_ms: Allowed lateness; a whole number of steps. Marks with ``(t - lateness_ms) % grid_ms == 0`` fire instants; they are
            always written.
        floor: Last mark of this author's earlier run; all marks are later. None: no earlier run.
        hold_limit: Number of held records at which a source that is ahead of the others is ``blocked``.

    Attributes:
        lead_ms: How far beyond the next firing mark a connection's clock may be when its records leave. It is half of the time to the end
            of the next pane, because a record's event time may exceed its connection's clock.

    Raises:
        ValueError: the grid or the lateness is not a whole number of steps.
    """

    def __init__(self, step_ms: int, grid_ms: int, lateness_ms: int, *, floor: int | None = None, hold_limit: int = 50_000) -> None:
        if grid_ms % step_ms:
            raise ValueError(f"grid_ms: {grid_ms} is not a whole number of steps of {step_ms} ms")
        if lateness_ms % step_ms:
            raise ValueError(f"allowed_lateness_ms: {lateness_ms} is not a whole number of steps of {step_ms} ms")
        self.step_ms = step_ms
        self.grid_ms = grid_ms
        self.lateness_ms = lateness_ms
        self.hold_limit = hold_limit
        self.lead_ms = max(0, grid_ms - lateness_ms) // 2
        self._sources: dict[str, _Source[Item]] = {}
        self._left: list[_Source[Item]] = []  # sources that left, with held records
        self._last: int | None = None
        self._due = 0  # the firing mark after ``_last``
        self._clock: int | None = None
        self._ready: list[Item] = []
        if floor is not None:
            self._begin(self._step_of(floor))

    # --- what sources do ---------------------------------------------------------------------------------------------

    def join(self, name: str, rank: int, *, suspended: bool = False) -> None:
        """Add a source. It delays the marks until its first record, unless it joins ``suspended``.

        Args:
            name: Unique among the sources present.
            rank: Its place in the order of sources when held records are released; unique.

        Raises:
            ValueError: the name or the rank is taken.
        """
        if name in self._sources:
            raise ValueError(f"source {name!r} is already here")
        if any(source.rank == rank for source in self._sources.values()):
            raise ValueError(f"rank {rank} of source {name!r} is taken")
        self._sources[name] = _Source(name, rank, suspended=suspended)

    def push(self, name: str, item: Item, event_time: int, partition: int) -> None:
        """Add a record at the source's clock. Call ``advance`` first.

        Args:
            name: The source. item: The record.
            event_time: Its event time. partition: Its partition.

        Raises:
            KeyError: no such source.
        """
        source = self._sources[name]
        source.open.add(partition)
        clock = source.clock
        if clock is None:
            self._ready.append(item)  # it has no time to wait for
        elif not source.held and self._may_leave(clock, event_time):
            self._ready.append(item)
        else:
            source.held.append((clock, event_time, item))

    def advance(self, name: str, clock: int) -> bool:
        """Advance a source's clock to ``clock`` if that is later, and resume it if it was suspended.

        Returns:
            True when its step changed, so that ``release`` may have a mark.

        Raises:
            KeyError: no such source.
        """
        source = self._sources[name]
        source.suspended = False
        if source.clock is not None and clock <= source.clock:
            return False
        source.clock = clock
        if source.step is not None and clock <= source.step:
            return False
        source.step = step = self._step_of(clock)
        if self._clock is None or clock > self._clock:
            self._clock = clock
        # A source that resumes behind the last mark opens no step until it has passed that mark.
        if self._last is None or step > self._last:
            source.open = set()
            source.steps.append((step, source.open))
        return True

    def suspend(self, name: str) -> None:
        """Let the marks continue without a source that is down or silent. It counts again from its next ``advance``."""
        self._sources[name].suspended = True

    def leave(self, name: str) -> None:
        """Remove a source that has ended. Its held records are released when they are due. Unknown names are ignored."""
        source = self._sources.pop(name, None)
        if source is None:
            return
        if source.clock is not None:
            self.note_clock(source.clock)
        if source.steps or source.held:
            self._left.append(source)

    def note_clock(self, clock: int) -> None:
        """Set the venue time reached in an earlier run, so that ``finish`` knows the end without new records."""
        if self._clock is None or clock > self._clock:
            self._clock = clock

    # --- what the writer asks ----------------------------------------------------------------------------------------

    @property
    def last(self) -> int | None:
        """The last step whose mark was released (or the floor); None before the first."""
        return self._last

    @property
    def clock(self) -> int | None:
        """The newest venue time of all sources."""
        clocks = [source.clock for source in self._sources.values() if source.clock is not None]
        if self._clock is not None:
            clocks.append(self._clock)
        return max(clocks, default=None)

    @property
    def ready(self) -> int:
        """Records that leave with the next ``release``."""
        return len(self._ready)

    @property
    def held(self) -> int:
        """Records that wait for a mark."""
        return sum(len(source.held) for source in (*self._sources.values(), *self._left))

    def blocked(self, name: str) -> bool:
        """Return True when a source has too many held records and the others must catch up. Its reader stops.

        The source that the others wait for is never blocked, because then no mark could follow.
        """
        source = self._sources[name]
        if len(source.held) <= self.hold_limit or source.step is None or source.suspended:
            return False
        limit = self._limit()
        return limit is None or source.step > limit

    def waited_for(self) -> list[str]:
        """Return the names of the sources that delay the marks."""
        limit = self._limit()
        waiting = [source for source in self._sources.values() if not source.suspended]
        if limit is None:
            return [source.name for source in waiting if source.step is None]
        return [source.name for source in waiting if source.step is not None and source.step <= limit]

    def release(self) -> list[Step[Item]]:
        """Return the releasable records and the due marks, in order. Each record is returned once."""
        limit = self._limit()
        if limit is None:
            return self._flushed([])
        if self._last is None:
            # No future record can lie before the earliest open step.
            self._begin_with_the_first_record(limit)
        return self._close(limit - self.step_ms)

    def finish(self) -> list[Step[Item]]:
        """Return all remaining records and the marks up to the last one. That is the grid instant at or after the last clock, plus the
        lateness.

        Call it when the venue's data has ended and every source has left.

        Raises:
            RuntimeError: a source is still here.
        """
        if self._sources:
            raise RuntimeError(f"finish: sources still here: {', '.join(self._sources)}")
        if self._clock is None:
            return self._flushed([])
        end = -(-self._clock // self.grid_ms) * self.grid_ms + self.lateness_ms
        if self._last is None:
            self._begin_with_the_first_record(end)
        return self._close(end)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _step_of(self, clock: int) -> int:
        return -(-clock // self.step_ms) * self.step_ms

    def _limit(self) -> int | None:
        """The earliest open step among the active sources. None if one has no record yet, or none is active."""
        limit: int | None = None
        for source in self._sources.values():
            if source.suspended:
                continue
            if source.step is None:
                return None
            if limit is None or source.step < limit:
                limit = source.step
        return limit

    def _begin(self, last: int) -> None:
        """Start the marks after ``last``."""
        self._last = last
        self._due = last + self.grid_ms - (last - self.lateness_ms) % self.grid_ms

    def _begin_with_the_first_record(self, through: int) -> None:
        """Start the marks with the first record, if its step is not after ``through``. The first clock would depend on more than the
        records.
        """
        found = (step for source in (*self._sources.values(), *self._left) for step, partitions in source.steps if partitions)
        first = min(found, default=None)
        if first is not None and first <= through:
            self._begin(first - self.step_ms)
            self._let_go()

    def _may_leave(self, clock: int, event_time: int) -> bool:
        """Return whether a record may lie before the cut of the next firing mark. ``clock`` is its connection's clock at its arrival."""
        due = self._due
        if self._last is None:
            return False
        return clock <= due or (clock <= due + self.lead_ms and event_time > due - self.lateness_ms)

    def _let_go(self) -> None:
        """Release the held records that need not wait any more."""
        for source in sorted((*self._sources.values(), *self._left), key=lambda source: source.rank):
            held = source.held
            while held and self._may_leave(held[0][0], held[0][1]):
                self._ready.append(held.popleft()[2])

    def _flushed(self, steps: list[Step[Item]]) -> list[Step[Item]]:
        """Return ``steps`` with the records that may leave at the end."""
        if self._ready:
            steps.append(Step(None, self._ready))
            self._ready = []
        return steps

    def _close(self, through: int) -> list[Step[Item]]:
        """Return the releasable records, and the marks after the last one up to ``through``: of steps with records and of the grid."""
        released = self._flushed([])
        if self._last is None or through <= self._last:
            return released
        gathered: dict[int, set[int]] = {}
        for source in (*self._sources.values(), *self._left):
            steps = source.steps
            while steps and steps[0][0] <= through:
                step, partitions = steps.popleft()
                if partitions:
                    gathered.setdefault(step, set()).update(partitions)
        for time in sorted({*gathered, *range(self._due, through + 1, self.grid_ms)}):
            fires = time == self._due
            released.append(Step(time, [], fires, gathered.get(time, ())))
            if fires:
                self._due = time + self.grid_ms
                self._let_go()
                self._flushed(released)
        self._last = through
        self._left = [source for source in self._left if source.steps or source.held]
        return released

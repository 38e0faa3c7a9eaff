"""The deterministic merge of a producer's connections into steps of venue time (DESIGN 3, the progress log).

A producer hears its venue over several connections. How their frames interleave depends on the network and on the machine, and must not decide
what the log says. So every record belongs to a step by the clock of the connection it came on, which is the largest venue event time
seen there: step ``t`` holds what came while the clock was in ``(t - step_ms, t]``. A step is closed once every connection that counts
has a clock beyond it; then it is released: the records of all connections by rank, each connection's in its own order, and after
them the mark ``t``. What is released is therefore a function of the sequence of each connection alone.

A connection that runs ahead keeps its records here; ``blocked`` tells its reader to stop reading (bounded memory). A connection that
is down for long or silent is suspended by its owner: it holds nobody up, and what it brings later goes on in the open step.

Times are venue event times, ms UTC. No clock is read and nothing is awaited here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class Step(Generic[Item]):
    """One released step.

    Attributes:
        time: The mark to write after the items, or None for records that came after their step was released: they
            are covered by the next mark.
        items: The records in the order in which they are to be written.
        grid: True when the mark must reach every partition, also those without a record in this step.
    """

    time: int | None
    items: list[Item]
    grid: bool = False


@dataclass(slots=True)
class _Source(Generic[Item]):
    name: str
    rank: int
    step: int | None = None  # step of its clock; None until it brought something
    clock: int | None = None
    suspended: bool = False
    held: int = 0
    open: list[Item] = field(default_factory=list)  # the list of the newest step, also the last of ``steps``
    steps: deque[tuple[int, list[Item]]] = field(default_factory=deque)


class Sequencer(Generic[Item]):
    """Merges sources (connections, back-fills) into steps.

    Args:
        step_ms: Step of the marks.
        grid_ms: Evaluation grid; a whole number of steps.
        lateness_ms: Allowed lateness; a whole number of steps. Marks with ``(t - lateness_ms) % grid_ms == 0`` are the ones at
            which instants fire: they are never left out.
        floor: Last mark of an earlier run of this author: all marks will be later. None: no earlier run.
        hold_limit: Records that a source which is ahead of the others may have waiting before it is ``blocked``.

    Raises:
        ValueError: the grid or the lateness is no whole number of steps.
    """

    def __init__(self, step_ms: int, grid_ms: int, lateness_ms: int, *, floor: int | None = None, hold_limit: int = 50_000) -> None:
        if grid_ms % step_ms:
            raise ValueError(f"grid_ms: {grid_ms} is no whole number of steps of {step_ms} ms")
        if lateness_ms % step_ms:
            raise ValueError(f"allowed_lateness_ms: {lateness_ms} is no whole number of steps of {step_ms} ms")
        self.step_ms = step_ms
        self.grid_ms = grid_ms
        self.lateness_ms = lateness_ms
        self.hold_limit = hold_limit
        self._sources: dict[str, _Source[Item]] = {}
        self._left: list[_Source[Item]] = []  # sources that are gone, with records that wait for their steps
        self._last = None if floor is None else self._step_of(floor)
        self._clock: int | None = None
        self._late: list[Item] = []

    # --- what sources do ---------------------------------------------------------------------------------------------

    def join(self, name: str, rank: int, *, suspended: bool = False) -> None:
        """Add a source. It holds the others up until it brought something, unless it joins ``suspended``.

        Args:
            name: Unique among the sources present.
            rank: Its place among the sources when a step is released; unique.

        Raises:
            ValueError: the name or the rank is taken.
        """
        if name in self._sources:
            raise ValueError(f"source {name!r} is already here")
        if any(source.rank == rank for source in self._sources.values()):
            raise ValueError(f"rank {rank} of source {name!r} is taken")
        self._sources[name] = _Source(name, rank, suspended=suspended)

    def push(self, name: str, item: Item) -> None:
        """Add a record at the source's clock (see ``advance``, which comes before it).

        Raises:
            KeyError: no such source.
        """
        source = self._sources[name]
        if source.step is None or (self._last is not None and source.step <= self._last):
            self._late.append(item)
            return
        source.open.append(item)
        source.held += 1

    def advance(self, name: str, clock: int) -> bool:
        """Move a source's clock on to ``clock`` if that is later, and wake it if it was suspended.

        Returns:
            True when its step changed, so that ``release`` may have something.

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
        # A source that comes back from behind has no list of its own until it has passed what is released: see push.
        if self._last is None or step > self._last:
            source.open = []
            source.steps.append((step, source.open))
        return True

    def suspend(self, name: str) -> None:
        """Let the others go on without a source (it is down or silent). It counts again from its next ``advance``."""
        self._sources[name].suspended = True

    def leave(self, name: str) -> None:
        """Remove a source that has ended. What it brought is released in its steps; unknown names are ignored."""
        source = self._sources.pop(name, None)
        if source is None:
            return
        if source.clock is not None:
            self.note_clock(source.clock)
        if source.steps:
            self._left.append(source)

    def note_clock(self, clock: int) -> None:
        """Tell of a venue time reached in an earlier run, so that ``finish`` knows the end even if nothing more comes."""
        if self._clock is None or clock > self._clock:
            self._clock = clock

    # --- what the writer asks ----------------------------------------------------------------------------------------

    @property
    def last(self) -> int | None:
        """The last released step (or the floor); None before the first."""
        return self._last

    @property
    def clock(self) -> int | None:
        """The newest venue time of all sources."""
        clocks = [source.clock for source in self._sources.values() if source.clock is not None]
        if self._clock is not None:
            clocks.append(self._clock)
        return max(clocks, default=None)

    @property
    def held(self) -> int:
        """Records that wait for their step."""
        return sum(source.held for source in self._sources.values()) + sum(source.held for source in self._left) + len(self._late)

    def blocked(self, name: str) -> bool:
        """Return True when a source has brought as much as it may and others have yet to catch up: stop reading it.

        The source that the others wait for is never blocked, however much its step holds: nothing could be released.
        """
        source = self._sources[name]
        if source.held <= self.hold_limit or source.step is None or source.suspended:
            return False
        limit = self._limit()
        return limit is None or source.step > limit

    def waited_for(self) -> list[str]:
        """Return the names of the sources that hold the others up."""
        limit = self._limit()
        waiting = [source for source in self._sources.values() if not source.suspended]
        if limit is None:
            return [source.name for source in waiting if source.step is None]
        return [source.name for source in waiting if source.step is not None and source.step <= limit]

    def _limit(self) -> int | None:
        """The earliest open step among the sources that count; None when one has brought nothing yet, or none counts."""
        limit: int | None = None
        for source in self._sources.values():
            if source.suspended:
                continue
            if source.step is None:
                return None
            if limit is None or source.step < limit:
                limit = source.step
        return limit

    def release(self) -> list[Step[Item]]:
        """Return the steps that are closed now, in order. Each record is returned once, before or with its mark."""
        released: list[Step[Item]] = []
        if self._late:
            released.append(Step(None, self._late))
            self._late = []
        limit = self._limit()
        if limit is not None:
            released.extend(self._close(limit - self.step_ms))
        return released

    def finish(self) -> list[Step[Item]]:
        """Return everything that is left, up to the last mark: the grid instant at or after the last clock, plus the lateness.

        Called when the venue's data is at its end and every source has left.

        Raises:
            RuntimeError: a source is still here.
        """
        if self._sources:
            raise RuntimeError(f"finish: sources still here: {', '.join(self._sources)}")
        released: list[Step[Item]] = []
        if self._late:
            released.append(Step(None, self._late))
            self._late = []
        if self._clock is not None:
            released.extend(self._close(-(-self._clock // self.grid_ms) * self.grid_ms + self.lateness_ms))
        return released

    # --- inside ------------------------------------------------------------------------------------------------------

    def _step_of(self, clock: int) -> int:
        return -(-clock // self.step_ms) * self.step_ms

    def _close(self, through: int) -> Iterator[Step[Item]]:
        """Yield the steps after the last released one up to ``through``: those with records and those of the grid."""
        sources = sorted([*self._sources.values(), *self._left], key=lambda source: source.rank)
        if self._last is None:
            # Marks begin with the first record, not with the first clock: where that lies depends on nothing but the records.
            first = min((step for source in sources for step, items in source.steps if items), default=None)
            if first is None or first > through:
                return
            self._last = first - self.step_ms
        if through <= self._last:
            return
        gathered: dict[int, list[Item]] = {}
        for source in sources:
            steps = source.steps
            while steps and steps[0][0] <= through:
                step, items = steps.popleft()
                source.held -= len(items)
                if items:
                    gathered.setdefault(step, []).extend(items)
        self._left = [source for source in self._left if source.steps]
        first_grid = self._last + self.grid_ms - (self._last - self.lateness_ms) % self.grid_ms
        times = sorted({*gathered, *range(first_grid, through + 1, self.grid_ms)})
        self._last = through
        for time in times:
            yield Step(time, gathered.get(time, []), (time - self.lateness_ms) % self.grid_ms == 0)

"""When records leave and marks follow: the marks never lie, and what is decided is a function of each connection's own sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.output.sequencer import Sequencer, Step

STEP, GRID, LATENESS = 250, 1000, 500


@dataclass(frozen=True)
class Record:
    """A record as a connection brought it."""

    source: int
    number: int
    clock: int
    event_time: int
    partition: int


Frame = tuple[int, list[Record]]  # venue time of a message, its records

# Clocks mostly run on, sometimes stand, sometimes run back; records are of their message's time, a little older, or far too late.
ages = st.integers(0, 60) | st.integers(0, 60) | st.integers(-200, 3_000)
frames = st.lists(st.tuples(st.integers(-300, 900), st.lists(st.tuples(ages, st.integers(0, 2)), max_size=3)), max_size=25)
connections = st.lists(frames, min_size=1, max_size=4)
turns = st.lists(st.integers(0, 3), max_size=80)


def absolute(rank: int, raw: list[tuple[int, list[tuple[int, int]]]]) -> list[Frame]:
    at = clock = 10_000
    out: list[Frame] = []
    number = 0
    for delta, records in raw:
        at = max(1, at + delta)
        clock = max(clock, at) if out else at
        found = []
        for age, partition in records:
            found.append(Record(rank, number, clock, max(1, at - age), partition))
            number += 1
        out.append((at, found))
    return out


@dataclass
class Played:
    """What came out, and what had been received when each mark was handed out."""

    log: list[Step[Record]] = field(default_factory=list)
    received: list[list[Record]] = field(default_factory=list)  # one list a step of ``log``
    seen: list[Record] = field(default_factory=list)

    def take(self, steps: list[Step[Record]]) -> None:
        self.log.extend(steps)
        self.received.extend([list(self.seen)] * len(steps))

    def records(self) -> list[Record]:
        return [item for step in self.log for item in step.items]

    def marks(self) -> list[int]:
        return [step.time for step in self.log if step.time is not None]


def play(sources: list[list[Frame]], order: list[int], every: int = 1, floor: int | None = None, silences: bool = False) -> Played:
    """Feed the sources in the given order of turns (then what is left, by rank), release after every ``every`` frames.

    With ``silences``, a source whose turn comes five times running is the only one that is heard: the others are suspended.
    """
    sequencer: Sequencer[Record] = Sequencer(STEP, GRID, LATENESS, floor=floor)
    for rank in range(len(sources)):
        sequencer.join(f"s{rank}", rank)
    at = [0] * len(sources)
    out = Played()
    fed = 0

    def feed(rank: int) -> None:
        nonlocal fed
        source = sources[rank]
        if at[rank] < len(source):
            clock, records = source[at[rank]]
            if sequencer.advance(f"s{rank}", clock):
                out.take(sequencer.release())
            for record in records:
                out.seen.append(record)
                sequencer.push(f"s{rank}", record, record.event_time, record.partition)
            at[rank] += 1
            fed += 1
            if fed % every == 0:
                out.take(sequencer.release())
        if at[rank] == len(source):
            sequencer.leave(f"s{rank}")

    running = 0
    for turn, rank in enumerate(order):
        if rank < len(sources) and at[rank] < len(sources[rank]):
            running = running + 1 if turn and order[turn - 1] == rank else 0
            feed(rank)
            if silences and running >= 5:
                for other in range(len(sources)):
                    if other != rank and at[other] < len(sources[other]):
                        sequencer.suspend(f"s{other}")
    for rank in range(len(sources)):
        while at[rank] < len(sources[rank]):
            feed(rank)
        sequencer.leave(f"s{rank}")
    out.take(sequencer.release())
    out.take(sequencer.finish())
    assert sequencer.held == sequencer.ready == 0
    return out


def fires(mark: int) -> bool:
    return (mark - LATENESS) % GRID == 0


def counted(played: Played) -> dict[tuple[int, int], int]:
    """What an engine makes of the log: record -> the firing mark at which it first counts (it is late there if its own instant has fired before)."""
    found: dict[tuple[int, int], int] = {}
    waiting: list[Record] = []
    for step in played.log:
        waiting += step.items
        if step.time is not None and fires(step.time):
            due = [record for record in waiting if record.event_time <= step.time - LATENESS]
            found |= {(record.source, record.number): step.time for record in due}
            waiting = [record for record in waiting if record.event_time > step.time - LATENESS]
    assert not [record for record in waiting if record.event_time <= record.clock]  # dated into the future: of no instant yet
    return found


def truth(sources: list[list[Frame]]) -> dict[tuple[int, int], int]:
    """The same from the connections alone: the first firing mark at or after the connection's clock whose instant is not before the event time."""
    records = [record for source in sources for _, found in source for record in found]
    if not records:
        return {}
    first = min(-(-record.clock // STEP) * STEP for record in records)
    last = -(-max(_clock(source) for source in sources if source) // GRID) * GRID + LATENESS
    marks = [mark for mark in range(first, last + 1, STEP) if fires(mark)]
    found = {}
    for record in records:
        mark = next((mark for mark in marks if mark >= record.clock and mark - LATENESS >= record.event_time), None)
        if mark is not None:
            found[record.source, record.number] = mark
    return found


def _clock(source: list[Frame]) -> int:
    return max(clock for clock, _ in source)


@settings(max_examples=300, deadline=None)
@given(connections, turns, st.integers(1, 7))
def test_interleaving_and_speed_do_not_matter_to_what_is_decided(raw: list[list], order: list[int], every: int) -> None:
    sources = [absolute(rank, source) for rank, source in enumerate(raw)]
    played, plain = play(sources, order, every), play(sources, [], 1)
    assert counted(played) == counted(plain) == truth(sources)
    # The marks are the same ones, for the same partitions; what they cut differs.
    assert [(step.time, step.grid, set(step.partitions)) for step in played.log if step.time is not None] == [
        (step.time, step.grid, set(step.partitions)) for step in plain.log if step.time is not None
    ]


@settings(max_examples=300, deadline=None)
@given(connections, turns, st.integers(1, 7), st.none() | st.integers(9_000, 14_000), st.booleans())
def test_marks_never_lie(raw: list[list], order: list[int], every: int, floor: int | None, silences: bool) -> None:
    sources = [absolute(rank, source) for rank, source in enumerate(raw)]
    played = play(sources, order, every, floor, silences)
    marks = played.marks()
    assert marks == sorted(set(marks)) and all(mark % STEP == 0 for mark in marks)
    assert floor is None or all(mark > floor for mark in marks)
    # From the first mark on no instant is left out, and every instant's mark is for all partitions.
    if marks and floor is None:
        assert [mark for mark in marks if fires(mark)] == [mark for mark in range(marks[0], marks[-1] + 1, STEP) if fires(mark)]
    assert all(step.grid == fires(step.time) for step in played.log if step.time is not None)
    before: set[Record] = set()
    touched: dict[int, set[int]] = {}
    for step, received in zip(played.log, played.received, strict=True):
        before.update(step.items)
        if step.time is not None:
            missing = [record for record in received if record.clock <= step.time and record not in before]
            assert not missing, (step.time, missing)
            touched[step.time] = set(step.partitions)
    # Each record once, each connection's in its own order.
    records = played.records()
    for rank, source in enumerate(sources):
        assert [record for record in records if record.source == rank] == [record for _, found in source for record in found]
    if not silences and floor is None:
        for record in records:
            step_of = -(-record.clock // STEP) * STEP
            assert record.partition in touched[step_of]


@settings(max_examples=200, deadline=None)
@given(connections, turns)
def test_only_what_is_late_or_far_ahead_waits(raw: list[list], order: list[int]) -> None:
    """Once marks have begun, a record leaves with the next release unless its own connection says that it must not."""
    sources = [absolute(rank, source) for rank, source in enumerate(raw)]
    sequencer: Sequencer[Record] = Sequencer(STEP, GRID, LATENESS, floor=9_000)
    for rank in range(len(sources)):
        sequencer.join(f"s{rank}", rank)
    at = [0] * len(sources)
    out: set[Record] = set()
    behind: set[int] = set()  # sources that hold something
    for rank in order:
        if rank >= len(sources) or at[rank] >= len(sources[rank]):
            continue
        clock, records = sources[rank][at[rank]]
        at[rank] += 1
        sequencer.advance(f"s{rank}", clock)
        for record in records:
            sequencer.push(f"s{rank}", record, record.event_time, record.partition)
        out.update(record for step in sequencer.release() for record in step.items)
        last = sequencer.last or 0
        due = next(mark for mark in range(last + STEP, last + 2 * GRID, STEP) if fires(mark))
        waits = rank in behind
        for record in records:
            waits |= record.clock > due + sequencer.lead_ms or (record.clock > due and record.event_time <= due - LATENESS)
            assert waits or record in out
        behind = {rank for rank in range(len(sources)) if sequencer._sources[f"s{rank}"].held}


def feeding(*clocks: tuple[str, int]) -> Sequencer[str]:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    for rank, (name, clock) in enumerate(clocks):
        sequencer.join(name, rank)
        sequencer.advance(name, clock)
    return sequencer


def test_a_record_leaves_at_once_and_the_mark_waits_for_the_slowest_connection() -> None:
    sequencer = feeding(("a", 10_100), ("b", 10_050))
    sequencer.push("a", "a1", 10_100, 3)
    assert sequencer.release() == [Step(None, ["a1"])]
    sequencer.advance("a", 10_700)
    sequencer.push("a", "a2", 10_700, 3)
    assert sequencer.waited_for() == ["b"]
    assert sequencer.release() == [Step(None, ["a2"])]  # of a later instant: it may lie before the cut
    sequencer.advance("b", 10_251)
    sequencer.push("b", "b1", 10_251, 4)
    assert sequencer.release() == [Step(None, ["b1"]), Step(10_250, [], False, {3})]


def test_a_late_record_waits_for_the_mark_that_it_missed_and_what_follows_waits_behind_it() -> None:
    sequencer = feeding(("a", 10_100), ("b", 10_100))
    sequencer.push("a", "a1", 10_100, 3)
    assert sequencer.release() == [Step(None, ["a1"])]
    sequencer.advance("a", 10_501)  # beyond the mark at which the instant 10_000 fires
    sequencer.push("a", "late", 9_999, 3)
    sequencer.push("a", "behind", 10_501, 3)
    assert sequencer.release() == [] and sequencer.held == 2
    sequencer.advance("b", 10_400)
    sequencer.push("b", "in time", 9_999, 3)  # its own connection had not passed the mark
    assert sequencer.release() == [Step(None, ["in time"]), Step(10_250, [], False, {3})]
    sequencer.advance("b", 10_501)
    assert sequencer.release() == [Step(10_500, [], True, {3}), Step(None, ["late", "behind"])]


def test_a_connection_far_ahead_waits() -> None:
    sequencer = feeding(("a", 10_100), ("b", 10_100))
    sequencer.push("b", "b1", 10_100, 3)
    sequencer.release()
    assert sequencer.lead_ms == 250
    for clock in (10_750, 10_751):
        sequencer.advance("a", clock)
        sequencer.push("a", f"a{clock}", clock, 3)
    assert sequencer.release() == [Step(None, ["a10750"])]
    sequencer.advance("b", 10_501)
    assert sequencer.release() == [Step(10_250, [], False, {3}), Step(10_500, [], True, ()), Step(None, ["a10751"])]


def test_a_suspended_connection_holds_no_mark_up_and_what_it_brings_is_covered_by_the_next() -> None:
    sequencer = feeding(("a", 10_100), ("b", 10_100))
    sequencer.push("a", "a1", 10_100, 3)
    sequencer.suspend("b")
    sequencer.advance("a", 10_700)
    sequencer.push("a", "a2", 10_700, 3)
    assert sequencer.release() == [Step(None, ["a1", "a2"]), Step(10_250, [], False, {3}), Step(10_500, [], True, ())]
    sequencer.advance("b", 10_150)  # back, with something old
    sequencer.push("b", "b1", 10_150, 3)
    assert sequencer.release() == [Step(None, ["b1"])]
    sequencer.advance("a", 12_000)
    assert sequencer.waited_for() == ["b"]  # it counts again
    assert sequencer.release() == []
    sequencer.advance("b", 10_800)
    assert sequencer.release() == [Step(10_750, [], False, {3})]


def test_a_record_of_a_connection_that_was_passed_before_marks_began_is_not_lost() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    sequencer.join("b", 1)
    sequencer.advance("b", 10_010)
    sequencer.suspend("b")
    sequencer.advance("a", 10_900)
    assert sequencer.release() == []
    sequencer.advance("b", 10_020)
    sequencer.push("b", "b1", 10_020, 3)
    sequencer.leave("b")
    assert sequencer.release() == [Step(None, ["b1"]), Step(10_250, [], False, {3}), Step(10_500, [], True, ())]


def test_nothing_leaves_before_it_is_known_where_marks_begin() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    sequencer.join("b", 1)
    sequencer.advance("a", 10_600)
    sequencer.push("a", "a1", 10_600, 3)
    assert sequencer.release() == []  # b may begin before the mark of the instant 10_000
    sequencer.advance("b", 10_400)
    assert sequencer.release() == []
    sequencer.push("b", "b1", 10_400, 3)
    assert sequencer.release() == [Step(None, ["a1", "b1"])]


def test_only_a_connection_that_is_ahead_is_blocked() -> None:
    sequencer: Sequencer[int] = Sequencer(STEP, GRID, LATENESS, hold_limit=2)
    sequencer.join("ahead", 0)
    sequencer.join("behind", 1)
    for name in ("ahead", "behind"):
        sequencer.advance(name, 10_100)
        for number in range(5):
            sequencer.push(name, number, 10_100, 3)
    # Both are in the open step: blocking either would stop the marks for ever.
    assert not sequencer.blocked("ahead") and not sequencer.blocked("behind")
    sequencer.release()
    sequencer.advance("ahead", 13_000)
    for number in range(5):
        sequencer.push("ahead", number, 13_000, 3)
    sequencer.release()
    assert sequencer.held == 5 and sequencer.blocked("ahead") and not sequencer.blocked("behind")
    sequencer.advance("behind", 12_600)
    sequencer.release()
    assert not sequencer.blocked("ahead") and sequencer.held == 0


def test_the_floor_of_an_earlier_run_is_never_passed_backwards() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS, floor=20_000)
    sequencer.join("a", 0)
    sequencer.advance("a", 10_100)
    sequencer.push("a", "old", 10_100, 3)
    assert sequencer.release() == [Step(None, ["old"])]
    sequencer.leave("a")
    assert sequencer.finish() == []


def test_the_end_known_from_an_earlier_run_writes_its_marks() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS, floor=10_250)
    sequencer.note_clock(11_300)
    assert [step.time for step in sequencer.finish()] == [10_500, 11_500, 12_500]


@pytest.mark.parametrize(("grid", "lateness"), [(1001, 500), (1000, 100)])
def test_settings_that_do_not_fit_are_refused(grid: int, lateness: int) -> None:
    with pytest.raises(ValueError, match="whole number of steps"):
        Sequencer(STEP, grid, lateness)


def test_names_and_ranks_are_unique_and_finish_wants_all_gone() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    with pytest.raises(ValueError, match="already here"):
        sequencer.join("a", 1)
    with pytest.raises(ValueError, match="rank 0"):
        sequencer.join("b", 0)
    with pytest.raises(RuntimeError, match="still here: a"):
        sequencer.finish()

"""The step merge: output is a function of the sequence of each connection, whatever the interleaving."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.sequencer import Sequencer, Step

STEP, GRID, LATENESS = 250, 1000, 500

Frame = tuple[int, int]  # venue time, number of records
Source = list[Frame]

# Clocks that mostly run on, sometimes stand, sometimes run back.
frames = st.lists(st.tuples(st.integers(-300, 900), st.integers(0, 3)), max_size=25)
sources_strategy = st.lists(frames, min_size=1, max_size=4)


def absolute(source: list[Frame]) -> Source:
    clock, out = 10_000, []
    for delta, records in source:
        clock = max(1, clock + delta)
        out.append((clock, records))
    return out


def play(sources: list[Source], order: list[int], every: int = 1, floor: int | None = None) -> list[Step[str]]:
    """Feed the sources in the given order of turns (then what is left, by rank) and release after every ``every`` frames."""
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS, floor=floor)
    for rank in range(len(sources)):
        sequencer.join(f"s{rank}", rank)
    at = [0] * len(sources)
    out: list[Step[str]] = []
    turns = 0

    def feed(rank: int) -> None:
        nonlocal turns
        source = sources[rank]
        if at[rank] < len(source):
            clock, records = source[at[rank]]
            sequencer.advance(f"s{rank}", clock)
            for number in range(records):
                sequencer.push(f"s{rank}", f"{rank}/{at[rank]}/{number}")
            at[rank] += 1
            turns += 1
            if turns % every == 0:
                out.extend(sequencer.release())
        if at[rank] == len(source):
            sequencer.leave(f"s{rank}")

    for rank in order:
        if rank < len(sources) and at[rank] < len(sources[rank]):
            feed(rank)
    for rank in range(len(sources)):
        while at[rank] < len(sources[rank]):
            feed(rank)
        sequencer.leave(f"s{rank}")
    out.extend(sequencer.release())
    out.extend(sequencer.finish())
    assert sequencer.held == 0
    return out


@settings(max_examples=300, deadline=None)
@given(sources_strategy, st.lists(st.integers(0, 3), max_size=80), st.integers(1, 7))
def test_interleaving_and_speed_do_not_matter(raw: list[Source], order: list[int], every: int) -> None:
    sources = [absolute(source) for source in raw]
    assert play(sources, order, every) == play(sources, [], 1)


@settings(max_examples=300, deadline=None)
@given(sources_strategy, st.lists(st.integers(0, 3), max_size=80), st.none() | st.integers(9_000, 14_000))
def test_every_record_once_before_its_mark_and_marks_grow(raw: list[Source], order: list[int], floor: int | None) -> None:
    sources = [absolute(source) for source in raw]
    steps = play(sources, order, floor=floor)
    records = [item for step in steps for item in step.items]
    expected = [f"{r}/{i}/{n}" for r, source in enumerate(sources) for i, (_, count) in enumerate(source) for n in range(count)]
    assert sorted(records) == sorted(expected)
    for rank in range(len(sources)):  # each connection's records keep their order
        own = [item for item in records if item.startswith(f"{rank}/")]
        assert own == [item for item in expected if item.startswith(f"{rank}/")]
    marks = [step.time for step in steps if step.time is not None]
    assert marks == sorted(set(marks))
    assert all(mark % STEP == 0 for mark in marks)
    assert floor is None or all(mark > floor for mark in marks)
    if not marks or floor is not None:
        return
    covered = -1
    clocks: dict[str, int] = {}
    for rank, source in enumerate(sources):
        clock = 0
        for index, (time, _) in enumerate(source):
            clock = max(clock, time)
            clocks[f"{rank}/{index}"] = clock
    for step in steps:  # a record lies in the step of its connection's clock
        assert step.time is not None
        for item in step.items:
            assert covered < clocks[item.rsplit("/", 1)[0]] <= step.time
        covered = step.time
    # From the first mark on no instant is left out, up to the last one at or after the newest clock.
    last = max(clock for source in sources for clock, _ in source)
    end = -(-last // GRID) * GRID + LATENESS
    assert [mark for mark in marks if (mark - LATENESS) % GRID == 0] == [t for t in range(marks[0], end + 1) if (t - LATENESS) % GRID == 0]
    assert [step.time for step in steps if step.grid] == [mark for mark in marks if (mark - LATENESS) % GRID == 0]


def test_a_step_waits_for_the_slowest_connection() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    sequencer.join("b", 1)
    sequencer.advance("a", 10_100)
    sequencer.push("a", "a1")
    sequencer.advance("a", 10_900)
    assert sequencer.release() == []  # b has not been heard
    sequencer.advance("b", 10_200)
    sequencer.push("b", "b1")
    assert sequencer.waited_for() == ["b"]
    assert sequencer.release() == []
    sequencer.advance("b", 10_251)
    assert sequencer.release() == [Step(10_250, ["a1", "b1"])]


def test_a_suspended_connection_holds_nobody_up_and_goes_on_in_the_open_step() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    sequencer.join("b", 1)
    sequencer.advance("a", 10_100)
    sequencer.push("a", "a1")
    sequencer.advance("b", 10_100)
    sequencer.suspend("b")
    sequencer.advance("a", 10_700)
    sequencer.push("a", "a2")
    assert sequencer.release() == [Step(10_250, ["a1"]), Step(10_500, [], True)]
    sequencer.advance("b", 10_150)  # back, with something old
    sequencer.push("b", "b1")
    assert sequencer.release() == [Step(None, ["b1"])]
    sequencer.advance("a", 12_000)
    assert sequencer.waited_for() == ["b"]  # it counts again
    assert sequencer.release() == []
    sequencer.advance("b", 10_800)
    assert sequencer.release() == [Step(10_750, ["a2"])]


def test_a_record_of_a_connection_that_was_passed_before_anything_was_released_is_not_lost() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS)
    sequencer.join("a", 0)
    sequencer.join("b", 1)
    sequencer.advance("b", 10_010)
    sequencer.suspend("b")
    sequencer.advance("a", 10_900)
    assert sequencer.release() == []
    sequencer.advance("b", 10_020)
    sequencer.push("b", "b1")
    sequencer.leave("b")
    assert sequencer.release() == [Step(10_250, ["b1"]), Step(10_500, [], True)]


def test_only_a_connection_that_is_ahead_is_blocked() -> None:
    sequencer: Sequencer[int] = Sequencer(STEP, GRID, LATENESS, hold_limit=2)
    sequencer.join("ahead", 0)
    sequencer.join("behind", 1)
    for name in ("ahead", "behind"):
        sequencer.advance(name, 10_100)
        for number in range(5):
            sequencer.push(name, number)
    # Both are in the open step: blocking either would stop the merge for ever.
    assert not sequencer.blocked("ahead") and not sequencer.blocked("behind")
    sequencer.advance("ahead", 10_300)
    assert sequencer.blocked("ahead") and not sequencer.blocked("behind")
    sequencer.advance("behind", 10_400)
    sequencer.release()
    assert not sequencer.blocked("ahead")


def test_the_floor_of_an_earlier_run_is_never_passed_backwards() -> None:
    sequencer: Sequencer[str] = Sequencer(STEP, GRID, LATENESS, floor=20_000)
    sequencer.join("a", 0)
    sequencer.advance("a", 10_100)
    sequencer.push("a", "old")
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

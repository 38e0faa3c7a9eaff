"""Looking ahead in the progress log by one compiled call against its plain twin: ``MarkLog``, one mark after the other."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas.catalogue import ENGINE_INPUTS
from schemas.codec.avro import Codec
from schemas.codec.markreader import Mark, MarkReader
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.mark_lookahead import MarkLookahead
from stream_apps.core.log.marks import MarkLog
from stream_apps.core.log.steps import DECIDED, PANE, Steps, StepWriter, completed, steps_of

CODEC = Codec()
GRID, LATENESS, JUMP = 15_000, 250, 30 * 86_400_000
TOPICS = tuple(sorted(ENGINE_INPUTS))
T0 = 1_700_000_000_000 // GRID * GRID
INSTRUMENTS = {"a": np.array([3, 1]), "b": np.array([0, 2, 4]), "mute": np.array([9])}


def log_of(source: random.Random, n: int) -> RecordSet:
    """Marks of two venues and one without, in turns or in runs; of topics that are no inputs, too; some late, some far ahead."""
    times = dict.fromkeys(("a", "b", "mute"), T0)
    cut = {"agg_trades": 0, "quotes": 0, "quality": 0}
    author = "a"
    rows = []
    for row in range(n):
        author = source.choice("ab") if source.random() < 0.4 else author
        author = "mute" if source.random() < 0.05 else author
        times[author] += source.choice([250, 15_000, 15_000, 15_000, 40_000, -20_000, 600_000 if source.random() < 0.05 else 1_000])
        if source.random() < 0.005:
            times[author] += JUMP
        cut["agg_trades"] += source.choice([0, 0, 5, 40])
        cut["quality"] += source.randint(0, 3)
        if source.random() < 0.03:
            cut["quotes"] += 1
        named = {topic: cut[topic] for topic in source.sample(sorted(cut), source.choice([1, 3, 3]))}
        record = {
            "author": author,
            "venue": "" if author == "mute" else author.upper(),
            "event_time": times[author],
            "receive_time": 0,
            "cut": named,
        }
        rows.append((2 * row + 5, times[author], author.encode(), CODEC.encode("progress", record)))
    return RecordSet.from_messages(rows)


def plainly(marks: MarkLog, waiting: list[Mark], steps: list[Any], offsets: np.ndarray, at: int, most: int) -> list[int]:
    """Let marks pass in ``marks`` one by one, and append what they fire; return the number of steps after each."""
    fed, stop, after = int(offsets[-1]) + 1 if len(offsets) else 0, at, []
    for mark in waiting:
        due = marks.due(mark, GRID, LATENESS)
        if len(steps) >= most or mark.time > marks.times.get(mark.author, mark.time) + JUMP or len(due) > most - len(steps):
            break
        news, cut = marks.new_topics(mark), marks.cut_after(mark)
        if any(topic != "agg_trades" or cut[topic] > fed for topic in news):
            break
        if news:
            stop = max(stop, int(np.searchsorted(offsets, cut["agg_trades"])))
        steps += [(mark.author, mark.venue, mark.offset, pane, stop, mark.time, cut) for pane in due]
        marks.passed(mark, cut, GRID, LATENESS)
        after.append(len(steps))
    return after


def rows_of(steps: Steps) -> list[Any]:
    """Return steps as ``plainly`` has them; their stretches must be the instruments of their authors."""
    found = []
    for row, (first, last, pane, stop, time) in enumerate(steps.table.tolist()):
        author, venue = steps.names[int(steps.heads[row])]
        assert steps.members[first:last].tolist() == INSTRUMENTS[author].tolist()
        found.append((author, venue, int(steps.offsets[row]), pane, stop, time, steps.cut(row)))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_what_is_found_at_once_is_what_is_found_mark_by_mark(seed: int) -> None:
    source = random.Random(seed)
    records = log_of(source, 2_500)
    marks = MarkLog(frozenset(TOPICS))
    marks.waiting.extend(MarkReader(CODEC).read(records)[0])
    assert len(marks.waiting) == 2_500
    # What has been fed of the trades: offsets with holes, as compaction and transactions leave them.
    offsets = np.cumsum([source.choice([1, 1, 1, 2, 7]) for _ in range(60_000)])
    ahead, writer, stretches = (
        MarkLookahead(TOPICS, "agg_trades", GRID, LATENESS, JUMP),
        StepWriter(CODEC.header("worker_progress"), TOPICS),
        0,
    )
    while marks.waiting:
        mark = marks.waiting.first()
        cut, due = marks.cut_after(mark), marks.due(mark, GRID, LATENESS)
        if due:
            marks.fired.setdefault(mark.author, due.start - 1)
        marks.passed(mark, cut, GRID, LATENESS)
        marks.waiting.drop()
        steps = steps_of(mark, cut, due, INSTRUMENTS[mark.author], TOPICS)
        most = source.choice([1, 7, 256])
        if not due or not marks.waiting or len(due) >= most:
            continue
        block, begin = marks.waiting.front()
        waiting = [block.mark(i) for i in range(begin, len(block.offsets))]
        taken = int(np.searchsorted(offsets, cut.get("agg_trades", 0)))
        fed = offsets[: taken + source.choice([0, 3, 200, 5_000])] if source.random() < 0.9 else offsets[:0]
        taken = min(taken, len(fed))
        plain = MarkLog(marks.inputs, marks.merged, marks.fired.copy(), marks.times.copy(), marks.next_offset)
        wanted = rows_of(steps)
        after = plainly(plain, waiting, wanted, fed, taken, most)
        went = ahead.find_steps(steps, marks, fed, taken, most, INSTRUMENTS.__getitem__)
        assert rows_of(went.steps) == wanted and went.after.tolist() == after
        for value, (author, venue, offset, pane, _, time, at) in zip(
            writer.write(went.steps, GRID, went.steps.table[:, PANE] % 1000), wanted, strict=True
        ):
            record = {"author": author, "venue": venue, "event_time": pane * GRID, "receive_time": time, "progress_offset": offset, "cut": at,
                      "settings_revision": pane % 1000, "signals_offset": seed * 10**6}  # fmt: skip
            assert completed(value, seed * 10**6) == CODEC.encode("worker_progress", record)
        if after:
            stretches += 1
            ahead.pass_on(marks, went)
            assert replace(marks, waiting=plain.waiting) == plain and list(marks.merged) == sorted(marks.merged)
    assert stretches > 50


@pytest.mark.parametrize("time", [-(2**63), -1, 2**63 - 1])
def test_a_mark_of_a_nonsensical_time_is_left_to_the_plain_way(time: int) -> None:
    rows = [("a", T0), ("a", T0 + 20_000), ("a" if time > 0 else "b", time), ("a", T0 + 40_000)]
    values = [CODEC.encode("progress", {"author": a, "venue": "V", "event_time": t, "receive_time": 0, "cut": {}}) for a, t in rows]
    marks = MarkLog(frozenset(TOPICS))
    marks.waiting.extend(MarkReader(CODEC).read(RecordSet.from_messages([(n, 0, b"k", value) for n, value in enumerate(values)]))[0])
    mark = marks.waiting.first()
    marks.passed(mark, {}, GRID, LATENESS)
    marks.waiting.drop()
    steps = steps_of(mark, {}, range(5, 6), INSTRUMENTS["a"], TOPICS)
    went = MarkLookahead(TOPICS, "agg_trades", GRID, LATENESS, JUMP).find_steps(
        steps, marks, np.empty(0, dtype=np.int64), 0, 9, INSTRUMENTS.__getitem__
    )
    assert went.after.tolist() == [3]  # of the second mark alone: two instants behind the one that was there


def test_a_step_of_all_topics_is_written_as_the_codec_writes_it() -> None:
    for number in (1, 63, 64, 2**31, 2**62):
        cut = dict.fromkeys(TOPICS, number)
        for at in ({}, cut):
            steps = steps_of(Mark(number, "ü" * 200, "", number, {}), at, range(5, 7), np.array([1, 2]), TOPICS)
            assert steps.table[:, [PANE, DECIDED]].tolist() == [[5, number], [6, number]]
            written = StepWriter(CODEC.header("worker_progress"), TOPICS).write(steps, GRID, np.array([0, 300]))
            for value, pane, revision in zip(written, (5, 6), (0, 300), strict=True):
                record = {"author": "ü" * 200, "venue": "", "event_time": pane * GRID, "receive_time": number, "progress_offset": number, "cut": at,
                          "settings_revision": revision, "signals_offset": 7}  # fmt: skip
                assert completed(value, 7) == CODEC.encode("worker_progress", record)

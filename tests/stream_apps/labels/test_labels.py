"""Labels of evaluations equal a plain walk over the log, live as in replay, whatever is cut, late, missing or killed."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_apps.core.labels.path_kernel import BLOCK, index_blocks, outcome
from stream_apps.core.labels.records import REASONS
from stream_apps.core.log.checkpoint import ChangelogDamaged
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.strategy import StrategyConfig
from tests.support.markets.logs import CODEC, Log, decoded, run

NAME = "BINANCE:LTCUSDT-PERP"
GRID = 60_000
START = 1_749_945_600_000
PANES = 155  # the ATR needs 75 of them, a label 60
CONFIG = EngineConfig(grid_ms=GRID, lateness_ms=250)
STRATEGY = StrategyConfig(strategy_id="s", instrument=NAME, display_name="s")
Mark = tuple[int, float, int]  # event time, price, time at which it reaches the log


def walk(seed: int, step: float = 0.02, every: int = 4_000, holes: tuple[tuple[int, int], ...] = (), late: int = 0) -> list[Mark]:
    """Mark prices in steps of ``every`` ms; none in ``holes``; ``late`` of them up to twenty minutes late."""
    source, price, found = random.Random(seed), 100.0, []
    for time in range(1, PANES * GRID, every):
        price = round(max(50.0, price + source.uniform(-step, step)), 4)
        if not any(first <= time < last for first, last in holes):
            found.append((START + time, price, START + time))
    for n in source.sample(range(len(found)), min(late, len(found))):
        found[n] = (found[n][0], found[n][1], found[n][0] + source.randrange(1_200_000))
    return found


def log_of(marks: list[Mark], panes: int = PANES, seed: int = 1, revision: SettingsRevision | None = None) -> Log:
    """A log with trades in every pane (which give the ATR) and the mark prices."""
    source, log = random.Random(seed), Log(grid=GRID)
    log.instrument(NAME)
    if revision is not None:
        log.append("engine_settings", revision.to_record(), key=revision.settings_id)
        log.mark(START, "engine_settings", "", {"engine_settings": 1})
    log.strategy({**STRATEGY.to_record(), "event_time": 1, "receive_time": 1})
    waiting = sorted(marks, key=lambda mark: mark[2])
    at = number = 0
    for pane in range(panes):
        due = START + (pane + 1) * GRID + 250
        for second in (1, 30, 59):
            price = round(100 + source.uniform(-0.2, 0.2), 2)
            log.trade(START + pane * GRID + second * 1_000, number, price, 1.0, bool(number % 2), NAME)
            number += 1
        while at < len(waiting) and waiting[at][2] <= due:
            time, price, _ = waiting[at]
            log.append("funding", {
                "instrument": NAME, "event_time": time, "receive_time": time, "mark_price": price, "index_price": None,
                "estimated_settle_price": None, "estimated_rate": None, "settled_rate": None, "next_funding_time": None,
                "interval_hours": None, "schedule_source": None,
            })  # fmt: skip
            at += 1
        log.mark(due)
    return log


def plain(marks: list[Mark], instant: int, atr: float | None) -> dict[str, Any]:
    """The label of an evaluation by a walk over what the log held when it was due."""
    due = instant + 3_600_000 + 250
    path = [(time, price) for time, price, arrival in sorted(marks, key=lambda mark: (mark[0], mark[2])) if arrival <= due]

    def known(at: int) -> float | None:
        before = [(time, price) for time, price in path if time <= at]
        return before[-1][1] if before and at - before[-1][0] <= 5_000 else None

    entry = known(instant)
    found: dict[str, Any] = {"entry": entry, "atr": atr}
    for minutes in (15, 30, 60):
        price = known(instant + minutes * 60_000)
        for side, sign in (("long", 1), ("short", -1)):
            found[f"{side}_return_{minutes}m"] = None if price is None or entry is None else sign * (price / entry - 1) - 0.001
    for side, sign in (("long", 1), ("short", -1)):
        for minutes in (30, 60):
            found[f"{side}_binary_{minutes}m"] = None if entry is None or atr is None else touch(path, instant, minutes, sign, entry, atr)
        best = None if entry is None or atr is None else extremes(path, instant, sign, entry, atr)
        found[f"{side}_mfe_r_60m"], found[f"{side}_mae_r_60m"] = best or (None, None)
    if entry is None:
        found["reason"] = "no_mark_price"
    elif atr is None:
        found["reason"] = "no_atr"
    else:
        found["reason"] = "mark_price_gap" if None in found.values() else None
    return found


def touch(path: list[tuple[int, float]], instant: int, minutes: int, sign: int, entry: float, atr: float) -> int | None:
    last, until = instant, instant + minutes * 60_000
    for time, price in path:
        if instant < time <= until:
            if time - last > 5_000:
                return None
            last = time
            if sign * (price - entry) >= 2 * atr:
                return 1
            if sign * (price - entry) <= -atr:
                return 0
    return 0 if until - last <= 5_000 else None


def extremes(path: list[tuple[int, float]], instant: int, sign: int, entry: float, atr: float) -> tuple[float, float] | None:
    inside = [(time, price) for time, price in path if instant < time <= instant + 3_600_000]
    times = [instant, *(time for time, _ in inside), instant + 3_600_000]
    if any(b - a > 5_000 for a, b in pairwise(times)):
        return None
    moves = [0.0, *(sign * (price - entry) / atr for _, price in inside)]
    return max(moves), -min(moves)


def check(log: Log, marks: list[Mark]) -> list[dict[str, Any]]:
    outputs, _ = run(log, CONFIG)
    labels = decoded(outputs, "labels")
    scores = {score["event_time"]: score for score in decoded(outputs, "scores")}
    last = max(scores)
    assert [label["evaluated_at"] for label in labels] == [time for time in sorted(scores) if time + 3_600_000 <= last]
    for label in labels:
        wanted = plain(marks, label["evaluated_at"], scores[label["evaluated_at"]]["atr"])
        assert label["event_time"] == label["evaluated_at"] + 3_600_000 and label["receive_time"] == label["event_time"] + 250
        for name, value in wanted.items():
            assert label[name] == (value if not isinstance(value, float) else pytest.approx(value, abs=1e-12)), (name, label)
    return labels


def test_every_evaluation_is_labelled_as_a_plain_walk_over_the_log_says() -> None:
    marks = walk(3, step=0.06)
    labels = check(log_of(marks), marks)
    assert len(labels) > 80 and {label["reason"] for label in labels} == {None, "no_atr"} and labels[-1]["reason"] is None
    sides = {label[f"{side}_binary_60m"] for label in labels if label["atr"] for side in ("long", "short")}
    assert sides == {0, 1}


@pytest.mark.parametrize(
    ("holes", "reasons"),
    [
        (((0, PANES * GRID),), {"no_mark_price"}),
        (((100 * 60_000, 100 * 60_000 + 9_000),), {"mark_price_gap", "no_atr", None}),
        (((84 * 60_000 - 20_000, 86 * 60_000 + 20_000),), {"no_mark_price", "mark_price_gap", "no_atr", None}),
    ],
)
def test_a_missing_mark_price_gives_null_and_the_reason(holes: tuple[tuple[int, int], ...], reasons: set[str | None]) -> None:
    marks = walk(5, step=0.002, holes=holes)
    labels = check(log_of(marks), marks)
    found = {label["reason"] for label in labels}
    assert found <= reasons and found >= reasons - {None, "no_atr"} and found <= set(REASONS)
    for label in labels:
        empty = [name for name, value in label.items() if value is None and name != "reason"]
        assert bool(empty) == (label["reason"] is not None)


def test_a_late_mark_price_counts_when_it_came_before_the_label_was_due() -> None:
    marks = walk(7, late=150)
    assert check(log_of(marks), marks) != check(log_of([mark for mark in marks if mark[0] == mark[2]]), [m for m in marks if m[0] == m[2]])


_point = st.tuples(st.integers(1, PANES * GRID - 1), st.floats(95, 105), st.integers(0, 400_000))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_point, max_size=60, unique_by=lambda point: point[0]), st.integers(0, 100))
def test_random_paths(points: list[tuple[int, float, int]], seed: int) -> None:
    jumps = {START + time: price for time, price, _ in points}
    kept = [mark for mark in walk(seed, every=4_000) if mark[0] not in jumps]
    marks = [*kept, *((START + time, price, START + time + late) for time, price, late in points)]
    check(log_of(marks), marks)


@pytest.mark.parametrize("seed", range(6))
def test_labels_do_not_depend_on_cuts_and_kills(seed: int) -> None:
    log = log_of(walk(11, late=200, holes=((100 * 60_000, 100 * 60_000 + 7_000),)))
    plain_run, _ = run(log, CONFIG)
    cut, _ = run(log, CONFIG, seed=seed, size=300)
    assert [output[:4] for output in cut] == [output[:4] for output in plain_run]
    killed, _ = run(log, CONFIG, seed=seed, restart_every=4, size=300)
    wanted = [output[:4] for output in plain_run if output.topic == "labels"]
    found = list(dict.fromkeys(output[:4] for output in killed if output.topic == "labels"))
    assert found == wanted and len(wanted) > 10


def test_nothing_after_a_time_changes_what_was_labelled_before() -> None:
    marks = walk(13)
    cut = START + 148 * GRID
    future = [(time, price if time <= cut else price * 1.5, arrival) for time, price, arrival in marks]
    here, there = (decoded(run(log_of(path), CONFIG)[0], "labels") for path in (marks, future))
    before = [label for label in here if label["event_time"] <= cut]
    assert before and before == [label for label in there if label["event_time"] <= cut] and here != there


def test_a_lost_pane_is_found_at_the_start() -> None:
    _, engine = run(log_of(walk(17)), CONFIG)
    entries = {key: value for key, value in engine.checkpoint() if value is not None}
    lost = next(key for key in sorted(entries) if key.startswith(b"l"))
    SignalsEngine.restore(0, CONFIG, CODEC, entries.items())
    with pytest.raises(ChangelogDamaged, match="mark prices"):
        SignalsEngine.restore(0, CONFIG, CODEC, [(key, value) for key, value in entries.items() if key != lost])


def test_records_are_written_as_the_codec_writes_them() -> None:
    outputs, _ = run(log_of(walk(19, holes=((84 * 60_000, 90 * 60_000),))), CONFIG)
    values = [output.value for output in outputs if output.topic == "labels"]
    assert values and values == [CODEC.encode("labels", CODEC.decode("labels", value)) for value in values]


def test_a_revision_of_distances_and_cost_holds_for_labels_due_from_its_instant_on() -> None:
    begins = START + 140 * GRID
    numbers = {"label_target_atr": 3.0, "label_stop_atr": 0.5, "label_cost": 0.002}
    log = log_of(walk(23), revision=SettingsRevision("signals", 1, numbers, event_time=1, receive_time=1, effective_time=begins))
    plain_run, _ = run(log, CONFIG)
    usual, labels = decoded(run(log_of(walk(23)), CONFIG)[0], "labels"), decoded(plain_run, "labels")
    assert len(labels) == len(usual) and {label["cost"] for label in labels} == {0.001, 0.002}
    for before, label in zip(usual, labels, strict=True):
        if label["event_time"] < begins:
            assert label == before
            continue
        assert {f"label_{name}": label[name] for name in ("target_atr", "stop_atr", "cost")} == numbers
        assert label["long_return_60m"] == pytest.approx(before["long_return_60m"] - 0.001, abs=1e-12)
        assert before["atr"] is None or label["long_mfe_r_60m"] == pytest.approx(2 * before["long_mfe_r_60m"], abs=1e-9)
    for seed in range(3):
        assert [output[:4] for output in run(log, CONFIG, seed=seed, size=300)[0]] == [output[:4] for output in plain_run]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 1_500), st.integers(0, 1_500), st.sampled_from([0.0, 0.3, 3.0]), st.integers(0, 30))
def test_the_index_of_a_path_changes_no_label(seed: int, n: int, start: int, target: float, indexed: int) -> None:
    source = np.random.default_rng(seed)
    times = np.cumsum(source.choice([0, 1_000, 4_000, 5_000, 5_001], n, p=[0.1, 0.7, 0.1, 0.0999, 0.0001]))
    prices = 100 + np.cumsum(source.normal(0, 0.05, n))
    returns, binary_ms = np.array([900_000, 3_600_000]), np.array([1_800_000, 3_600_000])
    blocks = np.empty((n // BLOCK, 3))
    index_blocks(times, prices, n, 0, blocks)
    found = []
    for n_blocks in (0, min(indexed, len(blocks)), len(blocks)):
        moves, binary, excursion = np.empty(2), np.empty((2, 2), dtype=np.int64), np.empty(2)
        entry = outcome(
            times, prices, n, blocks, n_blocks, int(times[min(start, n - 1)]), target or np.nan, target / 2 or np.nan, returns, binary_ms,
            3_600_000, 5_000, moves, binary, excursion,
        )  # fmt: skip
        found.append((entry, moves, binary, excursion))
    for one in found[1:]:
        for ours, walked in zip(one, found[0], strict=True):
            np.testing.assert_array_equal(ours, walked)

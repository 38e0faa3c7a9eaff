"""Labels by the order of touch, splits that keep the future out, and what the best of many trials is worth: against brute force and published figures."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.labels.rules import MINUTE_MS, LabelRules
from stream_apps.core.performance.daily import sharpe_of, sharpe_probability
from stream_apps.research.labels import MarkPath, labels_of, net_label
from stream_apps.research.splits import DAY_MS, purged_k_fold, walk_forward
from stream_apps.research.trials import deflated_sharpe, expected_best_sharpe, false_discovery_control

T = 1_750_000_000_000


def signal(direction: str = "LONG", atr: float = 1.0) -> dict[str, Any]:
    return {"event_time": T, "direction": direction, "atr": atr}


def path(moves: dict[int, float], seconds: int = 3_700) -> MarkPath:
    """A mark every second from one second before T: 100, and from second s on 100 + move."""
    times, prices, level = [], [], 100.0
    for second in range(-1, seconds):
        level = 100.0 + moves[second] if second in moves else level
        times.append(T + second * 1000)
        prices.append(level)
    return MarkPath(times, prices)


def test_the_order_of_touch_decides() -> None:
    first = labels_of(path({100: 2.0, 200: -1.0}), signal())
    assert first.binary == {30: 1, 60: 1} and (first.mfe_r, first.mae_r) == (2.0, 1.0)
    assert labels_of(path({100: -1.0, 200: 2.0}), signal()).binary == {30: 0, 60: 0}
    assert labels_of(path({2_400: 2.5}), signal()).binary == {30: 0, 60: 1}  # after the half hour
    assert labels_of(path({100: 1.99, 200: -0.99}), signal()).binary == {30: 0, 60: 0}  # neither
    assert labels_of(path({100: -2.0, 200: 1.0}), signal("SHORT")).binary == {30: 1, 60: 1}
    assert labels_of(path({100: 1.0, 200: -2.0}), signal("SHORT")).binary == {30: 0, 60: 0}
    # The price at the evaluation is the entry; what is there at that very moment is no touch.
    assert labels_of(path({0: 5.0}), signal()).entry == 105.0


def test_returns_are_net_and_of_the_mark_at_the_horizon() -> None:
    found = labels_of(path({899: 1.0, 1_800: -2.0, 3_601: 50.0}), signal())
    assert found.returns == pytest.approx({15: 0.01 - 0.001, 30: -0.02 - 0.001, 60: -0.02 - 0.001})
    assert labels_of(path({899: 1.0}), signal("SHORT")).returns[15] == pytest.approx(-0.01 - 0.001)


def test_what_the_path_does_not_tell_is_none() -> None:
    short = labels_of(path({100: 0.5}, seconds=1_000), signal())
    assert short.binary == {30: None, 60: None} and short.mfe_r is None and short.mae_r is None
    assert short.returns[15] == pytest.approx(0.005 - 0.001) and short.returns[30] is None
    # Decided before the silence: the silence does not matter.
    assert labels_of(path({100: 2.0}, seconds=1_000), signal()).binary == {30: 1, 60: 1}
    assert labels_of(path({100: -1.0}, seconds=1_000), signal()).binary == {30: 0, 60: 0}
    # A hole of six seconds: what would have been touched in it is not known.
    whole = path({200: 3.0})
    kept = [n for n, time in enumerate(whole.times.tolist()) if not T + 100_000 < time < T + 106_000]
    holed = MarkPath(whole.times[kept], whole.prices[kept])
    assert labels_of(holed, signal()).binary == {30: None, 60: None}
    assert labels_of(holed, signal(), LabelRules(stale_ms=6_000)).binary == {30: 1, 60: 1}
    nothing = labels_of(MarkPath([], []), signal())
    assert nothing.entry is None and set(nothing.binary.values()) == set(nothing.returns.values()) == {None}
    old = MarkPath([T - 5_001], [100.0])
    assert labels_of(old, signal()).entry is None and MarkPath([T - 5_000], [100.0]).at(T, 5_000) == 100.0


@given(st.lists(st.tuples(st.integers(1, 4_000), st.floats(90, 110)), min_size=1, max_size=60), st.sampled_from(["LONG", "SHORT"]))
def test_labels_equal_a_walk_over_the_path(made: list[tuple[int, float]], direction: str) -> None:
    points = sorted({T: 100.0, **{T + second * 1000: price for second, price in made}}.items())
    rules = LabelRules(stale_ms=10**9)
    found = labels_of(MarkPath([time for time, _ in points], [price for _, price in points]), signal(direction, 1.5), rules)
    sign = 1 if direction == "LONG" else -1
    for minutes in (30, 60):
        wanted = 0
        for time, price in points[1:]:
            if time > T + minutes * MINUTE_MS:
                break
            move = sign * (price - 100.0)
            if move >= 3.0:
                wanted = 1
            if move >= 3.0 or move <= -1.5:
                break
        assert found.binary[minutes] == wanted
    inside = [0.0, *(sign * (price - 100.0) / 1.5 for time, price in points[1:] if time <= T + 3_600_000)]
    assert found.mfe_r == pytest.approx(max(inside)) and found.mae_r == pytest.approx(-min(inside))


def test_a_path_comes_from_funding_records_and_refuses_what_is_none() -> None:
    rows = [{"event_time": T + 1, "mark_price": 2.0}, {"event_time": T, "mark_price": 1.0}, {"event_time": T + 2, "mark_price": None}]
    assert MarkPath.of(rows).prices.tolist() == [1.0, 2.0]
    for times, prices, named in (
        ([2, 1], [1.0, 1.0], "times"),
        ([1], [1.0, 2.0], "prices"),
        ([1], [math.nan], "prices"),
        ([1], [0.0], "prices"),
    ):
        with pytest.raises(ValueError, match=named):
            MarkPath(times, prices)
    with pytest.raises(ValueError, match="stop_atr"):
        LabelRules(stop_atr=0.0)


def test_net_labels() -> None:
    assert [net_label(pnl, 1.0, 2.0, 1_000.0) for pnl in (8.0, 7.99, -2.0, -1.99)] == ["pos", "neutral", "neg", "neutral"]
    assert net_label(0.0, 0.0, -5.0, 1_000.0) == "pos"  # funding received
    with pytest.raises(ValueError, match="margin"):
        net_label(1.0, 0.0, 0.0, 0.0)


def test_walk_forward_of_the_specification() -> None:
    splits = walk_forward(0, 60 * DAY_MS)
    assert [(s.train.begin // DAY_MS, s.train.end // DAY_MS, s.test.begin // DAY_MS, s.test.end // DAY_MS) for s in splits] == [
        (0, 30, 30, 37), (7, 37, 37, 44), (14, 44, 44, 51), (21, 51, 51, 58),
    ]  # fmt: skip
    assert walk_forward(0, 37 * DAY_MS - 1) == []
    assert {s.train.begin for s in walk_forward(0, 60 * DAY_MS, anchored=True)} == {0}


@given(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 90), st.integers(1, 40), st.integers(0, 20))
def test_a_test_lies_after_its_training_and_tests_do_not_overlap(since: int, length: int, train: int, step: int, embargo: int) -> None:
    splits = walk_forward(since, since + length, train, step, embargo_ms=embargo)
    for split in splits:
        assert split.train.end + embargo == split.test.begin and split.train.begin >= since and split.test.end <= since + length
        assert split.train.end - split.train.begin == train and split.test.end - split.test.begin == step
    assert all(a.test.end == b.test.begin for a, b in pairwise(splits))
    assert len(splits) == max(0, (length - train - embargo) // step)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), min_size=2, max_size=40), st.integers(2, 6), st.integers(0, 20))
def test_purged_folds_share_no_moment(made: list[tuple[int, int]], folds: int, embargo: int) -> None:
    spans = [(begin, begin + length) for begin, length in made]
    folds = min(folds, len(spans))
    seen: list[int] = []
    for train, test in purged_k_fold(spans, folds, embargo):
        seen += test
        covered = range(min(spans[s][0] for s in test), max(spans[s][1] for s in test) + 1)
        # By brute force over every moment: a sample trains exactly when no moment of it is covered and it does not begin within the embargo.
        for sample, (begin, end) in enumerate(spans):
            touches = any(moment in covered for moment in range(begin, end + 1)) or covered.stop <= begin <= covered.stop - 1 + embargo
            assert (sample in train) == (sample not in test and not touches)
    assert sorted(seen) == list(range(len(spans)))


def test_splits_refuse_what_cannot_be() -> None:
    for arguments, named in (({"train_ms": 0}, "train_ms"), ({"step_ms": 5, "test_ms": 6}, "test_ms"), ({"embargo_ms": -1}, "embargo_ms")):
        with pytest.raises(ValueError, match=named):
            walk_forward(0, 100, **arguments)
    for spans, folds, embargo, named in (
        ([(0, 1)], 2, 0, "folds"),
        ([(0, 1), (3, 2)], 2, 0, "spans"),
        ([(0, 1), (1, 2)], 2, -1, "embargo_ms"),
    ):
        with pytest.raises(ValueError, match=named):
            list(purged_k_fold(spans, folds, embargo))


def test_the_published_example_of_the_deflated_sharpe_ratio() -> None:
    # Bailey and Lopez de Prado (2014), "A numerical example": 100 trials of variance 1/2 a year, 1,250 days, annual ratio 2.5, skewness -3, kurtosis 10.
    benchmark = expected_best_sharpe(100, 0.5 / 250)
    assert benchmark == pytest.approx(0.1132, abs=5e-5)
    assert sharpe_probability(2.5 / math.sqrt(250), 1_250, -3.0, 10.0, benchmark) == pytest.approx(0.9004, abs=5e-5)
    # With 46 trials it would have passed at 95 %.
    assert sharpe_probability(2.5 / math.sqrt(250), 1_250, -3.0, 10.0, expected_best_sharpe(46, 0.5 / 250)) == pytest.approx(
        0.9505, abs=5e-4
    )


def test_the_best_of_many_without_an_edge_is_not_believed() -> None:
    source = random.Random(7)
    believed_by_itself = believed = 0
    for _ in range(60):
        trials = [[source.gauss(0, 0.01) for _ in range(250)] for _ in range(20)]
        ratios = [sharpe_of(returns) for returns in trials]
        best = max(range(20), key=ratios.__getitem__)
        found = deflated_sharpe(trials[best], ratios)
        assert found is not None
        believed += found > 0.95
        believed_by_itself += sharpe_probability(ratios[best], 250, 0.0, 3.0) > 0.95
    assert believed <= 60 * 0.05 < 30 < believed_by_itself
    edge = [source.gauss(0.003, 0.01) for _ in range(250)]
    ratios = [sharpe_of(edge), *(sharpe_of([source.gauss(0, 0.01) for _ in range(250)]) for _ in range(19))]
    found = deflated_sharpe(edge, ratios)
    assert found is not None and found > 0.95
    assert deflated_sharpe([0.01, 0.01], [0.1]) is None and deflated_sharpe(edge[:1], [0.1]) is None
    with pytest.raises(ValueError, match="trial_sharpes"):
        deflated_sharpe(edge, [])


def test_false_discoveries_are_controlled() -> None:
    # The example of Benjamini and Hochberg (1995), section 4.1: at 0.05 the first four of fifteen.
    values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert false_discovery_control(values, 0.05) == [True] * 4 + [False] * 11
    shuffled = random.Random(1).sample(values, len(values))
    assert [value for value, taken in zip(shuffled, false_discovery_control(shuffled, 0.05), strict=True) if taken] == [
        v for v in shuffled if v < 0.01
    ]
    assert false_discovery_control([], 0.1) == [] and false_discovery_control([0.9], 0.1) == [False]
    source = random.Random(3)
    false = sum(any(false_discovery_control([source.random() for _ in range(30)], 0.1)) for _ in range(1_000))
    assert false <= 1_000 * 0.1 + 3 * math.sqrt(1_000 * 0.09)
    for p_values, rate, named in (([0.5], 0.0, "rate"), ([1.5], 0.1, "p_values")):
        with pytest.raises(ValueError, match=named):
            false_discovery_control(p_values, rate)

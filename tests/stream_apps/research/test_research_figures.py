"""Figures of research against scipy, statsmodels and plain recomputation: bootstrap, false discoveries, cost gate, information coefficients, net labels."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.api import OLS, add_constant
from statsmodels.stats.multitest import multipletests

from stream_apps.research.bootstrap import _places, mean_of
from stream_apps.research.cost_gate import FAILS, NOT_SHOWN, PASSES, TOO_FEW, cost_gate
from stream_apps.research.information import coefficient, forward_returns, importance, newey_west_t, rank_correlation, ranks
from stream_apps.research.labels import HOUR_MS, MarkPath, net_labels
from stream_apps.research.splits import purged_folds
from stream_apps.research.trials import false_discovery_control

# --- bootstrap ---------------------------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_the_t_test_where_that_is_right() -> None:
    source = np.random.default_rng(1)
    for shift in (0.0, 0.15, 0.4):
        sample = source.normal(shift, 1.0, 80)
        found = mean_of(sample, 0.9, block=1.0, resamples=20_000)
        assert found is not None and found.low is not None and found.high is not None and found.p is not None
        wanted = stats.ttest_1samp(sample, 0.0, alternative="greater")
        low, high = stats.ttest_1samp(sample, 0.0).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
        assert found.p == pytest.approx(wanted.pvalue, abs=0.015)


def test_intervals_hold_the_truth_as_often_as_they_say_also_when_results_are_skewed_or_depend_on_each_other() -> None:
    source = np.random.default_rng(2)
    held = {"skewed": 0, "dependent": 0, "dependent, taken as independent": 0}
    runs = 300
    for _ in range(runs):
        skewed = np.where(source.random(60) < 0.3, 2.0, -1.0)  # stops and targets: mean -0.1
        dependent = np.zeros(150)
        for place in range(1, 150):
            dependent[place] = 0.5 * dependent[place - 1] + source.normal()
        for name, sample, truth, block in (
            ("skewed", skewed, -0.1, 1.0),
            ("dependent", dependent, 0.0, 8.0),
            ("dependent, taken as independent", dependent, 0.0, 1.0),
        ):
            found = mean_of(sample, 0.9, block=block, resamples=400)
            assert found is not None and found.low is not None and found.high is not None
            held[name] += found.low <= truth <= found.high
    # Three standard errors of 300 runs are five points. Blocks of a short series know not all of its dependence.
    assert 0.85 <= held["skewed"] / runs <= 0.95
    assert 0.79 <= held["dependent"] / runs <= 0.95
    assert held["dependent, taken as independent"] / runs < 0.75


def test_blocks_have_the_length_that_was_asked_for_and_every_value_its_turn() -> None:
    places = _places(np.random.default_rng(3), (400, 500), 10.0)
    follows = np.diff(places, axis=1) % 500 == 1
    assert follows.mean() == pytest.approx(0.9, abs=0.01)
    assert np.bincount(places.ravel(), minlength=500).std() / 400 < 0.12
    assert mean_of([]) is None
    for one in ([1.0], [2.0, 2.0, 2.0]):
        found = mean_of(one)
        assert found is not None and (found.mean, found.low, found.high, found.p) == (one[0], None, None, None)
    assert mean_of([1.0, 2.0, 4.0]) == mean_of([1.0, 2.0, 4.0])
    few = mean_of([1.0, 2.0])  # half of its resamples have no spread: they bound nothing
    assert few is not None and (few.low, few.high) == (None, None)
    for bad, named in (({"confidence": 1.0}, "confidence"), ({"block": 0.5}, "block")):
        with pytest.raises(ValueError, match=named):
            mean_of([1.0, 2.0], **bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.5))
def test_false_discovery_control_is_that_of_statsmodels(p_values: list[float], rate: float) -> None:
    found = false_discovery_control(p_values, rate)
    wanted = multipletests(p_values, rate, method="fdr_bh")[0].tolist()
    ordered = sorted(p_values)
    # On the very edge one or the other rounds.
    if all(abs(value - place * rate / len(ordered)) > 1e-12 for place, value in enumerate(ordered, 1)):
        assert found == wanted


# --- cost gate ---------------------------------------------------------------------------------------------------------


def trades(edge: float, cost: float, count: int, seed: int = 5) -> list[dict[str, float]]:
    source = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        gross = source.normal(edge, 1.0) - 0.02
        rows.append({"gross_r": gross, "slippage_r": 0.02, "fee_r": cost, "funding_r": 0.01 * source.normal()})
    return rows


def test_the_cost_gate() -> None:
    for edge, cost, verdict in ((0.5, 0.2, PASSES), (0.5, 1.0, FAILS), (0.5, 0.48, NOT_SHOWN)):
        rows = trades(edge, cost, 400)
        found = cost_gate(rows)
        assert found.verdict == verdict
        net = [row["gross_r"] - row["fee_r"] - row["funding_r"] for row in rows]
        assert found.net is not None and found.edge is not None and found.cost is not None
        assert found.net.mean == pytest.approx(float(np.mean(net))) and found.edge - found.cost == pytest.approx(found.net.mean)
        assert found.share == pytest.approx(found.cost / found.edge)
        if verdict != NOT_SHOWN:
            side = "greater" if verdict == PASSES else "less"
            assert stats.ttest_1samp(net, 0.0, alternative=side).pvalue < 0.05
    assert cost_gate(trades(0.5, 0.0, 29)).verdict == TOO_FEW and cost_gate([]).verdict == TOO_FEW
    with pytest.raises(ValueError, match="confidence"):
        cost_gate(trades(0.5, 0.0, 40), 0.4)


# --- information -------------------------------------------------------------------------------------------------------

floats = st.one_of(st.floats(-5, 5).map(lambda value: round(value, 1)), st.just(math.nan))


@given(st.lists(st.tuples(floats, floats), min_size=3, max_size=60))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    both = np.isfinite(x) & np.isfinite(y)
    assert ranks(x[both]).tolist() == stats.rankdata(x[both]).tolist()
    found = rank_correlation(x, y)
    if found is None:
        assert both.sum() < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0
    else:
        assert found == pytest.approx(stats.spearmanr(x[both], y[both]).statistic, abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 12))
def test_errors_are_those_of_newey_and_west_as_statsmodels_has_them(seed: int, lags: int) -> None:
    source = np.random.default_rng(seed)
    x = np.cumsum(source.normal(size=120))
    y = 0.1 * x + np.convolve(source.normal(size=130), np.ones(11), "valid")
    wanted = OLS(y, add_constant(x)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}).tvalues[1]
    assert newey_west_t(x, y, lags) == pytest.approx(wanted, rel=1e-8)


def test_forward_returns_equal_a_walk() -> None:
    source = np.random.default_rng(4)
    times = np.cumsum(source.choice([15_000, 15_000, 15_000, 90_000], 300)).astype(np.int64)
    prices = np.where(source.random(300) < 0.1, np.nan, 100 + source.normal(size=300))
    found = forward_returns(times, prices, 60_000, 30_000)
    for place, time in enumerate(times.tolist()):
        later = [
            (at, price) for at, price in zip(times.tolist(), prices.tolist(), strict=True) if time < at <= time + 60_000 and price == price
        ]
        known = prices[place] == prices[place] and later and time + 60_000 - later[-1][0] <= 30_000
        assert found[place] == pytest.approx(later[-1][1] / prices[place] - 1) if known else math.isnan(found[place])
    assert np.isnan(forward_returns(times, np.full(300, np.nan), 60_000, 30_000)).all()


def made(seed: int, edge: float, count: int = 3_000) -> tuple[Any, dict[str, Any], Any]:
    """Slow features, one of which is followed by the price when ``edge`` is not zero; returns over 20 steps overlap."""
    source = np.random.default_rng(seed)
    times = np.arange(count, dtype=np.int64) * 15_000 + 1_760_000_000_000

    def slow() -> Any:
        return np.convolve(source.normal(size=count + 99), np.ones(100) / 10, "valid")

    features = {"knows": slow(), "nothing": slow(), "noise": source.normal(size=count)}
    prices = 100 * np.exp(np.cumsum(1e-4 * (source.normal(size=count) + edge * np.concatenate([[0], features["knows"][:-1]]))))
    return times, features, prices


def test_what_a_feature_knows_is_found_and_overlap_is_not_taken_for_knowledge() -> None:
    horizon, grid = 300_000, 15_000
    times, features, prices = made(1, 0.3)
    returns = forward_returns(times, prices, horizon, grid)
    knows = coefficient("knows", times, features["knows"], returns, horizon, grid, 3_600_000)
    assert knows.ic is not None and knows.ic > 0.3 and knows.p is not None and knows.p < 1e-6 and knows.ir is not None and knows.ir > 0.5
    assert knows.blocks >= 12 and knows.same_sign is not None and knows.same_sign > 0.8
    model = importance(times, features, returns, horizon, embargo_ms=horizon, folds=4)
    assert model.score is not None and model.score > 0.2 and model.importances[0].feature == "knows"
    assert all(abs(one.drop) < 0.05 for one in model.importances[1:])

    naive = honest = 0
    scores = []
    for seed in range(60):
        times, features, prices = made(1_000 + seed, 0.0)
        returns = forward_returns(times, prices, horizon, grid)
        both = np.isfinite(returns)
        naive += stats.spearmanr(features["knows"][both], returns[both]).pvalue < 0.05
        found = coefficient("knows", times, features["knows"], returns, horizon, grid, 3_600_000)
        honest += found.p is not None and found.p < 0.05
        if seed < 8:
            scores.append(importance(times, features, returns, horizon, embargo_ms=horizon, folds=4, repeats=1).score or 0.0)
    assert naive > 30 and honest <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95) + 3
    assert abs(float(np.mean(scores))) < 0.08


def test_the_model_of_a_fold_sees_nothing_of_its_test() -> None:
    times, features, prices = made(3, 0.3, 1_200)
    returns = forward_returns(times, prices, 300_000, 15_000)
    whole = importance(times, features, returns, 300_000, folds=3, repeats=1)
    # Other returns in the last fold's test, in the same order of size: the model of that fold is the same, and so is its score; the others' are not.
    known = np.flatnonzero(np.isfinite(returns))
    last = known[-(len(known) // 3) :]
    altered = returns.copy()
    altered[last] = altered[last] ** 3 * 1e9
    other = importance(times, features, altered, 300_000, folds=3, repeats=1)
    assert other.folds[2][2] == pytest.approx(whole.folds[2][2], abs=1e-12) and whole.folds[2][2] > 0.15
    assert other.folds[0][2] != whole.folds[0][2]
    few = importance(times[:5], {name: column[:5] for name, column in features.items()}, returns[:5], 300_000, folds=3)
    assert few.score is None
    gone = importance(times, {"gone": np.full(1_200, np.nan), "same": np.ones(1_200), **features}, returns, 300_000, folds=3, repeats=1)
    assert gone.left_out == ["gone", "same"] and gone.score == whole.score


# --- splits and labels -------------------------------------------------------------------------------------------------


@given(st.integers(200, 2_000), st.integers(2, 8), st.integers(0, 30), st.integers(0, 30))
def test_purged_folds_by_brute_force(length: int, folds: int, purge: int, embargo: int) -> None:
    made_folds = purged_folds(7, 7 + length, folds, purge, embargo)
    tested = [moment for fold in made_folds for moment in range(*fold.test)]
    assert tested == list(range(7, 7 + length))
    for fold in made_folds:
        trained = {moment for stretch in fold.train for moment in range(*stretch)}
        wanted = {m for m in range(7, 7 + length) if m < fold.test.begin - purge or m >= fold.test.end + purge + embargo}
        assert trained == wanted
    for bad, named in (((7, 8, 2), "folds"), ((0, 100, 1), "folds"), ((0, 100, 2, -1), "purge_ms")):
        with pytest.raises(ValueError, match=named):
            purged_folds(*bad)


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_net_labels_equal_a_plain_account(seed: int) -> None:
    source = np.random.default_rng(seed)
    begin = 1_760_000_000_000
    times = [begin + hour * HOUR_MS for hour in range(40)]
    prices = [round(100 + float(source.normal()), 2) for _ in times]
    side = str(source.choice(["BUY", "SELL"]))
    other = "SELL" if side == "BUY" else "BUY"
    half = round(float(source.uniform(0.1, 2)), 3)
    fills = [{"fill_id": "1", "event_time": begin, "leg": "entry", "side": side, "price": 100.0, "quantity": 2 * half, "fee": 0.1}]
    for number, hour in enumerate(sorted(source.uniform(0.5, 40, 2).tolist())):
        at = begin + int(hour * HOUR_MS)
        fills.append(
            {"fill_id": f"{number + 2}", "event_time": at, "leg": "tp1", "side": other, "price": 101.0, "quantity": half, "fee": 0.05}
        )
    settlements = [(begin + 8 * n * HOUR_MS, round(float(source.normal()) / 1000, 6)) for n in range(1, 5)]
    found = net_labels(fills, MarkPath(times, prices), settlements, leverage=5.0, threshold=0.02)
    sign = Decimal(1 if side == "BUY" else -1)
    for hours in (12, 24, 36):
        end = begin + hours * HOUR_MS
        quantity, entry = Decimal(str(2 * half)), Decimal(100)
        pnl, fees, left = Decimal(0), Decimal("0.1"), quantity
        for fill in fills[1:]:
            if fill["event_time"] <= end:
                pnl += sign * (Decimal(101) - entry) * Decimal(str(half))
                fees += Decimal("0.05")
                left -= Decimal(str(half))
        pnl += sign * left * (Decimal(str(prices[hours])) - entry)
        paid = Decimal(0)
        for at, rate in settlements:
            if at <= end:
                held = quantity - sum((Decimal(str(half)) for fill in fills[1:] if fill["event_time"] <= at), Decimal(0))
                paid += sign * held * Decimal(str(prices[(at - begin) // HOUR_MS])) * Decimal(str(rate))
        roi = (pnl - fees - paid) / (quantity * entry / 5)
        one = found[hours]
        assert (
            one.pnl == pytest.approx(float(pnl), abs=1e-9)
            and one.fees == pytest.approx(float(fees))
            and one.roi == pytest.approx(float(roi), abs=1e-9)
        )
        if abs(abs(roi) - Decimal("0.02")) > Decimal("1e-9"):
            assert one.label == ("pos" if roi > 0 else "neg") if abs(roi) > Decimal("0.02") else one.label == "neutral"


def test_a_net_label_without_a_price_is_not_known() -> None:
    entry = {"fill_id": "1", "event_time": 0, "leg": "entry", "side": "BUY", "price": 100.0, "quantity": 1.0, "fee": 0.0}
    out = {**entry, "fill_id": "2", "event_time": 20 * HOUR_MS, "leg": "stop", "side": "SELL", "price": 99.0}
    path = MarkPath([0], [100.0])
    found = net_labels([entry, out], path, [])
    assert found[12].label is None and found[12].roi is None and found[24].label == "neg" and found[24].pnl == -1.0
    assert net_labels([entry, out], path, [(8 * HOUR_MS, 0.001)])[24].label is None  # what the settlement cost is not known
    with pytest.raises(ValueError, match="fills"):
        net_labels([], path, [])

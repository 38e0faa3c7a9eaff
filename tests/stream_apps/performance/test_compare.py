"""Figures of a comparison against hand-computed ones, exact fractions and the standard library, and its intervals against enumeration and coverage."""

from __future__ import annotations

import itertools
import random
import statistics
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.performance.comparison import (
    LEAST_IN_GROUP,
    LEAST_TRADES,
    Interval,
    _interval,
    _means,
    compare,
    score_correlation,
    side,
)

HOUR = 3_600_000


def trade(number: int, net_r: float, money: float = 200.0, **more: Any) -> dict[str, Any]:
    return {
        "trade_id": f"t{number:05}", "event_time": number * 60_000, "entry_time": number * 60_000 - 30_000, "instrument": "BINANCE:BTCUSDT-PERP",
        "tier": "standard", "net_r": net_r, "net_pnl": net_r * money, "config_hash": "h1", **more,
    }  # fmt: skip


def score(instant: int, value: float, lean: str = "LONG", **more: Any) -> dict[str, Any]:
    return {"instrument": "X", "event_time": instant, "ungated_score": value, "lean": lean, "warm": True, **more}


def test_a_hand_computed_side() -> None:
    """+1, -1, -0.5, +2, 0 (no win: fees ate it), -1.5; the second of twice the money."""
    results = [1.0, -1.0, -0.5, 2.0, 0.0, -1.5]
    trades = [trade(n, r, 400.0 if n == 1 else 200.0, config_hash="h2" if n == 5 else "h1") for n, r in enumerate(results)]
    found = side(trades)
    assert (found.trades, found.wins, found.win_rate) == (6, 2, 2 / 6)
    assert (found.net_r, found.mean_r, found.net_pnl) == (0.0, 0.0, -200.0)
    assert found.profit_factor == 600.0 / 800.0  # 200 + 400 over 400 + 100 + 300
    # Curve in R: 0 1 0 -0.5 1.5 1.5 0, from 1 to -0.5 and from 1.5 to 0; in money: 0 200 -200 -300 100 100 -200, from 200 to -300.
    assert (found.drawdown_r, found.drawdown_pnl) == (1.5, 500.0)
    assert found.configurations == ("h1", "h2")


def test_nothing_and_next_to_nothing() -> None:
    none = side([])
    assert (none.trades, none.win_rate, none.mean_r, none.interval, none.profit_factor, none.drawdown_r) == (0, None, None, None, None, 0.0)
    one = side([trade(1, 2.0)])
    assert (one.mean_r, one.interval, one.profit_factor, one.win_rate) == (2.0, None, None, 1.0)  # no loss: no profit factor, not infinity
    assert side([trade(1, -2.0)]).drawdown_r == 2.0  # a loss from the start is one
    empty = compare([], [])
    assert (empty.all.verdict, empty.all.difference, empty.groups, empty.correlation) == (
        "too few trades",
        None,
        {"symbol": [], "hour": [], "tier": []},
        None,
    )


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=60))
def test_drawdown_and_ratios_against_exact_fractions(eighths: list[int]) -> None:
    results = [Fraction(n, 128) for n in eighths]  # exact as doubles
    curve = [sum(results[:n], Fraction(0)) for n in range(len(results) + 1)]
    expected = max(curve[i] - curve[j] for i in range(len(curve)) for j in range(i, len(curve)))
    found = side([trade(n, float(r), 1.0) for n, r in enumerate(results)], resamples=10)
    assert Fraction(found.drawdown_r) == Fraction(found.drawdown_pnl) == expected
    gains, losses = sum(r for r in results if r > 0), -sum(r for r in results if r < 0)
    assert found.wins == sum(r > 0 for r in results)
    assert (
        found.profit_factor is None if not losses else found.profit_factor == pytest.approx(float(Fraction(gains, 1) / losses), rel=1e-14)
    )
    assert found.mean_r == pytest.approx(float(sum(results) / len(results)), rel=1e-14, abs=1e-16)


def test_an_interval_has_the_quantiles_of_all_resamples() -> None:
    """Of 5 values there are 3,125 resamples: all of them, enumerated, against 20,000 drawn."""
    values = [-1.0, -0.9, 0.4, 1.1, 2.3]
    every = sorted(sum(chosen) / 5 for chosen in itertools.product(values, repeat=5))
    drawn = _means(np.array(values), seed=3, resamples=20_000)
    assert len(drawn) == 20_000
    found = _interval(drawn)
    for value, share in ((found.low, 0.025), (found.high, 0.975)):
        below, upto = sum(one < value - 1e-9 for one in every) / len(every), sum(one <= value + 1e-9 for one in every) / len(every)
        assert below - 0.004 <= share <= upto + 0.004
    assert statistics.fmean(drawn) == pytest.approx(statistics.fmean(values), abs=0.02)
    assert statistics.pstdev(drawn) == pytest.approx(statistics.pstdev(values) / 5**0.5, rel=0.03)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """300 samples of 100 results like ours (54 % win 1, else lose 1.1: mean 0.034); 95 % of the intervals must hold it, give or take."""
    source = random.Random(8)
    truth = 0.54 * 1.0 - 0.46 * 1.1
    held = 0
    for number in range(300):
        values = np.array([1.0 if source.random() < 0.54 else -1.1 for _ in range(100)])
        held += _interval(_means(values, number, 400)).holds(truth)
    assert 0.91 <= held / 300 <= 0.98


def test_a_seed_gives_the_same_interval_and_another_gives_another() -> None:
    a, b = [trade(n, (-1) ** n + n / 50) for n in range(120)], [trade(n, (-1) ** n) for n in range(130)]
    once, again, other = compare(a, b), compare(a[::-1], random.Random(1).sample(b, len(b))), compare(a, b, seed=5)
    assert once == again  # the order in which records come does not matter
    assert once.all.interval != other.all.interval and once.all.difference == other.all.difference


def test_the_difference_against_enumeration() -> None:
    a, b = [0.0, 1.0, 3.0], [0.5, -1.0]
    means_a, means_b = ([sum(c) / len(v) for c in itertools.product(v, repeat=len(v))] for v in (a, b))
    every = sorted(x - y for x in means_a for y in means_b)
    pair = compare([trade(n, r) for n, r in enumerate(a)], [trade(n, r) for n, r in enumerate(b)], resamples=20_000).all
    assert pair.difference == pytest.approx(4 / 3 + 0.25) and pair.interval is not None
    for value, share in ((pair.interval.low, 0.025), (pair.interval.high, 0.975)):
        below, upto = sum(one < value - 1e-9 for one in every) / len(every), sum(one <= value + 1e-9 for one in every) / len(every)
        assert below - 0.005 <= share <= upto + 0.005


@pytest.mark.parametrize(("number", "verdict"), [(LEAST_TRADES - 1, "too few trades"), (LEAST_TRADES, "A")])
def test_no_verdict_on_a_small_sample_however_clear(number: int, verdict: str) -> None:
    better, worse = [trade(n, 1.0 + n % 2) for n in range(number)], [trade(n, -1.0 - n % 2) for n in range(LEAST_TRADES)]
    assert compare(better, worse).all.verdict == verdict
    assert compare(worse, better).all.verdict == verdict.replace("A", "B")
    alike = [trade(n, (-1.0) ** n) for n in range(500)]
    assert compare(alike, alike).all.verdict == "neither"


def test_groups_are_symbol_hour_of_entry_and_tier() -> None:
    a = [
        trade(n, 1.0 + n % 2, tier="heavy" if n < 60 else "standard", entry_time=(23 if n < 55 else 0) * HOUR + 5 * 24 * HOUR)
        for n in range(100)
    ]
    b = [
        trade(n, -1.0 - n % 2, instrument="BINANCE:ETHUSDT-PERP" if n < 50 else "BINANCE:BTCUSDT-PERP", tier="heavy", entry_time=HOUR - 1)
        for n in range(100)
    ]
    found = compare(a, b)
    counts = {name: {pair.name: (pair.a.trades, pair.b.trades, pair.verdict) for pair in pairs} for name, pairs in found.groups.items()}
    few = "too few trades"
    assert counts == {
        "symbol": {"BINANCE:BTCUSDT-PERP": (100, 50, "A"), "BINANCE:ETHUSDT-PERP": (0, 50, few)},
        "hour": {"00": (45, 100, few), "23": (55, 0, few)},
        "tier": {"heavy": (60, 100, "A"), "standard": (40, 0, few)},
    }
    assert {pair.least for pairs in found.groups.values() for pair in pairs} == {LEAST_IN_GROUP}
    assert found.all.least == LEAST_TRADES and found.all.verdict == "A"
    parts = found.groups["tier"]
    assert sum(pair.a.net_r for pair in parts) == found.all.a.net_r and replace(parts[0].a, trades=0) != parts[0].a


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.sampled_from(["LONG", "SHORT", "NONE"])), min_size=3, max_size=40))
def test_correlation_against_the_standard_library(rows: list[tuple[int, int, str]]) -> None:
    a = [score(n, float(x), lean) for n, (x, _, lean) in enumerate(rows)]
    b = [score(n, float(y)) for n, (_, y, _) in enumerate(rows)]
    signs = {"LONG": 1, "SHORT": -1, "NONE": 0}
    x, y = [signs[lean] * v for v, _, lean in rows], [v for _, v, _ in rows]
    found, count = score_correlation(a, b)
    assert count == len(rows)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(statistics.correlation(x, y), abs=1e-9)


def test_correlation_pairs_what_both_judged_at_one_instant_of_one_instrument() -> None:
    a = [score(1, 10.0), score(2, 20.0), score(3, 30.0, "SHORT"), score(4, 99.0, warm=False), score(5, 1.0), score(6, 50.0, instrument="Y")]
    b = [score(3, 5.0, "SHORT"), score(2, 7.0), score(1, 1.0), score(4, 0.0), score(6, 50.0), score(7, 3.0)]
    assert score_correlation(a, b) == (pytest.approx(statistics.correlation([10, 20, -30], [1, 7, -5])), 3)
    assert score_correlation(a, a)[0] == 1.0
    mirrored = [{**one, "lean": {"LONG": "SHORT", "SHORT": "LONG"}[one["lean"]]} for one in a]
    assert score_correlation(a, mirrored)[0] == -1.0
    assert score_correlation(a, a[:2]) == (None, 2)


def test_an_interval_holds_its_ends() -> None:
    assert Interval(0.0, 1.0).holds(0.0) and Interval(-1.0, 0.0).holds(0.0) and not Interval(0.1, 1.0).holds(0.0)

"""Auto-evolve's rules against the vectors of the specification, and every mutation within the rules of a strategy."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.core.signals.strategy_rules import ranges, strategy_from_record, validate
from stream_apps.research import evolve
from stream_apps.research.bootstrap import Mean
from stream_apps.research.evolve import HOUR_MS, REGIMES, TAG, Judged, Limits

NOW = 1_760_000_000_000


def config(strategy_id: str = "s", **more: Any) -> StrategyConfig:
    return StrategyConfig(**{"strategy_id": strategy_id, "instrument": "BINANCE:BTCUSDT-PERP", "display_name": strategy_id, **more})


def test_fitness_vectors_of_the_specification() -> None:
    assert evolve.fitness([], 7, 12).value == -5.425
    assert evolve.fitness_of(20, 5.0, 0.55, 15.0, 10.0, 7, 12).value == 6.0054
    # The same by trades: 11 of 20 win, 15 R against 10 R.
    trades = [{"net_r": 15 / 11}] * 11 + [{"net_r": -10 / 9}] * 9
    assert evolve.fitness(trades, 7, 12).value == pytest.approx(6.0054, abs=1e-4)
    assert evolve.fitness([{"net_r": 1.0}], 0.5, 1).value == pytest.approx(1 + 0.9 + 0.6 * (2 - 1) + 1.25 * 0.5)


def test_weight_vectors_of_the_specification() -> None:
    table = {
        (55, 25, 15, 5): ((59, 26, 12, 3), (57, 29, 11, 3), (54, 28, 16, 2)),
        (51, 18, 28, 3): ((55, 19, 25, 1), (53, 22, 24, 1), (50, 21, 29, 0)),
        (58, 8, 32, 2): ((62, 9, 29, 0), (60, 12, 28, 0), (56, 11, 33, 0)),
        (38, 42, 8, 12): ((42, 43, 5, 10), (40, 46, 4, 10), (37, 45, 9, 9)),
    }
    for weights, wanted in table.items():
        assert tuple(evolve.weights_after(weights, evolve._SHIFTS[name]) for name in ("trend", "crash", "range")) == wanted


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4))
def test_weights_come_back_into_their_ranges(weights: list[int]) -> None:
    found = evolve.within_ranges(evolve.weights_after(weights, (0, 0, 0, 0)), "v54_factory")
    limits = [ranges("v54_factory")[name] for name in ("weight_direction", "weight_env", "weight_aux", "weight_momentum")]
    assert sum(found) == 100 and all(low <= one <= high for one, (low, high) in zip(found, limits, strict=True))


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_mutation_keeps_the_rules_and_is_new(model: str) -> None:
    source = random.Random(2)
    for number in range(12):
        parent = replace(strategy_from_record({**named(), "model": model}), sl_atr_multiplier=round(source.uniform(0.5, 3.0), 1),
                         timeout_minutes=source.choice((30, 240, 1440)))  # fmt: skip
        regime = REGIMES[number % 4]
        made = evolve.mutations(parent, regime, [parent], 20, number, "2026-11-22")
        assert len({one.strategy_id for one in made}) == len({evolve.signature(one) for one in made}) == len(made) > 2
        for one in made:
            validate(one)
            assert evolve.evolved(one) and f"parent:{parent.strategy_id}" in one.tags and one.instrument == parent.instrument
            assert (one.gate_vol_enabled, one.obi_threshold, one.initial_balance) == (
                parent.gate_vol_enabled, parent.obi_threshold, parent.initial_balance,
            )  # fmt: skip
        # The same day draws the same, also when what exists is listed in another order; another day draws others; what exists is not made again.
        assert made == evolve.mutations(parent, regime, [parent], 20, number, "2026-11-22")
        again = evolve.mutations(parent, regime, [parent, *made], 1_000, number, "2026-11-22")
        assert not {evolve.signature(one) for one in again} & {evolve.signature(one) for one in made}


def named() -> dict[str, Any]:
    return {"strategy_id": "p", "instrument": "BINANCE:BTCUSDT-PERP", "display_name": "p"}


def test_the_pools_have_the_sizes_of_the_specification_and_windows_are_drawn_evenly() -> None:
    parent = config(entry_score=75.0, sl_atr_multiplier=1.8, timeout_minutes=240)
    for regime, size in (("trend", 144), ("high_vol", 144), ("crash", 64), ("range", 144)):
        # In a crash the stops of both profiles and both times differ: 8 windows x 2 x 2 x 2.
        assert len(evolve.mutations(parent, regime, [], 1_000, 1, "d")) == size
    drawn = [evolve.mutations(parent, "trend", [], 1, seed, "2026-11-22")[0].cvd_fast_window for seed in range(60)]
    assert len(set(drawn)) == 3  # the original drew 5m/30m every time


def test_regimes() -> None:
    assert evolve.regime_of({}) == "range" and evolve.regime_of({"trend": 5, "range": 4}) == "trend"
    assert evolve.regime_of({"trend": 5, "crash": 5}) == "crash"


def judgement(strategy: StrategyConfig, count: int, p: float, net: float, parent: float) -> Judged:
    return Judged(strategy, "p", None, Mean(count, net / count, 0.0, 1.0, p, 0.95), None, net, parent)


def test_judgement_asks_for_trades_for_more_than_the_parent_and_for_more_than_chance() -> None:
    rows = [judgement(config("a"), 11, 0.001, 9.0, 1.0), judgement(config("b"), 30, 0.001, 3.0, 4.0), judgement(config("c"), 30, 0.2, 3.0, 1.0),
            judgement(config("d"), 30, 0.01, 3.0, 1.0)]  # fmt: skip
    told = evolve.judged(rows, Limits())
    assert [one.accepted for one in told] == [False, False, False, True]
    assert [one.reason.split()[0] for one in told] == ["11", "net", "not", "net"]
    # All tries count: 0.06 alone passes at 10 %, beside nine failures it does not.
    lone = judgement(config("e"), 30, 0.06, 3.0, 1.0)
    assert evolve.judged([lone], Limits())[0].accepted
    assert not evolve.judged([lone, *(judgement(config(f"x{n}"), 30, 0.9, 1.0, 0.0) for n in range(9))], Limits())[0].accepted


def test_limits_of_a_run() -> None:
    limits = Limits(max_running_per_symbol=2, min_age_ms=24 * HOUR_MS)
    old = [config(f"old{n}", tags=(TAG,), revision=4) for n in range(3)]
    young = config("young", tags=(TAG,))
    born = {**{one.strategy_id: NOW - (30 + n) * HOUR_MS for n, one in enumerate(old)}, "young": NOW - HOUR_MS}
    new = judgement(config("new", tags=(TAG,)), 30, 0.01, 3.0, 1.0)
    other = judgement(config("other", tags=(TAG,)), 30, 0.01, 2.0, 1.0)
    manual = config("manual")
    scores = {"old0": 2.0, "old1": -1.0, "young": -9.0, "manual": -50.0, "old2": 1.0}
    changes, notes = evolve.planned([other, new], [*old, young, manual], born, scores, NOW, 0, limits)
    # One of two is created; of four and the new one three too many: the worst of the old ones, never the young, never a manual one.
    assert [(one.kind, one.config.strategy_id, one.expected) for one in changes] == [
        ("create", "new", 0), ("deprecate", "old1", 4), ("deprecate", "old2", 4), ("deprecate", "old0", 4),
    ]  # fmt: skip
    assert any("other" in note for note in notes)
    assert all(one.config.status == "deprecated" for one in changes[1:])
    # A missing fitness is the worst; live ones are not touched.
    changes, _ = evolve.planned([], [*old, young], born, {"old0": 0.0, "old1": 0.0}, NOW, 0, replace(limits, max_running_per_symbol=3))
    assert [one.config.strategy_id for one in changes] == ["old2"]
    tagged = replace(old[2], tags=(TAG, "LIVE"))
    for strategies, live in (([*old[:2], tagged, young], set()), ([*old, young], {"old2"})):
        changes, notes = evolve.planned([], strategies, born, scores, NOW, 0, replace(limits, max_running_per_symbol=0), live)
        assert {one.config.strategy_id for one in changes} == {"old0", "old1"} and any("too young" in note for note in notes)
    # What the day leaves.
    changes, notes = evolve.planned([new], [*old, young], born, scores, NOW, 7, limits)
    assert [one.config.strategy_id for one in changes] == ["new"] and sum("another day" in note for note in notes) == 3
    assert evolve.planned([new], [], born, scores, NOW, 0, replace(limits, max_new_per_symbol=0))[0] == []
    for bad, name in (({"test_ms": 8 * 86_400_000}, "test_ms"), ({"candidates": 0}, "candidates"), ({"max_new_per_symbol": -1}, "max_new")):
        with pytest.raises(ValueError, match=name):
            Limits(**bad)

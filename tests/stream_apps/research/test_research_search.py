"""The search asks for trainings alone until its choice is settled, is the same however often it is interrupted, and stays within the rules of a strategy."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import StrategyError, changes
from stream_apps.core.signals.strategy_rules import ranges, strategy_from_record
from stream_apps.replay.shift import ShiftedSource
from stream_apps.research.search import Plan, SearchMismatch, SearchResult, search, value_of
from stream_apps.research.space import DEFAULT, Space
from stream_apps.research.splits import Fold, Interval
from tests.support.markets.made_markets import BEGIN, CODEC, MINUTE, PARENT, Engine, MadeMarket
from tests.support.paths import ROOT

HOUR = 60 * MINUTE
FOLDS = [
    Fold((Interval(BEGIN, BEGIN + 6 * HOUR),), Interval(BEGIN + 6 * HOUR, BEGIN + 8 * HOUR)),
    Fold((Interval(BEGIN, BEGIN + 2 * HOUR), Interval(BEGIN + 5 * HOUR, BEGIN + 8 * HOUR)), Interval(BEGIN + 3 * HOUR, BEGIN + 4 * HOUR)),
]
PLAN = Plan(trials=6, batch=4, least_trades=2)
SPACE = Space(PARENT, ("entry_score", "sl_atr_multiplier", "weights"), {"entry_score": (60.0, 80.0)})


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_point_of_a_space_is_a_valid_strategy(model: str) -> None:
    source = random.Random(1)
    named = {"strategy_id": "s", "instrument": "BINANCE:BTCUSDT-PERP", "display_name": "s", "model": model}
    parent = strategy_from_record(named)
    space = Space(parent)
    seen: dict[str, set[Any]] = {}
    for number in range(1500):
        edge = number % 3
        point: dict[str, Any] = {}
        for name, axis in space.axes.items():
            steps = 0 if axis.choices else round((axis.high - axis.low) / axis.step)
            place = source.choice((0, steps)) if edge == 0 else source.randint(0, steps)
            point[name] = source.choice(axis.choices) if axis.choices else axis.low + place * axis.step
        made = space.config(point, strategy_id="t")  # validates
        changed = changes(parent, made).keys() - {"strategy_id"}
        allowed = {*space.vary, "flip_threshold", "tp2_ratio"}
        allowed |= {"cvd_fast_window", "cvd_slow_window"} if "windows" in space.vary else set()
        allowed |= {name for name in made.to_record() if name.startswith("weight_")} if "weights" in space.vary else set()
        assert changed <= allowed
        for name in changed:
            seen.setdefault(name, set()).add(getattr(made, name))
    assert ("weights" in space.vary) == bool(MODELS[model].weight_fields)
    # The whole of each range can be reached.
    for name in ("weight_direction", "weight_env", "weight_aux", "weight_momentum"):
        if "weights" in space.vary:
            assert (min(seen[name]), max(seen[name])) == ranges(model)[name]
    assert space.config({}) == parent
    assert set(DEFAULT) >= set(space.vary)


def test_a_space_refuses_what_cannot_be() -> None:
    for arguments, named in (
        ((["leverage"],), "leverage"),
        ((["entry_score"], {"entry_score": (50.0, 80.0)}), "entry_score"),
        ((["entry_score"], {"windows": (1.0, 2.0)}), "windows"),
    ):
        with pytest.raises(StrategyError, match=named):
            Space(PARENT, *arguments)
    with pytest.raises(StrategyError, match="windows"):
        Space(
            strategy_from_record({"strategy_id": "s", "instrument": "BINANCE:X-PERP", "display_name": "s", "model": "v53_standard"}),
            ["windows"],
        )
    for bad in ({"trials": 0}, {"objective": "win_rate"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Plan(**bad)  # type: ignore[arg-type]


def points(found: SearchResult) -> list[Any]:
    return [
        [(trial.number, trial.point, trial.value, trial.trades, trial.net_r, trial.sharpe) for trial in one.trials] for one in found.folds
    ]


def test_tests_are_run_once_after_all_choices_and_trainings_end_where_they_end() -> None:
    engine = Engine(MadeMarket(5, hours=10, edge=0.8), whole=False)
    found = search(engine, SPACE, FOLDS, PLAN)
    tests = {one.test for one in FOLDS}
    trainings = {stretch for one in FOLDS for stretch in one.train}
    assert [within for within, run_out in engine.asked if run_out] == [one.test for one in FOLDS]
    first = next(place for place, (_, run_out) in enumerate(engine.asked) if run_out)
    assert {within for within, run_out in engine.asked[:first]} <= trainings and not {w for w, out in engine.asked if not out} & tests
    for one in found.folds:
        assert one.chosen is not None and len(one.trials) == 6 and one.trials[0].point == {}
        assert one.chosen.value == max(trial.value for trial in one.trials if trial.value is not None)
        inside = one.fold.train
        assert all(any(s.begin <= row["entry_time"] and row["event_time"] < s.end for s in inside) for row in one.train_trades)
        assert one.chosen.net_r == pytest.approx(sum(row["net_r"] for row in one.train_trades))
        assert all(one.fold.test.begin <= row["entry_time"] < one.fold.test.end for row in one.test_trades)
    assert found.trials == 12 and len(found.test_trades) > 0


def test_another_future_changes_no_trial_and_no_choice() -> None:
    market = MadeMarket(6, hours=9, edge=0.3)
    first = FOLDS[:1]
    known = search(Engine(market, whole=False), SPACE, first, PLAN)
    altered = ShiftedSource(market, first[0].train[0].end, CODEC)
    other = search(Engine(altered, whole=False), SPACE, first, PLAN)
    assert altered.altered > 500 and points(other) == points(known)
    assert known.folds[0].config == other.folds[0].config is not None
    assert [row["trade_id"] for row in known.test_trades] != [row["trade_id"] for row in other.test_trades]


def test_the_objective() -> None:
    rows = [{"net_r": value} for value in (1.0, -0.5, 0.25, 1.25)]
    assert value_of(rows, replace(PLAN, objective="net_r")) == 2.0 and value_of(rows, replace(PLAN, objective="mean_r")) == 0.5
    from scipy import stats

    assert value_of(rows, PLAN) == pytest.approx(stats.ttest_1samp([row["net_r"] for row in rows], 0.0).statistic)
    assert value_of(rows[:1], PLAN) is None and value_of([{"net_r": 1.0}] * 3, PLAN) == 0.0


RUN = """
import os, sys
from pathlib import Path
from tests.stream_apps.research.test_research_search import FOLDS, PLAN, SPACE, points
from stream_apps.research.search import search

class Toy:
    def __init__(self, die): self.left = die
    def __call__(self, strategies, within, run_out=False):
        self.left -= 1
        if self.left == 0: os.kill(os.getpid(), 9)
        out = []
        for one in strategies:
            base = one.entry_score * one.sl_atr_multiplier + one.weight_env
            out.append([{"trade_id": str(n), "event_time": within.begin + n, "entry_time": within.begin, "net_r": ((base * 7 + n * 13) % 11) - 5.0,
                         "gross_r": 0.0, "fee_r": 0.0, "slippage_r": 0.0, "funding_r": 0.0} for n in range(12)])
        return out

def search_toy(storage, die):
    return search(Toy(die), SPACE, FOLDS, PLAN, storage=storage, data="toy")

if __name__ == "__main__":
    found = search_toy(Path(sys.argv[1]), int(sys.argv[2]))
    Path(sys.argv[3]).write_text(repr((points(found), found.test, found.train, found.deflated)))
"""


def test_a_search_that_is_killed_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    script = tmp_path / "toy_search.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}

    def run(storage: str, die: int, out: str) -> int:
        command = [sys.executable, str(script), str(tmp_path / storage), str(die), str(tmp_path / out)]
        return subprocess.run(command, env=environment, timeout=120).returncode

    assert run("whole.db", 0, "whole") == 0
    # Killed in the second fold: the first and a batch of the second are there.
    assert run("cut.db", 4, "cut") == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    assert run("cut.db", 0, "cut") == 0
    assert (tmp_path / "cut").read_text() == (tmp_path / "whole").read_text()


def test_a_half_written_batch_is_completed_with_the_same_points(tmp_path: Path) -> None:
    import optuna

    sys.modules.pop("toy_search", None)
    space: dict[str, Any] = {}
    exec(compile(RUN, "toy_search", "exec"), space)
    whole = space["search_toy"](tmp_path / "a.db", 0)
    half = optuna.create_study(study_name="search fold 0", storage=f"sqlite:///{tmp_path / 'b.db'}", direction="maximize")
    done = optuna.load_study(study_name="search fold 0", storage=f"sqlite:///{tmp_path / 'a.db'}")
    half.set_user_attr("search", done.user_attrs["search"])
    half.add_trials(done.get_trials()[:5])  # a batch is four: one of the second is there
    assert points(space["search_toy"](tmp_path / "b.db", 0)) == points(whole)
    # Another plan, other data or another parent is another search.
    with pytest.raises(SearchMismatch, match="another search"):
        search(lambda *_: [], SPACE, FOLDS, replace(PLAN, seed=2), storage=tmp_path / "a.db", data="toy")
    with pytest.raises(SearchMismatch, match="another search"):
        search(lambda *_: [], SPACE, FOLDS, PLAN, storage=tmp_path / "a.db", data="other")
    with pytest.raises(ValueError, match="folds"):
        search(lambda *_: [], SPACE, [], PLAN)

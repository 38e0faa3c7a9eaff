"""The key proof: search and tests find an edge that was planted, and where there is none they claim none more often than they say they would."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from stream_apps.core.paper.position import FeeRates, PaperSettings
from stream_apps.research.cost_gate import FAILS, LEAST_TRADES, cost_gate
from stream_apps.research.search import Plan, SearchResult, search
from stream_apps.research.space import Space
from stream_apps.research.splits import Fold, walk_forward
from stream_apps.research.verdict import EDGE, verdicts
from tests.support.markets.made_markets import FREE, PARENT, Engine, MadeMarket

HOUR = 3_600_000
RATE = 0.05
SPACE = Space(
    PARENT,
    ("entry_score", "sl_atr_multiplier", "tp1_ratio", "tp2_ratio"),
    {"entry_score": (60.0, 80.0), "sl_atr_multiplier": (0.8, 2.0), "tp1_ratio": (0.5, 1.5)},
)
PLAN = Plan(trials=8, batch=8, least_trades=5)


def made(seed: int, edge: float, paper: PaperSettings = FREE) -> Engine:
    return Engine(MadeMarket(seed, hours=36, edge=edge), paper)


def searched(engine: Engine, leaking: bool = False) -> SearchResult:
    """Search a market; leaking: choose on the very stretches that are the tests."""
    begin, end = engine.market.period
    folds = [Fold((one.test if leaking else one.train,), one.test) for one in walk_forward(begin, end, 12 * HOUR, 8 * HOUR)]
    assert len(folds) == 3
    return search(engine, SPACE, folds, PLAN)


def believed(found: SearchResult) -> bool:
    """What one would say who looked at the training only."""
    return found.train is not None and found.train.p is not None and found.train.p <= RATE


def claimed(found: SearchResult) -> bool:
    """A single search's claim."""
    return verdicts({"one": found}, RATE)["one"].verdict == EDGE


def enough(found: SearchResult) -> bool:
    """Whether its tests have the trades that a verdict needs."""
    return found.test is not None and found.test.count >= LEAST_TRADES


def check_choices(found: SearchResult) -> None:
    """Every trial is counted, the parent is tested in any case, and a fold goes without a choice only where no trial earned anything."""
    assert found.trials == 24 and found.parent is not None and found.parent.count >= 15
    for one in found.folds:
        earning = [trial for trial in one.trials if trial.value is not None and trial.value > 0]
        assert (one.chosen is None) == (not earning)
        assert one.chosen is not None or not one.test_trades


def test_a_planted_edge_is_found_and_costs_can_eat_it() -> None:
    found = searched(made(1, edge=0.3))
    check_choices(found)
    assert claimed(found) and all(one.chosen is not None for one in found.folds)
    assert found.test is not None and found.test.low is not None and found.test.low > 0.2
    assert found.gate.cost == 0
    # The same market where trading costs more than the edge earns: 1 R is some 0.3 % of price, and a round trip now costs 1.2 %.
    dear = made(1, edge=0.3, paper=PaperSettings(latency_ms=0, slippage_bps=0.0, fees=FeeRates(taker=0.006, maker=0.006)))
    # Every trial traded and lost where it would have been chosen: a search trades none of them.
    given_up = searched(dear)
    check_choices(given_up)
    assert all(one.chosen is None and all(trial.value is not None for trial in one.trials) for one in given_up.folds)
    assert not claimed(given_up) and given_up.test is None
    # Who trades what was found without costs still has the edge, and pays more than it.
    insisted = [row for one in found.folds if one.config is not None for row in dear([one.config], one.fold.test, True)[0]]
    gate = cost_gate(insisted)
    assert gate.edge is not None and gate.edge > 0.2
    assert gate.cost is not None and gate.cost > gate.edge and gate.verdict == FAILS


def check_null(runs: list[SearchResult], rate: float = RATE) -> tuple[int, int]:
    """Claims made one by one stay at the rate; together they are controlled."""
    one_by_one = sum(claimed(one) for one in runs)
    # Costs are zero here, which is the hardest case: with costs a strategy without an edge loses.
    assert one_by_one <= len(runs) * rate + 3 * math.sqrt(len(runs) * rate * (1 - rate))
    together = verdicts({str(number): one for number, one in enumerate(runs)}, rate)
    return one_by_one, sum(one.verdict == EDGE for one in together.values())


def test_without_an_edge_none_is_claimed() -> None:
    runs = [searched(made(seed, edge=0.0)) for seed in range(100, 110)]
    one_by_one, together = check_null(runs)
    assert together == 0
    for one in runs:
        check_choices(one)
    # Most tests have trades enough to claim something, and the trainings alone would have been believed more often.
    assert sum(map(enough, runs)) >= 6
    assert sum(map(believed, runs)) > one_by_one


@pytest.mark.long
def test_a_search_that_saw_its_tests_fails_the_check() -> None:
    """The same markets, chosen on the stretches they are tested on."""
    with pytest.raises(AssertionError):
        check_null([searched(made(seed, edge=0.0), leaking=True) for seed in range(100, 110)])


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_hundred_markets_without_an_edge_and_twenty_with_one() -> None:
    runs = [searched(made(seed, edge=0.0)) for seed in range(1000, 1200)]
    one_by_one, together = check_null(runs)
    tested = [one.test.mean for one in runs if one.test is not None]
    told = {
        "runs": len(runs),
        "judged": sum(map(enough, runs)),
        "claimed one by one": one_by_one,
        "claimed together": together,
        "believed by the training": sum(map(believed, runs)),
        "mean of test means": sum(tested) / len(tested),
    }
    planted = [searched(made(seed, edge=0.3)) for seed in range(2000, 2020)]
    told["planted"] = len(planted)
    told["planted found"] = sum(map(claimed, planted))
    if out := os.environ.get("PERPFLOW_RESEARCH_OUT"):
        Path(out).write_text(json.dumps(told, indent=1))
    assert one_by_one <= len(runs) * RATE
    assert together == 0
    # The training by itself would have been believed far more often.
    assert told["believed by the training"] > 3 * max(one_by_one, 10)
    assert told["planted found"] >= 0.9 * len(planted)

"""Revisions in the engine: at which instant one begins, what is refused, and that it is a function of the log and of nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from stream_apps.core.signals.strategy import StrategyConfig
from tests.support.markets import logs

GRID = 15_000
START = 1_750_000_005_000 // GRID * GRID
OTHER = "OTHER:LTCUSDT"


def strategy(name: str = "a", revision: int = 1, **changes: Any) -> StrategyConfig:
    return StrategyConfig(
        **{
            "strategy_id": name,
            "instrument": logs.LTC,
            "display_name": name,
            "revision": revision,
            "event_time": START + revision,
            "receive_time": START + revision,
            **changes,
        }
    )


class Market:
    """A log with a trade and a mark at every instant; ``at(n)`` runs before the mark that fires instant n."""

    def __init__(self, names: tuple[str, ...] = (logs.LTC,)) -> None:
        self.log = logs.Log()
        self.names = names
        for name in names:
            self.log.instrument(name, author=name)
        self.number = 0

    def go(self, instants: int, only: str | None = None) -> None:
        for _ in range(instants):
            self.number += 1
            time = START + self.number * GRID
            for name in self.names:
                if only in (None, name):
                    self.log.trade(time - 5, self.number, 100.0, 1.0, False, name)
                    self.log.mark(time + 250, name, name.split(":")[0])

    def write(self, *configs: StrategyConfig) -> None:
        for config in configs:
            self.log.strategy(config.to_record())


def revisions(log: logs.Log, name: str = "a", **how: Any) -> list[tuple[int, int]]:
    """(number of the instant, revision) of every score of a strategy; each instant once."""
    outputs, _ = logs.run(log, **how)
    found = [
        ((score["event_time"] - START) // GRID, score["config_revision"])
        for score in logs.decoded(outputs, "scores")
        if score["strategy_id"] == name
    ]
    assert len({number for number, _ in found}) == len(found)
    return found


def refused(log: logs.Log) -> list[tuple[str, str]]:
    outputs, _ = logs.run(log)
    return [(letter["field"], letter["reason"]) for letter in logs.decoded(outputs, "dead_letters") if letter["source"] == "strategies"]


def test_an_edit_holds_from_the_next_instant_that_fires_after_its_mark() -> None:
    market = Market()
    market.write(strategy())
    market.go(2)
    market.write(strategy(revision=2, entry_score=70.0))
    market.go(2)
    market.write(strategy(revision=3, entry_score=70.0, status="paused"))
    market.go(2)
    market.write(strategy(revision=4, entry_score=70.0))
    market.go(1)
    market.write(strategy(revision=5, entry_score=70.0, status="deprecated"))
    market.go(1)
    assert revisions(market.log) == [(1, 1), (2, 1), (3, 2), (4, 2), (7, 4)]
    assert refused(market.log) == []


def test_an_edit_without_its_mark_waits_for_a_mark_of_its_author() -> None:
    market = Market()
    market.write(strategy())
    market.go(1)
    cut = {"agg_trades": 1, "instruments": 1, "strategies": 1}
    market.log.append("strategies", strategy(revision=2, entry_score=70.0).to_record(), key="a")
    market.log.trade(START + 2 * GRID - 5, 2, 100.0, 1.0, False)
    market.log.mark(START + 2 * GRID + 250, logs.LTC, "BINANCE", {**cut, "agg_trades": 2})
    assert revisions(market.log) == [(1, 1), (2, 1)]
    market.log.mark(START, "strategies", "", {"strategies": 2})
    market.log.mark(START + 3 * GRID + 250, logs.LTC, "BINANCE", {**cut, "agg_trades": 2})
    assert revisions(market.log) == [(1, 1), (2, 1), (3, 2)]


def test_a_revision_with_an_effective_time_waits_for_that_instant() -> None:
    market = Market()
    market.write(strategy())
    market.go(1)
    market.write(strategy(revision=2, entry_score=70.0, effective_time=START + 4 * GRID))
    market.go(5)
    assert revisions(market.log) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    # One that names an instant between two of the grid, or one that is over, holds from the next.
    market.write(strategy(revision=3, effective_time=START + 2 * GRID), strategy("b", effective_time=START + 7 * GRID + 1))
    market.go(2)
    assert revisions(market.log)[6:] == [(7, 3), (8, 3)]
    assert revisions(market.log, "b") == [(8, 1)]


def test_what_comes_after_a_waiting_revision_takes_its_place() -> None:
    market = Market()
    market.write(strategy(), strategy(revision=2, entry_score=70.0, effective_time=START + 3 * GRID))
    market.write(strategy(revision=3, entry_score=72.0, effective_time=START + 5 * GRID))
    market.go(3)
    market.write(strategy(revision=4, entry_score=73.0))  # at once, and the waiting third is older
    market.go(3)
    assert revisions(market.log) == [(1, 1), (2, 1), (3, 2), (4, 4), (5, 4), (6, 4)]
    earlier = Market()
    earlier.write(strategy(), strategy(revision=2, entry_score=70.0, effective_time=START + 4 * GRID))
    earlier.write(strategy(revision=3, entry_score=72.0, effective_time=START + 2 * GRID))
    earlier.go(5)
    assert revisions(earlier.log) == [(1, 1), (2, 3), (3, 3), (4, 3), (5, 3)]


def test_an_instrument_that_fires_later_changes_at_the_same_instant() -> None:
    """Another venue's instruments catch up: their instants before the effective one still use the old revision."""
    market = Market((logs.LTC, OTHER))
    market.write(strategy(), strategy("o", instrument=OTHER))
    market.go(2)
    at = START + 5 * GRID
    market.write(*(strategy(name, 2, instrument=i, entry_score=70.0, effective_time=at) for name, i in (("a", logs.LTC), ("o", OTHER))))
    market.go(5, only=logs.LTC)
    market.number = 2
    market.go(5, only=OTHER)
    expected = [(n, 1 if n < 5 else 2) for n in range(1, 8)]
    assert revisions(market.log) == revisions(market.log, "o") == expected


def test_two_records_of_one_number_and_the_first_holds() -> None:
    market = Market()
    market.write(strategy())
    market.go(1)
    first = strategy(revision=2, entry_score=70.0, edited_by="ann")
    market.write(first, strategy(revision=2, entry_score=65.0, edited_by="bob", event_time=START + 9))
    market.write(first)  # the loser repeats what holds; no letter
    market.go(1)
    market.write(strategy(revision=3, entry_score=66.0))
    market.go(1)
    assert revisions(market.log) == [(1, 1), (2, 2), (3, 3)]
    (letter,) = refused(market.log)
    assert letter == ("revision", "revision: must be above 2, which a has already, got 2")
    outputs, _ = logs.run(market.log)
    limits = [score["entry_score"] for score in logs.decoded(outputs, "scores")]
    assert limits == [75.0, 70.0, 66.0]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"weight_direction": 54}, "weight_direction"),
        ({"tp2_ratio": 0.5}, "tp2_ratio"),
        ({"cvd_fast_window": "30m", "cvd_slow_window": "30m"}, "cvd_fast_window"),
        ({"flip_threshold": 70.0}, "flip_threshold"),
        ({"model": "v99"}, "model"),
        ({"instrument": OTHER}, "instrument"),
    ],
)
def test_a_bad_revision_is_isolated_to_its_strategy(bad: dict[str, Any], field: str) -> None:
    market = Market()
    market.write(strategy(), strategy("b"))
    market.go(1)
    market.write(strategy(revision=2, **bad), strategy("b", 2, entry_score=70.0))
    market.go(1)
    market.write(strategy(revision=2, entry_score=71.0))  # the number is free: what was refused is no revision
    market.go(1)
    assert revisions(market.log) == [(1, 1), (2, 1), (3, 2)]
    assert revisions(market.log, "b") == [(1, 1), (2, 2), (3, 2)]
    assert [letter[0] for letter in refused(market.log)] == [field]


def test_garbage_and_an_edit_of_a_deprecated_strategy_change_nothing() -> None:
    market = Market()
    market.write(strategy(), strategy("b"))
    market.go(1)
    market.write(strategy(revision=2, status="deprecated"), strategy(revision=3, entry_score=70.0))
    market.log.raw("strategies", b"nonsense", key="b")
    market.log.mark(START, "strategies", "", {"strategies": 5})
    market.go(1)
    market.write(strategy(revision=3))
    market.go(1)
    assert revisions(market.log) == [(1, 1), (3, 3)]
    assert revisions(market.log, "b") == [(1, 1), (2, 1), (3, 1)]
    letters = refused(market.log)
    assert letters[0][0] == "status" and "cannot be edited until it is restored" in letters[0][1] and "unknown frame" in letters[1][1]


def test_the_instant_of_a_revision_is_a_function_of_the_log() -> None:
    """However the log is cut into feeds, however often the engine is killed: the same bytes."""
    source = random.Random(5)
    market = Market((logs.LTC, OTHER))
    newest = {name: strategy(name, instrument=i) for name, i in (("a", logs.LTC), ("b", logs.LTC), ("o", OTHER))}
    market.write(*newest.values())
    for step in range(40):
        market.go(1)
        name = source.choice("abo")
        config = newest[name]
        changes: dict[str, Any] = {"revision": config.revision + source.choice((0, 1, 1)), "event_time": START + step + 10}
        if config.status == "running":
            changes |= {"entry_score": float(source.randint(60, 79)), "status": source.choice(("running", "running", "paused"))}
        else:
            changes["status"] = "running"
        changes["effective_time"] = source.choice((0, START + (market.number + source.randint(0, 3)) * GRID))
        edited = replace(config, **changes)
        market.write(edited)
        if edited.revision > config.revision:
            newest[name] = edited
    market.go(4)
    whole, _ = logs.run(market.log)
    plain = [one for one in whole if one.topic in ("scores", "dead_letters")]
    assert len(plain) > 80 and sum(one.topic == "dead_letters" for one in plain) > 3
    for seed in range(8):
        pieces, engine = logs.run(market.log, seed=seed, restart_every=4 if seed % 2 else None, size=7)
        found = list(dict.fromkeys(one for one in pieces if one.topic in ("scores", "dead_letters")))
        assert found == list(dict.fromkeys(plain)), seed
        assert {name: (engine.waiting.get(name) or [engine.strategies[name][0]])[-1] for name in newest} == newest


def test_waiting_revisions_survive_a_restart() -> None:
    market = Market()
    market.write(strategy(), strategy(revision=2, entry_score=70.0, effective_time=START + 9 * GRID))
    market.go(3)
    _, engine = logs.run(market.log)
    entries = [(key, value) for key, value in engine.checkpoint() if value is not None]
    restored = type(engine).restore(0, engine.config, logs.CODEC, entries)
    assert restored.waiting == engine.waiting == {"a": [strategy(revision=2, entry_score=70.0, effective_time=START + 9 * GRID)]}
    assert restored.strategies == engine.strategies

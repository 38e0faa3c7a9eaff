"""The score figures of ``perpflow evolve`` (S1 9.2) equal a plain count over the same records."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest

from deploy.backtest.evolution.evolve import Evolution, ScoreCount, _Scores, report_of
from deploy.backtest.job import Job
from deploy.report.evolve import markdown
from schemas.catalogue import schema
from schemas.settings import Settings
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.run import Result
from stream_apps.research.evolve import Limits, fitness
from stream_apps.research.splits import Interval

SINCE = 1_760_000_000_000


def score(**values: Any) -> dict[str, Any]:
    """Return a ``scores`` record with plain values where none are given."""
    record: dict[str, Any] = {}
    for field in schema("scores")["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            record[field["name"]] = None
        elif isinstance(kind, dict):
            record[field["name"]] = {"array": [], "map": {}}.get(kind["type"], 0)
        else:
            record[field["name"]] = {"string": "", "double": 0.0, "boolean": False}.get(kind, 0)
    return {**record, **values}


def test_ticks_signals_and_average_score_of_a_strategy_equal_a_plain_count() -> None:
    settings, source = Settings(), random.Random(5)
    seen = _Scores(settings, SINCE)
    rows = [
        score(
            score_id=str(n), strategy_id=source.choice(("a", "b")), instrument=source.choice(("X:BTC-PERP", "X:ETH-PERP")),
            event_time=SINCE + source.randrange(-3_600_000, 86_400_000), score=round(source.uniform(0, 100), 2),
            signalled=source.random() < 0.2, warm=source.random() < 0.8, regime="range",
        )
        for n in range(500)
    ]  # fmt: skip
    rows.append(score(strategy_id="silent", instrument="X:BTC-PERP", event_time=SINCE, score=99.0, warm=True, regime="range"))
    for row in rows:
        seen.take(0, Result("scores", b"", settings.codec.encode("scores", row)))
    for name in ("a", "b"):
        mine = [row for row in rows if row["strategy_id"] == name and row["event_time"] >= SINCE]
        entered = [row["score"] for row in mine if row["signalled"]]
        found = seen.strategies[name]
        assert (found.evaluations, found.signals) == (len(mine), len(entered)) and 20 < len(entered) < len(mine)
        assert found.average == pytest.approx(fmean(entered))
    # A strategy without a signal has no average: missing, not zero.
    assert seen.strategies["silent"] == ScoreCount(1, 0, 0.0) and seen.strategies["silent"].average is None


def test_the_report_shows_them_beside_the_fitness() -> None:
    both = [StrategyConfig(strategy_id=name, instrument="X:BTC-PERP", display_name=name) for name in ("a", "silent")]
    made = Evolution(SINCE, False, Limits(), Interval(SINCE - 10, SINCE), Interval(SINCE - 5, SINCE))
    made.strategies = [(one, fitness([], 7, 12)) for one in both]
    made.scores = {"a": ScoreCount(5_760, 2, 161.0), "silent": ScoreCount(5_760)}
    report = report_of(made, Job(sources=("topics",)))
    shown = [(one["ticks_24h"], one["entry_signals_24h"], one["avg_signal_score_24h"]) for one in report["running_strategies"]]
    assert shown == [(5_760, 2, 80.5), (5_760, 0, None)]
    text = markdown(report)
    assert "| 2 of 5,760 | 80.5 | no |" in text and "| 0 of 5,760 | - | no |" in text

"""Rows and the command: what JSON says, which way a ratio goes, what is refused."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from tests.bench.rows import BENCHES, Figure, Row, alternate
from tests.bench.shown import table
from tests.support.paths import ROOT


def test_a_ratio_is_how_many_times_better_ours_is_and_a_row_survives_its_json() -> None:
    fast = Row(
        "work",
        "trades/s",
        Figure.of([90.0, 100.0, 120.0]),
        {"slow": Figure(20.0), "absent": Figure.none("no wheel")},
        bars={"slow": 4.0, "ours": 101.0},
    )
    short = Row("wait", "ms", Figure(20.0), {"slow": Figure(50.0)}, more_is_better=False, bars={"ours": 25.0})
    assert fast.ratio("slow") == 5.0 and fast.ratio("absent") is None and short.ratio("slow") == 2.5
    assert (fast.reached("slow"), fast.reached("ours"), short.reached("ours"), short.reached("slow")) == (True, False, True, None)
    for row in (fast, short):
        record = json.loads(json.dumps(row.as_json()))
        assert Row.from_json(record).as_json() == row.as_json()
        assert record["ours"] == row.ours.value and set(record["peers"]) == set(record["ratio"]) == set(row.peers)


def test_contestants_take_turns_and_who_fails_is_a_row_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        if name == "b":
            raise OSError("no such broker")
        return float(len(order))

    figures = alternate({name: lambda name=name: contestant(name) for name in "abc"}, 2)
    assert order == ["a", "b", "c", "c", "a"] and figures["a"].value == 3.0 and figures["c"].low == 3.0
    assert figures["b"].value is None and figures["b"].reason == "OSError: no such broker"
    table([Row("work", "s", figures["a"], {"b": figures["b"]})], "a machine", {"python": "3"}, 1.0)
    assert "no such broker" in capsys.readouterr().out


def test_every_benchmark_is_there_and_the_quick_ones_fit_in_five_minutes() -> None:
    for bench in BENCHES.values():
        assert callable(importlib.import_module(f"tests.bench.{bench.module}").rows)
    assert sum(bench.quick_s for bench in BENCHES.values() if bench.in_quick) <= 299


def test_the_command_refuses_a_name_that_there_is_not() -> None:
    command = [sys.executable, "-m", "deploy.cli", "bench", "--only", "wroker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "wroker" in done.stderr and "worker" in done.stderr

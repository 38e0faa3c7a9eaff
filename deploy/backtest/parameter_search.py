"""``perpflow research search``: split a period into folds, search each strategy, write the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna

from deploy.backtest.job import Job, open_job
from deploy.backtest.research import ReplayEvaluator, data_mark, parents, plain, span
from deploy.report.research import search_markdown, write_search
from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.signals.strategy import StrategyError
from stream_apps.replay.report import write_trades
from stream_apps.research.search import OBJECTIVES, Plan, SearchMismatch, SearchResult, search
from stream_apps.research.space import Space
from stream_apps.research.splits import Fold, Interval, purged_folds, walk_forward
from stream_apps.research.verdict import verdicts
from stream_apps.strategy_files import strategy_text

Json = dict[str, Any]


@dataclass(frozen=True)
class Scheme:
    """How a period is split into folds.

    Attributes:
        kind: ``walkforward`` or ``kfold``.
        train_ms, step_ms, test_ms: Walk-forward lengths; test None: one step. anchored: Every training period starts at the beginning.
        folds: Number of k-fold parts. purge_ms: None: the longest time that a trade may be held.
        embargo_ms: Gap after the training (walk-forward) or test period (k-fold).
    """

    kind: str
    train_ms: int
    step_ms: int
    test_ms: int | None = None
    anchored: bool = False
    folds: int = 5
    purge_ms: int | None = None
    embargo_ms: int = 0

    def cut(self, period: Interval, held_ms: int) -> list[Fold]:
        """Return the folds of a period. ``held_ms``: the longest time that a trade may be held. Raises UserError if there are none."""
        try:
            if self.kind == "kfold":
                return purged_folds(*period, self.folds, held_ms if self.purge_ms is None else self.purge_ms, self.embargo_ms)
            made = walk_forward(*period, self.train_ms, self.step_ms, self.test_ms, self.embargo_ms, self.anchored)
        except ValueError as error:
            raise UserError(f"research: {error}") from error
        if not made:
            hours = (period.end - period.begin) / 3_600_000
            raise UserError(
                f"--train and --step: {hours:.1f} h of data are too short for a training and a test period; use shorter lengths"
            )
        return [Fold((one.train,), one.test) for one in made]


def run(
    job: Job, settings: Settings, scheme: Scheme, plan: Plan, out: Path, *, vary: Sequence[str] | None, limits: Mapping[str, tuple[float, float]],
    rate: float, processes: int | None, progress: Callable[[str, int, int], None],
) -> Json:  # fmt: skip
    """Search each strategy of a job. Write search.json, search.md, search.html, test_trades.csv and the last fold's choices as strategy files.

    An interrupted search resumes from ``out``/search.db.

    Raises:
        UserError: an option is invalid.
    """
    opened = open_job(job, settings)
    period = span(opened)
    found: dict[str, SearchResult] = {}
    spaces: dict[str, Space] = {}
    out.mkdir(parents=True, exist_ok=True)
    with ReplayEvaluator(job, settings, processes) as evaluate:
        for parent in parents(opened):
            try:
                space = Space(replace(parent, effective_time=0), vary, limits)
                held = space.limit("timeout_minutes")[1] if "timeout_minutes" in space.vary else parent.timeout_minutes
                folds = scheme.cut(period, round(held * 60_000))
                spaces[parent.strategy_id] = space
                found[parent.strategy_id] = search(
                    evaluate, space, folds, plan, storage=out / "search.db", name=parent.strategy_id, data=data_mark(job, settings),
                    tell=lambda done, total, name=parent.strategy_id: progress(name, done, total),  # type: ignore[misc]
                )  # fmt: skip
            except StrategyError as error:
                raise UserError(f"--vary or --limit: {error}") from error
            except SearchMismatch as error:
                raise UserError(f"--out: {error}; choose another folder, or remove search.db") from error
    said = verdicts(found, rate)
    searches = [
        {**_described(name, one, spaces[name], plan), "verdict": said[name].verdict, "p": said[name].p} for name, one in found.items()
    ]
    report: Json = {
        "report": "perpflow research search",
        "version": 1,
        "source": list(job.sources),
        "since": period.begin,
        "until": period.end,
        "scheme": scheme.kind,
        "settings": {"scheme": plain(scheme), "plan": plain(plan), "paper": plain(job.paper), "warm_up_ms": job.warm_up_ms, "optuna": optuna.__version__},
        "rate": rate,
        "searches": searches,
    }  # fmt: skip
    _write(out, report, found)
    return report


def _described(name: str, one: SearchResult, space: Space, plan: Plan) -> Json:
    parent = sorted((row for fold in one.folds for row in fold.parent_trades), key=lambda row: (row["event_time"], row["trade_id"]))
    sums = list(accumulate(row["net_r"] for row in parent))
    return {
        "strategy": name,
        "trials": one.trials,
        "objective": OBJECTIVES[plan.objective],
        "space": space.describe(),
        "test": plain(one.test),
        "train": plain(one.train),
        "parent": plain(one.parent),
        "parent_curve": [[row["event_time"], total] for row, total in zip(parent, sums, strict=True)],
        "gate": plain(one.gate),
        "deflated": one.deflated,
        "folds": [
            {
                "train": plain(list(fold.fold.train)),
                "test": plain(fold.fold.test),
                "trials": len(fold.trials),
                "chosen": plain(fold.chosen),
                "config": None if fold.config is None else fold.config.to_record(),
                "deflated": fold.deflated,
                "test_trades": len(fold.test_trades),
                "test_net_r": sum(row["net_r"] for row in fold.test_trades),
                "parent_net_r": sum(row["net_r"] for row in fold.parent_trades),
                "all_trials": plain(fold.trials),
            }
            for fold in one.folds
        ],
    }


def _write(out: Path, report: Json, found: Mapping[str, SearchResult]) -> None:
    trades = {name: one.test_trades for name, one in found.items()}
    (out / "search.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out / "search.md").write_text(search_markdown(report), encoding="utf-8")
    write_search(out / "search.html", report, trades)
    with (out / "test_trades.csv").open("w", encoding="utf-8", newline="") as file:
        write_trades(file, ({"maker_notional": None, "notional": None, **row} for rows in trades.values() for row in rows))
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("strategy", "fold", "trial", "value", "trades", "net_r", "sharpe", "point"))
        for name, one in found.items():
            for number, fold in enumerate(one.folds):
                for trial in fold.trials:
                    value = "" if trial.value is None else trial.value
                    writer.writerow((name, number, trial.number, value, trial.trades, trial.net_r, trial.sharpe, json.dumps(trial.point)))
    for name, one in found.items():
        last = one.folds[-1].config
        if last is not None:
            # Paused: a person or the cost gate decides whether it may run.
            chosen = replace(last, strategy_id=f"{name[:56]}-chosen", display_name=f"{name[:43]}-chosen", status="paused")
            file_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            (out / f"{file_name}.toml").write_text(strategy_text(chosen), encoding="utf-8")

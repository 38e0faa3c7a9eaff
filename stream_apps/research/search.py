"""Parameter search that is out of sample by construction: each fold is searched on its training only, and its reported result comes from the test after it.

An evaluator takes strategies and one stretch of time, and returns their closed trades. The search asks it for training stretches, makes the
choice, and only then asks for the test. Every trial is kept and counted; the result of the best is deflated by all of them (``trials``).

**The same search gives the same trials**, with any number of processes and after any number of interruptions. Trials are requested in
batches of a fixed size. The sampler (Optuna's TPE) gets a new seed for each batch, and the history of the batches before. The results of a
batch are stored before the next one. A killed search requests its last batch again and evaluates only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, sqrt
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from stream_apps.core.performance.numbers import deviation, mean
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.research.bootstrap import Mean, mean_of
from stream_apps.research.cost_gate import Gate, cost_gate
from stream_apps.research.space import Space
from stream_apps.research.splits import Fold, Interval
from stream_apps.research.trials import deflated_sharpe

Trade = Mapping[str, Any]
OBJECTIVES = {
    "t": "mean net R / its standard error: rewards what is steady and frequent",
    "net_r": "sum of net R",
    "mean_r": "mean net R a trade",
}
# Below every value of a trial with enough trades. The value grows with the number of trades.
_TOO_FEW = -1e6


class Evaluator(Protocol):
    """Runs strategies over a stretch of time."""

    def __call__(self, strategies: Sequence[StrategyConfig], within: Interval, run_out: bool = False) -> list[list[Trade]]:
        """Return the closed trades of each strategy that were entered and closed within the interval, in order of their exits.

        With ``run_out`` also those that were entered within it and closed later: in a test, a trade that is open at the end counts with its
        result. A training must not look beyond the end of its interval.
        """
        ...


class SearchMismatch(ValueError):
    """The storage holds another search."""


@dataclass(frozen=True)
class Plan:
    """Settings of a search.

    Attributes:
        trials: Number of trials of each fold, including the parent as the first.
        batch: Number of trials requested together.
        seed: Seed of the sampler.
        objective: One of ``OBJECTIVES``, over the training's trades.
        least_trades: With fewer training trades there is no result.
    """

    trials: int = 60
    batch: int = 10
    seed: int = 1
    objective: str = "t"
    least_trades: int = 10

    def __post_init__(self) -> None:
        """Raise ValueError, naming the number, for an impossible value."""
        for name in ("trials", "batch", "least_trades"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")


@dataclass(frozen=True)
class Trial:
    """One point of the space, evaluated on the training of a fold.

    Attributes:
        number: In the fold, from 0.
        point: Its coordinates. value: Objective. None: too few trades.
        trades, net_r: On the training. sharpe: Mean / standard deviation of a trade's net R; 0 if undefined.
    """

    number: int
    point: dict[str, Any]
    value: float | None
    trades: int
    net_r: float
    sharpe: float


@dataclass
class FoldResult:
    """The result of a fold.

    Attributes:
        fold: Its stretches. trials: All trials. chosen: The best on the training. None: none had enough trades and an objective above zero,
            so the test has no trades.
        config: Its strategy.
        train_trades, test_trades: Of the chosen strategy. parent_trades: Of the parent in the test.
        deflated: Probability that the choice is better on the training than the best of all trials would be by chance.
    """

    fold: Fold
    trials: list[Trial]
    chosen: Trial | None = None
    config: StrategyConfig | None = None
    train_trades: list[Trade] = field(default_factory=list)
    test_trades: list[Trade] = field(default_factory=list)
    parent_trades: list[Trade] = field(default_factory=list)
    deflated: float | None = None


@dataclass
class SearchResult:
    """The result of a search through all folds.

    Attributes:
        folds: In order of their tests.
        trials: Number of all trials.
        test: Mean net R of the test trades of all folds, with one-sided p-value.
        train: The same for the choices on their own training. It shows the optimism of the training.
        parent: Mean net R of the parent in the same tests.
        gate: Cost gate of the test trades.
        deflated: Median over the folds of ``FoldResult.deflated``, computed with all trials of all folds.
    """

    folds: list[FoldResult]
    trials: int
    test: Mean | None
    train: Mean | None
    parent: Mean | None
    gate: Gate
    deflated: float | None

    @property
    def test_trades(self) -> list[Trade]:
        """Return the trades of all tests, in order of their exits."""
        return _in_order(trade for one in self.folds for trade in one.test_trades)


def value_of(trades: Sequence[Trade], plan: Plan) -> float | None:
    """Return the objective of trades; None if they are too few."""
    results = [float(row["net_r"]) for row in trades]
    if len(results) < plan.least_trades:
        return None
    if plan.objective == "net_r":
        return fsum(results)
    if plan.objective == "mean_r":
        return mean(results)
    spread = deviation(results) if len(results) > 1 else 0.0
    return mean(results) / spread * sqrt(len(results)) if spread > 0 else 0.0


def fingerprint(space: Space, folds: Sequence[Fold], plan: Plan, data: str) -> str:
    """Return the identity of a search: parent, space, folds, plan without the number of trials, and data (for example a hash)."""
    text = json.dumps(
        [config_hash(space.parent), space.describe(), [[list(one.train), one.test] for one in folds],
         [plan.batch, plan.seed, plan.objective, plan.least_trades], data, optuna.__version__]
    )  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def search(
    evaluate: Evaluator,
    space: Space,
    folds: Sequence[Fold],
    plan: Plan,
    *,
    storage: Path | None = None,
    name: str = "search",
    data: str = "",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> SearchResult:
    """Search every fold on its training, and test the choices.

    Args:
        evaluate: Runs strategies.
        space: The space to search. Its parent is the first trial of every fold.
        folds: Trainings and tests.
        plan: How.
        storage: SQLite file of Optuna studies, one a fold, from which an interrupted search continues. None: in memory.
        name: Name of the studies.
        data: Identity of the data. A storage of other data is refused.
        tell: Called with (trials done, trials of all folds).

    Raises:
        SearchMismatch: the storage holds another search under this name.
        ValueError: no folds.
    """
    if not folds:
        raise ValueError("folds: the period is too short for one training and one test")
    _quiet()
    mark = fingerprint(space, folds, plan, data)
    place = optuna.storages.InMemoryStorage() if storage is None else optuna.storages.RDBStorage(f"sqlite:///{storage}")
    results = []
    for number, fold in enumerate(folds):
        study = optuna.create_study(study_name=f"{name} fold {number}", storage=place, direction="maximize", load_if_exists=True)
        if study.user_attrs.get("search", mark) != mark:
            raise SearchMismatch(f"{storage}: holds another search (parent, space, folds, data or plan differ) under the name {name!r}")
        study.set_user_attr("search", mark)
        results.append(_search_fold(evaluate, space, fold, plan, study, number, len(folds), tell))
    every = [trial.sharpe for one in results for trial in one.trials]
    parent = space.config({}, strategy_id=_id(space, "parent"))
    for one in results:
        if one.chosen is not None:
            assert one.config is not None
            one.train_trades = _over(evaluate, [one.config], one.fold.train)[0]
            one.deflated = deflated_sharpe([row["net_r"] for row in one.train_trades], every)
            # The choice is made. Only now is the test evaluated.
            one.test_trades, one.parent_trades = evaluate([one.config, parent], one.fold.test, True)
        else:
            (one.parent_trades,) = evaluate([parent], one.fold.test, True)
    return _summed(results, len(every), plan)


def _search_fold(
    evaluate: Evaluator, space: Space, fold: Fold, plan: Plan, study: optuna.Study, number: int, of: int, tell: Callable[[int, int], None]
) -> FoldResult:
    distributions = {name: _distribution(axis) for name, axis in space.axes.items()}
    known = _completed(study, plan.trials)
    while len(known) < plan.trials:
        batch = len(known) // plan.batch
        first = batch * plan.batch
        points = _ask(known[:first], distributions, plan, batch)
        todo = points[len(known) - first :]
        configs = [space.config(point, strategy_id=_id(space, f"{number}.{len(known) + place}")) for place, point in enumerate(todo)]
        for point, trades in zip(todo, _over(evaluate, configs, fold.train), strict=True):
            results = [float(row["net_r"]) for row in trades]
            value = value_of(trades, plan)
            spread = deviation(results) if len(results) > 1 else 0.0
            found = {
                "trades": len(results),
                "net_r": fsum(results),
                "sharpe": mean(results) / spread if spread > 0 else 0.0,
                "value": value,
            }
            # The parent may lie off the axes. Its point is empty, and it is in the history without coordinates.
            study.add_trial(
                optuna.create_trial(
                    params=dict(point), distributions={name: distributions[name] for name in point}, value=_TOO_FEW + len(results) if value is None else value,
                    user_attrs=found,
                )
            )  # fmt: skip
        known = _completed(study, plan.trials)
        tell(number * plan.trials + len(known), of * plan.trials)
    trials = [
        Trial(place, dict(one.params), one.user_attrs["value"], one.user_attrs["trades"], one.user_attrs["net_r"], one.user_attrs["sharpe"])
        for place, one in enumerate(known)
    ]
    # A choice that loses on its training is not traded in the test.
    judged = [trial for trial in trials if trial.value is not None and trial.value > 0]
    result = FoldResult(fold, trials)
    if judged:
        # The first of equal values: the parent before others.
        result.chosen = max(judged, key=lambda trial: (trial.value, -trial.number))
        result.config = space.config(result.chosen.point, strategy_id=_id(space, f"{number}.chosen"))
    return result


def _completed(study: optuna.Study, most: int) -> list[FrozenTrial]:
    return sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda trial: trial.number)[:most]


def _ask(history: Sequence[FrozenTrial], distributions: dict[str, BaseDistribution], plan: Plan, batch: int) -> list[dict[str, Any]]:
    """Return the points of a batch. They depend on the trials before it, the seed and the number of the batch only."""
    sampler = optuna.samplers.TPESampler(
        seed=plan.seed * 1_000_003 + batch, n_startup_trials=min(20, plan.trials // 2 + 1), constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(history)
    size = min(plan.batch, plan.trials - batch * plan.batch)
    points: list[dict[str, Any]] = [{}] if batch == 0 else []
    while len(points) < size:
        points.append(dict(study.ask(distributions).params))
    return points


def _over(evaluate: Evaluator, configs: Sequence[StrategyConfig], stretches: Sequence[Interval]) -> list[list[Trade]]:
    """Return the trades of each strategy over all stretches."""
    found: list[list[Trade]] = [[] for _ in configs]
    for within in stretches:
        for into, trades in zip(found, evaluate(configs, within), strict=True):
            into.extend(trades)
    return [_in_order(trades) for trades in found]


def _in_order(trades: Any) -> list[Trade]:
    return sorted(trades, key=lambda row: (row["event_time"], row["trade_id"]))


def _id(space: Space, what: str) -> str:
    return f"{space.parent.strategy_id[:48]}~{what}"


def _distribution(axis: Any) -> BaseDistribution:
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    return FloatDistribution(axis.low, axis.high, step=axis.step)


def _summed(results: list[FoldResult], trials: int, plan: Plan) -> SearchResult:
    def judged(name: str) -> Mean | None:
        rows = _in_order(row for one in results for row in getattr(one, name))
        return mean_of([row["net_r"] for row in rows])

    deflated = sorted(one.deflated for one in results if one.deflated is not None)
    tests = _in_order(row for one in results for row in one.test_trades)
    return SearchResult(
        results, trials, judged("test_trades"), judged("train_trades"), judged("parent_trades"), cost_gate(tests),
        deflated[len(deflated) // 2] if deflated else None,
    )  # fmt: skip


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # constant_liar is marked experimental. A change in a later release does not affect stored trials.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

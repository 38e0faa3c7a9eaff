"""``perpflow evolve``: judges the running paper strategies, proposes successors, and on request writes the changes, all or none."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.backtest.evolution.stored_trades import paper_trades
from deploy.backtest.job import TOPICS, Job, is_log, open_job
from deploy.backtest.research import ReplayEvaluator, plain, span
from deploy.report.evolve import markdown
from schemas.codec.avro import CodecError
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from sinks.commands.strategies.log import StrategyLog, market_marks, partition_for
from sinks.commands.strategies.revisions import PublishResult
from sinks.commands.strategies.transaction import StrategyEdit, publish_together
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.replay.run import Result
from stream_apps.replay.sources.topics import TopicSource
from stream_apps.research import evolve
from stream_apps.research.evolve import DAY_MS, EDITOR, Change, Fitness, Judged, Limits
from stream_apps.research.search import Plan, Trade, value_of
from stream_apps.research.splits import Interval

Json = dict[str, Any]


@dataclass
class Market:
    """The scores of an instrument in 24 hours.

    Attributes:
        regimes: Regime -> evaluations. evaluations, signals: Numbers.
    """

    regimes: Counter[str] = field(default_factory=Counter)
    evaluations: int = 0
    signals: int = 0


@dataclass
class ScoreCount:
    """Scores of one strategy in 24 hours (S1 9.2).

    Attributes:
        evaluations: All scores, warm or not. signals: Scores with a signal.
        points: Sum of the scores that emitted a signal.
    """

    evaluations: int = 0
    signals: int = 0
    points: float = 0.0

    @property
    def average(self) -> float | None:
        """Mean score of the signals, None without a signal."""
        return self.points / self.signals if self.signals else None


@dataclass
class Evolution:
    """A run.

    Attributes:
        period: The look-back. test: The part of it that judged the candidates.
        strategies: Running paper strategies with the fitness of their stored paper trades over the period.
        left_alone: Running strategies that are not on paper, with the reason.
        markets: Instrument -> its scores of the last 24 h. scores: Strategy -> its scores in the last 24 h.
        candidates: The judged candidates. plan: The tries of each instrument, as text.
        changes: Proposed changes. notes: Omitted changes.
        published: The written changes; None: a dry run, or no change.
    """

    at: int
    apply: bool
    limits: Limits
    period: Interval
    test: Interval
    strategies: list[tuple[StrategyConfig, Fitness]] = field(default_factory=list)
    left_alone: list[tuple[str, str]] = field(default_factory=list)
    markets: dict[str, Market] = field(default_factory=dict)
    scores: dict[str, ScoreCount] = field(default_factory=dict)
    candidates: list[Judged] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    published: PublishResult | None = None


class _Scores:
    """Counts the scores of a period by instrument and strategy."""

    def __init__(self, settings: Settings, since: int) -> None:
        self._decode = settings.codec.decode
        self._since = since
        self.markets: dict[str, Market] = {}
        self.strategies: dict[str, ScoreCount] = {}

    def take(self, partition: int, result: Result) -> None:
        if result.topic != "scores":
            return
        score = self._decode("scores", result.value)
        if score["event_time"] < self._since:
            return
        count = self.strategies.setdefault(score["strategy_id"], ScoreCount())
        count.evaluations += 1
        if score["signalled"]:
            count.signals += 1
            count.points += score["score"]
        market = self.markets.setdefault(score["instrument"], Market())
        if score["warm"]:
            market.regimes[score["regime"]] += 1
            market.evaluations += 1
            market.signals += score["signalled"]


def live_ids(settings: Settings) -> set[str]:
    """Return the strategies with a position that was not on paper."""
    found = set()
    with TopicSource(settings, ("positions",)) as source:
        for _, _, records in source.everything():
            plain_records = records.rows(0, len(records))
            for row in range(len(plain_records)):
                try:
                    position = settings.codec.decode("positions", plain_records.value(row))
                except CodecError:
                    continue  # the sink writes its dead letter
                if position["mode"] != "paper":
                    found.add(position["strategy_id"])
    return found


def run(
    settings: Settings, job: Job, limits: Limits, *, apply: bool, only: Sequence[str], processes: int | None, now: int,
    tell: Callable[[str], None] = lambda what: None,
) -> Evolution:  # fmt: skip
    """Judge the strategies, plan the changes, and with ``apply`` write them.

    Args:
        settings: The environment, with its strategies topic.
        job: Source of the market data; its strategies are not used. Its ``until`` ends the look-back; None: the newest mark, or the end of
            the files.
        limits: Of the run.
        apply: Write the plan; otherwise nothing is written.
        only: Strategies to judge; empty: all running ones.
        now: Wall clock, ms UTC: ages, the day's changes, and the time of the revisions.
        processes: Of the replays.
        tell: Receives progress messages.

    Raises:
        UserError: an unknown strategy, one that is traded with money with ``apply``, no answer from the database, or missing market data.
            Nothing was written.
    """
    log = strategy_log.read(settings)
    live = live_ids(settings)
    running = _running(log, only, live, apply)
    end = _end(settings, job, [config for config in running if not evolve.is_live(config, live)])
    period = Interval(end - limits.lookback_ms, end)
    split = end - limits.test_ms
    made = Evolution(now, apply, limits, period, Interval(split, end))
    mine = []
    for config in running:
        if evolve.is_live(config, live):
            made.left_alone.append((config.strategy_id, "may be traded with money"))
        else:
            mine.append(config)
    if not mine:
        made.plan.append("no running strategy on paper")
        return made
    job = _job(job, mine, period)
    opened = open_job(job, settings)
    if opened.instruments is not None:
        _leave_alone(made, mine, opened.instruments)
    tell("replaying the running strategies")
    seen = _Scores(settings, end - DAY_MS)
    if mine:
        begun = [replace(one, effective_time=period.begin) for one in mine]
        replace(open_job(replace(job, since=max(period.begin, end - DAY_MS)), settings), strategies=begun).run(seen.take)
    # The instruments of a log are unknown beforehand.
    _leave_alone(made, mine, seen.markets)
    if not mine:
        made.plan.append("no running strategy on paper has market data in the last 24 hours of the look-back")
        return made
    job = _job(job, mine, period)
    made.markets = {name: seen.markets[name] for name in sorted({name for one in mine for name in one.all_instruments})}
    made.scores = {one.strategy_id: seen.strategies.get(one.strategy_id, ScoreCount()) for one in mine}
    # Running strategies are judged by their trades (S1 9.2). Candidates have none yet, so a replay judges them.
    stored = paper_trades(settings, mine, period)
    days = limits.lookback_ms / DAY_MS
    made.strategies = sorted(
        ((one, evolve.fitness(stored[one.strategy_id], days, limits.min_closed_trades)) for one in mine),
        key=lambda pair: (-pair[1].value, pair[0].strategy_id),
    )
    with ReplayEvaluator(job, settings, processes) as evaluate:
        _judge(made, log, mine, stored, evaluate, tell)
    scores = {config.strategy_id: known.value for config, known in made.strategies}
    accepted = [one for one in made.candidates if one.accepted]
    born = {strategy_id: revisions[0].event_time for strategy_id, revisions in log.revisions.items()}
    today = sum(one.edited_by == EDITOR and now - one.event_time < DAY_MS for revisions in log.revisions.values() for one in revisions)
    wanted = [one for one in log.newest.values() if not only or one.strategy_id in only or evolve.evolved(one)]
    made.changes, made.notes = evolve.planned(accepted, wanted, born, scores, now, today, limits, live)
    if apply and made.changes:
        made.published = write(settings, made.changes, now)
    return made


def _leave_alone(made: Evolution, mine: list[StrategyConfig], there: Collection[str]) -> None:
    """Remove the strategies of missing instruments."""
    for config in list(mine):
        if absent := [name for name in config.all_instruments if name not in there]:
            mine.remove(config)
            made.left_alone.append((config.strategy_id, f"the source has no {', '.join(absent)}"))


def write(settings: Settings, changes: Sequence[Change], now: int) -> PublishResult:
    """Write changes, all or none.

    Raises:
        UserError: a strategy may be traded with money, or was edited meanwhile. Nothing was written.
    """
    newest, live = strategy_log.read(settings).newest, live_ids(settings)
    for change in changes:
        known = newest.get(change.config.strategy_id)
        if any(evolve.is_live(one, live) for one in (change.config, known) if one is not None):
            raise UserError(
                f"{change.config.strategy_id}: tags: may be traded with money; evolve changes paper strategies only, nothing was written"
            )
    return publish_together(settings, [StrategyEdit(one.config, one.expected, f"{one.kind}: {one.reason}") for one in changes], now, EDITOR)


def _running(log: StrategyLog, only: Sequence[str], live: set[str], apply: bool) -> list[StrategyConfig]:
    newest = log.newest
    for name in only:
        if name not in newest:
            raise UserError(f"--strategy: no strategy {name!r}")
        if newest[name].status != "running":
            raise UserError(f"--strategy: {name} is {newest[name].status}")
        if apply and evolve.is_live(newest[name], live):
            raise UserError(f"--apply: {name} may be traded with money; evolve changes paper strategies only, nothing was written")
    return [one for _, one in sorted(newest.items()) if one.status == "running" and (not only or one.strategy_id in only)]


def _end(settings: Settings, job: Job, running: Sequence[StrategyConfig]) -> int:
    """Return the end of the look-back."""
    if job.until is not None:
        return job.until
    if job.sources == (TOPICS,):
        marks = market_marks(settings, {partition_for(settings, one) for one in running})
        times = [time_ for seen in marks.values() for _, time_ in seen]
        if not times and running:
            raise UserError("--source: the topics hold no market data of the running strategies")
        return max(times, default=0)
    # Files can be opened only with a strategy; its results are not used.
    return span(open_job(replace(job, strategies=job.strategies or ("v54_factory",)), settings)).end


def _job(job: Job, mine: Sequence[StrategyConfig], period: Interval) -> Job:
    if is_log(job.sources[0]):
        return replace(
            job,
            symbols=tuple(sorted({name for one in mine for name in one.all_instruments})),
            since=period.begin,
            until=period.end,
            strategies=(),
        )
    return replace(job, since=period.begin, until=period.end, strategies=("v54_factory",))


def _judge(
    made: Evolution, log: StrategyLog, mine: Sequence[StrategyConfig], stored: Mapping[str, Sequence[Trade]], evaluate: ReplayEvaluator,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Try mutations of each instrument's best strategy on the training, and judge the best mutations on the test."""
    limits, train = made.limits, Interval(made.period.begin, made.test.begin)
    days = (train.end - train.begin) / DAY_MS
    plan = Plan(objective="t", least_trades=max(2, limits.min_closed_trades // 2))
    day = f"{datetime.fromtimestamp(made.at / 1000, UTC):%Y-%m-%d}"
    parents: dict[str, StrategyConfig] = {}
    worth: dict[str, float] = {}
    for config in mine:
        # Trades that closed in the test must not choose the parent.
        rows = [row for row in stored[config.strategy_id] if row["event_time"] < train.end]
        worth[config.strategy_id] = evolve.fitness(rows, days, limits.min_closed_trades).value
        known = parents.get(config.instrument)
        if known is None or worth[config.strategy_id] > worth[known.strategy_id]:
            parents[config.instrument] = config
    tried: list[tuple[StrategyConfig, StrategyConfig]] = []
    for name, parent in sorted(parents.items()):
        regime = evolve.regime_of(made.markets[name].regimes)
        known_here = [one for one in log.newest.values() if one.instrument == name]
        found = evolve.mutations(parent, regime, known_here, limits.candidates, limits.seed, day) if limits.max_new_per_symbol else []
        known_ids = {one.strategy_id for one in known_here}
        found = [one for one in found if one.strategy_id not in known_ids]
        said = (
            f"{len(found)} mutations tried"
            if found
            else "no new ones are requested"
            if not limits.max_new_per_symbol
            else "all parameters covered"
        )
        made.plan.append(f"{name}: regime {regime}, parent {parent.strategy_id}, {said}")
        tried += [(one, parent) for one in found]
    if not tried:
        return
    tell(f"replaying {len(tried)} mutations")
    trained = evaluate([one for one, _ in tried], train)
    chosen: list[tuple[StrategyConfig, StrategyConfig, Sequence[Trade]]] = []
    for name in sorted(parents):
        mine_ = [
            (value_of(rows, plan), one, parent, rows) for (one, parent), rows in zip(tried, trained, strict=True) if one.instrument == name
        ]
        best = sorted(
            ((v, one, parent, rows) for v, one, parent, rows in mine_ if v is not None and v > 0),
            key=lambda row: (-row[0], row[1].strategy_id),
        )
        chosen += [(one, parent, rows) for _, one, parent, rows in best[: limits.max_new_per_symbol]]
        if mine_ and not best:
            made.plan.append(f"{name}: no mutation was profitable with at least {plan.least_trades} trades in the training")
    if not chosen:
        return
    tell(f"judging {len(chosen)} out of sample")
    olds = list({parent.strategy_id: parent for _, parent, _ in chosen}.values())
    tested = evaluate([*(one for one, _, _ in chosen), *olds], made.test, True)
    of_parent = {one.strategy_id: rows for one, rows in zip(olds, tested[len(chosen) :], strict=True)}
    made.candidates = evolve.judged(
        [
            Judged(
                one, parent.strategy_id, evolve.mean_r(rows), evolve.mean_r(test), evolve.mean_r(of_parent[parent.strategy_id]),
                sum(row["net_r"] for row in test), sum(row["net_r"] for row in of_parent[parent.strategy_id]),
            )
            for (one, parent, rows), test in zip(chosen, tested, strict=False)
        ],
        limits,
    )  # fmt: skip


# --- the report --------------------------------------------------------------------------------------------------------


def report_of(made: Evolution, job: Job) -> Json:
    """Return a run as plain values. Times are ms UTC."""
    ranked = [
        {"strategy_id": config.strategy_id, "display_name": config.display_name, "instrument": config.instrument, "revision": config.revision,
         "config_hash": config_hash(config), "evolved": evolve.evolved(config), "fitness": plain(known),
         "ticks_24h": made.scores[config.strategy_id].evaluations,
         "entry_signals_24h": made.scores[config.strategy_id].signals, "avg_signal_score_24h": made.scores[config.strategy_id].average}
        for config, known in made.strategies
    ]  # fmt: skip
    written = (
        {} if made.published is None else {one.config.strategy_id: one.config.revision for one in made.published.outcomes if one.written}
    )
    return {
        "report": "perpflow evolve",
        "version": 1,
        "generated_at": made.at,
        "mode": "apply" if made.apply else "dry run",
        "source": list(job.sources),
        "limits": plain(made.limits),
        "period": plain(made.period),
        "test": plain(made.test),
        "running_strategies": ranked,
        "top3": [one["strategy_id"] for one in ranked[:3]],
        "bottom3": [one["strategy_id"] for one in ranked[::-1][:3]],
        "left_alone": [{"strategy_id": name, "reason": reason} for name, reason in made.left_alone],
        "symbols": [
            {"instrument": name, "regime": evolve.regime_of(market.regimes), "regimes": dict(market.regimes.most_common()), "evaluations": market.evaluations,
             "signals": market.signals}
            for name, market in made.markets.items()
        ],
        "plan": made.plan,
        "candidates": [
            {"strategy_id": one.config.strategy_id, "display_name": one.config.display_name, "instrument": one.config.instrument, "parent": one.parent,
             "train": plain(one.train), "test": plain(one.test), "parent_test": plain(one.parent_test), "test_net_r": one.test_net_r,
             "parent_net_r": one.parent_net_r, "accepted": one.accepted, "reason": one.reason, "config": one.config.to_record()}
            for one in made.candidates
        ],
        "changes": [
            {"kind": one.kind, "strategy_id": one.config.strategy_id, "instrument": one.config.instrument, "expected_revision": one.expected,
             "reason": one.reason, "written_revision": written.get(one.config.strategy_id)}
            for one in made.changes
        ],
        "notes": made.notes,
        "effective_time": 0 if made.published is None else made.published.effective_time,
    }  # fmt: skip


def write_report(folder: Path, report: Json) -> Path:
    """Write the report as JSON and Markdown under ``folder``/YYYY-MM-DD; return the Markdown's path. Raises OSError."""
    at = datetime.fromtimestamp(report["generated_at"] / 1000, UTC)
    place = folder / f"{at:%Y-%m-%d}"
    place.mkdir(parents=True, exist_ok=True)
    name = f"{at:%H%M%S}_auto_evolve"
    (place / f"{name}.json").write_text(json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    path = place / f"{name}.md"
    path.write_text(markdown(report), encoding="utf-8")
    return path


def clock_ms() -> int:
    """Return the wall clock, ms UTC."""
    return time.time_ns() // 1_000_000

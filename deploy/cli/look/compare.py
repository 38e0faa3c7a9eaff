"""``perpflow compare``: compare two strategies."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.report.formatting import bounded
from schemas.errors import UserError
from stream_apps.core.performance.comparison import CONFIDENCE, LEAST_IN_GROUP, SEED, Interval, Pair, Side


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Strategy id, or ID@HASH for one configuration of it.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other strategy, likewise.")],
    topics: Annotated[
        bool, typer.Option("--from-topics", help="Read the topics instead of the database. Default if DATABASE_URL is not set.")
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(help="Start of the period, UTC: closing times of trades, evaluation instants of scores.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="End of the period, UTC.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = SEED,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file, as JSON.")] = None,
) -> None:
    """Compare closed trades and scores of two strategies: win rate, mean R with its confidence interval, profit factor, drawdown, correlation.

    A verdict needs 100 closed trades of each strategy (50 in a group) and a 95 % confidence interval of the difference in mean R
    that does not contain 0.

    Example: perpflow compare eth-quick eth-slow --since 2026-11-01
    """
    from deploy.backtest.comparison import Chosen, from_database, from_topics
    from deploy.cli import settings
    from stream_apps.core.performance.comparison import compare as compared
    from stream_apps.replay.sources.topics import TopicsError

    environment = settings()
    chosen = [Chosen.parse(a), Chosen.parse(b)]
    bounds = (_ms(since), _ms(until))
    if topics or not environment.database_url:
        try:
            one, other = from_topics(environment, chosen, *bounds)
        except TopicsError as error:
            raise UserError(f"compare: {error}") from error
    else:
        one, other = (from_database(environment, side, *bounds) for side in chosen)
    for side, found in zip(chosen, (one, other), strict=True):
        if not found.trades and not found.scores:
            raise UserError(f"{side.strategy_id}: no closed trades and no scores{' under this configuration' if side.config_hash else ''}")
    result = compared(one.trades, other.trades, one.scores, other.scores, seed=seed)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(_summary(a, b, result.all))
    for name, pairs in result.groups.items():
        console.print(_group(name, pairs))
    correlation = "not defined" if result.correlation is None else f"{result.correlation:+.3f}"
    typer.echo(f"Correlation of scores: {correlation}, over {result.instants:,} instants that both evaluated.")
    for name, side_ in ((a, result.all.a), (b, result.all.b)):
        if len(side_.configurations) > 1:
            typer.echo(
                f"{name} has {len(side_.configurations)} configurations ({', '.join(side_.configurations)}); choose one with {name}@HASH."
            )
    typer.echo(_verdict(a, b, result.all))
    if json_file is not None:
        json_file.write_text(json.dumps({"a": a, "b": b, **asdict(result)}, indent=1) + "\n", encoding="utf-8")


def _ms(time: datetime | None) -> int | None:
    return None if time is None else round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1000)


def _verdict(a: str, b: str, pair: Pair) -> str:
    if pair.verdict == "too few trades":
        return (
            f"Too few trades for a verdict: {pair.a.trades} and {pair.b.trades} closed trades, each side needs {pair.least} "
            f"(in a group {LEAST_IN_GROUP})."
        )
    shown = f"mean R of {a} minus mean R of {b}: {_signed(pair.difference)}, {CONFIDENCE:.0%} interval {_interval(pair.interval)}"
    if pair.verdict == "neither":
        return f"No significant difference: {shown}, which contains 0."
    return f"{a if pair.verdict == 'A' else b} is better: {shown}."


def _summary(a: str, b: str, pair: Pair) -> Table:
    table = Table("", a, b)
    rows = (
        ("closed trades", lambda side: f"{side.trades:,}"),
        ("win rate", _win_rate),
        ("mean R", lambda side: _signed(side.mean_r)),
        (f"{CONFIDENCE:.0%} interval", lambda side: _interval(side.interval)),
        ("net R", lambda side: f"{side.net_r:+.2f}"),
        ("net pnl", lambda side: f"{side.net_pnl:+,.2f}"),
        ("profit factor", _profit_factor),
        ("max drawdown", lambda side: f"{side.drawdown_r:.2f} R, {side.drawdown_pnl:,.2f}"),
    )
    for name, text in rows:
        table.add_row(name, text(pair.a), text(pair.b))
    return table


def _group(name: str, pairs: list[Pair]) -> Table:
    table = Table(name, "trades A/B", "win rate A/B", "mean R A/B", "PF A/B", "drawdown R A/B", "difference", "better")
    for pair in pairs:
        a, b = pair.a, pair.b
        table.add_row(
            pair.name,
            f"{a.trades}/{b.trades}",
            f"{_win_rate(a)} / {_win_rate(b)}",
            f"{_signed(a.mean_r)}/{_signed(b.mean_r)}",
            f"{_profit_factor(a)} / {_profit_factor(b)}",
            f"{a.drawdown_r:.2f}/{b.drawdown_r:.2f}",
            f"{_signed(pair.difference)} {_interval(pair.interval)}",
            pair.verdict,
        )
    return table


def _profit_factor(side: Side) -> str:
    reason = "no losing trade" if side.trades else "no closed trades"
    return bounded(side.profit_factor, side.profit_factor_low, side.profit_factor_high, side.trades, ".2f", reason)


def _win_rate(side: Side) -> str:
    return bounded(side.win_rate, side.win_rate_low, side.win_rate_high, side.trades, ".1%")


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"

"""``perpflow evolve``: a daily report on the paper strategies and what might follow them; with --apply also the change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deploy.cli.options.sources import Source, Venue, WarmUp, time_ms
from schemas.errors import UserError


def evolve(
    source: Source = ["topics"],  # noqa: B006
    apply: Annotated[bool, typer.Option("--apply", help="Write the changes, all or none. Without it nothing is written but the report.")] = False,
    strategy: Annotated[list[str] | None, typer.Option(help="Running strategies to look at; repeatable. Default: all that run on paper.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="End of the look-back; default: the newest market data.")] = None,
    lookback: Annotated[str, typer.Option(help="What is looked back on: 7d, 36h.")] = "7d",
    test: Annotated[str, typer.Option(help="Its last part, which judges; the rest chooses.")] = "2d",
    min_closed_trades: Annotated[int, typer.Option(min=2, help="Fewer are no judgement.")] = 12,
    candidates: Annotated[int, typer.Option(min=1, help="Mutations tried for each instrument.")] = 12,
    max_new_per_symbol: Annotated[int, typer.Option(min=0, help="Created in a run for each instrument; 0: none.")] = 1,
    max_running_per_symbol: Annotated[int, typer.Option(min=0, help="Evolved strategies that may run on an instrument; beyond, the worst is deprecated.")] = 3,
    min_age: Annotated[str, typer.Option(help="Younger evolved strategies are not deprecated.")] = "24h",
    max_changes_per_day: Annotated[int, typer.Option(min=0, help="Revisions within 24 hours.")] = 8,
    rate: Annotated[float, typer.Option(help="Of what is created at most this share is expected to be no better than nothing.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the mutations.")] = 1,
    warm_up: WarmUp = 26.0,
    processes: Annotated[int | None, typer.Option(min=1, help="Of the replays; default: one a core.")] = None,
    venue: Venue = "BINANCE",
    out: Annotated[Path, typer.Option(help="Folder; the report goes into YYYY-MM-DD/HHMMSS_auto_evolve.md and .json in it.")] = Path("reports/auto-evolve"),
) -> None:  # fmt: skip
    """Rank the running paper strategies, try mutations of the best, judge them out of sample, and propose what to create and what to deprecate.

    A dry run unless --apply is given. Strategies that may be traded with money (tag live or testnet, or a position that was not on paper) are never changed.
    --apply writes everything in one transaction or nothing; the audit trail of each strategy names auto-evolve and the reason.

    Examples:

      perpflow evolve --out reports

      perpflow evolve --apply --lookback 14d --test 4d
    """
    from deploy.backtest.evolve import clock_ms, report_of, run, write_report
    from deploy.backtest.job import Job, is_log
    from deploy.backtest.research import length_ms
    from deploy.cli import settings
    from stream_apps.research.evolve import Limits

    console = Console(stderr=True)
    try:
        limits = Limits(
            length_ms("--lookback", lookback), length_ms("--test", test), min_closed_trades, candidates, max_new_per_symbol, max_running_per_symbol,
            length_ms("--min-age", min_age), max_changes_per_day, rate, seed,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from error
    # Strategies come from the topic; a name here only lets files be opened.
    named: Any = () if is_log(source[0]) else ("v54_factory",)
    job = Job(sources=tuple(source), venue=venue, strategies=named, until=time_ms("--to", until), warm_up_ms=round(warm_up * 3_600_000))
    with console.status("reading the strategies") as status:
        made = run(settings(), job, limits, apply=apply, only=strategy or (), processes=processes, now=clock_ms(), tell=status.update)
    report = report_of(made, job)
    path = write_report(out, report)
    for line in report["plan"]:
        console.print(line, markup=False)
    for one in report["candidates"]:
        console.print(f"{one['strategy_id']}: {one['reason']}", markup=False)
    for one in report["changes"]:
        done = "would be" if not apply else "is"
        typer.echo(f"{one['strategy_id']}: {done} {'created' if one['kind'] == 'create' else 'deprecated'}: {one['reason']}")
    if not report["changes"]:
        typer.echo("nothing to change")
    for note in report["notes"]:
        console.print(note, markup=False)
    console.print(f"Report: {path}", markup=False, highlight=False)

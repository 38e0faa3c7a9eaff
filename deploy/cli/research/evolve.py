"""``perpflow evolve``: rank the paper strategies, test mutations, and create or retire strategies with --apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deploy.cli.options.sources import Source, Venue, WarmUp, time_ms
from schemas.errors import UserError


def evolve(
    source: Source = ["topics"],  # noqa: B006
    apply: Annotated[bool, typer.Option("--apply", help="Write the changes. Default: only write the report.")] = False,
    strategy: Annotated[list[str] | None, typer.Option(help="Running strategy to consider. Repeatable. Default: all paper strategies.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="End of the look-back period, UTC. Default: newest market data.")] = None,
    lookback: Annotated[str, typer.Option(help="Length of the look-back period, e.g. 7d or 36h.")] = "7d",
    test: Annotated[str, typer.Option(help="Length of the test period at its end. The part before it is the training period.")] = "2d",
    min_closed_trades: Annotated[int, typer.Option(min=2, help="Fewest closed trades for a verdict.")] = 12,
    candidates: Annotated[int, typer.Option(min=1, help="Mutations to test per instrument.")] = 12,
    max_new_per_symbol: Annotated[int, typer.Option(min=0, help="Most strategies to create per instrument and run. 0: none.")] = 1,
    max_running_per_symbol: Annotated[int, typer.Option(min=0, help="Most evolved strategies per instrument; the worst beyond it is deprecated.")] = 3,
    min_age: Annotated[str, typer.Option(help="Keep evolved strategies that are younger than this.")] = "24h",
    max_changes_per_day: Annotated[int, typer.Option(min=0, help="Most revisions to write within 24 hours.")] = 8,
    rate: Annotated[float, typer.Option(help="False discovery rate: share of created strategies without an edge.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the mutations.")] = 1,
    warm_up: WarmUp = 26.0,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes for the replays. Default: one per core.")] = None,
    venue: Venue = "BINANCE",
    every: Annotated[float | None, typer.Option(min=60, metavar="SECONDS", help="Run as a service: one run per interval, e.g. 86400.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for reports. Files: YYYY-MM-DD/HHMMSS_auto_evolve.md and .json.")] = Path("reports/auto-evolve"),
) -> None:  # fmt: skip
    """Rank the running paper strategies, test mutations of the best out of sample, and propose strategies to create or deprecate.

    The fitness of a running strategy comes from its stored paper trades (table trades_closed). Candidates are judged by replay.
    Without --apply this is a dry run. --apply writes all changes in one transaction; the audit trail names auto-evolve and the reason.
    Strategies that may trade real money never change: those with the tag live or testnet, or with a position outside paper.

    Examples:

      perpflow evolve --out reports

      perpflow evolve --apply --lookback 14d --test 4d

      perpflow evolve --every 86400 --lookback 5d --out reports      # a service; it reports and changes nothing
    """
    from deploy.backtest.evolution.evolve import clock_ms, report_of, run, write_report
    from deploy.backtest.evolution.schedule import Schedule
    from deploy.backtest.job import Job, is_log
    from deploy.backtest.research import length_ms
    from deploy.cli import settings
    from schemas.process.service import Service, configure_logging
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

    def once(tell: Callable[[str], None]) -> None:
        made = run(settings(), job, limits, apply=apply, only=strategy or (), processes=processes, now=clock_ms(), tell=tell)
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
            typer.echo("no changes")
        for note in report["notes"]:
            console.print(note, markup=False)
        console.print(f"Report: {path}", markup=False, highlight=False)

    if every is not None:
        configure_logging(settings().log_level)
        with Service("evolve", settings().http_port) as service:
            Schedule(lambda: once(lambda what: service.log.info(what)), out, every, service).run()
        return
    with console.status("reading the strategies") as status:
        once(status.update)

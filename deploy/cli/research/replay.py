"""``perpflow replay``: backtest by replaying recorded market data through the same cores that trade live."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deploy.cli.options.paper import Fees, LatencyMs, MakerFee, SlippageBps, TakerFee, UseFilters, WalkBook, paper_settings
from deploy.cli.options.sources import FIXED, Assigned, Rebind, Since, Source, Strategy, Symbol, Until, Venue, WarmUp, time_ms
from schemas.errors import UserError
from stream_apps.core.paper.position import PaperSettings

if TYPE_CHECKING:
    from stream_apps.core.log.engine_settings import SettingsRevision
    from stream_apps.replay.sources.source import Piece

_DEFAULT = PaperSettings()
_SHOWN = ("trades", "win_rate", "net_r", "expectancy_r", "profit_factor", "max_drawdown_r", "cost_per_trade_r", "sharpe", "net_pnl")


class _Rate(ProgressColumn):
    """Shows records per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def replay(
    source: Source,
    symbol: Symbol = None,
    strategy: Strategy = None,
    set_: Assigned = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE,VALUE", help="Run every strategy with each of these values. Repeatable: runs every combination."),
    ] = None,
    rebind: Rebind = False,
    since: Since = None,
    until: Until = None,
    marks: Annotated[
        str | None,
        typer.Option(metavar="FIRST:LAST", help="Source topics: the period as offsets of the progress topic, instead of --from and --to."),
    ] = None,
    warm_up: WarmUp = 26.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the report: report.html, report.json, trades.csv and signals.csv.")] = None,
    venue: Venue = "BINANCE",
    contract_value: Annotated[
        list[str] | None, typer.Option(metavar="SYMBOL=UNITS", help="OKX swaps: contract size in base units. Repeatable.")
    ] = None,
    latency_ms: LatencyMs = _DEFAULT.latency_ms,
    slippage_bps: SlippageBps = _DEFAULT.slippage_bps,
    taker_fee: TakerFee = _DEFAULT.fees.taker,
    maker_fee: MakerFee = _DEFAULT.fees.maker,
    fees: Fees = None,
    walk_book: WalkBook = _DEFAULT.walk_book,
    use_filters: UseFilters = _DEFAULT.use_filters,
    jobs: Annotated[
        int, typer.Option(min=0, help="Number of processes. It does not change the results. 0: one per core, if that is faster.")
    ] = 0,
    twice: Annotated[
        bool, typer.Option("--twice", help="Check determinism: run twice in separate processes and compare the results byte by byte.")
    ] = False,
    future_shift: Annotated[
        bool,
        typer.Option(
            "--future-shift", help="Check for look-ahead: change the market data after a time and verify that no earlier decision changes."
        ),
    ] = False,
    shift_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The time for --future-shift. Default: the middle of the period.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Recompute everything in topics, archive or db, and compare it with what the services wrote."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the results of --verify, --twice and --future-shift to this file.")
    ] = None,
    progress_file: Annotated[
        Path | None, typer.Option("--progress", metavar="FILE", help="Keep phase, records done and their total in this JSON file.")
    ] = None,
    show: Annotated[int, typer.Option(help="Most differences to print with --verify.", min=1)] = 10,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings", metavar="FILE", help="Engine settings to use instead of those in the log: TOML file with [[revision]] tables."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Engine to run. Engines other than signals write one CSV file per topic to --out.")
    ] = "signals",
) -> None:
    """Backtest: replay recorded market data through engine, scoring and paper trading, and write a report. No orders are sent.

    A file is a public dump of a venue (zip, gzip or CSV) or a recording of `perpflow simulate`. Several files are merged by the venue's time.
    Files need no Kafka. --twice, --future-shift and --verify do not need --out. Exit code 1: a check failed.

    Examples:

      perpflow replay --source file:BTCUSDT-aggTrades-2024-08.zip --strategy v54_factory --set obi_on_missing=pass --out report

      perpflow replay --source topics --symbol BTCUSDT --from 2026-11-01 --to 2026-11-08 --out week

      perpflow replay --source archive:/data/archive --symbol BTCUSDT --strategy v53_fast --vary entry_score=60,65,70,75 --vary tp1_ratio=0.75,1.0 --out grid

      perpflow replay --source topics --symbol BTCUSDT --settings faster-feed.toml --out faster

      perpflow replay --source archive:/data/archive --verify

      perpflow replay --source db: --symbol ETHUSDT --strategy v54_factory --from 2026-11-01 --out november
    """
    from deploy.backtest.checks import check_future, check_twice
    from deploy.backtest.engine_report import write_engine_report
    from deploy.backtest.job import Job, open_job
    from deploy.backtest.report import write_report
    from deploy.cli import settings
    from deploy.cli.research.progress import ProgressFile
    from sinks.commands.strategies.assignments import assigned, varied

    paper = paper_settings(latency_ms, slippage_bps, taker_fee, maker_fee, fees, walk_book, use_filters)
    console = Console(stderr=True)
    if verify:
        if (
            len(source) != 1
            or source[0].startswith("file:")
            or since
            or until
            or marks
            or strategy
            or settings_file
            or twice
            or future_shift
            or out
        ):
            raise UserError(
                "--verify: recomputes everything in one source: topics, archive:DIR or db:. Remove period, strategies, settings, "
                "other checks and --out"
            )
        _verify(source[0], paper, json_file, show, console, engine)
        return
    job = Job(
        sources=tuple(source),
        symbols=tuple(symbol or ()),
        venue=venue,
        strategies=tuple(strategy or ()),
        assigned=assigned(set_, FIXED),
        varied=varied(vary, FIXED),
        rebind=rebind,
        since=time_ms("--from", since),
        until=time_ms("--to", until),
        marks=_range(marks),
        warm_up_ms=round(warm_up * 3_600_000),
        contract_values=_pairs(contract_value),
        engine=engine,
        revisions=None if settings_file is None else _revisions(settings_file, engine),
        paper=paper,
    )
    if out is None and not (twice or future_shift):
        raise UserError("--out: missing; it names the folder for the report")
    environment = settings()
    checks: dict[str, Any] = {}
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} records"), _Rate(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    kept = ProgressFile(progress_file)
    kept.begin("reading")
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def at(done: int) -> None:
            bar.update(task, completed=done)
            kept.at(done)

        def progress(phase: str, done: int, total: int) -> None:
            if phase == "reading":
                at(done)

        opened = open_job(job, environment, progress)

        def begin(what: str) -> None:
            bar.reset(task, total=opened.total, description=what)
            kept.begin(what, opened.total)

        def on_piece(piece: Piece) -> None:
            if piece.topic != "progress" or opened.files is None:
                bar.update(task, advance=len(piece.records))
                kept.add(len(piece.records))

        if twice:
            kept.begin("running twice")
            bar.reset(task, total=None, description="running twice")
            checks["twice"] = check_twice(job, environment)
        if future_shift:
            kept.begin("checking for look-ahead")
            bar.reset(task, total=None, description="checking for look-ahead")
            checks["future_shift"] = check_future(opened, time_ms("--shift-at", shift_at))
        report = None
        if out is not None:
            begin("replaying")
            started = time.perf_counter()
            if job.spec.paper:
                report = write_report(opened, out, checks, on_piece, jobs, at)
            else:
                report = write_engine_report(opened, out, checks, on_piece)
            seconds = time.perf_counter() - started
            kept.end()
    for name, found in checks.items():
        verdict = "[green]holds[/green]" if found["ok"] else "[bold red]FAILS[/bold red]"
        console.print(f"{name}: {verdict}: {found['text']}")
        if found["first_difference"]:
            console.print(f"  {found['first_difference']}", markup=False)
    if report is not None and out is not None:
        wide = Console()
        if job.spec.paper:
            (wide if wide.is_terminal else Console(width=160)).print(_summary(report))
        records = sum(report["inputs"].values())
        rate = records / max(report["seconds"], 1e-9)
        console.print(f"{records:,} records in {report['seconds']:.1f} s ({rate:,.0f} a second), {seconds:.1f} s with the report")
        console.print(f"Report: {out / ('report.html' if job.spec.paper else 'report.json')}", markup=False, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(checks, indent=1) + "\n", encoding="utf-8")
    if not all(found["ok"] for found in checks.values()):
        raise typer.Exit(1)


def _summary(report: dict[str, Any]) -> Table:
    """Return a table with one row per statistic and one column per strategy."""
    from deploy.report.replay import shown_cell

    accounts = {one["strategy_id"]: one for one in report["strategies"]}
    if len(accounts) > 1 and report["all"] is not None:
        accounts["all together"] = report["all"]
    shown = Table("", title="Closed trades, after fees, funding and slippage", title_justify="left", caption_justify="left")
    for name in accounts:
        shown.add_column(name, justify="right")
    for key in _SHOWN:
        unit = report["definitions"][key]["unit"]
        cells = (shown_cell(key, one["statistics"], unit) for one in accounts.values())
        shown.add_row(f"{key} ({unit})" if unit in ("R", "money") else key, *("none" if cell is None else str(cell) for cell in cells))
    left_out = sum(one["void"]["trades"] for one in report["strategies"])
    if left_out:
        shown.caption = f"{left_out} trades are excluded: market data was missing when they were decided or while they were open."
    return shown


def _revisions(file: Path, engine: str) -> tuple[SettingsRevision, ...]:
    from deploy.cli import settings
    from stream_apps.engine_settings import load_file

    try:
        return tuple(load_file(file, engine, settings()))
    except ValueError as error:
        raise UserError(f"--settings: {error}") from error


def _verify(source: str, paper: Any, json_file: Path | None, show: int, console: Console, engine: str) -> None:
    """Compare a replay of everything in a source with what the services wrote. Exits with 1 at a difference."""
    from deploy.backtest.job import EXPECTED, TOPICS, UNREADABLE, is_log, stored
    from deploy.cli import settings
    from stream_apps.engines import engine_of
    from stream_apps.replay.sources.stored import replay_stored
    from stream_apps.replay.verify import replay_topics

    if not is_log(source):
        raise UserError(f"--source: expected {EXPECTED}, got {source!r}")
    environment = settings()
    try:
        spec = engine_of(engine)
    except ValueError as error:
        raise UserError(f"--engine: {error}") from error

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("replay", total=None)

        def progress(partition: int, topic: str, records: int) -> None:
            bar.update(task, advance=records, description=f"partition {partition}")

        try:
            report = (
                replay_topics(environment, paper, True, progress, spec)
                if source == TOPICS
                else replay_stored(stored(source, environment), environment, paper, progress, spec)
            )
        except UNREADABLE as error:
            raise UserError(f"--source: {error}") from error
    assert report.written is not None  # compared, as asked
    table = Table(
        "topic",
        "replayed",
        "written",
        "hash of the replay",
        "identical",
        title=f"Replay of {'the topics' if source == TOPICS else 'the archive' if source.startswith('archive:') else 'the database'}",
    )
    hashes, written = report.results.hashes(), report.written.hashes()
    for topic, count in report.results.counts().items():
        same = "yes" if written[topic] == hashes[topic] else "NO"
        table.add_row(topic, f"{count:,}", f"{report.written.counts()[topic]:,}", hashes[topic][:16], same)
    Console().print(table)
    total = sum(report.inputs.values())
    console.print(f"{total:,} records in {report.seconds:.1f} s ({total / max(report.seconds, 1e-9):,.0f} a second)")
    for difference in report.differences[:show]:
        console.print(str(difference), markup=False, soft_wrap=True)
    for topic, identity in report.written.conflicts[:show]:
        console.print(f"{topic} {identity}: two different records have this id", markup=False)
    if json_file is not None:
        result = {
            "inputs": report.inputs,
            "outputs": report.outputs,
            "seconds": report.seconds,
            "counts": report.results.counts(),
            "hashes": hashes,
            "written": {"counts": report.written.counts(), "hashes": written, "repeats": report.written.repeats},
            "differences": [str(difference) for difference in report.differences],
        }
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if report.differences or report.written.conflicts:
        raise typer.Exit(1)


def _range(text: str | None) -> tuple[int, int] | None:
    """Return FIRST:LAST as two offsets."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit()):
        raise UserError(f"--marks: expected FIRST:LAST, got {text!r}")
    return int(first), int(last)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise UserError(f"--contract-value: expected SYMBOL=UNITS, got {text!r}")
        found[name] = value
    return found

"""``perpflow replay``: the backtest is a replay of what was recorded, by the cores that trade."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deploy.errors import UserError

if TYPE_CHECKING:
    from stream_apps.replay.source import Piece

_SHOWN = ("trades", "win_rate", "net_r", "expectancy_r", "profit_factor", "max_drawdown_r", "cost_per_trade_r", "sharpe", "net_pnl")


class _Rate(ProgressColumn):
    """Records a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def replay(
    source: Annotated[
        list[str],
        typer.Option(
            metavar="topics|archive:DIR|file:PATH[=SYMBOL][@VENUE]", help="Where the market data is; files are repeatable and merged."
        ),
    ],
    symbol: Annotated[
        list[str] | None, typer.Option(help="Instrument ids or symbols to report (topics), or the symbol of files that name none.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="FILE|NAME", help="Strategy file, shipped strategy, or scoring model; repeatable.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="For all strategies; repeatable.")] = None,
    rebind: Annotated[bool, typer.Option(help="Run strategies of other instruments on those of the source.")] = False,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="First instant that counts: ISO 8601, UTC.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Last instant that counts.")] = None,
    warm_up: Annotated[float, typer.Option(min=0, help="Hours of market data before --from that are run in.")] = 26.0,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html, report.json, trades.csv and signals.csv.")] = None,
    venue: Annotated[str, typer.Option(help="Of files and symbols that name none: BINANCE, BINANCE_SPOT, BYBIT, OKX, ...")] = "BINANCE",
    contract_value: Annotated[
        list[str] | None, typer.Option(metavar="SYMBOL=UNITS", help="OKX swaps: base units of a contract; repeatable.")
    ] = None,
    latency_ms: Annotated[int, typer.Option(min=0, help="From a decision to its order at the venue, ms.")] = 250,
    slippage_bps: Annotated[float, typer.Option(min=0, help="What market and stop orders pay beyond the trade that fills them.")] = 1.0,
    taker_fee: Annotated[float, typer.Option(help="Fraction of notional.")] = 0.0005,
    maker_fee: Annotated[float, typer.Option(help="Fraction of notional; negative: a rebate.")] = 0.0002,
    twice: Annotated[bool, typer.Option("--twice", help="Run in two processes and compare the results byte by byte.")] = False,
    future_shift: Annotated[
        bool, typer.Option("--future-shift", help="Alter the market data after a time and prove that nothing decided before changes.")
    ] = False,
    shift_at: Annotated[str | None, typer.Option(metavar="TIME", help="That time; default: the middle.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="topics, archive: decide again all that they hold and compare with what the services wrote.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what --verify, --twice and --future-shift found to a file.")
    ] = None,
    show: Annotated[int, typer.Option(help="--verify: how many differences to show.", min=1)] = 10,
) -> None:
    """Drive engine, scorer and paper model over recorded market data, and report. No order is sent, and files need no broker.

    Files are the venues' public dumps (zip, gzip or CSV) or recordings of the simulator's formats; several are merged by venue time.
    With --twice, --future-shift or --verify a report is written only when --out names its folder. Ends with 1 when a check fails.

    Examples:

      perpflow replay --source file:BTCUSDT-aggTrades-2024-08.zip --strategy v54_factory --set obi_on_missing=pass --out report

      perpflow replay --source topics --symbol BTCUSDT --from 2026-11-01 --to 2026-11-08 --out week

      perpflow replay --source archive:/data/archive --verify
    """
    from deploy.assignments import assigned
    from deploy.cli import settings
    from deploy.replay import Job, check_future, check_twice, open_job, write_report
    from stream_apps.core.paper_position import FeeRates, PaperSettings

    try:
        paper = PaperSettings(latency_ms=latency_ms, slippage_bps=slippage_bps, fees=FeeRates(taker=taker_fee, maker=maker_fee))
    except ValueError as error:
        raise UserError(f"replay: {error}") from error
    console = Console(stderr=True)
    if verify:
        kept = source[0].removeprefix("archive:") if len(source) == 1 and source[0].startswith("archive:") else ""
        if (source != ["topics"] and not kept) or since or until or strategy or twice or future_shift or out:
            raise UserError(
                "--verify: decides again all that the topics or an archive hold: --source topics or archive:DIR, without period, strategies, "
                "other checks or --out"
            )
        _verify(Path(kept) if kept else None, paper, json_file, show, console)
        return
    job = Job(
        sources=tuple(source),
        symbols=tuple(symbol or ()),
        venue=venue,
        strategies=tuple(strategy or ()),
        assigned=assigned(set_, {"strategy_id": "names the strategy", "instrument": "is the source's (see --rebind)"}),
        rebind=rebind,
        since=_time("--from", since),
        until=_time("--to", until),
        warm_up_ms=round(warm_up * 3_600_000),
        contract_values=_pairs(contract_value),
        paper=paper,
    )
    if out is None and not (twice or future_shift):
        raise UserError("--out: name the folder for the report")
    environment = settings()
    checks: dict[str, Any] = {}
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} records"), _Rate(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def tell(phase: str, done: int, total: int) -> None:
            if phase == "reading":
                bar.update(task, completed=done)

        opened = open_job(job, environment, tell)

        def begin(what: str) -> None:
            bar.reset(task, total=opened.total, description=what)

        def hear(piece: Piece) -> None:
            if piece.topic != "progress" or opened.files is None:
                bar.update(task, advance=len(piece.records))

        if twice:
            bar.reset(task, total=None, description="running twice")
            checks["twice"] = check_twice(job, environment)
        if future_shift:
            bar.reset(task, total=None, description="altering the future")
            checks["future_shift"] = check_future(opened, _time("--shift-at", shift_at))
        report = None
        if out is not None:
            begin("replaying")
            started = time.perf_counter()
            report = write_report(opened, out, checks, hear)
            seconds = time.perf_counter() - started
    for name, found in checks.items():
        verdict = "[green]holds[/green]" if found["ok"] else "[bold red]FAILS[/bold red]"
        console.print(f"{name}: {verdict}: {found['text']}")
        if found["first_difference"]:
            console.print(f"  {found['first_difference']}", markup=False)
    if report is not None and out is not None:
        wide = Console()
        (wide if wide.is_terminal else Console(width=160)).print(_summary(report))
        records = sum(report["inputs"].values())
        rate = records / max(report["seconds"], 1e-9)
        console.print(f"{records:,} records in {report['seconds']:.1f} s ({rate:,.0f} a second), {seconds:.1f} s with the report")
        console.print(f"Report: {out / 'report.html'}", markup=False, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(checks, indent=1) + "\n", encoding="utf-8")
    if not all(found["ok"] for found in checks.values()):
        raise typer.Exit(1)


def _summary(report: dict[str, Any]) -> Table:
    """Return a line per statistic, a column per strategy."""
    from deploy.report.replay import value_text

    accounts = {one["strategy_id"]: one for one in report["strategies"]}
    if len(accounts) > 1 and report["all"] is not None:
        accounts["all together"] = report["all"]
    shown = Table("", title="Closed trades, after fees, funding and slippage", title_justify="left", caption_justify="left")
    for name in accounts:
        shown.add_column(name, justify="right")
    for key in _SHOWN:
        unit = report["definitions"][key]["unit"]
        cells = (value_text(one["statistics"][key]["value"], unit) for one in accounts.values())
        shown.add_row(f"{key} ({unit})" if unit in ("R", "money") else key, *("none" if cell is None else str(cell) for cell in cells))
    left_out = sum(one["void"]["trades"] for one in report["strategies"])
    if left_out:
        shown.caption = f"{left_out} trades do not count: trades of the market are missing where they were decided or held."
    return shown


def _verify(archive: Path | None, paper: Any, json_file: Path | None, show: int, console: Console) -> None:
    """Compare a replay of all topics, or of an archive of them, with what the services wrote; end with 1 at a difference."""
    from deploy.cli import settings
    from schemas.archive.manifest import ArchiveError
    from stream_apps.replay.from_archive import replay_archive
    from stream_apps.replay.from_topics import replay_topics

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("replay", total=None)

        def progress(partition: int, topic: str, records: int) -> None:
            bar.update(task, advance=records, description=f"partition {partition}")

        try:
            report = (
                replay_topics(settings(), paper, True, progress)
                if archive is None
                else replay_archive(archive, settings(), paper, progress)
            )
        except ArchiveError as error:
            raise UserError(f"--source: {error}") from error
    assert report.written is not None  # compared, as asked
    table = Table(
        "topic",
        "replayed",
        "written",
        "hash of the replay",
        "identical",
        title="Replay of the topics" if archive is None else "Replay of the archive",
    )
    hashes, written = report.results.hashes(), report.written.hashes()
    for topic, count in report.results.counts().items():
        same = "yes" if written[topic] == hashes[topic] else "NO"
        table.add_row(topic, f"{count:,}", f"{report.written.counts()[topic]:,}", hashes[topic][:16], same)
    Console().print(table)
    total = sum(report.inputs.values())
    console.print(f"{total:,} records in {report.seconds:.1f} s ({total / max(report.seconds, 1e-9):,.0f} a second)")
    for difference in report.differences[:show]:
        console.print(str(difference), markup=False)
    for topic, identity in report.written.conflicts[:show]:
        console.print(f"{topic} {identity}: the topics hold two different records of this id", markup=False)
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


def _time(option: str, text: str | None) -> int | None:
    """Return an ISO 8601 time, UTC where it names no zone, as ms UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option}: expected a time such as 2026-11-01 or 2026-11-01T12:00, got {text!r}") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise UserError(f"--contract-value: expected SYMBOL=UNITS, got {text!r}")
        found[name] = value
    return found

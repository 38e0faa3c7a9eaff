"""``perpflow research``: search parameters and test features out of sample, label signals, compare the edge with costs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from deploy.cli.options.paper import Fees, LatencyMs, MakerFee, SlippageBps, TakerFee, UseFilters, WalkBook, paper_settings
from deploy.cli.options.sources import FIXED, Assigned, Rebind, Since, Source, Strategy, Symbol, Until, Venue, WarmUp, time_ms
from schemas.errors import UserError
from stream_apps.core.paper.position import PaperSettings

if TYPE_CHECKING:
    from deploy.backtest.job import Job

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Search parameters, test features, label signals, compare the edge with costs."
)

_DEFAULT = PaperSettings()

Rate = Annotated[float, typer.Option(help="False discovery rate (Benjamini-Hochberg).")]
Out = Annotated[Path, typer.Option(help="Folder for the report.")]
Price = Annotated[str, typer.Option(metavar="mark|trade", help="Price for returns and labels. Spot has no mark price.")]


@app.callback()
def research() -> None:
    """Search parameters, test features, label signals, compare the edge with costs."""
    # A worker process must not outlive its command.
    signal.signal(signal.SIGTERM, _ended)


def _ended(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


@app.command(
    epilog="Example: perpflow research search --source archive:/data/archive --symbol BTCUSDT --strategy btcusdt --from 2026-08-01 --to 2026-11-01 --out btc"
)
def search(
    source: Source,
    out: Out,
    symbol: Symbol = None,
    strategy: Strategy = None,
    set_: Assigned = None,
    rebind: Rebind = False,
    since: Since = None,
    until: Until = None,
    warm_up: WarmUp = 26.0,
    scheme: Annotated[
        str,
        typer.Option(
            metavar="walkforward|kfold",
            help="walkforward: train, then test on the following period. kfold: test on each part, train on the others.",
        ),
    ] = "walkforward",
    train: Annotated[str, typer.Option(help="Walk-forward: length of the training period, e.g. 30d, 12h, 90m.")] = "30d",
    step: Annotated[str, typer.Option(help="Walk-forward: distance between two folds.")] = "7d",
    test: Annotated[str | None, typer.Option(help="Walk-forward: length of the test period, at most --step. Default: --step.")] = None,
    anchored: Annotated[bool, typer.Option(help="Walk-forward: every training period starts at the beginning of the data.")] = False,
    folds: Annotated[int, typer.Option(min=2, help="K-fold: number of parts.")] = 5,
    purge: Annotated[
        str | None, typer.Option(help="K-fold: gap between training and test. Default: the longest time that a trade may be held.")
    ] = None,
    embargo: Annotated[str, typer.Option(help="Gap after the training period (walk-forward) or after the test period (k-fold).")] = "0m",
    trials: Annotated[
        int, typer.Option(min=1, help="Trials per fold and strategy. The first is the unchanged strategy. 1: no search, only tests.")
    ] = 60,
    batch: Annotated[
        int, typer.Option(min=1, help="Trials that are chosen together. The result depends on this number, but not on --processes.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Random seed. The same seed gives the same trials.")] = 1,
    objective: Annotated[
        str,
        typer.Option(
            metavar="t|net_r|mean_r",
            help="What a trial maximises. t: mean net R divided by its standard error; net_r: total net R; mean_r: net R per trade.",
        ),
    ] = "t",
    least_trades: Annotated[int, typer.Option(min=1, help="Fewest trades in a training period for a valid trial.")] = 10,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Parameters to search: windows, weights, or a field. Repeatable. Default: windows, weights and exits."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=FROM:TO", help="Search range of a field, within its valid range. Repeatable.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one per core.")] = None,
    rate: Rate = 0.05,
    venue: Venue = "BINANCE",
    latency_ms: LatencyMs = _DEFAULT.latency_ms,
    slippage_bps: SlippageBps = _DEFAULT.slippage_bps,
    taker_fee: TakerFee = _DEFAULT.fees.taker,
    maker_fee: MakerFee = _DEFAULT.fees.maker,
    fees: Fees = None,
    walk_book: WalkBook = _DEFAULT.walk_book,
    use_filters: UseFilters = _DEFAULT.use_filters,
) -> None:
    """Search the parameters of a strategy on training periods, and report only the results on the test periods.

    Writes search.html, search.md, search.json, trials.csv, test_trades.csv, and the parameters of the last fold as a paused strategy file.
    After an interruption, run it again with the same --out: it resumes where it stopped.
    """
    from deploy.backtest.parameter_search import Scheme, run
    from deploy.backtest.research import length_ms
    from deploy.cli import settings
    from stream_apps.research.search import Plan

    if scheme not in ("walkforward", "kfold"):
        raise UserError(f"--scheme: expected walkforward or kfold, got {scheme!r}")
    paper = paper_settings(latency_ms, slippage_bps, taker_fee, maker_fee, fees, walk_book, use_filters)
    job = _job(source, symbol, strategy, set_, rebind, since, until, warm_up, venue, paper)
    cut = Scheme(
        scheme, length_ms("--train", train), length_ms("--step", step), None if test is None else length_ms("--test", test), anchored, folds,
        None if purge is None else length_ms("--purge", purge), length_ms("--embargo", embargo),
    )  # fmt: skip
    try:
        plan = Plan(trials, batch, seed, objective, least_trades)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from error
    _check_rate(rate)
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} trials"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def progress(name: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=name)

        report = run(job, settings(), cut, plan, out, vary=vary, limits=_limits(limit), rate=rate, processes=processes, progress=progress)
    shown = Table(
        "strategy",
        "verdict",
        "test trades",
        "mean net R",
        "95 % interval",
        "p",
        "cost R",
        "training mean R",
        "unchanged mean R",
        title="Out of sample, after costs",
    )
    for one in report["searches"]:
        mean, trained, same = one["test"], one["train"], one["parent"]
        shown.add_row(
            one["strategy"], one["verdict"], "0" if mean is None else str(mean["count"]), _number(mean, "mean"),
            "-" if mean is None or mean["low"] is None else f"{mean['low']:+.3f} to {mean['high']:+.3f}", "-" if one["p"] is None else f"{one['p']:.4f}",
            "-" if one["gate"]["cost"] is None else f"{one['gate']['cost']:.3f}", _number(trained, "mean"), _number(same, "mean"),
        )  # fmt: skip
    _print(shown)
    console.print(f"Report: {out / 'search.html'}", markup=False, highlight=False)


@app.command(epilog="Example: perpflow research features --source file:BTCUSDT-aggTrades-2026-10.zip --price trade --out october-features")
def features(
    source: Source,
    out: Out,
    symbol: Symbol = None,
    since: Since = None,
    until: Until = None,
    warm_up: WarmUp = 26.0,
    feature: Annotated[
        list[str] | None, typer.Option(help="Field of the features topic. Repeatable. Default: all except price levels.")
    ] = None,
    horizon: Annotated[list[str] | None, typer.Option(help="Horizon of the returns. Repeatable. Default: 15m, 30m and 60m.")] = None,
    block: Annotated[str, typer.Option(help="Length of the blocks whose coefficients form the information ratio.")] = "1d",
    folds: Annotated[int, typer.Option(min=2, help="Number of purged folds for the feature importance.")] = 5,
    embargo: Annotated[str, typer.Option(help="Gap after each test fold.")] = "60m",
    price: Price = "mark",
    rate: Rate = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the permutations.")] = 1,
    venue: Venue = "BINANCE",
) -> None:
    """Measure how well features predict returns: rank correlation (IC) per feature, and importance of all features out of sample.

    Standard errors account for overlapping returns.

    Writes features.html and features.json.
    """
    from deploy.backtest.feature_returns import feature_names
    from deploy.backtest.feature_returns import features as judged
    from deploy.backtest.job import open_job
    from deploy.backtest.research import length_ms
    from deploy.cli import settings

    _check_price(price)
    _check_rate(rate)
    # A replay needs a strategy. Its scores are not used here.
    job = _job(source, symbol, ["v54_factory"], None, False, since, until, warm_up, venue)
    with _reading() as on_piece:
        report = judged(
            open_job(job, settings()), out, names=feature or feature_names(),
            horizons_ms=[length_ms("--horizon", one) for one in horizon or ("15m", "30m", "60m")],
            block_ms=length_ms("--block", block), folds=folds, embargo_ms=length_ms("--embargo", embargo), rate=rate, price=price, seed=seed, on_piece=on_piece,
        )  # fmt: skip
    for one in report["instruments"]:
        kept = [row for row in one["coefficients"] if row["accepted"]]
        shown = Table(
            "feature",
            "minutes",
            "IC",
            "t",
            "p",
            "IR",
            "kept",
            title=f"{one['instrument']}: {one['instants']:,} instants, {len(kept)} of {len(one['coefficients'])} kept at {rate:.0%}",
        )
        for row in one["coefficients"][:20]:
            shown.add_row(row["feature"], f"{row['horizon_ms'] / 60_000:g}", _number(row, "ic", "+.4f"), _number(row, "t", "+.2f"),
                          _number(row, "p", ".4f"), _number(row, "ir", "+.2f"),
                          "yes" if row["accepted"] else "no")  # fmt: skip
        _print(shown)
    Console(stderr=True).print(f"Report: {out / 'features.html'}", markup=False, highlight=False)


@app.command(
    epilog="Example: perpflow research labels --source topics --symbol BTCUSDT --strategy btcusdt --from 2026-11-01 --to 2026-11-08 --out week"
)
def labels(
    source: Source,
    out: Out,
    symbol: Symbol = None,
    strategy: Strategy = None,
    set_: Assigned = None,
    rebind: Rebind = False,
    since: Since = None,
    until: Until = None,
    warm_up: WarmUp = 26.0,
    price: Price = "mark",
    cost: Annotated[float, typer.Option(min=0, help="Estimated round-trip cost to subtract from returns, fraction of price.")] = 0.001,
    leverage: Annotated[float, typer.Option(min=0.01, help="Leverage for the net labels. 1: spot.")] = 1.0,
    venue: Venue = "BINANCE",
) -> None:
    """Label every signal of a replay with the price move after it, and every position with its net result after 12, 24 and 36 hours.

    labels.csv: whether price moved 2 ATR in favour before 1 ATR against, within 30 and 60 minutes; net returns after 15, 30 and 60
    minutes; best and worst move within one hour, in R. net_labels.csv: pos, neg or neutral. An empty cell: the data ends or has a gap.
    """
    from deploy.backtest.feature_returns import labels as labelled
    from deploy.backtest.job import open_job
    from deploy.cli import settings
    from stream_apps.core.labels.rules import STALE_MS, LabelRules

    _check_price(price)
    environment = settings()
    job = _job(source, symbol, strategy, set_, rebind, since, until, warm_up, venue)
    rules = LabelRules(cost=cost, stale_ms=STALE_MS if price == "mark" else 2 * environment.grid_ms)
    with _reading() as on_piece:
        found = labelled(open_job(job, environment), out, rules, price, leverage, on_piece)
    typer.echo(", ".join(f"{count:,} {what}" for what, count in found.items()))


@app.command(epilog="Example: perpflow research gate --report october   (or --strategy btcusdt, from the database)")
def gate(
    report: Annotated[list[Path] | None, typer.Option(help="Replay folder, or a trades.csv file. Repeatable.")] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@HASH]", help="Strategy to read from the database, or with --from-topics from the topics. Repeatable."),
    ] = None,
    from_topics: Annotated[bool, typer.Option("--from-topics", help="Read the trades_closed topic instead of the database.")] = False,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Only trades closed at or after this time, UTC.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only trades closed before this time, UTC.")] = None,
    confidence: Annotated[float, typer.Option(help="Confidence level, one-sided.")] = 0.95,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, as Markdown.")] = None,
) -> None:
    """Check whether the edge exceeds the costs: fees, slippage and funding measured on each closed trade.

    Exit code 1: no strategy passes."""
    from deploy.backtest.cost_gate import from_log, from_reports
    from deploy.backtest.research import plain
    from deploy.cli import settings
    from deploy.report.research import gate_markdown, mean_text
    from stream_apps.research.cost_gate import MEANING, PASSES, cost_gate

    if not 0.5 < confidence < 1:
        raise UserError(f"--confidence: expected a value between 0.5 and 1, got {confidence}")
    if bool(report) == bool(strategy):
        raise UserError("expected either --report or --strategy")
    trades = (
        from_reports(report)
        if report
        else from_log(settings(), strategy or [], from_topics, time_ms("--from", since), time_ms("--to", until))
    )
    gates = {name: cost_gate(rows, confidence) for name, rows in trades.items()}
    figures: dict[str, Any] = {name: plain(one) for name, one in gates.items()}
    shown = Table(
        "strategy",
        "trades",
        "edge R",
        "fees R",
        "slippage R",
        "funding R",
        "net R (interval)",
        "verdict",
        title=f"R per trade; {confidence:.0%} confidence, one-sided",
    )
    for name, one in figures.items():
        shown.add_row(
            name,
            f"{one['trades']:,}",
            *(_number(one, part) for part in ("edge", "fees", "slippage", "funding")),
            mean_text(one["net"]),
            one["verdict"],
        )
    _print(shown)
    for verdict in dict.fromkeys(one.verdict for one in gates.values()):
        typer.echo(f"{verdict}: {MEANING[verdict]}")
    if json_file is not None:
        json_file.write_text(
            json.dumps({"confidence": confidence, "strategies": figures}, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
    if markdown is not None:
        where = ", ".join(map(str, report)) if report else "the topics" if from_topics else "the database"
        markdown.write_text(gate_markdown(figures, where), encoding="utf-8")
    if not any(one.verdict == PASSES for one in gates.values()):
        raise typer.Exit(1)


# --- shared helpers ----------------------------------------------------------------------------------------------------


def _job(
    source: list[str], symbol: list[str] | None, strategy: list[str] | None, set_: list[str] | None, rebind: bool, since: str | None,
    until: str | None, warm_up: float, venue: str, paper: PaperSettings = _DEFAULT,
) -> Job:  # fmt: skip
    from deploy.backtest.job import Job
    from sinks.commands.strategies.assignments import assigned

    return Job(
        sources=tuple(source), symbols=tuple(symbol or ()), venue=venue, strategies=tuple(strategy or ()), assigned=assigned(set_, FIXED), rebind=rebind,
        since=time_ms("--from", since), until=time_ms("--to", until), warm_up_ms=round(warm_up * 3_600_000), paper=paper,
    )  # fmt: skip


class _reading:
    """Progress bar: records read by a replay."""

    def __enter__(self) -> Any:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("replaying"),
            TextColumn("{task.completed:,.0f} records"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        task = self._bar.add_task("", total=None)
        return lambda piece: self._bar.update(task, advance=len(piece.records))

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()


def _limits(texts: list[str] | None) -> dict[str, tuple[float, float]]:
    found = {}
    for text in texts or ():
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            found[name] = (float(low), float(high))
        except ValueError as error:
            raise UserError(f"--limit: expected FIELD=FROM:TO, got {text!r}") from error
    return found


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(f"--rate: expected a value between 0 and 1, got {rate}")


def _check_price(price: str) -> None:
    if price not in ("mark", "trade"):
        raise UserError(f"--price: expected mark or trade, got {price!r}")


def _number(values: dict[str, Any] | None, name: str, form: str = "+.3f") -> str:
    return "-" if values is None or values[name] is None else format(values[name], form)


def _print(shown: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(shown)

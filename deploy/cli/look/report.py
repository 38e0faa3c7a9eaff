"""``perpflow report``: how execution goes, and the reports of replays side by side."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.options.accounts import Json, Mode, Strategy, Symbol, wanted
from schemas.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="How execution goes; reports of replays side by side.")


@app.callback()
def report() -> None:
    """How execution goes; reports of replays side by side."""


@app.command(epilog="Example: perpflow report execution --mode live --days 7")
def execution(
    mode: Mode = "",
    strategy: Strategy = "",
    symbol: Symbol = "",
    days: Annotated[int | None, typer.Option(min=1, help="Trades closed within so many days; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Hold what execution cost at each venue account against its targets: maker shares, friction, time-outs, slippage, latencies, time without a stop."""
    from deploy.cli import settings
    from deploy.report.accounts import figures_table
    from sinks.queries.accounts import figures, open_accounts

    chosen = wanted(mode, strategy, symbol)
    with open_accounts(settings()) as accounts:
        rows = accounts.trades(chosen, None)
    if days is not None:
        begin = datetime.now(UTC) - timedelta(days=days)
        rows = [row for row in rows if row["event_time"] >= begin]
    names = sorted({row["account"] for row in rows if row["measured"]})
    if not names:
        raise UserError("report execution: no closed trade of an account at a venue")
    found = {name: figures([row for row in rows if row["account"] == name]) for name in names}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        Console().print(figures_table(found))


@app.command(epilog="Example: perpflow report compare week-1/report.json week-2 --out both.html")
def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="report.json files, or the folders that hold one.")],
    out: Annotated[Path | None, typer.Option(help="Also write a page with the equity curves and all statistics.")] = None,
    statistic: Annotated[list[str] | None, typer.Option(help="Which statistics to show; default: the most telling.")] = None,
) -> None:
    """Hold the strategies of several reports side by side: statistics, and what was not the same (period, costs, data)."""
    from deploy.report.compare import SHOWN, differences, gathered, load, write_page
    from deploy.report.replay import value_text

    if len(reports) < 2:
        raise UserError("report compare: name at least two reports")
    loaded = load(reports)
    accounts = gathered(loaded)
    definitions = next(iter(loaded.values()))["definitions"]
    unknown = [name for name in statistic or () if name not in definitions]
    if unknown:
        raise UserError(f"--statistic: {', '.join(unknown)}: not one of {', '.join(definitions)}")
    shown = Table("", title="Closed trades, after fees, funding and slippage", title_justify="left")
    for name in accounts:
        shown.add_column(name, justify="right", overflow="fold")
    for key in statistic or SHOWN:
        unit = definitions[key]["unit"]
        values = (one["statistics"].get(key, {}).get("value") for one in accounts.values())
        cells = (value_text(value, unit) for value in values)
        shown.add_row(f"{key} ({unit})", *("none" if cell is None else str(cell) for cell in cells))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(shown)
    for line in differences(loaded):
        console.print(line, markup=False)
    if out is not None:
        write_page(out, loaded)
        console.print(f"Page: {out}", markup=False, highlight=False)

"""``perpflow report``: report execution costs; compare replay reports."""

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

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Report execution costs; compare replay reports.")


@app.callback()
def report() -> None:
    """Report execution costs; compare replay reports."""


@app.command(epilog="Example: perpflow report execution --mode live --days 7")
def execution(
    mode: Mode = "",
    strategy: Strategy = "",
    symbol: Symbol = "",
    days: Annotated[int | None, typer.Option(min=1, help="Only trades closed within this many days. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the execution costs of each venue account with their targets.

    Figures: maker shares, friction, time-outs, slippage, latencies, time without a stop order."""
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
        raise UserError("report execution: no closed trades of an account at a venue")
    found = {name: figures([row for row in rows if row["account"] == name]) for name in names}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        Console().print(figures_table(found))


@app.command(epilog="Example: perpflow report compare week-1/report.json week-2 --out both.html")
def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Files report.json, or the folders that contain one.")],
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page with equity curves and all statistics.")] = None,
    statistic: Annotated[list[str] | None, typer.Option(help="Statistic to show. Repeatable. Default: a selection.")] = None,
) -> None:
    """Compare the strategies of several replay reports: statistics, and differences in period, costs and data."""
    from deploy.report.compare import SHOWN, differences, gathered, load, write_page
    from deploy.report.replay import value_text

    if len(reports) < 2:
        raise UserError("report compare: expected at least two reports")
    loaded = load(reports)
    accounts = gathered(loaded)
    definitions = next(iter(loaded.values()))["definitions"]
    unknown = [name for name in statistic or () if name not in definitions]
    if unknown:
        raise UserError(f"--statistic: unknown: {', '.join(unknown)}; expected some of {', '.join(definitions)}")
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

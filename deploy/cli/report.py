"""``perpflow report``: work with the reports of replays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Work with the reports of replays.")


@app.callback()
def report() -> None:
    """Work with the reports of replays."""


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

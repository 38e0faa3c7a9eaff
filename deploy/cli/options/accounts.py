"""Options and output of ``positions``, ``orders``, ``trades`` and ``report execution``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from deploy.report.accounts import plain
from schemas.errors import UserError
from sinks.queries.accounts import MODES, AccountFilter, Row

Mode = Annotated[str, typer.Option(help=f"Only accounts of this mode: {', '.join(MODES)}. Default: all.")]
Strategy = Annotated[str, typer.Option(help="Only this strategy.")]
Symbol = Annotated[str, typer.Option(help="Only instruments whose name contains this text, e.g. BTC.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one row per line.")]
Watch = Annotated[float, typer.Option(min=0, help="Refresh every this many seconds until Ctrl-C. 0: print once.")]


def wanted(mode: str, strategy: str, symbol: str) -> AccountFilter:
    """Return the filter of the options. Raises UserError for an unknown mode."""
    if mode and mode not in MODES:
        raise UserError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    return AccountFilter(mode or None, strategy or None, symbol or None)


def screen() -> Console:
    """Return the console. A file or pipe is 160 columns wide unless COLUMNS is set."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def show(rows: Callable[[], list[Row]], table: Callable[[list[Row], int], RenderableType], as_json: bool, watch: float) -> None:
    """Print rows as a table or as JSON. With ``watch`` (seconds), refresh the table until Ctrl-C."""
    if as_json:
        for row in rows():
            typer.echo(json.dumps(plain(row)))
        return
    console = screen()
    if not watch:
        console.print(table(rows(), console.width))
        return
    with Live(table(rows(), console.width), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            try:
                time.sleep(watch)
            except KeyboardInterrupt:
                return
            live.update(table(rows(), console.width), refresh=True)

"""``perpflow dashboards``: draw the Grafana dashboards without Grafana."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings
from schemas.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Draw the Grafana dashboards as HTML pages, without Grafana.")


@app.callback()
def dashboards() -> None:
    """Draw the Grafana dashboards as HTML pages, without Grafana."""


@app.command(epilog="Example: perpflow dashboards render --out pages --set instrument=BINANCE:BTCUSDT-PERP")
def render(
    out: Annotated[Path, typer.Option(help="Folder for the pages. It is created if needed.")] = Path("dashboards"),
    prometheus: Annotated[
        str | None,
        typer.Option(envvar="PROMETHEUS_URL", help="URL of Prometheus. `perpflow stack env` sets it for the local stack.", metavar="URL"),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", help="Start of the range, UTC. Default: the range of the evaluations.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", help="End of the range, UTC.")] = None,
    chosen: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Value of a dashboard variable, e.g. instrument. Repeatable.")
    ] = None,
) -> None:
    """Write each dashboard as an HTML page in Grafana's layout, with data from the database and Prometheus.

    Exit code 1: the query of a panel failed.
    """
    from deploy.grafana.preview.render import render as render_pages

    given: dict[str, list[str]] = {}
    for text in chosen or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"dashboards: --set: expected NAME=VALUE, got {text!r}")
        given.setdefault(name, []).append(value)
    begin, end = (None if one is None else one.replace(tzinfo=UTC) for one in (since, until))
    failed = 0
    for done in render_pages(out, settings().database_url, prometheus, begin, end, given):
        typer.echo(f"{done.path}  {done.filled} panels, {len(done.empty)} without data")
        for title, why in done.empty.items():
            typer.echo(f"    {title}: {why}")
        for title, why in done.errors.items():
            typer.echo(f"    {title}: {why}", err=True)
            failed += 1
    raise typer.Exit(1 if failed else 0)

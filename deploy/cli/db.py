"""``perpflow db``: the database's tables."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy import database
from schemas.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Create and look after the database's tables.")

UrlOption = Annotated[str, typer.Option("--database-url", envvar="DATABASE_URL", help="PostgreSQL or TimescaleDB; DATABASE_URL otherwise.")]


def _url(given: str) -> str:
    return given or Settings().database_url


@app.command(epilog="Example: perpflow db migrate")
def migrate(database_url: UrlOption = "") -> None:
    """Apply missing migrations and refresh the tables' comments. Harmless to repeat."""
    applied = database.migrate(_url(database_url))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to apply")


@app.command(epilog="Example: perpflow db status")
def status(database_url: UrlOption = "") -> None:
    """Show what is applied and where tables differ from the schemas. Ends with 1 when something is missing."""
    state = database.status(_url(database_url))
    shown = Table("migration", "applied")
    for migration in state.migrations:
        at = f"{migration.applied_at:%Y-%m-%d %H:%M:%S%z}" if migration.applied_at else "no"
        shown.add_row(migration.name, f"{at}, but the file was changed since" if migration.changed else at)
    console = Console()
    console.print(shown)
    console.print(f"TimescaleDB {state.timescaledb}" if state.timescaledb else "TimescaleDB is not there: native partitions")
    for difference in state.differences:
        console.print(difference, markup=False)
    if not state.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: perpflow db maintain   (daily, e.g. from cron; the sink makes missing partitions itself)")
def maintain(database_url: UrlOption = "") -> None:
    """Make partitions ahead and move rows out of the default partitions."""
    done = database.maintain(_url(database_url))
    for line in done:
        typer.echo(line)
    if not done:
        typer.echo("nothing to do")

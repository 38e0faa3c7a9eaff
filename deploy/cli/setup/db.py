"""``perpflow db``: the database's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.database import backup as backups
from deploy.database import maintenance as upkeep
from deploy.database import migrate as database
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Create and look after the database's tables.")

UrlOption = Annotated[str, typer.Option("--database-url", envvar="DATABASE_URL", help="PostgreSQL or TimescaleDB; DATABASE_URL otherwise.")]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes that work at once.")]


def _url(given: str) -> str:
    return given or Settings().database_url


@app.command(epilog="Example: perpflow db migrate --dry-run")
def migrate(
    database_url: UrlOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the SQL that would run; change nothing.")] = False,
) -> None:
    """Apply missing migrations and refresh comments, policies and the roles' rights. Harmless to repeat.

    The roles perpflow_writer, perpflow_reader and perpflow_executor can log in once PERPFLOW_WRITER_PASSWORD and so on (or ..._FILE) are set.
    """
    if dry_run:
        waiting = database.pending(_url(database_url))
        for migration in waiting:
            typer.echo(f"-- {migration.name}\n{migration.text}")
        typer.echo(f"-- {len(waiting)} to apply" if waiting else "-- nothing to apply")
        return
    applied = database.migrate(_url(database_url))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to apply")
    for shortage in database.server_shortages(_url(database_url)):
        typer.echo(f"warning: the server lacks background workers for TimescaleDB's jobs: {shortage}", err=True)


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
    for shortage in state.shortages:
        console.print(str(shortage), markup=False)
    for difference in state.differences:
        console.print(difference, markup=False)
    if not state.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: perpflow db maintain --every 60   (the job; without --every once, e.g. from cron)")
def maintain(
    database_url: UrlOption = "",
    every: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Go on for good: bars so often, the rest every hour.")
    ] = None,
) -> None:
    """Make partitions ahead, build bars, drop what is older than it is kept (not with PERPFLOW_KEEP_HISTORY), set up TimescaleDB's jobs, and report.

    One at a time: a second one leaves the work to the first. Ends with 1 when something needs a person.
    """
    settings = Settings()
    if every is not None:
        configure_logging(settings.log_level)
        with Service("maintenance", settings.http_port) as service:
            upkeep.Keeper(_url(database_url), settings.keep_history, every, service).run()
        return
    try:
        report = upkeep.maintain(_url(database_url), keep_history=settings.keep_history, progress=typer.echo)
    except upkeep.Busy as busy:
        typer.echo(str(busy))
        return
    for line in [*report.done, *report.notes, *report.problems] or ["nothing to do"]:
        typer.echo(line)
    if report.problems:
        raise typer.Exit(1)


@app.command(epilog="Example: perpflow db keep depth 14   (days; `perpflow db keep depth 0` keeps it for good, `perpflow db keep` shows)")
def keep(
    table: Annotated[str, typer.Argument(help="A time-partitioned table; without one all are shown.")] = "",
    days: Annotated[int | None, typer.Argument(min=0, help="Days after which its oldest partition or chunk is dropped; 0: never.")] = None,
    chunk: Annotated[
        str, typer.Option(metavar="SPAN", help="Length of its TimescaleDB chunks from now on, e.g. '6 hours': see SIZING.md.")
    ] = "",
    database_url: UrlOption = "",
) -> None:
    """Show how long each table and its chunks are, its size and why, or change it; `perpflow db maintain` acts accordingly."""
    if table and days is not None:
        upkeep.keep(_url(database_url), table, days or None)
    if table and chunk:
        upkeep.chunk(_url(database_url), table, chunk)
    shown = Table("table", "chunk", "kept", "bytes", "why")
    for name, chunk, kept, size, reason in upkeep.policies(_url(database_url)):
        if table in ("", name):
            shown.add_row(name, chunk, kept, f"{size:,}", reason)
    Console().print(shown)


@app.command(epilog="Example: perpflow db backup /backups/perpflow-$(date +%F)")
def backup(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")], database_url: UrlOption = "", jobs: JobsOption = 2
) -> None:
    """Back up the whole database from one snapshot, with sink offsets, checksums and a manifest. Writers go on meanwhile."""
    manifest = backups.backup(_url(database_url), folder, jobs=jobs, progress=typer.echo)
    _tell(folder, manifest)


@app.command(
    epilog="Example: createdb perpflow2 && perpflow db restore /backups/perpflow-2026-11-22 --database-url postgresql://.../perpflow2"
)
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of a backup.")], database_url: UrlOption = "", jobs: JobsOption = 2
) -> None:
    """Restore a backup into an empty database and compare every table with the manifest. A sink goes on from the offsets in it."""
    manifest = backups.restore(_url(database_url), folder, jobs=jobs, progress=typer.echo)
    _tell(folder, manifest)


def _tell(folder: Path, manifest: backups.Manifest) -> None:
    rows = sum(table["rows"] for table in manifest["tables"].values())
    size = sum(file["bytes"] for file in manifest["files"].values())
    typer.echo(f"{folder}: {len(manifest['tables'])} tables, {rows:,} rows, {size:,} bytes, as of {manifest['created']}")

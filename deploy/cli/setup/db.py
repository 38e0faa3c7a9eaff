"""``perpflow db``: set up and maintain the database."""

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

app = typer.Typer(no_args_is_help=True, help="Migrate, maintain, back up and restore the database.")

UrlOption = Annotated[
    str, typer.Option("--database-url", envvar="DATABASE_URL", help="URL of PostgreSQL or TimescaleDB. Default: DATABASE_URL.")
]
JobsOption = Annotated[int, typer.Option(min=1, help="Number of parallel processes.")]


def _url(given: str) -> str:
    return given or Settings().database_url


@app.command(epilog="Example: perpflow db migrate --dry-run")
def migrate(
    database_url: UrlOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL without running it.")] = False,
) -> None:
    """Apply missing migrations. Refresh comments, policies and the rights of the roles. Safe to repeat.

    The roles perpflow_writer, perpflow_reader, perpflow_executor and perpflow_console can log in when their passwords are set:
    PERPFLOW_WRITER_PASSWORD or PERPFLOW_WRITER_PASSWORD_FILE, and likewise for READER, EXECUTOR and CONSOLE.
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
    """Show the applied migrations and every table that differs from its schema. Exit code 1: something is missing."""
    state = database.status(_url(database_url))
    shown = Table("migration", "applied")
    for migration in state.migrations:
        at = f"{migration.applied_at:%Y-%m-%d %H:%M:%S%z}" if migration.applied_at else "no"
        shown.add_row(migration.name, f"{at}, but the file has changed since then" if migration.changed else at)
    console = Console()
    console.print(shown)
    console.print(f"TimescaleDB {state.timescaledb}" if state.timescaledb else "TimescaleDB is not installed: native partitions")
    for shortage in state.shortages:
        console.print(str(shortage), markup=False)
    for difference in state.differences:
        console.print(difference, markup=False)
    if not state.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: perpflow db maintain --every 60   (without --every it runs once, e.g. from cron)")
def maintain(
    database_url: UrlOption = "",
    every: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Run until stopped: build bars every this many seconds, do the rest every hour."),
    ] = None,
) -> None:
    """Create future partitions, build bars, drop expired data and set up TimescaleDB's jobs. Report what was done.

    PERPFLOW_KEEP_HISTORY keeps expired data. Only one process works at a time; a second one does nothing.
    Exit code 1: something needs an operator.
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


@app.command(epilog="Example: perpflow db keep depth 14   (days; 0 keeps everything; without arguments it lists all tables)")
def keep(
    table: Annotated[str, typer.Argument(help="A time-partitioned table. Default: list all.")] = "",
    days: Annotated[int | None, typer.Argument(min=0, help="Retention in days. 0: keep for ever.")] = None,
    chunk: Annotated[
        str, typer.Option(metavar="SPAN", help="Interval of new TimescaleDB chunks, e.g. '6 hours'. See deploy/SIZING.md.")
    ] = "",
    database_url: UrlOption = "",
) -> None:
    """Show or change the retention and chunk interval of a table. `perpflow db maintain` applies a change."""
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
    folder: Annotated[Path, typer.Argument(help="Folder to create. It must not exist.")], database_url: UrlOption = "", jobs: JobsOption = 2
) -> None:
    """Back up the whole database from one snapshot, with sink offsets, checksums and a manifest. Writers keep running."""
    manifest = backups.backup(_url(database_url), folder, jobs=jobs, progress=typer.echo)
    _tell(folder, manifest)


@app.command(
    epilog="Example: createdb perpflow2 && perpflow db restore /backups/perpflow-2026-11-22 --database-url postgresql://.../perpflow2"
)
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of a backup.")], database_url: UrlOption = "", jobs: JobsOption = 2
) -> None:
    """Restore a backup into an empty database and check every table against the manifest. Sinks resume from the restored offsets."""
    manifest = backups.restore(_url(database_url), folder, jobs=jobs, progress=typer.echo)
    _tell(folder, manifest)


def _tell(folder: Path, manifest: backups.Manifest) -> None:
    rows = sum(table["rows"] for table in manifest["tables"].values())
    size = sum(file["bytes"] for file in manifest["files"].values())
    typer.echo(f"{folder}: {len(manifest['tables'])} tables, {rows:,} rows, {size:,} bytes, as of {manifest['created']}")

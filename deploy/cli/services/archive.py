"""``perpflow archive``: write topics to Parquet files, read and check them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from schemas.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Archive topics as Parquet files; list, verify and export them.")

Root = Annotated[Path, typer.Argument(help="Folder of the archive.", envvar="PERPFLOW_ARCHIVE", show_envvar=True)]


@app.command(epilog="Example: perpflow archive run /data/archive --topics agg_trades,progress,instruments,strategies")
def run(
    root: Root,
    topics: Annotated[str, typer.Option(help="Topics, separated by commas. Default: all topics of the catalogue.")] = "",
    roll_mb: Annotated[float, typer.Option(min=0.01, help="Write files when this many megabytes of records are in memory.")] = 64.0,
    roll_seconds: Annotated[float, typer.Option(min=0.0, help="Write files at least this often, seconds.")] = 300.0,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Stop when every assigned partition has had no new record for this long."),
    ] = None,
    session_timeout: Annotated[
        float, typer.Option(min=6.0, help="Seconds without a heartbeat until other archivers take over the partitions.")
    ] = 10.0,
    instance: Annotated[
        str | None, typer.Option(help="Fixed name of this archiver. Restarted under the same name, it gets its partitions back at once.")
    ] = None,
) -> None:
    """Write topics to the archive until stopped. Each record is written exactly once, also after a crash or restart.

    Several archivers may write to one folder; they share the partitions."""
    from deploy.cli import settings as surroundings
    from schemas import catalogue
    from schemas.process.service import Service, configure_logging
    from sinks.archive.service import Archiver, Options

    chosen = tuple(name.strip() for name in topics.split(",") if name.strip()) or tuple(catalogue.TOPICS)
    unknown = [name for name in chosen if name not in catalogue.TOPICS]
    if unknown:
        raise UserError(f"no topic {', '.join(unknown)}; there are {', '.join(catalogue.TOPICS)}")
    settings = surroundings()
    configure_logging(settings.log_level)
    options = Options(root, chosen, int(roll_mb * 1024 * 1024), roll_seconds, until_idle, int(session_timeout * 1000), instance)
    with Service("archive", settings.http_port) as service:
        Archiver(settings, options, service).run()


@app.command("list", epilog="Example: perpflow archive list /data/archive --topic agg_trades")
def list_(
    root: Root,
    topic: Annotated[str | None, typer.Option(help="Only this topic.")] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Print the paths of the valid files, one per line, for other tools to read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the content by topic and instrument: days, records, bytes."""
    from schemas.archive.manifest import ArchiveError
    from sinks.archive import inspect

    try:
        if files:
            for name, paths in inspect.listed_files(root).items():
                if topic in (None, name):
                    for path in paths:
                        typer.echo(path)
            return
        found = [one for one in inspect.holdings(root) if topic in (None, one.topic)]
    except ArchiveError as error:
        raise UserError(f"archive: {error}") from error
    if as_json:
        rows = [
            {
                "topic": one.topic,
                "instrument": one.folder,
                "days": sorted(one.days),
                "files": one.files,
                "rows": one.rows,
                "bytes": one.bytes,
                "first_event_time": one.first_time,
                "last_event_time": one.last_time,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("topic", "instrument", "first day", "last day", "days", "files", "records", "bytes", "bytes per record", title=str(root))
    for one in found:
        days = sorted(one.days)
        each = f"{one.bytes_per_row:.1f}"
        table.add_row(one.topic, one.folder, days[0], days[-1], str(len(days)), f"{one.files:,}", f"{one.rows:,}", f"{one.bytes:,}", each)
    rows_total, bytes_total = sum(one.rows for one in found), sum(one.bytes for one in found)
    table.add_section()
    each = f"{bytes_total / rows_total:.1f}" if rows_total else "-"
    table.add_row("all", "", "", "", "", f"{sum(one.files for one in found):,}", f"{rows_total:,}", f"{bytes_total:,}", each)
    Console().print(table)


@app.command(epilog="Example: perpflow archive verify /data/archive")
def verify(root: Root) -> None:
    """Check every manifest, checksum, record count and offset. Exit code 1: something is wrong; the output names it."""
    from schemas.archive.manifest import ArchiveError
    from sinks.archive import inspect

    try:
        verdict = inspect.verify(root)
    except ArchiveError as error:
        raise UserError(f"archive: {error}") from error
    for fault in verdict.faults:
        typer.echo(fault)
    for path in verdict.unlisted:
        typer.echo(f"{path}: ignored: not in a manifest (a killed archiver left it, or it is being written)", err=True)
    typer.echo(f"{verdict.rows:,} records in {verdict.files:,} files, {len(verdict.faults)} faults")
    if verdict.faults:
        raise typer.Exit(1)


@app.command(
    epilog="Example: perpflow archive export agg_trades trades.csv /data/archive --instrument BINANCE:BTCUSDT-PERP --from 2024-08-08"
)
def export(
    topic: Annotated[str, typer.Argument(help="Topic.")],
    target: Annotated[Path, typer.Argument(help="File to write: *.csv or *.parquet.")],
    root: Root,
    instrument: Annotated[str | None, typer.Option(help="Only this instrument.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Start time, inclusive: ISO 8601, UTC unless it names a zone.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="End time, exclusive.")] = None,
) -> None:
    """Write the records of a topic to one file; optionally of one instrument and a time range."""
    from schemas.archive.manifest import ArchiveError
    from sinks.archive import inspect

    try:
        rows = inspect.export(root, topic, instrument, _time(since, "--from"), _time(until, "--to"), target)
    except ArchiveError as error:
        raise UserError(f"archive: {error}") from error
    typer.echo(f"{rows:,} records in {target}")


def _time(text: str | None, option: str) -> int | None:
    """Return an ISO time as ms UTC. Raises UserError naming the option."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option}: expected an ISO 8601 time such as 2024-08-08T12:30, got {text!r}") from error
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)

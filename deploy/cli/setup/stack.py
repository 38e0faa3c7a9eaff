"""``perpflow stack``: start and stop the local stack."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from typing import Annotated

import typer

from deploy.stack import Stack

app = typer.Typer(
    no_args_is_help=True, help="Run a Kafka broker and PostgreSQL on this machine. Needs only Python; all data is in one folder."
)

Directory = Annotated[
    str | None, typer.Option("--dir", envvar="PERPFLOW_STACK_DIR", help="Folder of the stack.", show_default=".perpflow", metavar="FOLDER")
]


class Extra(StrEnum):
    """Optional parts of a stack."""

    prometheus = "prometheus"
    console = "console"


def _say(message: str) -> None:
    typer.echo(message, err=True)


@app.command(epilog='Example: perpflow stack up && eval "$(perpflow stack env)"')
def up(
    directory: Directory = None,
    kafka_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the broker. Default: the port of the last start.")
    ] = None,
    database_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of PostgreSQL. Default: the port of the last start.")
    ] = None,
    extra: Annotated[
        list[Extra] | None,
        typer.Option("--with", help="prometheus: scrapes every service of this environment; console: pages and API. Repeatable."),
    ] = None,
) -> None:
    """Start broker and database and wait until they answer. The first start downloads Kafka (43 MB)."""
    stack = Stack(directory)
    extras = extra or []
    stack.up(
        _say,
        kafka_port=kafka_port,
        database_port=database_port,
        prometheus=Extra.prometheus in extras,
        console=Extra.console in extras,
    )
    for part in stack.status():
        typer.echo(f"{part.name:10} port {part.port}, pid {part.pid}, log {part.log}")
    if stack.console_url is not None:
        typer.echo(f"The console: {stack.console_url}")
    option = f" --dir {shlex.quote(directory)}" if directory else ""
    typer.echo(f'Point the commands of this shell at it: eval "$(perpflow stack env{option})"')


@app.command(epilog="Example: perpflow stack status --json")
def status(directory: Directory = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show whether broker and database run and answer. Exit code 1: at least one does not answer."""
    stack = Stack(directory)
    parts = stack.status()
    if as_json:
        typer.echo(json.dumps({"dir": str(stack.dir), "parts": [part.as_dict() for part in parts]}, indent=1))
    else:
        for part in parts:
            state = "up" if part.healthy else ("running, but not answering" if part.running else "down")
            typer.echo(f"{part.name:10} {state:26} port {part.port or '-'}, pid {part.pid or '-'}, log {part.log}")
    sys.exit(0 if all(part.healthy for part in parts) else 1)


@app.command(epilog="Example: perpflow stack down")
def down(directory: Directory = None) -> None:
    """Stop broker and database. The data stays."""
    stack = Stack(directory)
    typer.echo("stopped" if stack.down(_say) else f"nothing runs in {stack.dir}")


@app.command(epilog="Example: perpflow stack reset --yes")
def reset(
    directory: Directory = None, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False
) -> None:
    """Stop broker and database; delete their data and logs."""
    stack = Stack(directory)
    if not yes and stack.dir.exists():
        typer.confirm(f"Remove all topics and tables in {stack.dir}?", abort=True)
    typer.echo(f"removed {stack.dir}" if stack.reset(_say) else f"there is no stack in {stack.dir}")


@app.command(epilog='Example: eval "$(perpflow stack env)"')
def env(directory: Directory = None) -> None:
    """Print the shell exports that point perpflow at this stack."""
    for name, value in Stack(directory).env().items():
        typer.echo(f"export {name}={shlex.quote(value)}")

"""``perpflow doctor``: check this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(help="Check this machine; name what is missing and how to get it.")


@app.command(epilog="Example: perpflow doctor --json")
def doctor(
    directory: Annotated[
        str | None, typer.Option("--dir", help="Folder of the local stack.", show_default=".perpflow", metavar="FOLDER")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: name what is missing and how to get it. Exit code 1: something required is missing."""
    from deploy.stack.doctor import Check, examine

    found: list[Check] = []
    for check in examine(directory):
        found.append(check)
        if not as_json:
            mark = "ok     " if check.ok else ("MISSING" if check.required else "note   ")
            typer.echo(f"{mark} {check.name}: {check.found}")
            if check.remedy:
                typer.echo(f"          -> {check.remedy}")
    missing = [check.name for check in found if check.required and not check.ok]
    if as_json:
        typer.echo(json.dumps({"ok": not missing, "checks": [asdict(check) for check in found]}, indent=1))
    else:
        typer.echo(f"\n{'Missing: ' + ', '.join(missing) if missing else 'Everything required is installed.'}")
    raise typer.Exit(1 if missing else 0)

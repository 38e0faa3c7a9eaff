"""``perpflow settings``: show and change the settings of an engine. A change is a new revision in the topic that the workers follow."""

from __future__ import annotations

import getpass
import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli import settings
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.settings.history import history as history_of
from sinks.commands.settings.log import read as read_log
from sinks.commands.settings.publish import publish
from stream_apps.core.log.engine_settings import SettingsError, SettingsLog
from stream_apps.engine_settings import Number, markdown, numbers, rules_of

app = typer.Typer(no_args_is_help=True, help="Show and change the settings of an engine: staleness limits, floors, regime limits ...")

Engine = Annotated[str, typer.Option("--engine", help="Engine, as in perpflow worker --engine.")]
Instrument = Annotated[
    str, typer.Option("--instrument", help="Settings of one instrument, VENUE:SYMBOL-PERP. Default: settings of the whole engine.")
]


@app.command(epilog="Example: perpflow settings show --instrument BINANCE:BTCUSDT-PERP")
def show(
    engine: Engine = "signals",
    instrument: Instrument = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print the current settings and the source of each: log, environment or default."""
    environment = settings()
    log = read_log(environment, _rules(environment, engine))
    try:
        found = numbers(environment, engine, log.in_force, instrument)
    except ValueError as error:
        raise UserError(f"instrument: {error}") from error
    if as_json:
        values = {one.name: {"value": one.value, "unit": one.unit, "from": one.origin} for one in found}
        typer.echo(json.dumps({"engine": engine, "instrument": instrument or None, "revision": log.revision, "settings": values}, indent=1))
        return
    typer.echo(f"engine {engine}, revision {log.revision}{f', instrument {instrument}' if instrument else ''}")
    shown = Table("setting", "value", "unit", "from", "may change in the middle of a log")
    for one in found:
        shown.add_row(one.name, _text(one), one.unit, one.origin, "no" if one.fixed else "yes")
    _print(shown)
    for refused in log.refused:
        typer.echo(f"invalid, ignored: {refused}", err=True)


@app.command("set", epilog="Example: perpflow settings set stale_book_ms=3000 oi_horizon_ms=600000 --revision 0 --note 'faster feed'")
def set_(
    assignments: Annotated[list[str], typer.Argument(help="Settings. NAME= resets a setting to its default.", metavar="NAME=VALUE...")],
    revision: Annotated[
        int, typer.Option("--revision", min=0, help="Revision that this edit is based on. 0: no setting was ever changed.")
    ],
    engine: Engine = "signals",
    instrument: Instrument = "",
    by: Annotated[str, typer.Option("--by", envvar="PERPFLOW_EDITOR", help="Author, for the audit trail. Default: your login name.")] = "",
    note: Annotated[str | None, typer.Option("--note", help="Reason, for the audit trail.")] = None,
) -> None:
    """Change settings from the next evaluation instant on. Fails if --revision is not the newest revision."""
    values: dict[str, float | None] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{assignment!r}: expected NAME=VALUE")
        try:
            values[name] = float(text) if text else None
        except ValueError:
            raise UserError(f"{name}: must be a number, got {text!r}") from None
    try:
        who = by or getpass.getuser()
    except (KeyError, OSError):  # no login name, as in a container
        who = ""
    environment = settings()
    try:
        written = publish(
            environment, _rules(environment, engine), values, expected=revision, time=time.time_ns() // 1_000_000, instrument=instrument, by=who, note=note
        )  # fmt: skip
    except SettingsError as error:
        raise UserError(str(error)) from error
    typer.echo(f"{engine}: {'written' if written.written else 'unchanged'}, revision {written.log.revision}")
    if written.written and written.revision is not None and written.revision.effective_time:
        typer.echo(f"takes effect at the evaluation instant {_utc(written.revision.effective_time)} (event time)")


@app.command(epilog="Example: perpflow settings history")
def history(
    engine: Engine = "signals", as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line per revision.")] = False
) -> None:
    """Print every revision: author, time, changes and reason.

    Reads the topic. Revisions that compaction has removed come from the database when DATABASE_URL is set.
    """
    environment = settings()
    entries = history_of(environment, _rules(environment, engine))
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.to_json(), ensure_ascii=False))
        return
    shown = Table("revision", "written at", "effective from", "by", "instrument", "changed", "note")
    for entry in entries:
        what = ", ".join(f"{name} {_plain(old)} -> {_plain(new)}" for name, (old, new) in entry.changed.items())
        one = entry.revision
        since = _utc(one.effective_time) if one.effective_time else "next instant"
        shown.add_row(str(one.revision), _utc(one.event_time), since, one.edited_by, one.instrument, what, one.note or "")
    _print(shown)


@app.command(epilog="Example: perpflow settings doc > settings.md")
def doc(engine: Engine = "signals") -> None:
    """Print all settings of an engine as a Markdown table: default, unit, bounds, variable, source and meaning."""
    try:
        text = markdown(engine)
    except ValueError as error:
        raise UserError(f"--engine: {error}") from error
    typer.echo(text, nl=False)


def _rules(environment: Settings, engine: str) -> SettingsLog:
    try:
        return rules_of(environment, engine)
    except ValueError as error:
        raise UserError(str(error)) from error


def _text(one: Number) -> str:
    return "of the base asset's 24 h volume" if one.value is None and one.name == "vpin_bucket" else _plain(one.value)


def _plain(value: float | None) -> str:
    return "default" if value is None else f"{value:.15g}"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _print(shown: Table) -> None:
    # A file or pipe: wide enough that no column is cut.
    console = Console()
    (console if console.is_terminal else Console(width=240)).print(shown)

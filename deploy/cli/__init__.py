"""The command line. Each sub-command is a module in a folder of this package. It is imported only when it runs.

The folders say what a person does: ``setup``, ``services``, ``trading``, ``look``, ``research``. The sub-command ``name`` is the
module ``deploy.cli.FOLDER.name``: dashes become underscores, a Python keyword gets a trailing underscore. The module has either
``app``, a ``typer.Typer`` with commands of its own, or a function of that name, which is the command. A new command needs a line
in ``COMMANDS`` and nothing else. No other room imports this package.
"""

from __future__ import annotations

import gc
import importlib
import keyword
import os
import sys
from pathlib import Path
from typing import Any

import typer
import typer.core

from schemas.errors import UserError

# Name -> what `perpflow --help` says. In the order of first use.
COMMANDS: dict[str, str] = {
    "demo": "Run the whole pipeline on recorded market data and write a report.",
    "doctor": "Check this machine; name what is missing and how to get it.",
    "stack": "Run a Kafka broker and PostgreSQL on this machine, without containers.",
    "db": "Migrate, maintain, back up and restore the database.",
    "topics": "Create, list, read and document topics; show consumer lag.",
    "strategies": "Create, edit, pause, retire and list strategies.",
    "settings": "Show and change the settings of the engines.",
    "explain": "Show how a strategy reached one decision: scores, gates, inputs.",
    "simulate": "Run a simulated exchange from a recording or a generated market.",
    "produce": "Read an exchange and write its market data to Kafka.",
    "import": "Import the public dump files of an exchange into Kafka.",
    "worker": "Compute features, scores and signals from market data.",
    "sink": "Write the topics to the database.",
    "execute": "Trade the signals, on paper or at an exchange.",
    "preflight": "Check an exchange account before trading starts.",
    "positions": "Show open positions and their current value.",
    "orders": "Show open orders, or all orders.",
    "trades": "Show closed trades and their execution costs.",
    "routing": "Propose entry routing from measured execution costs.",
    "risk": "Run the risk guard; halt or resume trading; close all positions.",
    "archive": "Archive topics as Parquet files.",
    "console": "Serve the HTTP API and the web pages.",
    "console-users": "Add, list, ban and change the users of the console; invite people.",
    "monitor": "Monitor the quality of the market data.",
    "metrics": "List every metric with unit, labels and meaning.",
    "dashboards": "Draw the Grafana dashboards as HTML pages, without Grafana.",
    "notify": "Send notifications: Telegram, Discord, webhooks, e-mail.",
    "quality": "Show data quality scores, or check recorded files.",
    "compare": "Compare the results of two strategies.",
    "replay": "Backtest: replay files or topics, and write a report.",
    "research": "Search parameters, test features, compare the edge with costs.",
    "evolve": "Test mutations of the paper strategies out of sample.",
    "bench": "Benchmark perpflow and comparable frameworks on this machine.",
    "report": "Report execution costs; compare replay reports.",
}


def load_app(name: str) -> typer.Typer:
    """Import a sub-command and return its typer application. Raises ValueError when not exactly one folder has its module."""
    module_name = name.replace("-", "_")
    if keyword.iskeyword(module_name):
        module_name += "_"
    (path,) = Path(__file__).parent.glob(f"*/{module_name}.py")
    module = importlib.import_module(f"{__name__}.{path.parent.name}.{module_name}")
    sub_app: typer.Typer | None = getattr(module, "app", None)
    if sub_app is None:
        sub_app = typer.Typer(add_completion=False)
        sub_app.command(name)(getattr(module, module_name))
    return sub_app


def load(name: str) -> Any:
    """Import a sub-command and return its command. Raises ValueError when not exactly one folder has its module."""
    command = typer.main.get_command(load_app(name))
    command.name = name
    return command


class LazyGroup(typer.core.TyperGroup):
    """A group that lists its commands from ``COMMANDS`` and imports one only when it is chosen."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the sub-commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a placeholder with the name and the help text."""
        if cmd_name not in COMMANDS:
            return None
        return typer.core.TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the chosen sub-command. Running it and completing its arguments both call this."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            gc.disable()  # the imports make 200,000 objects that stay: collecting meanwhile costs a seventh of the start
            try:
                command = load(name)
                gc.freeze()
            finally:
                gc.enable()
        return name, command, rest


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_show_locals=False, rich_markup_mode="rich")


@app.callback()
def perpflow() -> None:
    """Turn the order flow of crypto perpetual futures into scored trading signals, on Kafka, Faust and TimescaleDB.

    First run: perpflow demo

    Start your own: perpflow stack up && eval "$(perpflow stack env)" && perpflow topics create && perpflow db migrate
    """


def settings() -> Any:
    """Return the settings of the environment. Raises UserError naming the invalid variable."""
    from pydantic import ValidationError

    from schemas.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        reasons = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise UserError("environment: " + "; ".join(reasons)) from error


def main() -> None:
    """Run the command line. A UserError is printed without a traceback."""
    try:
        if os.environ.get("PERPFLOW_ENGINES"):  # the import is slow, so only users of plug-ins pay for it
            from stream_apps.engines import load_plugins

            try:
                load_plugins()
            except ValueError as error:
                raise UserError(str(error)) from error
        app()
    except UserError as error:
        sys.stderr.write(f"perpflow: {error}\n")
        raise SystemExit(1) from None

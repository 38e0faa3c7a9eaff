"""``perpflow strategies``: put strategies into the topic that the workers follow, and look at them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy import strategies as topic
from deploy.cli import settings
from deploy.errors import UserError
from stream_apps.core.scoring import MODELS, tables
from stream_apps.core.strategy import StrategyError, config_hash
from stream_apps.strategy_files import default_files, load_strategy_files, recorded_files

app = typer.Typer(no_args_is_help=True, help="Load strategies from files, list and show them, and print the scoring models.")


@app.command(epilog="Example: perpflow strategies load --defaults")
def load(
    files: Annotated[list[Path] | None, typer.Argument(help="Strategy files (TOML).", metavar="FILE...")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="The default set: one strategy a symbol.")] = False,
    recorded: Annotated[bool, typer.Option("--recorded", help="The strategies for the recordings of the demo.")] = False,
) -> None:
    """Check strategies and write what is new or changed; it takes effect at the next evaluation instant. Harmless to repeat.

    Nothing is written when one of them breaks a rule. A strategy is paused, deprecated or restored by its field status.
    """
    chosen = [*(files or []), *(default_files() if defaults else []), *(recorded_files() if recorded else [])]
    if not chosen:
        raise UserError("nothing to load: name strategy files, or use --defaults or --recorded")
    try:
        outcomes = topic.publish(settings(), load_strategy_files(chosen), time.time_ns() // 1_000_000)
    except (StrategyError, OSError, UnicodeDecodeError) as error:
        raise UserError(str(error)) from error
    for outcome in outcomes:
        config = outcome.config
        word = "written" if outcome.written else "unchanged"
        typer.echo(f"{config.strategy_id:32} {word:9} revision {config.revision}, {config.status}, {config_hash(config)}")


@app.command("list", epilog="Example: perpflow strategies list")
def list_() -> None:
    """List the newest revision of every strategy."""
    shown = Table("strategy", "revision", "status", "instrument", "direction", "windows", "weights", "entry/flip", "hash")
    for _, config in sorted(topic.read(settings()).items()):
        shown.add_row(
            config.strategy_id,
            str(config.revision),
            config.status,
            config.instrument,
            config.direction,
            f"{config.cvd_fast_window}/{config.cvd_slow_window}",
            f"{config.weight_direction}/{config.weight_env}/{config.weight_aux}/{config.weight_momentum}",
            f"{config.entry_score:g}/{config.flip_threshold:g}",
            config_hash(config),
        )
    # Not a terminal: wide enough that no column is cut in a file or pipe.
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(shown)


@app.command(epilog="Example: perpflow strategies show default-btcusdt")
def show(strategy_id: Annotated[str, typer.Argument(help="Strategy id, as in the list.")]) -> None:
    """Print the newest revision of a strategy as JSON, with the hash of its configuration."""
    known = topic.read(settings())
    if strategy_id not in known:
        raise UserError(f"no strategy {strategy_id!r} (known: {', '.join(sorted(known)) or 'none'})")
    config = known[strategy_id]
    typer.echo(json.dumps({**config.to_record(), "config_hash": config_hash(config)}, indent=1))


@app.command(epilog="Example: perpflow strategies models v54_factory")
def models(
    name: Annotated[str | None, typer.Argument(help="Model; all in short when left out.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every model in full.")] = False,
) -> None:
    """Print what a scoring model reads, its points, gates and thresholds, and where the specification has them (Markdown)."""
    if name is not None and name not in MODELS:
        raise UserError(f"no model {name!r} (known: {', '.join(MODELS)})")
    if name is not None or every:
        chosen = list(MODELS.values()) if name is None else [MODELS[name]]
        typer.echo("\n".join(tables.markdown(model) for model in chosen), nl=False)
        return
    lines = ["| model | | layers and their most points | gates | source |", "|---|---|---|---|---|"]
    typer.echo("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in tables.summary(list(MODELS.values())))]))

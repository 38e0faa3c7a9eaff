"""``perpflow strategies``: create, change and show strategies. A change is a new revision in the topic that the workers follow."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli import settings
from schemas.errors import UserError
from sinks.commands.strategies import edits
from sinks.commands.strategies import revisions as topic
from sinks.commands.strategies.assignments import assigned
from sinks.commands.strategies.history import history as history_of
from sinks.commands.strategies.log import StrategyLog
from sinks.commands.strategies.log import read as read_log
from sinks.commands.strategies.revisions import PublishResult
from stream_apps.core.signals.scoring import MODELS, tables
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_grid import ASSETS, BOOTSTRAPPED, grid
from stream_apps.strategy_files import default_files, load_strategy_edits, recorded_files, strategy_text

app = typer.Typer(no_args_is_help=True, help="Create, edit, pause, retire and list strategies; print the scoring models.")

Name = Annotated[str, typer.Argument(help="Strategy id (perpflow strategies list).")]
Names = Annotated[list[str] | None, typer.Argument(help="Strategy ids (perpflow strategies list).", metavar="NAME...")]
Assignments = Annotated[
    list[str] | None, typer.Argument(help="Fields of the strategy (perpflow topics doc strategies).", metavar="FIELD=VALUE...")
]
By = Annotated[str, typer.Option("--by", envvar="PERPFLOW_EDITOR", help="Author, for the audit trail. Default: your login name.")]
Note = Annotated[str | None, typer.Option("--note", help="Reason, for the audit trail.")]
Every = Annotated[bool, typer.Option("--all", help="Apply to every strategy whose status allows it.")]
Named = Annotated[int, typer.Option("--revision", min=1, help="Revision that this edit is based on. Fails if there is a newer one.")]
MayName = Annotated[int | None, typer.Option("--revision", min=1, help="Revision that this edit is based on. Default: the newest.")]


# --- writing ----------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: perpflow strategies create eth-quick --instrument BINANCE:ETHUSDT-PERP cvd_fast_window=5m cvd_slow_window=1h")
def create(
    name: Name,
    instrument: Annotated[str, typer.Option(help="VENUE:SYMBOL-PERP, or VENUE:SYMBOL for spot.")],
    assignments: Assignments = None,
    model: Annotated[str, typer.Option(help="Scoring model (perpflow strategies models).")] = "v54_factory",
    by: By = "",
    note: Note = None,
) -> None:
    """Create a strategy. Other fields take the model's defaults; gates take the values recommended for the asset."""
    given = assigned(assignments, {**edits.NOT_BY_EDIT, "initial_balance": None})
    _publish(lambda: [edits.new(name, instrument, model, given)], by, note, {name: 0})


@app.command(
    epilog="Example: perpflow strategies edit default-btcusdt --revision 3 entry_score=78 flip_threshold=85 --note 'fewer, better'"
)
def edit(name: Name, revision: Named, assignments: Assignments = None, by: By = "", note: Note = None) -> None:
    """Change fields of a strategy. Fails if --revision is not the newest revision."""
    given = assigned(assignments, edits.NOT_BY_EDIT)
    known = edits.known(read_log(settings()), name)
    _publish(lambda: [edits.edited(known, given)], by, note, {name: revision})


@app.command(epilog="Example: perpflow strategies pause --all --note 'exchange maintenance'")
def pause(names: Names = None, every: Every = False, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """Stop new signals from the next evaluation instant on. Open positions keep their exits. Several strategies pause at the same instant."""
    _set_status("pause", names, every, revision, by, note)


@app.command(epilog="Example: perpflow strategies resume default-btcusdt")
def resume(names: Names = None, every: Every = False, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """Resume paused strategies. A cooldown also runs down during the pause."""
    _set_status("resume", names, every, revision, by, note)


@app.command(epilog="Example: perpflow strategies deprecate eth-quick --yes")
def deprecate(
    names: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    revision: MayName = None,
    by: By = "",
    note: Note = None,
) -> None:
    """Retire strategies: no signals and no edits until `restore`. Nothing is deleted."""
    if names and not yes and not typer.confirm(f"deprecate {', '.join(names)}?"):
        raise UserError("cancelled: nothing was changed")
    _set_status("deprecate", names, False, revision, by, note)


@app.command(epilog="Example: perpflow strategies restore eth-quick")
def restore(names: Names = None, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """Restore deprecated strategies with their last configuration."""
    _set_status("restore", names, False, revision, by, note)


@app.command("add-balance", epilog="Example: perpflow strategies add-balance default-btcusdt 500 --revision 3")
def add_balance(
    name: Name,
    amount: Annotated[float, typer.Argument(help="Amount in the quote asset, above 0.", min=0.01)],
    revision: Named,
    by: By = "",
    note: Note = None,
) -> None:
    """Add money to a strategy. This raises 1R (balance x risk_per_trade) of future signals.

    The revision stores the sum of all added money. It holds from the next instant on. config_hash does not change, so the statistics continue.
    """
    known = edits.known(read_log(settings()), name)
    published = _publish(lambda: [edits.with_added_balance(known, amount)], by, note, {name: revision})
    config = published.outcomes[0].config
    typer.echo(f"balance {config.balance:,.2f}, {config.added_balance:,.2f} of it added, 1R {config.balance * config.risk_per_trade:,.2f}")


@app.command("import", epilog="Example: perpflow strategies import --defaults   (or files, as `export` writes them)")
def import_(
    files: Annotated[list[Path] | None, typer.Argument(help="Strategy files (TOML).", metavar="FILE...")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Import the default set: one strategy per symbol.")] = False,
    recorded: Annotated[bool, typer.Option("--recorded", help="Import the strategies of the demo's recordings.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Import only strategies that do not exist yet.")] = False,
    by: By = "",
    note: Note = None,
) -> None:
    """Validate strategy files and write new or changed strategies. They take effect at the next evaluation instant. Safe to repeat.

    If one file is invalid, nothing is written. A file with a `revision` fails if a newer revision exists; a file without one overwrites.
    """
    chosen = [*(files or []), *(default_files() if defaults else []), *(recorded_files() if recorded else [])]
    if not chosen:
        raise UserError("nothing to import: name strategy files, or use --defaults or --recorded")
    try:
        configs, expected = load_strategy_edits(chosen)
    except (StrategyError, OSError, UnicodeDecodeError) as error:
        raise UserError(str(error)) from error
    if missing:
        known = read_log(settings()).newest
        configs = [config for config in configs if config.strategy_id not in known]
        expected = {config.strategy_id: 0 for config in configs}
    _publish(lambda: configs, by, note, expected)


@app.command(epilog="Example: perpflow strategies export default-btcusdt > btc.toml")
def export(
    names: Names = None,
    folder: Annotated[
        Path | None, typer.Option("--to", help="Write one file per strategy to this folder. Default: print a single strategy.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every strategy that is not deprecated.")] = False,
) -> None:
    """Write strategies as files for `import`, with every field and the current revision."""
    log = read_log(settings())
    chosen = _chosen(log, names, every, lambda config: config.status != "deprecated")
    if folder is None:
        if len(chosen) != 1:
            raise UserError("several strategies: add --to FOLDER")
        typer.echo(strategy_text(chosen[0]), nl=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for config in chosen:
        # An id may contain characters that a file name may not.
        path = folder / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in config.strategy_id)}.toml"
        if path.exists() and f"strategy_id = {json.dumps(config.strategy_id, ensure_ascii=False)}" not in path.read_text(encoding="utf-8"):
            raise UserError(f"{path}: contains a different strategy")
        path.write_text(strategy_text(config), encoding="utf-8")
        typer.echo(str(path))


@app.command(epilog="Example: perpflow strategies bootstrap --paused")
def bootstrap(
    assets: Annotated[list[str] | None, typer.Option("--asset", help=f"Base asset: {', '.join(ASSETS)}. Repeatable. Default: all.")] = None,
    venue: Annotated[str, typer.Option(help="Venue of the perpetuals.")] = "BINANCE",
    paused: Annotated[bool, typer.Option("--paused", help="Create them paused.")] = False,
    by: By = "",
    note: Note = None,
) -> None:
    """Create a grid of 54 strategies: ETH, XRP and SOL x six pairs of CVD windows x three target profiles. Existing strategies are skipped."""
    if unknown := set(assets or ()) - set(ASSETS):
        raise UserError(f"--asset: no recommended values for {', '.join(sorted(unknown))} (known: {', '.join(ASSETS)})")
    try:
        wanted = grid(assets or BOOTSTRAPPED, venue)
    except StrategyError as error:
        raise UserError(str(error)) from error
    log = read_log(settings())
    taken = {name for config in log.newest.values() for name in (config.strategy_id, config.display_name)}
    new = [replace(config, status="paused") if paused else config for config in wanted if config.display_name not in taken]
    _publish(lambda: new, by, note, {config.strategy_id: 0 for config in new})
    typer.echo(f"created {len(new)}, skipped {len(wanted) - len(new)} that exist")


# --- reading ----------------------------------------------------------------------------------------------------------


@app.command("list", epilog="Example: perpflow strategies list")
def list_(every: Annotated[bool, typer.Option("--all", help="Also deprecated strategies.")] = False) -> None:
    """List the newest revision of every strategy, and the invalid records that workers ignore."""
    log = read_log(settings())
    shown = Table("strategy", "revision", "status", "instruments", "model", "direction", "windows", "weights", "entry/flip", "hash", "by")
    for _, config in sorted(log.newest.items()):
        if config.status == "deprecated" and not every:
            continue
        shown.add_row(
            config.strategy_id,
            str(config.revision),
            config.status,
            ", ".join(config.all_instruments),
            config.model,
            config.direction,
            f"{config.cvd_fast_window}/{config.cvd_slow_window}",
            f"{config.weight_direction}/{config.weight_env}/{config.weight_aux}/{config.weight_momentum}",
            f"{config.entry_score:g}/{config.flip_threshold:g}",
            config_hash(config),
            config.edited_by,
        )
    _print(shown)
    for refused in log.refused:
        typer.echo(f"invalid, ignored: {refused}", err=True)


@app.command(epilog="Example: perpflow strategies show default-btcusdt")
def show(name: Name) -> None:
    """Print the newest revision of a strategy and its configuration hash as JSON."""
    config = edits.known(read_log(settings()), name)
    typer.echo(json.dumps({**config.to_record(), "config_hash": config_hash(config)}, indent=1, ensure_ascii=False))


@app.command(epilog="Example: perpflow strategies history default-btcusdt")
def history(name: Name, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line per revision.")] = False) -> None:
    """Print the audit trail of a strategy: author, time, changes and reason of every revision, and rejected revisions.

    Reads the topic. Revisions that compaction has removed come from the database when DATABASE_URL is set.
    """
    entries = history_of(settings(), name)
    if not entries:
        raise UserError(f"no strategy {name!r}")
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.to_json(), ensure_ascii=False))
        return
    shown = Table("revision", "written at", "by", "did", "changed", "note")
    for entry in entries:
        what = ", ".join(f"{field} {old!r} -> {new!r}" for field, (old, new) in entry.changed.items()) if entry.did != "create" else ""
        shown.add_row(str(entry.revision), _utc(entry.event_time), entry.by, entry.did, entry.reason or what, entry.note or "")
    _print(shown)


@app.command(epilog="Example: perpflow strategies models v54_factory")
def models(
    name: Annotated[str | None, typer.Argument(help="Scoring model. Default: a short list of all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every model in full.")] = False,
) -> None:
    """Print the inputs, points, gates and thresholds of a scoring model, with their section in the specification (Markdown)."""
    if name is not None and name not in MODELS:
        raise UserError(f"no model {name!r} (known: {', '.join(MODELS)})")
    if name is not None or every:
        chosen = list(MODELS.values()) if name is None else [MODELS[name]]
        typer.echo("\n".join(tables.markdown(model) for model in chosen), nl=False)
        return
    lines = ["| model | | layers and their maximum points | gates | source |", "|---|---|---|---|---|"]
    typer.echo("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in tables.summary(list(MODELS.values())))]))


# --- shared helpers ----------------------------------------------------------------------------------------------------


def _publish(wanted: Callable[[], Sequence[StrategyConfig]], by: str, note: str | None, expected: dict[str, int]) -> PublishResult:
    """Write strategies and print the result of each. Raises UserError naming the field of a broken rule."""
    try:
        who = by or getpass.getuser()
    except (KeyError, OSError):  # no login name, as in a container
        who = ""
    try:
        published = topic.publish(settings(), wanted(), time.time_ns() // 1_000_000, by=who, note=note, expected=expected)
    except StrategyError as error:
        raise UserError(str(error)) from error
    for outcome in published.outcomes:
        config = outcome.config
        word = "written" if outcome.written else "unchanged"
        typer.echo(f"{config.strategy_id:32} {word:9} revision {config.revision}, {config.status}, {config_hash(config)}")
    if published.effective_time:
        typer.echo(f"takes effect at the evaluation instant {_utc(published.effective_time)} (event time)")
    for strategy_id in published.late:
        typer.echo(f"{strategy_id}: its market had already passed that instant; it takes effect at the next one", err=True)
    return published


def _set_status(verb: str, names: Sequence[str] | None, every: bool, revision: int | None, by: str, note: str | None) -> None:
    """Change the status of strategies. Strategies that already have it do not change."""
    log = read_log(settings())
    chosen = _chosen(log, names, every, lambda config: config.status in edits.STATUS_CHANGES[verb].to)
    if revision is not None and len(chosen) != 1:
        raise UserError("--revision: applies to one strategy only")
    wanted = [edits.with_status(config, verb) for config in chosen]
    # Name the revision that was read, so that a concurrent edit is not overwritten.
    _publish(lambda: wanted, by, note, {config.strategy_id: revision or config.revision for config in chosen})


def _chosen(log: StrategyLog, names: Sequence[str] | None, every: bool, fits: Callable[[StrategyConfig], bool]) -> list[StrategyConfig]:
    if every == bool(names):
        raise UserError("name at least one strategy, or use --all")
    if every:
        return [config for _, config in sorted(log.newest.items()) if fits(config)]
    return [edits.known(log, name) for name in dict.fromkeys(names or ())]


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _print(shown: Table) -> None:
    # A file or pipe: wide enough that no column is cut.
    console = Console()
    (console if console.is_terminal else Console(width=240)).print(shown)

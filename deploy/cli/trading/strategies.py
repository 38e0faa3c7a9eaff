"""``perpflow strategies``: the strategy factory. Every command writes revisions to the topic that the workers follow, or looks at them."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli import settings
from schemas.errors import UserError
from schemas.partition import base_of_instrument
from sinks.commands.strategies import revisions as topic
from sinks.commands.strategies.assignments import assigned
from sinks.commands.strategies.history import history as history_of
from sinks.commands.strategies.log import StrategyLog
from sinks.commands.strategies.log import read as read_log
from sinks.commands.strategies.revisions import PublishResult
from stream_apps.core.signals.scoring import MODELS, tables
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_rules import strategy_from_record
from stream_apps.strategy_files import default_files, load_strategy_edits, recorded_files, strategy_text
from stream_apps.strategy_grid import ASSETS, BOOTSTRAPPED, grid, recommended_gates

app = typer.Typer(no_args_is_help=True, help="Create, edit, retire and look at strategies, and print the scoring models.")

Name = Annotated[str, typer.Argument(help="Strategy id, as in the list.")]
Names = Annotated[list[str] | None, typer.Argument(help="Strategy ids, as in the list.", metavar="NAME...")]
Assignments = Annotated[list[str] | None, typer.Argument(help="Fields of the strategies topic.", metavar="FIELD=VALUE...")]
By = Annotated[str, typer.Option("--by", envvar="PERPFLOW_EDITOR", help="Who edits, for the audit trail; default: your login name.")]
Note = Annotated[str | None, typer.Option("--note", help="Why, for the audit trail.")]
Every = Annotated[bool, typer.Option("--all", help="All strategies for which it makes sense.")]
Named = Annotated[int, typer.Option("--revision", min=1, help="The revision that this changes; refused when there is a newer one.")]
MayName = Annotated[int | None, typer.Option("--revision", min=1, help="The revision that this changes; default: whatever is newest.")]

# Commands of their own, or not to be changed at all.
_NOT_BY_EDIT = {
    "status": "use pause, resume, deprecate or restore",
    "initial_balance": "use add-balance",
    "strategy_id": "make a new strategy",
    "instrument": "make a new strategy",
    **dict.fromkeys(("revision", "event_time", "receive_time", "effective_time", "edited_by", "note"), "is set by the command"),
}


# --- writing ----------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: perpflow strategies create eth-quick --instrument BINANCE:ETHUSDT-PERP cvd_fast_window=5m cvd_slow_window=1h")
def create(
    name: Name,
    instrument: Annotated[str, typer.Option(help="VENUE:SYMBOL-PERP, or VENUE:SYMBOL for spot.")],
    assignments: Assignments = None,
    model: Annotated[str, typer.Option(help="Scoring model: perpflow strategies models.")] = "v54_factory",
    by: By = "",
    note: Note = None,
) -> None:
    """Make a strategy; what is not given takes the model's defaults, and the gates those recommended for the asset."""
    record: dict[str, Any] = {"strategy_id": name, "instrument": instrument, "display_name": name, "model": model}
    try:
        record |= recommended_gates(base_of_instrument(instrument))
    except ValueError as error:
        raise UserError(f"instrument: {error}") from error
    given = assigned(assignments, {**_NOT_BY_EDIT, "initial_balance": None})
    _publish(lambda: [strategy_from_record({**record, **given})], by, note, {name: 0})


@app.command(
    epilog="Example: perpflow strategies edit default-btcusdt --revision 3 entry_score=78 flip_threshold=85 --note 'fewer, better'"
)
def edit(name: Name, revision: Named, assignments: Assignments = None, by: By = "", note: Note = None) -> None:
    """Change fields of a strategy. It names the revision that it changes; if there is a newer one nothing is written."""
    given = assigned(assignments, _NOT_BY_EDIT)
    if not given:
        raise UserError("nothing to change: give FIELD=VALUE")
    known = _known(read_log(settings()), name)
    _publish(lambda: [strategy_from_record({**known.to_record(), **given})], by, note, {name: revision})


@app.command(epilog="Example: perpflow strategies pause --all --note 'exchange maintenance'")
def pause(names: Names = None, every: Every = False, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """No new signals from the next instant on; open positions run on by their own exits. Several strategies change at one instant."""
    _set_status("pause", {"running": "paused"}, {"deprecated": "is deprecated"}, names, every, revision, by, note)


@app.command(epilog="Example: perpflow strategies resume default-btcusdt")
def resume(names: Names = None, every: Every = False, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """Let paused strategies run again. Their cooldown went on meanwhile."""
    reason = {"deprecated": "is deprecated; use restore"}
    _set_status("resume", {"paused": "running"}, reason, names, every, revision, by, note)


@app.command(epilog="Example: perpflow strategies deprecate eth-quick --yes")
def deprecate(
    names: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    revision: MayName = None,
    by: By = "",
    note: Note = None,
) -> None:
    """Retire strategies: no signals, no edits until restored. Nothing is deleted."""
    if names and not yes and not typer.confirm(f"deprecate {', '.join(names)}?"):
        raise UserError("not deprecated")
    _set_status("deprecate", {"running": "deprecated", "paused": "deprecated"}, {}, names, False, revision, by, note)


@app.command(epilog="Example: perpflow strategies restore eth-quick")
def restore(names: Names = None, revision: MayName = None, by: By = "", note: Note = None) -> None:
    """Let deprecated strategies run again, as they were."""
    reason = {status: "is not deprecated" for status in ("running", "paused")}
    _set_status("restore", {"deprecated": "running"}, reason, names, False, revision, by, note)


@app.command("add-balance", epilog="Example: perpflow strategies add-balance default-btcusdt 500 --revision 3")
def add_balance(
    name: Name,
    amount: Annotated[float, typer.Argument(help="Quote units, above 0.", min=0.01)],
    revision: Named,
    by: By = "",
    note: Note = None,
) -> None:
    """Raise the initial balance, and with it 1R (initial balance x risk_per_trade) of the signals to come."""
    known = _known(read_log(settings()), name)
    raised = round(known.initial_balance + amount, 2)
    published = _publish(lambda: [replace(known, initial_balance=raised)], by, note, {name: revision})
    config = published.outcomes[0].config
    typer.echo(f"initial balance {config.initial_balance:,.2f}, 1R {config.initial_balance * config.risk_per_trade:,.2f}")


@app.command("import", epilog="Example: perpflow strategies import --defaults   (or files, as `export` writes them)")
def import_(
    files: Annotated[list[Path] | None, typer.Argument(help="Strategy files (TOML).", metavar="FILE...")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="The default set: one strategy a symbol.")] = False,
    recorded: Annotated[bool, typer.Option("--recorded", help="The strategies for the recordings of the demo.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Only those that are not there yet; what people edited stays.")] = False,
    by: By = "",
    note: Note = None,
) -> None:
    """Check strategy files and write what is new or changed; it takes effect at the next evaluation instant. Harmless to repeat.

    Nothing is written when one of them breaks a rule. A file that names a revision is an edit of that one; without it the file says what shall hold.
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
    folder: Annotated[Path | None, typer.Option("--to", help="Write a file per strategy into this folder; else print one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are not deprecated.")] = False,
) -> None:
    """Write strategies as files that `import` reads: every field, and the revision that an edited file will change."""
    log = read_log(settings())
    chosen = _chosen(log, names, every, lambda config: config.status != "deprecated")
    if folder is None:
        if len(chosen) != 1:
            raise UserError("several strategies: name a folder with --to")
        typer.echo(strategy_text(chosen[0]), nl=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for config in chosen:
        # An id may hold what a file name may not.
        path = folder / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in config.strategy_id)}.toml"
        if path.exists() and f"strategy_id = {json.dumps(config.strategy_id, ensure_ascii=False)}" not in path.read_text(encoding="utf-8"):
            raise UserError(f"{path}: holds another strategy")
        path.write_text(strategy_text(config), encoding="utf-8")
        typer.echo(str(path))


@app.command(epilog="Example: perpflow strategies bootstrap --paused")
def bootstrap(
    assets: Annotated[list[str] | None, typer.Option("--asset", help=f"Of {', '.join(ASSETS)}; repeatable.")] = None,
    venue: Annotated[str, typer.Option(help="Venue of the perpetuals.")] = "BINANCE",
    paused: Annotated[bool, typer.Option("--paused", help="Create them paused.")] = False,
    by: By = "",
    note: Note = None,
) -> None:
    """Create the grid of 54 strategies: ETH, XRP and SOL by six pairs of CVD windows by three profiles of targets. Existing names are skipped."""
    if unknown := set(assets or ()) - set(ASSETS):
        raise UserError(f"asset: no recommended numbers for {', '.join(sorted(unknown))} (known: {', '.join(ASSETS)})")
    try:
        wanted = grid(assets or BOOTSTRAPPED, venue)
    except StrategyError as error:
        raise UserError(str(error)) from error
    log = read_log(settings())
    taken = {name for config in log.newest.values() for name in (config.strategy_id, config.display_name)}
    new = [replace(config, status="paused") if paused else config for config in wanted if config.display_name not in taken]
    _publish(lambda: new, by, note, {config.strategy_id: 0 for config in new})
    typer.echo(f"created {len(new)}, skipped {len(wanted) - len(new)} that exist")


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command("list", epilog="Example: perpflow strategies list")
def list_(every: Annotated[bool, typer.Option("--all", help="Deprecated ones too.")] = False) -> None:
    """List the newest revision of every strategy, and the records of the topic that hold nowhere."""
    log = read_log(settings())
    shown = Table("strategy", "revision", "status", "instrument", "model", "direction", "windows", "weights", "entry/flip", "hash", "by")
    for _, config in sorted(log.newest.items()):
        if config.status == "deprecated" and not every:
            continue
        shown.add_row(
            config.strategy_id,
            str(config.revision),
            config.status,
            config.instrument,
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
        typer.echo(f"holds nowhere: {refused}", err=True)


@app.command(epilog="Example: perpflow strategies show default-btcusdt")
def show(name: Name) -> None:
    """Print the newest revision of a strategy as JSON, with the hash of its configuration."""
    config = _known(read_log(settings()), name)
    typer.echo(json.dumps({**config.to_record(), "config_hash": config_hash(config)}, indent=1, ensure_ascii=False))


@app.command(epilog="Example: perpflow strategies history default-btcusdt")
def history(name: Name, as_json: Annotated[bool, typer.Option("--json", help="As JSON, one line a revision.")] = False) -> None:
    """Print the audit trail: every revision with who wrote it, when, what it changed and why, and what was refused.

    From the topic; what compaction has taken from there comes from the database, when DATABASE_URL says where it is.
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


# --- what they share ----------------------------------------------------------------------------------------------------


def _publish(wanted: Callable[[], Sequence[StrategyConfig]], by: str, note: str | None, expected: dict[str, int]) -> PublishResult:
    """Write, and say what became of each. A broken rule is told with its field."""
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
        typer.echo(f"holds everywhere from the instant {_utc(published.effective_time)} of the market's time on")
    for strategy_id in published.late:
        typer.echo(f"{strategy_id}: its market had passed that instant already; it holds from the next one on", err=True)
    return published


def _set_status(
    verb: str,
    to: dict[str, str],
    refused: dict[str, str],
    names: Sequence[str] | None,
    every: bool,
    revision: int | None,
    by: str,
    note: str | None,
) -> None:
    """Move strategies to another status; those that have it already stay as they are."""
    log = read_log(settings())
    chosen = _chosen(log, names, every, lambda config: config.status in to)
    if revision is not None and len(chosen) != 1:
        raise UserError("--revision: names the revision of one strategy")
    for config in chosen:
        if reason := refused.get(config.status):
            raise UserError(f"status: {config.strategy_id} {reason}; {verb} is not possible")
    wanted = [replace(config, status=to.get(config.status, config.status)) for config in chosen]
    # What was looked at is what is changed: somebody else's edit in between is not overwritten.
    _publish(lambda: wanted, by, note, {config.strategy_id: revision or config.revision for config in chosen})


def _chosen(log: StrategyLog, names: Sequence[str] | None, every: bool, fits: Callable[[StrategyConfig], bool]) -> list[StrategyConfig]:
    if every == bool(names):
        raise UserError("name strategies, or use --all")
    if every:
        return [config for _, config in sorted(log.newest.items()) if fits(config)]
    return [_known(log, name) for name in dict.fromkeys(names or ())]


def _known(log: StrategyLog, name: str) -> StrategyConfig:
    newest = log.newest
    if name not in newest:
        raise UserError(f"no strategy {name!r} (known: {', '.join(sorted(newest)) or 'none'})")
    return newest[name]


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _print(shown: Table) -> None:
    # Not a terminal: wide enough that no column is cut in a file or pipe.
    console = Console()
    (console if console.is_terminal else Console(width=240)).print(shown)

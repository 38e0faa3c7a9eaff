"""``perpflow risk``: the risk guard and its commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from schemas.secret import SecretError, Secrets
from schemas.settings import Settings
from sinks.commands.risk import CommandReceipt, give
from sinks.guard.inputs import newest_state
from sinks.guard.kill import KillResult, close_everything
from sinks.guard.service import Guard
from sinks.guard.venue_watch import AccountWatch
from sinks.venues.account_login import SIMULATED, AccountError, account_id, open_venue
from sinks.venues.common.adapter import VenueError
from stream_apps.core.execution.account.guard import GuardLimits

app = typer.Typer(help="Run the risk guard; halt or resume trading; close all positions.", no_args_is_help=True, add_completion=False)
_DEFAULT = GuardLimits()

Venue = Annotated[str, typer.Option(help="Venue of the account.")]
Mode = Annotated[str, typer.Option(help="simulated, testnet or live.")]
BaseUrl = Annotated[str, typer.Option(help="Address of a simulated venue (perpflow simulate), http://HOST:PORT.")]
Reason = Annotated[str, typer.Option(help="Reason, for the audit trail.")]
EveryAccount = Annotated[bool, typer.Option("--every-account", help="Apply to every account.")]


@app.command()
def guard(
    venue: Venue = "BINANCE",
    mode: Mode = "testnet",
    base_url: BaseUrl = "",
    daily_loss_r: Annotated[
        float, typer.Option(help="Loss of the UTC day, in R, at which the guard closes all positions and halts.")
    ] = _DEFAULT.daily_loss_r,
    losing_streak: Annotated[int, typer.Option(help="Number of consecutive losses that pauses trading.")] = _DEFAULT.losing_streak,
    pause_minutes: Annotated[float, typer.Option(help="Length of the pause after a losing streak, minutes.")] = _DEFAULT.pause_ms / 60_000,
    unreachable_s: Annotated[
        float, typer.Option(help="Block entries when the venue has not answered for this many seconds.")
    ] = _DEFAULT.unreachable_ms / 1000,
    stale_s: Annotated[
        float, typer.Option(help="Block entries when the newest features are older than this many seconds.")
    ] = _DEFAULT.stale_ms / 1000,
    risk_per_trade: Annotated[str, typer.Option(help="Size of 1 R, in the margin asset.")] = str(_DEFAULT.risk_per_trade),
    hold_warn_minutes: Annotated[
        float | None,
        typer.Option(
            help="Alert when a position is held for this many minutes. Default: three quarters of its strategy's timeout.",
            show_default=False,
        ),
    ] = None,
    hold_close_minutes: Annotated[
        float | None,
        typer.Option(
            help="Close a position held for this many minutes. Default: its strategy's timeout_minutes plus 10. A value below timeout_minutes"
            " ends trades earlier than on paper.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the risk guard of an account. It writes the allowed actions to the risk_state topic.

    Executors open no position without a current risk state.

    Example: perpflow risk guard --venue BINANCE --mode testnet --risk-per-trade 2
    """
    settings = _with_database("risk guard")
    secrets = Secrets()
    try:
        limits = GuardLimits(
            daily_loss_r=daily_loss_r,
            losing_streak=losing_streak,
            pause_ms=int(pause_minutes * 60_000),
            unreachable_ms=int(unreachable_s * 1000),
            stale_ms=int(stale_s * 1000),
            risk_per_trade=Decimal(risk_per_trade),
            hold_warn_ms=None if hold_warn_minutes is None else int(hold_warn_minutes * 60_000),
            hold_close_ms=None if hold_close_minutes is None else int(hold_close_minutes * 60_000),
        )
        trading = open_venue(venue, mode, secrets, base_url)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"risk guard: {error}") from error
    configure_logging(settings.log_level)
    with Service("guard", settings.http_port) as service:
        Guard(settings, service, account_id(venue, mode), limits, AccountWatch(trading), fresh_by_arrival=mode == SIMULATED).run()


@app.command()
def status(venue: Venue = "BINANCE", mode: Mode = "testnet") -> None:
    """Show which actions the guard allows for an account, and why.

    Example: perpflow risk status --mode testnet
    """
    console = Console()
    account = account_id(venue, mode)
    state = newest_state(surroundings(), account)
    if state is None:
        console.print(f"{account}: no guard has written a risk state, so executors open no positions")
        raise typer.Exit(1)
    age = (_now() - state["event_time"]) / 1000
    console.print(f"{account}: [bold]{state['state']}[/bold], written {age:.1f} s ago by {state['guard']}")
    if age > 10:
        console.print("[red]older than 10 s, so executors open no positions[/red]")
    console.print(f"entries {'blocked' if state['block_entries'] else 'allowed'}, close all {'yes' if state['close_all'] else 'no'}")
    if state["reasons"]:
        table = Table("rule", "level", "since (UTC)", "until (UTC)", "why")
        for one in state["reasons"]:
            table.add_row(one["rule"], one["level"], _time(one["since"]), _time(one["until"]), one["detail"])
        console.print(table)


@app.command()
def halt(venue: Venue = "BINANCE", mode: Mode = "testnet", reason: Reason = "", every_account: EveryAccount = False) -> None:
    """Stop opening positions until resume. Open positions keep their stop orders.

    Example: perpflow risk halt --mode live --reason "venue maintenance"
    """
    _give(venue, mode, "halt", reason, every_account)


@app.command("block-new")
def block_new(venue: Venue = "BINANCE", mode: Mode = "testnet", reason: Reason = "", every_account: EveryAccount = False) -> None:
    """Block new entries until resume, at warning level.

    Example: perpflow risk block-new --mode live --reason "news at 14:30"
    """
    _give(venue, mode, "block_new", reason, every_account)


@app.command()
def resume(
    venue: Venue = "BINANCE",
    mode: Mode = "testnet",
    reason: Reason = "",
    acknowledge_loss: Annotated[
        bool, typer.Option("--acknowledge-loss", help="Ignore today's loss so far in the daily loss limit.")
    ] = False,
    every_account: EveryAccount = False,
) -> None:
    """Allow entries again: end halt, block-new, close-all, a daily-loss halt of an earlier day, and the pause after a losing streak.

    Example: perpflow risk resume --mode live --reason "checked positions by hand"
    """
    _give(venue, mode, "resume", reason, every_account, acknowledge_loss)


@app.command("close-all")
def close_all(
    venue: Venue = "BINANCE",
    mode: Mode = "testnet",
    base_url: BaseUrl = "",
    reason: Reason = "",
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Also close at the venue directly from this process. It needs only the API key, so it works when all services are down.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    every_account: EveryAccount = False,
) -> None:
    """Close every position at market, cancel every order and block entries until resume.

    Example: perpflow risk close-all --mode live --direct --reason "kafka is down"
    """
    account = account_id(venue, mode)
    if not yes:
        typer.confirm(f"Close all positions of {'every account' if every_account else account} at market?", abort=True)
    if not direct:
        _give(venue, mode, "close_all", reason, every_account)
        return
    # In parallel: an unreachable database or broker delays its error.
    with ThreadPoolExecutor(1) as pool:
        telling = pool.submit(_tell, venue, mode, "close_all", reason, every_account)
        try:
            killed = asyncio.run(_kill(venue, mode, base_url))
        except (AccountError, SecretError, VenueError) as error:
            _arrival(telling.result())
            raise UserError(f"risk close-all: the venue: {error}") from error
        _report(killed)
        given = telling.result()
    _arrival(given)
    if not given.arrived:
        _print(["[yellow]no executor or guard received the command: a running executor may open positions again; stop it[/yellow]"])
    if killed.left:
        left = ", ".join(f"{symbol} {quantity:+f}" for symbol, quantity in sorted(killed.left.items()))
        raise UserError(f"risk close-all: still open: {left}")


def _print(lines: Iterable[str]) -> None:
    """Print lines with markup, without wrapping."""
    console = Console()
    for line in lines:
        console.print(line, soft_wrap=True)


def _report(killed: KillResult) -> None:
    _print(
        [
            *(
                f"{symbol}: {quantity:+f} " + ("[red]NOT closed[/red]" if symbol in killed.left else "closed")
                for symbol, quantity in sorted(killed.closed.items())
            ),
            f"orders cancelled on: {', '.join(killed.cancelled) or 'none were open'}",
            *(f"error of the venue: {text}" for text in killed.errors),
            *([] if killed.left else ["no open positions"]),
        ]
    )


async def _kill(venue: str, mode: str, base_url: str) -> KillResult:
    trading = open_venue(venue, mode, Secrets(), base_url)
    await trading.open()
    try:
        return await close_everything(trading, asyncio.sleep)
    finally:
        await trading.close()


def _give(venue: str, mode: str, command: str, reason: str, every_account: bool, acknowledge_loss: bool = False) -> None:
    given = _tell(venue, mode, command, reason, every_account, acknowledge_loss)
    _arrival(given)
    if not given.arrived:
        raise UserError(
            f"risk {command}: no executor or guard received the command; `perpflow risk close-all --direct` needs neither database nor Kafka"
        )


def _tell(venue: str, mode: str, command: str, reason: str, every_account: bool, acknowledge_loss: bool = False) -> CommandReceipt:
    account = "*" if every_account else account_id(venue, mode)
    return give(surroundings(), account, command, reason, acknowledge_loss=acknowledge_loss)


def _arrival(given: CommandReceipt) -> None:
    _print(
        f"{place}: " + ("command received" if error is None else f"[red]command not received: {error}[/red]")
        for place, error in (("database", given.database), ("Kafka", given.kafka))
    )


def _with_database(command: str) -> Settings:
    settings = surroundings()
    if not settings.database_url:
        raise UserError(f"{command}: DATABASE_URL is not set; commands go through the database. `perpflow stack env` prints it")
    return settings


def _now() -> int:
    return int(time.time() * 1000)


def _time(ms: int | None) -> str:
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")

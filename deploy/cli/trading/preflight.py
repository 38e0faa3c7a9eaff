"""``perpflow preflight``: check an account before trading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from schemas.errors import UserError
from schemas.secret import SecretError, Secrets
from sinks.guard.preflight import AccountRequirements, CheckResult, passed
from sinks.guard.preflight import preflight as check
from sinks.venues.account_login import LIVE, AccountError, open_venue
from sinks.venues.common.adapter import VenueError

_SIGNS = {True: "[green]ok[/green]", False: "[red]FAILED[/red]", None: "[yellow]unknown[/yellow]"}


def preflight(
    symbols: Annotated[str, typer.Option(help="Symbols in the venue's spelling, separated by commas.")],
    venue: Annotated[str, typer.Option(help="Venue of the account.")] = "BINANCE",
    mode: Annotated[str, typer.Option(help="simulated, testnet or live.")] = "testnet",
    base_url: Annotated[str, typer.Option(help="Address of a simulated venue (perpflow simulate), http://HOST:PORT.")] = "",
    leverage: Annotated[int, typer.Option(min=1, help="Leverage to set for each symbol without a position.")] = 5,
    balance: Annotated[str, typer.Option(help="Balance that must be available, in the margin asset.")] = "20",
    budget: Annotated[str, typer.Option(help="Most money that the policy may use. The check reports what the wallet lacks.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check API key, account, clock, balance and contracts; set isolated margin and leverage. Exit code 1: do not trade.

    Example: perpflow preflight --mode testnet --symbols BTCUSDT,ETHUSDT --leverage 5
    """
    names = tuple(name.strip() for name in symbols.split(",") if name.strip())
    if not names:
        raise UserError("preflight: --symbols: name at least one symbol")
    try:
        wanted = AccountRequirements(names, leverage, Decimal(balance), strict=mode == LIVE, budget=Decimal(budget) if budget else None)
        found = asyncio.run(_check(venue, mode, base_url, wanted))
    except InvalidOperation as error:
        raise UserError(f"preflight: --balance and --budget: expected numbers, got {balance!r} and {budget!r}") from error
    except (AccountError, SecretError, VenueError) as error:
        raise UserError(f"preflight: {error}") from error
    good = passed(found, wanted.strict)
    if as_json:
        typer.echo(json.dumps({"passed": good, "findings": [asdict(one) for one in found]}))
    else:
        show(found)
    raise typer.Exit(0 if good else 1)


def show(found: Sequence[CheckResult]) -> None:
    """Print findings as a table."""
    table = Table("check", "", "finding")
    for one in found:
        table.add_row(one.check, _SIGNS[one.ok], one.detail)
    Console().print(table)


async def _check(venue: str, mode: str, base_url: str, wanted: AccountRequirements) -> list[CheckResult]:
    trading = open_venue(venue, mode, Secrets(), base_url)
    await trading.open()
    try:
        return await check(trading, wanted)
    finally:
        await trading.close()

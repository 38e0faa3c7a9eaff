"""``perpflow routing``: propose entry routing from measured costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from deploy.cli import settings as surroundings
from deploy.cli.options.accounts import screen
from deploy.cli.trading.live_start import read_policy
from schemas.errors import UserError
from sinks.queries.execution_costs import changed, entries_of, routes_in_force, toml_of
from sinks.venues.account_login import MODES, VENUES, account_id
from stream_apps.core.execution.routing.proposal import ProposalRules, RowProposal, propose
from stream_apps.core.execution.routing.reestimate import rules_of


def routing(
    venue: Annotated[str, typer.Option(help="Venue of the account.")] = "BINANCE",
    mode: Annotated[str, typer.Option(help="simulated, testnet or live.")] = "testnet",
    days: Annotated[int, typer.Option(min=1, help="Use trades closed within this many days.")] = 30,
    policy: Annotated[Path | None, typer.Option(help="TOML file of the current execution settings. Default: the default settings.")] = None,
    least: Annotated[int, typer.Option(min=2, help="Smallest number of entries from which a row may change.")] = ProposalRules().least,
    write: Annotated[Path | None, typer.Option(help="Write the proposed rows to this new file. Default: print only.")] = None,
) -> None:
    """Propose a routing table for entries by notional, from measured entry costs (execution_cost_events). Each row changes by at most one step.

    A running executor updates its table every day unless its policy has `[routing] automatic = false`; live_routes keeps every update.
    This command shows the current table and the proposal, and changes nothing. Rows put into the policy file apply from the next start.

    Example: perpflow routing --mode testnet --days 14 --policy execution.toml --write routes.toml
    """
    if mode not in MODES or venue not in VENUES:
        raise UserError(f"routing: --mode: expected one of {', '.join(MODES)}; --venue: one of {', '.join(VENUES)}")
    chosen = read_policy(policy, (), ())
    account = account_id(venue, mode)
    settings = surroundings()
    estimated = routes_in_force(settings, account, chosen) if chosen.routing.automatic else None
    rules = replace(rules_of(chosen), least=least)
    entries = entries_of(settings, account, days)
    found = propose(entries, chosen.entry.routes if estimated is None else estimated[1], rules)
    if estimated is not None:
        typer.echo(f"The current table is the executor's, re-estimated {estimated[0]:%Y-%m-%d %H:%M} UTC.")
    screen().print(table_of(account, days, len(entries), found))
    text = toml_of([one.proposed for one in found], rules, f"Proposed from {len(entries)} entries of {account} in {days} days, {_today()}.")
    if not changed(found):
        typer.echo("The table does not change.")
    if write is not None:
        if write.exists():
            raise UserError(f"routing: {write} already exists")
        write.write_text(text, encoding="utf-8")
        typer.echo(f"Written to {write}. Copy the rows into the policy file to use them.")
    elif changed(found):
        typer.echo("Dry run: nothing was written. --write FILE writes the proposed rows.")


def table_of(account: str, days: int, entries: int, found: list[RowProposal]) -> Table:
    """Return a proposal as a table."""
    table = Table(title=f"Entries of {account}, {days} days: {entries:,}", title_justify="left")
    table.add_column("from")
    for name in ("entries", "maker", "time out", "slip bps", "late bps", "wait ms", "slices"):
        table.add_column(name, justify="right")
    table.add_column("why", ratio=1)
    for one in found:
        seen = one.measured
        table.add_row(
            f"{one.now.from_notional:f}",
            f"{seen.entries:,}",
            _share(seen.maker),
            _share(seen.timeouts),
            _bps(seen.slippage_bps),
            _bps(seen.late_bps),
            _move(one.now.maker_wait_ms, one.proposed.maker_wait_ms),
            _move(one.now.slices, one.proposed.slices),
            "; ".join(one.why),
        )
    return table


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _bps(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _move(now: int, then: int) -> str:
    return str(now) if now == then else f"{now} → [bold]{then}[/bold]"

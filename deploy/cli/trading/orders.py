"""``perpflow orders``: show orders."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from deploy.cli.options.accounts import Json, Mode, Strategy, Symbol, Watch, show, wanted
from deploy.report.accounts import orders_table
from sinks.queries.accounts import open_accounts


def orders(
    mode: Mode = "",
    strategy: Strategy = "",
    symbol: Symbol = "",
    every: Annotated[bool, typer.Option("--all", help="Also closed orders: filled, cancelled or rejected.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")] = 50,
    as_json: Json = False,
    watch: Watch = 0,
) -> None:
    """Show the open orders of every account. With --all, also closed orders and the reason.

    Example: perpflow orders --mode testnet --all --limit 20
    """
    chosen = wanted(mode, strategy, symbol)
    with open_accounts(surroundings()) as accounts:
        show(
            lambda: accounts.orders(chosen, every=every, limit=limit), lambda rows, width: orders_table(rows, width, every), as_json, watch
        )

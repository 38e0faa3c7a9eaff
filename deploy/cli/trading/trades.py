"""``perpflow trades``: closed trades and what their execution cost."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from deploy.cli.options.accounts import Json, Mode, Strategy, Symbol, Watch, show, wanted
from deploy.report.accounts import trades_table
from sinks.queries.accounts import open_accounts


def trades(
    mode: Mode = "",
    strategy: Strategy = "",
    symbol: Symbol = "",
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 30,
    as_json: Json = False,
    watch: Watch = 0,
) -> None:
    """Show closed trades, newest first: result, and at a venue the costs of each: share filled as maker, slippage in and out (bps, positive is a cost),
    fees and slippage per R, and with a wide terminal latencies and the longest time without a stop.

    Example: perpflow trades --mode live --limit 10
    """
    chosen = wanted(mode, strategy, symbol)
    with open_accounts(surroundings()) as accounts:
        show(lambda: accounts.trades(chosen, limit), trades_table, as_json, watch)

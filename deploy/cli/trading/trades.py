"""``perpflow trades``: show closed trades and their execution costs."""

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
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")] = 30,
    as_json: Json = False,
    watch: Watch = 0,
) -> None:
    """Show closed trades, newest first, with result and execution costs.

    Trades at a venue show the maker share, entry and exit slippage (bps, positive is a cost), and fees and slippage in R.
    A wide terminal also shows latencies and the longest time without a stop order.

    Example: perpflow trades --mode live --limit 10
    """
    chosen = wanted(mode, strategy, symbol)
    with open_accounts(surroundings()) as accounts:
        show(lambda: accounts.trades(chosen, limit), trades_table, as_json, watch)

"""``perpflow positions``: show open positions and their current value."""

from __future__ import annotations

from deploy.cli import settings as surroundings
from deploy.cli.options.accounts import Json, Mode, Strategy, Symbol, Watch, show, wanted
from deploy.report.accounts import positions_table
from sinks.queries.accounts import open_accounts


def positions(mode: Mode = "", strategy: Strategy = "", symbol: Symbol = "", as_json: Json = False, watch: Watch = 0) -> None:
    """Show the open positions of every account, including paper: latest price, unrealised profit, and who holds the stop order.

    A dim price is older than 10 s. Positions at a venue come from the executor's journal, which is always current.

    Example: perpflow positions --mode live --watch 1
    """
    chosen = wanted(mode, strategy, symbol)
    with open_accounts(surroundings()) as accounts:
        show(lambda: accounts.positions(chosen), positions_table, as_json, watch)

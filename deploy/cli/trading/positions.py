"""``perpflow positions``: what is open, and what it is worth now."""

from __future__ import annotations

from deploy.cli import settings as surroundings
from deploy.cli.options.accounts import Json, Mode, Strategy, Symbol, Watch, show, wanted
from deploy.report.accounts import positions_table
from sinks.queries.accounts import open_accounts


def positions(mode: Mode = "", strategy: Strategy = "", symbol: Symbol = "", as_json: Json = False, watch: Watch = 0) -> None:
    """Show the open positions of every account, paper too, with the newest price, unrealised profit, and who holds the stop.

    A dim price is older than 10 s. Of accounts at a venue the executor's journal is read, which is never behind.

    Example: perpflow positions --mode live --watch 1
    """
    chosen = wanted(mode, strategy, symbol)
    with open_accounts(surroundings()) as accounts:
        show(lambda: accounts.positions(chosen), positions_table, as_json, watch)

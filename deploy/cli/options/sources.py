"""Options that name market data, strategies and a period, the same for ``replay``, ``research`` and ``evolve``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from schemas.errors import UserError

Source = Annotated[
    list[str],
    typer.Option(
        metavar="topics|archive:DIR|db:[URL]|file:PATH[=SYMBOL][@VENUE]", help="Where the market data is. Repeat it to merge several files."
    ),
]
Symbol = Annotated[
    list[str] | None,
    typer.Option(
        help="Instrument id or symbol to read from topics, archive or db; for files, the symbol if the file does not name one. Repeatable."
    ),
]
Strategy = Annotated[
    list[str] | None, typer.Option(metavar="FILE|NAME", help="Strategy file, name of a shipped strategy, or scoring model. Repeatable.")
]
Assigned = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of every strategy. Repeatable.")]
Rebind = Annotated[bool, typer.Option(help="Run strategies of other instruments on the instruments of the source.")]
Since = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Start of the period, ISO 8601, UTC. Default: all data.")]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End of the period, ISO 8601, UTC. Default: all data.")]
WarmUp = Annotated[float, typer.Option(min=0, help="Hours of market data before the period that fill the indicators.")]
Venue = Annotated[str, typer.Option(help="Venue of files and symbols that do not name one: BINANCE, BINANCE_SPOT, BYBIT, OKX, ...")]

# Fields that ``--set`` cannot change, and why.
FIXED: dict[str, str | None] = {"strategy_id": "names the strategy", "instrument": "comes from the source (see --rebind)"}


def time_ms(option: str, text: str | None) -> int | None:
    """Return an ISO 8601 time as ms UTC; a time without a zone is UTC. Raises UserError, naming the option."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option}: expected a time such as 2026-11-01 or 2026-11-01T12:00, got {text!r}") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)

"""Options that name market data, strategies and a period, the same for ``replay``, ``research`` and ``evolve``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from schemas.errors import UserError

Source = Annotated[
    list[str],
    typer.Option(
        metavar="topics|archive:DIR|db:[URL]|file:PATH[=SYMBOL][@VENUE]", help="Where the market data is; files are repeatable and merged."
    ),
]
Symbol = Annotated[
    list[str] | None,
    typer.Option(help="Instrument ids or symbols (topics, archive, db), or the symbol of files that name none; repeatable."),
]
Strategy = Annotated[
    list[str] | None, typer.Option(metavar="FILE|NAME", help="Strategy file, shipped strategy, or scoring model; repeatable.")
]
Assigned = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="For all strategies; repeatable.")]
Rebind = Annotated[bool, typer.Option(help="Run strategies of other instruments on those of the source.")]
Since = Annotated[str | None, typer.Option("--from", metavar="TIME", help="First instant that counts: ISO 8601, UTC.")]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Last instant that counts.")]
WarmUp = Annotated[float, typer.Option(min=0, help="Hours of market data before the period that are run in.")]
Venue = Annotated[str, typer.Option(help="Of files and symbols that name none: BINANCE, BINANCE_SPOT, BYBIT, OKX, ...")]

# What ``--set`` may not name, and why.
FIXED: dict[str, str | None] = {"strategy_id": "names the strategy", "instrument": "is the source's (see --rebind)"}


def time_ms(option: str, text: str | None) -> int | None:
    """Return an ISO 8601 time, UTC where it names no zone, as ms UTC. Raises UserError, naming the option."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option}: expected a time such as 2026-11-01 or 2026-11-01T12:00, got {text!r}") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)

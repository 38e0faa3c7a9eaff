"""Options of the paper model, the same for live paper trading and for replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from schemas.errors import UserError
from stream_apps.core.paper.position import FeeRates, PaperSettings

_DEFAULT = PaperSettings()

LatencyMs = Annotated[int, typer.Option(min=0, help="Time from a decision until its order reaches the venue, ms.")]
SlippageBps = Annotated[
    float,
    typer.Option(
        min=0, help="Slippage of market and stop orders where no order book is known, bps of the price of the trade that fills them."
    ),
]
TakerFee = Annotated[float, typer.Option(help="Taker fee, fraction of notional.")]
MakerFee = Annotated[float, typer.Option(help="Maker fee, fraction of notional. Negative: a rebate.")]
Fees = Annotated[
    list[str] | None,
    typer.Option("--fees", metavar="VENUE=TAKER/MAKER", help="Fees of your tier at one venue, e.g. BINANCE=0.0004/0.00016. Repeatable."),
]
WalkBook = Annotated[
    bool,
    typer.Option("--walk-book/--no-walk-book", help="Fill market and stop orders level by level from the order book where one is known."),
]
UseFilters = Annotated[
    bool,
    typer.Option(
        "--filters/--no-filters",
        help="Round quantities and prices to the contract's lot and tick size, and reject orders below its minimum.",
    ),
]


def paper_settings(
    latency_ms: int, slippage_bps: float, taker_fee: float, maker_fee: float, fees: Sequence[str] | None, walk_book: bool, use_filters: bool
) -> PaperSettings:
    """Return the settings of the paper model. Raises UserError, naming the option, for an invalid value."""
    try:
        return PaperSettings(
            latency_ms=latency_ms,
            slippage_bps=slippage_bps,
            fees=FeeRates(taker=taker_fee, maker=maker_fee),
            venue_fees=dict(map(_rates, fees or ())),
            walk_book=walk_book,
            use_filters=use_filters,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _rates(text: str) -> tuple[str, FeeRates]:
    venue, _, rates = text.partition("=")
    taker, _, maker = rates.partition("/")
    try:
        return venue.upper(), FeeRates(taker=float(taker), maker=float(maker))
    except ValueError:
        raise UserError(f"--fees: expected VENUE=TAKER/MAKER, e.g. BINANCE=0.0004/0.00016, got {text!r}") from None

"""``perpflow execute``: trade the signals, on paper or at a venue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from deploy.cli.options.paper import Fees, LatencyMs, MakerFee, SlippageBps, TakerFee, UseFilters, WalkBook, paper_settings
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings
from sinks.executor.service import Executor
from stream_apps.core.paper.model import PaperSettings
from stream_apps.core.paper.warmup import compile_kernels

_DEFAULT = PaperSettings()


def execute(
    mode: Annotated[
        str,
        typer.Option(
            help="paper: fills are simulated from the market's trades. simulated: a venue of perpflow simulate. testnet or live: a real venue."
        ),
    ] = "paper",
    executor: Annotated[
        str, typer.Option(help="Paper mode: consumer group. Paper executors of one group share the partitions and the journal.")
    ] = "paper",
    latency_ms: LatencyMs = _DEFAULT.latency_ms,
    slippage_bps: SlippageBps = _DEFAULT.slippage_bps,
    taker_fee: TakerFee = _DEFAULT.fees.taker,
    maker_fee: MakerFee = _DEFAULT.fees.maker,
    fees: Fees = None,
    walk_book: WalkBook = _DEFAULT.walk_book,
    use_filters: UseFilters = _DEFAULT.use_filters,
    session_timeout_ms: Annotated[
        int, typer.Option(min=1000, help="Seconds without a heartbeat until other executors take over the partitions.")
    ] = 10_000,
    until_idle: Annotated[float | None, typer.Option(min=0, help="Stop when no record has arrived for this many seconds.")] = None,
    venue: Annotated[str, typer.Option(help="Venue of the orders in every mode except paper: BINANCE, BINANCE_SPOT or BYBIT.")] = "BINANCE",
    base_url: Annotated[str, typer.Option(help="Address of a simulated venue, http://HOST:PORT.")] = "",
    symbols: Annotated[
        str, typer.Option(help="Symbols that may be traded, in the venue's spelling, separated by commas. Default: all.")
    ] = "",
    strategies: Annotated[str, typer.Option(help="Strategies whose signals are traded, separated by commas. Default: all.")] = "",
    policy: Annotated[
        Path | None, typer.Option(help="TOML file of execution settings (entry, sizing, budget, protection, roe, reconcile).")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Confirm that real money is traded. Mode live requires it.")] = False,
) -> None:
    """Trade the signals and write orders, fills, positions and trades_closed.

    In every mode except paper the API key comes from PERPFLOW_API_KEY and PERPFLOW_API_SECRET, or from the files that
    PERPFLOW_API_KEY_FILE and PERPFLOW_API_SECRET_FILE name.

    Example: perpflow execute --latency-ms 250 --slippage-bps 1

    Example: perpflow execute --mode testnet --symbols BTCUSDT,ETHUSDT --policy execution.toml
    """
    settings: Settings = surroundings()
    if not settings.database_url:
        raise UserError("execute: DATABASE_URL is not set; the journal is in the database. `perpflow stack env` prints it")
    if mode != "paper":
        from deploy.cli.trading.live_start import approve, read_policy, run_live
        from sinks.venues.account_login import MODES, account_id

        if mode not in MODES:
            raise UserError(f"execute: mode: expected paper, {', '.join(MODES)}, got {mode!r}")
        chosen = read_policy(policy, _names(symbols), _names(strategies))
        approve(mode, account_id(venue, mode), live, chosen)
        run_live(settings, mode, venue, base_url, chosen)
        return
    paper = paper_settings(latency_ms, slippage_bps, taker_fee, maker_fee, fees, walk_book, use_filters)
    configure_logging(settings.log_level)
    with Service("executor", settings.http_port) as service:
        compile_kernels(settings.codec)
        Executor(settings, service, name=executor, paper=paper, session_timeout_ms=session_timeout_ms).run(until_idle)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())

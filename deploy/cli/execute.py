"""``perpflow execute``: act on signals."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.service import Service, configure_logging
from schemas.settings import Settings
from sinks.executor.service import Executor
from stream_apps.core.paper import PaperSettings
from stream_apps.core.paper_position import FeeRates
from stream_apps.core.warmup import compile_kernels

_DEFAULT = PaperSettings()


def execute(
    mode: Annotated[str, typer.Option(help="paper. Live trading is not available in this release.")] = "paper",
    executor: Annotated[str, typer.Option(help="Executors of one name share the partitions and one journal.")] = "paper",
    latency_ms: Annotated[int, typer.Option(min=0, help="From a decision to its order at the venue, ms.")] = _DEFAULT.latency_ms,
    slippage_bps: Annotated[
        float, typer.Option(min=0, help="What market and stop orders pay beyond the trade that fills them, 1/10,000 of its price.")
    ] = _DEFAULT.slippage_bps,
    taker_fee: Annotated[float, typer.Option(help="Fraction of notional.")] = _DEFAULT.fees.taker,
    maker_fee: Annotated[float, typer.Option(help="Fraction of notional; negative: a rebate.")] = _DEFAULT.fees.maker,
    session_timeout_ms: Annotated[int, typer.Option(min=1000, help="How long the group waits for a silent executor.")] = 10_000,
    until_idle: Annotated[float | None, typer.Option(min=0, help="Stop when nothing came for so many seconds.")] = None,
) -> None:
    """Execute signals: consume signals and trades step by step, keep positions, and write orders, fills, positions and trades_closed.

    Example: perpflow execute --latency-ms 250 --slippage-bps 1
    """
    if mode != "paper":
        raise SystemExit(f"perpflow execute: mode {mode!r} is not available in this release; only paper is (no order leaves this machine)")
    settings = Settings()
    if not settings.database_url:
        raise SystemExit("perpflow execute: DATABASE_URL is not set (the journal lives there); `perpflow stack env` prints it")
    try:
        paper = PaperSettings(latency_ms=latency_ms, slippage_bps=slippage_bps, fees=FeeRates(taker=taker_fee, maker=maker_fee))
    except ValueError as error:
        raise SystemExit(f"perpflow execute: {error}") from error
    configure_logging(settings.log_level)
    with Service("executor", settings.http_port) as service:
        compile_kernels(settings.codec)
        Executor(settings, service, name=executor, paper=paper, session_timeout_ms=session_timeout_ms).run(until_idle)

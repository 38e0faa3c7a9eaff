"""``perpflow monitor``: watch the quality of the market data."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from sinks.monitor.service import MEMORY_MS, Monitor
from stream_apps.core.quality.rules import QualityRules
from stream_apps.core.quality.warmup import compile_quality_kernels


def monitor(
    expect: Annotated[
        str, typer.Option(help="Streams that every trading perpetual must have, separated by commas: one that never comes is a fault.")
    ] = "",
    window: Annotated[float, typer.Option(min=1, help="Seconds of event time of a window; each ends with a score.")] = 60.0,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="At the very first start read the topics from their beginning, not only their end.")
    ] = False,
    session_timeout_ms: Annotated[int, typer.Option(min=1000, help="How long the group waits for a silent monitor.")] = 10_000,
    until_idle: Annotated[float | None, typer.Option(min=0, help="Stop when nothing came for so many seconds.")] = None,
) -> None:
    """Check every stream for gaps, silence, impossible values, crossed books, outliers and wrong clocks, and write findings and scores to data_quality.

    Example: perpflow monitor --expect agg_trades,depth,quotes,funding
    """
    settings = surroundings()
    try:
        expected = tuple(name.strip() for name in expect.split(",") if name.strip())
        rules = QualityRules(expected=expected, window_ms=int(window * 1000))
    except ValueError as error:
        raise UserError(f"monitor: {error}") from error
    configure_logging(settings.log_level)
    with Service("monitor", settings.http_port) as service:
        compile_quality_kernels(settings.codec)  # before the group is joined
        Monitor(settings, service, rules, from_beginning=from_beginning, memory_ms=MEMORY_MS, session_timeout_ms=session_timeout_ms).run(
            until_idle
        )

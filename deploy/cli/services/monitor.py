"""``perpflow monitor``: monitor the quality of the market data."""

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
        str,
        typer.Option(help="Streams that every active perpetual must have, separated by commas. A stream that never arrives is a finding."),
    ] = "",
    window: Annotated[float, typer.Option(min=1, help="Length of a window, seconds of event time. Each window gets one score.")] = 60.0,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="On the first start, read the topics from their beginning. Default: from their end.")
    ] = False,
    session_timeout_ms: Annotated[
        int, typer.Option(min=1000, help="Seconds without a heartbeat until other monitors take over the partitions.")
    ] = 10_000,
    until_idle: Annotated[float | None, typer.Option(min=0, help="Stop when no record has arrived for this many seconds.")] = None,
) -> None:
    """Check every stream for gaps, silence, impossible values, crossed books, outliers and wrong clocks.

    Findings and scores go to the data_quality topic. `perpflow quality` shows them.

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

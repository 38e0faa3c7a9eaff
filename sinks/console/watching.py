"""Feeds the live channels that no topic feeds: ``system`` and ``alerts``. One question of the process for all browsers, and none while nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sinks.console.api.system import health_tree
from sinks.console.context import Context
from sinks.console.data import prometheus
from sinks.console.database import AWAY

# A service that fails is seen by Prometheus after its scrape interval, which is longer.
INTERVAL_S = 5.0

_log = structlog.get_logger(service="console")


async def watch(context: Context) -> None:
    """Publish both channels every few seconds, until cancelled."""
    asked: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "system": lambda: health_tree(context),
        "alerts": lambda: prometheus.alerts(context.options.prometheus_url),
    }
    while True:
        for channel, ask in asked.items():
            if not context.live.wanted(channel):
                continue
            try:
                context.live.show(channel, await ask())
            except AWAY as error:
                # The tree itself says that the database is away; it went away between two of its queries.
                _log.warning("a live channel has no news", channel=channel, error=type(error).__name__)
            except Exception:
                # The pages would wait for ever if this ended: it is logged, and asked again.
                _log.exception("a live channel failed", channel=channel)
        await asyncio.sleep(INTERVAL_S)

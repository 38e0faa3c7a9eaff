"""``perpflow notify``: send notifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from sinks.notifier.rules.config import ConfigError, NotifierConfig, load
from sinks.notifier.service import Notifier, send_test


def notify(
    config: Annotated[
        Path, typer.Option(help="TOML file with channels, routes and rules. `sinks/notifier/rules/config.py` lists every key.")
    ],
    test: Annotated[bool, typer.Option("--test", help="Send one message to every channel, print the results and exit.")] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="On the first start, read the topics from their beginning. Default: from their end.")
    ] = False,
    session_timeout_ms: Annotated[
        int, typer.Option(min=1000, help="Seconds without a heartbeat until other notifiers take over the partitions.")
    ] = 10_000,
    instance: Annotated[
        str | None, typer.Option(help="Fixed name of this notifier. Restarted under the same name, it gets its partitions back at once.")
    ] = None,
    until_idle: Annotated[
        float | None, typer.Option(min=0, help="Stop when no record has arrived and no message has waited for this many seconds.")
    ] = None,
) -> None:
    """Send notifications to Telegram, Discord, webhooks and e-mail: signals, trades, data faults, dead letters, unhealthy services.

    Delivery is at least once: after a crash the last messages may repeat, with the same event id. Secrets come from environment
    variables or from files that the configuration names.

    Examples:

        perpflow notify --config notifier.toml --test

        perpflow notify --config notifier.toml
    """
    try:
        chosen = load(config)
        if test:
            _test(chosen)
            return
        settings = surroundings()
        configure_logging(settings.log_level)
        with Service("notifier", settings.http_port) as service:
            notifier = Notifier(
                settings, service, chosen, from_beginning=from_beginning, session_timeout_ms=session_timeout_ms, instance=instance
            )
            notifier.run(until_idle)
    except ConfigError as error:
        raise UserError(f"notify: {error}") from None


def _test(config: NotifierConfig) -> None:
    if not config.channel:
        raise UserError("notify: no channel is configured: add a [[channel]] to the file")
    failed = []
    for name, outcome in send_test(config).items():
        typer.echo(f"{name}: {'sent' if outcome.ok else f'{outcome.reason}: {outcome.detail}'}")
        if not outcome.ok:
            failed.append(name)
    if failed:
        raise UserError(f"notify: no message reached {', '.join(failed)}")

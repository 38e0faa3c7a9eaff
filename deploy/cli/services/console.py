"""``perpflow console``: the HTTP API and the web pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from sinks.console.options import ConsoleOptions, ReplayCommand
from sinks.console.service import Console


def replay_command() -> ReplayCommand:
    """Return how the console starts a backtest: this very command line."""
    from stream_apps.strategy_files import default_files, load_strategy_files, recorded_files, strategy_text

    shipped = load_strategy_files([*default_files(), *recorded_files()])
    return ReplayCommand((sys.executable, "-m", "deploy.cli", "replay"), tuple(one.strategy_id for one in shipped), strategy_text)


def console(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of API and pages; 0: any free port.")] = 8700,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Anything but this machine needs users, and TLS or --proxy.")
    ] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the server's certificate.", exists=True, dir_okay=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.", exists=True, dir_okay=False)] = None,
    published: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="In a container: the loopback address at which its port is published. It needs users, no TLS."
        ),
    ] = "",
    proxy: Annotated[
        str, typer.Option(help="Addresses of the reverse proxy that has TLS, separated by commas. Its X-Forwarded headers are believed.")
    ] = "",
    backtests: Annotated[Path, typer.Option(help="Folder in which backtests of the console keep their reports.")] = Path(
        ".perpflow/backtests"
    ),
    replay_files: Annotated[
        Path | None, typer.Option(help="Folder with dump files and recordings that backtests may read.", exists=True, file_okay=False)
    ] = None,
    prometheus: Annotated[
        str, typer.Option(envvar="PROMETHEUS_URL", help="Prometheus that scrapes the services: for health and alerts.")
    ] = "",
    notifier: Annotated[
        Path | None,
        typer.Option(help="Configuration of the notifier, so that an operator can send a test message.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Serve the console: pages at /, the API at /api/v1, its document at /api/docs.

    Without users it opens read-only on this machine. `perpflow console-users add` makes the first user.

    Example: perpflow console --port 8700
    """
    settings = surroundings()
    if not settings.database_url:
        raise UserError("DATABASE_URL is not set; `perpflow stack env` prints it")
    try:
        options = ConsoleOptions(
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            published=published,
            proxy=proxy,
            prometheus_url=prometheus,
            notifier=notifier,
            replay=replay_command(),
            backtests=backtests,
            replay_files=replay_files,
        )
    except ValueError as error:
        raise UserError(f"console: {error}") from error
    configure_logging(settings.log_level)
    with Service("console", settings.http_port) as service:
        Console(settings, service, options).run()

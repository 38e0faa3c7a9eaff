"""Options of the console process."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stream_apps.core.signals.strategy import StrategyConfig


@dataclass(frozen=True)
class ReplayCommand:
    """How the console starts ``perpflow replay``. The rooms of replay and command line come after this one, so they give it.

    Attributes:
        command: The command with its first arguments.
        shipped: Strategies that it knows by name.
        strategy_text: Gives the text of a strategy file that it reads.
    """

    command: tuple[str, ...]
    shipped: tuple[str, ...]
    strategy_text: Callable[[StrategyConfig], str]


@dataclass(frozen=True)
class ConsoleOptions:
    """How the console listens.

    Attributes:
        host: Address to listen on. Anything but loopback needs users and TLS (or a proxy that has it).
        port: Port of API and pages; 0: any free port.
        tls_cert, tls_key: PEM files of the server's certificate and key; both or neither.
        published: Loopback address of this machine at which a container engine publishes the port. Then the container listens on its own network
            without TLS, because passwords do not leave the machine. Empty: not published so.
        proxy: Addresses of the reverse proxy that terminates TLS, separated by commas; its X-Forwarded-For and -Proto are believed. Empty: no proxy.
        statement_timeout_ms: Longest time of one database query.
        pool_size: Most connections of the reader to the database.
        prometheus_url: Prometheus that scrapes the services; empty: none.
        notifier: Configuration of the notifier, for its test; None: no test.
        replay: How a backtest is started; None: none can be.
        backtests: Folder of the backtests' files.
        replay_files: Folder with files that backtests may read; None: none.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    tls_cert: Path | None = None
    tls_key: Path | None = None
    published: str = ""
    proxy: str = ""
    statement_timeout_ms: int = 5_000
    pool_size: int = 8
    prometheus_url: str = ""
    notifier: Path | None = None
    replay: ReplayCommand | None = None
    backtests: Path = Path(".perpflow/backtests")
    replay_files: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key: give both or neither")

    @property
    def loopback(self) -> bool:
        """Return whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def local_names(self) -> bool:
        """Return whether browsers reach it by names of this machine only."""
        return (self.loopback or bool(self.published)) and not self.proxy

    @property
    def secure(self) -> bool:
        """Return whether browsers connect with TLS."""
        return self.tls_cert is not None or bool(self.proxy)


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is an address or the name of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

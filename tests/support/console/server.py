"""A console on a real socket, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import uvicorn

from schemas.settings import Settings
from sinks.console.context import Context
from sinks.console.database import Database
from sinks.console.options import ConsoleOptions
from sinks.console.service import server_of


@contextlib.contextmanager
def console(settings: Settings, options: ConsoleOptions | None = None) -> Iterator[httpx.Client]:
    """Run a console; yield a client of its API."""
    chosen = options or ConsoleOptions(port=0)
    server = server_of(Context(settings, chosen, Database(settings, chosen.pool_size, chosen.statement_timeout_ms)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the console did not start"
            time.sleep(0.02)
        with httpx.Client(base_url=f"http://127.0.0.1:{port_of(server)}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


def port_of(server: uvicorn.Server) -> int:
    """Return the port on which a server listens."""
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port

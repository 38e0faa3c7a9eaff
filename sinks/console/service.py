"""``perpflow console``: the process. uvicorn serves the application; the operations endpoint has /health and /metrics as every service."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import uvicorn
from psycopg.rows import dict_row

from schemas.process.service import Service
from schemas.settings import Settings
from sinks.console.app import create_app
from sinks.console.auth import users
from sinks.console.context import Context
from sinks.console.database import Database
from sinks.console.http.listening import check_listening
from sinks.console.http.security import SecurityMiddleware
from sinks.console.options import ConsoleOptions

# Requests that run longer than this after a stop request are cancelled; open event streams end at once.
GRACE_S = 5


def server_of(context: Context) -> uvicorn.Server:
    """Return the server of a console."""
    options = context.options
    config = uvicorn.Config(
        SecurityMiddleware(create_app(context), options),  # outside of what answers unexpected errors
        host=options.host,
        port=options.port,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        proxy_headers=bool(options.proxy),
        forwarded_allow_ips=options.proxy or None,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32_768,
    )
    return uvicorn.Server(config)


class Console:
    """One console process.

    Args:
        settings: The environment.
        service: Stop flag, health and operations endpoint.
        options: How it listens.
    """

    def __init__(self, settings: Settings, service: Service, options: ConsoleOptions) -> None:
        database = Database(settings, options.pool_size, options.statement_timeout_ms)
        self._service, self._context = service, Context(settings, options, database)
        self._server = server_of(self._context)
        service.set_health(self._health)

    def _health(self) -> dict[str, Any]:
        live = self._context.live.health()
        return {**live, "ok": live["ok"] and self._server.started and not self._server.should_exit}

    def run(self) -> None:
        """Serve until the service is asked to stop. Raises SystemExit if the port cannot be used."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        check_listening(self._context.options, await self._users())
        loop = asyncio.get_running_loop()

        def stop() -> None:
            # The server waits for its connections, so the endless ones end first.
            loop.call_soon_threadsafe(self._context.live.end_streams)
            loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)

        self._service.on_stop(stop)
        # ``_serve`` is ``serve`` without uvicorn's own signal handlers: the service has them.
        await self._server._serve()

    async def _users(self) -> int:
        """Return the number of users; 0 if the database does not answer (then only this machine may connect)."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self._context.settings.role_url("console"), connect_timeout=5, row_factory=dict_row
            ) as connection:
                return await users.count(connection)
        except psycopg.Error as error:
            self._service.log.warning("the database does not answer", error=str(error).strip())
            return 0

"""When the database is away or slow: 503 with the reason, no secret, and the console goes on when it is back."""

from __future__ import annotations

import socket
import threading

import psycopg
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.console.options import ConsoleOptions
from tests.support.console.server import console


class Door:
    """A door to the database that can be shut: it forwards bytes, or cuts every connection."""

    def __init__(self, port: int) -> None:
        self._target, self._open, self._pairs = port, True, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self._open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._pairs += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def shut(self) -> None:
        """Cut every connection and take no new one."""
        self._open = False
        for one in self._pairs:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._pairs.clear()

    def reopen(self) -> None:
        """Let connections through again."""
        self._open = True


def test_the_database_goes_away_and_comes_back(environment: Settings) -> None:
    database.migrate(environment.database_url)
    info = psycopg.conninfo.conninfo_to_dict(environment.database_url)
    door = Door(int(str(info["port"])))
    through = environment.model_copy(update={"database_url": environment.database_url.replace(f":{info['port']}/", f":{door.port}/")})
    with console(through) as client:
        assert client.get("/api/v1/strategies").status_code == 200
        assert client.get("/api/v1/health").json()["status"] == "ok"
        door.shut()
        for path in ("/api/v1/strategies", "/api/v1/positions", "/api/v1/signals"):
            response = client.get(path)
            assert response.status_code == 503 and response.headers["retry-after"] and "database" in response.json()["detail"], (
                response.text
            )
            assert str(info["password"]) not in response.text
        assert client.get("/api/v1/health").json()["status"] == "degraded"
        assert client.get("/").status_code == 200  # the pages themselves need no database
        door.reopen()
        for _ in range(100):
            if client.get("/api/v1/strategies").status_code == 200:
                break
            threading.Event().wait(0.1)
        assert client.get("/api/v1/strategies").status_code == client.get("/api/v1/positions").status_code == 200


def test_a_query_that_takes_too_long(environment: Settings) -> None:
    """A lock stands for a slow query: the statement ends after the limit, and the connection serves the next request."""
    database.migrate(environment.database_url)
    options = ConsoleOptions(port=0, statement_timeout_ms=200, pool_size=1)
    with console(environment, options) as client, psycopg.connect(environment.database_url) as connection:
        assert client.get("/api/v1/signals").status_code == 200
        connection.execute("LOCK TABLE signals IN ACCESS EXCLUSIVE MODE")
        response = client.get("/api/v1/signals")
        assert response.status_code == 503 and "takes too long" in response.json()["detail"]
        connection.rollback()
        assert client.get("/api/v1/signals").status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/strategies/one", "/api/v1/strategies/one/history"])
def test_the_broker_is_away(environment: Settings, path: str) -> None:
    database.migrate(environment.database_url)
    nowhere = environment.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with console(nowhere) as client:
        response = client.get(path)
        assert response.status_code == 503 and "Kafka" in response.json()["detail"]
        assert client.get("/api/v1/strategies").status_code == 200

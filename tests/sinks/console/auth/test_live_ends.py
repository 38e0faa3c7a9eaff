"""A live stream ends when its user may no longer look; others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sinks.console.auth import service
from sinks.console.live import stream
from tests.sinks.console.auth.conftest import House

pytestmark = pytest.mark.stack


class Watcher:
    """A program that reads a live stream in a thread."""

    def __init__(self, client: httpx.Client) -> None:
        self.began, self.ended, self.failed = threading.Event(), threading.Event(), list[Exception]()
        self._client = client
        threading.Thread(target=self._read, daemon=True).start()
        assert self.began.wait(30)

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/api/v1/live?channels=signals", timeout=60) as response:
                assert response.status_code == 200
                for _ in response.iter_lines():
                    self.began.set()
        except Exception as error:  # the test asks for it
            self.failed.append(error)
        self.ended.set()


def _ban(house: House, name: str, client: httpx.Client) -> None:
    (user,) = house.sql("SELECT user_id FROM console_users WHERE name = %s", name)
    answer = house.as_user("owner").put(f"/api/v1/admin/users/{user['user_id']}/ban", json={"banned": True})
    assert answer.status_code == 200, answer.text


def _lower(house: House, name: str, client: httpx.Client) -> None:
    house.sql("UPDATE console_users SET role = 'viewer' WHERE name = %s", name)  # as another process of the console does


def _log_out(house: House, name: str, client: httpx.Client) -> None:
    (own,) = [one for one in client.get("/api/v1/auth/sessions").json()["records"] if one["current"]]
    assert client.delete(f"/api/v1/auth/sessions/{own['id']}").status_code == 200


@pytest.mark.parametrize("cause", [_ban, _lower, _log_out])
def test_a_stream_ends_with_the_right_to_look(house: House, monkeypatch: pytest.MonkeyPatch, cause: Callable[..., Any]) -> None:
    monkeypatch.setattr(stream, "CHECK_S", 0.1)
    monkeypatch.setattr(service, "FRESH_S", 0.1)
    client = house.as_user("operator")
    watched, other = Watcher(client), Watcher(house.as_user("user"))
    time.sleep(0.5)  # some checks that change nothing
    assert not watched.ended.is_set()
    cause(house, "operator", client)
    assert watched.ended.wait(30), "the stream goes on"
    assert not watched.failed, "the answer was cut, not ended"
    assert not other.ended.is_set()
    if cause is not _lower:
        assert client.get("/api/v1/live?channels=signals").status_code == 401

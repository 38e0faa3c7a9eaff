"""The channels that no topic feeds: they have news while somebody looks, and nobody is asked when nobody does."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.console import watching
from tests.support.console.server import console


def messages(client: httpx.Client, channels: str, wanted: set[str]) -> dict[str, Any]:
    """The first message of each channel."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    with client.stream("GET", "/api/v1/live", params={"channels": channels}, timeout=60) as response:
        name = ""
        for line in response.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data" and name in wanted:
                found.setdefault(name, json.loads(value))
            if found.keys() == wanted:
                return found
            assert time.monotonic() < deadline, found.keys()
    raise AssertionError("the stream ended")


@pytest.mark.usefixtures("topics")
def test_the_health_tree_and_alerts_come_by_the_stream(environment: Settings) -> None:
    """They say what the endpoints say. Without Prometheus they say that nothing is known, never that all is well."""
    database.migrate(environment.database_url)
    with console(environment) as client:
        found = messages(client, "system,alerts", {"system", "alerts"})
        tree, alerts = client.get("/api/v1/system").json(), client.get("/api/v1/alerts").json()
    assert found["alerts"] == alerts and alerts["known"] is False
    assert found["system"].keys() == tree.keys() and found["system"]["database"]["ok"] is True
    assert found["system"]["services"] == tree["services"] and tree["services"]["known"] is False


def test_nobody_is_asked_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the channel that somebody selects is asked for, once a round."""
    asked: list[str] = []
    shown: list[tuple[str, Any]] = []

    class FakeLive:
        selected: frozenset[str] = frozenset()

        def wanted(self, channel: str) -> bool:
            return channel in self.selected

        def show(self, channel: str, payload: Any) -> None:
            shown.append((channel, payload))

    class FakeContext:
        live = FakeLive()
        options = type("Options", (), {"prometheus_url": ""})()

    async def tree(context: Any) -> dict[str, Any]:
        asked.append("system")
        return {"version": "1"}

    monkeypatch.setattr(watching, "health_tree", tree)
    monkeypatch.setattr(watching, "INTERVAL_S", 0.0)

    async def run() -> None:
        context = FakeContext()
        task = asyncio.create_task(watching.watch(context))  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked and not shown
        context.live.selected = frozenset({"system"})
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert asked and {channel for channel, _ in shown} == {"system"} and len(asked) == len(shown)


def test_an_unexpected_error_is_logged_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    answers = iter([RuntimeError("broken"), {"version": "1"}])

    class FakeContext:
        live = type(
            "Live", (), {"wanted": lambda self, channel: channel == "system", "show": lambda self, channel, payload: shown.append(payload)}
        )()
        options = type("Options", (), {"prometheus_url": ""})()

    async def tree(context: Any) -> dict[str, Any]:
        answer = next(answers, {"version": "2"})
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(watching, "health_tree", tree)
    monkeypatch.setattr(watching, "INTERVAL_S", 0.0)

    async def run() -> None:
        task = asyncio.create_task(watching.watch(FakeContext()))  # type: ignore[arg-type]
        while not shown:
            await asyncio.sleep(0)
            assert not task.done(), "it ended with the error"
        task.cancel()

    with capture_logs() as logged:
        asyncio.run(run())
    assert shown[0] == {"version": "1"} and [one["event"] for one in logged] == ["a live channel failed"]

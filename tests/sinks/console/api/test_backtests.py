"""Backtests of the console: the very report of the command line; roles, limits, a killed job, a cancelled one, a console that restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.cli.services.console import replay_command
from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.console.data.backtests import jobs
from sinks.console.options import ConsoleOptions
from tests.support.console.market import RECORDING
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console

REPLAY = replay_command()
# One hour of the recording; a strategy with variations, so that the report has several accounts.
REQUEST: dict[str, Any] = {
    "source": f"file:{RECORDING.name}",
    "symbols": ["LTCUSDT"],
    "venue": "BINANCE_SPOT",
    "strategies": ["recorded-ltcusdt-trades-only"],
    "start": "2025-06-21T15:00:00Z",
    "end": "2025-06-21T17:00:00Z",
    "varied": ["entry_score=60,70"],
}
# A command that never ends: what the console does with a job does not depend on what the job does.
ENDLESS = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def options(tmp_path: Path) -> ConsoleOptions:
    return ConsoleOptions(port=0, replay=REPLAY, backtests=tmp_path / "backtests", replay_files=RECORDING.parent)


@pytest.fixture
def people(environment: Settings) -> Settings:
    database.migrate(environment.database_url)
    for name, role in (("vic", "viewer"), ("uma", "user"), ("udo", "user"), ("olga", "operator")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    return environment


@pytest.fixture
def endless(options: ConsoleOptions) -> ConsoleOptions:
    """Options whose jobs do not end by themselves."""
    return replace(options, replay=replace(REPLAY, command=ENDLESS))


def begin(client: httpx.Client, **more: Any) -> str:
    response = client.post("/api/v1/backtests", json={**REQUEST, **more})
    assert response.status_code == 201, response.text
    return str(response.json()["backtest_id"])


def once(client: httpx.Client, identity: str, holds: Callable[[Any], bool], seconds: float = 300) -> Any:
    """Wait until a run is as wanted; return it."""
    deadline = time.monotonic() + seconds
    while True:
        run = client.get(f"/api/v1/backtests/{identity}").json()
        if holds(run):
            return run
        assert time.monotonic() < deadline, {**run, "result": None}
        time.sleep(0.2)


def over(run: Any) -> bool:
    return bool(run["status"] != "running")


def pid_of(settings: Settings, identity: str) -> int:
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute("SELECT place FROM console_backtests WHERE backtest_id = %s", (identity,)).fetchone()
    assert row is not None
    return int(row[0].split()[-2])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_backtest_is_the_report_of_the_command_line(
    people: Settings, options: ConsoleOptions, tmp_path: Path, environment_variables: Callable[..., dict[str, str]]
) -> None:
    """Its figures and hashes equal those of the command, run by hand on the same data."""
    out = tmp_path / "by-hand"
    command = [
        *REPLAY.command,
        "--source",
        f"file:{RECORDING}",
        "--symbol",
        "LTCUSDT",
        "--venue",
        "BINANCE_SPOT",
        "--from",
        REQUEST["start"][:19],
    ]
    command += ["--to", REQUEST["end"][:19], "--strategy", REQUEST["strategies"][0], "--vary", REQUEST["varied"][0], "--out", str(out)]
    with (
        subprocess.Popen(command, env=environment_variables(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as hand,
        console(people, options) as anyone,
        logged_in(anyone.base_url, "uma") as uma,
        logged_in(anyone.base_url, "vic") as vic,
    ):
        offered = vic.get("/api/v1/backtests/sources").json()
        assert REQUEST["source"] in offered["sources"] and REQUEST["strategies"][0] in offered["shipped"] and offered["possible"]
        identity = begin(uma)
        run = once(vic, identity, over)
        assert (run["status"], run["error"], run["user_name"]) == ("done", None, "uma"), run["error"]
        assert run["progress"]["phase"] == "replaying" and 0 < run["progress"]["done"] <= run["progress"]["total"]
        report = run["result"]
        assert hand.wait(300) == 0
        by_hand = json.loads((out / "report.json").read_text())
        for name in by_hand.keys() - {"seconds", "source"}:
            assert report[name] == by_hand[name], name
        assert len(report["strategies"]) == 2 and report["all"]["statistics"]["trades"]["value"] is not None
        lines = vic.get(f"/api/v1/backtests/{identity}/trades.csv").text
        assert lines == (out / "trades.csv").read_text()

        with psycopg.connect(people.database_url) as connection:  # a second one, of a shorter warm-up, without the time that it takes
            row = connection.execute(
                "INSERT INTO console_backtests SELECT gen_random_uuid(), 'udo', now(), now(), status, request, place, beat_at, progress,"
                " jsonb_set(result, '{warm_up_ms}', '0') FROM console_backtests RETURNING backtest_id"
            ).fetchone()
        assert row is not None
        other = str(row[0])
        compared = vic.get("/api/v1/backtests/compare", params={"a": identity, "b": other}).json()
        account = f"a: {report['strategies'][0]['strategy_id']}"
        assert compared["statistics"]["net_r"]["values"][account] == report["strategies"][0]["statistics"]["net_r"]
        assert len(compared["accounts"]) == 6 and compared["trades"][account] == report["strategies"][0]["statistics"]["trades"]["value"]
        assert "fewer than 100 trades" in compared["too_few"] and compared["differences"] == [
            {"what": "warm_up_ms", "a": 26 * 3_600_000, "b": 0}
        ]

        first = vic.get("/api/v1/backtests", params={"limit": 1}).json()
        assert [row["backtest_id"] for row in first["records"]] == [other] and first["records"][0]["user_name"] == "udo"
        assert first["records"][0]["figures"]["trades"] == report["all"]["statistics"]["trades"]
        rest = vic.get("/api/v1/backtests", params={"limit": 5, "cursor": first["next"]}).json()
        assert [row["backtest_id"] for row in rest["records"]] == [identity] and rest["next"] is None
    with psycopg.connect(people.database_url) as connection:
        rows = connection.execute("SELECT user_name, action, target, outcome FROM console_audit WHERE action = 'backtest.start'").fetchall()
    assert ("uma", "backtest.start", identity, "done") in rows


def test_what_the_command_refuses_is_said(people: Settings, options: ConsoleOptions) -> None:
    with console(people, options) as anyone, logged_in(anyone.base_url, "uma") as uma:
        run = once(uma, begin(uma, strategies=["no-such-strategy"]), over)
        assert run["status"] == "failed" and "no-such-strategy" in run["error"] and run["result"] is None
        for field, body in (
            ("body.source", {"source": "file:../../../etc/passwd"}),
            ("body.source", {"source": "db:postgresql://elsewhere/x"}),
            ("body.strategies.0", {"strategies": ["--settings"]}),
            ("body.strategies.0", {"strategies": ["/etc/passwd"]}),
            ("body.symbols.0", {"symbols": ["-x"]}),
            ("body.varied.0", {"varied": ["--out=/tmp/x"]}),
            ("body.start", {"start": "yesterday"}),
        ):
            refused = uma.post("/api/v1/backtests", json={**REQUEST, **body})
            assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == field, refused.text
        missing = uma.get("/api/v1/backtests/00000000-0000-4000-8000-000000000000")
        assert missing.status_code == 404 and missing.headers["content-type"] == "application/problem+json"
        no_report = uma.get("/api/v1/backtests/compare", params={"a": run["backtest_id"], "b": run["backtest_id"]})
        assert no_report.status_code == 422 and "failed" in no_report.json()["detail"]


def test_who_may_start_and_cancel(people: Settings, endless: ConsoleOptions) -> None:
    with console(people, endless) as anyone:
        names = ("uma", "olga", "vic", "udo")
        with ExitStack() as stack:
            uma, olga, vic, udo = (stack.enter_context(logged_in(anyone.base_url, name)) for name in names)
            assert anyone.post("/api/v1/backtests", json=REQUEST).status_code == 401
            assert vic.post("/api/v1/backtests", json=REQUEST).status_code == 403
            running = [begin(uma) for _ in range(jobs.MOST_RUNNING)]
            full = uma.post("/api/v1/backtests", json=REQUEST)
            assert full.status_code == 409 and "limit" in full.json()["detail"]
            path = f"/api/v1/backtests/{running[0]}/cancel"
            assert vic.post(path).status_code == 403 and udo.post(path).status_code == 403
            assert uma.post(path).status_code == 202
            cancelled = once(uma, running[0], over)
            assert (cancelled["status"], cancelled["error"]) == ("cancelled", "cancelled by uma")
            assert gone(pid_of(people, running[0])) and uma.post(path).status_code == 409
            assert olga.post(f"/api/v1/backtests/{running[1]}/cancel").status_code == 202
            assert once(uma, running[1], over)["error"] == "cancelled by olga"


def test_a_job_that_is_killed_has_failed(people: Settings, endless: ConsoleOptions) -> None:
    with console(people, endless) as anyone, logged_in(anyone.base_url, "uma") as uma:
        identity = begin(uma)
        os.kill(pid_of(people, identity), signal.SIGKILL)
        run = once(uma, identity, over)
        assert (run["status"], run["error"]) == ("failed", "the process was ended by SIGKILL") and run["finished_at"] is not None


def test_a_job_that_hangs_is_ended(people: Settings, endless: ConsoleOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that takes no notice of SIGTERM."""
    deaf = (sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    monkeypatch.setattr(jobs, "SILENT_S", 3.0)
    monkeypatch.setattr(jobs, "GRACE_S", 1.0)
    with console(people, replace(endless, replay=replace(REPLAY, command=deaf))) as anyone, logged_in(anyone.base_url, "uma") as uma:
        identity = begin(uma)
        run = once(uma, identity, over)
        assert (run["status"], run["error"]) == ("failed", "no progress for 0.05 min")
        assert gone(pid_of(people, identity))


def test_a_console_that_restarts(people: Settings, endless: ConsoleOptions) -> None:
    """It watches a job that goes on, and tells of one that was lost meanwhile."""
    with console(people, endless) as anyone, logged_in(anyone.base_url, "uma") as uma:
        lives, lost = begin(uma), begin(uma)
    assert not gone(pid_of(people, lives))
    os.kill(pid_of(people, lost), signal.SIGKILL)
    with console(people, endless) as anyone, logged_in(anyone.base_url, "uma") as uma:
        run = once(uma, lost, over)
        assert (run["status"], run["error"]) == ("interrupted", "the process was gone when the console started")
        assert uma.get(f"/api/v1/backtests/{lives}").json()["status"] == "running"

        def cancelled(run: Any) -> bool:
            uma.post(f"/api/v1/backtests/{lives}/cancel")  # 409 until the new console has found the job
            return over(run)

        assert once(uma, lives, cancelled)["status"] == "cancelled"
        assert gone(pid_of(people, lives))


def test_a_job_whose_console_is_gone_for_good(people: Settings, options: ConsoleOptions) -> None:
    """Another machine's console ended with its container: its run ends here after a minute without a sign of life."""
    with psycopg.connect(people.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO console_backtests (backtest_id, user_name, status, request, place, beat_at)"
            " VALUES (gen_random_uuid(), 'uma', 'running', %s, 'elsewhere 1 1.0', now() - interval '61 s')",
            (json.dumps({**REQUEST, "assigned": [], "note": "", "rebind": False}),),
        )
    with console(people, options) as anyone, logged_in(anyone.base_url, "uma") as uma:
        (row,) = uma.get("/api/v1/backtests").json()["records"]
        run = once(uma, row["backtest_id"], over)
        assert run["status"] == "interrupted" and "nobody watches" in run["error"]

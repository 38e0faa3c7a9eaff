"""The archiver on a real broker: what is in the archive is what is in the topics, whatever happens to processes, broker and disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.stack.processes import free_port
from schemas import catalogue, metrics
from schemas.process.service import summed
from schemas.settings import Settings
from sinks.archive import inspect
from tests.sinks.archive.archive_helpers import Feeder, archiver_thread, content, in_topics
from tests.support.paths import ROOT
from tests.support.timescale.timescale_helpers import until

pytestmark = pytest.mark.stack
Variables = Callable[..., dict[str, str]]
SOME = ("agg_trades", "depth", "progress", "scores")


@contextlib.contextmanager
def archiver_process(variables: dict[str, str], root: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``perpflow archive run`` as a process; killed at the end if it still runs."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "deploy.cli", "archive", "run", str(root), "--session-timeout", "6", *arguments]
        process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            log.seek(0)
            print(log.read().decode()[-6000:])


def rows(root: Path) -> int:
    """Return how many records count; 0 before there is an archive."""
    return sum(one.rows for one in inspect.holdings(root)) if (root / "_manifest").is_dir() else 0


def assert_equal_to_topics(settings: Settings, root: Path, **topics: Any) -> None:
    """Assert that the archive holds what the topics hold, byte for byte, and that nothing lies about."""
    wanted = in_topics(settings, **topics)
    found = content(root)
    assert {place: len(messages) for place, messages in found.items()} == {place: len(messages) for place, messages in wanted.items()}
    assert found == wanted
    verdict = inspect.verify(root)
    assert (verdict.faults, verdict.unlisted) == ([], [])
    assert not list(root.rglob("*.tmp"))


def test_everything_in_the_topics_is_archived_byte_for_byte(environment: Settings, topics: list[str], tmp_path: Path) -> None:
    feeder = Feeder(environment)
    feeder.fill(1, 40)
    before = summed(metrics.ROWS_ARCHIVED)
    with archiver_thread(environment, tmp_path, roll_seconds=0.5) as (service, _):
        until("the first half", lambda: rows(tmp_path) == len(catalogue.TOPICS) * 40)
        feeder.fill(2, 40)
        until("both halves", lambda: rows(tmp_path) == len(catalogue.TOPICS) * 80)
        assert service.health()["ok"]
    assert_equal_to_topics(environment, tmp_path)
    assert summed(metrics.ROWS_ARCHIVED) - before == len(catalogue.TOPICS) * 80
    assert {one.topic for one in inspect.holdings(tmp_path)} == set(name.removeprefix(environment.topic_prefix) for name in topics)


def test_killed_again_and_again_while_writing(
    environment: Settings, topics: list[str], environment_variables: Variables, tmp_path: Path
) -> None:
    rng, feeder = random.Random(7), Feeder(environment)
    chosen = ("--topics", ",".join(SOME), "--roll-mb", "0.02", "--roll-seconds", "0")
    variables = environment_variables()
    feeder.fill(10, 1_500, SOME)
    for number in range(2):
        held = rows(tmp_path)
        with archiver_process(variables, tmp_path, *chosen, "--instance", "one") as process:
            until("writing goes on", lambda held=held, process=process: process.poll() is not None or rows(tmp_path) > held)
            time.sleep(rng.random() * 0.1)
            process.kill()
        feeder.fill(11 + number, 1_000, SOME)
    assert rows(tmp_path) < 4 * 3_500, "killed in the middle"
    with archiver_process(variables, tmp_path, "--topics", ",".join(SOME), "--until-idle", "0.5", "--instance", "one") as process:
        assert process.wait(120) == 0
    assert_equal_to_topics(environment, tmp_path, topics=SOME)


def test_two_archivers_share_and_hand_over(environment: Settings, topics: list[str], tmp_path: Path) -> None:
    feeder = Feeder(environment)
    stop = threading.Event()
    fed = 0

    def feed() -> None:
        nonlocal fed
        while not stop.is_set():
            feeder.fill(100 + fed, 50, SOME)
            fed += 1

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        with archiver_thread(environment, tmp_path, topics=SOME, roll_seconds=0.1) as (_, one):
            until("the first writes", lambda: rows(tmp_path) > 0)
            with archiver_thread(environment, tmp_path, topics=SOME, roll_seconds=0.1) as (_, two):
                until("the second writes", lambda: two.health()["rows_archived"] > 0)
                assert 0 < one.health()["partitions"] < 24
            held = one.health()["rows_archived"]
            until("the first goes on", lambda: one.health()["partitions"] == 24 and one.health()["rows_archived"] > held + 50)
            stop.set()
            feeding.join(30)
            until("all", lambda: rows(tmp_path) == fed * 50 * len(SOME))
    finally:
        stop.set()
    assert_equal_to_topics(environment, tmp_path, topics=SOME)


@pytest.mark.private_stack
def test_a_restart_of_the_broker(environment: Settings, topics: list[str], private_stack: Any, tmp_path: Path) -> None:
    feeder = Feeder(environment)
    feeder.fill(20, 60, SOME)
    with archiver_thread(environment, tmp_path, topics=SOME, roll_seconds=0.2) as (service, _):
        until("writing began", lambda: rows(tmp_path) > 0)
        private_stack.local.kill_broker()
        until("unhealthy", lambda: not service.health()["ok"], 60)
        assert "broker" in service.health()
        private_stack.local.up()
        feeder.fill(21, 60, SOME)
        until("all", lambda: rows(tmp_path) == 2 * 60 * len(SOME), 90)
        until("healthy", lambda: service.health()["ok"], 60)
    assert_equal_to_topics(environment, tmp_path, topics=SOME)


def test_a_full_disk_is_waited_for_and_said(
    environment: Settings, topics: list[str], environment_variables: Variables, tmp_path: Path
) -> None:
    port = free_port()

    def health() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))
        except OSError:
            return {}

    Feeder(environment).fill(30, 300, SOME)
    arguments = ("--topics", ",".join(SOME), "--roll-seconds", "0.2")
    with archiver_process(environment_variables(PERPFLOW_HTTP_PORT=port), tmp_path, *arguments) as process:
        until("it is up", lambda: health().get("ok"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        until("it says so", lambda: "File too large" in health().get("writer", ""))
        assert rows(tmp_path) < 300 * len(SOME)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until("all", lambda: rows(tmp_path) == 300 * len(SOME))
        until("healthy", lambda: health().get("ok"))
        process.terminate()
        assert process.wait(120) == 0
    assert_equal_to_topics(environment, tmp_path, topics=SOME)


def test_the_commands(environment: Settings, topics: list[str], environment_variables: Variables, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from deploy.cli import load_app

    Feeder(environment).fill(40, 30, SOME)
    with archiver_thread(environment, tmp_path / "a", topics=SOME, until_idle=0.3):
        until("all", lambda: rows(tmp_path / "a") == 30 * len(SOME))
    runner, app = CliRunner(), load_app("archive")
    listed = runner.invoke(app, ["list", str(tmp_path / "a"), "--json"])
    assert listed.exit_code == 0 and sum(one["rows"] for one in json.loads(listed.output)) == 30 * len(SOME)
    assert "bytes per record" in runner.invoke(app, ["list", str(tmp_path / "a")], env={"COLUMNS": "200"}).output
    paths = runner.invoke(app, ["list", str(tmp_path / "a"), "--files", "--topic", "depth"]).output.split()
    assert paths and all(Path(path).is_file() and "/depth/" in path for path in paths)
    assert runner.invoke(app, ["verify", str(tmp_path / "a")]).exit_code == 0
    target = str(tmp_path / "out.csv")
    assert runner.invoke(app, ["export", "agg_trades", target, str(tmp_path / "a"), "--from", "2024-08-08"]).exit_code == 0
    os.truncate(paths[0], 100)
    damaged = runner.invoke(app, ["verify", str(tmp_path / "a")])
    assert damaged.exit_code == 1 and Path(paths[0]).name in damaged.output

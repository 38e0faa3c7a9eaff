"""The catalogue of metrics against what the code sets and what processes really tell."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from deploy.cli import load_app
from deploy.database.migrate import migrate
from schemas import metrics
from schemas.process.service import Service
from schemas.settings import Settings
from tests.support.paths import ROOT

DECLARED = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}
# Where the code of each process is.
FOLDERS = {
    "every service": ("schemas",),
    "several services": ("producers", "stream_apps", "sinks"),
    "producer": ("producers",),
    "recorded venue": ("deploy/cli/services/simulate.py", "producers"),
    "worker": ("stream_apps",),
    "guard": ("sinks/guard",),
    "trading": ("sinks/venues",),
    "monitor": ("sinks/monitor",),
    "sink": ("sinks/timescale",),
    "executor": ("sinks/executor",),
    "maintenance": ("deploy/database/maintenance.py",),
    "live executor": ("sinks/live",),
    "archive": ("sinks/archive",),
    "console": ("sinks/console",),
    "evolve": ("deploy/backtest/evolution", "deploy/cli/research/evolve.py"),
    "notifier": ("sinks/notifier",),
}
# Labels whose values come from our own lists, the venues', Kafka's, or the operator's configuration: nothing that grows with time or with the market.
BOUNDED = {
    "service", "source", "topic", "venue", "stream", "channel", "kind", "reason", "state", "poll", "outcome", "window", "partition", "table", "mode",
    "exit_reason", "leg", "status", "symbol", "path", "account", "rule",
}  # fmt: skip


def referenced(path: Path) -> set[str]:
    """Return the metrics that a file names as ``metrics.NAME``."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {
        n.attr
        for n in nodes
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "metrics" and n.attr in DECLARED
    }


def test_every_metric_belongs_to_one_process_that_sets_it() -> None:
    """A metric that is declared and never set is a chart that stays empty and an alert that never fires."""
    names = {id(value): name for name, value in DECLARED.items()}
    listed = Counter(names[id(metric)] for group in metrics.PROCESSES.values() for metric in group)
    assert set(listed) == set(DECLARED) and set(listed.values()) == {1}
    for process, group in metrics.PROCESSES.items():
        files = [file for place in FOLDERS[process] for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))]
        there = set().union(*(referenced(file) for file in files))
        assert {names[id(metric)] for metric in group} <= there, process


def test_names_units_labels_and_meanings() -> None:
    entries = [one for one in metrics.catalogue() if one.name.startswith("perpflow_")]
    assert len(entries) == len({one.name for one in entries}) == len(DECLARED)
    for one in entries:
        assert one.unit, f"{one.name}: give it a unit"
        assert one.meaning.endswith(".") and len(one.meaning) > 10, one.name
        assert set(one.labels) <= BOUNDED, one.name
        assert one.kind != "counter" or one.name.endswith("_total"), one.name
        assert one.kind != "histogram" or one.name.endswith("_seconds"), one.name


def test_a_unit_is_named_where_the_name_does_not_say_it() -> None:
    for metric in metrics._UNITS:
        one = metrics._entry(metric, "")
        assert not any(one.name.endswith(ending) for ending in metrics._ENDINGS), f"{one.name} says its unit itself"


def scraped(port: int) -> dict[str, set[frozenset[str]]]:
    """Return the families that a process tells, each with the sets of labels of its samples."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):
            found[family.name] = {frozenset(sample.labels) - {"le"} for sample in family.samples}
    return found


def check_against_the_catalogue(told: dict[str, set[frozenset[str]]]) -> None:
    known = {one.name.removesuffix("_total"): frozenset(one.labels) for one in metrics.catalogue()}
    assert {name for name in told if name.startswith("perpflow_")} == {name for name in known if name.startswith("perpflow_")}
    assert {name.removesuffix("_total") for name in told} <= set(known)
    for name, label_sets in told.items():
        if name.startswith("perpflow_"):
            assert label_sets <= {known[name]}, name


def test_a_service_tells_what_the_catalogue_says() -> None:
    with Service("metrics-test", 0, lambda: {}) as service:
        before = time.time()
        check_against_the_catalogue(scraped(service.http_port))
        value = metrics.REGISTRY.get_sample_value
        mine = {"service": "metrics-test"}
        assert before <= (value("perpflow_wall_time_seconds", mine) or 0) <= time.time()
        assert 0 < (value("perpflow_disk_free_bytes", mine) or 0) <= (value("perpflow_disk_size_bytes", mine) or 0)
        assert value("perpflow_up", mine) == 1


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.stack
def test_processes_tell_what_the_catalogue_says(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]]
) -> None:
    migrate(environment.database_url)
    ports = {command: free_port() for command in ("sink", "monitor", "execute")}
    processes = {
        command: subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", command],
            env={**os.environ, **environment_variables(), "PERPFLOW_HTTP_PORT": str(port)},
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        for command, port in ports.items()
    }
    try:
        deadline = time.monotonic() + 150
        waiting = dict(ports)
        while waiting:
            assert time.monotonic() < deadline
            for command, port in list(waiting.items()):
                assert processes[command].poll() is None, command
                try:
                    told = scraped(port)
                except OSError:
                    continue
                check_against_the_catalogue(told)
                assert told["perpflow_up"] == {frozenset({"service"})} and "process_resident_memory_bytes" in told
                del waiting[command]
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait(30)


def test_the_command_prints_it() -> None:
    app = load_app("metrics")
    text = CliRunner().invoke(app, [])
    assert text.exit_code == 0 and all(one.name in text.output for one in metrics.catalogue())
    entries = json.loads(CliRunner().invoke(app, ["--form", "json"]).output)
    assert {entry["name"] for entry in entries} == {one.name for one in metrics.catalogue()}
    assert CliRunner().invoke(app, ["lag"]).output.splitlines()[0] == "perpflow_sink_lag_records{topic}"
    page = CliRunner().invoke(app, ["-f", "markdown"]).output
    assert "| `perpflow_orders_total` | counter | events | mode, leg, status |" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(metrics.catalogue()) and all(line.count(" | ") == 4 for line in rows)


def test_the_check_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a family that nobody listed, and a label that does not belong."""
    with Service("metrics-test", 0, lambda: {}) as service:
        told = scraped(service.http_port)
    with pytest.raises(AssertionError):
        check_against_the_catalogue({**told, "perpflow_unlisted": set()})
    with pytest.raises(AssertionError):
        check_against_the_catalogue({**told, "perpflow_up": {frozenset({"service", "order_id"})}})
    extra = type(metrics.UP)("perpflow_stray", "Declared, never set.", registry=CollectorRegistry())
    monkeypatch.setitem(DECLARED, "STRAY", extra)
    with pytest.raises(AssertionError):
        test_every_metric_belongs_to_one_process_that_sets_it()

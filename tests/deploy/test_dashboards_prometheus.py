"""Every PromQL of dashboards and rules against a real Prometheus that scrapes the running pipeline (long; needs the program ``prometheus``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard_queries import promql

from deploy import prometheus
from deploy.demo.pipeline import Pipeline
from deploy.demo.run import strategies_for
from deploy.stack.processes import free_port
from producers.recorded.recording import Recording
from schemas.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
DATA = ROOT / "tests" / "data"
PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
RECORDING = f"{DATA / 'binance_usdm_raw' / 'btcusdt_20240808.gz'}=BTCUSDT"

# Panels that an undisturbed run of five recorded minutes leaves empty, and why. Whatever else is empty is a fault of the panel.
NO_NOTIFIER, NO_ARCHIVE, CALM = "the demo sends no messages", "the demo keeps no archive", "nothing went wrong"
QUIET = {
    "execution/Orders and trades A": "no strategy enters in five minutes",
    "execution/Orders and trades B": "no strategy enters in five minutes",
    "pipeline/Polls A": "a recording has no REST endpoints to poll",
    "pipeline/Connections and holes A": CALM,
    "pipeline/Connections and holes B": CALM,
    "pipeline/Connections and holes C": CALM,
    "pipeline/Back-pressure B": CALM,
    "pipeline/Read ahead B": CALM,
    "pipeline/Rows into the database B": CALM,
    "pipeline/Database transactions C": CALM,
    **{f"system/Notifications {ref}": NO_NOTIFIER for ref in "ABC"},
    **{f"system/Sending {ref}": NO_NOTIFIER for ref in "AB"},
    "system/Archive A": NO_ARCHIVE,
    **{f"system/Archive written {ref}": NO_ARCHIVE for ref in "ABC"},
}


def ask(port: int, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus on the PATH or in PROMETHEUS")
def test_every_expression_has_a_value_while_the_pipeline_runs(
    environment: Settings, environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    recording = Recording.parse(RECORDING)
    pipeline = Pipeline(environment_variables(), tmp_path / "run", [recording], speed="1", strategies=strategies_for([recording]))
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    port = free_port()
    server = None
    try:
        pipeline.prepare()
        pipeline._add("monitor", ["monitor"]).start()
        pipeline.start()
        jobs: dict[str, list[str]] = {}
        for name, process in pipeline.services.items():
            jobs.setdefault(name.partition("-")[0], []).append(f"127.0.0.1:{process.http_port}")
        jobs.pop("venue")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        config["scrape_configs"] = [{"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in jobs.items()]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        server = subprocess.Popen(
            [str(PROMETHEUS), f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 75
        while time.monotonic() < until:
            assert server.poll() is None
            pipeline.supervise()
            time.sleep(1)
        targets = ask(port, "targets")["activeTargets"]
        assert {one["labels"]["job"] for one in targets if one["health"] == "up"} == set(jobs), targets
        empty = []
        for where, expression in promql():
            if not ask(port, "query", query=expression)["result"]:
                empty.append(where)
        groups = ask(port, "rules")["groups"]
        unwell = {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] != "ok"}
        assert not unwell, unwell
        alerts = [alert["labels"] for alert in ask(port, "alerts")["alerts"] if alert["state"] == "firing"]
        firing = sorted({(one["alertname"], one.get("slo", "")) for one in alerts})
        # An instant is evaluated within two seconds of the marks that let it, and the worker is never further behind than a step and that.
        (least,) = ask(port, "query", query="min_over_time(perpflow:worker_lag:seconds[30s])")["result"]
        (most,) = ask(port, "query", query="max_over_time(perpflow:worker_lag:seconds[30s])")["result"]
        print("firing:", firing, "lag:", least["value"][1], most["value"][1])
        assert -1 < float(least["value"][1]) < 2 and float(most["value"][1]) < prometheus.GRID_S + 2
        assert ("ObjectiveBurns1h", "lag") not in firing
        # What went wrong on a busy machine (a book rebuilt, a slow reader) fills a panel that is quiet otherwise.
        assert set(empty) <= set(QUIET) and {where for where, why in QUIET.items() if why is not CALM} <= set(empty), empty
    finally:
        if server is not None:
            server.terminate()
            server.wait(20)
        pipeline.stop()

"""Every PromQL of dashboards and rules against a real Prometheus that scrapes the running pipeline, and the catalogue against what its processes tell."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy import prometheus
from deploy.demo.pipeline.pipeline import Pipeline
from deploy.demo.run import strategies_for
from deploy.grafana.preview.source import Prometheus as Source
from deploy.stack import processes
from deploy.stack.prometheus import Prometheus, url
from producers.simulated.recording.recording import Recording
from schemas import metrics
from schemas.process.service import TARGETS_VARIABLE
from schemas.settings import Settings
from tests.deploy.dashboard_queries import boards, promql
from tests.support.paths import RECORDINGS

RECORDING = f"{RECORDINGS / 'binance_usdm_raw' / 'btcusdt_20240808.gz'}=BTCUSDT"
# The short one plays for a minute and a half: on a busy machine the sink begins late, what it writes must be seen by two scrapes, and the producer
# must still be there then.
SHORT, LONG = ("4", 14.0), ("1", 75.0)  # speed of the recording, seconds until it is looked at

# Panels that an undisturbed run of five recorded minutes leaves empty, and why. Whatever else is empty is a fault of the panel.
NO_NOTIFIER, NO_ARCHIVE, CALM = "the demo sends no messages", "the demo keeps no archive", "nothing went wrong"
QUIET = {
    "execution/Orders and trades A": "no strategy enters in five minutes",
    "execution/Orders and trades B": "no strategy enters in five minutes",
    **{f"execution/{title} A": "no guard runs beside paper" for title in ("Risk guard state", "Rules that hold", "Day's result")},
    "pipeline/Polls A": "a recording has no REST endpoints to poll",
    "pipeline/Streams not live A": CALM,
    "pipeline/Connections and gaps A": CALM,
    "pipeline/Connections and gaps B": CALM,
    "pipeline/Connections and gaps C": CALM,
    "pipeline/Back-pressure A": CALM,
    "pipeline/Back-pressure B": CALM,
    "pipeline/Read ahead B": CALM,
    "pipeline/Rows into the database B": CALM,
    "pipeline/Database transactions C": CALM,
    **{f"system/Notifications {ref}": NO_NOTIFIER for ref in "ABC"},
    **{f"system/Sending {ref}": NO_NOTIFIER for ref in "AB"},
    "system/Archive A": NO_ARCHIVE,
    **{f"system/Archive written {ref}": NO_ARCHIVE for ref in "ABC"},
}
# What a process may have of series of ours (without buckets), and of values in one label; a market of 600 instruments has no more of them.
MOST_SERIES, MOST_VALUES = 400, 40


@dataclass(frozen=True)
class Running:
    """A pipeline in the middle of its recording, and the Prometheus that has scraped it."""

    pipeline: Pipeline
    url: str
    speed: str

    def ask(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module", params=[SHORT, LONG], ids=["short", "long"])
def run(request: pytest.FixtureRequest) -> tuple[str, float]:
    speed, seconds = request.param
    return speed, seconds


@pytest.fixture
def running(
    run: tuple[str, float],
    environment: Settings,
    environment_variables: Callable[..., dict[str, str]],
    tmp_path: Path,
    prometheus_program: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Running]:
    monkeypatch.setenv("PROMETHEUS", str(prometheus_program))
    recording = Recording.parse(RECORDING)
    server = Prometheus(tmp_path / "prometheus", tmp_path)
    port = processes.free_port()
    variables = environment_variables(**{TARGETS_VARIABLE: server.targets})
    pipeline = Pipeline(variables, tmp_path / "run", [recording], speed=run[0], strategies=strategies_for([recording]), monitored=True)
    process: psutil.Process | None = None
    try:
        process = server.start(port, print)
        server.wait(process, port)
        pipeline.prepare()
        pipeline.start()
        until = time.monotonic() + run[1]
        while time.monotonic() < until or not _begun(port):
            assert process.is_running() and time.monotonic() < until + 120
            pipeline.supervise()
            time.sleep(0.5)
        yield Running(pipeline, url(port), run[0])
    finally:
        pipeline.stop()
        if process is not None:
            processes.stop(process)


def _begun(port: int) -> bool:
    """Whether the slowest part, the sink, has rows and the worker and the monitor have instants, by two scrapes at least."""
    query = "count(rate(perpflow_rows_written_total[1m]) > 0) and count(perpflow_worker_event_time_seconds > 0) and count(perpflow_quality_score)"
    with urllib.request.urlopen(f"{url(port)}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        return bool(json.load(answer)["data"]["result"])


# In the long tier: what has a rate within half a minute is a matter of how busy the machine is. CI has promtool over the same rules and
# expressions, and the demo that draws its pages from a real Prometheus.
@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(420)
def test_every_expression_has_a_value_and_every_process_tells_what_the_catalogue_says(running: Running) -> None:
    _every_expression_has_a_value(running)
    _every_panel_can_be_drawn(running)
    _the_rules_are_well(running)
    _the_catalogue_holds(running)


def _every_expression_has_a_value(running: Running) -> None:
    empty = [where for where, expression in promql() if not running.ask("query", query=expression)["result"]]
    # What went wrong on a busy machine (a book rebuilt, a slow reader) fills a panel that is quiet otherwise.
    assert set(empty) <= set(QUIET), set(empty) - set(QUIET)
    assert {where for where, why in QUIET.items() if why is not CALM} <= set(empty), "it is not quiet any more: take it off the list"


def _every_panel_can_be_drawn(running: Running) -> None:
    drawn = 0
    with httpx.Client(trust_env=False) as client:
        source = Source(client, running.url)
        for name, board in boards().items():
            for panel in board["panels"]:
                for target in (target for target in panel["targets"] if "expr" in target):
                    if f"{name}/{panel['title']} {target['refId']}" not in QUIET:
                        lines = source.lines(target, 2.0)  # none where all of it is NaN, as quantiles of nothing
                        drawn += bool(lines)
                        assert all(line.name for line in lines), panel["title"]
                        assert len({line.name for line in lines}) == len(lines), f"{panel['title']}: two series of one name"
    assert drawn > 35


def _the_rules_are_well(running: Running) -> None:
    groups = running.ask("rules")["groups"]
    unwell = {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"}
    assert not unwell and sum(len(group["rules"]) for group in groups) > 60
    if running.speed != "1":
        return  # what the marks' speed does to lags means something only at the market's own
    firing = {
        (one["labels"]["alertname"], one["labels"].get("slo", "")) for one in running.ask("alerts")["alerts"] if one["state"] == "firing"
    }
    # An instant is evaluated within two seconds of the marks that let it, and the worker is never further behind than a step and that.
    (least,) = running.ask("query", query="min_over_time(perpflow:worker_lag:seconds[30s])")["result"]
    (most,) = running.ask("query", query="max_over_time(perpflow:worker_lag:seconds[30s])")["result"]
    print("firing:", firing, "lag:", least["value"][1], most["value"][1])
    assert -1 < float(least["value"][1]) < 2 and float(most["value"][1]) < prometheus.GRID_S + 2
    assert ("ObjectiveBurns1h", "lag") not in firing


def _the_catalogue_holds(running: Running) -> None:
    """Every process of the running pipeline: names, labels, who sets what, and how many series."""
    known = {one.name.removesuffix("_total"): one for one in metrics.catalogue()}
    kinds = {
        "producer": "producer",
        "venue": "recorded venue",
        "worker": "worker",
        "monitor": "monitor",
        "sink": "sink",
        "executor": "executor",
    }
    seen = set()
    symbols = {recording.symbol for recording in running.pipeline.recordings}
    for name, process in running.pipeline.services.items():
        if not process.running:
            continue
        kind = kinds[name.partition("-")[0]]
        seen.add(kind)
        with urllib.request.urlopen(f"http://127.0.0.1:{process.http_port}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        values: Counter[str] = Counter()
        count = 0
        for family in families:
            if not family.name.startswith("perpflow_") or family.name.endswith("_created"):
                continue
            entry = known[family.name]
            # A metric without labels is told by every process, as zero; of those with labels each has only its own.
            told = [one for one in family.samples if not one.name.endswith(("_bucket", "_created"))]
            if entry.labels and told:
                assert entry.process in (kind, "every service", "several services"), (
                    f"{name} tells {family.name}, which is the {entry.process}'s"
                )
            count += len(told)
            for sample in told:
                assert set(sample.labels) == set(entry.labels), f"{name}: {sample}"
                for label, value in sample.labels.items():
                    if label != "symbol":  # of the recorded venue, which plays a few
                        assert not any(symbol in value for symbol in symbols), f"{name}: {sample.name} has an instrument in {label}"
            for label in entry.labels:
                values[f"{family.name}.{label}"] = len({sample.labels[label] for sample in told})
        assert count < MOST_SERIES and max(values.values(), default=0) < MOST_VALUES, (name, count, values.most_common(3))
    assert seen == set(kinds.values())

"""Where the queries of the dashboards are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "grafana"
BOARDS = sorted((FOLDER / "dashboards").glob("*.json"))


def boards() -> dict[str, dict[str, Any]]:
    """Return the committed dashboards by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in BOARDS}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``board/title`` and the panel."""
    for name, board in boards().items():
        for panel in board["panels"]:
            yield f"{name}/{panel['title']}", panel


def sql_queries() -> Iterator[tuple[str, str]]:
    """Yield ``board/title refId`` and the SQL of every panel, variable and annotation."""
    for name, panel in panels():
        for target in panel["targets"]:
            if "rawSql" in target:
                yield f"{name} {target['refId']}", target["rawSql"]
    for name, board in boards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}/${variable['name']}", variable["query"]
        for annotation in board["annotations"]["list"]:
            yield f"{name}/marks {annotation['name']}", annotation["target"]["rawSql"]


def promql() -> Iterator[tuple[str, str]]:
    """Yield ``board/title refId`` and every expression of Prometheus, with Grafana's variables filled in."""
    for name, panel in panels():
        for target in panel["targets"]:
            if "expr" in target:
                yield f"{name} {target['refId']}", target["expr"].replace("$__rate_interval", "1m")

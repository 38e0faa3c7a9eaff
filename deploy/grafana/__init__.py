"""Grafana's dashboards, made by code: ``python -m deploy.grafana`` writes ``dashboards/*.json``, which Grafana provisions.

One module a dashboard, each with a function ``board``; ``build`` has the parts that they are made of. The JSON is committed. A test
compares it with the code.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana import execution, market, pipeline, signals, strategies, system
from deploy.grafana.build import Json

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = {
    "market": market.board,
    "signals": signals.board,
    "strategies": strategies.board,
    "execution": execution.board,
    "pipeline": pipeline.board,
    "system": system.board,
}


def text(board: Json) -> str:
    """Return a dashboard as the text of its committed file."""
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every dashboard; return the files."""
    paths = []
    for name, make in BOARDS.items():
        path = folder / f"{name}.json"
        path.write_text(text(make()), encoding="utf-8")
        paths.append(path)
    return paths

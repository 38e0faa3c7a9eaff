"""Replay an engine without paper trading and write its results: one CSV file per topic, and ``report.json``."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.backtest.job import Opened
from schemas.catalogue import field_names
from stream_apps.replay.results import ResultSet
from stream_apps.replay.run import Result
from stream_apps.replay.sources.source import Piece


def write_engine_report(
    opened: Opened, out: Path, checks: dict[str, Any], on_piece: Callable[[Piece], None] = lambda piece: None
) -> dict[str, Any]:
    """Run a job, write ``TOPIC.csv`` for each result topic of the engine and ``report.json``. Return the report.

    Args:
        opened: The job.
        out: Folder of the files.
        checks: Results of --twice and --future-shift.
        on_piece: Called with every piece before it is processed.

    Raises:
        OSError: a file cannot be written.
        UserError: the source became unreadable.
    """
    codec, spec = opened.settings.codec, opened.job.spec
    results = ResultSet.of(codec, spec.results)
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with ExitStack() as files:
        rows = {
            topic: csv.DictWriter(files.enter_context((out / f"{topic}.csv").open("w", encoding="utf-8", newline="")), field_names(topic))
            for topic in spec.results
        }
        for writer in rows.values():
            writer.writeheader()

        def collect_piece(piece: Piece) -> None:
            inputs[piece.topic] = inputs.get(piece.topic, 0) + len(piece.records)
            on_piece(piece)

        def take(partition: int, result: Result) -> None:
            outputs[result.topic] = outputs.get(result.topic, 0) + 1
            results.add(result.topic, result.value)
            if result.topic in rows:
                rows[result.topic].writerow(codec.decode(result.topic, result.value))

        opened.run(take, collect_piece)
    report = {
        "perpflow": version("perpflow"),
        "engine": opened.job.engine,
        "source": opened.job.sources,
        "instruments": opened.instruments,
        "seconds": time.perf_counter() - started,
        "inputs": inputs,
        "outputs": outputs,
        "hashes": results.hashes(),
        "checks": checks,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return report

"""Run a replay and write its report: ``report.html``, ``report.json``, ``trades.csv`` and ``signals.csv``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.backtest.files import FileArgument
from deploy.backtest.job import FILE, Job, Opened
from deploy.backtest.jobs import collect
from deploy.report.replay import write_page
from producers.simulated.recording.formats import recording_files
from stream_apps.replay.report import Run, all_trades, build, write_signals, write_trades
from stream_apps.replay.sources.source import Piece


def write_report(
    opened: Opened,
    out: Path,
    checks: dict[str, Any],
    on_piece: Callable[[Piece], None] = lambda piece: None,
    jobs: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Run a job and write report.html, report.json, trades.csv and signals.csv; return the report.

    Args:
        opened: The job.
        out: Folder of the report.
        checks: Results of --twice and --future-shift.
        on_piece, jobs, progress: As in ``jobs.collect``.

    Raises:
        OSError: a file cannot be written.
        UserError: a part of the job failed.
    """
    job = opened.job
    started = time.perf_counter()
    collected, strategies = collect(opened, jobs, on_piece, progress)
    seconds = time.perf_counter() - started
    run = Run(
        source=job.sources,
        engine=opened.config,
        paper=job.paper,
        strategies=strategies,
        files=_digests(job),
        file_reports=[] if opened.files is None else [vars(report) for report in opened.files.reports],
        since=job.since,
        until=job.until,
        warm_up_ms=job.warm_up_ms if job.since is not None else 0,
        seconds=seconds,
        checks=checks,
    )
    report = {**build(collected, run), "perpflow": version("perpflow")}
    trades = all_trades(collected, run)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "trades.csv").open("w", encoding="utf-8", newline="") as file:
        write_trades(file, trades)
    with (out / "signals.csv").open("w", encoding="utf-8", newline="") as file:
        write_signals(file, collected.signals)
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    title = f"Replay of {', '.join(opened.instruments or tuple(sorted(collected.markets)))}"
    write_page(out / "report.html", title, report, collected, trades, strategies)
    return report


def _digests(job: Job) -> list[dict[str, Any]]:
    found = []
    for source in job.sources:
        if source.startswith(FILE):
            for path in recording_files(FileArgument.parse(source.removeprefix(FILE), None, job.venue).path):
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                found.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest})
    return found


# --- checks ------------------------------------------------------------------------------------------------------------

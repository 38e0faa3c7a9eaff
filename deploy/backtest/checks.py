"""Checks of a replay: two processes give identical bytes, and future data does not change earlier decisions."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from deploy.backtest.job import Job, Opened, open_job
from schemas.settings import Settings
from stream_apps.replay.report import iso
from stream_apps.replay.run import Result
from stream_apps.replay.shift import ShiftedSource
from stream_apps.replay.sources.source import PIECE
from stream_apps.replay.spool import Spool, compare

# The second run reads pieces of another size.
OTHER_PIECE = 3_331


def _spool(job: Job, settings: Settings, folder: Path, piece: int) -> None:
    """Run a job into a spool. Runs in another process."""
    opened = open_job(job, settings, piece=piece)
    with Spool(folder) as spool:
        opened.run(spool.take)


def check_twice(job: Job, settings: Settings) -> dict[str, Any]:
    """Run a job in two new processes with different hash seeds and piece sizes. Compare every result byte by byte."""
    folder = Path(tempfile.mkdtemp(prefix="perpflow-replay-"))
    try:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs = [pool.submit(_spool, job, settings, folder / str(n), piece) for n, piece in enumerate((PIECE, OTHER_PIECE))]
            for run in runs:
                run.result()
        compared, _, _, first = compare(folder / "0", folder / "1", settings.codec)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = f"{compared:,} results of two processes with pieces of {PIECE:,} and {OTHER_PIECE:,} records, compared byte by byte"
    if not compared:
        text = "no results to compare"
    return {
        "ok": first is None and compared > 0,
        "results": compared,
        "first_difference": None if first is None else str(first),
        "text": text,
    }


def check_future(opened: Opened, at: int | None = None) -> dict[str, Any]:
    """Run a job unchanged, and with altered market data after a time. All decisions up to that time must be identical.

    Args:
        opened: The job.
        at: ms UTC. None: the middle of the evaluated instants.
    """
    folder = Path(tempfile.mkdtemp(prefix="perpflow-replay-"))
    codec = opened.settings.codec
    progress = opened.job.spec.kind().PROGRESS
    span: list[int] = []
    try:
        with Spool(folder / "0") as spool:

            def take(partition: int, result: Result) -> None:
                spool.take(partition, result)
                if result.topic == progress:
                    decided = codec.decode(result.topic, result.value)["receive_time"]
                    span[:] = [min([decided, *span]), max([decided, *span])]

            opened.run(take)
        if not span:
            return {"ok": False, "results": 0, "first_difference": None, "text": "no results to compare"}
        cut = sum(span) // 2 if at is None else at
        shifted = ShiftedSource(opened.source, cut, codec)
        with Spool(folder / "1") as spool:
            opened.run(spool.take, source=shifted)
        compared, left, changed, first = compare(folder / "0", folder / "1", codec, lambda record: record["receive_time"] <= cut)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = (
        f"{shifted.altered:,} records after {iso(cut)} altered; {compared:,} earlier results compared byte by byte; "
        f"of {left:,} later ones {changed:,} changed"
    )
    proved = compared > 0 and shifted.altered > 0 and changed > 0
    if not proved:
        text += ": the check proves nothing, choose another time"
    return {
        "ok": first is None and proved, "at": cut, "altered": shifted.altered, "results": compared, "later": left, "later_changed": changed,
        "first_difference": None if first is None else str(first), "text": text,
    }  # fmt: skip

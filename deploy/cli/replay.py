"""``perpflow replay``: the topics are the backtest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.errors import UserError


def replay(
    from_topics: Annotated[
        bool, typer.Option("--from-topics", help="Read the topics of the environment, from their beginning to now.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with what the running services wrote.")] = True,
    latency_ms: Annotated[int, typer.Option(help="Latency of the paper model; the executor's for a comparison.")] = 250,
    slippage_bps: Annotated[float, typer.Option(help="Slippage of the paper model; the executor's for a comparison.")] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write counts, rates, hashes and differences to a file.")] = None,
    show: Annotated[int, typer.Option(help="How many differences to show.", min=1)] = 10,
) -> None:
    """Drive engine, scorer and paper model over recorded topics in process, without Faust, and compare.

    Ends with 0 when everything is identical and with 1 at a difference, which is shown field by field.

    Example: perpflow replay --from-topics --json replay.json
    """
    from deploy.cli import settings
    from stream_apps.core.paper_position import PaperSettings
    from stream_apps.replay.from_topics import replay_topics

    if not from_topics:
        raise UserError("replay: name a source; this release reads --from-topics")
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("replay", total=None)

        def progress(partition: int, topic: str, records: int) -> None:
            bar.update(task, advance=records, description=f"partition {partition}")

        report = replay_topics(settings(), PaperSettings(latency_ms=latency_ms, slippage_bps=slippage_bps), verify, progress)
    table = Table("topic", "replayed", "written", "hash of the replay", "identical", title="Replay of the topics")
    hashes = report.results.hashes()
    written = report.written.hashes() if report.written is not None else {}
    for topic, count in report.results.counts().items():
        there = report.written.counts()[topic] if report.written is not None else None
        same = "" if report.written is None else ("yes" if written[topic] == hashes[topic] else "NO")
        table.add_row(topic, f"{count:,}", "-" if there is None else f"{there:,}", hashes[topic][:16], same)
    Console().print(table)
    total = sum(report.inputs.values())
    console.print(f"{total:,} records in {report.seconds:.1f} s ({total / max(report.seconds, 1e-9):,.0f} a second)")
    conflicts = report.written.conflicts if report.written is not None else []
    for difference in report.differences[:show]:
        console.print(str(difference), markup=False)
    for topic, identity in conflicts[:show]:
        console.print(f"{topic} {identity}: the topics hold two different records of this id", markup=False)
    if json_file is not None:
        result = {
            "inputs": report.inputs,
            "outputs": report.outputs,
            "seconds": report.seconds,
            "counts": report.results.counts(),
            "hashes": hashes,
            "written": None
            if report.written is None
            else {"counts": report.written.counts(), "hashes": written, "repeats": report.written.repeats},
            "differences": [str(difference) for difference in report.differences],
        }
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if report.differences or conflicts:
        raise typer.Exit(1)

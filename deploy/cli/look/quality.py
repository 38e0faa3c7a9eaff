"""``perpflow quality``: show data quality scores, or check recorded files."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli import settings
from producers.simulated.recording.capture_lines import capture_lines
from producers.simulated.recording.events import FormatError
from schemas.errors import UserError
from sinks.queries import data_quality as topic
from stream_apps.core.quality.capture_check import check_capture
from stream_apps.core.quality.rules import OVERALL

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def quality(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Capture files (CSV or CSV.gz) to check. Default: show the live scores.", metavar="FILE...")
    ] = None,
    instrument: Annotated[list[str] | None, typer.Option(help="Only this instrument, e.g. BINANCE:BTCUSDT-PERP. Repeatable.")] = None,
    since: Annotated[str, typer.Option(help="Period before the newest record, in event time: 90s, 10m, 6h, 2d.")] = "10m",
) -> None:
    """Show the newest quality scores (0 to 10) and recent findings of the live data, or check capture files.

    Exit code 1: a file has faults.

    Examples: perpflow quality --since 1h     perpflow quality capture.csv.gz
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or pipe: wide enough that no column is cut
    if files:
        raise typer.Exit(1 if sum(_show_file(console, path) for path in files) else 0)
    found = topic.read(settings(), _span(since), tuple(instrument or ()))
    if not found.scores and not found.findings:
        typer.echo("no data: is `perpflow monitor` running?")
        return
    console.print(_scores(found))
    if found.findings:
        console.print(_findings(found))
    for venue, (mean, lowest, count) in found.venues().items():
        typer.echo(f"{venue}: {mean:.2f} of 10 over {count} instrument{'s' if count > 1 else ''}, lowest {lowest:.2f}")


def _span(text: str) -> int:
    """Return ``10m`` and the like in ms. Raises UserError."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdigit() or int(number) == 0:
        raise UserError(f"--since: expected a number and s, m, h or d, e.g. 10m, got {text!r}")
    return int(number) * _UNITS[unit]


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _scores(found: topic.QualityReport) -> Table:
    shown = Table("instrument", "stream", "score", "deductions", "records/s", "age s", "at (UTC)")
    for (name, stream), record in sorted(found.scores.items(), key=lambda item: (item[0][0], item[0][1] == OVERALL, item[0][1])):
        off = ", ".join(f"{kind} -{points:g}" for kind, points in sorted(record["deductions"].items(), key=lambda one: -one[1]))
        rate = "" if record["rate"] is None else f"{record['rate']:.1f}"
        age = "" if record["age_ms"] is None else f"{record['age_ms'] / 1000:.1f}"
        shown.add_row(name, stream, f"{record['score']:.2f}", off, rate, age, _time(record["event_time"]))
    return shown


def _findings(found: topic.QualityReport) -> Table:
    last = {(record["instrument"], record["stream"], record["kind"]): record for record in found.findings}
    shown = Table("instrument", "stream", "finding", "severity", "times", "newest (UTC)", "value", "limit", "offset", "detail")
    for key, count in sorted(found.counts().items()):
        record = last[key]
        numbers = ["" if record[name] is None else f"{record[name]:.10g}" for name in ("value", "limit_value")]
        offset = "" if record["source_offset"] is None else str(record["source_offset"])
        shown.add_row(*key, record["severity"], str(count), _time(record["event_time"]), *numbers, offset, record["detail"] or "")
    return shown


def _show_file(console: Console, path: Path) -> int:
    try:
        found = check_capture(capture_lines(path))
    except (FormatError, OSError) as error:
        raise UserError(f"{path}: {error}") from error
    typer.echo(f"{path}: {len(found)} fault{'' if len(found) == 1 else 's'}")
    if found:
        shown = Table("lines", "stream", "finding", "value", "limit", "detail")
        for fault in found:
            lines = str(fault.first) if fault.first == fault.last else f"{fault.first}-{fault.last}"
            numbers = ["" if math.isnan(number) else f"{number:.14g}" for number in (fault.value, fault.limit)]
            shown.add_row(lines, fault.stream, fault.kind, *numbers, fault.detail)
        console.print(shown)
    return len(found)

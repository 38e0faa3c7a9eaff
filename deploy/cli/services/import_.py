"""``perpflow import``: import the public dump files of venues into the topics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deploy.cli import settings
from producers.importer.files import ImportFailed, source_of
from producers.importer.importer import Importer, Plan
from producers.importer.layouts import LAYOUTS
from producers.importer.report import Report, utc
from producers.output.kafka_writer import DeliveryFailed
from producers.output.log_tail import LogError
from producers.venues import adapter_of
from schemas.errors import UserError
from schemas.process.service import configure_logging

KINDS = ("trades", "klines", "depth", "funding")


def import_(
    files: Annotated[list[str], typer.Argument(metavar="FILE[=SYMBOL]...", help="Dump files: zip, gzip or CSV, with or without a header.")],
    venue: Annotated[str, typer.Option(help="Venue of the files: BINANCE (USD-M futures), BINANCE_SPOT, BYBIT, BYBIT_SPOT or OKX.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Accept only files of this kind: trades, klines, depth or funding. Repeatable. Default: all kinds."),
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="Symbol of files whose name does not contain it.")] = None,
    author: Annotated[str | None, typer.Option(help="Author of the progress marks. Default: import- and the venue.")] = None,
    contract_value: Annotated[
        list[str] | None, typer.Option(metavar="SYMBOL=UNITS", help="OKX swaps: contract size in base units. Repeatable.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the validation report to this file, as JSON.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read and validate; write nothing to Kafka.")] = False,
) -> None:
    """Import public dump files into the same topics that live producers write.

    The files are merged by the venue's time. One progress mark is written per grid step.

    The topics must keep history: create them with PERPFLOW_KEEP_HISTORY=1.
    Import all kinds and symbols of a period in one run. Records of a later run follow the progress marks of the first: the worker
    counts them as late.
    If FILE.CHECKSUM exists next to FILE, the checksum is verified. After a crash, repeat the command: it resumes where it stopped.
    Unreadable rows go to the dead_letters topic with line and field. Missing trade ids go to the gaps topic. Single fills of one
    order are grouped into one aggregate trade.

    Examples:

      perpflow import --venue BINANCE --kind trades BTCUSDT-aggTrades-2024-08-*.zip

      perpflow import --venue BINANCE BTCUSDT-aggTrades-2024-08.zip BTCUSDT-fundingRate-2024-08.zip BTCUSDT-bookTicker-2024-08-01.zip

      perpflow import --venue BYBIT --kind trades BTCUSDT2024-08-08.csv.gz --check --report found.json

      perpflow import --venue OKX --contract-value BTC-USDT-SWAP=0.01 BTC-USDT-SWAP-trades-2024-08-08.zip
    """
    settled = settings()
    configure_logging(settled.log_level)
    unknown = [one for one in kind or () if one not in KINDS]
    if unknown:
        raise UserError(f"import: --kind: {', '.join(unknown)}: expected {', '.join(KINDS)}")
    console = Console(stderr=True)
    try:
        adapter = adapter_of(venue)
        hyphened = adapter.venue in LAYOUTS and adapter.venue == "OKX"
        sources = [source_of(text, symbol, hyphened) for text in files]
        values = dict(_pair(text) for text in contract_value or ())
        plan = Plan(adapter, sources, tuple(kind or ()), author or "", values)
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        ) as bars:
            tasks = {phase: bars.add_task(phase, total=None, start=phase == "reading") for phase in ("reading", "writing")}

            def tell(phase: str, done: int, total: int) -> None:
                bars.start_task(tasks[phase])  # type: ignore[arg-type]
                bars.update(tasks[phase], completed=done, total=total or None)  # type: ignore[arg-type]

            importer = Importer(plan, settled, tell)
            found = importer.read()
            if not check:
                importer.write()
    except (ImportFailed, LogError, DeliveryFailed, ValueError) as error:
        text = str(error)
        raise UserError(text if text.startswith("import:") else f"import: {text}") from error
    if report is not None:
        report.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    Console().print(table(found), *summary(found, check), sep="\n")


def _pair(text: str) -> tuple[str, str]:
    name, sep, value = text.partition("=")
    if not sep or not name or not value:
        raise ImportFailed(f"import: --contract-value: expected SYMBOL=UNITS, got {text!r}")
    return name, value


def table(found: Report) -> Table:
    """Return the report of the files as a table."""
    shown = Table("rows", "from (UTC)", "to (UTC)", "found", caption_justify="left")
    for file in found.files:
        faults = [
            f"{count:,} {name}"
            for count, name in (
                (file.gaps, f"gaps ({file.missing:,} ids)"), (file.duplicates, "doubles"), (file.out_of_order, "out of order"), (file.bad, "bad rows"),
            )
            if count
        ]  # fmt: skip
        order = ", newest first" if file.descending else ""
        shown.add_row(
            f"{file.rows:,}",
            (utc(file.first) or "-")[:19],
            (utc(file.last) or "-")[:19],
            ", ".join(faults) or "no problems",
            end_section=False,
        )
        shown.add_row("", f"{file.file}", f"{file.symbol} {file.layout}{order}", f"checksum {file.checksum}", end_section=True)
    return shown


def summary(found: Report, check: bool) -> list[str]:
    """Return lines about the whole, and the first bad rows."""
    lines = [f"{found.rows:,} rows, {found.fills:,} trades, {found.bad:,} unreadable rows; records: {_counts(found.records)}"]
    if not check:
        already = f"; already in the topics: {_counts(found.already)}" if found.already else ""
        lines.append(f"written by {found.author}: {_counts(found.written)} in {found.seconds:.1f} s{already}")
    for file in found.files:
        lines += [f"{file.file}:{row['line']}: {row['field']}: {row['reason']}" for row in file.bad_rows[:5]]
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{topic} {count:,}" for topic, count in counts.items()) or "none"

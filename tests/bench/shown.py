"""The result of a run as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.rows import OURS, Figure, Row


def number(value: float | None) -> str:
    """Return a value with three significant figures or all of its whole ones."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def _spread(figure: Figure) -> str:
    if figure.repetitions < 2 or figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low)} .. {number(figure.high)}"


def _bar(row: Row, who: str) -> str:
    if who not in row.bars:
        return ""
    sign = "" if who == OURS else "x"
    answer = {True: "reached", False: "missed", None: "not measured"}[row.reached(who)]
    return f"{'>=' if row.more_is_better or who != OURS else '<='} {number(row.bars[who])}{sign}: {answer}"


def table(rows: Sequence[Row], hardware: str, versions: Mapping[str, str], seconds: float) -> None:
    """Print the rows, what they were measured on and with, and how long the run took."""
    shown = Table(title=f"perpflow bench, {seconds:.0f} s", title_justify="left", show_lines=False)
    for name, right in (
        ("", False),
        ("", False),
        ("median", True),
        ("least .. most", True),
        ("ours is", True),
        ("bar", False),
        ("durable", False),
    ):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    notes = []
    software = dict(versions)
    for row in rows:
        software.update(row.versions)
        if row.note:
            notes.append(f"{row.name}: {row.note}")
        for who, figure in {OURS: row.ours, **row.peers}.items():
            ratio = None if who == OURS else row.ratio(who)
            value = escape(f"not measured: {figure.reason}") if figure.value is None else f"{number(figure.value)} {row.unit}"
            title = f"[bold]{escape(row.name)}[/]" if who == OURS else ""
            times = "" if ratio is None else f"{number(ratio)}x"
            shown.add_row(title, escape(who), value, _spread(figure), times, _bar(row, who), escape(figure.durable))
        shown.add_section()
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(shown)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    console.print(hardware, markup=False, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in software.items()), markup=False, highlight=False)

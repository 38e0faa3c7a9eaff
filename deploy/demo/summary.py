"""Print what happened to a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.demo.facts import Check, DemoFacts, PaperFacts
from deploy.demo.golden import value_text
from deploy.demo.words import LEGS, Rates, rate_text, utc
from schemas.catalogue import TOPICS


def print_summary(
    console: Console, facts: DemoFacts, checks: Sequence[Check], rates: Rates | None = None, *, hashes: Mapping[str, str] | None = None
) -> None:
    """Print counts, market data, evaluations, signals, paper trades, data quality, rates and checks. None shows as "none"."""
    _records(console, facts, rates or {})
    _market(console, facts)
    _evaluations(console, facts)
    _paper(console, facts)
    _quality(console, facts)
    if hashes:
        _show(console, "Hashes of the results", ["topic", "sha256"], [(topic, digest) for topic, digest in hashes.items()])
    _checks(console, checks)


def _show(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "none") -> None:
    """Print a table; a column named ``>name`` is aligned to the right. Without rows: the title and ``empty``."""
    if not rows:
        console.print(f"[bold]{escape(title)}[/bold]: [dim]{escape(empty)}[/dim]\n")
        return
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in columns:
        shown.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        shown.add_row(*("[dim]none[/dim]" if cell is None else escape(str(cell)) for cell in row))
    console.print(shown)


def _records(console: Console, facts: DemoFacts, rates: Rates) -> None:
    _show(console, "Records stored", ["topic", ">rows"], [(topic, f"{facts.rows[topic]:,}") for topic in TOPICS if facts.rows.get(topic)])
    empty = [topic for topic in TOPICS if not facts.rows.get(topic)]
    if empty:
        console.print(f"No records of: {', '.join(empty)}\n")
    _show(console, "Rates", ["", ">rate"], [(name, rate_text(value)) for name, value in rates.items()], "none measured")


def _market(console: Console, facts: DemoFacts) -> None:
    rows = []
    for one in facts.instruments:
        label = {True: "recorded, played back", False: "live", None: None}[one.recorded]
        span = f"{utc(one.first_time)} to {utc(one.last_time)}" if one.first_time is not None and one.last_time is not None else None
        trades = None if one.trades is None else f"{one.trades:,}"
        quantities = [None if value is None else value_text(value) for value in (one.buy, one.sell, one.cvd, one.last_price)]
        rows.append((one.instrument, label, span, trades, *quantities))
    _show(console, "Market data", ["instrument", "data", "event time, UTC", ">trades", ">buy", ">sell", ">CVD", ">last price"], rows)


def _evaluations(console: Console, facts: DemoFacts) -> None:
    counts = [
        (one.evaluations, one.not_warm, one.blocked, one.passed, one.below_entry, one.cooling, one.signalled) for one in facts.evaluations
    ]
    _show(
        console,
        "Evaluations",
        ["instrument", "strategy", ">evaluations", ">not warm", ">blocked", ">passed", ">below entry", ">cooling", ">signalled"],
        [(one.instrument, one.strategy_id, *(f"{count:,}" for count in row)) for one, row in zip(facts.evaluations, counts, strict=True)],
    )
    for one in facts.evaluations:
        for name, found in (("gate blocks", one.blocks), ("missing inputs", one.missing_inputs), ("stale inputs", one.stale_inputs)):
            listed = ", ".join(f"{key} {count:,}" for key, count in found.items()) or "none"
            console.print(f"{escape(one.strategy_id)}: {name}: {escape(listed)}", highlight=False)
    for strategy in facts.strategies:
        if strategy.gates_off:
            console.print(
                f"{escape(strategy.strategy_id)}: gates switched off in its settings: {', '.join(strategy.gates_off)}", highlight=False
            )
    _show(
        console,
        "Signals",
        ["instrument", "strategy", "side", "tier", "entry", "flip", ">signals"],
        [
            (
                one.instrument,
                one.strategy_id,
                one.direction,
                one.tier,
                "yes" if one.entry else "no",
                "yes" if one.flip else "no",
                f"{one.count:,}",
            )
            for one in facts.signals
        ],
    )


def _paper(console: Console, facts: DemoFacts) -> None:
    rows = [(one.instrument, one.strategy_id, *_statistics(one.paper)) for one in facts.papers]
    if len(rows) > 1:
        rows.append(("all", "", *_statistics(facts.paper)))
    _show(
        console,
        "Paper trades (closed)",
        ["instrument", "strategy", ">trades", ">win rate", ">profit factor", ">net R", ">net money", ">fees", ">max drawdown R", "exits"],
        rows,
        "none closed",
    )
    for one in facts.open_positions:
        console.print(
            f"Left open by the end of the data: {one.instrument} {one.direction} {value_text(one.open_quantity)} ({one.status})",
            markup=False,
        )


def _statistics(paper: PaperFacts) -> tuple[str | None, ...]:
    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    return (
        f"{paper.trades:,}",
        number(paper.win_rate, ".1%"),
        number(paper.profit_factor, ".2f"),
        number(paper.net_r, "+.2f"),
        number(paper.net_pnl, "+,.2f"),
        number(paper.fees, ",.2f"),
        number(paper.max_drawdown_r, ".2f"),
        ", ".join(f"{LEGS.get(reason, reason)} {count}" for reason, count in paper.exits.items()) or None,
    )


def _quality(console: Console, facts: DemoFacts) -> None:
    rows = []
    for one in facts.instruments:
        agrees = None if one.book_equals_quote is None else "yes" if one.book_equals_quote else "no"
        late = None if one.late_trades is None else f"{one.late_trades:,}"
        longest = f"{(one.silences[0].until - one.silences[0].since) / 60_000:.0f} min" if one.silences else None
        rows.append((one.instrument, late, f"{one.gap_rows:,}", f"{one.gap_rows_open:,}", f"{one.repeated_trades:,}", longest, agrees))
    columns = ["instrument", ">late trades", ">gap rows", ">not repaired", ">repeated rows", ">longest pause", "last book = last quote"]
    _show(console, "Data quality", columns, rows)
    letters = [(one.service, one.source, one.reason[:120], f"{one.count:,}") for one in facts.dead_letters[:20]]
    _show(console, "Refused records (dead letters)", ["service", "source", "reason", ">records"], letters)
    if len(facts.dead_letters) > len(letters):
        console.print(f"and {len(facts.dead_letters) - len(letters):,} further reasons")


def _checks(console: Console, checks: Sequence[Check]) -> None:
    shown = Table(title="Checks against the recordings", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("", "instrument", "check", "expected", "found", "expected from"):
        shown.add_column(name, overflow="fold")
    for one in checks:
        shown.add_row(
            "[green]ok[/green]" if one.ok else "[bold red]DIFFERS[/bold red]",
            *(escape(value) for value in (one.instrument, one.name, one.expected, one.found, one.source)),
        )
    if not checks:
        console.print("[bold]Checks against the recordings[/bold]: [dim]none[/dim]")
        return
    console.print(shown)
    failed = sum(not one.ok for one in checks)
    if failed:
        console.print(f"[bold red]{failed} of {len(checks)} checks differ[/bold red]")
    else:
        console.print(f"[green]All {len(checks)} checks hold.[/green]")

"""Print the results to a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.demo.golden import value_text
from deploy.demo.outcome import Check, DemoFacts, profit_factor_text, win_rate_text
from deploy.report.formatting import LEGS, Rates, duration, rate_text, utc
from schemas.catalogue import TOPICS

# Most reasons to list. The others are counted.
LISTED_LETTERS = 20


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


# Columns of figures that fit beside the names in a terminal of 80 columns.
ABREAST = 2


def _sheet(console: Console, title: str, heads: Sequence[str], fields: Mapping[str, Sequence[Any]], empty: str = "none") -> None:
    """Print a transposed table: one row per field, one column per heading."""
    if not heads:
        _show(console, title, [], [], empty)
    for start in range(0, len(heads), ABREAST):
        chosen = slice(start, start + ABREAST)
        _show(console, title, ["", *(f">{head}" for head in heads[chosen])], [(name, *cells[chosen]) for name, cells in fields.items()])


def _records(console: Console, facts: DemoFacts, rates: Rates) -> None:
    _show(console, "Records stored", ["topic", ">rows"], [(topic, f"{facts.rows[topic]:,}") for topic in TOPICS if facts.rows.get(topic)])
    empty = [topic for topic in TOPICS if not facts.rows.get(topic)]
    if empty:
        console.print(f"No records of: {', '.join(empty)}\n")
    _show(console, "Rates", ["", ">a second"], [(name, rate_text(value)) for name, value in rates.items()], "none measured")


def _market(console: Console, facts: DemoFacts) -> None:
    every = facts.instruments
    fields: dict[str, Sequence[Any]] = {
        "data": [{True: "recorded, played back", False: "live", None: None}[one.recorded] for one in every],
        "first trade, UTC": [_time(one.first_time) for one in every],
        "last trade, UTC": [_time(one.last_time) for one in every],
        "trades (by id range)": [_count(one.trades) for one in every],
        "taker buy quantity": [_value(one.buy) for one in every],
        "taker sell quantity": [_value(one.sell) for one in every],
        "CVD": [_value(one.cvd) for one in every],
        "first price": [_value(one.first_price) for one in every],
        "last price": [_value(one.last_price) for one in every],
    }
    _sheet(console, "Market data", [one.instrument for one in every], fields)


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _time(value: int | None) -> str | None:
    return None if value is None else utc(value)


def _value(value: Decimal | None) -> str | None:
    return None if value is None else value_text(value)


def _evaluations(console: Console, facts: DemoFacts) -> None:
    every = facts.evaluations
    names = {
        "evaluations": [one.evaluations for one in every],
        "not warm": [one.not_warm for one in every],
        "blocked by a gate": [one.blocked for one in every],
        "passed": [one.passed for one in every],
        "below entry score": [one.below_entry for one in every],
        "in cooldown": [one.cooling for one in every],
        "signalled": [one.signalled for one in every],
    }
    unambiguous = len({one.instrument for one in every}) == len(every)
    heads = [one.instrument if unambiguous else one.strategy_id for one in every]
    console.print("Recordings are short: warm-up of the trade quantiles set to 0 ms (quantile_history_ms).", markup=False, highlight=False)
    _sheet(console, "Evaluations", heads, {name: [f"{count:,}" for count in row] for name, row in names.items()})
    gates_off = {strategy.strategy_id: ", ".join(strategy.gates_off) or "none" for strategy in facts.strategies}
    for one in every:
        console.print(f"{one.strategy_id} on {one.instrument}", markup=False, highlight=False)
        for name, found in (("blocked by", one.blocks), ("missing", one.missing_inputs), ("of these stale", one.stale_inputs)):
            listed = ", ".join(f"{key} {count:,}" for key, count in found.items()) or "none"
            console.print(f"  {name}: {listed}", markup=False, highlight=False)
        console.print(f"  disabled gates: {gates_off.get(one.strategy_id, 'none')}\n", markup=False, highlight=False)
    _show(
        console,
        "Signals",
        ["instrument", "side", "tier", "entry", "flip", ">signals"],
        [
            (one.instrument, one.direction, one.tier, "yes" if one.entry else "no", "yes" if one.flip else "no", f"{one.count:,}")
            for one in facts.signals
        ],
    )


def _paper(console: Console, facts: DemoFacts) -> None:
    every = [(one.strategy_id, one.paper) for one in facts.papers]
    if len(every) > 1:
        every.append(("all", facts.paper))

    def row(form: str, values: Iterable[float | None]) -> list[str | None]:
        return [None if value is None else format(value, form) for value in values]

    papers = [paper for _, paper in every]
    fields: dict[str, Sequence[Any]] = {
        "trades": [f"{one.trades:,}" for one in papers],
        "win rate": [win_rate_text(one) for one in papers],
        "profit factor": [profit_factor_text(one) for one in papers],
        "net R": row("+.2f", (one.net_r for one in papers)),
        "net money": row("+,.2f", (one.net_pnl for one in papers)),
        "fees": row(",.2f", (one.fees for one in papers)),
        "funding": row(",.2f", (one.funding for one in papers)),
        "max drawdown R": row(".2f", (one.max_drawdown_r for one in papers)),
        "exits": [", ".join(f"{LEGS.get(reason, reason)} {count}" for reason, count in one.exits.items()) for one in papers],
    }
    _sheet(console, "Paper trades (closed)", [name for name, _ in every], fields, "none closed")
    for one in facts.open_positions:
        left = f"Open at the end of the data: {one.instrument} {one.direction} {value_text(one.open_quantity)} ({one.status})\n"
        console.print(left, markup=False, highlight=False)


def _quality(console: Console, facts: DemoFacts) -> None:
    every = facts.instruments
    fields: dict[str, Sequence[Any]] = {
        "late trades": [_count(one.late_trades) for one in every],
        "gap rows": [f"{one.gap_rows:,}" for one in every],
        "of these not repaired": [f"{one.gap_rows_open:,}" for one in every],
        "repeated trade rows": [f"{one.repeated_trades:,}" for one in every],
        "longest time without a trade": [
            duration(one.silences[0].until - one.silences[0].since) if one.silences else None for one in every
        ],
        "last book equals last quote": [{True: "yes", False: "no", None: None}[one.book_equals_quote] for one in every],
    }
    _sheet(console, "Data quality", [one.instrument for one in every], fields)
    letters = [(one.service, one.source, one.reason[:120], f"{one.count:,}") for one in facts.dead_letters[:LISTED_LETTERS]]
    _show(console, "Rejected records (dead letters)", ["service", "source", "reason", ">records"], letters)
    if len(facts.dead_letters) > len(letters):
        console.print(f"and {len(facts.dead_letters) - len(letters):,} more reasons")


def _checks(console: Console, checks: Sequence[Check]) -> None:
    """Print the checks of each instrument. An expected value equal to the found value is not repeated."""
    if not checks:
        console.print("[bold]Checks against the recordings[/bold]: [dim]none[/dim]")
        return
    for instrument in dict.fromkeys(check.instrument for check in checks):
        shown = Table(title=f"Checks of {escape(instrument)}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for name in ("", "check", "found", "expected"):
            shown.add_column(name, overflow="fold")
        for one in (check for check in checks if check.instrument == instrument):
            verdict = "[green]ok[/green]" if one.ok else "[bold red]DIFFERS[/bold red]"
            expected = "[dim]the same[/dim]" if one.ok and one.expected == one.found else escape(one.expected)
            shown.add_row(verdict, escape(one.name), escape(one.found), expected)
        console.print(shown)
    failed = sum(not one.ok for one in checks)
    if failed:
        console.print(f"[bold red]{failed} of {len(checks)} checks FAILED[/bold red]")
    else:
        console.print(f"[green]All {len(checks)} checks passed.[/green]")

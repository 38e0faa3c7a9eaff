"""Terminal tables of positions, orders, closed trades and execution figures. A narrow terminal drops the least important columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sinks.queries.accounts import Row

OLD_PRICE_S = 10.0
# KPI -> (label, target, whether the target is a minimum). Source: signal-engine-product 10.3.
TARGETS: dict[str, tuple[str, float, bool]] = {
    "maker_ratio_entry": ("entries filled as maker", 0.50, True),
    "maker_ratio_tp": ("targets filled as maker", 0.80, True),
    "friction_r": ("mean friction, R", 0.15, False),
    "entry_timeout_rate": ("entries timed out", 0.30, False),
    "tp_overshoot_rate": ("targets overshot", 0.20, False),
    "flips": ("maximum flips of a position", 1.0, False),
}
FIGURES = {
    "slippage_bps_entry": "entry slippage, bps",
    "slippage_bps_exit": "exit slippage, bps",
    "signal_to_order_p50_ms": "signal to order, median ms",
    "signal_to_order_p95_ms": "signal to order, p95 ms",
    "order_to_fill_p50_ms": "order to fill, median ms",
    "order_to_fill_p95_ms": "order to fill, p95 ms",
    "protection_gap_max_ms": "longest time without a stop order, ms",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column. A narrow terminal drops columns of the highest ``rank`` first, and never those of rank 0."""

    name: str
    cell: Callable[[Row], str | Text]
    rank: int = 0
    right: bool = False


def _table(title: str, columns: Sequence[Column], rows: Sequence[Row], width: int) -> Table:
    """Return a table with as many columns as fit into the terminal."""
    console = Console(width=10_000)
    for most in sorted({one.rank for one in columns}, reverse=True):
        table = Table(title=title, title_justify="left", pad_edge=False, box=None, header_style="bold", padding=(0, 1))
        shown = [one for one in columns if one.rank <= most]
        for one in shown:
            table.add_column(one.name, justify="right" if one.right else "left", no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(one.cell(row) for one in shown))
        if Measurement.get(console, console.options, table).maximum <= width:
            break
    return table


def number(value: float | None, digits: int = 6) -> str:
    """Return a number with at least ``digits`` significant digits, without exponent; ``-`` for None."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(places, 8)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(value: float | None, places: int = 2) -> Text:
    """Return a number: gains green, losses red."""
    if value is None:
        return Text("-")
    return Text(f"{value:+,.{places}f}", style="green" if value > 0 else "red" if value < 0 else "")


def span(since: datetime | None, until: datetime | None = None) -> str:
    """Return a duration in its two largest units."""
    if since is None:
        return "-"
    seconds = int(((until or datetime.now(UTC)) - since).total_seconds())
    days, rest = divmod(max(seconds, 0), 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _side(row: Row) -> Text:
    return Text(row["direction"], style="green" if row["direction"] == "LONG" else "red")


def _price(row: Row) -> Text:
    old = row["price"] is not None and (row["price_age_s"] is None or row["price_age_s"] > OLD_PRICE_S)
    return Text(number(row["price"]), style="dim" if old else "")


def _protection(row: Row) -> Text:
    words = row["protection"] if row["closing"] is None else f"closing: {row['closing']}"
    return Text(words, style="bold red" if words in ("NONE", "partly") else "yellow" if row["closing"] else "")


POSITIONS = (
    Column("account", lambda row: row["account"]),
    Column("strategy", lambda row: row["strategy_id"], 4),
    Column("instrument", lambda row: short(row["instrument"])),
    Column("side", _side),
    Column("state", lambda row: row["status"], 5),
    Column("open", lambda row: number(row["open_quantity"]), right=True),
    Column("entry", lambda row: number(row["entry_price"]), 1, right=True),
    Column("price", _price, right=True),
    Column("pnl", lambda row: signed(row["unrealised"]), right=True),
    Column("R", lambda row: signed(row["r"]), right=True),
    Column("stop", lambda row: number(row["stop_price"]), 2, right=True),
    Column("tp1", lambda row: number(row["tp1_price"]), 6, right=True),
    Column("tp2", lambda row: number(row["tp2_price"]), 6, right=True),
    Column("held", lambda row: span(row["since"]), 3, right=True),
    Column("stop held by", _protection),
)
ORDERS = (
    Column("time (UTC)", lambda row: stamp(row["event_time"])),
    Column("account", lambda row: row["account"]),
    Column("strategy", lambda row: row["strategy_id"], 4),
    Column("instrument", lambda row: short(row["instrument"])),
    Column("leg", lambda row: row["leg"]),
    Column("side", lambda row: row["side"], 1),
    Column("type", lambda row: row["type"], 5),
    Column("price", lambda row: number(row["price"]), right=True),
    Column("quantity", lambda row: number(row["quantity"]), right=True),
    Column("filled", lambda row: number(row["filled"]), 3, right=True),
    Column("state", lambda row: row["status"]),
    Column("reason", lambda row: row["reason"] or "", 2),
)
TRADES = (
    Column("closed (UTC)", lambda row: stamp(row["event_time"])),
    Column("account", lambda row: row["account"]),
    Column("strategy", lambda row: row["strategy_id"], 3),
    Column("instrument", lambda row: short(row["instrument"])),
    Column("side", _side),
    Column("entry", lambda row: number(row["entry_price"]), 2, right=True),
    Column("exit", lambda row: number(row["exit_price"]), 2, right=True),
    Column("by", lambda row: row["exit_reason"]),
    Column("held", lambda row: span(row["entry_time"], row["event_time"]), 1, right=True),
    Column("net", lambda row: signed(row["net_pnl"]), right=True),
    Column("R", lambda row: signed(row["net_r"]), right=True),
    Column("cost R", lambda row: _places(row["friction_r"], 3), right=True),
    Column("maker", lambda row: share(row["maker_ratio_entry"]), right=True),
    Column("slip in/out", lambda row: f"{_places(row['slippage_bps_entry'], 1)}/{_places(row['slippage_bps_exit'], 1)}", right=True),
    Column("to order", lambda row: number(row["signal_to_order_ms"]), 5, right=True),
    Column("to fill", lambda row: number(row["order_to_fill_ms"]), 5, right=True),
    Column("no stop ms", lambda row: number(row["protection_gap_ms"]), 4, right=True),
)


def positions_table(rows: Sequence[Row], width: int) -> Table:
    """Return the open positions."""
    total = sum(row["unrealised"] or 0.0 for row in rows)
    return _table(f"{len(rows)} open, unrealised {total:+,.2f}", POSITIONS, rows, width)


def orders_table(rows: Sequence[Row], width: int, every: bool) -> Table:
    """Return orders."""
    return _table(f"{len(rows)} {'newest' if every else 'open'} orders", ORDERS, rows, width)


def trades_table(rows: Sequence[Row], width: int) -> Table:
    """Return closed trades."""
    won = sum(row["net_pnl"] > 0 for row in rows)
    net, r = sum(row["net_pnl"] for row in rows), sum(row["net_r"] or 0.0 for row in rows)
    words = f"{len(rows)} closed trades, {won / len(rows):.0%} won, net {net:+,.2f}, {r:+.2f} R" if rows else "no closed trades"
    return _table(words, TRADES, rows, width)


def figures_table(found: dict[str, dict[str, float | None]]) -> Table:
    """Return execution figures, one column per account. Green: target reached; red: target missed."""
    table = Table(
        title="Execution figures of closed trades", title_justify="left", box=None, header_style="bold", padding=(0, 1), pad_edge=False
    )
    table.add_column("")
    table.add_column("target", justify="right")
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("trades measured", "", *(f"{one['trades']:,.0f}" for one in found.values()))
    for name, (words, target, least) in TARGETS.items():
        cells = []
        for one in found.values():
            value = one[name]
            good = value is not None and (value >= target if least else value <= target)
            cells.append(Text(_kpi(name, value), style="" if value is None else "green" if good else "red"))
        table.add_row(words, f"{'>=' if least else '<='} {_kpi(name, target)}", *cells)
    for name, words in FIGURES.items():
        table.add_row(words, "", *(_places(one[name], 1) for one in found.values()))
    return table


def short(instrument: str) -> str:
    """Return an instrument id without its venue. The account's name contains the venue."""
    return instrument.partition(":")[2]


def stamp(time: datetime | None) -> str:
    """Return a time to the second, without the date if it is today."""
    if time is None:
        return "-"
    return f"{time:%H:%M:%S}" if time.date() == datetime.now(UTC).date() else f"{time:%m-%d %H:%M}"


def share(value: float | None) -> str:
    """Return a share as a percentage."""
    return "-" if value is None else f"{value:.0%}"


def _places(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:,.{places}f}"


def _kpi(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if name.endswith(("rate", "entry", "tp")) else f"{value:g}" if name == "flips" else f"{value:.3f}"


def plain(row: Row) -> dict[str, Any]:
    """Return a row as JSON values."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items() if not name.startswith("kafka_")
    }

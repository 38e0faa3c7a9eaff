"""Table cells, and the tables that every report has: closed trades and signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.report.formatting import LEGS, duration, utc
from deploy.report.page import Html, marked, note, table
from deploy.report.series import MOST_ROWS, Row


def count(value: int | None) -> str | None:
    """Return a whole number with thousands separators."""
    return None if value is None else f"{value:,}"


def number(value: float | None, form: str = ",.2f") -> str | None:
    """Return a formatted number."""
    return None if value is None else format(value, form)


def signed(value: float | None, form: str = "+.2f") -> Html | None:
    """Return a signed number: positive green, negative red."""
    return None if value is None else marked(format(value, form), value >= 0)


def time_text(value: int | None) -> str | None:
    """Return a time (ms UTC) as text."""
    return None if value is None else utc(value)


def yes(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def cut_note(rows: int) -> str:
    """Return a note if a list was cut, else nothing."""
    return note(f"Showing the first {MOST_ROWS:,} of {rows:,} rows.") if rows > MOST_ROWS else ""


def trades_table(trades: Sequence[Row], empty: str = "none") -> Html:
    """Return closed trades, the first ``MOST_ROWS`` of them. Rows with a ``void`` show why they are excluded."""
    has_void = any("void" in row for row in trades)
    heads = ["entry (UTC)", "exit (UTC)", "instrument", "side", "tier", ">score", ">entry", ">exit", "exit by", ">net R", ">net P&L", ">held",
             ">quantity", ">fees R", ">funding R", ">slippage R", ">MFE R", ">MAE R", "strategy"]  # fmt: skip
    rows = [(*_trade(row), *((_counts(row),) if has_void else ())) for row in trades[:MOST_ROWS]]
    return table([*heads, *(["counts"] if has_void else [])], rows, empty)


def _counts(row: Row) -> str:
    return {None: "yes", "held_over_gap": "no: open during a gap", "window_over_gap": "no: a gap in its windows"}[row["void"]]


def _trade(row: Row) -> Sequence[Any]:
    ended = str(LEGS.get(row["exit_reason"], row["exit_reason"])) + (" after TP1" if row["tp1_hit"] and row["exit_reason"] != "tp2" else "")
    return (
        utc(row["entry_time"]), utc(row["event_time"]), row["instrument"], row["direction"], row["tier"], f"{row['score']:.1f}",
        f"{row['entry_price']:.8g}", f"{row['exit_price']:.8g}", ended, signed(row["net_r"]), signed(row["net_pnl"], "+,.2f"),
        duration(row["hold_ms"]), f"{row['quantity']:.8g}", f"{row['fee_r']:.3f}", f"{row['funding_r']:.3f}", f"{row['slippage_r']:.3f}",
        f"{row['mfe_r']:.2f}", f"{row['mae_r']:.2f}", row["strategy_id"],
    )  # fmt: skip


def signals_table(signals: Sequence[Row], empty: str = "none: no entry signal") -> Html:
    """Return signals, the first ``MOST_ROWS`` of them."""
    return table(
        ["instant (UTC)", "decided (UTC)", "instrument", "side", ">score", "tier", "flips too", "regime", ">price", ">ATR", ">risk distance", "strategy"],
        [
            (
                utc(row["event_time"]), utc(row["decided_at"]), row["instrument"], row["direction"], f"{row['score']:.1f}", row["tier"],
                yes(row["flip"]), row["regime"], f"{row['price']:.8g}", f"{row['atr']:.6g}", f"{row['risk_distance']:.6g}", row["strategy_id"],
            )
            for row in signals[:MOST_ROWS]
        ],
        empty,
    )  # fmt: skip

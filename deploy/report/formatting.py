"""Formatting of figures and names, the same in the terminal and in reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

# Name -> measured figure. None: not measured.
Rates = Mapping[str, float | str | None]

# Leg of an order, or reason of an exit -> label.
LEGS = {
    "entry": "entry",
    "tp1": "TP1",
    "tp2": "TP2",
    "stop": "stop",
    "break_even_stop": "break-even stop",
    "trailing_stop": "trailing stop",
    "timeout": "timeout",
    "flip": "flip",
}


def utc(time: int | float) -> str:
    """Return a time (ms UTC) as text: ``2024-08-08 23:54:16.322``; whole seconds without decimals."""
    at = datetime.fromtimestamp(int(time) // 1000, UTC)
    part = int(time) % 1000
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{part:03d}" if part else "")


def duration(milliseconds: float | None) -> str | None:
    """Return a duration: ``12 s``, ``4 min 05 s``, ``5 h 01 min``."""
    if milliseconds is None:
        return None
    seconds = round(milliseconds / 1000)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def rate_text(value: float | str | None) -> str | None:
    """Return a measured figure: numbers with thousands separators, text unchanged."""
    if value is None or isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def bounded(value: float | None, low: float | None, high: float | None, count: int, form: str, reason: str = "no closed trades") -> str:
    """Return an estimate with its count and 95 % interval, ``45.0% (n 20, 26.0% to 65.0%)``, or the reason why it is missing.

    Args:
        low, high: Ends of the interval; None: no interval.
        count: Number of trades.
        form: Format of the numbers.
        reason: Reason why the value is None.
    """
    if value is None:
        return f"{reason} (n {count:,})"
    if low is None or high is None:
        return f"{format(value, form)} (n {count:,}, no interval)"
    return f"{format(value, form)} (n {count:,}, {format(low, form)} to {format(high, form)})"

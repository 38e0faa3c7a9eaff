"""Closed trades by kind: who, which side, which tier, when, in which market, and how they ended (D23). Times are UTC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import fsum
from typing import Any

from stream_apps.core.performance.costs import slippage_money
from stream_apps.core.performance.intervals import profit_factor_bounds, wilson
from stream_apps.core.performance.ledger import DAY_MS, Row

HOUR_MS = 3_600_000
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIERS = ("light", "standard", "heavy")


def _weekday(row: Row) -> str:
    # 1970-01-01 was a Thursday.
    return WEEKDAYS[(row["entry_time"] // DAY_MS + 3) % 7]


# Name -> group of a trade. Hour and weekday are those of the entry.
BREAKDOWNS: dict[str, Callable[[Row], str]] = {
    "symbol": lambda row: str(row["instrument"]),
    "side": lambda row: str(row["direction"]),
    "tier": lambda row: str(row["tier"]),
    "hour": lambda row: f"{row['entry_time'] // HOUR_MS % 24:02d}",
    "weekday": _weekday,
    "regime": lambda row: str(row["regime"]),
    "exit_reason": lambda row: str(row["exit_reason"]),
}
_ORDER: dict[str, tuple[str, ...]] = {"weekday": WEEKDAYS, "tier": TIERS}
# What is stated of a group, with its unit.
FIELDS = {
    "trades": "count",
    "win_rate": "fraction",
    "win_rate_low": "fraction",
    "win_rate_high": "fraction",
    "net_r": "R",
    "expectancy_r": "R",
    "profit_factor": "ratio",
    "profit_factor_low": "ratio",
    "profit_factor_high": "ratio",
    "net_pnl": "money",
    "fees": "money",
    "funding": "money",
    "slippage": "money",
    "average_hold_ms": "ms",
}


def breakdown(trades: Iterable[Row], name: str) -> list[dict[str, Any]]:
    """Return the groups of a breakdown, each ``group`` and ``FIELDS``; weekdays and tiers in their own order, the rest by name.

    Raises:
        KeyError: no such breakdown.
    """
    group_of = BREAKDOWNS[name]
    groups: dict[str, list[Row]] = {}
    for row in trades:
        groups.setdefault(group_of(row), []).append(row)
    order = _ORDER.get(name, ())
    ranked = sorted(groups, key=lambda group: (order.index(group) if group in order else len(order), group))
    return [{"group": group, **_summary(groups[group])} for group in ranked]


def _summary(rows: list[Row]) -> dict[str, Any]:
    losses = -fsum(row["net_pnl"] for row in rows if row["net_pnl"] < 0)
    net = fsum(row["net_r"] for row in rows)
    wins = sum(row["net_pnl"] > 0 for row in rows)
    win_rate_low, win_rate_high = wilson(wins, len(rows))
    profit_factor_low, profit_factor_high = profit_factor_bounds([row["net_pnl"] for row in rows])
    return {
        "trades": len(rows),
        "win_rate": wins / len(rows),
        "win_rate_low": win_rate_low,
        "win_rate_high": win_rate_high,
        "net_r": net,
        "expectancy_r": net / len(rows),
        "profit_factor": fsum(row["net_pnl"] for row in rows if row["net_pnl"] > 0) / losses if losses else None,
        "profit_factor_low": profit_factor_low,
        "profit_factor_high": profit_factor_high,
        "net_pnl": fsum(row["net_pnl"] for row in rows),
        "fees": fsum(row["fees"] for row in rows),
        "funding": fsum(row["funding"] for row in rows),
        "slippage": fsum(slippage_money(row) for row in rows),
        "average_hold_ms": fsum(row["hold_ms"] for row in rows) / len(rows),
    }

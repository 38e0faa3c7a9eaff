"""Statistics of closed trades (DECISIONS D23): pure functions by name, each with its unit, formula and source. Undefined is None, never zero."""

# These register what they define.
from stream_apps.core.performance import costs, daily, drawdown, results
from stream_apps.core.performance.breakdowns import BREAKDOWNS, breakdown
from stream_apps.core.performance.ledger import Drawdown, Ledger
from stream_apps.core.performance.reasons import reason_of
from stream_apps.core.performance.registry import STATISTICS, Statistic, evaluate, listed

__all__ = [
    "BREAKDOWNS",
    "STATISTICS",
    "Drawdown",
    "Ledger",
    "Statistic",
    "breakdown",
    "costs",
    "daily",
    "drawdown",
    "evaluate",
    "listed",
    "reason_of",
    "results",
]

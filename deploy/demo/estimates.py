"""Win rate and profit factor of the demo's paper trades, each with its count and its interval."""

from __future__ import annotations

from deploy.demo.outcome import PaperFacts
from deploy.report.formatting import bounded
from stream_apps.core.performance.intervals import wilson


def win_rate_text(facts: PaperFacts) -> str:
    """Return the win rate, its count and its 95 % interval."""
    return bounded(facts.win_rate, *wilson(facts.wins, facts.trades), facts.trades, ".1%")


def profit_factor_text(facts: PaperFacts) -> str:
    """Return the profit factor, its count and its 95 % interval."""
    reason = "no losing trade" if facts.trades else "no closed trades"
    return bounded(facts.profit_factor, *facts.profit_factor_bounds, facts.trades, ".2f", reason)

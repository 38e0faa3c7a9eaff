"""Why a statistic has no value (pure). "Too few" is an answer with its reason; it is no empty cell and no number."""

from __future__ import annotations

from stream_apps.core.performance.daily import LEAST_DAILY_RETURNS, RETURNS
from stream_apps.core.performance.ledger import Ledger
from stream_apps.core.performance.registry import STATISTICS

_NEEDS_A_LOSS = ("profit_factor", "profit_factor_low", "profit_factor_high", "payoff", "break_even_win_rate", "kelly_fraction")


def reason_of(name: str, ledger: Ledger) -> str:
    """Return why a statistic whose value is None has none.

    Args:
        name: Of a statistic.
        ledger: What it was asked of.

    Raises:
        KeyError: no such statistic.
    """
    statistic = STATISTICS[name]
    if not ledger.trades:
        return "no closed trades"
    if statistic.group == RETURNS:
        if ledger.returns is None:
            return "the equity was used up"
        if len(ledger.returns) < LEAST_DAILY_RETURNS:
            return f"too few daily returns: {len(ledger.returns)} of {LEAST_DAILY_RETURNS}"
    if name in _NEEDS_A_LOSS and not ledger.losses:
        return "no losing trade"
    if name.startswith("profit_factor_") and not ledger.wins:
        return "no winning trade"
    return "not defined for these trades"

"""What trading cost: fees, funding and slippage apart, makers and turnover."""

from __future__ import annotations

from math import fsum

from stream_apps.core.performance.ledger import DAY_MS, Ledger, Row
from stream_apps.core.performance.registry import Value, statistic

COSTS = "Costs"


def slippage_money(row: Row) -> float:
    """Return a trade's slippage in quote units: slippage_r x 1R x the tier's multiple."""
    return float(row["slippage_r"] * row["risk_amount"] * row["risk_multiple"])


def gross_money(row: Row) -> float:
    """Return a trade's result before fees and funding, quote units. Slippage is in its prices already."""
    return float(row["net_pnl"] + row["fees"] + row["funding"])


@statistic(COSTS, "R")
def gross_r(ledger: Ledger) -> Value:
    """Sum of the results before fees and funding; slippage is in the prices."""
    return fsum(ledger.column("gross_r"))


@statistic(COSTS, "R")
def fees_r(ledger: Ledger) -> Value:
    """Sum of fees."""
    return fsum(ledger.column("fee_r"))


@statistic(COSTS, "R")
def funding_r(ledger: Ledger) -> Value:
    """Sum of funding paid; received counts below zero (P R002-85)."""
    return fsum(ledger.column("funding_r"))


@statistic(COSTS, "R")
def slippage_r(ledger: Ledger) -> Value:
    """Sum of |fill price - price of the trade that filled| x quantity, per risk; part of gross R already."""
    return fsum(ledger.column("slippage_r"))


@statistic(COSTS, "money")
def fees(ledger: Ledger) -> Value:
    """Sum of fees."""
    return fsum(ledger.column("fees"))


@statistic(COSTS, "money")
def funding(ledger: Ledger) -> Value:
    """Sum of funding paid; received counts below zero."""
    return fsum(ledger.column("funding"))


@statistic(COSTS, "money")
def slippage(ledger: Ledger) -> Value:
    """Sum of slippage; part of the prices already."""
    return fsum(slippage_money(row) for row in ledger.trades)


@statistic(COSTS, "R")
def cost_per_trade_r(ledger: Ledger) -> Value:
    """Mean of fee R + funding R + slippage R: the friction of a trade (D23; S1 8.7 avg_friction_cost_r)."""
    return fsum(row["fee_r"] + row["funding_r"] + row["slippage_r"] for row in ledger.trades) / len(ledger.trades)


@statistic(COSTS, "fraction")
def cost_share(ledger: Ledger) -> Value:
    """(Fees + funding) / gross pnl (P R002-87); undefined where the gross pnl is not above zero."""
    gross = fsum(gross_money(row) for row in ledger.trades)
    return fsum(row["fees"] + row["funding"] for row in ledger.trades) / gross if gross > 0 else None


@statistic(COSTS, "fraction")
def maker_ratio(ledger: Ledger) -> Value:
    """Notional of maker fills / notional of all fills (D23; S1 8.7). Undefined where the fills are not known."""
    total = _sum(ledger, "notional")
    made = _sum(ledger, "maker_notional")
    return None if total is None or made is None else made / total


@statistic(COSTS, "money")
def traded_notional(ledger: Ledger) -> Value:
    """Sum of price x quantity of all fills: (entry price + mean exit price) x quantity."""
    return fsum((row["entry_price"] + row["exit_price"]) * row["quantity"] for row in ledger.trades)


@statistic(COSTS, "1/day")
def turnover(ledger: Ledger) -> Value:
    """Traded notional / initial balance, a day of 24 h."""
    total = fsum((row["entry_price"] + row["exit_price"]) * row["quantity"] for row in ledger.trades)
    return total / ledger.initial_balance * DAY_MS / ledger.period_ms


def _sum(ledger: Ledger, name: str) -> float | None:
    values = [row.get(name) for row in ledger.trades]
    return None if not values or None in values else fsum(value for value in values if value is not None)

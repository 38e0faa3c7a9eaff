"""Position size and budget limits. Quantities are rounded down to the venue's lot."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

from stream_apps.core.execution.orders.venue_reports import InstrumentRules
from stream_apps.core.execution.settings.policy import Budget, SizingPolicy
from stream_apps.core.paper.money import exact

ZERO = Decimal(0)


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of ``step`` that is not above ``value``."""
    return (value / step).to_integral_value(ROUND_DOWN) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of ``step`` that is not below ``value``."""
    return (value / step).to_integral_value(ROUND_CEILING) * step


def nearest_tick(price: Decimal, tick: Decimal) -> Decimal:
    """Return the multiple of ``tick`` nearest to ``price``; halves round up."""
    return (price / tick).to_integral_value(ROUND_HALF_UP) * tick


@dataclass(frozen=True, slots=True)
class Size:
    """A sized entry.

    Attributes:
        quantity: Base units, a multiple of the lot; 0 if ``refusal`` is set.
        risk_amount: Money of 1R before the tier multiple, quote units.
        risk_distance: Stop distance, price units.
        refusal: None, or the reason.
    """

    quantity: Decimal
    risk_amount: Decimal
    risk_distance: Decimal
    refusal: str | None = None


def size_of(signal: dict[str, Any], price: Decimal, rules: InstrumentRules, policy: SizingPolicy, factor: Decimal = Decimal(1)) -> Size:
    """Return the size of an entry.

    ``risk``: quantity = 1R x tier multiple / risk distance (D19, D14). ``margin``: quantity = margin base x tier multiple x leverage / price, and stop
    distance = min(risk distance, loss cap / quantity). ``quote``: quantity = quote budget x tier multiple / price (R002-58). For the last two, 1R is the
    loss at the stop divided by the tier multiple.

    Args:
        signal: ``signals`` record.
        price: Expected entry price.
        rules: Rules of the instrument.
        policy: Method and amounts.
        factor: Multiplies the quantity (the guard's size factor).
    """
    distance, multiple = exact(signal["risk_distance"]), exact(signal["risk_multiple"])
    if distance <= 0:
        return Size(ZERO, ZERO, distance, "no_risk_distance")
    if policy.method == "risk":
        amount = policy.risk_usd if policy.risk_usd is not None else exact(signal["initial_balance"]) * exact(signal["risk_per_trade"])
        wanted = amount * multiple / distance
    elif policy.method == "quote":
        wanted = policy.quote_budget * multiple / price
        amount = ZERO
    else:
        wanted = policy.margin_base * multiple * policy.leverage / price
        amount = ZERO
    if wanted <= 0:
        return Size(ZERO, amount, distance, "no_risk_amount")
    quantity = floor_to(min(wanted * factor, rules.max_quantity, rules.market_max_quantity), max(rules.lot, rules.market_lot))
    if policy.method == "margin" and quantity > 0:
        distance = min(distance, policy.max_loss_usd / quantity)
        amount = quantity * distance / multiple
    elif policy.method == "quote":
        amount = quantity * distance / multiple
    if quantity < rules.min_quantity or quantity * price < rules.min_notional or quantity <= 0:
        return Size(ZERO, amount, distance, "below_minimum")
    return Size(quantity, amount, distance)


def over_budget(
    notional: Decimal, leverage: int, budget: Budget, positions: int, margin_used: Decimal, *, spot_used: Decimal | None = None
) -> str | None:
    """Return the name of the first limit that a new position would exceed, or None.

    Args:
        notional: Notional of the new position, quote units.
        leverage: Leverage of the new position.
        budget: The limits.
        positions: Number of open and pending positions.
        margin_used: Sum of their notional / leverage.
        spot_used: Quote units spent on spot positions; None for a futures position.
    """
    if positions >= budget.max_positions:
        return "budget_positions"
    if notional > budget.max_notional:
        return "budget_notional"
    if spot_used is not None:
        return "budget_spot" if spot_used + notional > budget.max_spot_notional else None
    return "budget_margin" if margin_used + notional / leverage > budget.max_margin else None

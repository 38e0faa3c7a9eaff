"""The funds of an account that new orders may use. Pure."""

from __future__ import annotations

from decimal import Decimal

from producers.simulated.exchange.core.account import Account, margin
from producers.simulated.exchange.core.rules import ZERO
from producers.simulated.exchange.core.state import ExchangeState


def available(exchange: ExchangeState, owner: Account) -> Decimal:
    """Return the funds for new orders, quote units, at least 0."""
    left = owner.cross_wallet
    for symbol, position in owner.positions.items():
        market = exchange.markets[symbol]
        orders = list(exchange.open_orders_of(owner.name, symbol).values())
        if not position.quantity and not orders:
            continue
        one = margin(position, market.contract, market.reference, orders)
        left -= one.order_initial
        if not position.isolated:
            left += one.unrealised - one.initial
    return max(ZERO, left)

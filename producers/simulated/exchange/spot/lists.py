"""The state of a spot exchange besides orders: balances, and one-cancels-the-other lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.orders import NewOrder
from producers.simulated.exchange.core.rules import ZERO


@dataclass
class SpotAccount(Account):
    """An account with balances: asset -> total. ``wallet`` and positions are not used."""

    balances: dict[str, Decimal] = field(default_factory=dict)

    def add(self, asset: str, amount: Decimal) -> None:
        """Move a balance."""
        self.balances[asset] = self.balances.get(asset, ZERO) + amount


@dataclass
class OrderList:
    """A one-cancels-the-other list: its target (a limit order that must rest) and its stop."""

    id: int
    account: str
    symbol: str
    client_id: str
    created: int
    orders: tuple[int, int]
    done: bool = False


@dataclass(frozen=True)
class NewList:
    """A client's request: both orders, of one side and quantity."""

    target: NewOrder
    stop: NewOrder
    stop_price: Decimal
    client_id: str | None = None

"""One account of the simulated exchange: wallet, positions in one-way mode, margin. Pure; every booking is exact.

Only ``book`` changes the wallet, so the wallet is the sum of its bookings. A position stores its exact cost, not a rounded mean price. A
partial close books its share rounded to ``MONEY`` and leaves the rest, so rounding loses nothing. Margin formulas: Binance "Liquidation
price", "Margin ratio" and "Cost" of USD-M futures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from producers.simulated.exchange.core.orders import BUY, Fill, Income, Order, PositionView
from producers.simulated.exchange.core.rules import ZERO, Contract, money


@dataclass
class Position:
    """A position in one instrument.

    Attributes:
        quantity: Signed, positive long. cost: Its exact cost, signed like the quantity (quantity x mean entry price). realised: Sum of all
        realised profit. isolated_wallet: Its isolated margin (part of the account's wallet).
    """

    symbol: str
    leverage: int = 20
    isolated: bool = False
    quantity: Decimal = ZERO
    cost: Decimal = ZERO
    realised: Decimal = ZERO
    isolated_wallet: Decimal = ZERO
    updated: int = 0

    @property
    def entry(self) -> Decimal:
        """Mean entry price; 0 without a position."""
        return self.cost / self.quantity if self.quantity else ZERO

    def unrealised(self, mark: Decimal) -> Decimal:
        """Return the profit at a mark price, quote units."""
        return self.quantity * mark - self.cost

    def trade(self, signed: Decimal, price: Decimal) -> Decimal:
        """Add a signed quantity at a price. Return the realised profit, quote units."""
        realised = ZERO
        if self.quantity and (self.quantity > 0) != (signed > 0):
            closing = min(abs(signed), abs(self.quantity)) * (1 if signed > 0 else -1)
            whole = closing == -self.quantity
            share = self.cost if whole else money(self.cost * -closing / self.quantity)
            realised = -closing * price - share
            released = self.isolated_wallet if whole else money(self.isolated_wallet * -closing / self.quantity)
            self.isolated_wallet -= released
            self.quantity += closing
            self.cost -= share
            signed -= closing
        if signed:
            self.quantity += signed
            self.cost += signed * price
            if self.isolated:
                self.isolated_wallet += money(abs(signed) * price / self.leverage)
        self.realised += realised
        return realised


@dataclass
class Account:
    """Money, positions and orders of one user.

    Attributes:
        wallet: Without unrealised profit, ``asset`` units. ledger: All its bookings. maker, taker: Fees as shares of the notional. dual:
        Hedge mode is on, so orders for one-way mode are refused.
    """

    name: str
    asset: str = "USDT"
    maker: Decimal = Decimal("0.0002")
    taker: Decimal = Decimal("0.0005")
    dual: bool = False
    wallet: Decimal = ZERO
    positions: dict[str, Position] = field(default_factory=dict)
    ledger: list[Income] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    default_leverage: int = 20

    def position(self, symbol: str) -> Position:
        """Return the position in an instrument, made on first use."""
        found = self.positions.get(symbol)
        if found is None:
            found = self.positions[symbol] = Position(symbol, self.default_leverage)
        return found

    @property
    def cross_wallet(self) -> Decimal:
        """Wallet without the margin of isolated positions."""
        return self.wallet - sum((one.isolated_wallet for one in self.positions.values()), ZERO)

    def book(
        self, number: int, time: int, kind: str, amount: Decimal, symbol: str = "", trade_id: int | None = None, info: str = ""
    ) -> Income:
        """Change the wallet, and append the booking."""
        self.wallet += amount
        row = Income(number, time, kind, amount, symbol, trade_id, info)
        self.ledger.append(row)
        return row

    def held(self) -> list[Position]:
        """Return the non-zero positions."""
        return [one for one in self.positions.values() if one.quantity]


@dataclass(frozen=True)
class Margin:
    """Margin figures of an account or a position, quote units."""

    unrealised: Decimal
    initial: Decimal
    order_initial: Decimal
    maintenance: Decimal


def view(position: Position, contract: Contract, mark: Decimal) -> PositionView:
    """Return a position at a mark price."""
    return PositionView(
        position.symbol,
        position.quantity,
        position.entry,
        mark,
        position.unrealised(mark),
        position.realised,
        position.isolated,
        position.isolated_wallet,
        contract.maintenance(abs(position.quantity) * mark),
        position.leverage,
    )


def margin(position: Position, contract: Contract, mark: Decimal, orders: list[Order]) -> Margin:
    """Return the margin of a position and its open orders at a mark price.

    With open buys B and sells S beside a position of notional N, the initial margin is max(|N + B|, |N - S|) / leverage. Reduce-only orders
    need none.
    """
    notional = position.quantity * mark
    buys = sells = ZERO
    for order in orders:
        if order.reduce_only:
            continue
        value = order.left * (order.price or mark)
        if order.side == BUY:
            buys += value
        else:
            sells += value
    own = abs(notional) / position.leverage
    total = max(abs(notional + buys), abs(notional - sells), abs(notional)) / position.leverage
    return Margin(position.unrealised(mark), own, total - own, contract.maintenance(abs(notional)))


def liquidated_at(position: Position, contract: Contract, mark: Decimal, collateral: Decimal) -> Decimal | None:
    """Return the liquidation price (mark price) of a position. None without a position or without such a positive price.

    Args:
        collateral: For an isolated position its wallet. For cross margin the cross wallet plus the unrealised profit of the other
            positions, minus their maintenance margin.
    """
    quantity = position.quantity
    if not quantity:
        return None
    bracket = contract.bracket(abs(quantity) * mark)
    below = abs(quantity) * bracket.rate - quantity
    price = (collateral + bracket.deduction - position.cost) / below
    return price if price > 0 else None

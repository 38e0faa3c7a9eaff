"""Orders, fills and events of the simulated exchange. Pure data; times are ms UTC of the exchange."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal

from producers.simulated.exchange.core.rules import ZERO

BUY, SELL = "BUY", "SELL"
OPEN_STATES = frozenset(("NEW", "PARTIALLY_FILLED"))
CONDITIONAL_TYPES = frozenset(("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"))
# Reason for the end of an order without a request (the venue's numbers of ``er``).
EXPIRED_IOC, EXPIRED_REDUCE_ONLY, EXPIRED_LIQUIDATION, EXPIRED_DELISTED, EXPIRED_MARKET = 2, 4, 5, 7, 9


def sign(side: str) -> int:
    """Return +1 for BUY, -1 for SELL."""
    return 1 if side == BUY else -1


@dataclass(frozen=True)
class NewOrder:
    """A client's order request. ``type`` MARKET or LIMIT; ``tif`` GTC, IOC, FOK, GTX or GTD (with ``good_till``, ms)."""

    symbol: str
    side: str
    type: str
    quantity: Decimal
    price: Decimal | None = None
    tif: str = "GTC"
    reduce_only: bool = False
    client_id: str | None = None
    position_side: str = "BOTH"
    good_till: int = 0


@dataclass(frozen=True)
class NewConditional:
    """A conditional order: ``type`` of ``CONDITIONAL_TYPES``; ``working`` MARK_PRICE or CONTRACT_PRICE is the price that triggers it.

    Attributes:
        quantity: 0 with ``close_position``.
        activation, callback: For a trailing stop: price at which it starts (None: at once), and distance in per cent.
    """

    symbol: str
    side: str
    type: str
    quantity: Decimal = ZERO
    trigger: Decimal | None = None
    price: Decimal | None = None
    tif: str = "GTC"
    reduce_only: bool = False
    close_position: bool = False
    working: str = "CONTRACT_PRICE"
    client_id: str | None = None
    position_side: str = "BOTH"
    activation: Decimal | None = None
    callback: Decimal | None = None


@dataclass
class Order:
    """An order in the matching engine.

    Attributes:
        quote: Sum of price x quantity of its fills. ahead: Quantity before it at its level (queue model ``volume``). original: Type as
        first sent; for a triggered order that of the conditional order. expired: Reason of its expiry (``er``), 0 without one. note: The
        venue's text for it, if any. algo: Id of its conditional order. listed: Id of its order list.
    """

    id: int
    account: str
    symbol: str
    side: str
    type: str
    tif: str
    quantity: Decimal
    price: Decimal
    reduce_only: bool
    client_id: str
    created: int
    updated: int
    original: str
    good_till: int = 0
    trigger: Decimal = ZERO
    working: str = "CONTRACT_PRICE"
    close_position: bool = False
    status: str = "NEW"
    filled: Decimal = ZERO
    quote: Decimal = ZERO
    ahead: Decimal = field(default=ZERO, compare=False)
    expired: int = 0
    note: str = ""
    algo: int | None = None
    listed: int | None = None

    @property
    def left(self) -> Decimal:
        """Quantity that is not filled yet."""
        return self.quantity - self.filled

    @property
    def average(self) -> Decimal:
        """Mean price of its fills; 0 without fills."""
        return self.quote / self.filled if self.filled else ZERO

    @property
    def open(self) -> bool:
        """Whether it can still be filled."""
        return self.status in OPEN_STATES

    def copy(self) -> Order:
        """Return its present state."""
        return replace(self)


@dataclass
class Conditional:
    """A conditional order. It is outside the matching engine until its trigger.

    Attributes:
        status: NEW, CANCELED, TRIGGERING, TRIGGERED, FINISHED, REJECTED or EXPIRED.
        order: Its order after the trigger. extreme: Best price since the activation of a trailing stop. failed: Reason of its rejection.
    """

    id: int
    account: str
    symbol: str
    side: str
    type: str
    tif: str
    quantity: Decimal
    trigger: Decimal
    price: Decimal
    reduce_only: bool
    close_position: bool
    working: str
    client_id: str
    created: int
    updated: int
    activation: Decimal | None = None
    callback: Decimal | None = None
    extreme: Decimal | None = None
    status: str = "NEW"
    triggered: int = 0
    order: Order | None = None
    failed: str = ""

    @property
    def open(self) -> bool:
        """Whether it still waits for its trigger."""
        return self.status == "NEW"

    def hit(self, price: Decimal) -> bool:
        """Return whether a price triggers it."""
        stop = self.type in ("STOP", "STOP_MARKET")
        above = (self.side == BUY) == stop
        return price >= self.trigger if above else price <= self.trigger

    def copy(self) -> Conditional:
        """Return its present state."""
        return replace(self, order=self.order.copy() if self.order is not None else None)


@dataclass(frozen=True)
class Fill:
    """An execution. ``realised`` and ``fee`` in quote units (``fee_asset`` names another), already booked; ``kind`` ORDER, LIQUIDATION, ADL or
    SETTLEMENT."""

    trade_id: int
    order_id: int
    account: str
    symbol: str
    side: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    realised: Decimal
    maker: bool
    time: int
    kind: str = "ORDER"
    fee_asset: str = ""


@dataclass(frozen=True)
class PositionView:
    """A position at an instant; see ``account.Position``."""

    symbol: str
    quantity: Decimal
    entry: Decimal
    mark: Decimal
    unrealised: Decimal
    realised: Decimal
    isolated: bool
    isolated_wallet: Decimal
    maintenance: Decimal
    leverage: int


@dataclass(frozen=True)
class OrderChanged:
    """An order was accepted, filled or ended. ``execution`` NEW, TRADE, CANCELED, EXPIRED or CALCULATED."""

    account: str
    time: int
    order: Order
    execution: str
    fill: Fill | None = None


@dataclass(frozen=True)
class ConditionalChanged:
    """A conditional order changed its status."""

    account: str
    time: int
    conditional: Conditional


@dataclass(frozen=True)
class AccountChanged:
    """Balance or a position changed. ``change``: Change of the wallet, other than by trading."""

    account: str
    time: int
    reason: str
    wallet: Decimal
    cross_wallet: Decimal
    change: Decimal
    positions: tuple[PositionView, ...]


@dataclass(frozen=True)
class LeverageChanged:
    """The leverage of an instrument was set."""

    account: str
    time: int
    symbol: str
    leverage: int


@dataclass(frozen=True)
class MarginCalled:
    """The margin is nearly used up."""

    account: str
    time: int
    cross_wallet: Decimal
    positions: tuple[PositionView, ...]


@dataclass(frozen=True)
class ListChanged:
    """A list of orders began or ended. ``done``: none of its orders is open; ``orders``: (order id, client id) of its orders."""

    account: str
    time: int
    symbol: str
    id: int
    client_id: str
    done: bool
    orders: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class BalancesChanged:
    """Balances of a spot account changed: (asset, free, locked)."""

    account: str
    time: int
    balances: tuple[tuple[str, Decimal, Decimal], ...]


Event = OrderChanged | ListChanged | BalancesChanged | ConditionalChanged | AccountChanged | LeverageChanged | MarginCalled


@dataclass(frozen=True)
class Income:
    """A booking of the wallet: TRANSFER, REALIZED_PNL, COMMISSION, FUNDING_FEE or INSURANCE_CLEAR; ``amount`` > 0 is received."""

    id: int
    time: int
    type: str
    amount: Decimal
    symbol: str = ""
    trade_id: int | None = None
    info: str = ""

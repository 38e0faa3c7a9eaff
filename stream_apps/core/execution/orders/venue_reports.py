"""Requests to a trading venue and its reports, in one form for all venues.

Quantities are base units and prices are quote units, both ``Decimal`` exactly as the venue wrote them. Times are ms UTC of the venue's clock unless stated
otherwise. ``symbol`` is the venue's; ``instrument`` ids exist only inside perpflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Side(StrEnum):
    """Side of an order."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        """The other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """Order types of every venue adapter. A STOP_MARKET rests at the venue and becomes a market order at its trigger price."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP_MARKET = "STOP_MARKET"


class TimeInForce(StrEnum):
    """GTC rests; POST_ONLY rests or is rejected (Binance GTX, Bybit PostOnly); IOC takes available liquidity and ends."""

    GTC = "GTC"
    POST_ONLY = "POST_ONLY"
    IOC = "IOC"


class VenueStatus(StrEnum):
    """State of an order at the venue. TRIGGERED: a conditional order became a market order; its fills have the same client id."""

    NEW = "NEW"
    TRIGGERED = "TRIGGERED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"

    @property
    def is_final(self) -> bool:
        """True when the order can no longer fill."""
        return self in _FINAL


_FINAL = frozenset((VenueStatus.FILLED, VenueStatus.CANCELED, VenueStatus.EXPIRED, VenueStatus.REJECTED))


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order to be sent, already rounded to the instrument's rules.

    Attributes:
        client_order_id: A function of signal, leg and attempt, so that a repeat is recognised (at most 36 of ``A-Za-z0-9._:/-``).
        price: Limit price; None for MARKET and STOP_MARKET.
        trigger_price: Trigger of a STOP_MARKET, by mark price unless ``trigger_by_last``.
        reduce_only: The venue must reject or reduce an order that would open or reverse a position.
    """

    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    time_in_force: TimeInForce | None = None
    reduce_only: bool = False
    trigger_by_last: bool = False


@dataclass(frozen=True, slots=True)
class PairRequest:
    """Two orders, each of which cancels the other (OCO): a resting target and a stop of one symbol, side and quantity.

    Attributes:
        client_list_id: Id of the pair; its orders have their own client ids.
    """

    client_list_id: str
    target: OrderRequest
    stop: OrderRequest


@dataclass(frozen=True, slots=True)
class OrderReport:
    """State of an order from a response, a query or the user stream; these arrive in any order and may repeat.

    Attributes:
        client_order_id: The id from the request; for foreign orders the venue's value.
        venue_order_id: As text; a conditional order and the resulting order may have different ids.
        filled: Executed quantity.
        average_price: Average price of the executed quantity; None without one.
        updated_at: Time of this state at the venue, ms; older reports change nothing.
        reason: The venue's reason for a rejection or expiry.
    """

    client_order_id: str
    venue_order_id: str
    symbol: str
    side: Side
    type: OrderType
    status: VenueStatus
    quantity: Decimal
    filled: Decimal
    average_price: Decimal | None
    price: Decimal | None
    trigger_price: Decimal | None
    reduce_only: bool
    updated_at: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FillReport:
    """One execution of an order. (venue, symbol, trade_id) identifies it; it may be reported more than once.

    Attributes:
        fee: Paid in ``fee_asset``; negative is a rebate.
        liquidity: ``maker`` or ``taker``.
        realised: The venue's realised profit of this fill, quote units; None if it does not report it.
        order_type: Type of the order; ``LIQUIDATION`` or ``ADL`` if the venue closed the position.
    """

    symbol: str
    trade_id: int
    client_order_id: str
    venue_order_id: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_asset: str
    liquidity: str
    time: int
    realised: Decimal | None = None
    order_type: str = ""


@dataclass(frozen=True, slots=True)
class PositionReport:
    """A position at the venue, one-way mode.

    Attributes:
        quantity: Signed, positive long; 0 for none.
        mark_price: None if the venue did not report it.
        isolated_wallet: Isolated margin; None under cross margin.
    """

    symbol: str
    quantity: Decimal
    entry_price: Decimal
    mark_price: Decimal | None
    unrealised: Decimal
    leverage: int
    isolated_wallet: Decimal | None
    liquidation_price: Decimal | None
    updated_at: int


@dataclass(frozen=True, slots=True)
class BalanceReport:
    """Balance of one asset: the wallet without unrealised profit, and the part available for new orders."""

    asset: str
    wallet: Decimal
    available: Decimal


@dataclass(frozen=True, slots=True)
class FundingReport:
    """A booked funding payment. ``paid`` is a cost when positive (platform-services R002-85)."""

    symbol: str
    paid: Decimal
    asset: str
    time: int
    payment_id: str


@dataclass(frozen=True, slots=True)
class InstrumentRules:
    """The venue's order rules of an instrument.

    Attributes:
        tick: Price step. ``lot``: quantity step of limit orders; ``market_lot``: of market and stop orders.
        min_quantity, max_quantity: Limits of limit orders; ``market_max_quantity``: of market and stop orders.
        min_notional: Least price x quantity; reduce-only orders are exempt.
        trading: False while the venue accepts no orders.
        pairs: The venue accepts one-cancels-the-other pairs (spot). ``stops``: it accepts stop orders.
    """

    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    market_lot: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    market_max_quantity: Decimal
    min_notional: Decimal
    trading: bool = True
    pairs: bool = False
    stops: bool = True


@dataclass(frozen=True, slots=True)
class AccountPermissions:
    """Permissions of an API key and settings of the account, for preflight (DECISIONS D24).

    Attributes:
        can_trade, can_withdraw: Permissions of the key; None if the venue does not say (testnets).
        one_way: Position mode; False in hedge mode.
        ip_restricted: Whether the key is bound to addresses; None if the venue does not say.
        can_transfer: Whether the key may move money between its owner's wallets; None if the venue does not say.
    """

    can_trade: bool | None
    can_withdraw: bool | None
    one_way: bool
    ip_restricted: bool | None = None
    can_transfer: bool | None = None


@dataclass(frozen=True, slots=True)
class StreamReady:
    """The user stream is open. Earlier events may be missing and must be queried."""


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The user stream is down; ``reason`` says why."""

    reason: str


UserEvent = OrderReport | FillReport | PositionReport | BalanceReport | FundingReport | StreamReady | StreamLost

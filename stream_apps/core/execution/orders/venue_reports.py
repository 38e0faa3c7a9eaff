"""What a trading venue says and is asked, in one vocabulary for all venues.

Quantities are base units, prices quote units, both ``Decimal`` exactly as the venue wrote them; times are ms UTC of the venue unless said
otherwise. ``symbol`` is the venue's own; ``instrument`` ids exist only inside perpflow.
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
    """Types that every venue adapter must offer. A STOP_MARKET rests at the venue and becomes a market order when its trigger is touched."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP_MARKET = "STOP_MARKET"


class TimeInForce(StrEnum):
    """GTC rests; POST_ONLY rests or is refused (Binance GTX, Bybit PostOnly); IOC takes what is there and ends."""

    GTC = "GTC"
    POST_ONLY = "POST_ONLY"
    IOC = "IOC"


class VenueStatus(StrEnum):
    """State of an order at the venue. TRIGGERED: a conditional order became a market order, whose fills follow under the same client id."""

    NEW = "NEW"
    TRIGGERED = "TRIGGERED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"

    @property
    def is_final(self) -> bool:
        """True when nothing can be filled any more."""
        return self in _FINAL


_FINAL = frozenset((VenueStatus.FILLED, VenueStatus.CANCELED, VenueStatus.EXPIRED, VenueStatus.REJECTED))


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order to be sent, already rounded to the instrument's rules.

    Attributes:
        client_order_id: Ours; a function of signal, leg and attempt, so that a resend is recognised (at most 36 of ``A-Za-z0-9._:/-``).
        price: Limit price; None for MARKET and STOP_MARKET.
        trigger_price: Of a STOP_MARKET, by mark price unless ``trigger_by_last``.
        reduce_only: The venue must refuse or shrink what would open or turn a position.
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
    """Two orders of which each ends the other (OCO): a target that rests and a stop, of one symbol, side and quantity.

    Attributes:
        client_list_id: Of the pair; its orders have client ids of their own.
    """

    client_list_id: str
    target: OrderRequest
    stop: OrderRequest


@dataclass(frozen=True, slots=True)
class OrderReport:
    """State of an order as the venue tells it, by response, query or user stream; the three may come in any order and more than once.

    Attributes:
        client_order_id: The id it was sent with; of orders that are not ours whatever the venue has.
        venue_order_id: As text; ids of conditional orders and of the orders that they become may differ.
        filled: Executed so far.
        average_price: Of what is filled; None while nothing is.
        updated_at: Time of this state at the venue, ms; older reports change nothing.
        reason: The venue's words where it refused or expired the order.
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
    """One execution of one of our orders. (venue, symbol, trade_id) names it for ever; it may be told more than once.

    Attributes:
        fee: Paid in ``fee_asset``; negative is a rebate.
        liquidity: ``maker`` or ``taker``.
        realised: The venue's own realised profit of this fill, quote units; None where it does not say.
        order_type: Of the order; ``LIQUIDATION`` or ``ADL`` where the venue closed the position by itself.
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
    """A position as the venue has it, one-way mode.

    Attributes:
        quantity: Signed, positive long; 0 for none.
        mark_price: None where the venue did not tell it.
        isolated_wallet: Margin set aside, None under cross margin.
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
    """Money of one asset: the wallet without unrealised profit, and what new orders may use."""

    asset: str
    wallet: Decimal
    available: Decimal


@dataclass(frozen=True, slots=True)
class FundingReport:
    """A funding payment that was booked. ``paid`` is a cost when positive (platform-services R002-85)."""

    symbol: str
    paid: Decimal
    asset: str
    time: int
    payment_id: str


@dataclass(frozen=True, slots=True)
class InstrumentRules:
    """What the venue accepts for an instrument.

    Attributes:
        tick: Step of prices. ``lot``: step of quantities of limit orders; ``market_lot`` of market and stop orders.
        min_quantity, max_quantity: Of limit orders; ``market_max_quantity`` of market and stop orders.
        min_notional: price x quantity at least; reduce-only orders are excused.
        trading: False while the venue takes no orders for it.
        pairs: The venue takes one-cancels-the-other pairs for it (spot). ``stops``: it takes stop orders for it.
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
    """What preflight asks about the key and the account (DECISIONS D24).

    Attributes:
        can_trade, can_withdraw: Of the key; None where the venue does not tell (testnets).
        one_way: Position mode; False in hedge mode.
        ip_restricted: Whether the key is bound to addresses; None where the venue does not tell.
        can_transfer: Whether the key may move money between the wallets of its owner; None where the venue does not tell.
    """

    can_trade: bool | None
    can_withdraw: bool | None
    one_way: bool
    ip_restricted: bool | None = None
    can_transfer: bool | None = None


@dataclass(frozen=True, slots=True)
class StreamReady:
    """The user stream is up: what happened before may be missing and must be asked for."""


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The user stream is down; ``reason`` says why."""

    reason: str


UserEvent = OrderReport | FillReport | PositionReport | BalanceReport | FundingReport | StreamReady | StreamLost

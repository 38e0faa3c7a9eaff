"""The rules of an instrument, and the reasons of refusals. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto

ZERO = Decimal(0)
# Step of booked amounts, as at the venue.
MONEY = Decimal("0.00000001")


class Reason(Enum):
    """Reason of a refusal. A dialect maps each to its code and text."""

    UNKNOWN_SYMBOL = auto()
    NOT_TRADING = auto()
    QUANTITY_NOT_POSITIVE = auto()
    QUANTITY_TOO_SMALL = auto()
    QUANTITY_TOO_LARGE = auto()
    QUANTITY_STEP = auto()
    PRECISION = auto()
    PRICE_NOT_POSITIVE = auto()
    PRICE_TOO_SMALL = auto()
    PRICE_TOO_LARGE = auto()
    PRICE_STEP = auto()
    PRICE_ABOVE_BAND = auto()
    PRICE_BELOW_BAND = auto()
    COUNTERPARTY_BAND = auto()
    MIN_NOTIONAL = auto()
    CLIENT_ID_FORM = auto()
    CLIENT_ID_TAKEN = auto()
    POSITION_SIDE = auto()
    REDUCE_ONLY = auto()
    MARGIN = auto()
    LEVERAGE_POSITION = auto()
    TOO_MANY_ORDERS = auto()
    TOO_MANY_CONDITIONAL = auto()
    POST_ONLY = auto()
    FILL_OR_KILL = auto()
    WOULD_TRIGGER = auto()
    CLOSE_POSITION_TAKEN = auto()
    NOTHING_TO_CLOSE = auto()
    CONDITIONAL_ELSEWHERE = auto()
    UNKNOWN_ORDER = auto()
    ORDER_NOT_FOUND = auto()
    LEVERAGE = auto()
    MARGIN_MODE_SAME = auto()
    MARGIN_MODE_ORDERS = auto()
    MARGIN_MODE_POSITION = auto()
    POSITION_MODE_SAME = auto()
    POSITION_MODE_ORDERS = auto()
    POSITION_MODE_POSITION = auto()
    PARAMETER = auto()
    MISSING = auto()
    LIST_PRICES = auto()
    LISTS_NOT_SUPPORTED = auto()


# Reasons of spot exchanges only.
SPOT_REASONS = frozenset((Reason.LIST_PRICES, Reason.LISTS_NOT_SUPPORTED))


class Refusal(Exception):
    """A request was refused and changed nothing.

    Attributes:
        reason: The broken rule. detail: A name or figure for the dialect's text.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.name.lower()} {detail}".strip())
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Bracket:
    """Maintenance margin of notionals up to ``cap`` (quote units): ``rate`` x notional - ``deduction``, at most ``leverage``."""

    floor: Decimal
    cap: Decimal
    leverage: int
    rate: Decimal
    deduction: Decimal


def brackets(*rows: tuple[str, int, str]) -> tuple[Bracket, ...]:
    """Return brackets of (cap, leverage, rate) rows; the deduction makes the margin continuous between them."""
    found: list[Bracket] = []
    floor, deduction, before = ZERO, ZERO, ZERO
    for cap, leverage, rate in rows:
        deduction += floor * (Decimal(rate) - before)
        found.append(Bracket(floor, Decimal(cap), leverage, Decimal(rate), deduction))
        floor, before = Decimal(cap), Decimal(rate)
    return tuple(found)


# Like the venue's BTCUSDT table, whose figures change over time.
BRACKETS = brackets(
    ("300000", 125, "0.004"),
    ("800000", 100, "0.005"),
    ("3000000", 75, "0.0065"),
    ("12000000", 50, "0.01"),
    ("70000000", 25, "0.02"),
    ("100000000", 20, "0.025"),
    ("1000000000", 5, "0.1"),
)


@dataclass(frozen=True)
class Contract:
    """Rules of an instrument. Prices in quote units, quantities in base units, both Decimal.

    Attributes:
        tick, lot, market_lot: Steps of prices, of quantities, of quantities of market orders.
        min_notional: Smallest price x quantity, except for reduce-only orders.
        multiplier_up, multiplier_down: Furthest price of an order from the mark price, as its multiple (PERCENT_PRICE).
        max_orders, max_conditional: Most open ones of an account in this instrument. liquidation_fee: Fee of a liquidation besides the
        taker fee, share of the notional. lists: Order lists (OCO) are accepted; spot only.
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
    price_decimals: int
    quantity_decimals: int
    min_price: Decimal
    max_price: Decimal
    multiplier_up: Decimal = Decimal("1.05")
    multiplier_down: Decimal = Decimal("0.95")
    max_orders: int = 200
    max_conditional: int = 200
    liquidation_fee: Decimal = Decimal("0.0125")
    brackets: tuple[Bracket, ...] = BRACKETS
    lists: bool = True

    @classmethod
    def of(
        cls,
        symbol: str,
        tick: str,
        lot: str,
        *,
        base: str = "",
        quote: str = "USDT",
        min_notional: str = "5",
        price_decimals: int | None = None,
    ) -> Contract:
        """Return a contract with usual limits around its steps."""
        step, quantum = Decimal(tick), Decimal(lot)
        return cls(
            symbol=symbol,
            base=base or symbol.removesuffix(quote),
            quote=quote,
            tick=step,
            lot=quantum,
            market_lot=quantum,
            min_quantity=quantum,
            max_quantity=quantum * 1_000_000,
            market_max_quantity=quantum * 120_000,
            min_notional=Decimal(min_notional),
            price_decimals=places(step) if price_decimals is None else price_decimals,
            quantity_decimals=places(quantum),
            min_price=step,
            max_price=step * 100_000_000,
        )

    def check_price(self, price: Decimal, name: str = "price") -> None:
        """Raise Refusal when a price of a limit order breaks the filters."""
        if price <= 0:
            raise Refusal(Reason.PRICE_NOT_POSITIVE, name)
        if places(price) > self.price_decimals:
            raise Refusal(Reason.PRECISION, name)
        if price > self.max_price:
            raise Refusal(Reason.PRICE_TOO_LARGE, text(self.max_price))
        if price < self.min_price:
            raise Refusal(Reason.PRICE_TOO_SMALL, text(self.min_price))
        if price % self.tick:
            raise Refusal(Reason.PRICE_STEP, text(self.tick))

    def check_quantity(self, quantity: Decimal, market: bool) -> None:
        """Raise Refusal when a quantity breaks the filters."""
        if quantity <= 0:
            raise Refusal(Reason.QUANTITY_NOT_POSITIVE)
        if places(quantity) > self.quantity_decimals:
            raise Refusal(Reason.PRECISION, "quantity")
        if quantity < self.min_quantity:
            raise Refusal(Reason.QUANTITY_TOO_SMALL)
        if quantity > (self.market_max_quantity if market else self.max_quantity):
            raise Refusal(Reason.QUANTITY_TOO_LARGE)
        if quantity % (self.market_lot if market else self.lot):
            raise Refusal(Reason.QUANTITY_STEP)

    def bracket(self, notional: Decimal) -> Bracket:
        """Return the bracket of a position's notional, quote units."""
        return next((one for one in self.brackets if notional <= one.cap), self.brackets[-1])

    def maintenance(self, notional: Decimal) -> Decimal:
        """Return the maintenance margin of a position's notional, quote units."""
        one = self.bracket(notional)
        return notional * one.rate - one.deduction


def places(number: Decimal) -> int:
    """Return the number of decimals, without trailing zeros."""
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def text(number: Decimal) -> str:
    """Return a number as plain decimal text without trailing zeros."""
    if not number:
        return "0"
    return format(number.normalize(), "f")


def money(amount: Decimal) -> Decimal:
    """Return an amount rounded to the step of bookings (half even)."""
    return amount.quantize(MONEY)

"""Error codes and texts of Binance spot. Source: "Errors" of its documents."""

from __future__ import annotations

from producers.simulated.exchange.core.rules import Reason, Refusal
from producers.simulated.wire.protocol import VenueError

REJECTED, FILTER = -2010, -1013
CODES: dict[Reason, tuple[int, str]] = {
    Reason.UNKNOWN_SYMBOL: (-1121, "Invalid symbol."),
    Reason.NOT_TRADING: (FILTER, "Market is closed."),
    Reason.QUANTITY_NOT_POSITIVE: (FILTER, "Invalid quantity."),
    Reason.QUANTITY_TOO_SMALL: (FILTER, "Filter failure: LOT_SIZE"),
    Reason.QUANTITY_TOO_LARGE: (FILTER, "Filter failure: LOT_SIZE"),
    Reason.QUANTITY_STEP: (FILTER, "Filter failure: LOT_SIZE"),
    Reason.PRECISION: (-1111, "Parameter '{}' has too much precision."),
    Reason.PRICE_NOT_POSITIVE: (FILTER, "Invalid price."),
    Reason.PRICE_TOO_SMALL: (FILTER, "Filter failure: PRICE_FILTER"),
    Reason.PRICE_TOO_LARGE: (FILTER, "Filter failure: PRICE_FILTER"),
    Reason.PRICE_STEP: (FILTER, "Filter failure: PRICE_FILTER"),
    Reason.PRICE_ABOVE_BAND: (FILTER, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    Reason.PRICE_BELOW_BAND: (FILTER, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    Reason.MIN_NOTIONAL: (FILTER, "Filter failure: NOTIONAL"),
    Reason.TOO_MANY_ORDERS: (FILTER, "Filter failure: MAX_NUM_ORDERS"),
    Reason.CLIENT_ID_FORM: (-1100, "Illegal characters found in parameter 'newClientOrderId'; legal range is '^[a-zA-Z0-9-_]{1,36}$'."),
    Reason.CLIENT_ID_TAKEN: (REJECTED, "Duplicate order sent."),
    Reason.MARGIN: (REJECTED, "Account has insufficient balance for requested action."),
    Reason.POST_ONLY: (REJECTED, "Order would immediately match and take."),
    Reason.FILL_OR_KILL: (REJECTED, "Order would not be filled at once."),
    Reason.WOULD_TRIGGER: (REJECTED, "Stop price would trigger immediately."),
    Reason.LIST_PRICES: (REJECTED, "The relationship of the prices for the orders is not correct."),
    Reason.LISTS_NOT_SUPPORTED: (REJECTED, "OCO orders are not supported for this symbol"),
    Reason.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
    Reason.ORDER_NOT_FOUND: (-2013, "Order does not exist."),
    Reason.PARAMETER: (-1130, "Data sent for parameter '{}' is not valid."),
    Reason.MISSING: (-1102, "Mandatory parameter '{}' was not sent, was empty/null, or malformed."),
}


def refused(refusal: Refusal) -> VenueError:
    """Return a refusal of the core as the venue's error."""
    code, words = CODES[refusal.reason]
    return VenueError(400, code, words.format(refusal.detail) if "{}" in words else words)

"""Error codes and texts of Binance USD-M. Source: "Error Code" of its documents; texts as the venue sends them."""

from __future__ import annotations

from producers.simulated.exchange.core.rules import Reason, Refusal
from producers.simulated.wire.protocol import VenueError

CODES: dict[Reason, tuple[int, str]] = {
    Reason.UNKNOWN_SYMBOL: (-1121, "Invalid symbol."),
    Reason.NOT_TRADING: (-4140, "Invalid symbol status for opening position."),
    Reason.QUANTITY_NOT_POSITIVE: (-4003, "Quantity less than or equal to zero."),
    Reason.QUANTITY_TOO_SMALL: (-4004, "Quantity less than min quantity."),
    Reason.QUANTITY_TOO_LARGE: (-4005, "Quantity greater than max quantity."),
    Reason.QUANTITY_STEP: (-4023, "Quantity not increased by step size."),
    Reason.PRECISION: (-1111, "Precision is over the maximum defined for this asset."),
    Reason.PRICE_NOT_POSITIVE: (-4001, "Price less than 0."),
    Reason.PRICE_TOO_SMALL: (-4013, "Price less than min price."),
    Reason.PRICE_TOO_LARGE: (-4002, "Price greater than max price."),
    Reason.PRICE_STEP: (-4014, "Price not increased by tick size."),
    Reason.PRICE_ABOVE_BAND: (-4016, "Limit price can't be higher than {}."),
    Reason.PRICE_BELOW_BAND: (-4024, "Limit price can't be lower than {}."),
    Reason.COUNTERPARTY_BAND: (-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit."),
    Reason.MIN_NOTIONAL: (-4164, "Order's notional must be no smaller than {} (unless you choose reduce only)."),
    Reason.CLIENT_ID_FORM: (-4015, "Client order id length should be less than 36 chars."),
    Reason.CLIENT_ID_TAKEN: (-4116, "ClientOrderId is duplicated."),
    Reason.POSITION_SIDE: (-4061, "Order's position side does not match user's setting."),
    Reason.REDUCE_ONLY: (-2022, "ReduceOnly Order is rejected."),
    Reason.MARGIN: (-2019, "Margin is insufficient."),
    Reason.LEVERAGE_POSITION: (-2027, "Exceeded the maximum allowable position at current leverage."),
    Reason.TOO_MANY_ORDERS: (-2025, "Reach max open order limit."),
    Reason.TOO_MANY_CONDITIONAL: (-4045, "Reach max stop order limit."),
    Reason.POST_ONLY: (
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected. "
        "The order will not be recorded in the order history",
    ),
    Reason.FILL_OR_KILL: (
        -5021,
        "Due to the order could not be filled immediately, the FOK order has been rejected. "
        "The order will not be recorded in the order history",
    ),
    Reason.WOULD_TRIGGER: (-2021, "Order would immediately trigger."),
    Reason.CLOSE_POSITION_TAKEN: (-4130, "An open stop or take profit order with GTE and closePosition in the direction is existing."),
    Reason.NOTHING_TO_CLOSE: (
        -4509,
        "Time in Force (TIF) GTE can only be used with open positions or open orders. Please ensure that positions are available.",
    ),
    Reason.CONDITIONAL_ELSEWHERE: (
        -4120,
        "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
    ),
    Reason.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
    Reason.ORDER_NOT_FOUND: (-2013, "Order does not exist."),
    Reason.LEVERAGE: (-4028, "Leverage {} is not valid"),
    Reason.MARGIN_MODE_SAME: (-4046, "No need to change margin type."),
    Reason.MARGIN_MODE_ORDERS: (-4047, "Margin type cannot be changed if there exists open orders."),
    Reason.MARGIN_MODE_POSITION: (-4048, "Margin type cannot be changed if there exists position."),
    Reason.POSITION_MODE_SAME: (-4059, "No need to change position side."),
    Reason.POSITION_MODE_ORDERS: (-4067, "Position side cannot be changed if there exists open orders."),
    Reason.POSITION_MODE_POSITION: (-4068, "Position side cannot be changed if there exists position."),
    Reason.PARAMETER: (-1130, "Data sent for parameter '{}' is not valid."),
    Reason.MISSING: (-1102, "Mandatory parameter '{}' was not sent, was empty/null, or malformed."),
}

# Not refusals: the outcome is unknown.
UNKNOWN_STATUS = (503, -1000, "Unknown error, please check your request or try again later.")
TIMEOUT = (408, -1007, "Timeout waiting for response from backend server. Send status unknown; execution status unknown.")
MAINTENANCE = (503, -1016, "This service is no longer available.")


def refused(refusal: Refusal) -> VenueError:
    """Return a refusal of the core as the venue's error."""
    code, words = CODES[refusal.reason]
    return VenueError(400, code, words.format(refusal.detail) if "{}" in words else words)


def missing(name: str) -> VenueError:
    """Return the error for a missing parameter."""
    return VenueError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def malformed(name: str) -> VenueError:
    """Return the error for an unreadable parameter."""
    return VenueError(400, -1130, f"Data sent for parameter '{name}' is not valid.")

"""All Binance USD-M endpoints for trading, and the execution of a call."""

from __future__ import annotations

from typing import Any

from producers.simulated.exchange.binance import errors
from producers.simulated.exchange.binance.accounts import ACCOUNT
from producers.simulated.exchange.binance.call import BinanceCall
from producers.simulated.exchange.binance.markets import MARKET, PUBLIC
from producers.simulated.exchange.binance.orders import ORDERS
from producers.simulated.exchange.core.rules import Refusal
from producers.simulated.exchange.session.call import Action, Call

TRADING = (*ORDERS, *ACCOUNT, *PUBLIC)
__all__ = ["MARKET", "TRADING", "Action", "Call", "verdict"]


def verdict(action: Action, call: Call) -> Any:
    """Execute a call. Raises VenueError."""
    try:
        return action.answer(BinanceCall(call.desk, call.query, call.now, call.key))
    except Refusal as refusal:
        raise errors.refused(refusal) from refusal

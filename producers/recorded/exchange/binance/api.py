"""All Binance USD-M endpoints for trading, and how a call ends."""

from __future__ import annotations

from typing import Any

from producers.recorded.exchange.binance import errors
from producers.recorded.exchange.binance.accounts import ACCOUNT
from producers.recorded.exchange.binance.call import BinanceCall
from producers.recorded.exchange.binance.markets import MARKET, PUBLIC
from producers.recorded.exchange.binance.orders import ORDERS
from producers.recorded.exchange.call import Action, Call
from producers.recorded.exchange.rules import Refusal

TRADING = (*ORDERS, *ACCOUNT, *PUBLIC)
__all__ = ["MARKET", "TRADING", "Action", "Call", "verdict"]


def verdict(action: Action, call: Call) -> Any:
    """Execute a call. Raises VenueError."""
    try:
        return action.answer(BinanceCall(call.desk, call.query, call.now, call.key))
    except Refusal as refusal:
        raise errors.refused(refusal) from refusal

"""Records of live execution. They have the paper model's fields, with the mode, the account's ids and the venue's values.

Ids begin with the account, because two accounts may execute one signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stream_apps.core.execution.orders.order import Order, OrderState
from stream_apps.core.execution.orders.venue_reports import TimeInForce
from stream_apps.core.execution.state.trade import BookedFill, Trade
from stream_apps.core.paper import records as paper_records

Record = dict[str, Any]

_STATUS = {
    OrderState.FILLED: "filled",
    OrderState.CANCELLED: "cancelled",
    OrderState.EXPIRED: "cancelled",
    OrderState.REJECTED: "rejected",
    OrderState.LOST: "rejected",
}


@dataclass(frozen=True, slots=True)
class Account:
    """A trading account.

    Attributes:
        mode: ``testnet``, ``live`` or ``simulated``.
        venue: First part of its instrument ids.
        name: The account id, VENUE-mode; prefix of the ids of its records.
        namespace: Topic prefix; separates environments that share an account.
        is_spot: The account holds coins: long only, no leverage, protected by order pairs (``exits/spot.py``).
    """

    mode: str
    venue: str
    name: str
    namespace: str = ""
    is_spot: bool = False

    @property
    def environment(self) -> str:
        """Text that, with the signal, determines the client order ids."""
        return f"{self.mode}|{self.venue}|{self.name}|{self.namespace}"

    def key(self, signal_id: str) -> str:
        """Return the position id of a signal."""
        return f"{self.name}|{signal_id}"


def symbol_of(instrument: str) -> str:
    """Return the venue's symbol of an instrument id: the part after the venue, without ``-PERP``."""
    return instrument.partition(":")[2].removesuffix("-PERP")


def status_of(order: Order) -> str:
    """Return the status of an order in the topic ``orders``."""
    return _STATUS.get(order.state) or ("partially_filled" if order.executed > 0 else "new")


def order_id(trade: Trade, order: Order) -> str:
    """Return ``account|signal_id|leg|attempt``."""
    return f"{trade.key}|{order.leg}|{order.attempt}"


def order_record(trade: Trade, order: Order, mode: str, now: int) -> Record:
    """Return the ``orders`` record of an order."""
    position = trade.position
    price = order.price if order.price is not None else order.trigger_price
    reason = order.reason or ("never arrived" if order.state is OrderState.LOST else None)
    return {
        "order_id": order_id(trade, order),
        "signal_id": position.flip_signal_id if order.leg == "flip" and position.flip_signal_id else position.signal_id,
        "instrument": position.instrument,
        "event_time": now,
        "receive_time": now,
        "strategy_id": position.strategy_id,
        "position_id": trade.key,
        "mode": mode,
        "leg": order.leg,
        "side": order.side.value,
        # A taker order with a price limit is a market order for readers; its price is the limit.
        "type": "MARKET" if order.time_in_force is TimeInForce.IOC else order.type.value,
        "price": None if price is None else float(price),
        "quantity": float(order.quantity),
        "reduce_only": order.reduce_only,
        "status": status_of(order),
        "reason": reason,
    }


def refused_order(signal: Record, quantity: float, reason: str, account: Account, now: int) -> Record:
    """Return the rejected entry order of a signal that is not executed."""
    refused = paper_records.refused_order(signal, quantity, reason, now)
    key = account.key(signal["signal_id"])
    return {**refused, "order_id": f"{key}|entry|1", "position_id": key, "mode": account.mode, "event_time": now}


def fill_record(trade: Trade, fill: BookedFill, order: Order, mode: str, now: int) -> Record:
    """Return the ``fills`` record of an execution. ``trade_agg_id`` is the venue's trade id; it is negative if the price is an estimate."""
    position = trade.position
    return {
        "fill_id": f"{order_id(trade, order)}|{fill.trade_id}",
        "order_id": order_id(trade, order),
        "instrument": position.instrument,
        "event_time": fill.time,
        "receive_time": now,
        "strategy_id": position.strategy_id,
        "position_id": trade.key,
        "mode": mode,
        "leg": fill.leg,
        "side": fill.side.value,
        "price": float(fill.price),
        "reference_price": float(fill.reference),
        "quantity": float(fill.quantity),
        "liquidity": fill.liquidity,
        "fee": float(fill.fee),
        "trade_agg_id": fill.trade_id,
        "price_estimated": fill.is_estimated,
    }


def position_record(trade: Trade, mode: str, now: int) -> Record:
    """Return the ``positions`` record of a trade."""
    return {**paper_records.position_state(trade.position, now, now), "position_id": trade.key, "mode": mode}


def closed_record(trade: Trade, mode: str, now: int) -> Record:
    """Return the ``trades_closed`` record of a trade; its time is that of the last fill."""
    last = max(fill.time for fill in trade.fills.values())
    return {
        **paper_records.trade_closed(trade.position, trade.exit_leg, last, now),
        "trade_id": trade.key,
        "mode": mode,
        "price_estimated": any(fill.is_estimated for fill in trade.fills.values()),
    }

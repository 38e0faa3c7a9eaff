"""Records that the paper model writes: orders, fills, positions, trades_closed. ``execution_cost`` makes the cost of a closed trade.

Ids are functions of the signal id, so a repeat is recognised.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from stream_apps.core.paper.position import Position

Record = dict[str, Any]
MODE = "paper"
# Topics that the model writes, cost events among them (``execution_cost``).
PAPER_TOPICS = ("orders", "fills", "positions", "trades_closed", "execution_cost_events")
# A paper order is sent once: a second attempt could not succeed where the first failed. Only a trailing stop has several, one for each move.
ATTEMPT = 1
ORDER_TYPES = {
    "entry": "MARKET",
    "tp1": "LIMIT",
    "tp2": "LIMIT",
    "stop": "STOP_MARKET",
    "break_even_stop": "STOP_MARKET",
    "trailing_stop": "STOP_MARKET",
    "timeout": "MARKET",
    "flip": "MARKET",
}


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def order_id(signal_id: str, leg: str, attempt: int = ATTEMPT) -> str:
    """Return ``signal_id|leg|attempt``."""
    return f"{signal_id}|{leg}|{attempt}"


def _order_of(position: Position, leg: str) -> str:
    return order_id(position.signal_id, leg, position.trail_moves if leg == "trailing_stop" else ATTEMPT)


def side(position: Position, leg: str) -> str:
    """Return BUY or SELL."""
    return "BUY" if (position.sign > 0) == (leg == "entry") else "SELL"


def order(
    position: Position, leg: str, status: str, quantity: Decimal, event_time: int, receive_time: int, reason: str | None = None
) -> Record:
    """Return the state of one of a position's orders."""
    price = position.stop_price if ORDER_TYPES[leg] == "STOP_MARKET" else {"tp1": position.tp1_price, "tp2": position.tp2_price}.get(leg)
    return {
        "order_id": _order_of(position, leg),
        "signal_id": position.flip_signal_id if leg == "flip" else position.signal_id,
        "instrument": position.instrument,
        "event_time": event_time,
        "receive_time": receive_time,
        "strategy_id": position.strategy_id,
        "position_id": position.signal_id,
        "mode": MODE,
        "leg": leg,
        "side": side(position, leg),
        "type": ORDER_TYPES[leg],
        "price": _number(price),
        "quantity": float(quantity),
        "reduce_only": leg != "entry",
        "status": status,
        "reason": reason,
    }


def refused_order(signal: Record, quantity: float, reason: str, receive_time: int) -> Record:
    """Return the rejected entry order of a refused signal."""
    return {
        "order_id": order_id(signal["signal_id"], "entry"),
        "signal_id": signal["signal_id"],
        "instrument": signal["instrument"],
        "event_time": signal["decided_at"],
        "receive_time": receive_time,
        "strategy_id": signal["strategy_id"],
        "position_id": signal["signal_id"],
        "mode": MODE,
        "leg": "entry",
        "side": "BUY" if signal["direction"] == "LONG" else "SELL",
        "type": ORDER_TYPES["entry"],
        "price": None,
        "quantity": quantity,
        "reduce_only": False,
        "status": "rejected",
        "reason": reason,
    }


def fill(
    position: Position,
    leg: str,
    *,
    price: Decimal,
    reference_price: Decimal,
    quantity: Decimal,
    liquidity: str,
    fee: Decimal,
    agg_id: int,
    event_time: int,
    receive_time: int,
) -> Record:
    """Return the one fill of an order: the model has no queue, so an order fills whole."""
    identity = _order_of(position, leg)
    return {
        "fill_id": f"{identity}|1",
        "order_id": identity,
        "instrument": position.instrument,
        "event_time": event_time,
        "receive_time": receive_time,
        "strategy_id": position.strategy_id,
        "position_id": position.signal_id,
        "mode": MODE,
        "leg": leg,
        "side": side(position, leg),
        "price": float(price),
        "reference_price": float(reference_price),
        "quantity": float(quantity),
        "liquidity": liquidity,
        "fee": float(fee),
        "trade_agg_id": agg_id,
        "price_estimated": False,
    }


def position_state(position: Position, event_time: int, receive_time: int) -> Record:
    """Return the newest state of a position."""
    return {
        "instrument": position.instrument,
        "event_time": event_time,
        "receive_time": receive_time,
        "strategy_id": position.strategy_id,
        "position_id": position.signal_id,
        "mode": MODE,
        "signal_id": position.signal_id,
        "status": position.status,
        "direction": position.direction,
        "tier": position.tier,
        "quantity": float(position.quantity),
        "open_quantity": float(position.open_quantity),
        "entry_time": position.entry_time,
        "entry_price": _number(position.entry_price),
        "risk_distance": float(position.risk_distance),
        "stop_price": _number(position.stop_price),
        "tp1_price": _number(position.tp1_price),
        "tp2_price": _number(position.tp2_price),
        "timeout_at": position.timeout_at,
        "realised_pnl": float(position.realised),
        "risk_amount": float(position.risk_amount),
        "risk_multiple": float(position.risk_multiple),
    }


def trade_closed(position: Position, exit_reason: str, event_time: int, receive_time: int) -> Record:
    """Return the closed round trip. R figures are money per unit of risk (1R x the tier's multiple)."""
    assert position.entry_time is not None and position.entry_price is not None
    risk = position.risk
    mfe, mae = position.excursions()
    return {
        "trade_id": position.signal_id,
        "signal_id": position.signal_id,
        "instrument": position.instrument,
        "event_time": event_time,
        "receive_time": receive_time,
        "strategy_id": position.strategy_id,
        "strategy_name": position.strategy_name,
        "config_revision": position.config_revision,
        "config_hash": position.config_hash,
        "mode": MODE,
        "direction": position.direction,
        "tier": position.tier,
        "regime": position.regime,
        "score": position.score,
        "signal_time": position.signal_time,
        "entry_time": position.entry_time,
        "entry_price": float(position.entry_price),
        "exit_price": float(position.exit_value / position.quantity),
        "exit_reason": exit_reason,
        "tp1_hit": position.tp1_time is not None,
        "quantity": float(position.quantity),
        "risk_distance": float(position.risk_distance),
        "risk_amount": float(position.risk_amount),
        "risk_multiple": float(position.risk_multiple),
        "gross_r": float(position.gross / risk),
        "fee_r": float(position.fees / risk),
        "funding_r": float(position.funding / risk),
        "slippage_r": float(position.slippage / risk),
        "net_r": float(position.realised / risk),
        "net_pnl": float(position.realised),
        "fees": float(position.fees),
        "funding": float(position.funding),
        "mfe_r": float(mfe),
        "mae_r": float(mae),
        "hold_ms": event_time - position.entry_time,
        "price_estimated": False,
    }

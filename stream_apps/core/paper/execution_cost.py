"""Execution cost of a paper trade: one ``execution_cost_events`` record for each closed trade, as live writes it (signal-engine-product 10.3)."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.paper.position import Position
from stream_apps.core.paper.records import MODE, Record

BPS = Decimal(10_000)


def _bps(slippage: Decimal, reference: Decimal) -> float | None:
    return float(slippage / reference * BPS) if reference else None


def execution_cost(position: Position, exit_reason: str, event_time: int, receive_time: int, latency_ms: int) -> Record:
    """Return the record of a closed paper position.

    Entry, stop, timeout and flip are market orders that fill whole at one trade. Targets are limits that rest at the venue and fill as maker.
    What a model cannot know is null: no order is sent, so no answer of a venue arrives at our clock.

    Args:
        position: A closed position.
        exit_reason: Leg that closed it.
        event_time: Time of the last fill, ms UTC.
        receive_time: Time of the step's mark, ms UTC.
        latency_ms: Time from the decision to the entry order at the venue.
    """
    assert position.entry_time is not None and position.entry_price is not None
    targets = position.tp1_time is not None
    return {
        "trade_id": position.signal_id,
        "instrument": position.instrument,
        "event_time": event_time,
        "receive_time": receive_time,
        "strategy_id": position.strategy_id,
        "mode": MODE,
        "direction": position.direction,
        "exit_reason": exit_reason,
        "notional": float(position.entry_price * position.quantity),
        "maker_ratio_entry": 0.0,
        "maker_ratio_tp": 1.0 if targets else None,
        "fees": float(position.fees),
        "fee_estimated": False,
        "slippage": float(position.slippage),
        "friction_r": float((position.fees + position.slippage) / position.risk) if position.risk else None,
        "slippage_bps_entry": _bps(position.entry_slippage, position.entry_reference),
        "slippage_bps_exit": _bps(position.slippage - position.entry_slippage, position.exit_reference),
        "entry_slices": 1,
        "entry_attempts": 1,
        "entry_fill_ratio": 1.0,
        "entry_timeout": False,
        "entry_abandoned": None,
        "tp_overshoot": 0,
        "flips": int(exit_reason == "flip"),
        "stops_placed": (2 if targets else 1) + position.trail_moves,
        "signal_to_order_ms": latency_ms,
        "order_to_fill_ms": None,
        "order_to_venue_fill_ms": position.entry_time - position.entry_at,
        "protection_gap_ms": 0,
    }

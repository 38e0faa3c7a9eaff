"""Execution cost of a trade: one ``execution_cost_events`` record for each closed trade (KPIs of signal-engine-product 10.3)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from stream_apps.core.execution.state.records import Record
from stream_apps.core.execution.state.trade import ENTRY_LEGS, STAND_INS, TARGET_LEGS, BookedFill, Trade

ZERO = Decimal(0)
BPS = Decimal(10_000)


def _quantity(fills: Iterable[BookedFill]) -> Decimal:
    return sum((fill.quantity for fill in fills), ZERO)


def _maker_ratio(fills: list[BookedFill]) -> float | None:
    total = _quantity(fills)
    return float(_quantity(fill for fill in fills if fill.liquidity == "maker") / total) if total else None


def slippage_bps(fills: list[BookedFill]) -> float | None:
    """Return the volume-weighted slippage of fills against their references in bps; positive is a cost on both sides. None without fills.

    slip = sum(side x (price - reference) x quantity) / sum(reference x quantity) x 10^4 (R002-64, its sign by side: Q002-6).
    """
    basis = sum((fill.reference * fill.quantity for fill in fills), ZERO)
    return float(sum((fill.slippage for fill in fills), ZERO) / basis * BPS) if basis else None


def cost_record(trade: Trade, mode: str, now: int, decided_at: int) -> Record:
    """Return the record of a closed trade.

    Args:
        trade: A closed trade with all executions booked.
        mode: Mode of the account.
        now: Wall ms.
        decided_at: The signal's.
    """
    position = trade.position
    fills = list(trade.fills.values())
    entries = [fill for fill in fills if fill.leg in ENTRY_LEGS]
    exits = [fill for fill in fills if fill.leg not in (*ENTRY_LEGS, *STAND_INS)]
    targets = [fill for fill in fills if fill.leg in TARGET_LEGS]
    firsts = [order for order in trade.of("entry") if not order.foreign]
    first = min(firsts, key=lambda order: order.attempt, default=None)
    sent = None if first is None else first.intended_at
    filled = min((order.filled_at for order in firsts if order.filled_at is not None), default=None)
    first_fill = min((fill.time for fill in entries), default=None)
    return {
        "trade_id": trade.key,
        "instrument": position.instrument,
        "event_time": max(fill.time for fill in fills),
        "receive_time": now,
        "strategy_id": position.strategy_id,
        "mode": mode,
        "direction": position.direction,
        "exit_reason": trade.exit_leg,
        "notional": float(sum((fill.price * fill.quantity for fill in entries), ZERO)),
        "maker_ratio_entry": _maker_ratio(entries),
        "maker_ratio_tp": _maker_ratio(targets),
        "fees": float(position.fees),
        "fee_estimated": any(fill.fee_estimated for fill in fills),
        "slippage": float(position.slippage),
        "friction_r": float((position.fees + position.slippage) / position.risk) if position.risk else None,
        "slippage_bps_entry": slippage_bps(entries),
        "slippage_bps_exit": slippage_bps(exits),
        "entry_slices": len(trade.entry.slices),
        "entry_attempts": len(firsts),
        "entry_fill_ratio": float(_quantity(entries) / trade.entry.target) if trade.entry.target else None,
        "entry_timeout": trade.entry.timed_out > 0,
        "entry_abandoned": trade.entry.abandoned,
        "tp_overshoot": trade.overshot,
        "flips": trade.flips,
        "stops_placed": sum(order.is_stop for order in trade.orders.values()),
        "signal_to_order_ms": None if sent is None else sent - decided_at,
        "order_to_fill_ms": None if sent is None or filled is None else filled - sent,
        "order_to_venue_fill_ms": None if sent is None or first_fill is None else first_fill - sent,
        "protection_gap_ms": trade.gap_ms,
    }

"""Take over a position that no signal explains, and write off a position that disappeared without a booked fill. Only the reconciler does this.

A missing quantity is first booked with the executions in the venue's list that explain it. The rest is booked at an estimated price and marked so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from stream_apps.core.execution.orders.order import Order, OrderState
from stream_apps.core.execution.orders.venue_reports import FillReport, OrderType, PositionReport, Side
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.entry_run import DONE, EntryRun
from stream_apps.core.execution.state.records import Account
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.paper.position import PENDING, Position

ZERO = Decimal(0)
STRATEGY = "reconciler"
TIMEOUT_MINUTES = 240


def orphan_trade(account: Account, report: PositionReport, policy: LivePolicy, *, now: int) -> Trade:
    """Return a trade for an orphan position: stop at ``reclaim_risk_bps`` of its entry price, targets at 1R and 2R, the usual timeout."""
    signal_id = f"orphan|{report.symbol}|{now}"
    distance = report.entry_price * policy.reconcile.reclaim_risk_bps / 10_000
    position = Position(
        signal_id=signal_id,
        instrument=f"{account.venue}:{report.symbol}-PERP",
        strategy_id=STRATEGY,
        strategy_name=STRATEGY,
        config_revision=0,
        config_hash="",
        direction="LONG" if report.quantity > 0 else "SHORT",
        tier="standard",
        regime="unknown",
        score=0.0,
        signal_time=now,
        entry_at=now,
        expires_at=now,
        timeout_minutes=TIMEOUT_MINUTES,
        tp1_ratio=Decimal(1),
        tp2_ratio=Decimal(2),
        risk_distance=distance,
        risk_amount=distance * abs(report.quantity),
        risk_multiple=Decimal(1),
        quantity=abs(report.quantity),
        status=PENDING,
    )
    run = EntryRun([abs(report.quantity)], [now], 0, False, now, stage=DONE)
    return Trade(position, account.key(signal_id), report.symbol, report.leverage or policy.sizing.leverage, now, run)


def unbooked_exits(trades: Iterable[Trade], trade: Trade, fills: Sequence[FillReport], missing: Decimal) -> list[FillReport]:
    """Return the executions that explain a trade's missing quantity: exits during the trade that are not booked, newest first.

    The last one may close more than is missing, if a person sold more than the trade held. Then only the missing part is returned.
    """
    booked = {trade_id for one in trades if one.symbol == trade.symbol for trade_id in one.fills}
    free = [
        one
        for one in fills
        if one.symbol == trade.symbol and one.trade_id not in booked and one.side is trade.exit_side and one.time >= trade.started_at
    ]
    found: list[FillReport] = []
    for fill in sorted(free, key=lambda one: (one.time, one.trade_id), reverse=True):
        part = min(fill.quantity, missing)
        if part <= 0:
            break
        found.append(replace(fill, quantity=part, fee=fill.fee * part / fill.quantity))
        missing -= part
    return found


def correction(trade: Trade, quantity: Decimal, price: Decimal, leg: str, quote_asset: str, now: int) -> tuple[Order, FillReport]:
    """Return an artificial order and fill that set a trade's quantity to the venue's. The trade id is negative, which no venue uses.

    Args:
        trade: The trade.
        quantity: Positive adds to the trade, negative reduces it.
        price: Booking price.
        leg: ``entry`` or ``vanished``.
        quote_asset: Quote asset of the instrument.
        now: Wall ms.
    """
    number = 1 + sum(fill < 0 for fill in trade.fills)
    side: Side = trade.entry_side if quantity > 0 else trade.exit_side
    client_id = f"correction-{number}"
    order = Order(
        client_id, leg, 1000 + number, trade.symbol, side, OrderType.MARKET, abs(quantity), None, None, None, quantity < 0, now, price
    )
    order.state, order.foreign = OrderState.FILLED, True
    fill = FillReport(trade.symbol, -number, client_id, "", side, price, abs(quantity), ZERO, quote_asset, "taker", now)
    return order, fill

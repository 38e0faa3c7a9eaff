"""Admission of a signal: budget check, size, and the resulting trade."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.entry.machine import start_run
from stream_apps.core.execution.entry.sizing import Size, over_budget, size_of
from stream_apps.core.execution.state.account_state import AccountState
from stream_apps.core.execution.state.quotes import mid_of
from stream_apps.core.execution.state.records import Record, symbol_of
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.paper.money import exact
from stream_apps.core.paper.position import PaperSettings, position_of

ZERO = Decimal(0)
# Largest part of a spot position that a fee in the bought coin and rounding may take.
FEE_ROOM = Decimal("0.01")


def room_for(book: AccountState, signal: Record, current: Trade | None, now: int) -> tuple[str | None, Size | None]:
    """Return why a new position is not admitted, or its size.

    Args:
        book: State of the account.
        signal: ``signals`` record.
        current: The trade that this signal closes; its budget becomes free.
        now: Wall ms.
    """
    symbol = symbol_of(signal["instrument"])
    blocked = book.entries_blocked(now)
    rules = book.rules.get(symbol)
    if blocked is not None:
        return blocked, None
    if book.policy.symbols is not None and symbol not in book.policy.symbols:
        return "symbol_not_allowed", None
    if rules is None or not rules.trading:
        return "not_tradable", None
    if any(one is not current for one in book.on_symbol(symbol)):
        return "symbol_busy", None
    newest = book.fresh_quote(symbol, now)
    price = mid_of(newest) if newest is not None else exact(signal["price"])
    if book.account.is_spot and signal["direction"] != "LONG":
        return "spot_long_only", None
    size = size_of(signal, price, rules, book.policy.sizing, book.guard.size_factor if book.guard is not None else Decimal(1))
    if size.refusal is not None:
        return size.refusal, size
    if book.account.is_spot and size.quantity * (price - size.risk_distance) * (1 - FEE_ROOM) < rules.min_notional:
        # The least notional also applies to exits on spot, so the value at the stop must reach it.
        return "below_minimum", size
    others = [one for one in book.active if one is not current]
    if book.account.is_spot:
        spent = sum((notional_of(one) for one in others), ZERO)
        return over_budget(size.quantity * price, 1, book.policy.budget, len(others), ZERO, spot_used=spent), size
    margin = sum((notional_of(one) / one.leverage for one in others), ZERO)
    return over_budget(size.quantity * price, book.policy.sizing.leverage, book.policy.budget, len(others), margin), size


def open_trade(book: AccountState, key: str, signal: Record, size: Size, now: int, *, queued: bool) -> Trade:
    """Return the pending trade of an admitted signal; ``queued`` behind the trade that it flips."""
    symbol, policy, price = symbol_of(signal["instrument"]), book.policy, exact(signal["price"])
    rules = book.rules[symbol]
    position = position_of(signal, PaperSettings(latency_ms=0, entry_expiry_ms=policy.entry.expiry_ms))
    position.quantity, position.risk_amount, position.risk_distance = size.quantity, size.risk_amount, size.risk_distance
    run = start_run(
        signal["signal_id"],
        size.quantity,
        price,
        max(rules.lot, rules.market_lot),
        max(rules.min_quantity, rules.min_notional / price),
        now,
        policy.entry,
        no_maker=book.guard is not None and not book.guard.allow_maker,
        no_slices=book.guard is not None and not book.guard.allow_slices,
    )
    return Trade(position, key, symbol, 1 if book.account.is_spot else policy.sizing.leverage, now, run, queued=queued)


def notional_of(trade: Trade) -> Decimal:
    """Return the notional of a trade, held or still planned, quote units."""
    price = trade.average_entry or trade.entry.reference or trade.position.entry_price
    quantity = max(trade.exposure, trade.position.quantity if not trade.entry.is_done else ZERO)
    return quantity * price if price is not None else ZERO

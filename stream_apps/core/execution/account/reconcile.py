"""Compare the journal with the venue in both directions. Pure: snapshots in, findings with their actions out.

The caller first loads all fills of the symbols, because a missed fill explains most differences. Then it loads the snapshot and compares, twice. It acts
only on findings of both comparisons, so an execution between two answers is no finding.

**Orders.** An order of this account that the journal does not have, or that ended there, is cancelled (D26). If the journal only inferred its end, it is
queried. An order that is open in the journal and not listed is queried. An order of somebody else is reported and never touched.

**Positions.** If the venue has more than the journal (an orphan), the position is taken over, so that it is protected at once. Then the policy decides:

- CONSERVATIVE: closed at market, under the leg ``orphan``;
- RECLAIM_IF_SAFE: kept if it is safe, else closed. Safe means: the instrument's rules are loaded; nobody else has an open order on the symbol; the notional
  is within ``budget.max_notional``; the mark price has not crossed the stop; and the liquidation price, if any, is beyond the stop.

An orphan on an instrument without rules is only reported, because no order can be sent for it.

If the venue has less than the journal, nothing happens until the difference was found ``rounds`` times in a row with all fills loaded. Then the missing
quantity is booked with unbooked executions that explain it, for example of a person. The rest is written off under the leg ``vanished`` at the mark price,
for example after a testnet reset. Its records mark this price as an estimate.

**Spot.** Surplus coins are no orphan and are never touched. A deficit of a lot or more is a shortfall as above.

**Money.** The change of the wallet is compared with the journal's fees, funding and realised profits. A difference is only reported, because a deposit or a
transfer looks the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.entry.sizing import floor_to
from stream_apps.core.execution.orders.ids import is_ours
from stream_apps.core.execution.orders.order import FINAL, OrderState
from stream_apps.core.execution.orders.venue_reports import OrderReport, PositionReport

ZERO = Decimal(0)

UNKNOWN_ORDER, ENDED_ORDER, MISSING_ORDER, FOREIGN_ORDER = "unknown_order", "ended_order", "missing_order", "foreign_order"
ORPHAN, SHORTFALL, BALANCE = "orphan_position", "position_shortfall", "balance"
# Findings that do not block entries.
YELLOW = frozenset((FOREIGN_ORDER, BALANCE, MISSING_ORDER))


@dataclass(frozen=True, slots=True)
class VenueSnapshot:
    """The venue's state at ``time`` (wall ms).

    Attributes:
        positions: Positions that are not zero.
        wallet: Balance of the margin asset; None if not queried.
        partial: Symbols with uncertain orders; they are not compared.
    """

    open_orders: Sequence[OrderReport]
    positions: Sequence[PositionReport]
    time: int
    wallet: Decimal | None = None
    partial: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. Two findings are the same when all but ``note`` agree.

    Attributes:
        subject: The order's client id, or the symbol.
        journal, venue: Quantities or states, as text.
        action: ``cancel``, ``query``, ``take_over_and_close``, ``reclaim``, ``write_off``, ``wait`` or ``report``.
    """

    kind: str
    symbol: str
    subject: str
    journal: str
    venue: str
    action: str
    note: str = field(default="", compare=False)

    @property
    def is_red(self) -> bool:
        """True when it blocks entries."""
        return self.kind not in YELLOW


def compare(book: ExecutionBook, facts: VenueSnapshot) -> list[Finding]:
    """Return every difference between the journal and the venue, in a fixed order."""
    found = [*_listed_orders(book, facts), *_unlisted_orders(book, facts), *_positions(book, facts)]
    return sorted((one for one in found if one.symbol not in facts.partial), key=lambda one: (one.kind, one.symbol, one.subject))


def _listed_orders(book: ExecutionBook, facts: VenueSnapshot) -> list[Finding]:
    found = []
    for report in facts.open_orders:
        client_id = report.client_order_id
        known = book.order(client_id)
        if known is None:
            if is_ours(book.account.environment, client_id):
                found.append(Finding(UNKNOWN_ORDER, report.symbol, client_id, "none", report.status.value, "cancel"))
            else:
                found.append(Finding(FOREIGN_ORDER, report.symbol, client_id, "none", report.status.value, "report"))
        elif known[1].state in FINAL:
            inferred = known[1].state in (OrderState.REJECTED, OrderState.LOST)
            action = "query" if inferred and not known[0].is_over else "cancel"
            found.append(Finding(ENDED_ORDER, report.symbol, client_id, known[1].state.value, report.status.value, action))
    return found


def _unlisted_orders(book: ExecutionBook, facts: VenueSnapshot) -> list[Finding]:
    listed = {report.client_order_id for report in facts.open_orders}
    return [
        Finding(MISSING_ORDER, order.symbol, order.client_id, order.state.value, "none", "query")
        for trade in book.active
        for order in trade.live
        if order.is_confirmed and order.client_id not in listed
    ]


def _positions(book: ExecutionBook, facts: VenueSnapshot) -> list[Finding]:
    at_venue = {one.symbol: one for one in facts.positions}
    symbols = at_venue.keys() | {trade.symbol for trade in book.active}
    found = []
    for symbol in sorted(symbols):
        holder = book.holder(symbol)
        position = at_venue.get(symbol)
        held = position.quantity if position is not None else ZERO
        booked = ZERO if holder is None else holder.position.sign * holder.exposure
        if held == booked or (book.account.is_spot and symbol in book.rules and held >= floor_to(booked, book.rules[symbol].lot)):
            continue
        more = held != 0 and (booked == 0 or (held > 0) == (booked > 0)) and abs(held) > abs(booked)
        if more and position is not None:
            safe = is_safe(book, position, facts)
            reclaim = book.policy.reconcile.orphan == "RECLAIM_IF_SAFE" and safe is None
            note = "" if safe is None else f"not safe: {safe}"
            action = "report" if symbol not in book.rules else "reclaim" if reclaim else "take_over_and_close"
            found.append(Finding(ORPHAN, symbol, symbol, str(booked), str(held), action, note))
        else:
            found.append(Finding(SHORTFALL, symbol, symbol, str(booked), str(held), "write_off"))
    return found


def is_safe(book: ExecutionBook, position: PositionReport, facts: VenueSnapshot) -> str | None:
    """Return why an orphan position may not be kept; None if it is safe (see the module's docstring)."""
    if position.symbol not in book.rules:
        return "no instrument rules"
    if any(one.symbol == position.symbol and not is_ours(book.account.environment, one.client_order_id) for one in facts.open_orders):
        return "foreign orders on the symbol"
    if position.mark_price is None:
        return "no mark price"
    if abs(position.quantity) * position.mark_price > book.policy.budget.max_notional:
        return "over budget.max_notional"
    sign = 1 if position.quantity > 0 else -1
    stop = position.entry_price * (1 - sign * book.policy.reconcile.reclaim_risk_bps / 10_000)
    if sign * (position.mark_price - stop) <= 0:
        return "its stop is crossed already"
    if position.liquidation_price and sign * (stop - position.liquidation_price) <= 0:
        return "liquidation comes before its stop"
    return None


def confirmed(first: Sequence[Finding], second: Sequence[Finding]) -> list[Finding]:
    """Return the findings of both comparisons."""
    return [one for one in second if one in first]


@dataclass(slots=True)
class Rounds:
    """Counts how often each finding was confirmed in a row. After ``limit`` actions without effect no further action follows, and the finding stays red."""

    limit: int
    seen: dict[Finding, int] = field(default_factory=dict)

    def take(self, findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
        """Count a round; return each finding with the action to take now: its own, ``wait`` or ``give_up``."""
        self.seen = {one: self.seen.get(one, 0) + 1 for one in findings}
        done = []
        for one in findings:
            count = self.seen[one]
            if one.action == "report":
                done.append((one, "report"))
            elif one.action == "write_off":
                done.append((one, "write_off" if count == self.limit else "wait" if count < self.limit else "give_up"))
            else:
                done.append((one, one.action if count <= self.limit else "give_up"))
        return done


def balance_finding(
    symbol: str, wallet: Decimal, wallet_before: Decimal, banked: Decimal, banked_before: Decimal, tolerance: Decimal
) -> Finding | None:
    """Return a finding if the wallet's change differs from the journal's by more than ``tolerance`` quote units."""
    moved, told = wallet - wallet_before, banked - banked_before
    if abs(moved - told) <= tolerance:
        return None
    return Finding(
        BALANCE, symbol, symbol, str(told), str(moved), "report", "a deposit, a transfer, or money that the journal does not know"
    )


def state_of(findings: Sequence[Finding]) -> str:
    """Return green, yellow or red."""
    if any(one.is_red for one in findings):
        return "red"
    return "yellow" if findings else "green"

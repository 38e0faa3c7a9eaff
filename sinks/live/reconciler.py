"""Reconcile the journal with the venue.

A round runs before the first trade, every five minutes, after a lost user stream, and after an anomaly. It loads the fills, funding payments, open orders
and positions, and compares them with the execution book. It waits a moment, loads them again and compares again. It acts on the differences that both
comparisons found (``stream_apps.core.execution.account.reconcile``).

A symbol that has an order with an unknown outcome is not judged; the round stays red until it can be. A round is also red when the venue does not answer
or its answer cannot be parsed. While a round is red, no entry is opened and the round is repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import structlog

from schemas import metrics
from sinks.venues.common.adapter import MalformedResponse, TradingVenue, VenueError
from stream_apps.core.execution.account import funding_payments
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.account.reconcile import Finding, Rounds, VenueSnapshot, balance_finding, compare, confirmed, state_of
from stream_apps.core.execution.orders.events import Action, Cancel, EntriesBlocked, Event, FillsLoaded, FundingLoaded, Query
from stream_apps.core.execution.orders.order import UNCONFIRMED
from stream_apps.core.execution.orders.venue_reports import FillReport, OrderType, PositionReport

BETWEEN_LOOKS_S = 1.0
RETRY_S = 2.0
LEVELS = {"green": 0, "yellow": 1, "red": 2}
# Money that rounding at the venue may move in a period, quote units.
TOLERANCE = Decimal("0.01")

Submit = Callable[[Event | Callable[[int], list[Action]]], Awaitable[None]]


@dataclass(slots=True)
class RoundResult:
    """The result of a round.

    Attributes:
        facts: The venue's state at the last comparison.
        findings: (difference, action taken).
        unjudged: Symbols with an order whose outcome is unknown.
    """

    state: str
    facts: VenueSnapshot
    findings: list[tuple[Finding, str]] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)


class Reconciler:
    """Runs the reconciliation of one account.

    Args:
        venue: An open venue.
        book: The execution book. It is read only between events, because this code runs in the service's event loop.
        submit: Passes an event to the book, or calls one of its methods, and returns once the result is journalled.
        perform: Sends a request.
        report: Writes a ``reconciliations`` record.
        unreadable: Receives malformed answers.
        account: Account id.
        asset: Margin asset.
    """

    def __init__(
        self,
        venue: TradingVenue,
        book: ExecutionBook,
        submit: Submit,
        perform: Callable[[Action], None],
        report: Callable[[dict[str, Any]], None],
        unreadable: Callable[[MalformedResponse], None],
        account: str,
        asset: str = "USDT",
    ) -> None:
        self._venue, self._book, self._submit, self._perform, self._report = venue, book, submit, perform, report
        self._unreadable = unreadable
        self._account, self._asset = account, asset
        self._log = structlog.get_logger().bind(account=account)
        self._rounds = Rounds(book.policy.reconcile.rounds)
        self._wanted = asyncio.Event()
        self._cause = "start"
        self._money: tuple[Decimal, Decimal] | None = None
        self._newest_payment = 0
        # Symbol -> fills that the venue listed last.
        self._fills: dict[str, Sequence[FillReport]] = {}
        self.state = "red"
        self.done = 0

    def want(self, cause: str) -> None:
        """Request a round."""
        if not self._wanted.is_set():
            self._cause = cause
            self._wanted.set()

    def forgot(self) -> None:
        """Restart the balance comparison, because old trades were dropped from memory."""
        self._money = None

    async def run(self) -> None:
        """Reconcile until cancelled; the first round starts at once."""
        cause = "start"
        while True:
            begun = _now()
            try:
                outcome = await self._round()
                await self._finish_round(outcome, cause, begun)
            except MalformedResponse as error:
                self._unreadable(error)
                await self._not_compared(cause, str(error))
            except VenueError as error:
                await self._not_compared(cause, f"the venue does not answer: {type(error).__name__}", str(error))
            except Exception as error:
                # A defect in this program. The process continues, because exits and stops need it. Entries stay blocked.
                self._log.exception("the comparison failed", cause=cause)
                await self._not_compared(cause, f"the comparison failed: {type(error).__name__}")
            wait = self._book.policy.reconcile.every_ms / 1000 if self.state != "red" else RETRY_S
            try:
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
                cause = self._cause
                # Merge causes that arrive close together.
                await asyncio.sleep(0.2)
                self._wanted.clear()
            except TimeoutError:
                cause = "period" if self.state != "red" else "retry"

    async def _not_compared(self, cause: str, blocked: str, reason: str = "") -> None:
        self._log.warning("reconciliation with the venue failed", cause=cause, reason=reason or blocked)
        self.state = "red"
        metrics.RECONCILED.labels(self._account).set(LEVELS["red"])
        await self._submit(EntriesBlocked("reconcile", blocked))

    # --- a round --------------------------------------------------------------------------------------------------------------

    async def _round(self) -> RoundResult:
        await self._load_fills()
        await self._load_funding()
        first_facts = await self._facts()
        first = compare(self._book, first_facts)
        unjudged = sorted(first_facts.partial)
        second, facts = first, first_facts
        if first:
            await asyncio.sleep(BETWEEN_LOOKS_S)
            await self._load_fills()
            facts = await self._facts()
            second = confirmed(first, compare(self._book, facts))
            unjudged = sorted(facts.partial)
        balance = self._balance(facts)
        done = self._rounds.take([*second, *balance])
        for finding, action in done:
            await self._act(finding, action, facts)
        state = state_of([finding for finding, _ in done])
        return RoundResult("red" if unjudged else state, facts, done, unjudged)

    async def _load_fills(self) -> None:
        """Load the fills of all traded symbols into the book."""
        margin = self._book.policy.clock_margin_ms
        for symbol, since in sorted({one.symbol: one.started_at for one in self._book.active}.items()):
            self._fills[symbol] = await self._venue.fills(symbol, since - margin)
            await self._submit(FillsLoaded(symbol, self._fills[symbol]))

    async def _load_funding(self) -> None:
        """Load the funding payments of open and recently closed trades into the book, which ignores known ones."""
        asked_at = _now()
        since = funding_payments.asked_since(self._book.trades.values(), asked_at)
        if since is None:
            return
        # A payment of another symbol may be listed later and be older.
        payments = await self._venue.funding(max(since, self._newest_payment - funding_payments.HOUR_MS))
        self._newest_payment = max((one.time for one in payments), default=self._newest_payment)
        await self._submit(FundingLoaded(payments, asked_at))

    async def _facts(self) -> VenueSnapshot:
        orders = list(await self._venue.open_orders())
        for report in orders:
            if self._book.order(report.client_order_id) is not None:
                await self._submit(report)
        positions: list[PositionReport] = list(await self._venue.positions())
        wallet = next((one.wallet for one in await self._venue.balances() if one.asset == self._asset), None)
        return VenueSnapshot(orders, positions, _now(), wallet, self._uncertain())

    def _uncertain(self) -> set[str]:
        """Symbols with an order that is in flight or executing: their state changes during the comparison."""
        return {
            order.symbol
            for trade in self._book.active
            for order in trade.live
            if order.state in UNCONFIRMED or (order.type is OrderType.MARKET and not order.foreign)
        }

    def _balance(self, facts: VenueSnapshot) -> list[Finding]:
        if facts.wallet is None:
            return []
        banked = self._book.banked()
        before, self._money = self._money, (facts.wallet, banked)
        if before is None:
            return []
        found = balance_finding(self._asset, facts.wallet, before[0], banked, before[1], TOLERANCE)
        return [] if found is None else [found]

    async def _act(self, finding: Finding, action: str, facts: VenueSnapshot) -> None:
        metrics.RECONCILE_FINDINGS.labels(self._account, finding.kind).inc()
        self._log.warning("journal and venue differ", **_finding_fields(finding), action=action)
        if action == "cancel":
            conditional = any(one.client_order_id == finding.subject and one.trigger_price is not None for one in facts.open_orders)
            self._perform(Cancel(finding.symbol, finding.subject, conditional))
        elif action == "query":
            known = self._book.order(finding.subject)
            self._perform(Query(finding.symbol, finding.subject, known is not None and known[1].is_stop))
        elif action in ("reclaim", "take_over_and_close"):
            position = _position(facts, finding.symbol)
            if position is not None:
                await self._submit(lambda now: self._book.take_over(position, close=action != "reclaim", now=now))
        elif action == "write_off":
            held = _position(facts, finding.symbol)
            quantity, price = (Decimal(0), None) if held is None else (held.quantity, held.mark_price)
            last, fills = price if price is not None else self._price(finding.symbol), self._fills.get(finding.symbol, ())
            await self._submit(lambda now: self._book.write_off(finding.symbol, quantity, fills, last, now))

    def _price(self, symbol: str) -> Decimal | None:
        """Newest known price of a symbol: the mid, else the trade's own entry price."""
        quote = self._book.fresh_quote(symbol, _now())
        if quote is not None:
            return (quote.bid + quote.ask) / 2
        holder = self._book.holder(symbol)
        return None if holder is None else holder.average_entry

    async def _finish_round(self, outcome: RoundResult, cause: str, begun: int) -> None:
        self.state, self.done = outcome.state, self.done + 1
        now = _now()
        metrics.RECONCILED.labels(self._account).set(LEVELS[outcome.state])
        metrics.RECONCILED_TIME.labels(self._account).set(now / 1000)
        red = [one.kind for one, _ in outcome.findings if one.is_red] + [f"not judged yet: {symbol}" for symbol in outcome.unjudged]
        await self._submit(EntriesBlocked("reconcile", ", ".join(red) if outcome.state == "red" else None))
        self._report(
            {
                "account": self._account,
                "event_time": now,
                "receive_time": now,
                "mode": self._book.account.mode,
                "cause": cause,
                "state": outcome.state,
                "duration_ms": now - begun,
                "orders": len(outcome.facts.open_orders),
                "positions": len(outcome.facts.positions),
                "wallet": None if self._money is None else float(self._money[0]),
                "findings": [{**_finding_fields(one), "action": action} for one, action in outcome.findings],
            }
        )
        log = self._log.warning if outcome.state == "red" else self._log.info
        log("reconciled", cause=cause, state=outcome.state, findings=len(outcome.findings), unjudged=outcome.unjudged)


def _position(facts: VenueSnapshot, symbol: str) -> PositionReport | None:
    return next((one for one in facts.positions if one.symbol == symbol), None)


def _finding_fields(finding: Finding) -> dict[str, str]:
    return {
        "kind": finding.kind,
        "symbol": finding.symbol,
        "subject": finding.subject,
        "journal": finding.journal,
        "venue": finding.venue,
        "note": finding.note,
    }


def _now() -> int:
    return time.time_ns() // 1_000_000

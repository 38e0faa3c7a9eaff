"""The execution book of one account: signals, prices and venue reports in, actions out. Pure: time is an argument.

A symbol has one position, because the venue nets an account's positions by symbol. A second strategy on a busy symbol is rejected (``symbol_busy``). The
book assumes no result: each action ends in an event, and until then the outcome is unknown. After a restart ``restarted`` marks every unconfirmed order
as UNKNOWN, and it is queried first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext

from stream_apps.core.execution.account import funding_payments, order_recovery
from stream_apps.core.execution.account.adoption import correction, orphan_trade, unbooked_exits
from stream_apps.core.execution.entry import machine
from stream_apps.core.execution.entry.admission import open_trade, room_for
from stream_apps.core.execution.entry.sizing import floor_to
from stream_apps.core.execution.exits import closing, protection, roe, spot, targets
from stream_apps.core.execution.exits.trade_close import closing_records, emit_changes, finish_trade, signature
from stream_apps.core.execution.orders.events import (
    Action,
    Anomaly,
    CancelAnswered,
    CloseRequested,
    Emit,
    EntriesBlocked,
    Event,
    FillsLoaded,
    FundingLoaded,
    GuardChanged,
    PlaceFailed,
    PositionLoaded,
    Query,
    QueryAnswered,
    QuoteSeen,
    SignalReceived,
    Tick,
)
from stream_apps.core.execution.orders.ids import is_ours
from stream_apps.core.execution.orders.order import Order, OrderState, Trigger
from stream_apps.core.execution.orders.venue_reports import FillReport, FundingReport, InstrumentRules, OrderReport, PositionReport
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.account_state import AccountState
from stream_apps.core.execution.state.entry_run import EntryRun
from stream_apps.core.execution.state.quotes import Quotes, mid_of
from stream_apps.core.execution.state.records import Account, Record, refused_order
from stream_apps.core.execution.state.report_intake import book_fill, fee_in_quote, foreign_order, place_failed
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.execution.state.trade_context import TradeContext
from stream_apps.core.paper.money import MONEY_CONTEXT
from stream_apps.core.paper.position import CLOSED, EXPIRED, OPEN, PENDING
from stream_apps.core.signals.signal_rules import verdict

ZERO = Decimal(0)
# The parts of a plan affect each other (a rejected stop closes the trade, a target moves the stop), so they repeat until nothing changes.
PASSES = 4


class ExecutionBook(AccountState):
    """Handles the events of one account and returns actions. Arguments as for ``AccountState``."""

    def __init__(self, account: Account, policy: LivePolicy, rules: Mapping[str, InstrumentRules]) -> None:
        super().__init__(account, policy, rules)
        self._by_order: dict[str, str] = {}
        self._touched: set[str] = set()
        self._due: dict[str, int | None] = {}
        # Time of the newest list of funding payments; executions that were already reported as anomalies.
        self._funding_asked_at = 0
        self._odd: set[tuple[str, int]] = set()

    # --- state -------------------------------------------------------------------------------------------------------------

    def load(self, trades: Iterable[Trade]) -> None:
        """Load journalled trades."""
        for trade in trades:
            self._remember(trade)

    def restarted(self, now: int) -> None:
        """Mark orders that the former process sent without an answer as UNKNOWN, so that they are queried."""
        for trade in self.active:
            for order in trade.orders.values():
                # WAITING does not change: an attempt is journalled as INTENDED before it is sent.
                if order.state is OrderState.INTENDED:
                    order.apply(Trigger.OUTCOME_UNKNOWN, now)
                elif order.state is OrderState.UNKNOWN:
                    # Its last attempt may have been just before that process ended.
                    order.unknown_since, order.next_at = now, now
                order.asked = ""
            self._touched.add(trade.key)

    def touched(self) -> list[Trade]:
        """Return the trades that changed since the last call. They are journalled before the actions are performed."""
        touched = [self.trades[key] for key in sorted(self._touched) if key in self.trades]
        self._touched.clear()
        return touched

    def forget_closed(self, now: int) -> list[str]:
        """Drop trades that ended long ago; return their keys."""
        old = [key for key, one in self.trades.items() if one.over_at is not None and now - one.over_at > self.policy.keep_closed_ms]
        for key in old:
            for client_id in self.trades[key].orders:
                self._by_order.pop(client_id, None)
            del self.trades[key]
        return old

    def order(self, client_id: str) -> tuple[Trade, Order] | None:
        """Return the trade and order of a client id."""
        key = self._by_order.get(client_id)
        return None if key is None else (self.trades[key], self.trades[key].orders[client_id])

    def next_due(self) -> int | None:
        """Return the earliest time at which a plan changes without an event, wall ms; None if there is none."""
        due = [at for key, at in self._due.items() if at is not None and key in self.trades and not self.trades[key].is_over]
        return min(due, default=None)

    def _remember(self, trade: Trade) -> None:
        self.trades[trade.key] = trade
        for client_id, order in trade.orders.items():
            if not order.foreign:
                self._by_order[client_id] = trade.key

    # --- events ------------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: int) -> list[Action]:
        """Handle an event. Return the actions to perform in this order, after the changed trades are journalled.

        Args:
            event: The event.
            now: Wall time, ms UTC.
        """
        with localcontext(MONEY_CONTEXT):
            actions: list[Action] = []
            for trade in {one.key: one for one in self._take(event, now, actions)}.values():
                if not trade.is_over:
                    self._plan(trade, now, actions)
            for queued in [one for one in self.active if one.queued and self.holder(one.symbol) is None]:
                self._plan(queued, now, actions)
            self._emit_closed(now, actions)
            return actions

    def _take(self, event: Event, now: int, actions: list[Action]) -> list[Trade]:
        """Apply an event to the state; return the affected trades."""
        match event:
            case SignalReceived():
                return self._signal(event.signal, now, actions)
            case QuoteSeen():
                return self._quote(event)
            case OrderReport():
                return self._report(event, now, actions)
            case FillReport():
                return self._fill(event, now, actions)
            case FillsLoaded():
                return [trade for fill in event.fills for trade in self._fill(fill, now, actions)] if not event.failed else []
            case PlaceFailed():
                found = self.order(event.client_id)
                if found is None:
                    return []
                place_failed(found[1], event, now, self.policy)
                return self._changed(found[0])
            case CancelAnswered() | QueryAnswered():
                return self._answer(event, now, actions)
            case PositionLoaded():
                return self._position(event.symbol, event.position, event.failed, actions)
            case PositionReport():
                # The order of positions and fills in the user stream is undefined. Only a position queried after the fills is compared.
                return []
            case FundingReport():
                return self._funding(event, actions)
            case FundingLoaded():
                self._funding_asked_at = max(self._funding_asked_at, event.asked_at)
                return [trade for payment in event.payments for trade in self._funding(payment, actions)]
            case GuardChanged():
                self.guard = event
                for trade in self.active:
                    if event.close_all or trade.key in event.close_positions:
                        self._close(trade, "guard", now)
                return self.active
            case EntriesBlocked():
                self.blocks.pop(event.source, None)
                if event.reason is not None:
                    self.blocks[event.source] = event.reason
                return self.active
            case CloseRequested():
                for trade in self.on_symbol(event.symbol):
                    self._close(trade, event.leg, now)
                return self.on_symbol(event.symbol)
            case Tick():
                return self.active
        raise AssertionError(f"no such event: {event!r}")

    def _changed(self, trade: Trade) -> list[Trade]:
        self._touched.add(trade.key)
        return [trade]

    def _close(self, trade: Trade, leg: str, now: int) -> None:
        if trade.closing is None:
            trade.closing = leg
            self._touched.add(trade.key)

    def _quote(self, quote: QuoteSeen) -> list[Trade]:
        if not self.quotes.setdefault(quote.symbol, Quotes()).take(quote):
            return []
        trades = self.on_symbol(quote.symbol)
        for trade in trades:
            if trade.position.status != PENDING:
                mid = float(mid_of(quote))
                trade.position.see(mid, mid, mid)
        return trades

    def _report(self, report: OrderReport, now: int, actions: list[Action]) -> list[Trade]:
        found = self.order(report.client_order_id)
        if found is None:
            if is_ours(self.account.environment, report.client_order_id) and not report.status.is_final:
                actions.append(Anomaly(report.symbol, f"order {report.client_order_id} is ours and not in the journal"))
            return []
        trade, order = found
        if not order.take_report(report, now):
            return []
        return self._moved(trade, now)

    def _moved(self, trade: Trade, now: int) -> list[Trade]:
        """Handle a changed order. A late execution of an expired entry reopens its trade, which is closed at once."""
        if trade.position.status == EXPIRED and trade.exposure != 0:
            trade.position.status, trade.over_at = PENDING, None
            self._close(trade, "orphan", now)
        return self._changed(trade)

    def _fill(self, fill: FillReport, now: int, actions: list[Action]) -> list[Trade]:
        found = self.order(fill.client_order_id)
        if found is not None:
            trade, order = found
        else:
            holder = self.holder(fill.symbol)
            if is_ours(self.account.environment, fill.client_order_id):
                # It belongs to a trade that was dropped or never journalled.
                if holder is None or fill.time >= holder.started_at:
                    self._odd_fill(fill, f"of {fill.client_order_id} is ours and not in the journal", actions)
                return []
            if holder is None or fill.time < holder.started_at or self.account.is_spot:
                # On spot this is a sale of other coins. The trade's coins are locked; if they were sold, the reconciler finds a shortfall.
                return []
            if fill.trade_id in holder.fills:
                return []
            if fill.side is not holder.exit_side or holder.booked_exposure < fill.quantity:
                self._odd_fill(fill, "of a foreign order", actions)
                return []
            trade, order = holder, _foreign_order(holder, fill, now)
        was_over = trade.is_over
        if not book_fill(trade, order, fill, self._fee(fill, trade), self.policy, now, self.account.mode, actions):
            return []
        if fill.fee > 0 and fill.fee_asset == self._coins(trade.symbol):
            paid, stand_in = spot.take_fee(trade, fill)
            paid = trade.orders.setdefault(paid.client_id, paid)
            book_fill(trade, paid, stand_in, ZERO, self.policy, now, self.account.mode, actions)
        if was_over and trade.position.status != EXPIRED:
            self._odd_fill(fill, f"of {fill.client_order_id} after its trade was closed", actions)
        return self._moved(trade, now)

    def _odd_fill(self, fill: FillReport, what: str, actions: list[Action]) -> None:
        """Request a reconciliation for an execution once, because each reconciliation loads it again."""
        if (fill.symbol, fill.trade_id) not in self._odd:
            self._odd.add((fill.symbol, fill.trade_id))
            actions.append(Anomaly(fill.symbol, f"fill {fill.trade_id} {what}"))

    def _coins(self, symbol: str) -> str | None:
        """Return the base asset of a spot symbol; None for contracts."""
        return self.rules[symbol].base if self.account.is_spot and symbol in self.rules else None

    def _fee(self, fill: FillReport, trade: Trade) -> Decimal | None:
        return fee_in_quote(fill, self._quote_asset(trade.symbol), self._coins(trade.symbol), self.quotes)

    def _quote_asset(self, symbol: str) -> str:
        return self.rules[symbol].quote if symbol in self.rules else "USDT"

    def _answer(self, event: CancelAnswered | QueryAnswered, now: int, actions: list[Action]) -> list[Trade]:
        found = self.order(event.client_id)
        if found is None:
            return []
        trade, order = found
        policy = self.policy
        if isinstance(event, QueryAnswered):
            order_recovery.answered(order, event.report, event.failed, now, policy.query_ms, policy.query_max_ms, policy.not_found_ms)
            return self._moved(trade, now)
        order.asked = ""
        if event.report is not None:
            order.take_report(event.report, now)
        if not order.is_final and order.state is not OrderState.TRIGGERED:
            # Not open at the venue, or no answer: query the order.
            order.asked = "query"
            order.next_at = now + policy.query_ms
            actions.append(_query_of(order))
        return self._moved(trade, now)

    def _position(self, symbol: str, position: PositionReport | None, failed: bool, actions: list[Action]) -> list[Trade]:
        if failed:
            return []
        held = ZERO if position is None else position.quantity
        holder = self.holder(symbol)
        booked = ZERO if holder is None else holder.position.sign * holder.exposure
        if self.account.is_spot and symbol in self.rules:
            # An account may hold other coins, and quantities below a lot are not reported.
            short = held < floor_to(booked, self.rules[symbol].lot)
        else:
            short = held != booked
        if short:
            actions.append(Anomaly(symbol, f"the venue has {held}, the journal {booked}"))
        return [] if holder is None else [holder]

    def _funding(self, payment: FundingReport, actions: list[Action]) -> list[Trade]:
        trade = funding_payments.payer(self.trades.values(), payment)
        if trade is None or payment.payment_id in trade.funding:
            return []
        trade.funding[payment.payment_id] = payment.paid
        trade.position.funding_until = payment.time
        trade.add_up()
        if trade.is_reported:
            # The journal has the payment, but the trade's record was already written without it.
            actions.append(Anomaly(payment.symbol, f"funding payment {payment.payment_id} after the record of {trade.key}"))
        return self._changed(trade)

    # --- corrections -------------------------------------------------------------------------------------------------------

    def take_over(self, report: PositionReport, *, close: bool, now: int) -> list[Action]:
        """Add a position's surplus over the journal to the symbol's trade or to a new trade. It is then protected or closed at market."""
        with localcontext(MONEY_CONTEXT):
            trade = self.holder(report.symbol)
            if trade is None:
                trade = orphan_trade(self.account, report, self.policy, now=now)
                self._remember(trade)
            return self._correct(
                trade, abs(report.quantity) - trade.exposure, report.entry_price, "entry", "orphan" if close else None, now
            )

    def write_off(self, symbol: str, held: Decimal, fills: Sequence[FillReport], price: Decimal | None, now: int) -> list[Action]:
        """Reduce a symbol's trade to the venue's position (``held``, signed).

        The missing quantity is booked with the executions that explain it. The rest is booked at ``price`` as an estimate under the leg ``vanished``;
        without a price it stays open. A position on the other side does not belong to the trade, so the trade becomes flat.
        """
        with localcontext(MONEY_CONTEXT):
            trade = self.holder(symbol)
            if trade is None:
                return []
            actions: list[Action] = []
            wanted = max(ZERO, trade.position.sign * held)
            for fill in unbooked_exits(self.trades.values(), trade, fills, trade.exposure - wanted):
                order = _foreign_order(trade, fill, now)
                book_fill(trade, order, fill, self._fee(fill, trade), self.policy, now, self.account.mode, actions)
            missing = wanted - trade.exposure
            return actions + self._correct(trade, missing if price is not None else ZERO, price or ZERO, "vanished", "orphan", now)

    def _correct(self, trade: Trade, quantity: Decimal, price: Decimal, leg: str, close: str | None, now: int) -> list[Action]:
        actions: list[Action] = []
        if quantity != 0:
            order, fill = correction(trade, quantity, price, leg, self._quote_asset(trade.symbol), now)
            trade.orders[order.client_id] = order
            book_fill(trade, order, fill, ZERO, self.policy, now, self.account.mode, actions)
        if close is not None:
            self._close(trade, close, now)
        self._touched.add(trade.key)
        self._plan(trade, now, actions)
        self._emit_closed(now, actions)
        return actions

    # --- signals -----------------------------------------------------------------------------------------------------------

    def _signal(self, signal: Record, now: int, actions: list[Action]) -> list[Trade]:
        key = self.account.key(signal["signal_id"])
        allowed = self.policy.strategies
        if key in self.trades or (allowed is not None and signal["strategy_id"] not in allowed):
            return []
        slot = [
            one
            for one in self.active
            if (one.position.instrument, one.position.strategy_id) == (signal["instrument"], signal["strategy_id"])
        ]
        current = next((one for one in slot if one.position.status != PENDING), None)
        asked = verdict(
            signal,
            pending=any(one.position.status == PENDING for one in slot),
            current=None if current is None else current.position.direction,
            held=[one.position.holding for one in self.active if one.position.strategy_id == signal["strategy_id"]],
            age_ms=now - signal["decided_at"],
            max_age_ms=self.policy.max_signal_age_ms,
        )
        if asked is None:
            return []
        if asked.closes and current is not None:
            if current.closing is None:
                current.flips += 1
                current.position.flip_at, current.position.flip_signal_id = now, signal["signal_id"]
            self._close(current, "flip", now)
        changed = [current] if asked.closes and current is not None else []
        if not asked.opens and not asked.needs_rejection:
            return changed
        refusal, size = asked.refusal, None
        if refusal is None:
            refusal, size = room_for(self, signal, current, now)
        if refusal is not None or size is None:
            quantity = float(size.quantity) if size is not None else 0.0
            actions.append(Emit("orders", refused_order(signal, quantity, refusal or "rejected", self.account, now)))
            return changed
        trade = open_trade(self, key, signal, size, now, queued=current is not None)
        self._remember(trade)
        self._touched.add(key)
        return [*changed, trade]

    # --- planning ----------------------------------------------------------------------------------------------------------

    def _emit_closed(self, now: int, actions: list[Action]) -> None:
        """Write the closed trades whose funding payments are all known."""
        for trade in self.trades.values():
            if trade.is_reported or trade.position.status != CLOSED:
                continue
            if self.account.is_spot or funding_payments.is_known(trade, self._funding_asked_at, now, self.policy.funding_wait_ms):
                actions += closing_records(trade, self.account.mode, now)
                self._touched.add(trade.key)

    def _plan(self, trade: Trade, now: int, actions: list[Action]) -> None:
        if trade.symbol not in self.rules:
            # Delisted: the service reports it at its start. Without tick and lot no order can be sent.
            return
        if trade.queued and not self._release(trade, now):
            return
        before = signature(trade)
        context = self._context(trade, now)
        for _ in range(PASSES):
            seen = signature(trade)
            protection.levels(context)
            machine.step(context)
            self._opened(trade)
            if self.account.is_spot:
                spot.step(context, self.account.mode)
            else:
                (roe if self.policy.roe.enabled else targets).step(context)
                protection.step(context)
                closing.step(context)
            if signature(trade) == seen:
                break
        order_recovery.step(context)
        finish_trade(context)
        emit_changes(context, self.account.mode)
        for order in trade.orders.values():
            if not order.foreign:
                self._by_order.setdefault(order.client_id, trade.key)
        self._due[trade.key] = context.next_due
        if context.actions or signature(trade) != before:
            self._touched.add(trade.key)
        actions += context.actions

    def _context(self, trade: Trade, now: int) -> TradeContext:
        quotes = self.quotes.get(trade.symbol)
        return TradeContext(
            trade,
            self.account.environment,
            self.policy,
            self.rules[trade.symbol],
            now,
            self.fresh_quote(trade.symbol, now),
            quotes.mean_spread_bps() if quotes is not None else None,
            self.entries_blocked(now),
            self.guard is not None and not self.guard.allow_maker,
            self.guard is not None and not self.guard.allow_slices,
        )

    def _release(self, trade: Trade, now: int) -> bool:
        """Start a queued trade once its symbol is free. The wait shifts its slices, not its expiry."""
        if now >= trade.entry.expires_at or trade.closing is not None or self.entries_blocked(now) is not None:
            trade.queued = False
            return True
        if self.holder(trade.symbol) is not None:
            return False
        run: EntryRun = trade.entry
        run.times = [time + now - trade.started_at for time in run.times]
        trade.started_at, trade.queued = now, False
        self._touched.add(trade.key)
        return True

    @staticmethod
    def _opened(trade: Trade) -> None:
        position = trade.position
        if trade.entered <= 0:
            return
        if position.status == PENDING:
            position.status = OPEN
        if trade.entry.is_done:
            position.quantity = trade.entered


def _foreign_order(trade: Trade, fill: FillReport, now: int) -> Order:
    """Return a placeholder for a foreign order that closes the trade: of a person, a liquidation or auto-deleveraging."""
    order = foreign_order(fill, now)
    return trade.orders.setdefault(order.client_id, order)


def _query_of(order: Order) -> Action:
    return Query(order.symbol, order.client_id, order.is_stop)

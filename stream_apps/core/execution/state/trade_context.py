"""The context of one planning step of a trade: time, prices, settings, and the actions place, cancel and query."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from stream_apps.core.execution.orders.events import Action, Anomaly, Cancel, LoadPosition, Place, PlacePair, QuoteSeen
from stream_apps.core.execution.orders.ids import client_order_id
from stream_apps.core.execution.orders.order import UNCONFIRMED, Order, OrderState, Trigger
from stream_apps.core.execution.orders.venue_reports import InstrumentRules, OrderType, PairRequest, Side, TimeInForce
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.quotes import mid_of
from stream_apps.core.execution.state.trade import Trade

# Time between two queries of a symbol's position.
ASK_POSITION_MS = 1_000


@dataclass(slots=True)
class TradeContext:
    """One trade at one time.

    Attributes:
        quote: Newest prices of the symbol; None if they are stale.
        mean_spread_bps: Mean spread of the last hour; None if unknown.
        entries_blocked: Why no entry order may be sent now, or None.
        no_maker, no_slices: The guard forbids maker orders or slices.
        actions: Actions so far.
        next_due: Earliest time at which the plan changes without an event, wall ms.
    """

    trade: Trade
    environment: str
    policy: LivePolicy
    rules: InstrumentRules
    now: int
    quote: QuoteSeen | None
    mean_spread_bps: float | None = None
    entries_blocked: str | None = None
    no_maker: bool = False
    no_slices: bool = False
    actions: list[Action] = field(default_factory=list)
    next_due: int | None = None

    def due(self, at: int) -> bool:
        """Return whether a time has come. If not, it is recorded in ``next_due``."""
        if self.now >= at:
            return True
        self.next_due = at if self.next_due is None else min(self.next_due, at)
        return False

    @property
    def mid(self) -> Decimal | None:
        """Mid price of the current quote."""
        return None if self.quote is None else mid_of(self.quote)

    # --- acting ----------------------------------------------------------------------------------------------------------

    def place(
        self,
        leg: str,
        side: Side,
        kind: OrderType,
        quantity: Decimal,
        *,
        price: Decimal | None = None,
        trigger: Decimal | None = None,
        time_in_force: TimeInForce | None = None,
        reduce_only: bool = True,
    ) -> Order:
        """Create an order, the next attempt of its leg. It is journalled with the trade before it is sent."""
        order = self._intend(leg, side, kind, quantity, price, trigger, time_in_force, reduce_only)
        self.actions.append(Place(order.request()))
        return order

    def place_pair(self, target_leg: str, stop_leg: str, side: Side, quantity: Decimal, target: Decimal, trigger: Decimal) -> None:
        """Create a pair: a resting target and a stop, each of which cancels the other."""
        number = 1 + len({order.pair_id for order in self.trade.orders.values() if order.pair_id is not None})
        name = client_order_id(self.environment, self.trade.position.signal_id, "pair", number)
        limit = self._intend(target_leg, side, OrderType.LIMIT, quantity, target, None, TimeInForce.POST_ONLY, True)
        stop = self._intend(stop_leg, side, OrderType.STOP_MARKET, quantity, None, trigger, None, True)
        limit.pair_id = stop.pair_id = name
        self.actions.append(PlacePair(PairRequest(name, limit.request(), stop.request())))

    def _intend(
        self,
        leg: str,
        side: Side,
        kind: OrderType,
        quantity: Decimal,
        price: Decimal | None,
        trigger: Decimal | None,
        time_in_force: TimeInForce | None,
        reduce_only: bool,
    ) -> Order:
        attempt = self.trade.next_attempt(leg)
        reference = trigger if trigger is not None else price if time_in_force is TimeInForce.POST_ONLY and reduce_only else self.mid
        order = Order(
            client_order_id(self.environment, self.trade.position.signal_id, leg, attempt),
            leg,
            attempt,
            self.trade.symbol,
            side,
            kind,
            quantity,
            price,
            trigger,
            time_in_force,
            reduce_only,
            self.now,
            reference,
        )
        self.trade.orders[order.client_id] = order
        return order

    def cancel(self, order: Order) -> None:
        """Cancel an order. One that the venue has not confirmed is cancelled after its confirmation. A triggered stop cannot be cancelled."""
        if order.state is OrderState.WAITING:
            order.apply(Trigger.GIVE_UP, self.now)
            return
        if order.state in UNCONFIRMED:
            return
        if order.apply(Trigger.CANCEL, self.now):
            order.next_at, order.asked = self.now, ""
        if order.state is OrderState.CANCELLING and not order.asked and self.due(order.next_at):
            order.asked = "cancel"
            self.actions.append(Cancel(order.symbol, order.client_id, order.is_stop))

    def close_at_market(self, leg: str) -> None:
        """Start closing the trade; the first reason is kept."""
        if self.trade.closing is None:
            self.trade.closing = leg

    # --- refusals ----------------------------------------------------------------------------------------------------------

    def may_retry(self, leg: str) -> bool:
        """Return whether a rejected leg may be retried now."""
        return self.due(self.trade.retry_at.get(leg, 0))

    def was_refused(self, leg: str) -> int:
        """Count a rejection of a leg and delay its next attempt (doubling). Return the number of rejections in a row."""
        policy, trade = self.policy.protection, self.trade
        count = trade.refused.get(leg, 0) + 1
        trade.refused[leg] = count
        trade.retry_at[leg] = self.now + min(policy.close_retry_ms * 2 ** min(count - 1, 10), policy.close_retry_max_ms)
        return count

    def accepted(self, leg: str) -> None:
        """Reset the rejections of a leg."""
        self.trade.refused.pop(leg, None)
        self.trade.retry_at.pop(leg, None)

    def ask_position(self) -> None:
        """Request the symbol's fills and position, because the journal and the venue's answers disagree."""
        if self.now - self.trade.asked_position_at >= ASK_POSITION_MS:
            self.trade.asked_position_at = self.now
            self.actions.append(LoadPosition(self.trade.symbol, self.trade.started_at - self.policy.clock_margin_ms))

    def anomaly(self, reason: str) -> None:
        """Request a reconciliation."""
        self.actions.append(Anomaly(self.trade.symbol, reason))

"""What the parts of a trade's plan share: the moment, the prices, and the only three ways to act: place, cancel, ask."""

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

# Between two questions for the position of one symbol.
ASK_POSITION_MS = 1_000


@dataclass(slots=True)
class TradeContext:
    """One look at one trade at one moment.

    Attributes:
        quote: Newest prices of its symbol, None where they are stale.
        mean_spread_bps: Of the last hour, None where unknown.
        entries_blocked: Why no entry order may be sent now; None when it may.
        no_maker, no_slices: Degradations.
        actions: What is asked for so far.
        next_due: Earliest moment at which time alone changes something.
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
        """Return whether a moment has come; if not, it is remembered as one to come back at."""
        if self.now >= at:
            return True
        self.next_due = at if self.next_due is None else min(self.next_due, at)
        return False

    @property
    def mid(self) -> Decimal | None:
        """Middle of the fresh quote."""
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
        """Intend an order: the next attempt of its leg. It is journalled with the trade before it is sent."""
        order = self._intend(leg, side, kind, quantity, price, trigger, time_in_force, reduce_only)
        self.actions.append(Place(order.request()))
        return order

    def place_pair(self, target_leg: str, stop_leg: str, side: Side, quantity: Decimal, target: Decimal, trigger: Decimal) -> None:
        """Intend a pair: a resting target and a stop, of which each ends the other."""
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
        """Want an order gone. One without the venue's word is cancelled once that is there; a triggered stop cannot be."""
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
        """Begin to close the trade; the first reason stays."""
        if self.trade.closing is None:
            self.trade.closing = leg

    # --- refusals ----------------------------------------------------------------------------------------------------------

    def may_retry(self, leg: str) -> bool:
        """Return whether a leg that was refused may be tried again now."""
        return self.due(self.trade.retry_at.get(leg, 0))

    def was_refused(self, leg: str) -> int:
        """Count a refusal of a leg, put its next attempt off (doubling), and return how many there were in a row."""
        policy, trade = self.policy.protection, self.trade
        count = trade.refused.get(leg, 0) + 1
        trade.refused[leg] = count
        trade.retry_at[leg] = self.now + min(policy.close_retry_ms * 2 ** min(count - 1, 10), policy.close_retry_max_ms)
        return count

    def accepted(self, leg: str) -> None:
        """Forget the refusals of a leg."""
        self.trade.refused.pop(leg, None)
        self.trade.retry_at.pop(leg, None)

    def ask_position(self) -> None:
        """Ask for the symbol's fills and position: what we believe does not fit what the venue says."""
        if self.now - self.trade.asked_position_at >= ASK_POSITION_MS:
            self.trade.asked_position_at = self.now
            self.actions.append(LoadPosition(self.trade.symbol, self.trade.started_at - self.policy.clock_margin_ms))

    def anomaly(self, reason: str) -> None:
        """Ask for a reconciliation."""
        self.actions.append(Anomaly(self.trade.symbol, reason))

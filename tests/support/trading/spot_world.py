"""The world of ``execution_world`` with coins: its line, journal and time, around the simulated spot exchange in place of the tests' own exchange.

What the exchange says reaches the book through the venue's words and the adapter's reading of them, so both are tried too.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from producers.simulated.exchange.core.orders import NewOrder
from producers.simulated.exchange.core.rules import Contract, Reason, Refusal
from producers.simulated.exchange.spot import errors, wire_format
from producers.simulated.exchange.spot.engine import SpotExchange
from producers.simulated.exchange.spot.lists import NewList, SpotAccount
from sinks.venues.binance.errors import error_of
from sinks.venues.binance_spot import mapping
from sinks.venues.binance_spot.user_stream import facts_of
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.account.reconcile import Rounds, VenueSnapshot
from stream_apps.core.execution.orders.events import (
    Cancel,
    CancelAnswered,
    FillsLoaded,
    GuardChanged,
    LoadFills,
    LoadPosition,
    Place,
    PlaceFailed,
    PlacePair,
    PositionLoaded,
    Query,
    QueryAnswered,
    QuoteSeen,
    SignalReceived,
)
from stream_apps.core.execution.orders.venue_reports import OrderReport, OrderRequest, OrderType, PositionReport, TimeInForce
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account
from stream_apps.core.execution.state.trade import Trade
from tests.support.trading.execution_world import SYMBOL, T0, World, signal

D = Decimal
ACCOUNT = Account("simulated", "BINANCE", "BINANCE_SPOT-simulated", "t", is_spot=True)
CONTRACT = Contract.of(SYMBOL, "0.1", "0.00001")
DESK = "desk"


class SpotWorld(World):
    """A book, a spot exchange, and the line between them."""

    def __init__(
        self,
        policy: LivePolicy | None = None,
        *,
        contract: Contract = CONTRACT,
        fee: str = "0.001",
        coins: str = "0",
        queue: str = "through",
        pairs: bool = True,
        stops: bool = True,
    ) -> None:
        self.policy = policy or LivePolicy()
        row = wire_format.symbol_row(SpotExchange([contract]).market(SYMBOL))
        row["ocoAllowed"] = pairs and contract.lists
        row["orderTypes"] = [one for one in row["orderTypes"] if stops or one != "STOP_LOSS"]
        self.rules = {SYMBOL: mapping.rules_of(row)}
        self.spot = SpotExchange([contract], queue)
        self.spot.add_account(SpotAccount(DESK, maker=D(fee), taker=D(fee)))
        self.spot.deposit(DESK, D(10_000), T0)
        self.spot.deposit(DESK, D(coins), T0, "BTC")
        self.now = T0
        self.journal, self.pending, self.records = {}, [], {}
        self.anomalies: list[Any] = []
        self.away, self.unwritten, self.waiting = False, {}, []
        self._stream: list[Any] = []
        self.book = ExecutionBook(ACCOUNT, self.policy, self.rules)
        self.guard_ok()
        self.rounds = Rounds(3)
        self.taken = 0
        self.mid = D(50_000)
        self.price(50_000)

    # --- the market ----------------------------------------------------------------------------------------------------------

    def price(self, mid: Any, *, size: str = "100", tell: bool = True, **_: Any) -> None:
        self.mid = D(mid)
        bids, asks = [(self.mid - D("0.1"), D(size))], [(self.mid + D("0.1"), D(size))]
        market = self.spot.market(SYMBOL)
        market.mark = self.mid
        self.spot.on_book(SYMBOL, bids, asks, self.now)
        self.spot.on_trade(SYMBOL, self.mid, D("0.001"), "BUY", self.now)
        if tell:
            self.quote()

    def quote(self, symbol: str = SYMBOL) -> None:
        self.give(QuoteSeen(symbol, self.mid - D("0.1"), self.mid + D("0.1"), self.now))

    def advance(self, ms: int, *, guard: bool = True, quotes: bool = True) -> None:
        """Let time pass; without ``quotes`` the prices grow stale."""
        from stream_apps.core.execution.orders.events import Tick

        self.now += ms
        if quotes:
            self.quote()
        if guard:
            self.give(GuardChanged(False, False, self.now))
        self.give(Tick())

    def signal(self, number: int = 1, **more: Any) -> None:
        record = signal(number, at=self.now, **more)
        self.give(SignalReceived({**record, "instrument": f"BINANCE:{SYMBOL}"}))

    # --- the line --------------------------------------------------------------------------------------------------------------

    @property
    def stream(self) -> list[Any]:
        for event in self.spot.drain():
            for _, message in wire_format.messages(event, self.now):
                self._stream += [one for one in facts_of(message) if not hasattr(one, "wallet")]
        return self._stream

    def perform(self, index: int = 0, how: str = "ok") -> None:
        action = self.pending.pop(index)
        match action:
            case Place():
                self._send([action.request.client_order_id], lambda: [self._one(action.request)], how)
            case PlacePair():
                pair = action.pair
                limit, stop = self._new(pair.target), self._new(pair.stop)
                asked = NewList(limit, stop, pair.stop.trigger_price or D(0), pair.client_list_id)

                def both() -> list[OrderReport]:
                    _, orders = self.spot.place_list(DESK, asked, self.now)
                    return [mapping.order_of(wire_format.order_row(one, queried=False)) for one in orders]

                self._send([pair.target.client_order_id, pair.stop.client_order_id], both, how)
            case Cancel():
                done = None
                if how in ("ok", "lost"):
                    try:
                        self.spot.cancel(DESK, SYMBOL, None, action.client_id, self.now)
                        done = self._query(action.client_id)
                    except Refusal as refusal:
                        assert refusal.reason is Reason.UNKNOWN_ORDER
                self.give(CancelAnswered(action.client_id, done if how == "ok" else None, failed=how != "ok"))
            case Query():
                self.give(QueryAnswered(action.client_id, self._query(action.client_id) if how == "ok" else None, failed=how != "ok"))
            case LoadFills() | LoadPosition():
                self.give(FillsLoaded(SYMBOL, self.fills() if how == "ok" else [], failed=how != "ok"))
                if isinstance(action, LoadPosition):
                    self.give(PositionLoaded(SYMBOL, self.holding(), failed=how != "ok"))

    def _send(self, names: list[str], sending: Any, how: str) -> None:
        failed: dict[str, Any] | None = None
        reports: list[OrderReport] = []
        if how in ("limited", "unreachable"):
            failed = {"kind": how, "retry_after_ms": 1_000 if how == "limited" else 0}
        elif how == "gone":
            failed = {"kind": "unknown"}
        else:
            try:
                reports = sending()
            except Refusal as refusal:
                failed = self.refused(refusal)
            if how == "lost":
                failed = {"kind": "unknown"}
        for report in reports if failed is None else []:
            self.give(report)
        for name in names if failed is not None else []:
            self.give(PlaceFailed(name, **failed))  # type: ignore[arg-type]

    @staticmethod
    def refused(refusal: Refusal) -> dict[str, Any]:
        """The refusal as the adapter reads the venue's words for it."""
        told = errors.refused(refusal)
        made: Any = error_of(400, json.dumps({"code": told.code, "msg": told.text}).encode(), None)
        return {"kind": "refused", "reason": made.reason, "message": made.message}

    def _one(self, request: OrderRequest) -> OrderReport:
        order = self.spot.place(DESK, self._new(request), self.now, request.trigger_price)
        return mapping.order_of(wire_format.order_row(order, queried=False))

    @staticmethod
    def _new(one: OrderRequest) -> NewOrder:
        tif = {TimeInForce.POST_ONLY: "GTX", TimeInForce.IOC: "IOC"}.get(one.time_in_force or TimeInForce.GTC, "GTC")
        kind = "LIMIT" if one.type is OrderType.LIMIT else "MARKET"
        return NewOrder(one.symbol, one.side.value, kind, one.quantity, one.price, tif, client_id=one.client_order_id)

    def _query(self, client_id: str) -> OrderReport | None:
        try:
            return mapping.order_of(wire_format.order_row(self.spot.query(DESK, SYMBOL, None, client_id), queried=True))
        except Refusal:
            return None

    def fills(self) -> list[Any]:
        names = self.spot.orders
        owner = self.spot.owner(DESK)
        return [mapping.fill_of(wire_format.trade_row(one, names[one.order_id]), names[one.order_id].client_id) for one in owner.fills]

    def holding(self) -> PositionReport | None:
        lot = self.rules[SYMBOL].lot
        held = self.coins // lot * lot
        return PositionReport(SYMBOL, held, self.mid, self.mid, D(0), 1, None, None, self.now) if held else None

    def crash(self) -> None:
        self.pending.clear()
        self.stream.clear()
        self.book = ExecutionBook(ACCOUNT, self.policy, self.rules)
        self.book.load(Trade.from_json(json.loads(text)) for text in self.journal.values())
        self.rounds = Rounds(3)
        self.book.restarted(self.now)
        self.reconcile()
        self.guard_ok()
        self.quote()

    def reconcile(self) -> list[Any]:
        self.give(FillsLoaded(SYMBOL, self.fills()))
        from stream_apps.core.execution.account.reconcile import compare, confirmed

        found = confirmed(compare(self.book, self._facts()), compare(self.book, self._facts()))
        for finding, action in self.rounds.take(found):
            if action == "cancel":
                self.spot.cancel(DESK, SYMBOL, None, finding.subject, self.now)
            elif action == "query":
                self.give(QueryAnswered(finding.subject, self._query(finding.subject)))
            elif action == "write_off":
                self._take(self.book.write_off(SYMBOL, self.coins, self.fills(), self.mid, self.now))
            else:
                assert action in ("wait", "give_up", "report"), action
        return found

    def _facts(self) -> VenueSnapshot:
        open_orders = [mapping.order_of(wire_format.order_row(one, queried=True)) for one in self.spot.open_orders(DESK)]
        held = self.holding()
        return VenueSnapshot(open_orders, [held] if held else [], self.now)

    # --- truth -------------------------------------------------------------------------------------------------------------------

    @property
    def coins(self) -> Decimal:
        return self.spot.owner(DESK).balances["BTC"]

    @property
    def money(self) -> Decimal:
        return self.spot.owner(DESK).balances["USDT"]

    def resting(self) -> dict[str, Any]:
        """Open orders at the venue by leg: those that sell."""
        return {self.book.order(one.client_id)[1].leg: one for one in self.spot.open_orders(DESK) if one.side == "SELL"}  # type: ignore[index]

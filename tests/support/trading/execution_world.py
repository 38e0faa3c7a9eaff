"""A book and an exchange with an unreliable line between them, for the tests of the order machines.

Every action of the book waits in ``pending`` until the test performs it, well or badly; every event of the exchange waits in ``stream`` until it is
delivered, in any order and number. The journal is what survives a crash: the JSON of the touched trades, written after each event and before its actions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.account.reconcile import Rounds, VenueSnapshot, compare, confirmed
from stream_apps.core.execution.orders.events import (
    Action,
    Anomaly,
    Cancel,
    CancelAnswered,
    Emit,
    EntriesBlocked,
    Event,
    FillsLoaded,
    FundingLoaded,
    GuardChanged,
    LoadFills,
    LoadPosition,
    Place,
    PlaceFailed,
    PositionLoaded,
    Query,
    QueryAnswered,
    QuoteSeen,
    SignalReceived,
    Tick,
)
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account
from stream_apps.core.execution.state.trade import Trade
from tests.support.trading.execution_exchange import D, Exchange, No, rules_of

ACCOUNT = Account("simulated", "BINANCE", "main", "t")
T0 = 1_750_000_000_000
SYMBOL = "BTCUSDT"


def signal(number: int = 1, *, symbol: str = SYMBOL, at: int = T0, **more: Any) -> dict[str, Any]:
    instrument = f"BINANCE:{symbol}-PERP"
    strategy = more.get("strategy_id", "s1")
    record = {
        "signal_id": f"{instrument}|{strategy}|{at + number}",
        "instrument": instrument,
        "event_time": at,
        "receive_time": at,
        "strategy_id": strategy,
        "strategy_name": "S One",
        "strategy_version": "v54_factory",
        "config_revision": 1,
        "config_hash": "abc",
        "decided_at": at,
        "direction": "LONG",
        "score": 80.0,
        "tier": "standard",
        "entry": True,
        "flip": False,
        "regime": "range",
        "price": 50_000.0,
        "atr": 100.0,
        "risk_distance": 200.0,
        "tp1_ratio": 0.75,
        "tp2_ratio": 1.5,
        "timeout_minutes": 240,
        "initial_balance": 10_000.0,
        "risk_per_trade": 0.02,
        "risk_multiple": 1.0,
        "max_positions": 4,
    }
    return {**record, **more}


class World:
    def __init__(self, policy: LivePolicy | None = None, symbols: tuple[str, ...] = (SYMBOL,), price: int = 50_000) -> None:
        self.policy = policy or LivePolicy()
        self.rules = {symbol: rules_of(symbol) for symbol in symbols}
        self.exchange = Exchange(now=T0)
        self.now = T0
        self.journal: dict[str, str] = {}
        self.pending: list[Action] = []
        self.records: dict[str, list[dict[str, Any]]] = {}
        self.anomalies: list[Anomaly] = []
        self.book = ExecutionBook(ACCOUNT, self.policy, self.rules)
        self.guard_ok()
        self.rounds = Rounds(3)
        self.taken = 0
        # While the database is away: nothing is journalled or written, and no entry is sent.
        self.away = False
        self.unwritten: dict[str, str] = {}
        self.waiting: list[tuple[str, dict[str, Any]]] = []
        for symbol in symbols:
            self.price(price, symbol=symbol)

    # --- events ------------------------------------------------------------------------------------------------------------

    def give(self, event: Event, *, journal: bool = True) -> None:
        """Give the book an event and journal what it touched; with ``journal=False`` the process dies before the commit."""
        actions = self.book.handle(event, self.now)
        self._take(actions, journal)

    def _take(self, actions: list[Action], journal: bool = True) -> None:
        touched = self.book.touched()
        if not journal:
            return
        for trade in touched:
            (self.unwritten if self.away else self.journal)[trade.key] = json.dumps(trade.to_json())
        for action in actions:
            if isinstance(action, Emit) and self.away:
                self.waiting.append((action.topic, action.record))
            elif isinstance(action, Place) and self.away and not action.request.reduce_only:
                self.give(PlaceFailed(action.request.client_order_id, "unreachable"))
            elif isinstance(action, Emit):
                self.records.setdefault(action.topic, []).append(action.record)
            elif isinstance(action, Anomaly):
                self.anomalies.append(action)
            else:
                self.pending.append(action)

    def database(self, there: bool) -> None:
        """The database goes, or comes back: then what was decided meanwhile is written."""
        self.away = not there
        self.give(EntriesBlocked("journal", None if there else "cannot be written"))
        if there:
            self.journal |= self.unwritten
            for topic, record in self.waiting:
                self.records.setdefault(topic, []).append(record)
            self.unwritten, self.waiting = {}, []

    def signal(self, number: int = 1, **more: Any) -> None:
        self.give(SignalReceived(signal(number, at=self.now, **more)))

    def guard_ok(self, **more: Any) -> None:
        self.give(GuardChanged(**{"block_entries": False, "close_all": False, "time": self.now, **more}))

    def price(self, mid: Decimal | int | str, *, symbol: str = SYMBOL, spread: Decimal | int = 1, tell: bool = True) -> None:
        mid, spread = D(mid), D(spread)
        self.exchange.set_price(symbol, mid - spread / 2, mid + spread / 2)
        if tell:
            self.quote(symbol)

    def quote(self, symbol: str = SYMBOL) -> None:
        bid, ask = self.exchange.bid[symbol], self.exchange.ask[symbol]
        self.give(QuoteSeen(symbol, bid, ask, self.now, (bid + ask) / 2))

    def advance(self, ms: int, *, guard: bool = True) -> None:
        """Let time pass; the guard keeps speaking, the market stays."""
        self.now += ms
        self.exchange.now = self.now
        if guard:
            self.guard_ok()
        for symbol in self.rules:
            self.quote(symbol)
        self.give(Tick())

    # --- the line ------------------------------------------------------------------------------------------------------------

    @property
    def stream(self) -> list[Any]:
        return self.exchange.events

    def deliver(self, index: int = 0, *, keep: bool = False) -> None:
        event = self.stream[index] if keep else self.stream.pop(index)
        self.give(event)

    def perform(self, index: int = 0, how: str = "ok") -> None:
        """Perform a pending action: ``ok``; ``lost``: it happens and its answer is lost; ``gone``: it does not happen and nobody knows;
        ``limited``, ``unreachable``: it does not happen and that is known."""
        action = self.pending.pop(index)
        match action:
            case Place():
                self._place(action, how)
            case Cancel():
                done = self.exchange.cancel(action.client_id) if how in ("ok", "lost") else None
                self.give(CancelAnswered(action.client_id, done if how == "ok" else None, failed=how != "ok"))
            case Query():
                self.give(
                    QueryAnswered(action.client_id, self.exchange.query(action.client_id) if how == "ok" else None, failed=how != "ok")
                )
            case LoadFills() | LoadPosition():
                fills = [one for one in self.exchange.fills if one.symbol == action.symbol and one.time >= action.since]
                self.give(FillsLoaded(action.symbol, fills if how == "ok" else [], failed=how != "ok"))
                if isinstance(action, LoadPosition):
                    self.give(PositionLoaded(action.symbol, self.exchange.position(action.symbol), failed=how != "ok"))

    def _place(self, action: Place, how: str) -> None:
        client_id = action.request.client_order_id
        if how in ("limited", "unreachable"):
            self.give(PlaceFailed(client_id, how, retry_after_ms=1_000 if how == "limited" else 0))
            return
        if how == "gone":
            self.give(PlaceFailed(client_id, "unknown"))
            return
        try:
            report = self.exchange.place(action.request)
        except No as error:
            if how == "ok":
                self.give(PlaceFailed(client_id, "refused", error.reason, error.reason))
            else:
                self.give(PlaceFailed(client_id, "unknown"))
            return
        self.give(report if how == "ok" else PlaceFailed(client_id, "unknown"))

    def crash(self) -> None:
        """Kill the process: what was pending is not done, what was in memory is gone. Start again from the journal and reconcile."""
        self.pending.clear()
        self.stream.clear()
        self.away, self.unwritten, self.waiting = False, {}, []
        self.book = ExecutionBook(ACCOUNT, self.policy, self.rules)
        self.book.load(Trade.from_json(json.loads(text)) for text in self.journal.values())
        self.rounds = Rounds(3)
        self.book.restarted(self.now)
        self.reconcile()
        self.guard_ok()
        for symbol in self.rules:
            self.quote(symbol)

    def reconcile(self) -> list[Any]:
        """Load all fills and payments, compare twice, act on what both looks found."""
        for symbol in self.rules:
            self.give(FillsLoaded(symbol, [one for one in self.exchange.fills if one.symbol == symbol]))
        self.give(FundingLoaded(list(self.exchange.payments), self.now))
        looks = [compare(self.book, self._facts()) for _ in range(2)]
        found = confirmed(*looks)
        for finding, action in self.rounds.take(found):
            if action == "cancel":
                self.exchange.cancel(finding.subject)
            elif action == "query":
                self.give(QueryAnswered(finding.subject, self.exchange.query(finding.subject)))
            elif action in ("reclaim", "take_over_and_close"):
                position = self.exchange.position(finding.symbol)
                assert position is not None
                self.taken += 1
                self._take(self.book.take_over(position, close=action != "reclaim", now=self.now))
            elif action == "write_off":
                held = self.exchange.positions.get(finding.symbol, D(0))
                fills = [one for one in self.exchange.fills if one.symbol == finding.symbol]
                self._take(self.book.write_off(finding.symbol, held, fills, self.exchange.mid(finding.symbol), self.now))
        return found

    def _facts(self) -> VenueSnapshot:
        positions = [self.exchange.position(symbol) for symbol in self.rules]
        return VenueSnapshot(self.exchange.open_orders(), [one for one in positions if one is not None], self.now)

    # --- rest ----------------------------------------------------------------------------------------------------------------

    def settle(self, *, until: Callable[[], bool] | None = None, limit: int = 400, step_ms: int = 50) -> None:
        """Perform and deliver everything, well, until nothing is left to do (or ``until``)."""
        for _ in range(limit):
            while self.stream or self.pending:
                while self.stream:
                    self.deliver()
                if self.pending:
                    self.perform()
                if until is not None and until():
                    return
            if until is None and not any(self._busy()):
                return
            if until is not None and until():
                return
            self.advance(step_ms)
        assert until is None or until(), "not in time"

    def _busy(self) -> list[bool]:
        return [
            bool(trade.queued or trade.closing or not trade.entry.is_done or (not trade.is_settled and trade.exposure <= 0))
            or any(order.booked < order.reported for order in trade.orders.values())
            or any(order.state.value in ("INTENDED", "UNKNOWN", "WAITING", "CANCELLING") for order in trade.live)
            for trade in self.book.active
        ]

    def trade(self) -> Trade:
        (trade,) = self.book.active
        return trade

    @property
    def position(self) -> Decimal:
        return self.exchange.positions.get(SYMBOL, D(0))

    def stops(self) -> list[Any]:
        return [one for one in self.exchange.open_orders() if one.trigger_price is not None]

    def closed(self) -> list[dict[str, Any]]:
        return self.records.get("trades_closed", [])

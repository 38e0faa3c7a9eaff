"""A simulated exchange on real sockets, a real broker and a real database around live executors, which are processes or coroutines of the test."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.server import CONTRACTS, SimulatedExchange
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey
from schemas.partition import base_of_instrument
from schemas.process.service import Service
from schemas.secret import Secrets
from schemas.settings import Settings
from sinks.live.service import LiveExecutor
from sinks.venues.binance.venue import BinanceVenue
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy
from stream_apps.core.execution.state.records import Account
from stream_apps.core.execution.state.trade import Trade
from tests.support.paths import ROOT

D = Decimal
SYMBOL, INSTRUMENT = "BTCUSDT", "BINANCE:BTCUSDT-PERP"
KEY, SECRET = "key-of-the-lab", "secret-of-the-lab"
ACCOUNT = Account("simulated", "BINANCE", "BINANCE-simulated", "lab")
MIGRATIONS = ROOT / "deploy" / "database" / "migrations"
ROOMY = Budget(max_notional=D(100_000), max_margin=D(100_000))
MARKET = LivePolicy(entry=EntryPolicy(style="market"), budget=ROOMY)
TOPICS = ("orders", "fills", "positions", "trades_closed", "execution_cost_events", "reconciliations")


def adapter(rest_url: str, ws_url: str, kind: type[BinanceVenue] = BinanceVenue) -> BinanceVenue:
    """Return the adapter of the lab's account, not open yet."""
    return kind(rest_url, f"{ws_url}/private", KEY, SECRET, Secrets())


def prepare(settings: Settings) -> None:
    """Make the journal's tables, without those of topics."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        text = (MIGRATIONS / "0114_live.sql").read_text()
        connection.execute(text[: text.index("SELECT perpflow_make_table")])
        connection.execute((MIGRATIONS / "0118_live_routes.sql").read_text())
        risk = (MIGRATIONS / "0102_risk.sql").read_text()
        connection.execute(risk[risk.index("CREATE TABLE IF NOT EXISTS risk_switch") :])


class Lab:
    """The surroundings. The exchange runs in a thread of its own, so that it outlives every executor.

    Attributes:
        account, instrument: Whose, and of which market.

    Args:
        settings: Of the test's environment.
        faults: Of the exchange from the beginning.
        contracts: Besides those that the exchange lists by itself.
    """

    account, instrument = ACCOUNT, INSTRUMENT

    def __init__(self, settings: Settings, faults: tuple[str, ...] = (), contracts: tuple[Contract, ...] = ()) -> None:
        self.settings = settings
        spec = AccountSpec("lab", keys=(ApiKey(KEY, "lab", SECRET),), deposit=D(10_000))
        self.venue = SimulatedExchange([spec], (*CONTRACTS, *contracts), faults=faults)
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 0, "enable.idempotence": True})
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True), threading.Thread(target=self._speak, daemon=True)]
        self.mids = {SYMBOL: D(50_000)}
        self.guarded, self.guard = True, {"block_entries": False, "close_all": False}
        self._sequence, self._quotes = 0, 0
        self._signals = 0
        self._tails: dict[str, Tail] = {}

    # --- running -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Lab:
        self._threads[0].start()
        assert self._ready.wait(20)
        self.price(self.mid)
        self._threads[1].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._producer.flush(5)

    def _serve(self) -> None:
        async def serve() -> None:
            async with self.venue:
                self._ready.set()
                while not self._stop.is_set():
                    await asyncio.sleep(0.02)

        self._loop.run_until_complete(serve())

    def _speak(self) -> None:
        """The guard and the market go on."""
        while not self._stop.is_set():
            if self.guarded:
                self.say()
            self.quote()
            self._stop.wait(0.3)

    def on_exchange(self, call: Callable[[], Any]) -> Any:
        """Run something in the exchange's thread and return its result."""
        done: Any = asyncio.run_coroutine_threadsafe(_as_coroutine(call), self._loop)
        return done.result(10)

    @property
    def mid(self) -> Decimal:
        """Price of the lab's first symbol."""
        return self.mids[SYMBOL]

    @staticmethod
    def instrument_of(symbol: str) -> str:
        """Instrument of a symbol of the exchange."""
        return f"BINANCE:{symbol}-PERP"

    # --- the world -----------------------------------------------------------------------------------------------------------

    def price(self, mid: Decimal | int, symbol: str = SYMBOL, size: Decimal | None = None) -> None:
        """Move the market."""
        self.mids[symbol] = D(mid)
        self.on_exchange(lambda: self.venue.set_price(symbol, D(mid), size))
        self.quote()

    def quote(self) -> None:
        """Write the market's best prices."""
        now = _now()
        self._quotes += 1
        for symbol, mid in list(self.mids.items()):
            tick = self.venue.exchange.markets[symbol].contract.tick
            record = {
                "instrument": self.instrument_of(symbol),
                "event_time": now,
                "receive_time": now,
                "update_id": self._quotes,
                "bid_price": float(mid - tick),
                "bid_quantity": 1.0,
                "ask_price": float(mid + tick),
                "ask_quantity": 1.0,
            }
            self._write("quotes", record, record["instrument"])

    def say(self, **more: Any) -> None:
        """Let the guard speak."""
        self.guard.update(more)
        self._sequence += 1
        now = _now()
        record = {
            "account": self.account.name,
            "event_time": now,
            "receive_time": now,
            "sequence": _now(),
            "guard": "lab",
            "state": "normal",
            "close_positions": [],
            "allow_maker": True,
            "allow_twap": True,
            "size_multiple": 1.0,
            "reasons": [],
            "memory": "{}",
            **self.guard,
        }
        self._write("risk_state", record, self.account.name, partition=0)

    def signal(self, **more: Any) -> str:
        """Write a signal; return its id."""
        self._signals += 1
        now = _now()
        record = {
            "instrument": self.instrument,
            "event_time": now,
            "receive_time": now,
            "strategy_id": "s1",
            "strategy_name": "S One",
            "strategy_version": "v54_factory",
            "config_revision": 1,
            "config_hash": "abc",
            "decided_at": now,
            "direction": "LONG",
            "score": 80.0,
            "tier": "standard",
            "entry": True,
            "flip": False,
            "regime": "range",
            "price": float(self.mid),
            "atr": 100.0,
            "risk_distance": 200.0,
            "tp1_ratio": 0.75,
            "tp2_ratio": 1.5,
            "timeout_minutes": 240,
            "initial_balance": 10_000.0,
            "risk_per_trade": 0.02,
            "risk_multiple": 1.0,
            "max_positions": 4,
            **more,
        }
        record["signal_id"] = f"{record['instrument']}|{record['strategy_id']}|{now + self._signals}"
        self.send(record)
        return str(record["signal_id"])

    def send(self, signal: dict[str, Any]) -> None:
        """Write a signal that is made already."""
        self._write("signals", signal, signal["instrument"])
        self._producer.flush(10)

    def _write(self, topic: str, record: dict[str, Any], key: str, partition: int | None = None) -> None:
        if partition is None:
            partition = self.settings.partition_of(base_of_instrument(key))
        value = self.settings.codec.encode(topic, record)
        self._producer.produce(self.settings.topic(topic), value, key.encode(), partition)
        self._producer.poll(0)

    # --- truth -----------------------------------------------------------------------------------------------------------------

    def truth(self) -> dict[str, Any]:
        """The exchange's own books."""
        return self.on_exchange(lambda: self.venue.truth("lab"))

    @property
    def positions(self) -> dict[str, Decimal]:
        """Open quantities at the exchange, by symbol."""
        return {symbol: D(held["quantity"]) for symbol, held in self.truth()["positions"].items() if D(held["quantity"])}

    @property
    def position(self) -> Decimal:
        """Open quantity at the exchange."""
        return self.positions.get(SYMBOL, D(0))

    def held_and_covered(self) -> tuple[Decimal, Decimal]:
        """What is open at the exchange, and for how much of it a stop rests there."""
        truth = self.truth()
        held = truth["positions"].get(SYMBOL)
        return abs(D(held["quantity"])) if held else D(0), sum((D(one["quantity"]) for one in truth["open_conditionals"]), D(0))

    def stops(self) -> list[dict[str, Any]]:
        """Conditional orders that rest."""
        return list(self.truth()["open_conditionals"])

    def faults(self, *faults: str) -> None:
        """Put faults in force."""
        self.on_exchange(lambda: self.venue.control.faults(list(faults)))

    def clear_faults(self) -> None:
        """Take them out of force."""
        self.on_exchange(self.venue.control.clear_faults)

    # --- executors ---------------------------------------------------------------------------------------------------------------

    def executor(self, service: Service, policy: LivePolicy = MARKET, **more: Any) -> LiveExecutor:
        """Return an executor of the lab's account."""
        venue = adapter(self.venue.rest_url, self.venue.ws_url)
        return LiveExecutor(self.settings, service, self.account, venue, policy, **more)

    @contextmanager
    def running(self, policy: LivePolicy = MARKET, **more: Any) -> Iterator[LiveExecutor]:
        """Run an executor in a thread; stop it cleanly afterwards."""
        service = Service("live")
        made: list[LiveExecutor] = []
        failed: list[BaseException] = []

        def run() -> None:
            async def work() -> None:
                made.append(self.executor(service, policy, **more))
                await made[0].run()

            try:
                asyncio.run(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            wait_for(lambda: failed or (made and made[0].book.guard is not None and "reconcile" not in made[0].book.blocks), 30)
            if failed:
                raise failed[0]
            yield made[0]
        finally:
            service.stop()
            thread.join(20)
        if failed:
            raise failed[0]

    # --- what was written ----------------------------------------------------------------------------------------------------------

    def journal(self) -> list[Trade]:
        """Every trade of the journal."""
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            return [Trade.from_json(state) for (state,) in connection.execute("SELECT state FROM live_trades ORDER BY trade_key")]

    def query(self, text: str) -> list[Any]:
        """Ask the database."""
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            return connection.execute(text).fetchall()

    def written(self, topic: str) -> list[dict[str, Any]]:
        """Every record of a topic so far."""
        if topic not in self._tails:
            self._tails[topic] = Tail(self.settings, topic)
        return self._tails[topic].records()


class Tail:
    """Follows a topic from its beginning; each look goes to the end of the log."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic, self._name = settings, topic, settings.topic(topic)
        self._consumer = Consumer(
            {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "lab", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
        )
        self._next = {one: 0 for one in self._consumer.list_topics(self._name, 10).topics[self._name].partitions}
        self._consumer.assign([TopicPartition(self._name, one, 0) for one in self._next])
        self._records: list[dict[str, Any]] = []

    def records(self) -> list[dict[str, Any]]:
        ends = {one: self._consumer.get_watermark_offsets(TopicPartition(self._name, one), 10)[1] for one in self._next}
        while any(self._next[one] < end for one, end in ends.items()):
            for message in self._consumer.consume(1000, 0.05):
                if message.error() is None:
                    self._records.append(self._settings.codec.decode(self._topic, message.value()))
                    self._next[message.partition()] = message.offset() + 1
        return list(self._records)


def assert_books_equal(lab: Lab) -> None:
    """Journal and exchange agree: every execution once, position, orders, money to the last digit."""
    truth, trades = lab.truth(), lab.journal()
    booked = {(trade.symbol, fill.trade_id): fill for trade in trades for fill in trade.fills.values()}
    assert sum(len(trade.fills) for trade in trades) == len(booked)
    told = {(one["symbol"], int(one["id"])): one for one in truth["fills"]}
    assert booked.keys() == told.keys()
    for identity, one in told.items():
        fill = booked[identity]
        assert (fill.price, fill.quantity, fill.fee) == (D(one["price"]), D(one["qty"]), D(one["commission"])), one
    held: dict[str, Decimal] = {}
    for trade in trades:
        held[trade.symbol] = held.get(trade.symbol, D(0)) + trade.position.sign * trade.booked_exposure
    assert {symbol: one for symbol, one in held.items() if one} == lab.positions
    open_ids = {one["clientOrderId"] for one in truth["open_orders"]} | {one["clientAlgoId"] for one in truth["open_conditionals"]}
    assert open_ids == {order.client_id for trade in trades for order in trade.live}
    if not lab.positions:
        money = sum((trade.position.realised for trade in trades), D(0))
        assert money == D(truth["wallet"]) - 10_000, (money, truth["wallet"])


def wait_for(condition: Callable[[], Any], timeout: float = 120.0, what: str = "") -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what or "not in time"
        time.sleep(0.02)


async def _as_coroutine(call: Callable[[], Any]) -> Any:
    return call()


def _now() -> int:
    return time.time_ns() // 1_000_000


def dump(lab: Lab) -> str:
    """Everything, for a failed assertion."""
    return json.dumps({"truth": lab.truth(), "journal": [trade.to_json() for trade in lab.journal()]}, indent=1, default=str)

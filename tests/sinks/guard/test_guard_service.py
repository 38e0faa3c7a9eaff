"""The guard as a real process: Kafka, PostgreSQL, the simulated exchange on sockets. Every rule trips and recovers; causes block within a second."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.database.migrate import migrate
from producers.simulated.exchange.server import SimulatedExchange
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey
from schemas import catalogue
from schemas.secret import Secrets
from schemas.settings import Settings
from sinks.commands.risk import give
from sinks.guard.venue_watch import AccountWatch
from sinks.venues.binance.venue import BinanceVenue
from stream_apps.core.execution.account.guard import GuardInputs, GuardLimits, GuardMemory, evaluate
from stream_apps.core.execution.orders.venue_reports import OrderRequest, OrderType, Side
from tests.support.paths import ROOT

pytestmark = pytest.mark.stack

ACCOUNT, MODE, SYMBOL = "BINANCE-simulated", "simulated", "BTCUSDT"
KEY, SECRET = "a-key-of-the-guard-test", "a-secret-of-the-guard-test"
INSTRUMENT = "BINANCE:BTCUSDT-PERP"


class Exchange:
    """The simulated exchange in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.venue = SimulatedExchange([AccountSpec("desk", keys=(ApiKey(KEY, "desk", SECRET),))])
        self._do(self.venue.__aenter__())
        self.call(lambda: self.venue.set_price(SYMBOL, "60000"))

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def call(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return self._do(run())

    def stop(self) -> None:
        self._do(self.venue.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    one = Exchange()
    yield one
    one.stop()


class World:
    """Writes what the guard reads, reads what it writes."""

    def __init__(self, settings: Settings, exchange: Exchange) -> None:
        self.settings, self.exchange = settings, exchange
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
        self._consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": f"look-{time.time_ns()}"})
        self._consumer.assign([TopicPartition(settings.topic("risk_state"), 0, 0)])
        self.states: list[dict[str, Any]] = []
        self.fresh = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
        self._thread.start()

    def write(self, topic: str, record: dict[str, Any]) -> None:
        key = str(record.get("instrument", record.get("position_id", ""))).encode()
        partition = self.settings.partition_of("BTC")
        value = self.settings.codec.encode(topic, record)
        self._producer.produce(self.settings.topic(topic), value, key, partition, timestamp=record["event_time"])
        self._producer.flush(10)

    def _keep_fresh(self) -> None:
        while not self._stop.wait(0.5):
            if self.fresh:
                self.write("features", blank(self.settings, "features", instrument=INSTRUMENT, event_time=now(), receive_time=now()))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 120.0) -> dict[str, Any]:
        """Return the first state that fulfils a condition, of those not looked at yet."""
        deadline = time.monotonic() + seconds
        last: dict[str, Any] = {}
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.05)
            if message is None or message.error() is not None or message.key() != ACCOUNT.encode():
                continue
            last = self.settings.codec.decode("risk_state", message.value())
            self.states.append(last)
            if condition(last):
                return last
        raise AssertionError(f"not seen in {seconds} s; the last state: {last}")


def now() -> int:
    return int(time.time() * 1000)


def rules(state: dict[str, Any]) -> set[str]:
    return {one["rule"] for one in state["reasons"]}


def normal(state: dict[str, Any]) -> bool:
    return bool(state["state"] == "normal")


def holds(*wanted: str) -> Callable[[dict[str, Any]], bool]:
    return lambda state: rules(state) == set(wanted)


def blank(settings: Settings, topic: str, **values: Any) -> dict[str, Any]:
    """Return a record with neutral values in every field that is not given."""
    neutral: dict[str, Any] = {"string": "", "long": 0, "int": 0, "double": 0.0, "float": 0.0, "boolean": False, "bytes": b""}
    record: dict[str, Any] = {}
    for field in catalogue.schema(topic)["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            record[field["name"]] = None
            continue
        name = kind["type"] if isinstance(kind, dict) else kind
        record[field["name"]] = [] if name == "array" else {} if name == "map" else neutral[name]
    return record | values


def closed(settings: Settings, trade_id: str, net_r: float, at: int | None = None, account: str = ACCOUNT) -> dict[str, Any]:
    at = at or now()
    return blank(
        settings,
        "trades_closed",
        trade_id=f"{account}|{trade_id}",
        instrument=INSTRUMENT,
        mode=MODE,
        event_time=at,
        receive_time=at,
        net_r=net_r,
    )


@contextmanager
def guarding(settings: Settings, exchange: Exchange, variables: dict[str, str], *more: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "deploy.cli", "risk", "guard", "--mode", MODE, "--base-url", exchange.venue.rest_url,
            "--unreachable-s", "3", "--stale-s", "3", *more,
        ],
        cwd=ROOT,
        env={**os.environ, **variables, "PERPFLOW_API_KEY": KEY, "PERPFLOW_API_SECRET": SECRET},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        text = errors.decode()
        assert KEY not in text and SECRET not in text, "a secret is in the log"
        assert process.returncode in (0, -signal.SIGKILL), text[-3000:]


@pytest.fixture
def world(environment: Settings, topics: list[str], exchange: Exchange) -> Iterator[World]:
    migrate(environment.database_url)
    one = World(environment, exchange)
    yield one
    one.stop()


def test_every_rule_trips_and_recovers(world: World, exchange: Exchange, environment_variables: Callable[..., dict[str, str]]) -> None:
    settings = world.settings
    with guarding(settings, exchange, environment_variables()):
        world.until(normal, 60)
        # The feed stops and comes back.
        world.fresh = False
        assert world.until(holds("stale_data"))["block_entries"]
        world.fresh = True
        world.until(normal)
        # The venue is away and comes back.
        exchange.call(lambda: exchange.venue.control.faults(["maintenance"]))
        assert world.until(holds("unreachable"))["block_entries"]
        exchange.call(exchange.venue.control.clear_faults)
        world.until(normal)
        # A position is open 11 minutes after its strategy's timeout (entered 71 minutes ago, timeout 60 minutes). The guard closes it.
        held = blank(
            settings, "positions", instrument=INSTRUMENT, mode=MODE, position_id=f"{ACCOUNT}|p1", status="open", event_time=now(), receive_time=now(),
            entry_time=now() - 71 * 60_000, timeout_at=now() - 11 * 60_000,
        )  # fmt: skip
        world.write("positions", held)
        state = world.until(holds("hold_long", "hold_too_long"))
        assert state["close_positions"] == [f"{ACCOUNT}|p1"] and not state["block_entries"] and state["state"] == "warning"
        world.write("positions", {**held, "status": "closed", "event_time": now()})
        world.until(normal)
        # Records of another account of the same mode are not this account's, nor are those of paper.
        for index in range(6):
            world.write("trades_closed", closed(settings, f"other{index}", -3.0, account="BYBIT-simulated"))
            world.write("trades_closed", closed(settings, f"paper{index}", -3.0) | {"mode": "paper", "trade_id": f"paper{index}"})
        # Five losses in a row pause; the pause is told with its end.
        for index in range(5):
            world.write("trades_closed", closed(settings, f"loss{index}", -0.5))
        state = world.until(holds("losing_streak"))
        assert state["block_entries"] and state["reasons"][0]["until"] > now() + 50 * 60_000
        assert give(settings, ACCOUNT, "resume", "a test").arrived
        world.until(normal)
        # More than five R lost today: everything is closed, and the switch in the database says so too.
        world.write("trades_closed", closed(settings, "big", -2.6))
        state = world.until(lambda one: one["close_all"])
        assert state["block_entries"] and rules(state) == {"daily_loss"}
        with psycopg.connect(settings.database_url) as connection:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                rows = connection.execute("SELECT command FROM risk_switch WHERE lifted_at IS NULL").fetchall()
                connection.rollback()
                if rows:
                    break
        assert rows == [("close_all",)]
        assert give(settings, ACCOUNT, "resume", "a test", acknowledge_loss=True).arrived
        world.until(normal)
        # Balance: what is left after a loss of nearly all.
        exchange.call(lambda: exchange.venue.control.deposit("desk", Decimal("-9999")))
        assert world.until(holds("balance"))["block_entries"]
        exchange.call(lambda: exchange.venue.control.deposit("desk", Decimal("100")))
        world.until(normal)
        # The clock.
        exchange.call(lambda: exchange.venue.control.faults(["skew:ms=4000"]))
        assert "clock" in rules(world.until(lambda one: "clock" in rules(one), 45))
        assert [one["sequence"] for one in world.states] == sorted({one["sequence"] for one in world.states})


def test_a_slow_way_to_the_venue_is_measured_and_ends_makers_and_slices(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed requests are timed; what the guard does with the figure is ``_degraded``'s."""
    monkeypatch.setattr("sinks.guard.venue_watch.ASK_S", 0.01)
    limits = GuardLimits()
    watch = AccountWatch(BinanceVenue(exchange.venue.rest_url, exchange.venue.ws_url, KEY, SECRET, Secrets()))
    exchange.call(lambda: exchange.venue.control.faults(["latency:ms=600,on=balance,at=0,n=0"]))
    watch.start()
    try:
        deadline = time.monotonic() + 60
        while watch.route_p95_ms.count < limits.routes and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        watch.stop()
    route = watch.route_p95_ms
    assert route.count >= limits.routes and route.value is not None and 600 <= route.value < 5_000
    state, _ = evaluate(limits, GuardMemory(), GuardInputs(route_p95_ms=route), now())
    assert "slow_route" in {one.rule for one in state.reasons} and not state.allow_maker and not state.allow_twap


def test_a_halt_blocks_within_a_second_by_either_way(
    world: World, exchange: Exchange, environment_variables: Callable[..., dict[str, str]]
) -> None:
    settings = world.settings
    with guarding(settings, exchange, environment_variables()):
        world.until(normal, 60)
        taken = {}
        for way in ("kafka", "database"):
            told = settings.model_copy(update={"database_url": ""} if way == "kafka" else {"kafka_bootstrap_servers": "127.0.0.1:1"})
            given = give(told, ACCOUNT, "halt", f"by {way}")
            assert given.arrived and (given.kafka is None) == (way == "kafka")
            state = world.until(lambda one: one["block_entries"])
            assert rules(state) == {"halt"} and f"by {way}" in state["reasons"][0]["detail"]
            taken[way] = (state["event_time"] - given.command.time) / 1000
            give(settings, ACCOUNT, "resume", "on")
            world.until(normal)
        assert all(one < 1.0 for one in taken.values()), taken


def test_a_killed_guard_is_followed_by_one_that_remembers(
    world: World, exchange: Exchange, environment_variables: Callable[..., dict[str, str]]
) -> None:
    settings = world.settings
    with guarding(settings, exchange, environment_variables()) as first:
        world.until(normal, 60)
        # By Kafka only: the memory must not lean on the switch.
        give(settings.model_copy(update={"database_url": ""}), ACCOUNT, "halt", "remember me")
        halted = world.until(lambda one: one["block_entries"])
        with guarding(settings, exchange, environment_variables()) as second:
            time.sleep(3)
            assert len({one["guard"] for one in world.states}) == 1  # the second waits
            first.kill()
            first.wait()
            state = world.until(lambda one: one["guard"] != halted["guard"], 60)
            assert rules(state) == {"halt"} or rules(state) > {"halt"}
            assert state["sequence"] > halted["sequence"]
            world.until(holds("halt"))
            assert second.poll() is None


def test_a_command_told_twice_counts_once_and_garbage_is_a_dead_letter(
    world: World, exchange: Exchange, environment_variables: Callable[..., dict[str, str]]
) -> None:
    settings = world.settings
    with guarding(settings, exchange, environment_variables()):
        world.until(normal, 60)
        world._producer.produce(settings.topic("trades_closed"), b"\xc3\x01garbage", b"k", 0)
        world._producer.flush(10)
        given = give(settings, ACCOUNT, "halt", "both ways")
        assert given.database is None and given.kafka is None
        world.until(lambda one: one["block_entries"])
        give(settings, ACCOUNT, "resume", "on")
        world.until(normal)
        time.sleep(1)
        world.until(normal)  # the copy that came by the other way did not halt again
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "letters"})
    consumer.assign([TopicPartition(settings.topic("dead_letters"), 0, 0)])
    message = consumer.poll(30)
    assert message is not None
    letter = settings.codec.decode("dead_letters", message.value())
    assert (letter["service"], letter["source"], letter["value"]) == ("guard", "trades_closed", b"\xc3\x01garbage")
    consumer.close()


def test_close_all_direct_needs_neither_kafka_nor_database(exchange: Exchange) -> None:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DATABASE_URL": "",
        "PERPFLOW_API_KEY": KEY,
        "PERPFLOW_API_SECRET": SECRET,
    }
    _buy(exchange)
    assert exchange.call(lambda: exchange.venue.truth("desk"))["positions"]
    done = subprocess.run(
        [
            sys.executable, "-m", "deploy.cli", "risk", "close-all", "--mode", MODE, "--base-url", exchange.venue.rest_url, "--direct", "--yes",
            "--reason", "test",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no open positions" in done.stdout and "command not received" in done.stdout and "no executor or guard received" in done.stdout
    truth = exchange.call(lambda: exchange.venue.truth("desk"))
    assert truth["positions"] == {} and truth["open_orders"] == []
    assert SECRET not in done.stdout + done.stderr


def test_preflight_command_tells_and_ends_with_its_verdict(exchange: Exchange) -> None:
    environment = {**os.environ, "PERPFLOW_API_KEY": KEY, "PERPFLOW_API_SECRET": SECRET}
    command = [
        sys.executable,
        "-m",
        "deploy.cli",
        "preflight",
        "--mode",
        MODE,
        "--base-url",
        exchange.venue.rest_url,
        "--json",
        "--symbols",
    ]
    good = subprocess.run([*command, SYMBOL], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert good.returncode == 0 and json.loads(good.stdout)["passed"] is True, good.stderr
    bad = subprocess.run([*command, "NOPEUSDT"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert bad.returncode == 1 and not json.loads(bad.stdout)["passed"]
    environment.pop("PERPFLOW_API_SECRET")
    none = subprocess.run([*command, SYMBOL], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert none.returncode != 0 and "PERPFLOW_API_SECRET" in none.stderr and "Traceback" not in none.stderr


def _buy(exchange: Exchange) -> None:
    async def run() -> None:
        venue = BinanceVenue(exchange.venue.rest_url, exchange.venue.ws_url, KEY, SECRET, Secrets())
        await venue.open()
        await venue.place(OrderRequest("b", SYMBOL, Side.BUY, OrderType.MARKET, Decimal("0.2")))
        await venue.place(OrderRequest("c", SYMBOL, Side.BUY, OrderType.LIMIT, Decimal("0.2"), Decimal(50000)))
        await venue.close()

    asyncio.run(run())

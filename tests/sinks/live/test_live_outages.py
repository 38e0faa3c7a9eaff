"""The broker or the database is killed and comes back under ``perpflow execute`` with a position open and an order in flight.

Afterwards the journal is the exchange, nothing was done twice, and at no time was anything open without its stop for longer than the stated window.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from deploy.database.migrate import migrate
from deploy.stack import Stack
from deploy.stack.topics import create_topics
from schemas.settings import Settings
from tests.support.paths import ROOT
from tests.support.trading.live_lab import KEY, SECRET, SYMBOL, D, Lab, assert_books_equal, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(600)]

ETHER, ETHER_PERP = "ETHUSDT", "BINANCE:ETHUSDT-PERP"
# Longer than the window in which an open quantity must have its stop (3 s), shorter than the guard's word is valid.
DOWN_S = 8.0
WINDOW_S = 3.0
# What a busy machine may take beyond it.
BUSY_S = 3.0
IN_FLIGHT_MS = 4_000
POLICY = """
[entry]
style = "market"
[budget]
max_notional = 100000
max_margin = 100000
"""


class Watch:
    """Samples the exchange: how long each symbol had an open quantity without stops for it, and how much was open at most."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.longest, self.largest = lab, Counter[str](), Counter[str]()
        self._since: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            covered: Counter[str] = Counter()
            truth = self.lab.truth()
            for one in truth["open_conditionals"]:
                covered[one["symbol"]] += D(one["quantity"])
            now = time.monotonic()
            for symbol, held in truth["positions"].items():
                quantity = abs(D(held["quantity"]))
                self.largest[symbol] = max(self.largest[symbol], quantity)
                if covered[symbol] >= quantity:
                    self._since.pop(symbol, None)
                    continue
                begun = self._since.setdefault(symbol, now)
                self.longest[symbol] = max(self.longest[symbol], now - begun)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A broker and a database of this test's own, to be killed."""
    stack = Stack(tmp_path / "stack")
    stack.up()
    try:
        yield stack
    finally:
        stack.reset()


@pytest.fixture
def lab(own_stack: Stack) -> Iterator[Lab]:
    variables = own_stack.env()
    settings = Settings(
        kafka_bootstrap_servers=variables["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=variables["DATABASE_URL"],
        topic_prefix="outage.",
        partitions=6,
        keep_history=True,
    )
    create_topics(settings)
    migrate(settings.database_url)
    with Lab(settings) as made:
        made.price(3_000, ETHER)
        yield made


@pytest.fixture
def service(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """``perpflow execute``; its log. It must live through everything and end cleanly."""
    (tmp_path / "policy.toml").write_text(POLICY)
    names = {field.alias: getattr(lab.settings, name) for name, field in Settings.model_fields.items()}
    ours = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in names.items() if key}
    log = tmp_path / "log"
    command = [sys.executable, "-m", "deploy.cli", "execute", "--mode", "simulated", "--base-url", lab.venue.rest_url]
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [*command, "--policy", str(tmp_path / "policy.toml")],
            cwd=ROOT,
            env={**os.environ, **ours, "PERPFLOW_API_KEY": KEY, "PERPFLOW_API_SECRET": SECRET},
            stdout=lines,
            stderr=lines,
        )
    try:
        wait_for(lambda: process.poll() is not None or "green" in states(lab), 60, "compared with the venue")
        yield log
        assert process.poll() is None, log.read_text()[-4000:]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()[-4000:]


def states(lab: Lab) -> list[str]:
    return [one["state"] for one in lab.written("reconciliations")]


def stops(lab: Lab) -> dict[str, Decimal]:
    return {one["symbol"]: D(one["quantity"]) for one in lab.stops()}


def intended(lab: Lab) -> bool:
    return bool(lab.query(f"SELECT 1 FROM live_trades WHERE state->>'symbol' = '{ETHER}' AND jsonb_array_length(state->'orders') > 0"))


@pytest.mark.parametrize("part", ["broker", "database"])
def test_a_killed_part_comes_back_under_a_live_service(own_stack: Stack, lab: Lab, service: Path, part: str) -> None:
    watch = Watch(lab)
    lab.signal()
    wait_for(lambda: stops(lab) == {SYMBOL: D("0.010")} and len(lab.truth()["open_orders"]) == 2, 60, "open and protected")
    # An entry is on its way to the venue, journalled and not there yet.
    lab.faults(f"latency:on=order.place,ms={IN_FLIGHT_MS}")
    lab.signal(instrument=ETHER_PERP, strategy_id="s2", price=3_000.0, risk_distance=20.0)
    wait_for(lambda: intended(lab), 60, "the intent is journalled")
    assert ETHER not in lab.positions
    own_stack.kill_broker() if part == "broker" else own_stack.kill_database()
    began = time.monotonic()
    wait_for(lambda: ETHER in lab.positions, 30, "the order in flight is executed while it is away")
    lab.clear_faults()
    # And the first target of the other position is filled: its stop must follow.
    lab.price(50_200)
    while time.monotonic() - began < DOWN_S:
        time.sleep(0.05)
    rounds = len(states(lab)) if part == "database" else 0
    own_stack.up()
    away = time.monotonic() - began
    wait_for(lambda: stops(lab) == {symbol: abs(quantity) for symbol, quantity in lab.positions.items()}, 60, "everything is covered")
    wait_for(lambda: len(states(lab)) >= rounds and states(lab)[-1] == "green", 60, "green")
    assert lab.positions == {SYMBOL: D("0.005"), ETHER: D("0.100")}
    assert watch.longest[SYMBOL] <= WINDOW_S + BUSY_S and watch.longest[ETHER] <= WINDOW_S + BUSY_S, (away, watch.longest)
    # Everything ends at its stop.
    lab.price(49_000)
    lab.price(2_900, ETHER)
    wait_for(lambda: not lab.positions and not lab.stops() and not lab.truth()["open_orders"], 60, "closed")
    wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)], 60, "over")
    wait_for(lambda: lab.query("SELECT count(*) FROM live_outbox") == [(0,)], 60, "told")
    watch.stop()
    assert_books_equal(lab)
    assert watch.largest == {SYMBOL: D("0.010"), ETHER: D("0.100")}, "nothing was opened twice"
    truth = lab.truth()
    for sent in ([one["clientOrderId"] for one in truth["orders"]], [one["clientAlgoId"] for one in truth["conditionals"]]):
        assert len(set(sent)) == len(sent), "an order was sent twice"
    # What was told again after the outage says the same.
    for topic, identity, count in (("trades_closed", "trade_id", 2), ("fills", "fill_id", len(truth["fills"]))):
        told = {}
        for record in lab.written(topic):
            assert told.setdefault(record[identity], record) == record
        assert len(told) == count
    print(f"{part} away for {away:.1f} s; longest without a stop {dict(watch.longest)}")

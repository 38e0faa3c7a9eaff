"""The live executor against the simulated exchange, a real broker and a real database."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from schemas.process.service import Service
from schemas.secret import Secrets
from sinks.venues.binance.venue import BinanceVenue
from stream_apps.core.execution.orders.ids import client_order_id
from stream_apps.core.execution.orders.venue_reports import OrderRequest, OrderType, Side
from tests.support.trading.live_lab import ACCOUNT, KEY, SECRET, SYMBOL, D, Lab, assert_books_equal, prepare, wait_for

pytestmark = pytest.mark.stack


@pytest.fixture
def lab(environment, topics):
    prepare(environment)
    with Lab(environment) as made:
        yield made


def triggers(lab):
    return [D(one["triggerPrice"]) for one in lab.stops()]


def test_a_signal_becomes_one_protected_position_and_is_closed_once(lab):
    with lab.running():
        lab.signal()
        wait_for(lambda: lab.position == D("0.010"), what="the position opens")
        # The first stop may be of an estimated entry price; the one that stays is of the fills.
        wait_for(lambda: triggers(lab) == [D("49800.1")] and len(lab.truth()["open_orders"]) == 2, what="stop and targets rest")
        (stop,) = lab.stops()
        assert D(stop["quantity"]) == D("0.010") and stop["reduceOnly"] in (True, "true")
        lab.price(50_200)
        wait_for(lambda: lab.position == D("0.005"), what="first target")
        wait_for(lambda: triggers(lab) == [D("50050.1")], what="break-even stop alone")
        lab.price(50_400)
        wait_for(lambda: lab.position == 0 and not lab.stops(), what="second target, everything swept")
        wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)])
        wait_for(lambda: lab.query("SELECT count(*) FROM live_outbox") == [(0,)])
    assert_books_equal(lab)
    (closed,) = lab.written("trades_closed")
    assert (closed["exit_reason"], closed["tp1_hit"], closed["mode"]) == ("tp2", True, "simulated")
    (cost,) = lab.written("execution_cost_events")
    assert cost["maker_ratio_tp"] == 1.0 and cost["protection_gap_ms"] < 3_000
    assert len(lab.written("fills")) == len(lab.truth()["fills"]) == 3
    assert {one["state"] for one in lab.written("reconciliations")} == {"green"}


def over(lab):
    """Every trade is over, and what is to be told of it is told."""
    rows = lab.query("SELECT count(*) FILTER (WHERE over_at IS NULL), count(*), (SELECT count(*) FROM live_outbox) FROM live_trades")
    return rows[0][0] == 0 and rows[0][1] > 0 and rows[0][2] == 0


def test_lost_answers_are_asked_for_and_nothing_is_sent_twice(lab):
    lab.faults("lost:on=*rder*,rate=0.4", "duplicate:on=*,rate=0.3", "drop:on=ORDER_TRADE_UPDATE,rate=0.3")
    with lab.running():
        lab.signal()
        wait_for(lambda: lab.position == D("0.010") and lab.stops(), 40, "opens and is protected")
        lab.price(49_700)
        wait_for(lambda: lab.position == 0, 40)
        lab.clear_faults()
        wait_for(lambda: over(lab), 40)
    assert_books_equal(lab)
    assert lab.truth()["faults_applied"].get("lost", 0) > 0
    assert len(lab.written("trades_closed")) == 1


def test_what_happens_while_the_user_stream_is_away_is_found_out(lab):
    with lab.running() as executor:
        lab.signal()
        wait_for(lambda: triggers(lab) == [D("49800.1")] and len(lab.truth()["open_orders"]) == 2)
        lab.faults("drop:on=*,rate=1.0")
        lab.price(49_700)
        wait_for(lambda: lab.position == 0)
        lab.clear_faults()
        lab.on_exchange(lambda: lab.venue.control.cut("lab"))
        wait_for(lambda: "stream" in {one["cause"] for one in lab.written("reconciliations")}, 30, "compared once the stream is back")
        wait_for(lambda: over(lab), 30)
        assert executor.book.blocks.get("user_stream") is None
    assert_books_equal(lab)
    assert [one["exit_reason"] for one in lab.written("trades_closed")] == ["stop"]


def test_it_goes_on_when_the_database_drops_its_connection(lab):
    with lab.running() as executor:
        lab.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'perpflow-live-%' AND datname = current_database()"
        )
        wait_for(lambda: executor.book.blocks, 30, "it notices with nothing to write")
        wait_for(lambda: not executor.book.blocks, 30, "and comes back by itself")
        lab.signal()
        wait_for(lambda: lab.position == D("0.010") and len(lab.stops()) == 1, 30)
        lab.price(49_700)
        wait_for(lambda: over(lab), 30)
    assert_books_equal(lab)


def test_a_second_executor_waits_for_the_account(lab):
    with lab.running() as first:
        service = Service("live")
        second = lab.executor(service)
        thread = threading.Thread(target=lambda: asyncio.run(second.run()), daemon=True)
        thread.start()
        wait_for(lambda: service.health().get("phase") == "waiting")
        lab.signal()
        wait_for(lambda: lab.position == D("0.010") and len(lab.stops()) == 1)
        assert first.book.active and not second.book.active
    # The first is gone: the second takes over with everything.
    wait_for(lambda: second.book.active and second.book.guard is not None, 30)
    lab.price(49_700)
    wait_for(lambda: over(lab), 30)
    service.stop()
    thread.join(20)
    assert_books_equal(lab)
    assert lab.query("SELECT epoch FROM live_accounts") == [(2,)]


def test_orphans_are_swept_before_anything_is_traded(lab):
    """A position and an order of ours that the journal does not know: closed and cancelled, entries blocked until then."""
    ghost = client_order_id(ACCOUNT.environment, "forgotten", "stop", 1)

    async def leave_behind():
        venue = BinanceVenue(lab.venue.rest_url, f"{lab.venue.ws_url}/private", KEY, SECRET, Secrets())
        await venue.open()
        await venue.place(OrderRequest("web_1", SYMBOL, Side.BUY, OrderType.MARKET, D("0.004")))
        await venue.place(
            OrderRequest(ghost, SYMBOL, Side.SELL, OrderType.STOP_MARKET, D("0.004"), trigger_price=D(40_000), reduce_only=True)
        )
        await venue.close()

    asyncio.run(leave_behind())
    with lab.running():
        assert lab.position == 0 and not lab.stops(), "before the first entry is allowed"
        lab.signal()
        wait_for(lambda: lab.position == D("0.010"))
        lab.price(49_700)
        wait_for(lambda: over(lab), 30)
    states = [one["state"] for one in lab.written("reconciliations")]
    assert states[0] == "red" and "green" in states
    kinds = {finding["kind"]: finding["action"] for one in lab.written("reconciliations") for finding in one["findings"]}
    assert kinds["unknown_order"] == "cancel" and kinds["orphan_position"] == "take_over_and_close"


def test_kafka_gone_quiet_blocks_entries_and_not_exits(lab):
    with lab.running() as executor:
        lab.signal()
        wait_for(lambda: lab.position == D("0.010") and len(lab.stops()) == 1)
        lab.guarded = False
        wait_for(lambda: executor.book.entries_blocked(time.time_ns() // 1_000_000) == "guard_stale", 20)
        lab.signal(strategy_id="s2")
        wait_for(lambda: any(one["reason"] == "guard_stale" for one in lab.written("orders")))
        lab.price(49_700)
        wait_for(lambda: over(lab), 30)
    assert_books_equal(lab)


def test_the_switch_in_the_database_blocks_entries_and_closes_everything(lab):
    with lab.running():
        lab.signal()
        wait_for(lambda: lab.position == D("0.010") and len(lab.stops()) == 1)
        put = "INSERT INTO risk_switch (command_id, account, command, by, reason, given_at) VALUES ('c1', '*', 'close_all', 'test', 'test', now()) RETURNING 1"
        lab.query(put)
        wait_for(lambda: over(lab), 30)
        lab.signal(strategy_id="s2")
        wait_for(lambda: any(one["reason"] == "switch: close_all" for one in lab.written("orders")))
    assert_books_equal(lab)
    assert [one["exit_reason"] for one in lab.written("trades_closed")] == ["guard"]

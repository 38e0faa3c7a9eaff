"""Funding payments: told late, twice, or for a trade that is over; each counts once, for the trade that held the symbol, and is in its record."""

from __future__ import annotations

import json

import pytest

from stream_apps.core.execution.account.funding_payments import HOUR_MS
from stream_apps.core.execution.orders.events import CloseRequested, FundingLoaded
from stream_apps.core.execution.state.trade import Trade
from tests.stream_apps.execution.test_execution_life import MARKET
from tests.support.trading.execution_exchange import D
from tests.support.trading.execution_world import SYMBOL, World

RATE = D("0.0001")


def money_equal(world: World) -> None:
    """Every payment is booked once, and the journal's money is the exchange's."""
    trades = world.book.trades.values()
    assert sum(len(trade.funding) for trade in trades) == len(world.exchange.payments)
    assert sum((trade.position.realised for trade in trades), D(0)) == world.exchange.cash


def before_the_hour(world: World, ms: int = 5_000) -> None:
    world.advance(HOUR_MS - world.now % HOUR_MS - ms)
    world.settle()


def settlement(world: World) -> None:
    """The hour comes, and the exchange settles."""
    world.advance(HOUR_MS - world.now % HOUR_MS)
    world.exchange.settle_funding(SYMBOL, RATE)


def load(world: World) -> None:
    """What the reconciler does: it asks for all payments."""
    world.give(FundingLoaded(list(world.exchange.payments), world.now))


def close(world: World) -> None:
    world.give(CloseRequested(SYMBOL, "manual"))
    world.settle()
    assert world.position == 0 and not world.book.active


def opened() -> World:
    world = World(MARKET)
    before_the_hour(world)
    world.signal()
    world.settle()
    assert world.position == D("0.010")
    return world


def test_a_trade_that_closed_before_its_payment_was_told_has_it_in_its_record():
    world = opened()
    settlement(world)
    world.advance(1_000)
    close(world)
    assert not world.closed(), "what it paid is not known yet"
    load(world)
    assert not world.closed(), "a list of three seconds after the hour may lack it: it is kept until ten"
    world.advance(10_000)
    load(world)
    (closed,) = world.closed()
    (payment,) = world.exchange.payments
    assert closed["funding"] == float(payment.paid) == pytest.approx(0.05, rel=1e-3)
    assert closed["net_pnl"] == float(world.exchange.cash)
    assert closed["funding_r"] == pytest.approx(0.025, rel=1e-3), "of 2 USD"
    money_equal(world)
    load(world)
    assert len(world.closed()) == 1
    money_equal(world)


def test_a_trade_held_over_no_full_hour_is_reported_at_once():
    world = opened()
    close(world)
    assert [one["funding"] for one in world.closed()] == [0.0]


def test_a_payment_belongs_to_the_trade_that_held_the_symbol_at_the_hour_and_not_to_the_next_one():
    world = opened()
    settlement(world)
    world.advance(500)
    close(world)
    world.signal(2)
    world.settle()
    assert world.position == D("0.010"), "the next one opened within a second"
    world.advance(20_000)
    load(world)
    first, second = world.book.trades.values()
    assert len(first.funding) == 1 and not second.funding
    close(world)
    assert [one["funding"] > 0 for one in world.closed()] == [True, False]
    money_equal(world)


def test_a_payment_stamped_some_seconds_after_the_hour_belongs_to_the_trade_of_the_hour():
    world = opened()
    settlement(world)
    world.advance(500)
    close(world)
    world.signal(2)
    world.settle()
    (payment,) = world.exchange.payments
    world.advance(20_000)
    late = type(payment)(payment.symbol, payment.paid, payment.asset, payment.time + 4_000, payment.payment_id)
    world.give(FundingLoaded([late], world.now))
    first, second = world.book.trades.values()
    assert len(first.funding) == 1 and not second.funding


def test_a_record_that_waits_survives_a_crash():
    world = opened()
    settlement(world)
    world.advance(1_000)
    close(world)
    world.crash()
    assert not world.closed()
    world.advance(10_000)
    load(world)
    assert [one["funding"] > 0 for one in world.closed()] == [True]
    world.crash()
    world.advance(10_000)
    assert len(world.closed()) == 1, "told once"
    money_equal(world)


def test_a_list_that_never_comes_holds_the_record_ten_minutes_and_a_payment_after_it_is_in_the_journal():
    world = opened()
    settlement(world)
    close(world)
    world.advance(599_000)
    assert not world.closed()
    world.advance(2_000)
    assert [one["funding"] for one in world.closed()] == [0.0]
    anomalies = len(world.anomalies)
    load(world)
    assert "after the record" in world.anomalies[anomalies].reason
    money_equal(world)
    load(world)
    assert len(world.anomalies) == anomalies + 1 and len(world.closed()) == 1


def test_a_payment_of_nobody_is_booked_nowhere():
    world = World(MARKET)
    world.exchange.positions[SYMBOL] = D(1)
    settlement(world)
    world.exchange.positions.clear()
    world.advance(120_000)
    world.signal()
    world.settle()
    load(world)
    assert len(world.exchange.payments) == 1 and not world.trade().funding


def test_an_older_journal_reads_as_reported_when_the_trade_was_over():
    world = opened()
    close(world)
    (trade,) = world.book.trades.values()
    old = json.loads(json.dumps(trade.to_json()))
    assert old.pop("is_reported") is True
    assert Trade.from_json(old).is_reported
    assert not Trade.from_json({**old, "over_at": None}).is_reported
    assert not Trade.from_json({**old, "is_told": False}).is_reported

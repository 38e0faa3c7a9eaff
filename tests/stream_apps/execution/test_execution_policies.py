"""Policies that are off by default or rarely met: return on margin, spread probe, minimum fill ratio, degradations, fees in another asset, plain values."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stream_apps.core.execution.exits.roe import price_for_net
from stream_apps.core.execution.orders.events import QuoteSeen
from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy, RoePolicy, SizingPolicy
from stream_apps.core.execution.settings.policy_values import policy_of
from stream_apps.core.execution.settings.routes import Route
from tests.stream_apps.execution.test_execution_life import ROOMY, books_equal
from tests.support.trading.execution_exchange import D
from tests.support.trading.execution_world import SYMBOL, World


def roe_world(**more: object) -> World:
    world = World(
        LivePolicy(entry=EntryPolicy(style="market"), sizing=SizingPolicy(leverage=5), budget=ROOMY, roe=RoePolicy(enabled=True, **more))  # type: ignore[arg-type]
    )
    world.signal(risk_distance=1_000.0, risk_multiple=5.0)
    world.settle()
    assert world.position == D("0.010") and len(world.stops()) == 1 and len(world.exchange.open_orders()) == 1, "no R targets"
    return world


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("part", ["0", "0.1", "0.2"])
def test_price_for_net_nets_exactly_its_part_of_the_margin(sign: int, part: str):
    entry, quantity, margin, fee = D(50_000), D("0.01"), D(100), D("0.0005")
    price = price_for_net(entry, sign, quantity, margin, D(part), fee)
    net = sign * (price - entry) * quantity - fee * (entry + price) * quantity
    assert net == pytest.approx(D(part) * margin, abs=D("1e-20"))


def test_the_stop_trails_by_return_on_margin_and_the_partial_exit_is_taken_once():
    world = roe_world()
    world.price(51_001)  # ROE 10 %: break-even
    world.settle()
    assert [one.trigger_price for one in world.stops()] == [D("50050.5")] and world.position == D("0.010")
    world.price(51_201)  # 12 %: half is closed
    world.settle()
    assert world.position == D("0.005") and [one.quantity for one in world.stops()] == [D("0.005")]
    world.price(52_001)  # 20 %: the stop nets 10 % of the margins
    world.settle()
    average = D("50000.5")
    expected = price_for_net(average, 1, D("0.005"), average * D("0.005") / 5, D("0.1"), D("0.0005"))
    assert abs(world.stops()[0].trigger_price - expected) <= D("0.05") and world.position == D("0.005")
    world.price(51_500)  # back: the stop does not follow down
    world.settle()
    assert abs(world.stops()[0].trigger_price - expected) <= D("0.05")
    world.price(50_900)
    world.settle()
    assert [one["exit_reason"] for one in world.closed()] == ["trailing_stop"]
    books_equal(world)


def test_add_ons_come_at_their_returns_at_most_twice_and_never_after_the_partial_exit():
    world = roe_world(add_ons=True)
    world.price(50_501)  # 5 %
    world.settle()
    assert world.position == D("0.020") and sum((one.quantity for one in world.stops()), D(0)) == D("0.020")
    world.price(51_301)  # from the new average 10 %
    world.settle()
    assert world.position == D("0.030")
    world.price(53_000)
    world.settle()
    # The quantity of the first entry is closed, and nothing is added any more.
    assert world.position == D("0.020")
    world.price(54_000)
    world.settle()
    assert world.position == D("0.020")
    books_equal(world)


def test_the_full_target_is_last():
    world = roe_world(target=Decimal("0.15"), partial_at=Decimal("0.12"))
    world.price(51_601)
    world.settle()
    assert world.position == 0
    (closed,) = world.closed()
    assert closed["exit_reason"] == "target"
    books_equal(world)


@pytest.mark.parametrize("direction", ["LONG", "SHORT"])
def test_on_one_leap_of_the_price_the_stop_moves_first_then_the_partial_exit_and_nothing_is_added(direction: str):
    """The documented order of ``RoePolicy`` at a price at which every rule is due at once: ROE 25 %."""
    policy = LivePolicy(
        entry=EntryPolicy(style="market"), sizing=SizingPolicy(leverage=5), budget=ROOMY, roe=RoePolicy(enabled=True, add_ons=True)
    )
    world = World(policy)
    world.signal(risk_distance=1_000.0, risk_multiple=5.0, direction=direction)
    world.settle()
    sign = 1 if direction == "LONG" else -1
    world.price(50_000 + sign * 2_501)
    asked = [(action.request.type.value, action.request.quantity) for action in world.pending if hasattr(action, "request")]
    # The exit of a quantity leaves the stop too large until it is filled: reduce-only makes that harmless.
    assert sorted(asked) == [("MARKET", D("0.005")), ("STOP_MARKET", D("0.010"))]
    world.settle()
    average = D(50_000) + sign * D("0.5")
    expected = price_for_net(average, sign, D("0.010"), average * D("0.010") / 5, D("0.1"), D("0.0005"))
    assert world.position == sign * D("0.005") and abs(world.stops()[0].trigger_price - expected) <= D("0.1")
    trade = world.trade()
    assert (trade.add_ons, trade.partial_taken) == (0, True)
    world.price(50_000 + sign * 4_000)
    world.settle()
    assert world.position == sign * D("0.005"), "nothing is added after the partial exit"
    books_equal(world)


def narrow_hour(world: World) -> None:
    """Five minutes of quotes with a spread of 1."""
    for _ in range(6):
        world.advance(60_000)


def test_a_wide_spread_delays_an_entry_once():
    world = World(LivePolicy(entry=EntryPolicy(style="market")))
    narrow_hour(world)
    world.price(50_000, spread=5)
    world.signal()
    assert not world.pending
    world.advance(4_900)
    assert not world.pending
    world.advance(200)
    assert len(world.pending) == 1
    world.settle()
    assert world.position == D("0.010")


def test_a_wide_spread_splits_an_entry():
    world = World(LivePolicy(entry=EntryPolicy(style="market", probe_action="split")))
    narrow_hour(world)
    world.price(50_000, spread=5)
    world.signal()
    world.settle()
    assert [str(one) for one in world.trade().entry.slices] == ["0.005", "0.005"] and world.position == D("0.010")


def test_a_wide_spread_splits_an_entry_of_a_table_without_slices():
    routes = (Route(D(0), 1_000, 1, 0),)
    world = World(LivePolicy(entry=EntryPolicy(probe_action="split", routes=routes)))
    narrow_hour(world)
    world.price(50_000, spread=5)
    world.signal()
    world.settle()
    assert [str(one) for one in world.trade().entry.slices] == ["0.005", "0.005"] and world.position == D("0.010")


def test_what_is_nearly_filled_is_left():
    world = World(LivePolicy(entry=EntryPolicy(style="maker", min_fill_ratio=D("0.8"))))
    world.signal()
    world.perform()
    world.exchange.depth = D("0.008")
    world.price(49_990)
    world.exchange.depth = D(0)
    world.settle(until=lambda: world.trade().entry.is_done)
    assert world.position == D("0.008") and world.trade().entry.abandoned is None


def test_degradations_of_the_guard_shape_entries():
    world = World(LivePolicy(sizing=SizingPolicy(risk_usd=D(4)), budget=ROOMY))
    world.guard_ok(allow_maker=False, allow_slices=False, size_factor=D("0.5"))
    world.signal()
    (place,) = world.pending
    assert (place.request.time_in_force, place.request.quantity) == ("IOC", D("0.010"))


def test_a_fee_in_another_asset_is_priced_or_marked_as_estimated():
    for priced in (True, False):
        world = World(LivePolicy(entry=EntryPolicy(style="market")))
        if priced:
            world.give(QuoteSeen("BNBUSDT", D(599), D(601), world.now))
        world.signal()
        world.perform()
        from dataclasses import replace

        for event in list(world.stream):
            world.give(replace(event, fee=D("0.0004"), fee_asset="BNB") if hasattr(event, "fee") else event)
        world.stream.clear()
        (fill,) = world.trade().fills.values()
        assert (fill.fee, fill.fee_estimated) == ((D("0.24"), False) if priced else (D("0.2500025"), True))


def test_plain_values_make_a_policy_and_errors_name_the_setting():
    made = policy_of(
        {"sizing": {"risk_usd": 5}, "entry": {"style": "maker", "offset_ticks": 2, "routes": []}, "roe": {"add_on_at": ["0.05", 0.1]}}
    )
    assert (made.sizing.risk_usd, made.entry.offset_ticks, made.roe.add_on_at) == (D(5), 2, (D("0.05"), D("0.1")))
    assert policy_of({}) == LivePolicy()
    for values, name in [
        ({"entry": {"stile": "maker"}}, "entry.stile"),
        ({"entry": {"offset_ticks": "2"}}, "entry.offset_ticks"),
        ({"sizing": {"risk_usd": "much"}}, "sizing.risk_usd"),
        ({"sizing": 3}, "sizing"),
        ({"entry": {"style": "best"}}, "style"),
        ({"budget": {"max_positions": True}}, "budget.max_positions"),
    ]:
        with pytest.raises(ValueError, match=name):
            policy_of(values)


def test_only_named_strategies_and_symbols_are_traded():
    world = World(LivePolicy(symbols=("ETHUSDT",), strategies=("s1",)))
    world.signal(strategy_id="other")
    assert "orders" not in world.records
    world.signal()
    assert world.records["orders"][-1]["reason"] == "symbol_not_allowed" and SYMBOL not in world.policy.symbols  # type: ignore[operator]

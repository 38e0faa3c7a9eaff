"""The life of a live trade against an exchange of the tests' own: entry, stop, targets, break-even, timeout, flip, and the books at the end."""

from __future__ import annotations

from decimal import Decimal

from stream_apps.core.execution.orders.events import CloseRequested
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy, SizingPolicy
from tests.support.trading.execution_exchange import D
from tests.support.trading.execution_world import World

ROOMY = Budget(max_notional=D(100_000), max_margin=D(100_000))
MARKET = LivePolicy(entry=EntryPolicy(style="market"))


def books_equal(world: World) -> None:
    """Journal and exchange agree to the last digit: executions, position, cash."""
    booked = {trade_id: fill for trade in world.book.trades.values() for trade_id, fill in trade.fills.items()}
    assert {one.trade_id: (one.price, one.quantity, one.fee) for one in world.exchange.fills} == {
        trade_id: (fill.price, fill.quantity, fill.fee) for trade_id, fill in booked.items()
    }
    held = sum((trade.position.sign * trade.booked_exposure for trade in world.book.trades.values()), D(0))
    assert held == sum(world.exchange.positions.values(), D(0))
    if held == 0:
        gained = sum((trade.position.gross - trade.position.fees for trade in world.book.trades.values()), D(0))
        assert gained == world.exchange.cash


def opened(policy: LivePolicy = MARKET, **more: object) -> World:
    world = World(policy)
    world.signal(**more)
    world.settle()
    assert world.position != 0
    return world


def test_a_market_entry_is_sized_protected_and_has_its_targets():
    world = opened()
    # 2 USD of risk over a distance of 200: 0.01 BTC.
    assert world.position == D("0.01")
    (stop,) = world.stops()
    assert (stop.quantity, stop.trigger_price, stop.reduce_only) == (D("0.01"), D("49800.5"), True)
    targets = {one.price: one.quantity for one in world.exchange.open_orders() if one.trigger_price is None}
    assert targets == {D("50150.5"): D("0.005"), D("50300.5"): D("0.005")}
    assert all(one.reduce_only for one in world.exchange.open_orders())
    books_equal(world)


def test_an_entry_without_any_known_price_has_no_average_and_no_levels_from_zero():
    world = opened()
    (trade,) = world.book.trades.values()
    trade.fills.clear()
    for order in trade.of("entry"):
        order.average_price = order.reference = order.price = None
    assert trade.entered == D("0.01") and trade.average_entry is None
    levels = trade.position.stop_price, trade.position.entry_price
    world.advance(50)
    assert (trade.position.stop_price, trade.position.entry_price) == levels != (D(0), D(0))


def test_first_target_moves_the_stop_to_break_even_and_the_second_closes():
    world = opened()
    world.price(50_200)
    world.settle()
    assert world.position == D("0.005")
    (stop,) = world.stops()
    # entry x (1 + f) / (1 - f) at f = 0.05 %, to the tick.
    assert stop.trigger_price == D("50050.5")
    assert stop.quantity == D("0.005")
    world.price(50_400)
    world.settle()
    assert world.position == 0 and not world.exchange.open_orders()
    (closed,) = world.closed()
    assert (closed["exit_reason"], closed["tp1_hit"], closed["quantity"]) == ("tp2", True, 0.01)
    assert closed["trade_id"].startswith("main|")
    books_equal(world)


def test_a_stop_closes_and_everything_else_is_swept():
    world = opened()
    world.price(49_700)
    world.settle()
    assert world.position == 0 and not world.exchange.open_orders()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "stop" and closed["net_pnl"] < -2
    books_equal(world)


def test_timeout_closes_at_market():
    world = opened(timeout_minutes=1)
    world.advance(60_000)
    world.settle()
    assert [one["exit_reason"] for one in world.closed()] == ["timeout"]
    books_equal(world)


def test_a_flip_closes_and_the_new_side_enters_once_the_symbol_is_free():
    world = opened()
    world.signal(2, direction="SHORT", flip=True)
    world.settle()
    assert [one["exit_reason"] for one in world.closed()] == ["flip"]
    assert world.position == D("-0.01")
    (stop,) = world.stops()
    assert stop.side == "BUY" and stop.trigger_price == D("50199.5")
    books_equal(world)


def test_a_maker_entry_rests_is_filled_and_counts_as_maker():
    world = World(LivePolicy(entry=EntryPolicy(style="maker", offset_ticks=2), sizing=SizingPolicy(risk_usd=D(20)), budget=ROOMY))
    world.signal()
    world.perform()
    (order,) = world.exchange.open_orders()
    assert order.price == D("49999.7"), "best bid + 2 ticks, below the mid"
    world.exchange.depth = D("0.04")
    world.price("49999", spread=D("0.2"))
    world.settle(until=lambda: bool(world.stops()))
    assert world.stops()[0].quantity == D("0.04"), "protected while the entry still rests"
    world.price("49999", spread=D("0.2"))
    world.settle(until=lambda: world.trade().entry.is_done)
    world.settle()
    assert world.position > 0
    world.give(CloseRequested("BTCUSDT", "manual"))
    world.exchange.depth = D(1000)
    world.settle()
    (cost,) = world.records["execution_cost_events"]
    assert cost["maker_ratio_entry"] > 0.7
    books_equal(world)


def test_a_maker_entry_that_times_out_is_taken_within_the_cap():
    world = World(LivePolicy(entry=EntryPolicy(style="maker")))
    world.signal()
    world.settle()
    assert world.position == D("0.01")
    world.give(CloseRequested("BTCUSDT", "manual"))
    world.settle()
    (cost,) = world.records["execution_cost_events"]
    assert (cost["entry_timeout"], cost["maker_ratio_entry"]) == (True, 0.0)
    assert cost["slippage_bps_entry"] > 0 and cost["slippage_bps_exit"] > 0, "positive is a cost on both sides"


def test_a_maker_entry_from_which_the_price_runs_away_keeps_what_it_has():
    world = World(LivePolicy(entry=EntryPolicy(style="maker")))
    world.signal()
    world.perform()
    world.price(50_100)
    world.settle()
    assert world.position == 0 and not world.exchange.open_orders()
    (trade,) = world.book.trades.values()
    assert (trade.position.status, trade.entry.abandoned) == ("expired", "slippage_cap")
    assert not world.closed()


def test_the_cap_of_a_late_entry_holds_on_both_sides_of_the_reference():
    """S2 10.3: |mid - reference| / reference x 10,000 <= cap. A price that fell far is another market than the signal's, though it is cheaper."""
    for price, bought in ((49_960, D("0.01")), (49_900, D(0))):
        world = World(LivePolicy(entry=EntryPolicy(style="maker")))
        world.exchange.depth = D(0)
        world.signal()
        world.perform()
        world.price(price)
        world.exchange.depth = D(1000)
        world.settle()
        assert world.position == bought, f"10 bps of 50,000 are 50; the mid is {price}"


def test_a_target_that_the_price_has_crossed_is_taken_after_two_seconds():
    """S1 8.7: unfilled for about 2 s, then cancel and close the remainder at market."""
    world = opened()
    world.exchange.depth = D(0)
    world.price(50_200)
    world.advance(1_999)
    assert not world.trade().taking
    world.advance(1)
    assert world.trade().taking == ["tp1"]


def test_slices_follow_the_routing_table():
    world = World(LivePolicy(sizing=SizingPolicy(risk_usd=D(4)), budget=ROOMY))
    world.signal()
    world.settle()
    trade = world.trade()
    assert [str(one) for one in trade.entry.slices] == ["0.005"] * 4
    assert world.position == D("0.020") and len([o for o in trade.of("entry") if o.executed]) == 4
    books_equal(world)


def test_guard_silence_blocks_entries_and_never_exits():
    world = opened()
    world.advance(11_000, guard=False)
    world.signal(2, strategy_id="s2", instrument="BINANCE:BTCUSDT-PERP")
    assert world.records["orders"][-1]["reason"] == "guard_stale"
    world.price(49_700)
    world.settle()
    assert world.position == 0


def test_close_all_of_the_guard():
    world = opened()
    world.guard_ok(block_entries=True, close_all=True, reasons=("daily_loss",))
    for _ in range(40):
        while world.stream or world.pending:
            while world.stream:
                world.deliver()
            if world.pending:
                world.perform()
        world.advance(50, guard=False)
    assert [one["exit_reason"] for one in world.closed()] == ["guard"]
    books_equal(world)


def test_a_foreign_close_is_the_trades_exit():
    """A person closes the position by hand: the fill's price is the exit price."""
    world = opened()
    from stream_apps.core.execution.orders.venue_reports import OrderRequest, OrderType, Side

    world.exchange.place(OrderRequest("web_1", "BTCUSDT", Side.SELL, OrderType.MARKET, D("0.01"), reduce_only=True))
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "external" and Decimal(str(closed["exit_price"])) == D("49999.5")
    assert not world.exchange.open_orders()
    books_equal(world)

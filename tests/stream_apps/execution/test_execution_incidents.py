"""Things that went wrong on trading desks, each as a test with its name."""

from __future__ import annotations

import pytest

from stream_apps.core.execution.account.reconcile import compare
from stream_apps.core.execution.orders.events import CloseRequested, FillsLoaded, Place, PlaceFailed
from stream_apps.core.execution.orders.venue_reports import OrderRequest, OrderType, Side
from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy, ProtectionPolicy, ReconcilePolicy
from tests.stream_apps.execution.test_execution_life import MARKET, books_equal, opened
from tests.support.trading.execution_exchange import D
from tests.support.trading.execution_world import SYMBOL, World


def covered(world: World) -> bool:
    """The exchange's stops cover the exchange's position."""
    return sum((one.quantity for one in world.stops()), D(0)) >= abs(world.position)


def test_duplicate_trade_ids_after_a_restart():
    world = opened()
    world.crash()
    world.settle()
    again = [fill for fill in world.exchange.fills if fill.symbol == SYMBOL]
    for _ in range(3):
        world.give(FillsLoaded(SYMBOL, again))
        for fill in again:
            world.give(fill)
    assert len(world.trade().fills) == len(again) == 1
    assert len({one["fill_id"] for one in world.records["fills"]}) == 1
    books_equal(world)


def test_a_fill_is_never_booked_twice_though_its_order_report_comes_before_and_after():
    world = World(MARKET)
    world.signal()
    world.perform()
    events = list(world.stream)
    world.stream.clear()
    for event in [*events, *reversed(events), *events]:
        world.give(event)
    assert world.trade().booked_exposure == D("0.010") == world.position
    books_equal(world)


def test_a_long_lived_mismatch_is_red_is_not_acted_on_at_once_and_ends():
    """The venue reset the account: the position is gone without a fill."""
    world = opened()
    world.exchange.positions.clear()
    for order in world.exchange.orders.values():
        world.exchange.cancel(order.request.client_order_id)
    world.stream.clear()
    for number in range(3):
        assert [one.is_red for one in world.reconcile() if one.kind == "position_shortfall"] == [True], number
        world.settle(limit=3)
    (closed,) = world.closed()
    assert closed["exit_reason"] == "vanished"
    assert world.reconcile() == [] and not world.book.active
    # No execution explains it: the price is the mark's, and says so.
    assert closed["price_estimated"] and closed["exit_price"] == 50_000.0
    assert [(one["price_estimated"], one["trade_agg_id"] > 0) for one in world.records["fills"]] == [(False, True), (True, False)]


def test_a_position_that_somebody_closed_and_turned_round_ends_at_the_true_price_of_that():
    """A person sold three times what we held: our part of the execution is our exit, the rest is an orphan, and no price is made up."""
    world = opened()
    world.price(50_090)
    world.exchange.place(OrderRequest("web_1", SYMBOL, Side.SELL, OrderType.MARKET, D("0.03")))
    world.stream.clear()
    assert world.position == D("-0.020")
    world.price(50_020)
    for _ in range(8):
        world.reconcile()
        world.settle(limit=3)
    first = world.closed()[0]
    assert (first["exit_reason"], first["exit_price"], first["price_estimated"]) == ("external", 50_089.5, False)
    (sold,) = [one for one in world.exchange.fills if one.client_order_id == "web_1"]
    (booked,) = [one for one in next(iter(world.book.trades.values())).fills.values() if one.client_id == "web_1"]
    assert (booked.quantity, booked.fee) == (D("0.010"), sold.fee / 3)
    # The rest was taken over as what it is: of unknown origin, at the venue's average price, and closed.
    assert [(one["exit_reason"], one["price_estimated"]) for one in world.closed()[1:]] == [("orphan", True)]
    assert world.position == 0 and world.reconcile() == []


def test_a_position_that_vanishes_by_an_unknown_order_of_ours_ends_at_its_execution():
    """An order of a trade that the journal lost closed it: the venue's list has the execution."""
    from stream_apps.core.execution.orders.ids import client_order_id

    world = opened()
    ghost = client_order_id(world.book.account.environment, "a signal that nobody remembers", "stop", 1)
    world.price(49_900)
    world.exchange.place(OrderRequest(ghost, SYMBOL, Side.SELL, OrderType.MARKET, D("0.01"), reduce_only=True))
    world.stream.clear()
    world.price(50_100)
    for _ in range(4):
        world.reconcile()
        world.settle(limit=3)
    (closed,) = world.closed()
    assert (closed["exit_reason"], closed["exit_price"], closed["price_estimated"]) == ("external", 49_899.5, False)
    books_equal(world)


def test_a_foreign_execution_that_stays_unexplained_asks_for_one_comparison_and_not_for_ever():
    world = World(LivePolicy(entry=EntryPolicy(style="market"), reconcile=ReconcilePolicy(orphan="RECLAIM_IF_SAFE")))
    world.signal()
    world.settle()
    world.exchange.place(OrderRequest("web_1", SYMBOL, Side.BUY, OrderType.MARKET, D("0.001")))
    world.stream.clear()
    for _ in range(6):
        world.reconcile()
        world.settle(limit=3)
    assert len([one for one in world.anomalies if "foreign" in one.reason]) == 1
    assert world.position == D("0.011") == sum((one.quantity for one in world.stops()), D(0))


def test_an_orphan_without_instrument_rules_is_left_to_a_person():
    world = World(MARKET)
    world.exchange.place(OrderRequest("web_1", SYMBOL, Side.SELL, OrderType.MARKET, D("0.01")))
    world.stream.clear()
    facts = world._facts()
    world.book.rules = {}
    (finding,) = compare(world.book, facts)
    assert (finding.action, finding.is_red) == ("report", True)


def test_a_trade_whose_instrument_lost_its_rules_is_left_to_its_stop():
    """Delisted, or its rules could not be read at a restart."""
    world = opened()
    rules, world.book.rules = world.book.rules, {}
    world.give(CloseRequested(SYMBOL, "manual"))
    world.advance(60_000)
    assert not world.pending and covered(world)
    world.book.rules = rules
    world.settle()
    assert world.position == 0


def test_a_reconcile_loop_that_never_converges_gives_up_and_stays_red():
    """An order of ours that the venue lists for ever, whatever is cancelled."""
    world = World(MARKET)
    from stream_apps.core.execution.orders.ids import client_order_id

    ghost = client_order_id(world.book.account.environment, "a signal that nobody remembers", "stop", 1)
    world.exchange.place(
        OrderRequest(ghost, SYMBOL, Side.SELL, OrderType.STOP_MARKET, D("0.01"), trigger_price=D(49_000), reduce_only=True)
    )
    asked: list[str] = []
    world.exchange.cancel = lambda client_id: asked.append(client_id)  # type: ignore[method-assign,assignment]
    for _ in range(10):
        (finding,) = world.reconcile()
        assert finding.is_red and finding.subject == ghost
    assert len(asked) == 3, "then it is a person's"


def test_a_false_reject_leads_to_a_protected_position_and_no_orphan():
    """The gateway says no, the exchange had said yes."""
    world = World(MARKET)
    world.signal()
    action = world.pending.pop()
    world.exchange.place(action.request)
    world.give(PlaceFailed(action.request.client_order_id, "refused", "other", "gateway error"))
    (trade,) = world.book.trades.values()
    assert trade.position.status == "expired", "refused: the entry is given up"
    world.settle()
    # The user stream tells that it was executed: what was not wanted any more is closed, and everything is accounted for.
    assert world.position == 0 and not world.exchange.open_orders()
    assert [one["exit_reason"] for one in world.closed()] == ["orphan"]
    books_equal(world)


def test_a_second_stop_that_is_refused_reduce_only_leaves_the_first_one_in_place():
    world = opened()
    (first,) = world.stops()
    world.price(50_200)
    while not any(action.request.trigger_price for action in world.pending if hasattr(action, "request")):
        world.deliver()
    world.exchange.refuse_next.append("reduce_only")
    world.perform(next(i for i, action in enumerate(world.pending) if hasattr(action, "request") and action.request.trigger_price))
    assert [one.client_order_id for one in world.stops()] == [first.client_order_id] and covered(world)
    world.settle()
    world.settle(until=lambda: [one.trigger_price for one in world.stops()] == [D("50050.5")])
    assert world.position == D("0.005") and covered(world)
    books_equal(world)


def test_a_stop_that_triggers_and_does_not_fill_is_closed_at_market():
    """What a stop-limit does in a falling market: it triggers and rests for ever."""
    world = opened()
    world.exchange.depth = D(0)
    world.price(49_700)
    world.settle(until=lambda: world.trade().closing == "stop")
    assert world.position == D("0.010")
    world.exchange.depth = D(1000)
    world.settle()
    assert world.position == 0
    assert [one["exit_reason"] for one in world.closed()] == ["stop"]
    books_equal(world)


def test_a_close_that_was_not_detected_gives_no_counter_position():
    """The stop closed the position while the user stream was away; then the timeout wants to close it too."""
    world = opened(timeout_minutes=1)
    world.price(49_700, tell=False)
    assert world.position == 0
    world.stream.clear()
    world.advance(60_000)
    world.settle()
    assert world.position == 0 and world.exchange.largest == D("0.010")
    (closed,) = world.closed()
    assert closed["exit_reason"] == "stop", "by its true fill"
    assert not world.exchange.open_orders()
    books_equal(world)


def test_an_orphaned_stop_after_the_close_is_swept():
    world = opened()
    stop = world.stops()[0].client_order_id
    world.give(CloseRequested(SYMBOL, "manual"))
    world.settle()
    assert not world.book.active
    # The venue brings the stop back (a cancel that it had confirmed and lost).
    world.exchange.orders[stop].status = type(world.exchange.orders[stop].status)("NEW")
    assert [one.action for one in world.reconcile()] == ["cancel"]
    assert not world.exchange.open_orders() and world.reconcile() == []


def test_there_is_no_unprotected_gap_while_a_stop_is_replaced():
    world = opened()
    checks = 0
    world.price(50_200)
    for _ in range(60):
        if world.stream:
            world.deliver()
        elif world.pending:
            world.perform()
        else:
            break
        assert covered(world), "at every moment of the replacement"
        checks += 1
    assert checks > 5 and world.stops()[0].trigger_price == D("50050.5") and len(world.stops()) == 1


def test_a_growing_entry_is_covered_within_one_round_trip_and_never_less_than_before():
    world = World(LivePolicy(entry=EntryPolicy(style="maker", timeout_ms=60_000)))
    world.signal()
    world.perform()
    world.exchange.depth = D("0.003")
    least = D(0)
    for _ in range(4):
        world.price(49_990)
        world.settle(until=lambda: covered(world))
        protected = sum((one.quantity for one in world.stops()), D(0))
        assert protected >= least
        least = protected
    assert world.position == D("0.010")


def test_a_partial_fill_of_the_stop_closes_the_rest():
    world = opened()
    world.exchange.depth = D("0.004")
    world.price(49_700)
    assert world.position == D("0.006")
    world.settle()
    assert world.position == 0 and not world.exchange.open_orders()
    (closed,) = world.closed()
    assert (closed["exit_reason"], closed["quantity"]) == ("stop", 0.01)
    books_equal(world)


def test_no_stop_is_made_again_on_a_closed_trade():
    world = opened()
    world.price(49_700)
    late = list(world.stream)
    world.settle()
    assert not world.book.active
    placed = len(world.exchange.orders)
    for event in late * 2:
        world.give(event)
    world.advance(10_000)
    world.settle()
    world.crash()
    world.settle()
    assert len(world.exchange.orders) == placed and not world.exchange.open_orders()
    assert len(world.closed()) == 1


@pytest.mark.parametrize("how", ["lost", "gone"])
def test_an_entry_whose_answer_was_lost_is_asked_for_and_never_doubled(how: str):
    world = World(MARKET)
    world.signal()
    world.perform(how=how)
    world.stream.clear()
    world.settle()
    assert world.exchange.largest == D("0.010")
    ids = [one.request.client_order_id for one in world.exchange.orders.values() if not one.request.reduce_only]
    assert len(ids) == 1 and ids[0].endswith("en1" if how == "lost" else "en2")
    books_equal(world)


def test_a_lost_entry_may_not_be_repeated_before_its_receive_window_has_passed():
    world = World(MARKET)
    world.signal()
    request = world.pending[0].request
    world.perform(how="gone")
    for _ in range(55):
        while world.pending:
            world.perform()
        world.advance(100)
        assert not world.exchange.orders, "5.5 s: it could still arrive"
    # And it does, at the last moment.
    world.exchange.place(request)
    world.settle()
    assert world.position == D("0.010") == world.exchange.largest
    books_equal(world)


def test_a_position_that_no_stop_can_protect_is_closed():
    world = World(LivePolicy(entry=EntryPolicy(style="market"), protection=ProtectionPolicy(window_ms=1_000)))
    world.signal()
    world.perform()
    begun = world.now
    while world.position != 0:
        assert world.now - begun < 3_000
        for action in list(world.pending):
            stop = hasattr(action, "request") and action.request.trigger_price is not None
            world.perform(0, "gone" if stop else "ok")
        while world.stream:
            world.deliver()
        world.advance(50)
    world.settle()
    (closed,) = world.closed()
    (cost,) = world.records["execution_cost_events"]
    assert closed["exit_reason"] == "unprotected" and 500 <= cost["protection_gap_ms"] < 2_000
    books_equal(world)


def test_a_stop_that_would_trigger_at_once_is_a_close_at_market():
    world = World(MARKET)
    world.signal()
    world.perform()
    world.price(49_700, tell=False)
    world.settle()
    assert [one["exit_reason"] for one in world.closed()] == ["stop"]
    assert world.position == 0
    books_equal(world)


@pytest.mark.parametrize(
    ("orphan", "safe", "kept"), [("CONSERVATIVE", True, False), ("RECLAIM_IF_SAFE", True, True), ("RECLAIM_IF_SAFE", False, False)]
)
def test_an_orphan_position_is_closed_or_taken_over_by_the_policy(orphan: str, safe: bool, kept: bool):
    world = World(LivePolicy(entry=EntryPolicy(style="market"), reconcile=ReconcilePolicy(orphan=orphan)))
    quantity = "0.01" if safe else "0.05"  # 2,500 of notional are beyond the budget of 1,000
    world.exchange.place(OrderRequest("web_1", SYMBOL, Side.SELL, OrderType.MARKET, D(quantity)))
    world.stream.clear()
    found = world.reconcile()
    assert [one.kind for one in found] == ["orphan_position"] and found[0].is_red
    if kept:
        world.settle(until=lambda: len(world.stops()) == 1)
        assert world.position == D("-0.01") and world.stops()[0].trigger_price == D("50499.5"), "1 % away"
        assert world.reconcile() == []
    else:
        world.settle()
        assert world.position == 0 and not world.book.active
        assert [one["exit_reason"] for one in world.closed()] == ["orphan"]


def test_orders_of_somebody_else_are_told_and_never_touched():
    world = World(MARKET)
    world.exchange.place(OrderRequest("web_1", SYMBOL, Side.BUY, OrderType.LIMIT, D("0.01"), price=D(40_000)))
    (finding,) = world.reconcile()
    assert (finding.kind, finding.action, finding.is_red) == ("foreign_order", "report", False)
    assert len(world.exchange.open_orders()) == 1


def test_a_stop_that_was_sent_while_the_journal_was_away_is_found_again_and_counts_as_what_it_is():
    """It was placed for a first partial fill; the process died before the journal knew of it, and after the rest was filled."""
    world = World(LivePolicy(entry=EntryPolicy(style="maker", timeout_ms=60_000)))
    world.signal()
    world.perform()
    while world.stream:
        world.deliver()
    world.database(there=False)
    world.exchange.depth = D("0.004")
    world.price(49_990)
    while world.stream:
        world.deliver()
    # The entry's cancel does not get through; its stop does.
    world.perform(next(i for i, action in enumerate(world.pending) if isinstance(action, Place)))
    (early,) = world.stops()
    assert early.quantity == D("0.004") == world.position, "protected though nothing could be journalled"
    world.exchange.depth = D(1000)
    world.exchange.work(SYMBOL)
    assert world.position == D("0.010")
    assert not any(early.client_order_id in text for text in world.journal.values())
    world.crash()
    world.settle(until=lambda: covered(world) and len(world.stops()) == 1)
    assert world.stops()[0].quantity == D("0.010") and world.stops()[0].client_order_id != early.client_order_id
    books_equal(world)


def test_nothing_is_opened_while_the_journal_is_away_and_what_is_open_is_closed_by_its_rules():
    world = opened()
    world.database(there=False)
    entries = len(world.exchange.orders)
    world.signal(2, strategy_id="s2", instrument="BINANCE:BTCUSDT-PERP", direction="SHORT", flip=True)
    world.settle(limit=5)
    assert (
        len([one for one in world.exchange.orders.values() if not one.request.reduce_only]) == 1 and len(world.exchange.orders) == entries
    )
    world.price(50_200)
    world.settle(until=lambda: [one.trigger_price for one in world.stops()] == [D("50050.5")])
    world.price(50_400)
    world.settle()
    assert world.position == 0 and not world.closed(), "told when it can be"
    world.database(there=True)
    assert [one["exit_reason"] for one in world.closed()] == ["tp2"]
    books_equal(world)


def test_an_exit_that_the_journal_never_knew_is_found_in_the_list_of_executions():
    """Closed at market while the database was away, then the process died."""
    world = opened()
    world.database(there=False)
    world.give(CloseRequested(SYMBOL, "guard"))
    world.settle(until=lambda: world.position == 0)
    world.crash()
    for _ in range(5):
        world.settle(limit=20)
        world.reconcile()
    assert not world.book.active and not world.exchange.open_orders()
    (closed,) = world.closed()
    assert not closed["price_estimated"]
    books_equal(world)

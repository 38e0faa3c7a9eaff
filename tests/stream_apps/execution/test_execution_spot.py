"""Spot positions against the simulated spot exchange: pairs, the plain stop, our own guard, fees in coins, dust, crashes; and thousands of disturbed lives."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from producers.simulated.exchange.core.orders import NewOrder
from producers.simulated.exchange.core.rules import Contract
from stream_apps.core.execution.orders.events import CloseRequested, PlacePair
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy, SizingPolicy, SpotPolicy
from tests.support.trading.execution_world import SYMBOL
from tests.support.trading.spot_world import CONTRACT, D, SpotWorld

ROOMY = Budget(max_spot_notional=D(100_000), max_notional=D(100_000))
MARKET = LivePolicy(entry=EntryPolicy(style="market"), budget=ROOMY)


def opened(policy: LivePolicy = MARKET, **more: object) -> SpotWorld:
    world = SpotWorld(policy, **more)  # type: ignore[arg-type]
    world.signal()
    world.settle()
    return world


def books_equal(world: SpotWorld, coins: str = "0") -> None:
    """The journal's money and coins are the exchange's, to the last digit; what is neither sold nor open is booked as dust."""
    trades = world.book.trades.values()
    dust = -sum((fill.side.sign * fill.quantity for one in trades for fill in one.fills.values() if fill.leg == "dust"), D(0))
    assert world.coins == D(coins) + dust + sum((one.booked_exposure for one in trades), D(0))
    assert world.money == D(10_000) + sum((one.cash for one in trades), D(0))
    real = {number for one in trades for number in one.fills if number > 0}
    assert real == {fill.trade_id for fill in world.spot.owner("desk").fills}


def test_an_entry_gets_one_pair_for_what_is_left_after_the_fee():
    world = opened()
    # 2 USD over a distance of 200 are 0.01 BTC, bought at 50000.1; 0.1 % of the coins is the fee.
    assert world.coins == D("0.00999")
    resting = world.resting()
    assert {leg: (one.original, one.quantity) for leg, one in resting.items()} == {
        "tp2": ("LIMIT_MAKER", D("0.00999")),
        "stop": ("STOP_LOSS", D("0.00999")),
    }
    assert (resting["tp2"].price, resting["stop"].trigger) == (D("50300.1"), D("49800.1"))
    assert resting["tp2"].listed == resting["stop"].listed
    assert world.trade().gap_ms <= 100 and world.trade().unprotected_since is None
    books_equal(world)


def test_the_target_sells_and_ends_the_stop():
    world = opened()
    world.price(50_301)
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "tp2" and not world.spot.open_orders("desk")
    books_equal(world)
    # Bought 0.01 at 50000.1; sold 0.00999 at 50300.1; both fees of 0.1 % are in it once.
    # The venue rounds a fee to eight decimals.
    cash = D("0.00999") * D("50300.1") * D("0.999") - D("0.01") * D("50000.1")
    assert abs(world.money - D(10_000) - cash) <= D("1e-8")
    assert closed["net_pnl"] == pytest.approx(float(cash), abs=1e-8)


def test_the_stop_sells_and_ends_the_target():
    world = opened()
    world.price(49_790)
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "stop" and not world.spot.open_orders("desk")
    books_equal(world)


def test_a_short_signal_closes_and_never_opens():
    world = opened()
    world.signal(2, direction="SHORT", flip=True)
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "flip" and not world.book.active
    assert [one["leg"] for one in world.records["orders"] if one["reason"] == "spot_long_only"] == ["entry"]
    books_equal(world)


@pytest.mark.parametrize("leg", ["manual", "timeout"])
def test_closing_frees_the_coins_first(leg: str):
    world = opened()
    if leg == "timeout":
        world.advance(240 * 60_000)
    else:
        world.give(CloseRequested(SYMBOL, leg))
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == leg and not world.spot.open_orders("desk")
    books_equal(world)


def test_without_pairs_a_plain_stop_rests_and_the_process_minds_the_target():
    world = opened(pairs=False)
    assert set(world.resting()) == {"stop"} and world.resting()["stop"].listed is None
    assert world.trade().unprotected_since is None
    world.price(50_301)
    world.settle()
    world.advance(4_900)
    assert not world.closed()
    world.advance(200)
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "tp2"
    books_equal(world)


def test_a_pair_that_is_refused_again_and_again_gives_way_to_a_plain_stop():
    # The exchange has no lists although its rules said so.
    from dataclasses import replace

    world = SpotWorld(MARKET, contract=replace(CONTRACT, lists=False))
    world.rules[SYMBOL] = replace(world.rules[SYMBOL], pairs=True)
    world.signal()
    world.settle(until=lambda: "stop" in world.resting())
    assert set(world.resting()) == {"stop"} and world.trade().refused["pair"] >= 3
    books_equal(world)


def test_with_neither_the_process_guards_and_the_window_is_measured():
    world = opened(pairs=False, stops=False)
    assert not world.resting()
    world.advance(60_000)
    trade = world.trade()
    assert trade.unprotected_since is not None and trade.closing is None
    world.price("49800.2")
    world.settle()
    assert not world.closed()
    world.price("49800.1")
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "guard_stop"
    (cost,) = world.records["execution_cost_events"]
    assert 60_000 <= cost["protection_gap_ms"] <= 62_000
    books_equal(world)


def test_a_guard_without_prices_closes_at_once_and_one_that_lasts_too_long_at_its_limit():
    blind = opened(pairs=False, stops=False)
    blind.advance(5_100, quotes=False)
    blind.settle()
    assert [one["exit_reason"] for one in blind.closed()] == ["unprotected"]
    books_equal(blind)
    patient = opened(
        LivePolicy(entry=EntryPolicy(style="market"), budget=ROOMY, spot=SpotPolicy(guard_limit_ms=20_000)), pairs=False, stops=False
    )
    patient.advance(19_000)
    assert patient.trade().closing is None
    patient.advance(1_100)
    patient.settle()
    assert [one["exit_reason"] for one in patient.closed()] == ["unprotected"]


def test_a_pair_lost_at_the_venue_is_guarded_meanwhile_and_placed_anew():
    world = opened()
    first = world.resting()["stop"].client_id
    world.spot.cancel("desk", SYMBOL, None, first, world.now)
    world.settle()
    assert set(world.resting()) == {"tp2", "stop"} and world.resting()["stop"].client_id != first
    books_equal(world)


def test_the_price_crosses_the_stop_while_a_pair_is_on_its_way():
    world = SpotWorld(MARKET)
    world.signal()
    world.perform()
    while world.stream:
        world.deliver()
    (action,) = world.pending
    assert isinstance(action, PlacePair)
    world.perform(how="gone")
    world.price(49_700)
    world.settle(until=lambda: bool(world.closed()))
    assert world.closed()[0]["exit_reason"] == "guard_stop"
    assert len(world.book.trades) == 1
    books_equal(world)


def test_a_target_that_is_filled_in_part_has_a_while_then_the_rest_is_taken():
    world = opened()
    world.spot.on_book(SYMBOL, [(D("50300.1"), D("0.004"))], [(D("50300.2"), D(1))], world.now)
    while world.stream:
        world.deliver()
    assert set(world.resting()) == {"tp2"} and world.trade().unprotected_since is not None
    world.mid = D(50_300)
    world.advance(1_900)
    assert world.trade().closing is None
    world.price(50_290)
    world.advance(1_200)
    world.settle()
    (closed,) = world.closed()
    assert closed["exit_reason"] == "tp2"
    books_equal(world)


def test_fills_that_come_one_by_one_get_pairs_of_their_own_and_the_last_the_rest():
    world = SpotWorld(
        LivePolicy(entry=EntryPolicy(style="maker", timeout_ms=60_000, expiry_ms=90_000), budget=ROOMY, sizing=SizingPolicy(risk_usd=D(8))),
        queue="touch",
    )
    world.signal()
    world.settle(until=lambda: bool(world.spot.open_orders("desk")))
    (bid,) = world.spot.open_orders("desk")
    for _ in range(8):
        world.spot.on_trade(SYMBOL, bid.price, D("0.005"), "SELL", world.now)
        world.settle(limit=3)
    world.settle()
    exits = [one for one in world.spot.open_orders("desk") if one.side == "SELL"]
    assert len({one.listed for one in exits}) == 4 and len(exits) == 8
    assert world.spot.locked("desk", "BTC") == world.coins // D("0.00001") * D("0.00001") == D("0.03996")
    books_equal(world)


def test_coins_that_were_there_before_are_never_sold():
    world = opened(coins="3")
    world.give(CloseRequested(SYMBOL, "manual"))
    world.settle()
    assert D(3) <= world.coins < D("3.00001")
    books_equal(world, "3")


def test_somebodys_sale_of_other_coins_is_not_ours():
    world = opened(coins="3")
    world.spot.place("desk", NewOrder(SYMBOL, "SELL", "MARKET", D("0.005"), client_id="by-hand"), world.now)
    world.settle()
    assert world.trade().exposure == D("0.00999") and set(world.resting()) == {"tp2", "stop"} and not world.anomalies
    assert not world.reconcile()


def test_what_is_too_small_to_sell_stays_as_dust():
    coarse = Contract.of(SYMBOL, "0.1", "0.001")
    world = SpotWorld(MARKET, contract=coarse)
    world.signal()
    world.settle()
    # 0.00999 coins, of which 0.009 can be sold.
    assert {one.quantity for one in world.spot.open_orders("desk")} == {D("0.009")}
    world.price(50_400)
    world.settle()
    (trade,) = world.book.trades.values()
    assert [fill.quantity for fill in trade.fills.values() if fill.leg == "dust"] == [D("0.00099")] and trade.is_over
    assert world.closed()[0]["exit_reason"] == "tp2"
    books_equal(world)


def test_without_any_price_nothing_is_written_off_and_it_is_told():
    """The fee of an entry is told, the entry itself is not yet, and prices are stale: what a coin is worth is not known."""
    world = SpotWorld(MARKET, contract=Contract.of(SYMBOL, "0.1", "0.001"))
    world.signal()
    world.settle()
    world.advance(world.policy.quote_stale_ms + 1, quotes=False)
    trade = world.trade()
    (entry,) = trade.of("entry")
    (number,) = (number for number, fill in trade.fills.items() if fill.leg == "entry")
    del trade.fills[number]
    entry.reported = D(0)
    entry.fills.clear()
    # Ends both orders of the pair.
    world.spot.cancel("desk", SYMBOL, world.spot.open_orders("desk")[0].id, None, world.now)
    for _ in range(40):
        world.advance(1_000, quotes=False)
        while world.stream:
            world.deliver()
        while world.pending:
            world.perform()
    assert trade.exposure == D("-0.00001") and trade.average_entry is None and world.book.fresh_quote(SYMBOL, world.now) is None
    assert not trade.is_over and not trade.of("dust")
    told = [one.reason for one in world.anomalies]
    assert set(told) == {"-0.00001 left to write off, and no price is known"} and 2 <= len(told) < 20, (
        "told again, not at every one of 40 looks"
    )
    # The entry is told after all: it would have been sold twice over by a stand-in.
    (fill,) = (one for one in world.fills() if one.trade_id == number)
    world.give(fill)
    world.quote()
    world.settle()
    assert trade.exposure == D("0.00999") and set(world.resting()) == {"tp2", "stop"}
    books_equal(world)


def test_sizes_by_budget_and_the_budget_of_all_spot_positions():
    policy = LivePolicy(
        entry=EntryPolicy(style="market"),
        sizing=SizingPolicy(method="quote", quote_budget=D(300)),
        budget=Budget(max_spot_notional=D(500), max_notional=D(1_000)),
    )
    world = SpotWorld(policy)
    world.signal()
    world.settle()
    # floor(300 / 50000, 0.00001)
    assert world.trade().entered == D("0.00600")
    from stream_apps.core.execution.entry.sizing import over_budget

    assert over_budget(D(201), 1, policy.budget, 1, D(0), spot_used=D(300)) == "budget_spot"


def test_a_restart_finds_the_pair_whose_answer_was_lost():
    for how in ("lost", "gone"):
        world = SpotWorld(MARKET)
        world.signal()
        world.perform()
        while world.stream:
            world.deliver()
        assert isinstance(world.pending[0], PlacePair)
        world.perform(how=how)
        world.crash()
        world.settle(limit=600)
        assert set(world.resting()) == {"tp2", "stop"}, how
        assert world.spot.locked("desk", "BTC") == D("0.00999"), "one pair, not two"
        books_equal(world)


def life(seed: int) -> SpotWorld:
    """A whole life under lost, late, doubled and reordered words, moving prices, crashes and a meddler; then quiet."""
    draw = random.Random(seed)
    style = draw.choice(["market", "maker", "routed"])
    policy = LivePolicy(
        entry=EntryPolicy(style=style, timeout_ms=1_000),
        budget=ROOMY,
        sizing=SizingPolicy(risk_usd=D(draw.choice([1, 2, 10]))),
        spot=SpotPolicy(guard_limit_ms=draw.choice([5_000, 300_000])),
    )
    world = SpotWorld(policy, coins=draw.choice(["0", "1"]), queue="touch", pairs=draw.random() < 0.8, stops=draw.random() < 0.8)
    world.signal()
    for _ in range(draw.randint(5, 60)):
        what = draw.random()
        if what < 0.4 and world.pending:
            world.perform(draw.randrange(len(world.pending)), draw.choice(["ok"] * 6 + ["lost", "gone", "limited", "unreachable"]))
        elif what < 0.6 and world.stream:
            world.deliver(draw.randrange(min(3, len(world.stream))), keep=draw.random() < 0.2)
        elif what < 0.7:
            world.price(world.mid + draw.randint(-120, 120), size=draw.choice(["0.002", "1", "100"]))
        elif what < 0.73:
            world.crash()
        elif what < 0.75 and world.spot.open_orders("desk"):
            one = draw.choice(world.spot.open_orders("desk"))
            world.spot.cancel("desk", SYMBOL, one.id, None, world.now)
        elif what < 0.76:
            world.give(CloseRequested(SYMBOL, "manual"))
        else:
            world.advance(draw.choice([10, 100, 700, 3_000]), quotes=draw.random() < 0.95)
    world.price(world.mid)
    world.settle(limit=600)
    world.reconcile()
    world.settle(limit=600)
    return world


def test_whatever_happens_coins_and_money_are_the_exchanges():
    run_lives(range(15))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_whatever_happens_coins_and_money_are_the_exchanges_often():
    run_lives(range(1_000, 6_000))


def run_lives(seeds: range) -> None:
    for seed in seeds:
        world = life(seed)
        before = "1" if world.coins >= D("0.9") else "0"
        try:
            books_equal(world, before)
            for trade in world.book.active:
                if trade.closing is None and trade.exposure > 0:
                    covered = sum((one.remaining for one in trade.live if one.is_stop and one.is_confirmed), Decimal(0))
                    guarded = trade.unprotected_since is not None
                    assert covered + world.rules[SYMBOL].lot > trade.exposure or guarded
            world.give(CloseRequested(SYMBOL, "manual"))
            world.settle(limit=600)
            assert not world.book.active and not world.spot.open_orders("desk")
            books_equal(world, before)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error

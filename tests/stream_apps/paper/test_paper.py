"""The paper model: the specification's vector, each rule by name, and recorded trades against an independent simulator."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_apps.core.paper.fills import Filters
from stream_apps.core.paper.model import PaperBook, PaperSettings
from stream_apps.core.paper.money import exact
from stream_apps.core.paper.position import FeeRates
from tests.stream_apps.paper.paper_oracle import Oracle
from tests.support.trading.paper_cases import GRID, INSTRUMENT, books, columns, of, play, settlement, signal

FLAT_FEE = FeeRates(taker=0.0005, maker=0.0005)
# The entry at 2000 of a signal at 15 s; later trades follow.
ENTRY = (15_600, 2000.0)


def run(rows, *signals, end=600_000, settlements=None, **options):
    book = PaperBook(PaperSettings(**{"slippage_bps": 0.0, **options}))
    out = play(book, columns(list(rows)), list(signals or [signal()]), end, settlements)
    return book, out


def closed(rows, *signals, **options):
    (trade,) = of("trades_closed", run(rows, *signals, **options)[1])
    return trade


# --- the vector of S1 19 ------------------------------------------------------------------------------------------------


def test_levels_of_the_specification_vector():
    _, out = run([ENTRY])
    opened = next(one for one in of("positions", out) if one["status"] == "open")
    assert (opened["stop_price"], opened["tp1_price"], opened["tp2_price"]) == (1980.0, 2015.0, 2030.0)
    assert (opened["quantity"], opened["risk_amount"]) == (10.0, 200.0)


def test_full_target_nets_1_025_r_by_the_specification_formula():
    """S1 8.4 takes both fees on the entry notional: 2 x 0.0005 x 2000/20 = 0.1R; 0.5 x 0.75 + 0.5 x 1.5 - 0.1 = 1.025R, exactly."""
    trade = closed([ENTRY, (20_000, 2015.1), (30_000, 2030.1)], fees=FLAT_FEE, fee_basis="entry")
    assert (trade["gross_r"], trade["fee_r"], trade["net_r"], trade["net_pnl"]) == (1.125, 0.1, 1.025, 205.0)


def test_full_target_with_fees_on_each_fill():
    """A venue charges each fill on its own notional: the exits are 22.5 higher on average, so 0.0005625R more than the formula's 0.1R."""
    trade = closed([ENTRY, (20_000, 2015.1), (30_000, 2030.1)], fees=FLAT_FEE)
    fees = (Decimal(2000) * 10 + Decimal(2015) * 5 + Decimal(2030) * 5) * Decimal("0.0005")
    assert trade["fees"] == float(fees)
    assert trade["net_r"] == float((225 - fees) / 200) == 1.0244375
    assert trade["net_r"] == pytest.approx(1.025, abs=0.001)


def test_default_fees_are_taker_in_and_maker_at_targets():
    trade = closed([ENTRY, (20_000, 2015.1), (30_000, 2030.1)])
    assert trade["fees"] == float(2000 * 10 * Decimal("0.0005") + (2015 + 2030) * 5 * Decimal("0.0002"))


# --- entry ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("time", "entered"), [(15_499, False), (15_500, True), (75_500, True), (75_501, False)])
def test_entry_needs_a_trade_from_latency_to_expiry(time, entered):
    _, out = run([(time, 2000.0)])
    assert bool(of("fills", out)) is entered
    if not entered:
        order = of("orders", out)[-1]
        assert (order["status"], order["reason"], order["event_time"]) == ("cancelled", "expired", 75_500)
        assert of("positions", out)[-1]["status"] == "expired"


def test_entry_slips_against_us_and_stop_slips_again():
    trade = closed([ENTRY, (20_000, 1979.0)], slippage_bps=10.0)
    assert trade["entry_price"] == 2002.0
    assert trade["exit_price"] == float(Decimal(1979) * Decimal("0.999"))
    assert trade["slippage_r"] == float((2 + Decimal("1.979")) * 10 / 200)
    assert trade["exit_reason"] == "stop"


def test_short_mirrors_long():
    trade = closed([ENTRY, (20_000, 1984.9), (30_000, 1969.9)], signal(direction="SHORT"), fees=FLAT_FEE, fee_basis="entry")
    assert (trade["exit_reason"], trade["net_r"]) == ("tp2", 1.025)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decided_at": 15_000 + 60_001}, "signal_too_old"),
        ({"risk_distance": 0.0}, "no_risk_distance"),
        ({"risk_multiple": 0.0}, "no_risk_amount"),
        ({"max_positions": 0}, "max_positions"),
    ],
)
def test_refused_signals_leave_a_rejected_order(change, reason):
    book, out = run([ENTRY], signal(**change))
    (order,) = of("orders", out)
    assert (order["status"], order["reason"]) == ("rejected", reason)
    assert not of("positions", out) and not list(book.active_instruments)


def test_a_signal_at_the_age_limit_is_taken():
    _, out = run([(76_000, 2000.0)], signal(decided_at=75_000))
    assert of("fills", out)


def test_max_positions_counts_pending_entries_of_the_strategy_over_its_instruments():
    book = PaperBook()
    both = [signal(instrument="BINANCE:A", max_positions=1), signal(instrument="BINANCE:B", max_positions=1)]
    out = book.step(time=15_000, decided_at=15_250, instruments=["BINANCE:A", "BINANCE:B"], trades={}, signals=both)
    assert [(one["instrument"], one["status"]) for one in of("orders", out)] == [("BINANCE:A", "new"), ("BINANCE:B", "rejected")]


def test_ignored_signals_leave_nothing():
    again = signal(30_000)
    opposite = signal(45_000, direction="SHORT")
    flip_only = signal(45_000, strategy_id="other", entry=False, flip=True)
    _, out = run([ENTRY, (50_000, 2000.0)], signal(), again, opposite, flip_only)
    assert {one["position_id"] for one in of("orders", out)} == {signal()["signal_id"]}


# --- exits ----------------------------------------------------------------------------------------------------------------


def test_the_entry_trade_itself_does_not_exit_and_order_in_one_millisecond_is_by_offset():
    trade = closed([ENTRY, (15_600, 1979.0)])
    assert (trade["exit_reason"], trade["hold_ms"]) == ("stop", 0)
    assert not of("trades_closed", run([(15_600, 1979.0)])[1])


def test_stop_at_a_touch_and_gaps_fill_where_they_land():
    assert closed([ENTRY, (20_000, 1980.0)])["gross_r"] == -1.0
    assert closed([ENTRY, (20_000, 1960.0)])["gross_r"] == -2.0


def test_a_target_needs_a_trade_beyond_it():
    _, out = run([ENTRY, (20_000, 2015.0)])
    assert [one["leg"] for one in of("fills", out)] == ["entry"]
    _, out = run([ENTRY, (20_000, 2015.01)])
    tp1 = of("fills", out)[1]
    assert (tp1["leg"], tp1["price"], tp1["quantity"], tp1["liquidity"]) == ("tp1", 2015.0, 5.0, "maker")


def test_one_trade_through_both_targets_fills_both():
    trade = closed([ENTRY, (20_000, 2031.0)])
    assert (trade["exit_reason"], trade["exit_price"], trade["tp1_hit"]) == ("tp2", 2022.5, True)


@pytest.mark.parametrize("direction", ["LONG", "SHORT"])
def test_break_even_stop_pays_its_own_fees(direction):
    sign = 1 if direction == "LONG" else -1
    _, out = run([ENTRY, (20_000, 2000.0 + sign * 15.1)], signal(direction=direction))
    stop = of("positions", out)[-1]["stop_price"]
    rest = sign * (Decimal(repr(stop)) - 2000) - Decimal("0.0005") * (2000 + Decimal(repr(stop)))
    assert abs(rest) < Decimal("1e-9")
    trade = closed([ENTRY, (20_000, 2000.0 + sign * 15.1), (21_000, stop)], signal(direction=direction))
    assert (trade["exit_reason"], trade["tp1_hit"]) == ("break_even_stop", True)
    # What is left is the first half's gain less that half's own fees.
    half_fees = 5 * (2000 * Decimal("0.0005") + (2000 + sign * 15) * Decimal("0.0002"))
    assert trade["net_pnl"] == pytest.approx(float(75 - half_fees), abs=1e-9)


def test_stop_comes_first_where_break_even_lies_beyond_the_second_target():
    """With a risk distance below the fees the break-even stop is above TP2: a trade crosses both, and the stop has it."""
    trade = closed([ENTRY, (20_000, 2000.8), (21_000, 2001.6)], signal(risk_distance=1.0))
    assert (trade["exit_reason"], trade["exit_price"]) == ("break_even_stop", float((Decimal("2000.75") + Decimal("2001.6")) / 2))


@pytest.mark.parametrize("first", [(20_000, 2005.0), (20_000, 2015.1)])
def test_timeout_closes_what_is_left_and_counts_the_banked_half(first):
    out_at = ENTRY[0] + 60_000
    trade = closed([ENTRY, first, (out_at - 1, 2005.0), (out_at, 2010.0)], signal(timeout_minutes=1))
    assert (trade["exit_reason"], trade["event_time"]) == ("timeout", out_at)
    assert trade["gross_r"] == (0.5 if first[1] < 2015 else float(Decimal(75 + 50) / 200))


@pytest.mark.parametrize(("first", "gross"), [((20_000, 2005.0), 0.5), ((20_000, 2015.1), 0.625)])
def test_flip_closes_counts_the_banked_half_and_enters_the_other_side_at_the_same_trade(first, gross):
    other = signal(30_000, direction="SHORT", flip=True)
    book, out = run([ENTRY, first, (30_499, 2009.0), (30_500, 2010.0)], signal(), other)
    (trade,) = of("trades_closed", out)
    assert (trade["exit_reason"], trade["gross_r"], trade["event_time"]) == ("flip", gross, 30_500)
    entry = of("fills", out)[-1]
    assert (entry["leg"], entry["side"], entry["price"], entry["position_id"]) == ("entry", "SELL", 2010.0, other["signal_id"])
    flip_order = next(one for one in of("orders", out) if one["leg"] == "flip")
    assert flip_order["signal_id"] == other["signal_id"] and flip_order["position_id"] == signal()["signal_id"]
    assert book.open_positions() == 1


def test_flip_without_entry_only_closes_and_an_old_flip_is_refused():
    book, out = run([ENTRY, (31_000, 2010.0)], signal(), signal(30_000, direction="SHORT", flip=True, entry=False))
    assert of("trades_closed", out)[0]["exit_reason"] == "flip" and book.open_positions() == 0
    book, out = run([ENTRY, (99_000, 2010.0)], signal(), signal(30_000, direction="SHORT", flip=True, decided_at=98_000))
    assert not of("trades_closed", out) and of("orders", out)[-1]["reason"] == "signal_too_old"


def test_a_stop_before_the_flip_trade_still_lets_the_new_side_in():
    _, out = run([ENTRY, (30_100, 1975.0), (30_500, 1970.0)], signal(), signal(30_000, direction="SHORT", flip=True))
    assert of("trades_closed", out)[0]["exit_reason"] == "stop"
    assert of("fills", out)[-1]["leg"] == "entry" and of("fills", out)[-1]["side"] == "SELL"


# --- money ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("multiple", "tier"), [(0.5, "light"), (1.0, "standard"), (1.5, "heavy")])
def test_tiers_scale_money_and_not_r(multiple, tier):
    trade = closed([ENTRY, (20_000, 1980.0)], signal(risk_multiple=multiple, tier=tier))
    assert trade["net_r"] == -1.0 - float(Decimal("0.0005") * 3980 / 20)
    assert trade["net_pnl"] == pytest.approx(trade["net_r"] * trade["risk_amount"] * multiple, rel=1e-12)


def test_excursions_are_in_r_from_the_entry_price_on_trade_prices():
    trade = closed([ENTRY, (20_000, 2010.0), (21_000, 1990.0), (22_000, 1970.0)])
    assert (trade["mfe_r"], trade["mae_r"]) == (0.5, 1.5)


@pytest.mark.parametrize(("direction", "sign"), [("LONG", 1), ("SHORT", -1)])
def test_funding_is_charged_within_the_holding_period_on_what_is_open(direction, sign):
    rows = [ENTRY, (20_000, 2000.0 + sign * 15.1), (40_000, 2000.0 + sign * 31)]
    events = [
        settlement(15_600, 0.01, 2000.0),  # at the entry: not yet held
        settlement(18_000, 0.001, 2001.0),
        settlement(18_000, 0.001, 2001.0),  # a repeat
        settlement(30_000, 0.002),  # without a mark: at the newest trade
        settlement(40_000, 0.001, 2030.0),  # at the exit: still held
        settlement(40_001, 0.5, 2030.0),
        settlement(30_001, 0.5, 2030.0, "BINANCE:BTCUSDT-PERP"),
    ]
    trade = closed(rows, signal(direction=direction), settlements=events)
    last = Decimal(repr(2000.0 + sign * 15.1))
    assert trade["funding"] == float(sign * (10 * 2001 * Decimal("0.001") + 5 * last * Decimal("0.002") + 5 * 2030 * Decimal("0.001")))
    assert trade["net_r"] == pytest.approx(trade["gross_r"] - trade["fee_r"] - trade["funding_r"], abs=1e-12)


def test_a_settlement_that_comes_late_is_charged_on_the_quantity_of_its_own_time():
    book = PaperBook(PaperSettings(slippage_bps=0.0))
    play(book, columns([ENTRY, (20_000, 2015.1)]), [signal()], 30_000)
    book.step(time=45_000, decided_at=45_250, instruments=[INSTRUMENT], trades={}, settlements=[settlement(18_000, 0.001, 2000.0)])
    out = book.step(time=60_000, decided_at=60_250, instruments=[INSTRUMENT], trades={INSTRUMENT: columns([(50_000, 2031.0)], 9)})
    assert of("trades_closed", out)[0]["funding"] == 20.0


def test_late_trades_count_only_after_the_newest_fill():
    book = PaperBook(PaperSettings(slippage_bps=0.0))
    play(book, columns([ENTRY]), [signal()], 30_000)
    late = columns([(15_550, 1900.0), (15_600, 1900.0)], first_offset=-5)
    assert book.step(time=45_000, decided_at=45_250, instruments=[INSTRUMENT], trades={INSTRUMENT: late}) == []
    late = columns([(16_000, 1900.0)], first_offset=7)
    assert of("trades_closed", book.step(time=60_000, decided_at=60_250, instruments=[INSTRUMENT], trades={INSTRUMENT: late}))


def test_other_authors_instruments_do_not_move():
    book = PaperBook()
    book.step(time=15_000, decided_at=15_250, instruments=[INSTRUMENT], trades={}, signals=[signal()])
    out = book.step(time=600_000, decided_at=600_250, instruments=["BINANCE:BTCUSDT-PERP"], trades={INSTRUMENT: columns([ENTRY])})
    assert out == [] and list(book.active_instruments) == [INSTRUMENT]


@pytest.mark.parametrize("bad", [{"latency_ms": -1}, {"slippage_bps": 10_000.0}, {"fee_basis": "exit"}, {"fees": FeeRates(taker=5.0)}])
def test_settings_name_the_value_at_fault(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PaperSettings(**bad)


# --- the book and the contract ----------------------------------------------------------------------------------------------

BIDS = [(1999.9, 3.0), (1999.0, 100.0)]
ASKS = [(2000.1, 4.0), (2000.3, 4.0), (2000.9, 1.0)]


def entered(book_rows, price=2000.0, direction="LONG", **options):
    book = PaperBook(PaperSettings(**options))
    out = play(book, columns([(15_600, price)]), [signal(direction=direction)], 30_000, books=books(book_rows))
    (fill,) = of("fills", out)
    assert fill["reference_price"] == price
    return fill["price"]


def test_an_entry_walks_the_book_and_pays_slippage_beyond_it():
    # 10 units (200 at risk, 20 a unit): 4 at 2000.1, 4 at 2000.3, 1 at 2000.9, and 1 beyond at 2000.9 x 1.0001 = 2001.10009.
    assert entered([(15_600, True, BIDS, ASKS)]) == (4 * 2000.1 + 4 * 2000.3 + 2000.9 + 2001.10009) / 10 == 2000.360009
    # SHORT takes the bids: 3 at 1999.9, 7 at 1999.0.
    assert entered([(15_600, True, BIDS, ASKS)], direction="SHORT") == (3 * 1999.9 + 7 * 1999) / 10 == 1999.27


@pytest.mark.parametrize(
    ("rows", "price", "expected"),
    [
        ([(15_601, True, BIDS, ASKS)], 2000.0, 2000.2),  # it comes after the trade: 1 bp
        ([(10_600, True, BIDS, [(2000.0, 10.0)])], 2000.0, 2000.0),  # 5 s old: known
        ([(10_599, True, BIDS, [(2000.0, 10.0)])], 2000.0, 2000.2),  # older: not known
        ([(15_000, True, BIDS, ASKS), (15_500, False, [], [])], 2000.0, 2000.2),  # it broke since
        ([(15_000, True, BIDS, [])], 2000.0, 2000.2),  # nothing is offered
        ([(15_000, True, BIDS, ASKS), (15_500, True, BIDS, [(2000.4, 99.0)])], 2000.0, 2000.4),  # the newest counts
        ([(15_500, True, BIDS, [(1990.0, 99.0)])], 2000.0, 2000.0),  # never better than the trade
    ],
)
def test_which_book_an_entry_walks(rows, price, expected):
    assert entered(rows, price) == expected


def test_without_walking_slippage_stands_in():
    assert entered([(15_600, True, BIDS, ASKS)], walk_book=False) == 2000.2


def test_a_stop_and_a_flip_walk_the_book_and_targets_do_not():
    rows = [(15_000, True, [(1970.0, 4.0), (1969.0, 90.0)], [(2000.0, 99.0)])]
    # The entry at 2000 leaves the stop at 1980; the trade at 1975 sells 10: 4 at 1970, 6 at 1969.
    out = play(PaperBook(), columns([ENTRY, (16_000, 1975.0)]), [signal()], 30_000, books=books(rows))
    (trade,) = of("trades_closed", out)
    assert (trade["exit_reason"], trade["exit_price"]) == ("stop", 1969.4)
    assert trade["slippage_r"] == pytest.approx((1975 - 1969.4) * 10 / 200)
    out = play(PaperBook(), columns([ENTRY, (16_000, 2031.0)]), [signal()], 30_000, books=books(rows))
    (trade,) = of("trades_closed", out)
    assert (trade["exit_reason"], trade["exit_price"], trade["slippage_r"]) == ("tp2", 2022.5, 0.0)  # half at 2015, half at 2030


def test_quantities_are_even_lots_and_prices_ticks():
    steps = Filters.of({"tick_size": 0.5, "step_size": 0.3, "min_notional": 5.0})
    out = play(
        PaperBook(PaperSettings(slippage_bps=0.0)),
        columns([(15_600, 2000.3), (16_000, 2016.0), (16_500, 2002.0)]),
        [signal()],
        30_000,
        filters=steps,
    )
    resting = {one["leg"]: (one["price"], one["quantity"]) for one in of("orders", out) if one["status"] == "new"}
    # 10 units are 33.3 lots of 0.3: 32. Levels 1980.3, 2015.3, 2030.3; break-even 2000.3 x 1.0005 / 0.9995 = 2002.30.
    assert resting == {
        "entry": (None, 9.6), "stop": (1980.0, 9.6), "tp1": (2015.5, 4.8), "tp2": (2030.5, 4.8), "break_even_stop": (2002.5, 4.8),
    }  # fmt: skip
    out = play(PaperBook(PaperSettings(slippage_bps=0.0)), columns([(15_600, 2000.3)]), [signal(direction="SHORT")], 30_000, filters=steps)
    resting = {one["leg"]: one["price"] for one in of("orders", out) if one["status"] == "new"}
    assert resting == {"entry": None, "stop": 2020.5, "tp1": 1985.0, "tp2": 1970.0}
    out = play(PaperBook(PaperSettings(use_filters=False)), columns([ENTRY]), [signal()], 30_000, filters=steps)
    assert of("fills", out)[0]["quantity"] == 10.0


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"step_size": 5.0}, None),  # two lots of five are ten
        ({"step_size": 5.1}, "below_lot"),
        ({"step_size": 0.001, "min_notional": 20_000.0}, None),  # 10 at 2000
        ({"step_size": 0.001, "min_notional": 20_000.1}, "below_min_notional"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(facts, reason):
    steps = Filters.of({"tick_size": 0.1, "min_notional": None, **facts})
    out = play(PaperBook(), columns([ENTRY]), [signal()], 30_000, filters=steps)
    rejected = [one["reason"] for one in of("orders", out) if one["status"] == "rejected"]
    assert rejected == ([] if reason is None else [reason]) and len(of("fills", out)) == (reason is None)


def test_facts_without_steps_round_nothing():
    assert Filters.of({"tick_size": 0.0, "step_size": 0.1, "min_notional": None}) is None
    steps = Filters.of({"tick_size": 0.1, "step_size": 0.001, "min_notional": 5.0})
    assert steps is not None and Filters.from_json(json.loads(json.dumps(steps.to_json()))) == steps


def test_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version 99"):
        PaperBook.from_bytes(b'{"version":99,"positions":[]}')


# --- recorded trades and any trades against the independent simulator ----------------------------------------------------------


def oracle_run(oracle, trades, signals, settlements, end):
    """Feed the oracle in the order that the steps define: up to T the trades and settlements, then the signals of T."""
    events = [
        (int(time), 2, int(offset), float(price))
        for time, offset, price in zip(trades.event_time, trades.offset, trades.price, strict=True)
    ]
    events += [(one["event_time"], 1, index, one) for index, one in enumerate(settlements)]
    events += [(one["event_time"], 3, index, one) for index, one in enumerate(signals)]
    for time, kind, _, what in sorted(events, key=lambda event: event[:3]):
        if time > end:
            break
        if kind == 1:
            oracle.settle(INSTRUMENT, time, what["settled_rate"], what["mark_price"])
        elif kind == 2:
            oracle.trade(INSTRUMENT, time, what)
        else:
            oracle.signal(what)
    for key in list(oracle.live):
        oracle.expire(key, end)
    return oracle


def same_as_oracle(oracle, out):
    mine = {one["trade_id"]: one for one in of("trades_closed", out)}
    theirs = {one["trade_id"]: one for one in oracle.closed}
    assert mine.keys() == theirs.keys()
    for trade_id, expected in theirs.items():
        assert {name: mine[trade_id][name] for name in expected} == expected
    assert {one["position_id"] for one in of("positions", out) if one["status"] == "expired"} == set(oracle.expired)
    assert {one["signal_id"] for one in of("orders", out) if one["status"] == "rejected"} == set(oracle.refused)


MARKETS = st.lists(
    st.tuples(st.integers(1, 20_000), st.sampled_from([-12.0, -3.0, -0.5, -0.1, 0.0, 0.1, 0.5, 3.0, 12.0])), min_size=1, max_size=120
)
ORDERS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sampled_from(["LONG", "SHORT"]),
        st.booleans(),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([0.3, 5.0, 20.0, 33.3]),
        st.sampled_from([1, 3, 240]),
        st.sampled_from([250, 400, 14_000, 61_000]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one[0],
)
SETTLED = st.lists(
    st.tuples(st.integers(1, 600_000), st.sampled_from([-0.001, 0.0001, 0.01]), st.sampled_from([None, 2000.5])),
    max_size=4,
    unique_by=lambda one: one[0],
)


def market(moves):
    time, price, rows = 0, 2000.0, []
    for wait, move in moves:
        time, price = time + wait, round(max(price + move, 1.0), 1)
        rows.append((time, price))
    return columns(rows)


MODELS = st.sampled_from(["v54_factory", "v50_rules"])


def asked(orders, model="v54_factory"):
    return [
        signal(
            k * GRID,
            direction=side,
            flip=flip,
            entry=entry,
            risk_distance=distance,
            timeout_minutes=minutes,
            decided_at=k * GRID + age,
            strategy_version=model,
        )
        for k, side, flip, entry, distance, minutes, age in orders
    ]


def without_receive_time(out):
    return sorted(((topic, {k: v for k, v in record.items() if k != "receive_time"}) for topic, record in out), key=repr)


@settings(max_examples=150, deadline=None)
@given(MARKETS, ORDERS, SETTLED, MODELS)
def test_any_market_equals_the_independent_simulator(moves, orders, settled, model):
    trades, signals = market(moves), asked(orders, model)
    settlements = [settlement(*one) for one in settled]
    end = 45 * GRID
    out = play(PaperBook(), trades, signals, end, settlements)
    same_as_oracle(oracle_run(Oracle(), trades, signals, settlements, end), out)


SIZES = st.sampled_from([0.4, 1.0, 3.7, 12.0, 500.0])
LADDERS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.7, 5.0]), SIZES), max_size=4)
DEPTHS = st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([True, True, True, False]), LADDERS, LADDERS), max_size=60)


def ladder(best: float, sign: int, steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found, price = [], best
    for step, size in steps:
        price = round(price + sign * step, 1)
        found.append((price, size))
    return found


@settings(max_examples=150, deadline=None)
@given(MARKETS, ORDERS, DEPTHS, st.sampled_from([None, 0.1, 0.5]), st.sampled_from([0.001, 0.3, 7.0]), MODELS)
def test_books_and_steps_of_the_contract_equal_the_independent_simulator(moves, orders, depths, tick, lot, model):
    trades, signals = market(moves), asked(orders, model)
    rows, time = [], 0
    for wait, live, down, up in depths:
        time += wait
        rows.append((time, live, ladder(2000.0, -1, down), ladder(2000.0, 1, up)))
    end = 45 * GRID
    steps = None if tick is None else Filters(exact(tick), exact(lot))
    out = play(PaperBook(), trades, signals, end, books=books(rows), filters=steps)
    same_as_oracle(oracle_run(Oracle(depth=rows, tick=tick, lot=lot if tick else None), trades, signals, [], end), out)
    again = play(PaperBook(), trades, signals, end, grid=GRID // 5, books=books(rows), filters=steps)
    assert without_receive_time(again) == without_receive_time(out)
    if steps is not None:
        for fill in of("fills", out):
            assert exact(fill["quantity"]) % steps.lot == 0
        for order in of("orders", out):
            assert order["price"] is None or exact(order["price"]) % steps.tick == 0


@settings(max_examples=60, deadline=None)
@given(MARKETS, ORDERS, SETTLED, st.integers(1, 44), MODELS)
def test_conservation_batching_and_restart(moves, orders, settled, cut, model):
    trades, signals = market(moves), asked(orders, model)
    settlements = [settlement(*one) for one in settled]
    end = 45 * GRID
    out = play(PaperBook(), trades, signals, end, settlements)

    # Finer steps, and a restart in the middle from the journalled bytes: the same records.
    fine = play(PaperBook(), trades, signals, end, settlements, grid=GRID // 5)
    assert without_receive_time(fine) == without_receive_time(out)
    book = PaperBook()
    before = play(book, trades, signals, cut * GRID, settlements)
    state = book.to_bytes()
    again = PaperBook.from_bytes(state)
    assert again.to_bytes() == state
    after = play(again, trades, signals, end, settlements, start=cut * GRID)
    # A signal of the cut's own instant belongs to the first part; the second starts after it.
    assert before + after == out

    fills = of("fills", out)
    for trade in of("trades_closed", out):
        mine = [one for one in fills if one["position_id"] == trade["trade_id"]]
        exits = [one for one in mine if one["leg"] != "entry"]
        assert sum(Decimal(repr(one["quantity"])) for one in exits) == Decimal(repr(trade["quantity"]))
        flow = sum(
            Decimal(repr(one["price"])) * Decimal(repr(one["quantity"])) * (1 if one["side"] == "SELL" else -1) - Decimal(repr(one["fee"]))
            for one in mine
        )
        assert float(flow) - trade["funding"] == pytest.approx(trade["net_pnl"], rel=1e-9, abs=1e-7)
    assert len({one["fill_id"] for one in fills}) == len(fills)
    orders_seen = [(one["order_id"], one["status"]) for one in of("orders", out)]
    assert len(set(orders_seen)) == len(orders_seen)
    states = [(one["position_id"], one["status"], one["event_time"]) for one in of("positions", out)]
    assert len(set(states)) == len(states)
    # Every order that was sent came to an end, or still rests for a position that is still there.
    ended = {order for order, status in orders_seen if status != "new"}
    live = {one.signal_id for one in again._positions()}
    assert all(order in ended or order.rsplit("|", 2)[0] in live for order, _ in orders_seen)

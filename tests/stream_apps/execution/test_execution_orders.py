"""Every edge of an order's life and every pair of state and trigger that is none; ids; routing; sizes."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.execution.entry.sizing import over_budget, size_of
from stream_apps.core.execution.orders.ids import LEGS, client_order_id, is_ours, parse
from stream_apps.core.execution.orders.order import Order, OrderState, Trigger
from stream_apps.core.execution.orders.venue_reports import FillReport, OrderReport, OrderType, Side, VenueStatus
from stream_apps.core.execution.settings.policy import Budget, SizingPolicy
from stream_apps.core.execution.settings.routes import route_for, slice_times, slices_of
from tests.support.trading.execution_exchange import rules_of

D = Decimal

# Written down apart from the code: rows are states, columns what happens; a dot is no transition.
COLUMNS = [
    *("NEW", "TRIGGERED", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "REJECTED"),
    *("REFUSED", "OUTCOME_UNKNOWN", "NOT_SENT", "NOT_FOUND", "SEND", "CANCEL", "GIVE_UP"),
]
TABLE = """
INTENDED    OPEN    TRIGGERED PARTIAL FILLED CANCELLED EXPIRED REJECTED REJECTED UNKNOWN WAITING .    .        .          .
WAITING     OPEN    TRIGGERED PARTIAL FILLED CANCELLED EXPIRED REJECTED .        UNKNOWN .       .    INTENDED .          CANCELLED
UNKNOWN     OPEN    TRIGGERED PARTIAL FILLED CANCELLED EXPIRED REJECTED REJECTED .       .       LOST .        .          .
OPEN        .       TRIGGERED PARTIAL FILLED CANCELLED EXPIRED REJECTED .        .       .       .    .        CANCELLING .
TRIGGERED   .       .         PARTIAL FILLED CANCELLED EXPIRED REJECTED .        .       .       .    .        .          .
PARTIAL     .       .         .       FILLED CANCELLED EXPIRED REJECTED .        .       .       .    .        CANCELLING .
CANCELLING  .       TRIGGERED .       FILLED CANCELLED EXPIRED REJECTED .        .       .       .    .        .          .
FILLED      .       .         .       .      .         .       .        .        .       .       .    .        .          .
CANCELLED   .       .         .       FILLED .         .       .        .        .       .       .    .        .          .
EXPIRED     .       .         .       FILLED .         .       .        .        .       .       .    .        .          .
REJECTED    UNKNOWN UNKNOWN   UNKNOWN FILLED CANCELLED EXPIRED .        .        .       .       .    .        .          .
LOST        UNKNOWN UNKNOWN   UNKNOWN FILLED CANCELLED EXPIRED REJECTED .        .       .       .    .        .          .
"""
ROWS = {line.split()[0]: line.split()[1:] for line in TABLE.strip().splitlines()}
PAIRS = [(state, trigger, ROWS[state][column]) for state in ROWS for column, trigger in enumerate(COLUMNS)]


def order(state: str = "INTENDED", quantity: str = "1") -> Order:
    made = Order("pf-1", "entry", 1, "BTCUSDT", Side.BUY, OrderType.LIMIT, D(quantity), D(10), None, None, False, 100)
    made.state = OrderState(state)
    return made


def report(status: str, filled: str = "0", at: int = 200) -> OrderReport:
    price = D(10) if D(filled) else None
    return OrderReport(
        "pf-1", "v1", "BTCUSDT", Side.BUY, OrderType.LIMIT, VenueStatus(status), D(1), D(filled), price, D(10), None, False, at
    )


def fill(trade_id: int, quantity: str) -> FillReport:
    return FillReport("BTCUSDT", trade_id, "pf-1", "v1", Side.BUY, D(10), D(quantity), D(0), "USDT", "maker", 200)


def test_the_table_names_every_state_and_every_trigger():
    assert set(ROWS) == {one.value for one in OrderState} and set(COLUMNS) == {one.value for one in Trigger}
    assert all(len(row) == len(COLUMNS) for row in ROWS.values())


@pytest.mark.parametrize(("state", "trigger", "target"), PAIRS, ids=lambda one: one if isinstance(one, str) else None)
def test_every_edge_and_every_forbidden_one(state: str, trigger: str, target: str):
    one = order(state)
    before = one.to_json()
    assert one.apply(Trigger(trigger), 300) is (target != ".")
    assert one.state == (state if target == "." else target)
    if target == ".":
        assert one.to_json() == before, "nothing changed"


@given(st.permutations(["NEW", "PARTIALLY_FILLED", "FILLED"] * 2), st.permutations([(1, "0.4"), (2, "0.6"), (1, "0.4")]), st.randoms())
def test_reports_and_fills_in_any_order_and_number_come_to_the_same(statuses, fills, random):
    one = order()
    events = [(report, (status, {"NEW": "0", "PARTIALLY_FILLED": "0.4", "FILLED": "1"}[status])) for status in statuses]
    events += [(fill, row) for row in fills]
    random.shuffle(events)
    for make, arguments in events:
        event = make(*arguments)
        if isinstance(event, OrderReport):
            one.take_report(event, 300)
        else:
            one.take_fill(event.trade_id, event.quantity, 300)
    assert (one.state, one.booked, one.executed, one.is_settled) == (OrderState.FILLED, D(1), D(1), True)
    assert Order.from_json(one.to_json()).to_json() == one.to_json()


def test_a_reported_execution_counts_before_its_fill_but_is_not_booked():
    one = order()
    one.take_report(report("CANCELED", "0.4"), 300)
    assert (one.executed, one.booked, one.is_final, one.is_settled) == (D("0.4"), D(0), True, False)
    one.take_fill(7, D("0.4"), 301)
    assert one.is_settled


def test_a_false_reject_is_asked_for_when_the_venue_speaks_of_the_order():
    one = order()
    one.apply(Trigger.REFUSED, 150)
    assert one.is_final
    one.take_report(report("NEW"), 160)
    assert one.state is OrderState.UNKNOWN and not one.is_final


# --- ids ---------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(sorted(LEGS)), st.integers(1, 9999))
def test_client_ids_are_taken_by_venues_recognised_and_read_back(environment: str, signal_id: str, leg: str, attempt: int):
    made = client_order_id(environment, signal_id, leg, attempt)
    assert re.fullmatch(r"[A-Za-z0-9._:/-]{1,36}", made)
    assert made == client_order_id(environment, signal_id, leg, attempt)
    parsed = parse(environment, made)
    assert parsed is not None and (parsed.leg, parsed.attempt) == (leg, attempt)
    assert not is_ours(environment + "x", made)


@pytest.mark.parametrize("foreign", ["", "web_abc", "autoclose-1", "pf", "pfaaaaaa-", "x" * 36])
def test_foreign_ids_are_foreign(foreign: str):
    assert not is_ours("live|BINANCE|main|", foreign)


def test_legs_have_codes_of_their_own():
    assert len(set(LEGS.values())) == len(LEGS) and all(len(code) == 2 for code in LEGS.values())


# --- routing and sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notional", "wait", "slices", "spacing"),
    [
        ("0", 1500, 1, 0),
        ("199.99", 1500, 1, 0),
        ("200", 2000, 2, 600),
        ("500", 2500, 3, 800),
        ("999.9", 2500, 3, 800),
        ("1000", 3000, 4, 1000),
    ],
)
def test_routing_table_and_its_boundaries(notional: str, wait: int, slices: int, spacing: int):
    row = route_for(D(notional))
    assert (row.maker_wait_ms, row.slices, row.spacing_ms) == (wait, slices, spacing)


@given(st.integers(1, 10**6), st.integers(1, 8), st.integers(1, 50))
def test_slices_add_up_and_none_is_too_small(lots: int, count: int, minimum: int):
    quantity, lot = D(lots) / 1000, D("0.001")
    parts = slices_of(quantity, count, lot, D(minimum) / 1000)
    assert sum(parts) == quantity and len(parts) <= count and all(part % lot == 0 for part in parts)
    assert len(parts) == 1 or all(part >= D(minimum) / 1000 for part in parts)


@given(st.text(), st.integers(1, 8), st.sampled_from([600, 800, 1000]), st.sampled_from(["0", "0.2", "0.49"]))
def test_slice_times_rise_within_the_jitter_and_repeat(name: str, count: int, spacing: int, jitter: str):
    times = slice_times(name, 1000, count, spacing, D(jitter))
    assert times == slice_times(name, 1000, count, spacing, D(jitter)) and times[0] == 1000
    assert all(abs(time - 1000 - i * spacing) <= D(jitter) * spacing for i, time in enumerate(times))
    assert list(times) == sorted(set(times))


def signal(**more: float) -> dict[str, float]:
    return {"risk_distance": 200.0, "risk_multiple": 1.0, "initial_balance": 10_000.0, "risk_per_trade": 0.02, **more}


def test_sizes_by_risk_and_by_margin():
    rules = rules_of()
    by_risk = size_of(signal(), D(50_000), rules, SizingPolicy())
    assert (by_risk.quantity, by_risk.risk_amount, by_risk.risk_distance) == (D("0.010"), D(2), D(200))
    assert size_of(signal(risk_multiple=1.5), D(50_000), rules, SizingPolicy()).quantity == D("0.015")
    assert size_of(signal(), D(50_000), rules, SizingPolicy(risk_usd=None)).quantity == D(1), "as paper: 2 % of 10,000"
    # R002-51..55: 20 x 5 / 50,000 = 0.002; loss cap 0.1 / 0.002 = 50 < 200.
    margin = size_of(signal(), D(50_000), rules, SizingPolicy(method="margin", max_loss_usd=D("0.1")))
    assert (margin.quantity, margin.risk_distance, margin.risk_amount) == (D("0.002"), D(50), D("0.1"))
    # A cap that is wider than the distance never widens the stop (Q002-5).
    assert size_of(signal(), D(50_000), rules, SizingPolicy(method="margin", max_loss_usd=D(5))).risk_distance == D(200)


@pytest.mark.parametrize(
    ("more", "price", "reason"),
    [({"risk_distance": 0.0}, 50_000, "no_risk_distance"), ({"risk_multiple": 0.0}, 50_000, "no_risk_amount"), ({}, 400, "below_minimum")],
)
def test_sizes_that_cannot_be(more: dict[str, float], price: int, reason: str):
    assert size_of(signal(**more), D(price), rules_of(), SizingPolicy()).refusal == reason


@pytest.mark.parametrize(
    ("notional", "positions", "margin", "spot", "limit"),
    [
        ("1000", 3, "300", None, None),
        ("1000.01", 0, "0", None, "budget_notional"),
        ("10", 4, "0", None, "budget_positions"),
        ("1000", 0, "300.01", None, "budget_margin"),
        ("100", 0, "0", "400", None),
        ("100", 0, "0", "400.01", "budget_spot"),
    ],
)
def test_budgets(notional: str, positions: int, margin: str, spot: str | None, limit: str | None):
    used = None if spot is None else D(spot)
    assert over_budget(D(notional), 5, Budget(), positions, D(margin), spot_used=used) == limit

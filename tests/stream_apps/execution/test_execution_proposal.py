"""The routing table proposed from costs: against planted costs, against pandas, and what must hold whatever the costs are."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.queries.execution_costs import toml_of
from stream_apps.core.execution.routing.proposal import ProposalRules, measure, propose
from stream_apps.core.execution.routing.reestimate import DAY_MS, ActiveRoute, reestimate, updated_routes
from stream_apps.core.execution.settings.policy import LivePolicy, RoutingPolicy
from stream_apps.core.execution.settings.policy_values import policy_of
from stream_apps.core.execution.settings.routes import DEFAULT_ROUTES

RULES = ProposalRules()


def entry(notional: float, slip: float, *, late: bool = False, maker: float = 1.0) -> dict[str, Any]:
    return {"notional": notional, "slippage_bps_entry": slip, "entry_timeout": late, "maker_ratio_entry": maker}


def good(notional: float, count: int = 40, slip: float = 0.5) -> list[dict[str, Any]]:
    return [entry(notional, slip + 0.01 * (number % 5)) for number in range(count)]


def row(found: list[Any], notional: int) -> Any:
    return next(one for one in found if one.now.from_notional == notional)


def test_too_few_entries_change_nothing():
    found = propose([entry(100, 50, late=True, maker=0)] * 29, DEFAULT_ROUTES)
    assert [one.proposed for one in found] == list(DEFAULT_ROUTES)
    assert all("not judged" in one.why[0] for one in found)


def test_waiting_that_costs_more_than_the_fees_it_saves_is_shortened():
    costs = good(100, 20) + [entry(100, 6, late=True, maker=0.0)] * 20
    one = row(propose(costs, DEFAULT_ROUTES), 0)
    assert (one.proposed.maker_wait_ms, one.proposed.slices) == (1125, 1) and "wait less" in one.why[0]


def test_waiting_that_is_cheap_and_too_short_is_lengthened():
    costs = good(100, 15) + [entry(100, 1, late=True, maker=0.0)] * 25
    one = row(propose(costs, DEFAULT_ROUTES), 0)
    assert one.proposed.maker_wait_ms == 1875 and "wait longer" in one.why[0]


def test_few_timeouts_leave_the_wait_however_dear_they_are():
    costs = good(100, 40) + [entry(100, 60, late=True, maker=0.0)] * 10
    assert row(propose(costs, DEFAULT_ROUTES), 0).proposed == DEFAULT_ROUTES[0]


def test_larger_orders_that_slip_more_get_a_slice_more_and_those_that_do_not_one_less():
    found = propose(good(100, slip=0.5) + good(300, slip=4.0) + good(700, slip=0.5), DEFAULT_ROUTES)
    assert [one.proposed.slices for one in found] == [1, 3, 2, 4]
    # Noise decides nothing.
    noisy = [entry(300, slip) for slip in (-40.0, 45.0) * 20]
    assert row(propose(good(100) + noisy, DEFAULT_ROUTES), 200).proposed.slices == 2


def test_a_boundary_belongs_to_the_upper_row_as_in_routing():
    found = propose([entry(200, 1)] * 3 + [entry(199.99, 1)] * 2, DEFAULT_ROUTES)
    assert [one.measured.entries for one in found] == [2, 3, 0, 0]


# --- day after day ------------------------------------------------------------------------------------------------------------

NOW = 1_790_000_000_000


def ended(entries: list[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    return [{**one, "ended_at": at} for one in entries]


def dear() -> list[dict[str, Any]]:
    return good(100, 20) + [entry(100, 6, late=True, maker=0.0)] * 20


def test_a_row_that_was_changed_is_judged_by_what_came_after_it_only():
    policy, held = LivePolicy(), tuple(ActiveRoute(one) for one in DEFAULT_ROUTES)
    before = ended(dear(), NOW - DAY_MS)
    first = updated_routes(reestimate(before, held, policy, NOW), held, NOW)
    assert first[0] == ActiveRoute(replace(DEFAULT_ROUTES[0], maker_wait_ms=1125), NOW) and first[1:] == held[1:]
    # The same entries do not push it on the next day, and those of after the change do.
    second = reestimate(before, first, policy, NOW + DAY_MS)
    assert updated_routes(second, first, NOW + DAY_MS) == first and second[0].measured.entries == 0
    third = updated_routes(reestimate(before + ended(dear(), NOW + 1), first, policy, NOW + DAY_MS), first, NOW + DAY_MS)
    assert third[0] == ActiveRoute(replace(DEFAULT_ROUTES[0], maker_wait_ms=843), NOW + DAY_MS)


def test_entries_of_before_the_window_are_not_looked_at():
    policy, held = LivePolicy(), tuple(ActiveRoute(one) for one in DEFAULT_ROUTES)
    old = ended(dear(), NOW - policy.routing.days * DAY_MS - 1)
    assert [one.measured.entries for one in reestimate(old, held, policy, NOW)] == [0, 0, 0, 0]


def test_however_dear_every_day_is_the_wait_ends_at_its_declared_bound():
    policy = LivePolicy(routing=RoutingPolicy(shortest_ms=900))
    held = tuple(ActiveRoute(one) for one in DEFAULT_ROUTES)
    waits = []
    for day in range(6):
        now = NOW + day * DAY_MS
        held = updated_routes(reestimate(ended(dear(), now), held, policy, now), held, now)
        assert tuple(ActiveRoute.from_json(one.to_json()) for one in held) == held
        waits.append(held[0].route.maker_wait_ms)
    assert waits == [1125, 900, 900, 900, 900, 900]
    with pytest.raises(ValueError, match="routing longest_ms: must be at least 900"):
        RoutingPolicy(shortest_ms=900, longest_ms=800)


COSTS = st.lists(
    st.builds(
        entry,
        st.floats(0, 5_000),
        st.floats(-50, 50),
        late=st.booleans(),
        maker=st.floats(0, 1),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(COSTS, st.randoms(use_true_random=False))
def test_whatever_the_costs_a_proposal_is_one_bounded_step_and_a_policy_takes_it(costs: list[dict[str, Any]], draw: Any):
    rules = ProposalRules(least=5)
    found = propose(costs, DEFAULT_ROUTES, rules)
    for one in found:
        assert abs(one.proposed.slices - one.now.slices) <= 1 and 1 <= one.proposed.slices <= rules.most_slices
        assert abs(one.proposed.maker_wait_ms - one.now.maker_wait_ms) <= Decimal("0.25") * one.now.maker_wait_ms + 1
        assert rules.shortest_ms <= one.proposed.maker_wait_ms <= rules.longest_ms
        assert one.proposed.slices == 1 or one.proposed.spacing_ms > 0
    shuffled = list(costs)
    draw.shuffle(shuffled)
    assert [one.proposed for one in propose(shuffled, DEFAULT_ROUTES, rules)] == [one.proposed for one in found]
    made = policy_of(tomllib.loads(toml_of([one.proposed for one in found], rules, "test")))
    assert made.entry.routes == tuple(one.proposed for one in found)


@settings(max_examples=40, deadline=None)
@given(COSTS.filter(lambda rows: len(rows) > 2))
def test_what_is_measured_is_what_pandas_says(costs: list[dict[str, Any]]):
    found, frame = measure(costs), pd.DataFrame(costs)
    assert found.slippage_bps == pytest.approx(frame.slippage_bps_entry.mean(), abs=1e-9)
    assert found.error_bps == pytest.approx(frame.slippage_bps_entry.sem(), abs=1e-9)
    assert found.timeouts == pytest.approx(frame.entry_timeout.mean())
    weight = frame.notional.sum()
    if weight > 1e-6:
        assert found.maker == pytest.approx((frame.notional * frame.maker_ratio_entry).sum() / weight, abs=1e-9)

"""The guard's rules against cases counted by hand, and properties that must hold whatever comes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.execution.account.guard import (
    DAY_MS,
    HALTED,
    HOUR_MS,
    MINUTE_MS,
    NORMAL,
    WARNING,
    ClosedTrade,
    Command,
    GuardInputs,
    GuardLimits,
    GuardMemory,
    OpenPosition,
    Share,
    evaluate,
    open_r,
)

NOON = 1_800_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2
LIMITS = GuardLimits()
FINE = GuardInputs(reached_at=NOON, available=Decimal(100), skew_ms=12, features_at=NOON - 14_000, open_r=0.0)


def trades(*results: float, last: int = NOON - MINUTE_MS, apart: int = MINUTE_MS) -> list[ClosedTrade]:
    return [ClosedTrade(f"t{index}", last - (len(results) - 1 - index) * apart, result) for index, result in enumerate(results)]


def rules(state) -> set[str]:  # type: ignore[no-untyped-def]
    return {one.rule for one in state.reasons}


def test_all_well() -> None:
    state, memory = evaluate(LIMITS, GuardMemory(), FINE, NOON)
    assert (state.state, state.block_entries, state.close_all, state.reasons) == (NORMAL, False, False, ())
    assert (state.allow_maker, state.allow_twap, state.size_multiple) == (True, True, 1.0)
    assert memory == GuardMemory()


def test_nothing_known_blocks_and_says_why() -> None:
    state, _ = evaluate(LIMITS, GuardMemory(), GuardInputs(), NOON)
    assert state.state == HALTED and state.block_entries and not state.close_all
    assert rules(state) == {"unreachable", "stale_data", "balance", "clock"}
    assert all(one.value is None for one in state.reasons)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"reached_at": NOON - 30_001}, "unreachable"),
        ({"features_at": NOON - 30_001}, "stale_data"),
        ({"available": Decimal("3.99")}, "balance"),
        ({"skew_ms": -1_001}, "clock"),
    ],
)
def test_each_limit_blocks_beyond_and_not_at_it(change: dict, rule: str) -> None:  # type: ignore[type-arg]
    state, memory = evaluate(LIMITS, GuardMemory(), replace(FINE, **change), NOON)
    assert rules(state) == {rule} and state.block_entries and state.state == HALTED and not state.close_all
    (name, value), *_ = change.items()
    at_limit = {name: value + (Decimal("0.01") if name == "available" else 1)}
    recovered, _ = evaluate(LIMITS, memory, replace(FINE, **at_limit), NOON)
    assert recovered.state == NORMAL and not recovered.block_entries


def test_five_r_lost_today_closes_everything_until_a_person_resumes() -> None:
    lost = replace(FINE, closed=trades(-2.0, 1.0, -4.0))
    state, memory = evaluate(LIMITS, GuardMemory(), lost, NOON)
    assert state.close_all and state.block_entries and state.state == HALTED and rules(state) == {"daily_loss"}
    # A gain afterwards, and midnight, do not end it; a restart neither.
    memory = GuardMemory.from_json(memory.to_json())
    better = replace(FINE, closed=trades(-2.0, 1.0, -4.0, 3.0))
    for now in (NOON + 1, NOON + DAY_MS):
        alive = replace(better, reached_at=now, features_at=now)
        state, memory = evaluate(LIMITS, memory, alive, now)
        assert rules(state) == {"daily_loss"} and state.reasons[0].since == NOON
    # Resumed on the next day: yesterday does not count.
    resume = Command("c1", "resume", NOON + DAY_MS, "me", "seen")
    state, memory = evaluate(LIMITS, memory, replace(alive, commands=[resume]), NOON + DAY_MS)
    assert state.state == NORMAL


def test_a_loss_of_today_holds_on_after_resume_unless_it_is_acknowledged() -> None:
    lost = replace(FINE, closed=trades(-6.0))
    _, memory = evaluate(LIMITS, GuardMemory(), lost, NOON)
    state, memory = evaluate(LIMITS, memory, replace(lost, commands=[Command("c1", "resume", NOON, "me", "")]), NOON)
    assert rules(state) == {"daily_loss"}
    state, memory = evaluate(LIMITS, memory, replace(lost, commands=[Command("c2", "resume", NOON, "me", "", True)]), NOON)
    assert state.state == NORMAL
    # What is lost afterwards counts from zero.
    state, _ = evaluate(LIMITS, memory, replace(lost, closed=[*lost.closed, ClosedTrade("later", NOON + 1, -4.9)]), NOON + 2)
    assert state.state == NORMAL
    state, _ = evaluate(LIMITS, memory, replace(lost, closed=[*lost.closed, ClosedTrade("later", NOON + 1, -5.0)]), NOON + 2)
    assert rules(state) == {"daily_loss"}


def test_what_is_open_counts_for_the_day_and_yesterday_does_not() -> None:
    yesterday = [ClosedTrade("y", NOON - DAY_MS, -9.0)]
    assert evaluate(LIMITS, GuardMemory(), replace(FINE, closed=yesterday), NOON)[0].state == NORMAL
    state, _ = evaluate(LIMITS, GuardMemory(), replace(FINE, closed=trades(-3.0), open_r=-2.0), NOON)
    assert rules(state) == {"daily_loss"}


def test_five_losses_in_a_row_pause_for_an_hour_once() -> None:
    row = trades(-0.1, -0.1, -0.1, -0.1, -0.1)
    last = row[-1].closed_at
    state, memory = evaluate(LIMITS, GuardMemory(), replace(FINE, closed=row), NOON)
    assert rules(state) == {"losing_streak"} and state.block_entries and not state.close_all
    assert state.reasons[0].until == last + HOUR_MS
    over = replace(FINE, closed=row, reached_at=last + HOUR_MS, features_at=last + HOUR_MS)
    state, memory = evaluate(LIMITS, memory, over, last + HOUR_MS)
    assert state.state == NORMAL
    # The sixth loss alone does not pause again; five more do.
    more = [*row, ClosedTrade("n0", last + HOUR_MS + 1, -0.1)]
    now = last + HOUR_MS + 10
    alive = replace(over, reached_at=now, features_at=now)
    assert evaluate(LIMITS, memory, replace(alive, closed=more), now)[0].state == NORMAL
    more += [ClosedTrade(f"n{index}", last + HOUR_MS + 1 + index, -0.1) for index in range(1, 5)]
    assert rules(evaluate(LIMITS, memory, replace(alive, closed=more), now)[0]) == {"losing_streak"}


def test_a_gain_breaks_the_streak_and_nothing_won_is_a_loss() -> None:
    assert evaluate(LIMITS, GuardMemory(), replace(FINE, closed=trades(-0.1, -0.1, 0.1, -0.1, -0.1, -0.1)), NOON)[0].state == NORMAL
    assert evaluate(LIMITS, GuardMemory(), replace(FINE, closed=trades(-0.1, -0.1, 0.0, -0.1, -0.1)), NOON)[0].state == HALTED


@pytest.mark.parametrize(("timeout", "warned", "closed"), [(60, 45, 70), (240, 180, 250), (1440, 1080, 1450), (None, 180, 250)])
def test_hold_limits_follow_the_strategy_s_timeout(timeout: int | None, warned: int, closed: int) -> None:
    def held(minutes: int, extra_ms: int) -> GuardInputs:
        entry = NOON - minutes * MINUTE_MS - extra_ms
        return replace(FINE, open=[OpenPosition("p", entry, None if timeout is None else entry + timeout * MINUTE_MS)])

    def found(minutes: int, extra_ms: int) -> tuple[set[str], tuple[str, ...]]:
        state, _ = evaluate(LIMITS, GuardMemory(), held(minutes, extra_ms), NOON)
        return rules(state), state.close_positions

    assert found(warned, 0) == (set(), ()) and found(warned, 1) == ({"hold_long"}, ())
    assert found(closed, 0) == ({"hold_long"}, ()) and found(closed, 1) == ({"hold_long", "hold_too_long"}, ("p",))


def test_a_set_limit_holds_whatever_the_timeout() -> None:
    limits = GuardLimits(hold_warn_ms=45 * MINUTE_MS, hold_close_ms=70 * MINUTE_MS)
    held = replace(FINE, open=[OpenPosition("young", NOON - 45 * MINUTE_MS), OpenPosition("old", NOON - 45 * MINUTE_MS - 1)])
    state, _ = evaluate(limits, GuardMemory(), held, NOON)
    assert state.state == WARNING and rules(state) == {"hold_long"} and not state.block_entries and state.close_positions == ()
    state, _ = evaluate(limits, GuardMemory(), replace(FINE, open=[OpenPosition("old", NOON - 70 * MINUTE_MS - 1)]), NOON)
    assert state.close_positions == ("old",) and rules(state) == {"hold_long", "hold_too_long"} and not state.close_all


@given(st.sampled_from([0.5, 1.0, 1.5]), st.booleans(), st.floats(-3.0, 3.0))
def test_open_r_is_what_the_trade_will_show_when_it_closes_there(multiple: float, half_banked: bool, move: float) -> None:
    """Against the closed trade: net result / (1R x tier multiple), whatever the tier and whatever is banked."""
    one_r, distance = 200.0, 50.0
    quantity = one_r * multiple / distance
    banked = quantity / 2 * 0.75 * distance if half_banked else 0.0
    unrealised = (quantity / 2 if half_banked else quantity) * move * distance
    position = OpenPosition("p", NOON, symbol="BTCUSDT", realised=banked, at_risk=one_r * multiple)
    found = open_r([position], {"BTCUSDT": Decimal(repr(unrealised))}, Decimal(2))
    assert found == pytest.approx((banked + unrealised) / (one_r * multiple))
    assert open_r([position], None, Decimal(2)) is None
    # A position at the venue that no record explains counts by the account's risk per trade.
    assert open_r([], {"ETHUSDT": Decimal(-3)}, Decimal(2)) == pytest.approx(-1.5)


def test_failure_detectors_degrade_and_need_enough_orders_to_tell() -> None:
    poor = replace(FINE, maker_fills=Share(0.2, 8), insufficient=Share(0.2, 10), route_p95_ms=Share(501.0, 20))
    state, _ = evaluate(LIMITS, GuardMemory(), poor, NOON)
    assert (state.allow_maker, state.allow_twap, state.size_multiple, state.block_entries) == (False, False, 0.5, False)
    assert state.state == WARNING and rules(state) == {"maker_fills", "insufficient_balance", "slow_route"}
    few = replace(FINE, maker_fills=Share(0.0, 7), insufficient=Share(1.0, 9), route_p95_ms=Share(9e9, 19))
    assert evaluate(LIMITS, GuardMemory(), few, NOON)[0].state == NORMAL
    slow = evaluate(LIMITS, GuardMemory(), replace(FINE, route_p95_ms=Share(501.0, 20)), NOON)[0]
    assert not slow.allow_maker and not slow.allow_twap and slow.size_multiple == 1.0


@pytest.mark.parametrize(
    ("command", "state", "close_all"), [("halt", HALTED, False), ("block_new", WARNING, False), ("close_all", HALTED, True)]
)
def test_commands_hold_until_resumed_and_apply_once(command: str, state: str, close_all: bool) -> None:
    given_ = Command("c1", command, NOON, "me@desk", "news")
    found, memory = evaluate(LIMITS, GuardMemory(), replace(FINE, commands=[given_]), NOON)
    assert (found.state, found.close_all, found.block_entries) == (state, close_all, True)
    assert found.reasons[0].detail == "me@desk: news"
    memory = GuardMemory.from_json(memory.to_json())
    assert evaluate(LIMITS, memory, FINE, NOON + 1)[0].block_entries
    # The same command, told again after the resume (the database's switch repeats it), is not a new one.
    resume = Command("c2", "resume", NOON + 1, "me@desk", "over")
    found, memory = evaluate(LIMITS, memory, replace(FINE, commands=[given_, resume]), NOON + 1)
    assert found.state == NORMAL
    assert evaluate(LIMITS, memory, replace(FINE, commands=[given_]), NOON + 2)[0].state == NORMAL


results = st.lists(st.sampled_from([-1.5, -1.0, -0.3, 0.0, 0.4, 2.0]), max_size=12)


@given(results, st.lists(st.sampled_from(["halt", "block_new", "close_all", "resume"]), max_size=4), st.booleans())
def test_whatever_comes(outcomes: list[float], commands: list[str], known: bool) -> None:
    """Memory survives JSON; the same facts again give the same state; blocking and closing always name a reason; a halt blocks."""
    facts = replace(
        FINE if known else GuardInputs(),
        closed=trades(*outcomes),
        commands=[Command(f"c{index}", one, NOON + index, "x", "y") for index, one in enumerate(commands)],
    )
    state, memory = evaluate(LIMITS, GuardMemory(), facts, NOON + 10)
    assert GuardMemory.from_json(memory.to_json()) == memory
    again, later = evaluate(LIMITS, memory, facts, NOON + 10)
    assert again == state and later == memory
    assert (state.block_entries or state.close_all) <= bool(state.reasons)
    assert (state.state == HALTED) <= state.block_entries
    assert state.close_all <= state.block_entries
    total = sum(outcomes)
    if total <= -5.0:
        assert state.close_all


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="daily_loss_r"):
        GuardLimits(daily_loss_r=0)
    with pytest.raises(ValueError, match="hold_close_ms"):
        GuardLimits(hold_warn_ms=2, hold_close_ms=1)

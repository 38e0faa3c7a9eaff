"""Specification W section 15, requirement by requirement, and the stability that Bybit's partial messages must not break."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.venue.state.funding_schedule import HOUR_MS, TOLERANCE_MS, FundingSchedule, Rule, next_boundary, roll

# 2025-12-12 00:00 UTC; the hours below are of that day.
DAY = 1_765_497_600_000


def at(clock: str) -> int:
    """Return a time of the day, ms UTC."""
    hours, minutes, *seconds = clock.split(":")
    return DAY + (int(hours) * 60 + int(minutes)) * 60_000 + (round(float(seconds[0]) * 1000) if seconds else 0)


def record(clock: str, next_time: int | None = None, hours: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "instrument": "V:X-PERP", "event_time": at(clock), "receive_time": at(clock), "mark_price": 1.5, "index_price": None,
        "estimated_settle_price": None, "estimated_rate": 0.0001, "settled_rate": None, "next_funding_time": next_time, "interval_hours": hours, **more,
    }  # fmt: skip


def said(schedule: FundingSchedule, given: dict[str, Any]) -> tuple[int | None, int | None, str | None]:
    out = schedule.apply(given)
    ours = ("next_funding_time", "interval_hours", "schedule_source")
    assert {name: out[name] for name in given if name not in ours} == {name: given[name] for name in given if name not in ours}
    return out["next_funding_time"], out["interval_hours"], out["schedule_source"]


def test_r001_217_intervals_are_per_contract_and_change_and_nobody_assumes_eight_hours():
    one, other = FundingSchedule(), FundingSchedule()
    assert said(one, record("07:00", at("08:00"))) == (at("08:00"), None, "venue")
    one.update(at("07:01"), interval_hours=1)
    other.update(at("07:01"), at("08:00"), 4)
    assert said(one, record("08:30"))[:2] == (at("09:00"), 1)
    assert said(other, record("08:30"))[:2] == (at("12:00"), 4)
    assert said(one, record("09:30", at("16:00"), 8))[:2] == (at("16:00"), 8)


@pytest.mark.parametrize("empty", [None, 0, -1])
def test_r001_218_empty_or_absent_fields_never_overwrite_a_valid_schedule(empty):
    schedule = FundingSchedule()
    schedule.update(at("07:00"), at("08:00"), 4)
    schedule.update(at("07:10"), empty, empty)
    assert said(schedule, record("07:20", empty, empty)) == (at("08:00"), 4, "venue")


def test_r001_219_a_next_in_the_past_moves_on_by_the_interval():
    schedule = FundingSchedule()
    schedule.update(at("07:00"), at("08:00"), 4)
    assert [said(schedule, record(clock))[0] for clock in ("07:59:59.999", "08:00", "08:00:00.001", "12:00", "21:00")] == [
        at("08:00"), at("12:00"), at("12:00"), at("16:00"), at("24:00"),
    ]  # fmt: skip


def test_r001_219_a_next_that_passed_a_minute_ago_never_leaves():
    schedule = FundingSchedule()
    schedule.update(at("07:00"), at("08:00"))
    assert said(schedule, record("08:00:59.999"))[0] == at("08:00")
    assert said(schedule, record("08:01")) == (None, None, None)
    assert said(schedule, record("08:02", at("08:00"))) == (None, None, None)
    assert said(schedule, record("08:03", None, 1)) == (at("09:00"), 1, "venue")


def test_r001_220_the_interval_is_never_the_time_that_is_left():
    schedule = FundingSchedule()
    for minute in range(0, 60, 5):
        assert said(schedule, record(f"07:{minute:02}", at("08:00")))[1] is None


def test_r001_221_settlements_are_left_as_the_history_says():
    schedule = FundingSchedule()
    schedule.update(at("07:00"), at("08:00"), 8)
    settled = record("00:00", settled_rate=0.0001)
    assert schedule.apply(settled) is settled
    assert said(schedule, record("07:30"))[0] == at("08:00")


def test_r001_222_and_230_binance_interval_only_from_funding_info_next_from_premium_index():
    schedule = FundingSchedule(interval_hours=1)  # LRCUSDT of fundingInfo
    assert said(schedule, record("07:30", at("08:00"))) == (at("08:00"), 1, "venue")
    assert said(schedule, record("08:00:01")) == (at("09:00"), 1, "venue")
    assert said(FundingSchedule(interval_hours=4), record("05:00", at("08:00")))[:2] == (at("08:00"), 4)  # ATUSDT


def test_r001_231_binance_mark_price_neither_defaults_the_interval_nor_blanks_the_schedule():
    schedule = FundingSchedule()
    assert said(schedule, record("07:00", None)) == (None, None, None)
    schedule.update(at("07:01"), at("08:00"), 4)
    assert said(schedule, record("07:02", 0)) == (at("08:00"), 4, "venue")


def test_r001_232_okx_next_is_always_future():
    schedule = FundingSchedule()
    schedule.update(at("03:59"), at("04:00"), 4)
    assert said(schedule, record("04:00:00.500"))[0] == at("08:00")


def test_r001_224_and_233_bybit_partial_messages_update_each_field_alone_and_erase_none():
    schedule = FundingSchedule()
    schedule.update(at("07:00"), at("08:00"), 8)
    assert said(schedule, record("07:00:01")) == (at("08:00"), 8, "venue")
    assert said(schedule, record("07:00:02", None, 1)) == (at("08:00"), 1, "venue")
    assert said(schedule, record("07:00:03", at("09:00"), None)) == (at("09:00"), 1, "venue")


def test_r001_233_rest_completes_the_schedule_while_the_stream_is_fresh():
    schedule = FundingSchedule()
    assert said(schedule, record("07:00:10")) == (None, None, None)
    schedule.update(at("07:00:08"), at("08:00"), 4)  # the REST answer is older than the newest message of the stream
    assert said(schedule, record("07:00:11")) == (at("08:00"), 4, "venue")
    schedule.update(at("07:00:09"), at("12:00"), 8)
    assert said(schedule, record("07:00:12")) == (at("08:00"), 4, "venue"), "what is older does not replace what is newer"


def test_r001_225_and_234_bitget_snapshots_always_have_next_and_interval_once_the_batch_has_come():
    schedule = FundingSchedule()
    schedule.apply(record("07:00", at("08:00"), 4))  # current-fund-rate: nextUpdate, fundingRateInterval
    for minute in range(1, 600, 7):
        clock = at("07:00") + minute * 60_000
        out = schedule.apply({**record("07:00"), "event_time": clock})
        assert out["interval_hours"] == 4 and out["next_funding_time"] > clock
        assert (out["next_funding_time"] - at("08:00")) % (4 * HOUR_MS) == 0


@pytest.mark.parametrize(("clock", "expected"), [("00:00", "01:00"), ("07:59:59.999", "08:00"), ("08:00", "09:00"), ("23:30", "24:00")])
def test_r001_226_and_235_hyperliquid_is_funded_on_the_next_full_hour_by_rule_and_no_message_erases_it(clock, expected):
    schedule = FundingSchedule(Rule(1))
    assert said(schedule, record(clock)) == (at(expected), 1, "rule")
    assert said(schedule, record(clock, None, None)) == (at(expected), 1, "rule")


@pytest.mark.parametrize(
    ("clock", "raw", "expected"),
    [
        ("07:20", "07:00:00.004", "08:00"),  # behaves as the last settlement, as the audit saw it
        ("07:20", "08:00:00.004", "08:00"),  # the next one
        ("07:20", "05:00", "08:00"),  # hours behind
        ("08:00:00.002", "07:00:00.004", "09:00"),
        ("07:59:59", "08:00:00.004", "08:00"),
    ],
)
def test_r001_227_lighter_rolls_a_passed_raw_time_by_the_hour_and_takes_a_future_one(clock, raw, expected):
    assert said(FundingSchedule(Rule(1, raw_time=True)), record(clock, at(raw))) == (at(expected), 1, "rule")


def test_r001_236_lighter_without_its_raw_field_falls_back_on_the_full_hour_and_a_raw_time_is_never_called_the_venues():
    schedule = FundingSchedule(Rule(1, raw_time=True))
    assert said(schedule, record("07:20")) == (at("08:00"), 1, "rule")
    for minute in range(0, 180):
        clock = at("07:20") + minute * 60_000
        out = schedule.apply({**record("07:20"), "event_time": clock, "next_funding_time": at("07:00:00.004")})
        assert out["schedule_source"] == "rule" and out["next_funding_time"] == next_boundary(clock, 1)


def test_r001_228_and_237_grvt_takes_next_when_present_and_eight_hour_boundaries_marked_as_rule_otherwise():
    schedule = FundingSchedule(Rule(8))
    assert said(schedule, record("07:20")) == (at("08:00"), 8, "rule")
    assert said(schedule, record("08:00")) == (at("16:00"), 8, "rule")
    assert said(schedule, record("08:01", at("16:00"))) == (at("16:00"), 8, "venue")
    assert said(schedule, record("16:00")) == (at("24:00"), 8, "venue")
    four = FundingSchedule(Rule(8), interval_hours=4)
    assert said(four, record("08:00")) == (at("12:00"), 4, "rule"), "the contract's own interval decides the boundaries"


def test_a_rule_that_an_adapter_applied_stays_a_rule_and_the_venues_word_replaces_it():
    schedule = FundingSchedule()
    assert said(schedule, record("07:20", at("08:00"), 1, schedule_source="rule"))[2] == "rule"
    assert said(schedule, record("08:20")) == (at("09:00"), 1, "rule")
    assert said(schedule, record("08:21", at("12:00"))) == (at("12:00"), 1, "venue")


def test_an_old_message_is_not_dressed_in_a_later_schedule():
    schedule = FundingSchedule()
    schedule.update(at("09:00"), at("16:00"), 8)
    old = record("05:00")
    assert schedule.apply(old) == old
    assert schedule.apply(record("05:00", at("08:00")))["next_funding_time"] == at("08:00")
    assert schedule.apply(record("05:00", at("04:00")))["next_funding_time"] is None
    assert said(schedule, record("09:30"))[0] == at("16:00")


def test_apply_leaves_the_record_it_was_given():
    given = record("07:00")
    schedule = FundingSchedule(Rule(1))
    schedule.apply(given)
    assert given == record("07:00")


# --- properties ---------------------------------------------------------------------------------------------------------

partials = st.lists(st.tuples(st.integers(0, 3 * HOUR_MS), st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(interval=st.sampled_from([1, 2, 4, 8]), start=st.integers(0, 24 * HOUR_MS), messages=partials, nothing=st.sampled_from([None, 0]))
def test_r001_245_bybit_stability_values_never_alternate_with_empty(interval, start, messages, nothing):
    """The test knows the true schedule; the venue says any part of it at any time, or nothing. Once both were said, both stay, and are right."""
    schedule, clock = FundingSchedule(), DAY + start
    known_next = known_interval = False
    for wait, says_next, says_interval in messages:
        clock += wait
        true_next = next_boundary(clock, interval)
        out = schedule.apply(
            {
                **record("00:00"),
                "event_time": clock,
                "next_funding_time": true_next if says_next else nothing,
                "interval_hours": interval if says_interval else nothing,
            }
        )
        known_next |= says_next
        known_interval |= says_interval
        assert (out["interval_hours"] == interval) if known_interval else (out["interval_hours"] is None)
        if known_next and known_interval:
            assert out["next_funding_time"] == true_next
        elif out["next_funding_time"] is not None:
            assert out["next_funding_time"] > clock - TOLERANCE_MS


@given(
    updates=st.lists(
        st.tuples(st.integers(0, 10**8), st.one_of(st.none(), st.integers(-(10**9), 10**9)), st.one_of(st.none(), st.integers(-3, 30))),
        max_size=40,
    ),
    rule=st.sampled_from([None, Rule(1), Rule(8), Rule(1, raw_time=True)]),
)
def test_r001_219_whatever_the_venue_says_no_next_leaves_that_passed_a_minute_ago(updates, rule):
    schedule = FundingSchedule(rule)
    for offset, ahead, hours in updates:
        clock = DAY + offset
        out = schedule.apply(
            {**record("00:00"), "event_time": clock, "next_funding_time": None if ahead is None else clock + ahead, "interval_hours": hours}
        )
        found = out["next_funding_time"]
        assert found is None or found > clock - TOLERANCE_MS
        newest = clock >= schedule._at  # an older message is given back as it came
        if rule is not None and newest:
            assert found is not None and out["schedule_source"] in ("rule", "venue")
        assert not newest or out["interval_hours"] is None or out["interval_hours"] > 0


@given(st.integers(DAY - 10**9, DAY), st.integers(0, 10**9), st.integers(1, 24))
def test_roll_gives_the_first_instant_of_the_grid_after_the_time(start, ahead, interval):
    now = start + ahead
    found = roll(start, now, interval)
    assert found > now >= found - interval * HOUR_MS and (found - start) % (interval * HOUR_MS) == 0

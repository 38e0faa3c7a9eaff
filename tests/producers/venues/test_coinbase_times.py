"""Coinbase's ISO times: exact to the millisecond, against integer arithmetic and against a second reading of the text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.coinbase.mapping import iso_ms
from producers.venue.adapter.base import MappingError

DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def by_calendar(text: str) -> int:
    """Count days and milliseconds by hand, apart from the library."""
    date, _, rest = text.rstrip("Z").partition("T")
    year, month, day = (int(part) for part in date.split("-"))
    leap = lambda number: number % 4 == 0 and (number % 100 != 0 or number % 400 == 0)  # noqa: E731
    days = sum(366 if leap(number) else 365 for number in range(1970, year)) + sum(DAYS[: month - 1]) + (month > 2 and leap(year)) + day - 1
    clock, _, fraction = rest.partition(".")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60_000 + seconds * 1000 + int((fraction + "000")[:3])


@given(st.integers(0, 4_000_000_000_000_000), st.integers(0, 6))
def test_times_of_all_precisions_are_cut_to_their_millisecond(micros: int, digits: int) -> None:
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    text = whole.strftime("%Y-%m-%dT%H:%M:%S") + (f".{micros % 1_000_000:06}"[: digits + 1] if digits else "") + "Z"
    assert iso_ms({"time": text}, "time", "match") == by_calendar(text)


def test_other_zones_and_nanoseconds() -> None:
    assert iso_ms({"t": "2026-08-25T05:35:57.198+02:00"}, "t", "x") == 1787628957198
    assert iso_ms({"t": "2026-08-25T03:35:57.198999999Z"}, "t", "x") == 1787628957198


@pytest.mark.parametrize(
    "text",
    ["", "2026-08-25", "2026-08-25T03:35:57", "1787628957198", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+23:00"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MappingError) as caught:
        iso_ms({"time": text}, "time", "match")
    assert caught.value.field == "time"

"""The next funding time and the interval of a contract (pure; specification W section 15, R001-217 to R001-237).

Venues publish the schedule in parts: an interval in one message, a next time in another, nothing in most. Known values stay until the venue
changes them. Absent, empty or zero values change nothing. A next time that has passed is advanced by the interval. The interval is the
published one, never the remaining time. Venues that publish neither have a rule, and values from a rule are marked.

Times are venue times, ms UTC; intervals are hours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from schemas.codec.avro import Record

HOUR_MS = 3_600_000
# A next time this far in the past is an error (R001-219) and is never written.
TOLERANCE_MS = 60_000

Source = Literal["venue", "rule"]


class Rule(NamedTuple):
    """The rule of a venue that publishes no schedule: settlements at whole multiples of the interval, UTC, unless it gives a time.

    Attributes:
        interval_hours: Hours between two settlements, unless the venue publishes its own for the contract.
        raw_time: The meaning of the venue's time field varies: it may be the last settlement or the next one (Lighter).
    """

    interval_hours: int
    raw_time: bool = False


def next_boundary(at: int, interval_hours: int) -> int:
    """Return the first whole multiple of the interval after a time: 8 h from 07:59 is 08:00, from 08:00 it is 16:00."""
    step = interval_hours * HOUR_MS
    return (at // step + 1) * step


def roll(next_time: int, at: int, interval_hours: int) -> int:
    """Return a next time, advanced by whole intervals until it is after ``at``."""
    if next_time > at:
        return next_time
    step = interval_hours * HOUR_MS
    return next_time + ((at - next_time) // step + 1) * step


class FundingSchedule:
    """The schedule of one contract.

    Args:
        rule: For venues that publish no schedule or a part of it.
        interval_hours: Interval of the venue's contract list, if it has one.
    """

    def __init__(self, rule: Rule | None = None, interval_hours: int | None = None) -> None:
        self._rule = rule
        self._interval = interval_hours if interval_hours and interval_hours > 0 else None
        self._next: int | None = None
        self._source: Source = "venue"  # of the next time
        self._at = 0  # venue time of the newest message

    @property
    def interval_hours(self) -> int | None:
        """The published interval, or that of the rule. None while unknown."""
        if self._interval is None and self._rule is not None:
            return self._rule.interval_hours
        return self._interval

    def update(self, at: int, next_time: int | None = None, interval_hours: int | None = None, source: Source = "venue") -> None:
        """Take the values of a message. None, 0 and negative values change nothing. A message older than the newest one only fills unknown
        values.

        Args:
            at: Venue time of the message.
            next_time: Next settlement, or the venue's value for it.
            interval_hours: Interval as published.
            source: Source of the next time: the venue, or a rule that the adapter applied.
        """
        newest = at >= self._at
        self._at = max(self._at, at)
        if interval_hours is not None and interval_hours > 0 and (newest or self._interval is None):
            self._interval = interval_hours
        if next_time is not None and next_time > 0 and (newest or self._next is None):
            self._next, self._source = next_time, source

    def next_after(self, at: int) -> tuple[int, Source] | tuple[None, None]:
        """Return the next settlement after a time and its source; (None, None) while unknown.

        Without an interval, a time that passed up to a minute ago is still returned. After more than a minute it is unknown.
        """
        interval = self.interval_hours
        if self._next is None:
            if self._rule is None:
                return None, None
            return next_boundary(at, interval or self._rule.interval_hours), "rule"
        raw = self._rule is not None and self._rule.raw_time
        if interval is None:
            return (self._next, self._source) if self._next > at - TOLERANCE_MS else (None, None)
        found = roll(_on_the_hour(self._next) if raw else self._next, at, interval)
        return found, "rule" if raw else self._source

    def apply(self, record: Record) -> Record:
        """Learn from a ``funding`` record. Return it with the known schedule: next time, interval, and source of the next time.

        Settlement records (``settled_rate``) are returned unchanged, because the schedule of their time is unknown. So are records more
        than a minute older than the newest one, except for a next time that had already passed then.
        """
        if record.get("settled_rate") is not None:
            return record
        at: int = record["event_time"]
        given, hours = record.get("next_funding_time"), record.get("interval_hours")
        said_by: Source = "rule" if record.get("schedule_source") == "rule" else "venue"
        if at < self._at - TOLERANCE_MS:
            self.update(at, given, hours, said_by)
            passed = given is not None and given <= at - TOLERANCE_MS
            return {**record, "next_funding_time": None} if passed else record
        self.update(at, given, hours, said_by)
        next_time, source = self.next_after(at)
        return {**record, "next_funding_time": next_time, "interval_hours": self.interval_hours, "schedule_source": source}


def _on_the_hour(time_ms: int) -> int:
    """Return the full hour within a minute of a time, else the time. Venues stamp settlements some milliseconds late."""
    hour = (time_ms + HOUR_MS // 2) // HOUR_MS * HOUR_MS
    return hour if abs(time_ms - hour) <= TOLERANCE_MS else time_ms

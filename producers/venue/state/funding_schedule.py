"""When a contract is funded next, and how often (pure; specification W section 15, R001-217 to R001-237).

Venues say it in pieces: an interval in one message, a next time in another, nothing in most. What is known is kept until the venue says otherwise;
what is absent, empty or zero erases nothing. A next time that has passed is moved on by the interval. The interval is what the venue
publishes, never the time that is left. Venues that publish neither have a rule, and what comes of a rule is marked so.

Times are venue times, ms UTC; intervals are hours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from schemas.codec.avro import Record

HOUR_MS = 3_600_000
# A next time that lies so far in the past is an error (R001-219): it never leaves.
TOLERANCE_MS = 60_000

Source = Literal["venue", "rule"]


class Rule(NamedTuple):
    """What holds where the venue publishes no schedule: settlements at whole multiples of the interval, UTC, unless it says when.

    Attributes:
        interval_hours: Hours between two settlements, unless the venue publishes its own for the contract.
        raw_time: The venue's time field is of unstable meaning: it may be the last settlement as well as the next (Lighter).
    """

    interval_hours: int
    raw_time: bool = False


def next_boundary(at: int, interval_hours: int) -> int:
    """Return the first whole multiple of the interval after a time: 8 h from 07:59 is 08:00, from 08:00 it is 16:00."""
    step = interval_hours * HOUR_MS
    return (at // step + 1) * step


def roll(next_time: int, at: int, interval_hours: int) -> int:
    """Return a next time moved on by whole intervals until it lies after ``at``; one that does stays as it is."""
    if next_time > at:
        return next_time
    step = interval_hours * HOUR_MS
    return next_time + ((at - next_time) // step + 1) * step


class FundingSchedule:
    """The schedule of one contract.

    Args:
        rule: For venues that publish no schedule or only half of it.
        interval_hours: What the venue's contract list says, if anything.
    """

    def __init__(self, rule: Rule | None = None, interval_hours: int | None = None) -> None:
        self._rule = rule
        self._interval = interval_hours if interval_hours and interval_hours > 0 else None
        self._next: int | None = None
        self._source: Source = "venue"  # of the next time
        self._at = 0  # venue time of the newest message

    @property
    def interval_hours(self) -> int | None:
        """The interval as published, or of the rule; None while nobody has said."""
        if self._interval is None and self._rule is not None:
            return self._rule.interval_hours
        return self._interval

    def update(self, at: int, next_time: int | None = None, interval_hours: int | None = None, source: Source = "venue") -> None:
        """Take what a message says. None, 0 and less say nothing. A message older than the newest one only fills what is not known.

        Args:
            at: Venue time of the message.
            next_time: Next settlement, or what the venue gives for it.
            interval_hours: Interval as published.
            source: Who says the next time: an adapter may have applied a rule to it already.
        """
        newest = at >= self._at
        self._at = max(self._at, at)
        if interval_hours is not None and interval_hours > 0 and (newest or self._interval is None):
            self._interval = interval_hours
        if next_time is not None and next_time > 0 and (newest or self._next is None):
            self._next, self._source = next_time, source

    def next_after(self, at: int) -> tuple[int, Source] | tuple[None, None]:
        """Return the next settlement after a time and who says so; (None, None) while it is not known.

        A time that has passed by up to a minute stands when there is no interval to move it by; one that has passed by more is not known any more.
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
        """Learn from a ``funding`` record and return it with what is known of the schedule: next time, interval, and the source of the next time.

        Records of settlements (``settled_rate``) come back as they are: they tell of the past, and the schedule of then is not known. So do records
        older than what was learnt by more than a minute, but for a next time that had already passed then.
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
    """Return the full hour that a time lies within a minute of, else the time: venues stamp settlements some milliseconds late."""
    hour = (time_ms + HOUR_MS // 2) // HOUR_MS * HOUR_MS
    return hour if abs(time_ms - hour) <= TOLERANCE_MS else time_ms

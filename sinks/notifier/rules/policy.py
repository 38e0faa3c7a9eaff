"""Who receives an event: routes, the top-N rule, quiet hours, and one message for each alert and window. Pure: time is an argument.

Windows use the wall clock of arrival, not event time, because they protect people: after an outage the events of ten hours may arrive in one second.
"""

from __future__ import annotations

import fnmatch
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sinks.notifier.rules.config import NotifierConfig, hours
from sinks.notifier.rules.events import LEVELS, Event, Level
from sinks.notifier.rules.origin import together
from sinks.notifier.rules.ranking import Ranking

# Ids remembered to drop repeats; some hours of a busy day.
REMEMBERED_IDS = 100_000

# Why an event was not sent, the reasons of the metric.
REPEAT, UNROUTED, TOP, QUIET, WINDOW = "repeat", "unrouted", "top", "quiet", "window"


@dataclass(frozen=True)
class Decision:
    """The decision about an event for a channel. It is sent if ``reason`` is empty. ``channel`` is empty if the decision applies to all."""

    channel: str
    reason: str


@dataclass(frozen=True)
class DueMessage:
    """A message that became due by time."""

    channel: str
    event: Event
    origin: str


@dataclass
class _Window:
    since: float
    event: Event
    title: str
    origin: str
    count: int = 0


@dataclass
class _Quiet:
    counts: Counter[str] = field(default_factory=Counter)
    origins: set[str] = field(default_factory=set)


class Policy:
    """Decides for all channels. Times are Unix seconds."""

    def __init__(self, config: NotifierConfig, ranking: Ranking) -> None:
        self._config = config
        self._ranking = ranking
        self._zone = ZoneInfo(config.time_zone)
        self._passes = LEVELS[config.quiet_passes]
        self._hours = {
            one.name: hours(text) if (text := config.quiet_hours if one.quiet_hours is None else one.quiet_hours) else None
            for one in config.channel
        }
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._windows: dict[tuple[str, str], _Window] = {}
        self._quiet: dict[str, _Quiet] = {one.name: _Quiet() for one in config.channel}

    def remember(self, event: Event) -> None:
        """Mark an event as sent."""
        self._seen[event.event_id] = None
        self._seen.move_to_end(event.event_id)
        if len(self._seen) > REMEMBERED_IDS:
            self._seen.popitem(last=False)

    def forget(self, event_id: str) -> None:
        """Mark an event as not sent, because its partition was revoked before it was sent."""
        self._seen.pop(event_id, None)
        for place in [place for place, window in self._windows.items() if window.event.event_id == event_id]:
            del self._windows[place]

    def decide(self, event: Event, title: str, origin: str, now: float) -> list[Decision]:
        """Return the decisions about an event: one for each channel, or one for all.

        Args:
            event: The event.
            title: Its title, for summaries of counted events.
            origin: Its origin, for summaries.
            now: Wall clock.
        """
        if event.event_id in self._seen:
            return [Decision("", REPEAT)]
        self.remember(event)
        channels = self._channels(event)
        if not channels:
            return [Decision("", UNROUTED)]
        critical = event.level >= Level.CRITICAL
        if not critical and event.kind in self._config.top_kinds and event.instrument and not self._ranking.admits(event.instrument):
            return [Decision("", TOP)]
        return [Decision(name, self._held(name, event, title, origin, now)) for name in channels]

    def _channels(self, event: Event) -> list[str]:
        names: dict[str, None] = {}
        for route in self._config.route:
            if event.kind not in route.kinds or event.level < route.least_level:
                continue
            if event.instrument and not any(fnmatch.fnmatchcase(event.instrument, pattern) for pattern in route.instruments):
                continue
            names.update(dict.fromkeys(route.channels))
        return list(names)

    def _held(self, channel: str, event: Event, title: str, origin: str, now: float) -> str:
        if event.level < self._passes and self.is_quiet(channel, now):
            self._quiet[channel].counts[event.kind] += 1
            self._quiet[channel].origins.add(origin)
            return QUIET
        if not event.alert:
            return ""
        window = self._windows.get((channel, event.alert))
        # A more severe event is sent at once; earlier counts are kept.
        if window is None or event.level > window.event.level:
            counted = 0 if window is None else window.count
            self._windows[channel, event.alert] = _Window(now, event, title, origin, counted)
            return ""
        window.count += 1
        return WINDOW

    def is_quiet(self, channel: str, now: float) -> bool:
        """Return whether a channel has quiet hours: start inclusive, end exclusive, in local time of the time zone."""
        span = self._hours[channel]
        if span is None:
            return False
        begin, end = span
        local = datetime.fromtimestamp(now, self._zone).time()
        return begin <= local < end if begin < end else local >= begin or local < end

    def due(self, now: float) -> list[DueMessage]:
        """Return the messages about counted events of ended windows and quiet hours.

        A window with counted events is followed by another window, so a continuing alert makes one message for each window.
        """
        found: list[DueMessage] = []
        for (channel, alert), window in list(self._windows.items()):
            if now - window.since < self._config.repeat_window_s:
                continue
            del self._windows[channel, alert]
            if not window.count:
                continue
            if window.event.level < self._passes and self.is_quiet(channel, now):
                self._quiet[channel].counts[window.event.kind] += window.count
                self._quiet[channel].origins.add(window.origin)
                continue
            self._windows[channel, alert] = replace(window, since=now, count=0)
            fields = {"count": window.count, "title": window.title, "since": int(window.since * 1000)}
            event_id = f"repeated|{channel}|{alert}|{fields['since']}"
            told = Event(event_id, "repeated", window.event.level, window.event.instrument, int(now * 1000), "", fields)
            found.append(DueMessage(channel, told, window.origin))
        for channel, quiet in self._quiet.items():
            if quiet.counts and not self.is_quiet(channel, now):
                span = self._hours[channel]
                shown = f"{span[0]:%H:%M}-{span[1]:%H:%M} {self._config.time_zone}" if span else ""
                counts = dict(sorted(quiet.counts.items()))
                told = Event(
                    f"quiet_summary|{channel}|{int(now * 1000)}",
                    "quiet_summary",
                    Level.INFO,
                    None,
                    int(now * 1000),
                    "",
                    {"count": sum(counts.values()), "counts": counts, "hours": shown},
                )
                found.append(DueMessage(channel, told, together(quiet.origins)))
                self._quiet[channel] = _Quiet()
        return found


def shown_time(ms: int, zone: ZoneInfo) -> str:
    """Return a time as text with its zone."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")

"""Convert records to events: which records are news, how severe they are, and which events are equal. Pure.

Ids consist of fields of the record, so a record that is delivered or written twice gives the same event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

from schemas.codec.avro import Record

# Dead letters of this service are not news: each would cause another one.
SERVICE = "notifier"


class Level(IntEnum):
    """Severity of an event. CRITICAL passes quiet hours and the top-N rule."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    CRITICAL = 3


LEVELS = {level.name.lower(): level for level in Level}


@dataclass(frozen=True)
class Event:
    """An event that may be news for a person.

    Attributes:
        event_id: Always the same for the same event.
        kind: One of ``KINDS``.
        level: Severity.
        instrument: Its instrument, if any.
        time: Event time, ms UTC; wall-clock time if there is no record.
        alert: Events with one alert name within a window are counted, not repeated. Empty: each event is sent.
        fields: Fields for templates.
    """

    event_id: str
    kind: str
    level: Level
    instrument: str | None
    time: int
    alert: str
    fields: Mapping[str, Any]


def event_of(topic: str, record: Record) -> Event | None:
    """Return the event of a record, or None if it is no news. The record fits its topic's schema."""
    return READERS[topic](record)


def health_event(service: str, up: bool, since: int, detail: str) -> Event:
    """Return the event of a service that went down or recovered at ``since`` (wall clock, ms).

    Both are critical, so that everyone who received the alarm also receives the recovery.
    """
    kind = "health_up" if up else "health_down"
    fields = {"service": service, "detail": detail, "since": since}
    return Event(f"{kind}|{service}|{since}", kind, Level.CRITICAL, None, since, "", fields)


def alert_event(alert: Mapping[str, Any], fires: bool, now: int) -> Event:
    """Return the event of a Prometheus alert that started or ended.

    Args:
        alert: The alert from Prometheus' API: labels, annotations, activeAt.
        fires: True at its start, False at its end.
        now: Wall clock, ms UTC.
    """
    labels, told = alert["labels"], alert["annotations"]
    own = {name: value for name, value in sorted(labels.items()) if name not in ("alertname", "severity")}
    name = "|".join((labels["alertname"], *(f"{key}={value}" for key, value in own.items())))
    kind = "alert_fires" if fires else "alert_ends"
    fields = {
        "rule": labels["alertname"],
        "severity": labels.get("severity", "warning"),
        "summary": told.get("summary", labels["alertname"]),
        "action": told.get("action", ""),
        "labels": ", ".join(f"{key} {value}" for key, value in own.items()),
        "since": int(datetime.fromisoformat(alert["activeAt"]).timestamp() * 1000),
    }
    return Event(
        f"{kind}|{name}|{alert['activeAt']}", kind, LEVELS.get(fields["severity"], Level.WARNING), None, now, f"{kind}|{name}", fields
    )


def _signal(record: Record) -> Event:
    return _event("signal", Level.INFO, f"signal|{record['signal_id']}", record)


def _position(record: Record) -> Event | None:
    kind = {"open": "position_opened", "tp1_hit": "position_tp1"}.get(record["status"])  # trades_closed reports its end
    return None if kind is None else _event(kind, Level.INFO, f"{kind}|{record['position_id']}|{record['mode']}", record)


def _trade_closed(record: Record) -> Event:
    return _event("trade_closed", Level.INFO, f"trade_closed|{record['trade_id']}|{record['mode']}", record)


def _order(record: Record) -> Event | None:
    if record["status"] != "rejected":
        return None
    alert = f"{record['instrument']}|{record['strategy_id']}|{record['leg']}"
    return _event("order_rejected", Level.ERROR, f"order_rejected|{record['order_id']}|{record['mode']}", record, alert)


def _data_quality(record: Record) -> Event | None:
    if record["kind"] == "score":
        return None
    level = LEVELS.get(record["severity"], Level.ERROR)
    return _event(
        "data_quality",
        level,
        f"data_quality|{record['quality_id']}",
        record,
        f"{record['instrument']}|{record['stream']}|{record['kind']}",
    )


def _gap(record: Record) -> Event:
    if record["repaired"]:
        level = Level.INFO
    else:
        level = Level.ERROR if record["certain"] else Level.WARNING
    parts = [record[name] for name in ("instrument", "stream", "kind", "event_time", "from_id", "to_id", "repaired")]
    alert = f"{record['instrument']}|{record['stream']}|{record['kind']}|{record['repaired']}"
    return _event("gap", level, "gap|" + "|".join(map(str, parts)), record, alert)


def _dead_letter(record: Record) -> Event | None:
    if record["service"] == SERVICE:
        return None
    names = ("service", "source", "source_partition", "source_offset", "event_time", "field", "reason")
    # A rejected value without an offset (a frame of a venue) is identified by its bytes.
    digest = hashlib.blake2b(repr([record[name] for name in (*names, "key", "value")]).encode(), digest_size=12).hexdigest()
    alert = f"{record['service']}|{record['source']}|{record['field']}"
    return _event("dead_letter", Level.ERROR, f"dead_letter|{record['service']}|{record['source']}|{digest}", record, alert)


GUARD_LEVELS = {"normal": Level.WARNING, "warning": Level.WARNING, "halted": Level.CRITICAL}


def _guard(record: Record) -> Event:
    return _event("guard", GUARD_LEVELS.get(record["state"], Level.CRITICAL), f"guard|{record['account']}|{record['sequence']}", record)


class GuardChanges:
    """Find the changes in the risk guard's states, which are written every two seconds.

    The first state of an account is news unless it is normal. The end of a halt is critical, too, so that everyone who received the alarm also receives the
    recovery.
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, str, Any]] = {}

    def news(self, event: Event) -> Event | None:
        """Return the event of a guard's state, in topic order, or None."""
        record = event.fields
        rules = sorted(one["rule"] for one in record["reasons"])
        said = (record["state"], record["block_entries"], record["close_all"], rules)
        sequence, state, before = self._newest.get(record["account"], (-1, "normal", ("normal", False, False, [])))
        if record["sequence"] <= sequence:
            return None  # a repeat, or an old state of a frozen guard
        self._newest[record["account"]] = (record["sequence"], record["state"], said)
        if said == before:
            return None
        return replace(event, level=max(event.level, GUARD_LEVELS.get(state, Level.CRITICAL)))


def _event(kind: str, level: Level, event_id: str, record: Record, alert: str = "") -> Event:
    return Event(event_id, kind, level, record.get("instrument"), record["event_time"], f"{kind}|{alert}" if alert else "", record)


READERS: Mapping[str, Callable[[Record], Event | None]] = {
    "signals": _signal,
    "positions": _position,
    "trades_closed": _trade_closed,
    "orders": _order,
    "data_quality": _data_quality,
    "gaps": _gap,
    "dead_letters": _dead_letter,
    "risk_state": _guard,
}
# Kind -> topic whose fields its template may use; None: fields from the code.
KINDS: Mapping[str, str | None] = {
    "signal": "signals",
    "position_opened": "positions",
    "position_tp1": "positions",
    "trade_closed": "trades_closed",
    "order_rejected": "orders",
    "data_quality": "data_quality",
    "gap": "gaps",
    "dead_letter": "dead_letters",
    "guard": "risk_state",
    "health_down": None,
    "health_up": None,
    "alert_fires": None,
    "alert_ends": None,
    "repeated": None,
    "quiet_summary": None,
    "digest": None,
    "test": None,
}
# Fields of messages without a topic.
OWN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "health_down": ("service", "detail", "since"),
    "health_up": ("service", "detail", "since"),
    "alert_fires": ("rule", "severity", "summary", "action", "labels", "since"),
    "alert_ends": ("rule", "severity", "summary", "action", "labels", "since"),
    "repeated": ("count", "title", "since"),
    "quiet_summary": ("count", "counts", "hours"),
    "digest": ("count", "counts", "titles", "left_out"),
    "test": ("channel",),
}
# Kinds that routes may name; the others derive from these.
ROUTABLE = tuple(kind for kind in KINDS if kind not in ("repeated", "quiet_summary", "digest", "test"))

"""Settings of an engine that are part of the log: which numbers an engine lets people set, and which of them hold at an instant.

The topic ``engine_settings`` holds revisions. A revision names all numbers that are set for the engine, or for one instrument of it. A number that no
revision sets holds the worker's default. Revisions are numbered by engine, so one number names all settings that an instant used.

An instant T uses the newest revision whose ``effective_time`` is not later than T. The instants of one mark can lie hours apart, so the log keeps every
revision that an instant may still use. The result depends on the log and on T alone: worker, replay and a restarted worker agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

TOPIC = "engine_settings"
_LAST_REVISION = 2**31 - 1  # Avro's int
_END_MS = 7_258_118_400_000  # the year 2200
_TEXT = 200  # characters of a note


class SettingsError(ValueError):
    """A revision that breaks a rule.

    Attributes:
        field: The field or the setting at fault.
        rule: What it must be, and what it was.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


@dataclass(frozen=True)
class Setting:
    """A number of an engine.

    Attributes:
        name: Its name.
        unit: Its unit; empty for a ratio or a count that needs none.
        least, most: Bounds, both allowed.
        meaning: What it does.
        source: Where the default comes from.
        whole: Only whole numbers.
        of_instrument: It is set for one instrument; else for the engine.
        fixed: Why it cannot change in the middle of a log; empty: it can.
        variable: The environment variable of its own that gives its default; empty: PERPFLOW_ENGINE_SETTINGS.
    """

    name: str
    unit: str
    least: float
    most: float
    meaning: str
    source: str
    whole: bool = True
    of_instrument: bool = False
    fixed: str = ""
    variable: str = ""

    def check(self, value: float) -> None:
        """Raise SettingsError, naming the setting and its limit, when a value is out of bounds."""
        if not (math.isfinite(value) and self.least <= value <= self.most):
            raise SettingsError(
                self.name, f"must be from {self.least:.15g} to {self.most:.15g} {self.unit}".rstrip() + f", got {value:.15g}"
            )
        if self.whole and value != int(value):
            raise SettingsError(self.name, f"must be a whole number, got {value:.15g}")

    def typed(self, value: float) -> float | int:
        """Return a value as the engine takes it."""
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class SettingsRevision:
    """One record of the topic, which documents the fields. ``instrument`` is empty where the numbers hold for the whole engine."""

    engine: str
    revision: int
    values: Mapping[str, float]
    instrument: str = ""
    event_time: int = 0
    receive_time: int = 0
    effective_time: int = 0
    edited_by: str = ""
    note: str | None = None

    @property
    def settings_id(self) -> str:
        """The record's key."""
        return f"{self.engine}|{self.instrument}" if self.instrument else self.engine

    def to_record(self) -> dict[str, Any]:
        """Return the record of the topic."""
        record = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"settings_id": self.settings_id, **record, "values": {name: float(value) for name, value in sorted(self.values.items())}}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SettingsRevision:
        """Return the revision of a record. Raises SettingsError when its key does not fit its fields."""
        found = cls(**{one.name: record[one.name] for one in fields(cls)})
        if record["settings_id"] != found.settings_id:
            raise SettingsError("settings_id", f"must be {found.settings_id!r}, got {record['settings_id']!r}")
        return found


@dataclass(frozen=True)
class SettingsInForce:
    """All numbers that are set as one revision left them.

    Attributes:
        revision: Its number; 0: nothing was ever set.
        effective_time: First instant that uses it, ms UTC; 0: every instant after the one before it in the log.
        engine: Setting -> number.
        instruments: Instrument -> setting -> number.
    """

    revision: int = 0
    effective_time: int = 0
    engine: Mapping[str, float] = field(default_factory=dict)
    instruments: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def with_revision(self, revision: SettingsRevision) -> SettingsInForce:
        """Return the numbers after a revision."""
        engine, instruments = dict(self.engine), dict(self.instruments)
        if revision.instrument:
            instruments.pop(revision.instrument, None)
            if revision.values:
                instruments[revision.instrument] = dict(revision.values)
        else:
            engine = dict(revision.values)
        return SettingsInForce(revision.revision, revision.effective_time, engine, instruments)

    def to_json(self) -> list[Any]:
        """Return it as plain values."""
        return [self.revision, self.effective_time, dict(self.engine), {name: dict(values) for name, values in self.instruments.items()}]


def check_revision(revision: SettingsRevision, known: Mapping[str, Setting]) -> None:
    """Check what a revision must keep by itself.

    Args:
        revision: The revision.
        known: Name -> setting of its engine.

    Raises:
        SettingsError: names the first field that breaks a rule, its value and the limit.
    """
    if not 1 <= revision.revision < _LAST_REVISION:
        raise SettingsError("revision", f"must be from 1 to {_LAST_REVISION - 1}, got {revision.revision}")
    for name in ("event_time", "receive_time", "effective_time"):
        if not 0 <= getattr(revision, name) < _END_MS:
            raise SettingsError(name, f"must be milliseconds since 1970 and before the year 2200, got {getattr(revision, name)}")
    if len(revision.edited_by) > 64 or not revision.edited_by.isprintable():
        raise SettingsError("edited_by", f"must have at most 64 printable characters, got {revision.edited_by!r}")
    if revision.note is not None and len(revision.note) > _TEXT:
        raise SettingsError("note", f"must have at most {_TEXT} characters, has {len(revision.note)}")
    for name, value in sorted(revision.values.items()):
        setting = known.get(name)
        if setting is None:
            raise SettingsError(name, f"is not a setting of {revision.engine}; there are: {', '.join(sorted(known))}")
        if setting.fixed:
            raise SettingsError(
                name,
                f"cannot change in the middle of a log: {setting.fixed}. Set it by {setting.variable or 'PERPFLOW_ENGINE_SETTINGS'} for worker and"
                " replay, and start the worker with a new --app-id",
            )
        if setting.of_instrument != bool(revision.instrument):
            raise SettingsError(name, "is set for one instrument (name it)" if setting.of_instrument else "is set for the whole engine")
        setting.check(value)


class SettingsLog:
    """The revisions of one engine in one partition.

    Args:
        engine: Name of the engine.
        known: Its settings.
        check: Raises SettingsError when numbers that are set do not fit together.

    Attributes:
        kept: What instants may still use, oldest first. ``effective_time`` rises from one to the next.
    """

    def __init__(self, engine: str, known: Iterable[Setting], check: Callable[[SettingsInForce], None]) -> None:
        self.engine = engine
        self.known = {setting.name: setting for setting in known}
        self.kept = [SettingsInForce()]
        self.check = check
        self._newest: SettingsRevision | None = None

    def take(self, revision: SettingsRevision, fired: int | None = None) -> bool:
        """Take the next record of the log; returns whether it changed something. A repeat of the newest one changes nothing.

        Args:
            revision: The record.
            fired: The earliest of the newest instants that the authors have fired, ms UTC; None: nobody has fired. What only instants up to it
                could use is forgotten.

        Raises:
            SettingsError: it breaks a rule or is not newer than the newest known one. What was known stays.
        """
        if revision.engine != self.engine or revision == self._newest:
            return False
        check_revision(revision, self.known)
        before = self.kept[-1]
        if revision.revision <= before.revision:
            raise SettingsError("revision", f"must be above {before.revision}, which {self.engine} has already, got {revision.revision}")
        new = before.with_revision(revision)
        self.check(new)
        self._newest = revision
        kept = [one for one in self.kept if one.effective_time < new.effective_time]
        if fired is not None:
            past = [place for place, one in enumerate(kept) if one.effective_time <= fired]
            kept = kept[past[-1] :] if past else kept
        self.kept = [*kept, new]
        return True

    def anew(self) -> SettingsLog:
        """Return a log of the same engine and rules without revisions."""
        return SettingsLog(self.engine, self.known.values(), self.check)

    def places(self, times: I64) -> I64:
        """Return the place in ``kept`` of what each instant uses; times in ms UTC."""
        starts = np.array([one.effective_time for one in self.kept], dtype=np.int64)
        return np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)

    def revisions(self, times: I64) -> I64:
        """Return the revision that each instant uses."""
        if len(self.kept) == 1:
            return np.full(len(times), self.kept[0].revision, dtype=np.int64)
        return np.array([one.revision for one in self.kept], dtype=np.int64)[self.places(times)]

    def at(self, time: int) -> SettingsInForce:
        """Return what an instant uses, ms UTC."""
        return self.kept[int(self.places(np.array([time], dtype=np.int64))[0])]

    def to_json(self) -> dict[str, Any]:
        """Return the log as a checkpoint keeps it."""
        return {"kept": [one.to_json() for one in self.kept], "newest": None if self._newest is None else self._newest.to_record()}

    def load(self, kept: Mapping[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self.kept = [SettingsInForce(*one) for one in kept["kept"]]
        self._newest = None if kept["newest"] is None else SettingsRevision.from_record(kept["newest"])

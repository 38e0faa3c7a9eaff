"""The audit trail of an engine's settings: from the topic, and what compaction has taken from there from the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.settings import log as settings_log
from stream_apps.core.log.engine_settings import SettingsError, SettingsLog, SettingsRevision


@dataclass(frozen=True)
class Entry:
    """One revision.

    Attributes:
        revision: It.
        changed: Setting -> (before, after); None: the default.
    """

    revision: SettingsRevision
    changed: dict[str, tuple[float | None, float | None]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        one = self.revision
        return {
            "revision": one.revision,
            "event_time": one.event_time,
            "effective_time": one.effective_time,
            "by": one.edited_by,
            "instrument": one.instrument or None,
            "changed": {name: list(pair) for name, pair in self.changed.items()},
            "note": one.note,
        }


def history(settings: Settings, rules: SettingsLog) -> list[Entry]:
    """Return the revisions of an engine, oldest first.

    Args:
        settings: The environment.
        rules: A log without revisions: the engine and its rules.

    Raises:
        UserError: Kafka does not answer, or the database is set and does not.
    """
    log = settings_log.read(settings, rules)
    held = {one.revision: one for one in log.revisions}
    if settings.database_url and len(held) < log.revision:
        held = {**_recorded(settings, rules), **held}
    entries = []
    known: dict[str, Mapping[str, float]] = {}
    for number in sorted(held):
        one = held[number]
        before = known.get(one.instrument, {})
        changed = {
            name: (before.get(name), one.values.get(name))
            for name in sorted({*before, *one.values})
            if before.get(name) != one.values.get(name)
        }
        known[one.instrument] = one.values
        entries.append(Entry(one, changed))
    return entries


def _recorded(settings: Settings, rules: SettingsLog) -> dict[int, SettingsRevision]:
    """Return the revisions that hold of those that the database keeps."""
    columns = 'engine, revision, "values", instrument, {}, {}, {}, edited_by, note'
    times = [f"(extract(epoch FROM {name}) * 1000)::bigint" for name in ("event_time", "event_time", "effective_time")]
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10) as connection:
            rows = connection.execute(
                f"SELECT {columns.format(*times)} FROM engine_settings_changes WHERE engine = %s ORDER BY revision, event_time",
                (rules.engine,),
            ).fetchall()
    except psycopg.Error as error:
        raise UserError(f"the database does not answer with the older revisions (DATABASE_URL): {error}") from error
    ours, found = rules.anew(), dict[int, SettingsRevision]()
    for row in rows:
        one = SettingsRevision(*row)
        try:
            if ours.take(one):
                found[one.revision] = one
        except SettingsError:
            continue  # dead_letters has it
    return found

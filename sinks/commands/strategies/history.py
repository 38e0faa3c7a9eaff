"""The audit trail of a strategy: from the topic, and from the database for revisions that compaction removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from stream_apps.core.signals.strategy import action, changes


@dataclass(frozen=True)
class AuditEntry:
    """One revision, or a rejected record.

    Attributes:
        revision: Its number.
        event_time: Time of writing, ms UTC; 0 for a rejected record that cannot be decoded.
        by, note: Who wrote it, and why.
        did: create, edit, pause, resume, deprecate, restore or refused.
        changed: Field -> (before, after).
        reason: Why it was rejected.
    """

    revision: int
    event_time: int
    by: str
    note: str | None
    did: str
    changed: dict[str, tuple[Any, Any]]
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "revision": self.revision,
            "event_time": self.event_time,
            "by": self.by,
            "did": self.did,
            "changed": {field: list(pair) for field, pair in self.changed.items()},
            "note": self.note,
            "reason": self.reason,
        }


def history(settings: Settings, strategy_id: str) -> list[AuditEntry]:
    """Return the audit trail of a strategy, oldest first; empty for an unknown strategy.

    Raises:
        UserError: Kafka does not answer, or a configured database does not.
    """
    log = strategy_log.read(settings)
    revisions = log.revisions.get(strategy_id, [])
    entries = [
        AuditEntry(config.revision, config.event_time, config.edited_by, config.note, action(before, config), changes(before, config))
        for before, config in zip([None, *revisions], revisions, strict=False)
    ]
    first = revisions[0].revision if revisions else 1
    older: list[AuditEntry] = []
    if first > 1 and settings.database_url:
        older = [entry for entry in _recorded(settings, strategy_id) if entry.revision <= first]
        if older and older[-1].revision == first:
            entries = entries[1:]  # the database has the changes of the topic's oldest revision
    refused = [AuditEntry(0, 0, "", None, "refused", {}, str(one)) for one in log.refused if one.strategy_id == strategy_id]
    return [*older, *entries, *refused]


def _recorded(settings: Settings, strategy_id: str) -> list[AuditEntry]:
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10) as connection:
            rows = connection.execute(
                "SELECT revision, (extract(epoch FROM event_time) * 1000)::bigint, edited_by, note, action, changed FROM strategy_audit"
                " WHERE strategy_id = %s AND accepted ORDER BY revision",
                (strategy_id,),
            ).fetchall()
    except psycopg.Error as error:
        raise UserError(f"cannot read older revisions from the database (DATABASE_URL): {error}") from error
    return [
        AuditEntry(revision, at, by, note, did, {field: (old, new) for field, (old, new) in changed.items()})
        for revision, at, by, note, did, changed in rows
    ]

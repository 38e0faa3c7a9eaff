"""Record which time ranges a batch changed, for the bars that are built from them (table bar_changes in deploy/database/migrations).

The notes are in the transaction of the rows, so the builder of bars finds the rows of each note. Late rows make the builder rebuild their range. With
continuous aggregates no notes are needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import psycopg

# Time range of a note: a batch of live data touches one or two, and a rebuild is fast.
SLOT_MS = 300_000


def sources(connection: psycopg.Connection) -> frozenset[str]:
    """Return the tables whose changes are recorded."""
    return frozenset(name for (name,) in connection.execute("SELECT source FROM bar_sources"))


def slots(event_times: np.ndarray) -> np.ndarray:
    """Return the slots (int64, ascending) of times (int64 ms): slot s is (s, s + 1] times SLOT_MS, as for bars. Pure."""
    return np.unique((event_times - 1) // SLOT_MS)


def note(connection: psycopg.Connection, of: frozenset[str], written: Iterable[tuple[str, np.ndarray]]) -> None:
    """Record the written times.

    Args:
        connection: Inside the transaction of the rows.
        of: Result of ``sources``.
        written: Table and event times (int64 ms) of its rows.
    """
    by_table: dict[str, set[int]] = {}
    for table, event_times in written:
        if table in of and len(event_times):
            by_table.setdefault(table, set()).update(slots(event_times).tolist())
    flat = sorted((table, slot) for table, found in by_table.items() for slot in found)
    if flat:
        connection.execute(
            "INSERT INTO bar_changes (source, slot) SELECT * FROM unnest(%s::text[], %s::bigint[])",
            tuple(map(list, zip(*flat, strict=True))),
        )

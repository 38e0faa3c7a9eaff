"""Notes of what a batch wrote where, for the bars that are built of it (deploy/database/migrations: bar_changes).

A note goes into the transaction of the rows, so whoever builds bars of what was noted finds the rows, and rows that come late to a span that was built
already have it built again. Where continuous aggregates do that, nothing is noted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import psycopg

# Span of a note: long enough that a batch of live data touches one or two, short enough to be built anew in no time.
SLOT_MS = 300_000


def sources(connection: psycopg.Connection) -> frozenset[str]:
    """Return the tables whose changes are noted."""
    return frozenset(name for (name,) in connection.execute("SELECT source FROM bar_sources"))


def slots(event_times: np.ndarray) -> np.ndarray:
    """Return the slots (int64, ascending) that times (int64 ms) fall into: slot s is (s, s + 1] times SLOT_MS, as bars are. Pure."""
    return np.unique((event_times - 1) // SLOT_MS)


def note(connection: psycopg.Connection, of: frozenset[str], written: Iterable[tuple[str, np.ndarray]]) -> None:
    """Note the times that were written.

    Args:
        connection: Inside the transaction of the rows.
        of: What ``sources`` returned.
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

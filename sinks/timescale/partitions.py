"""Native range partitions by event_time. They are created by maintenance in advance, or by the sink when a batch needs them.

Rows without a partition go to the table's default partition, so no time is rejected; ``maintain`` moves them later. Hypertables and plain tables need no
partitions and are skipped. Days and months are UTC. The database function perpflow_make_partition creates partitions: the sink's role may call it, but
owns no table.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import psycopg
from psycopg import sql

from sinks.timescale.tables import tables

DAY_MS = 86_400_000
# A batch that needs more new partitions is garbage or a bulk import; its rows go to the default partition.
MOST_NEW_PARTITIONS = 40
# Rows outside these times stay in the default partition.
FIRST_YEAR, LAST_YEAR = 1970, 9998
# A longer wait for readers of the default partition would delay the sink; the rows go to the default partition instead.
LOCK_TIMEOUT = "2s"
# A backup holds this lock exclusively. Callers that need a table's exclusive lock hold it shared: even waiting for a table lock would make the parallel
# processes of pg_dump fail, because they lock tables without waiting.
BACKUP_LOCK = 0x72657461696E
AHEAD = {"day": 3, "month": 2}
_EPOCH = date(1970, 1, 1)


def periods(step: str, event_times: np.ndarray) -> list[date]:
    """Return the first days of the periods of the given times (int64 ms UTC), without times that stay in the default partition."""
    if not len(event_times):
        return []
    days = np.unique(event_times // DAY_MS)
    low, high = (date(FIRST_YEAR, 1, 1) - _EPOCH).days, (date(LAST_YEAR, 12, 31) - _EPOCH).days
    found = [_EPOCH + timedelta(days=int(day)) for day in days[(days >= low) & (days <= high)]]
    return found if step == "day" else sorted({day.replace(day=1) for day in found})


def period_end(step: str, start: date) -> date:
    """Return the first day after a period."""
    if step == "day":
        return start + timedelta(days=1)
    return (start.replace(day=28) + timedelta(days=4)).replace(day=1)


def period_of(step: str, at: datetime) -> date:
    """Return the first day of a time's period, UTC."""
    day = at.astimezone(UTC).date()
    return day if step == "day" else day.replace(day=1)


def partition_name(table: str, step: str, start: date) -> str:
    """Return a partition's name, for example ``agg_trades_2024_08_08`` or ``features_2024_08``."""
    return f"{table}_{start:%Y_%m_%d}" if step == "day" else f"{table}_{start:%Y_%m}"


class Partitions:
    """Caches the existing native partitions and creates missing ones. One instance for each database connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._steps = {table.name: table.step for table in tables() if table.step}
        native = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'p' AND oid = to_regclass(relname)").fetchall()
        self.native = {name for (name,) in native if name in self._steps}
        self._known: set[str] = {
            name
            for (name,) in connection.execute(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = ANY (%s::regclass[])",
                (sorted(self.native),),
            )
        }

    def ensure(self, table: str, event_times: np.ndarray) -> list[str]:
        """Create the partitions for these times (int64 ms); return the names of new ones.

        If a partition cannot be created now, the rows go to the default partition. Causes are a reader's lock, a running backup, or rows of the
        partition in the default partition. Other database errors are raised.
        """
        if table not in self.native:
            return []
        step = self._steps[table]
        assert step is not None
        missing = [start for start in periods(step, event_times) if partition_name(table, step, start) not in self._known]
        if len(missing) > MOST_NEW_PARTITIONS:
            return []
        return [name for start in missing if (name := self._make(table, step, start))]

    def ensure_days(self, table: str, days: Iterable[date]) -> list[str]:
        """As ``ensure``, for whole days."""
        return self.ensure(table, np.array([(day - _EPOCH).days * DAY_MS for day in days], dtype=np.int64))

    def _make(self, table: str, step: str, start: date, *, move: bool = False) -> str | None:
        name = partition_name(table, step, start)
        try:
            with self._connection.transaction():
                if self._connection.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", (BACKUP_LOCK,)).fetchone() != (True,):
                    return None
                self._connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
                made = self._connection.execute("SELECT perpflow_make_partition(%s, %s, %s)", (table, start, move)).fetchone()
        except (psycopg.errors.CheckViolation, psycopg.errors.LockNotAvailable):
            return None
        if made == (None,):
            self._known.add(name)  # another sink was first
            return None
        self._known.add(name)
        return name

    def empty_default(self, table: str) -> list[str]:
        """Move the rows of a table's default partition to regular partitions; return the names of new ones.

        Rows with times out of range stay. One call creates at most MOST_NEW_PARTITIONS.
        """
        step = self._steps[table]
        assert step is not None
        rows = self._connection.execute(
            sql.SQL(
                "SELECT DISTINCT date_trunc({}, event_time AT TIME ZONE 'UTC')::date FROM {}"
                " WHERE event_time >= {} AND event_time < {} ORDER BY 1 LIMIT {}"
            ).format(
                sql.Literal(step),
                sql.Identifier(f"{table}_default"),
                sql.Literal(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)),
                sql.Literal(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC)),
                sql.Literal(MOST_NEW_PARTITIONS),
            )
        ).fetchall()
        return [name for (start,) in rows if (name := self._make(table, step, start, move=True))]


def existing(connection: psycopg.Connection, table: str, step: str) -> list[tuple[date, str]]:
    """Return the first day and the name of each native partition of a table, oldest first, without the default partition."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s)", (table,)
    )
    found = []
    for (name,) in rows:
        digits = name.removeprefix(f"{table}_").split("_")
        if name.startswith(f"{table}_") and all(part.isdigit() for part in digits) and len(digits) == (3 if step == "day" else 2):
            found.append((date(int(digits[0]), int(digits[1]), int(digits[2]) if step == "day" else 1), name))
    return sorted(found)


def maintain(connection: psycopg.Connection, today: date | None = None) -> list[str]:
    """Create the partitions of the coming days and months and empty the default partitions; return a line for each action.

    Args:
        connection: An autocommit connection.
        today: Reference day; None: the database's current day.
    """
    if today is None:
        row = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone()
        assert row is not None
        today = row[0]
    keeper = Partitions(connection)
    done: list[str] = []
    for table in tables():
        if table.name not in keeper.native:
            continue
        done += [f"{name}: moved out of {table.name}_default" for name in keeper.empty_default(table.name)]
        span = 1 if table.step == "day" else 31
        days = [today + timedelta(days=span * ahead) for ahead in range(AHEAD[table.step or "day"] + 1)]
        done += [f"{name}: made ahead" for name in keeper.ensure_days(table.name, days)]
    return done

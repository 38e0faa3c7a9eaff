"""Maintenance of the tables: future partitions, bars, retention, columnstore. It runs once, or as a service.

An advisory lock of the database admits one maintainer at a time. The table ``table_policies`` sets what is kept (``perpflow db keep``).
On TimescaleDB the extension's jobs build bars and columns; this module sets them up by the policies and reports those that fail.
Retention runs here on both servers, because it must not drop rows whose bars are not built yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import sql

from deploy.database import columnstore
from deploy.database.migrate import DatabaseError, connect
from schemas import metrics
from schemas.process.service import Service
from sinks.timescale import partitions
from sinks.timescale.tables import tables

# Any constant will do. The lock keeps two maintainers from working on one database.
_LOCK_KEY = 0x6D61696E7461696E
# A week of 5-minute slots in one transaction takes seconds. A lost connection loses no more than that.
SLOTS_A_STEP = 2016
# A waiting DROP blocks every later query on the table, so a partition in use is dropped in the next run.
DROP_LOCK_TIMEOUT = "2s"
# Interval of the full run. Between full runs only changed bars are built.
FULL_EVERY_S = 3600.0
LONGEST_PAUSE_S = 30.0


class Busy(DatabaseError):
    """Another maintainer works on this database."""


@dataclass
class Report:
    """Actions done, notes that need no action, and problems that need a person; one line each."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


Progress = Callable[[str], None]


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone()
    if row != (True,):
        raise Busy("another `perpflow db maintain` works on this database")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def maintain(database_url: str, *, keep_history: bool = False, full: bool = True, progress: Progress | None = None) -> Report:
    """Run the maintenance that is due.

    Args:
        database_url: Database of its owner.
        keep_history: Drop nothing, whatever its age.
        full: False: build bars only.
        progress: Called with a line of text during long work.

    Raises:
        Busy: another maintainer works on this database.
        DatabaseError: the database does not answer, or has no tables yet.
        psycopg.Error: it ended meanwhile.
    """
    with connect(database_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SET client_min_messages = warning")
        if connection.execute("SELECT to_regclass('table_policies'), to_regclass('bar_sources')").fetchone() in ((None, None), None):
            raise DatabaseError("the database has no tables: run `perpflow db migrate`")
        with _alone(connection):
            report = Report()
            if full:
                report.done += partitions.maintain(connection)
            report.done += build_bars(connection, progress)
            if full:
                columns = columnstore.sync(connection, keep_history)
                report.done += columns.done
                report.notes += columns.notes
                report.problems += columns.problems
                if not keep_history:
                    _expire_unless_backed_up(connection, report)
                report.problems += _left_in_default(connection)
                _measure(connection)
            return report


# --- bars ----------------------------------------------------------------------------------------------------------
def build_bars(connection: psycopg.Connection, progress: Progress | None = None) -> list[str]:
    """Build the bars of changed rows; return what was done. Continuous aggregates need no such work."""
    done = []
    for (source,) in connection.execute("SELECT source FROM bar_sources ORDER BY source").fetchall():
        total = 0
        while True:
            row = connection.execute("SELECT built, remaining FROM perpflow_refresh_bars(%s, %s)", (source, SLOTS_A_STEP)).fetchone()
            assert row is not None
            total += row[0]
            if not row[1]:
                break
            if progress is not None:
                progress(f"bars of {source}: {total} spans built, {row[1]} to go")
        if total:
            done.append(f"bars of {source}: {total} spans of 5 minutes built")
    for source, reached in connection.execute(
        "SELECT source, extract(epoch FROM built_until) FROM bar_sources WHERE isfinite(built_until)"
    ):
        metrics.BARS_BUILT.labels(source).set(float(reached))
    return done


# --- retention -----------------------------------------------------------------------------------------------------
def _expire_unless_backed_up(connection: psycopg.Connection, report: Report) -> None:
    """Apply retention, unless a backup is running."""
    if connection.execute("SELECT pg_try_advisory_lock_shared(%s)", (partitions.BACKUP_LOCK,)).fetchone() != (True,):
        report.problems.append("a backup is running: nothing is dropped until it ends")
        return
    try:
        expire(connection, report)
    finally:
        connection.execute("SELECT pg_advisory_unlock_shared(%s)", (partitions.BACKUP_LOCK,))


def expire(connection: psycopg.Connection, report: Report) -> None:
    """Drop partitions and chunks that are wholly older than the policy, except those whose bars are not built."""
    policies = connection.execute(
        "SELECT p.table_name, now() - p.keep, c.relkind, p.step FROM table_policies p JOIN pg_class c ON c.oid = to_regclass(p.table_name)"
        " WHERE p.keep IS NOT NULL ORDER BY 1"
    ).fetchall()
    for table, cutoff, kind, step in policies:
        if kind == "p":
            _drop_partitions(connection, table, step, cutoff, report)
        elif columnstore.is_hypertable(connection, table):
            _drop_chunks(connection, table, cutoff, report)


def _drop_partitions(connection: psycopg.Connection, table: str, step: str, cutoff: datetime, report: Report) -> None:
    last = partitions.period_of(step, cutoff)  # the period that the cutoff falls into stays
    for start, name in partitions.existing(connection, table, step):
        if start >= last:
            continue
        end = partitions.period_end(step, start)
        with connection.transaction():
            bars = connection.execute(
                "SELECT coalesce(built_until >= %s, false) AND NOT EXISTS (SELECT FROM bar_changes c WHERE c.source = s.source"
                " AND to_timestamp(c.slot * 300) < %s) FROM bar_sources s WHERE source = %s FOR UPDATE",
                (end, end, table),
            ).fetchone()
            if bars == (False,):
                report.problems.append(f"{name}: older than {table} is kept, but its bars are not built yet")
                continue
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(DROP_LOCK_TIMEOUT)))
                    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
                    connection.execute("UPDATE bar_sources SET kept_from = greatest(kept_from, %s) WHERE source = %s", (end, table))
            except psycopg.errors.LockNotAvailable:
                report.problems.append(f"{name}: in use, dropped the next time")
                continue
        report.done.append(f"{name}: dropped, older than {table} is kept")


def _drop_chunks(connection: psycopg.Connection, table: str, cutoff: datetime, report: Report) -> None:
    chunks = connection.execute(
        "SELECT range_start, range_end FROM timescaledb_information.chunks WHERE hypertable_schema = 'public' AND hypertable_name = %s"
        " AND range_end <= %s ORDER BY range_start",
        (table, cutoff),
    ).fetchall()
    if not chunks:
        return
    for aggregate in columnstore.aggregates_of(connection, table):
        # Only the span that is dropped now: a refresh over rows dropped earlier would empty their bars.
        columnstore.refresh(connection, aggregate, chunks[0][0], chunks[-1][1])
    dropped = connection.execute("SELECT drop_chunks(to_regclass(%s), older_than => %s::timestamptz)", (table, cutoff)).fetchall()
    report.done += [f"{name}: dropped, older than {table} is kept" for (name,) in dropped]


def _left_in_default(connection: psycopg.Connection) -> list[str]:
    """Return the default partitions that hold rows. Their times are impossible, or one run could not move them all."""
    found = []
    for table in tables():
        name = f"{table.name}_default"
        if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
            held = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(name))).fetchone()
            if held == (True,):
                found.append(f"{name}: has rows with impossible times, or rows that the next run moves")
    return found


def _measure(connection: psycopg.Connection) -> None:
    """Set the size metrics of tables and database."""
    for name, size in table_sizes(connection):
        metrics.TABLE_BYTES.labels(name).set(size)
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    metrics.DATABASE_BYTES.set(row[0])


def table_sizes(connection: psycopg.Connection) -> list[tuple[str, int]]:
    """Return the bytes of every topic's table with its partitions or chunks, and indexes."""
    found = []
    for table in tables():
        if columnstore.is_hypertable(connection, table.name):
            row = connection.execute("SELECT coalesce(hypertable_size(to_regclass(%s)), 0)", (table.name,)).fetchone()
        else:
            row = connection.execute(
                "SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree(to_regclass(%s))"
                if table.step
                else "SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)",
                (table.name,),
            ).fetchone()
        assert row is not None
        found.append((table.name, int(row[0])))
    return found


# --- what is kept --------------------------------------------------------------------------------------------------
def keep(database_url: str, table: str, days: int | None) -> None:
    """Set for how many days a table is kept; None: for good.

    Raises:
        DatabaseError: no such table among the policies, no connection, or less than a day.
    """
    if days is not None and days < 1:
        raise DatabaseError("a table must be kept for at least one day")
    with connect(database_url) as connection:
        changed = connection.execute(
            "UPDATE table_policies SET keep = make_interval(days => %s) WHERE table_name = %s", (days, table)
        ).rowcount
    if not changed:
        raise DatabaseError(f"{table}: no such time-partitioned table")


def chunk(database_url: str, table: str, span: str) -> None:
    """Set the chunk length of a table. The next ``maintain`` applies it in TimescaleDB; native partitions do not change.

    Args:
        span: A time as PostgreSQL reads it: ``6 hours``, ``7 days``.

    Raises:
        DatabaseError: no such table among the policies, no connection, or no span of an hour's quarter to a month.
    """
    with connect(database_url) as connection:
        try:
            row = connection.execute("SELECT %s::interval BETWEEN '15 minutes' AND '1 month'", (span,)).fetchone()
        except (psycopg.errors.InvalidDatetimeFormat, psycopg.errors.DatetimeFieldOverflow) as error:
            raise DatabaseError(f"{span!r}: is no interval such as '6 hours'") from error
        if row != (True,):
            raise DatabaseError(f"{span!r}: a chunk must span 15 minutes to one month")
        changed = connection.execute("UPDATE table_policies SET chunk = %s::interval WHERE table_name = %s", (span, table)).rowcount
    if not changed:
        raise DatabaseError(f"{table}: no such time-partitioned table")


def policies(database_url: str) -> list[tuple[str, str, str, int, str]]:
    """Return name, chunk length, retention, bytes and reason of each time-partitioned table."""
    with connect(database_url) as connection:
        sizes = dict(table_sizes(connection))
        rows = connection.execute("SELECT table_name, chunk::text, coalesce(keep::text, 'for good'), reason FROM table_policies ORDER BY 1")
        return [(name, chunk, kept, sizes.get(name, 0), reason) for name, chunk, kept, reason in rows]


# --- the job -------------------------------------------------------------------------------------------------------
class Keeper:
    """Maintains a database at an interval until its service stops.

    Args:
        database_url: Database of its owner.
        keep_history: Drop nothing.
        every: Seconds between two builds of bars. The full run is hourly.
        service: Stop flag, log, health.
    """

    def __init__(self, database_url: str, keep_history: bool, every: float, service: Service) -> None:
        self._url = database_url
        self._keep_history = keep_history
        self._every = every
        self._service = service
        self._trouble: str | None = None
        self._problems: list[str] = []
        self._rounds = 0
        service.set_health(self.health)

    def health(self) -> dict[str, object]:
        """Return the health report: not ok while the database does not answer."""
        report: dict[str, object] = {"ok": self._trouble is None, "rounds": self._rounds}
        if self._trouble:
            report["database"] = self._trouble
        if self._problems:
            report["problems"] = self._problems
        return report

    def run(self) -> None:
        """Work until the service stops. Retries while the database is away; leaves the work to another maintainer."""
        log = self._service.log
        due = 0.0
        pause = 1.0
        while not self._service.stopping.is_set():
            full = time.monotonic() >= due
            started = time.perf_counter()
            try:
                report = maintain(self._url, keep_history=self._keep_history, full=full, progress=lambda line: log.info(line))
            except Busy:
                metrics.MAINTENANCE.labels("busy").inc()
                log.info("another process maintains this database")
                self._trouble = None
            except (DatabaseError, psycopg.Error) as error:
                metrics.MAINTENANCE.labels("failed").inc()
                if self._trouble is None:
                    log.warning("maintenance failed, trying again", error=str(error).strip())
                self._trouble = str(error).strip()
                self._service.stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            else:
                metrics.MAINTENANCE.labels("done").inc()
                metrics.MAINTENANCE_SECONDS.observe(time.perf_counter() - started)
                self._trouble = None
                self._rounds += 1
                for line in [*report.done, *report.notes]:
                    log.info(line)
                if full:
                    due = time.monotonic() + FULL_EVERY_S
                    self._problems = report.problems
                    for line in report.problems:
                        log.warning(line)
            pause = 1.0
            self._service.stopping.wait(self._every)

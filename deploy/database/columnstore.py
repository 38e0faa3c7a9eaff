"""TimescaleDB's own features, set up by the policies: chunk sizes, columnstore, refresh of continuous aggregates.

Every function is harmless on plain PostgreSQL and on TimescaleDB's Apache edition, which has none of this but hypertables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from deploy.database import jobs

# Real-time aggregates show bars at once. The refresh interval only decides how much is computed at query time.
SHORTEST_REFRESH, LONGEST_REFRESH = "1 minute", "1 hour"
# A job commits after so much event time. With its default of one bucket a commit, a year of minutes takes hours.
BATCH = timedelta(days=10)


@dataclass
class Outcome:
    """Settings changed, jobs that wait for a worker, and jobs that fail; one line each."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def has_community(connection: psycopg.Connection) -> bool:
    """Return whether TimescaleDB with continuous aggregates and columnstore is in use."""
    return connection.execute("SELECT perpflow_has_continuous_aggregates()").fetchone() == (True,)


def is_hypertable(connection: psycopg.Connection, table: str) -> bool:
    """Return whether a table is a hypertable."""
    if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
        return False
    row = connection.execute(
        "SELECT FROM timescaledb_information.hypertables WHERE hypertable_schema = 'public' AND hypertable_name = %s", (table,)
    ).fetchone()
    return row is not None


def aggregates_of(connection: psycopg.Connection, source: str) -> list[str]:
    """Return the continuous aggregates of a table, finest first."""
    if not has_community(connection):
        return []
    rows = connection.execute(
        "SELECT a.family || '_' || a.timeframe || '_buckets' FROM bar_aggregates a JOIN bar_intervals i USING (timeframe)"
        " WHERE a.source = %s ORDER BY i.width",
        (source,),
    )
    return [name for (name,) in rows]


def refresh(connection: psycopg.Connection, aggregate: str, since: datetime | None, until: datetime | None) -> None:
    """Build a continuous aggregate over a span; bars that are only partly inside do not change. Needs an autocommit connection."""
    # TimescaleDB refuses a span shorter than a bucket. Such a span needs no refresh.
    try:
        connection.execute("CALL refresh_continuous_aggregate(%s::regclass, %s::timestamptz, %s::timestamptz)", (aggregate, since, until))
    except psycopg.errors.InvalidParameterValue as error:
        if "too small" not in str(error):
            raise


def sync(connection: psycopg.Connection, keep_history: bool = False) -> Outcome:
    """Set chunk sizes, columnstore and refresh jobs as ``table_policies`` says; report what changed and which jobs fail.

    Args:
        connection: An autocommit connection of the owner.
        keep_history: Nothing is dropped, so bars are refreshed however old their rows are.
    """
    outcome = Outcome()
    if not has_community(connection):
        return outcome
    rows = connection.execute(
        "SELECT p.table_name, p.chunk, p.keep, p.columnstore_after, p.segment_by, p.order_by, h.compression_enabled,"
        " d.time_interval IS DISTINCT FROM p.chunk"
        " FROM table_policies p JOIN timescaledb_information.hypertables h ON h.hypertable_schema = 'public' AND h.hypertable_name = p.table_name"
        " JOIN timescaledb_information.dimensions d ON d.hypertable_schema = 'public' AND d.hypertable_name = p.table_name"
        " ORDER BY 1"
    ).fetchall()
    for table, chunk, _, _, segment_by, order_by, enabled, other_chunk in rows:
        if other_chunk:
            connection.execute("SELECT set_chunk_time_interval(to_regclass(%s), %s::interval)", (table, chunk))
            outcome.done.append(f"{table}: chunks of {chunk} from now on")
        if not enabled:
            connection.execute(
                sql.SQL("ALTER TABLE {} SET (timescaledb.enable_columnstore, timescaledb.segmentby = {}, timescaledb.orderby = {})").format(
                    sql.Identifier(table), sql.Literal(segment_by), sql.Literal(order_by)
                )
            )
            outcome.done.append(f"{table}: columnstore by {segment_by}, ordered by {order_by}")
    # The scheduler sees new jobs only when they have their places.
    with connection.transaction():
        for table, _, _, after, *_ in rows:
            _columnstore_job(connection, table, after, outcome)
        for source, keep in connection.execute(
            "SELECT DISTINCT a.source, p.keep FROM bar_aggregates a JOIN table_policies p ON p.table_name = a.source ORDER BY 1"
        ).fetchall():
            _refresh_jobs(connection, source, None if keep_history else keep, outcome)
        moved = jobs.spread(connection)
    if moved:
        outcome.done.append(f"starts of {len(moved)} jobs spread over their schedules")
    outcome.notes, outcome.problems = jobs.report(connection)
    return outcome


def _columnstore_job(connection: psycopg.Connection, table: str, after: object, outcome: Outcome) -> None:
    job = connection.execute(
        "SELECT (config ->> 'compress_after')::interval = %s FROM timescaledb_information.jobs WHERE hypertable_schema = 'public'"
        " AND hypertable_name = %s AND proc_name IN ('policy_compression', 'policy_columnstore')",
        (after, table),
    ).fetchone()
    if job == (True,):
        return
    if job is not None:
        connection.execute("CALL remove_columnstore_policy(to_regclass(%s), if_exists => true)", (table,))
    connection.execute("CALL add_columnstore_policy(to_regclass(%s), after => %s::interval)", (table, after))
    outcome.done.append(f"{table}: columns after {after}")


def _refresh_jobs(connection: psycopg.Connection, source: str, keep: object, outcome: Outcome) -> None:
    """Set one job for each aggregate. Its window leaves out rows that retention may have dropped: a refresh would empty their bars."""
    for timeframe, name in connection.execute(
        "SELECT a.timeframe, a.family || '_' || a.timeframe || '_buckets' FROM bar_aggregates a JOIN bar_intervals i USING (timeframe)"
        " WHERE a.source = %s ORDER BY i.width",
        (source,),
    ).fetchall():
        row = connection.execute(
            "SELECT %s::interval - interval '1 day', width, least(greatest(width / 5, interval '"
            + SHORTEST_REFRESH
            + "'), interval '"
            + LONGEST_REFRESH
            + "') FROM bar_intervals WHERE timeframe = %s",
            (keep, timeframe),
        ).fetchone()
        assert row is not None
        start, end, every = row
        job = connection.execute(
            "SELECT j.schedule_interval = %s AND (j.config ->> 'start_offset')::interval IS NOT DISTINCT FROM %s"
            " FROM timescaledb_information.jobs j JOIN timescaledb_information.continuous_aggregates c"
            " ON c.materialization_hypertable_name = j.hypertable_name OR c.view_name = j.hypertable_name"
            " WHERE j.proc_name = 'policy_refresh_continuous_aggregate' AND c.view_name = %s",
            (every, start, name),
        ).fetchone()
        if job == (True,):
            continue
        if job is not None:
            connection.execute("SELECT remove_continuous_aggregate_policy(%s::regclass, if_exists => true)", (name,))
        connection.execute(
            "SELECT add_continuous_aggregate_policy(%s::regclass, start_offset => %s::interval, end_offset => %s::interval,"
            " schedule_interval => %s::interval, buckets_per_batch => %s)",
            (name, start, end, every, max(1, BATCH // end)),
        )
        outcome.done.append(f"{name}: built every {every}")

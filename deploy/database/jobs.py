"""TimescaleDB's background jobs: when each starts, and which of them need a person.

The extension starts a new job at once. About sixty of them then ask for a background worker in the same second, and those beyond
the server's limit fail. Instead, every job gets its own offset in the period of its schedule.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from deploy.database import server_settings

# Starts are aligned to this instant: any fixed one does. A Monday, as the extension's own time buckets have it.
ORIGIN = datetime(2000, 1, 3, tzinfo=UTC)
# TimescaleDB's message when PostgreSQL has no free worker process (makeJobErrorData in its scheduler).
NO_WORKER = "failed to start job"
# A job without a worker is retried at once and then in growing pauses. One that has not succeeded for so many periods needs a person.
MISSED_PERIODS = 3
# Jobs of one minute miss three periods in one busy moment.
SHORTEST_PATIENCE = timedelta(minutes=15)


@dataclass(frozen=True)
class Failure:
    """The last run of a job that failed.

    Attributes:
        job: Its number.
        what: Name of the procedure it runs.
        table: Hypertable or continuous aggregate that it works on.
        failures: Failed runs so far.
        at: Start of the last run.
        message: Its error; None when the server kept none.
        every: Period of its schedule.
        since: End of its last successful run; before the first one, the start that was planned. None: neither is known.
    """

    job: int
    what: str
    table: str | None
    failures: int
    at: datetime
    message: str | None
    every: timedelta
    since: datetime | None

    @property
    def lacks_worker(self) -> bool:
        """Whether it did not start because no worker process was free."""
        return self.message is not None and self.message.startswith(NO_WORKER)

    def __str__(self) -> str:
        return (
            f"job {self.job} ({self.what} of {self.table}) failed {self.failures} times, last at {self.at:%Y-%m-%d %H:%M} UTC:"
            f" {self.message or 'no error text; see the log of the database'}"
        )


def places(schedules: dict[int, timedelta]) -> dict[int, timedelta]:
    """Return the offset of each job in its period. Jobs of one period have equal distances, in the order given.

    Args:
        schedules: Number of a job -> its period. Give it in an order that lasts: a job that is made anew gets another number.
    """
    groups: dict[timedelta, list[int]] = defaultdict(list)
    for job in schedules:
        groups[schedules[job]].append(job)
    # Half a distance from the start of the period, so that groups of different periods do not all begin at its zero.
    return {job: every * (2 * i + 1) / (2 * len(group)) for every, group in groups.items() for i, job in enumerate(group)}


def next_start(now: datetime, every: timedelta, offset: timedelta) -> datetime:
    """Return the first instant after ``now`` that is ``offset`` into a period counted from ORIGIN."""
    return ORIGIN + offset + every * ((now - ORIGIN - offset) // every + 1)


def spread(connection: psycopg.Connection) -> list[int]:
    """Move the jobs of this application to their places; return the numbers of those that were elsewhere."""
    rows = connection.execute(
        "SELECT job_id, schedule_interval, fixed_schedule, initial_start, now() FROM timescaledb_information.jobs"
        " WHERE job_id >= 1000 AND hypertable_schema IN ('public', '_timescaledb_internal') AND proc_name IN"
        " ('policy_compression', 'policy_columnstore', 'policy_refresh_continuous_aggregate') ORDER BY proc_name, hypertable_name"
    ).fetchall()
    wanted = places({job: every for job, every, *_ in rows})
    moved = []
    for job, every, fixed, start, now in rows:
        if fixed and start is not None and (start - ORIGIN) % every == wanted[job]:
            continue
        at = next_start(now, every, wanted[job])
        connection.execute(
            "SELECT alter_job(%s, fixed_schedule => true, initial_start => %s::timestamptz, next_start => %s::timestamptz)", (job, at, at)
        )
        moved.append(job)
    return moved


def failures(connection: psycopg.Connection) -> list[Failure]:
    """Return the jobs whose last run failed, with the error of that run."""
    return [
        Failure(*row)
        for row in connection.execute(
            "SELECT s.job_id, j.proc_name, j.hypertable_name, s.total_failures, s.last_run_started_at, e.err_message,"
            " j.schedule_interval, CASE WHEN isfinite(s.last_successful_finish) THEN s.last_successful_finish ELSE j.initial_start END"
            " FROM timescaledb_information.job_stats s JOIN timescaledb_information.jobs j USING (job_id)"
            " LEFT JOIN LATERAL (SELECT err_message FROM timescaledb_information.job_errors o WHERE o.job_id = s.job_id"
            "  ORDER BY o.finish_time DESC NULLS LAST LIMIT 1) e ON true"
            " WHERE s.last_run_status = 'Failed' ORDER BY 1"
        )
    ]


def report(connection: psycopg.Connection) -> tuple[list[str], list[str]]:
    """Return what is worth knowing and what needs a person, one line each.

    A failure in the work of a job needs a person. A job that found no free worker is retried by the server: that is a note, unless
    the server's settings are too small or the job has not succeeded for MISSED_PERIODS.
    """
    found = failures(connection)
    problems = [str(one) for one in found if not one.lacks_worker]
    waiting = [one for one in found if one.lacks_worker]
    if not waiting:
        return [], problems
    short = server_settings.shortages(connection)
    numbers = ", ".join(str(one.job) for one in waiting)
    if short:
        problems += [f"{len(waiting)} jobs found no free background worker ({numbers}); {one}" for one in short]
        return [], problems
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    notes = []
    for one in waiting:
        patience = max(MISSED_PERIODS * one.every, SHORTEST_PATIENCE)
        name = f"job {one.job} ({one.what} of {one.table})"
        if one.since is not None and row[0] - one.since > patience:
            problems.append(f"{name} has found no free background worker since {one.since:%Y-%m-%d %H:%M} UTC")
        else:
            notes.append(f"{name} found no free background worker; the server tries again")
    return notes, problems

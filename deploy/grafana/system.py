"""The processes and the machine: up, clocks, disk, memory, CPU; the database's size and work; notifications and the archive."""

from __future__ import annotations

from deploy.grafana.build import (
    BYTES,
    BYTES_PER_SECOND,
    CORES,
    COUNT,
    GREEN,
    NONE,
    ORANGE,
    PER_SECOND,
    RED,
    SECONDS,
    SHARE,
    Json,
    by_name,
    lines,
    matching,
    page,
    prom,
    quantiles,
    rows,
    stat,
    table,
)

# Partitions and hypertable chunks count for the table that they are parts of.
TABLES = """WITH RECURSIVE parts AS (
  SELECT c.oid AS root, c.oid AS part FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
  UNION ALL SELECT parts.root, i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.part)
SELECT root::regclass::text AS "table", count(*) - 1 AS parts, sum(pg_table_size(part)) AS data, sum(pg_indexes_size(part)) AS indexes,
  CASE WHEN NOT bool_or(c.reltuples < 0 AND pg_relation_size(part) > 0) THEN sum(greatest(c.reltuples, 0))::float8 END AS "rows, about"
FROM parts JOIN pg_class c ON c.oid = part GROUP BY root ORDER BY sum(pg_total_relation_size(part)) DESC"""

DATABASE_WORK = """SELECT xact_commit AS commits, xact_rollback AS rollbacks, blks_hit::float8 / nullif(blks_hit + blks_read, 0) AS "from memory",
  tup_inserted AS inserted,
  deadlocks, temp_bytes AS "spilled to disk", stats_reset AS since FROM pg_stat_database WHERE datname = current_database()"""

SESSIONS = """SELECT coalesce(nullif(application_name, ''), backend_type) AS program, coalesce(state, 'background') AS state, count(*) AS sessions,
  max(extract(epoch FROM now() - xact_start))::float8 AS "longest transaction" FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC, 1"""

MIGRATIONS = "SELECT version, name, applied_at, left(checksum, 12) AS checksum FROM schema_migrations ORDER BY 1 DESC LIMIT 50"

# Every process of ours that is scraped: those that trade too. A simulated venue is none of ours.
OURS = 'job!~"prometheus|simulate"'


def board() -> Json:
    """Return the dashboard."""
    panels = [
        stat(
            "Targets up", "Share of the scraped processes that answer.", SHARE, prom(f"avg(up{{{OURS}}})", "up"), ((None, RED), (1, GREEN))
        ),
        stat(
            "Restarts, 24 h",
            "Process restarts within a day.",
            COUNT,
            prom(f"sum(changes(process_start_time_seconds{{{OURS}}}[1d]))", "restarts"),
            ((None, GREEN), (1, ORANGE)),
        ),
        stat("Memory", "Resident memory of all our processes.", BYTES, prom(f"sum(process_resident_memory_bytes{{{OURS}}})", "resident")),
        stat(
            "CPU",
            "CPU cores used by our processes.",
            CORES,
            prom(f"sum(rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval]))", "cores"),
        ),
        stat(
            "Disk free",
            "Free share of the fullest file system that our processes use.",
            SHARE,
            prom("min(perpflow_disk_free_bytes / perpflow_disk_size_bytes)", "free"),
            ((None, RED), (0.1, ORANGE), (0.2, GREEN)),
        ),
        stat("Database", "Size of the database.", BYTES, rows("SELECT pg_database_size(current_database()) AS size")),
        lines(
            "Health by service",
            "1: the service says that it is well; 0: its /health tells why not.",
            NONE,
            prom("min by (service) (perpflow_up)", "{{service}}"),
            defaults={"min": 0, "max": 1},
            custom={"lineInterpolation": "stepAfter"},
        ),
        lines(
            "Clocks",
            "Clock of each process minus Prometheus' clock at the scrape. The scrape itself explains a few tenths of a second.",
            SECONDS,
            prom("perpflow_wall_time_seconds - timestamp(perpflow_wall_time_seconds)", "{{service}} {{instance}}"),
        ),
        lines(
            "CPU by process",
            "Cores kept busy.",
            CORES,
            prom(f"rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval])", "{{job}} {{instance}}"),
        ),
        lines("Memory by process", "Resident memory.", BYTES, prom(f"process_resident_memory_bytes{{{OURS}}}", "{{job}} {{instance}}")),
        lines(
            "Open files",
            "Open file descriptors as a share of what the process may open.",
            SHARE,
            prom(f"process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}}", "{{job}} {{instance}}"),
        ),
        lines(
            "Garbage collection",
            "Collections of Python's oldest generation a second.",
            PER_SECOND,
            prom(f'rate(python_gc_collections_total{{generation="2", {OURS}}}[$__rate_interval])', "{{job}} {{instance}}"),
        ),
        lines(
            "Scrapes",
            "Time that a process takes to answer Prometheus.",
            SECONDS,
            prom(f"scrape_duration_seconds{{{OURS}}}", "{{job}} {{instance}}"),
        ),
        lines(
            "REST budget",
            "Share of a venue's request budget that is spent, by window.",
            SHARE,
            prom("max by (venue, window) (perpflow_rest_budget_ratio)", "{{venue}} {{window}}"),
        ),
        table(
            "Tables",
            "Size of every table with its partitions or chunks, largest first; rows as the database last estimated them, if it has.",
            BYTES,
            rows(TABLES),
            {"parts": COUNT, "rows, about": COUNT},
            width=12,
            height=10,
        ),
        table(
            "Sessions",
            "Database sessions, and the longest open transaction.",
            COUNT,
            rows(SESSIONS),
            {"longest transaction": SECONDS},
            height=10,
        ),
        table(
            "Database activity",
            "Since its counters were last reset.",
            COUNT,
            rows(DATABASE_WORK),
            {"from memory": SHARE, "spilled to disk": BYTES},
            height=6,
        ),
        table("Migrations", "Migrations that `perpflow db migrate` has applied, newest first.", NONE, rows(MIGRATIONS), height=6),
        lines(
            "Notifications",
            "Messages sent, attempts failed and events held back, per minute.",
            COUNT,
            prom("sum by (channel, kind) (increase(perpflow_notifications_sent_total[1m]))", "{{channel}} sent {{kind}}"),
            prom("sum by (channel, reason) (increase(perpflow_notifications_failed_total[1m]))", "{{channel}} failed: {{reason}}"),
            prom("sum by (channel, reason) (increase(perpflow_notifications_suppressed_total[1m]))", "{{channel}} held back: {{reason}}"),
        ),
        lines(
            "Sending",
            "Duration of an attempt to send, and messages that wait.",
            SECONDS,
            *quantiles("perpflow_notification_seconds", "channel", of=(0.99,)),
            prom("sum by (channel) (perpflow_notifications_queued)", "{{channel}} waiting"),
            overrides=[matching("waiting$", "unit", COUNT)],
        ),
        lines(
            "Archive",
            "Records not yet in the archive, by topic.",
            COUNT,
            prom("sum by (topic) (perpflow_archive_lag_records)", "{{topic}}"),
        ),
        lines(
            "Archive written",
            "Records listed by manifests, bytes written, files merged, a second; and how long writing a batch takes.",
            PER_SECOND,
            prom("sum by (topic) (rate(perpflow_rows_archived_total[$__rate_interval]))", "{{topic}} records"),
            prom("sum(rate(perpflow_bytes_archived_total[$__rate_interval]))", "bytes"),
            prom("sum(rate(perpflow_archive_files_merged_total[$__rate_interval]))", "files merged"),
            *quantiles("perpflow_archive_seconds", of=(0.99,)),
            overrides=[by_name("bytes", "unit", BYTES_PER_SECOND), by_name("p99", "unit", SECONDS)],
        ),
    ]
    return page(
        "system",
        "System",
        "The processes, their machine and the database.",
        panels,
        since="now-3h",
        refresh="30s",
        empty="The database reports nothing.",
        empties={
            "REST budget": "No request budget is in use: recordings have no REST endpoints to poll.",
            "Notifications": "No notifier runs, or it has sent nothing.",
            "Sending": "No notifier runs, or it has sent nothing.",
            "Archive": "No archive is kept: perpflow archive run.",
            "Archive written": "No archive is kept: perpflow archive run.",
        },
    )

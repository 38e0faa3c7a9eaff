"""The metric catalogue: every metric is declared once, here, with its meaning, unit and labels.

Labels are bounded: venues, topics, partitions, services, reasons from fixed lists. They are never ids; instruments occur only for the few
of a recorded venue. ``catalogue`` lists all metrics for people (``perpflow metrics``), including those of prometheus_client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

# Latencies from a millisecond to a minute.
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# --- every service -------------------------------------------------------------------------------------------------
DEAD_LETTERS = Counter("perpflow_dead_letters", "Records refused and written to dead_letters.", ["service", "source"])
UP = Gauge("perpflow_up", "1 while the service is healthy, else 0.", ["service"])
WALL_TIME = Gauge(
    "perpflow_wall_time_seconds", "The process's clock at the scrape, Unix time. Prometheus' clock is the time of the sample.", ["service"]
)
DISK_FREE = Gauge("perpflow_disk_free_bytes", "Free space of the file system that the process works in.", ["service"])
DISK_SIZE = Gauge("perpflow_disk_size_bytes", "Size of that file system.", ["service"])

# --- producers -----------------------------------------------------------------------------------------------------
RECORDS_PRODUCED = Counter("perpflow_records_produced", "Records acknowledged by Kafka.", ["topic"])
PRODUCED_TIME = Gauge(
    "perpflow_produced_time_seconds", "Receive time of the newest record that Kafka acknowledged, Unix time.", ["venue", "topic"]
)
MARK_TIME = Gauge("perpflow_mark_time_seconds", "Time of the newest mark, Unix time. Kafka has all records up to it.", ["venue"])
FRAMES_RECEIVED = Counter("perpflow_frames_received", "Websocket frames received.", ["venue", "stream"])
RECEIVE_DELAY = Histogram("perpflow_receive_delay_seconds", "Receive time minus venue event time.", ["venue", "stream"], buckets=_LATENCY)
ACK_LATENCY = Histogram("perpflow_ack_latency_seconds", "From frame received to acknowledged by Kafka.", ["venue"], buckets=_LATENCY)
RECONNECTS = Counter("perpflow_reconnects", "Connections that ended and were opened again.", ["venue", "reason"])
GAPS = Counter("perpflow_gaps", "Gaps found in a stream.", ["venue", "stream", "kind"])
BACKFILLED = Counter("perpflow_backfilled_trades", "Trades fetched over REST to fill a gap.", ["venue"])
BACKFILLED_BARS = Counter("perpflow_backfilled_bars", "Bars of the venue fetched over REST on a cold start.", ["venue"])
BOOK_RESYNCS = Counter("perpflow_book_resyncs", "Order books rebuilt from a snapshot.", ["venue", "reason"])
STREAMS = Gauge(
    "perpflow_streams", "Subscribed streams by state: connecting, syncing, live, stale, invalid, closed.", ["venue", "channel", "state"]
)
CONFLATED = Counter("perpflow_conflated_records", "Depth and quote records left out because the producer was behind.", ["venue", "topic"])
POLLS = Counter("perpflow_polls", "Rounds of REST polling, by outcome: ok, failed.", ["venue", "poll", "outcome"])
POLLED = Gauge("perpflow_polled_time_seconds", "When a poll last succeeded, Unix time.", ["venue", "poll"])
REST_BUDGET = Gauge("perpflow_rest_budget_ratio", "Used share of the REST request budget, per window.", ["venue", "window"])
BACKPRESSURE = Counter("perpflow_backpressure_seconds", "Time the reader waited because a buffer was full.", ["venue"])

# --- recorded venue ------------------------------------------------------------------------------------------------
SIMULATED_FRAMES = Counter(
    "perpflow_simulated_frames", "Frames that the simulated venue sent, counted once for all clients.", ["symbol", "stream"]
)
SIMULATED_FAULTS = Counter("perpflow_simulated_faults", "Declared faults that the simulated venue applied.", ["kind"])

# --- trading -------------------------------------------------------------------------------------------------------
VENUE_REQUESTS = Counter(
    "perpflow_venue_requests",
    "Signed requests to a trading venue, by outcome: ok, refused, unknown, limited, unreachable.",
    ["venue", "path", "outcome"],
)
VENUE_REQUEST_SECONDS = Histogram(
    "perpflow_venue_request_seconds",
    "Time from a request to its response, for requests with a response.",
    ["venue", "path"],
    buckets=_LATENCY,
)
GUARD_STATE = Gauge("perpflow_guard_state", "State of the risk guard: 0 normal, 1 warning, 2 halted.", ["account"])
GUARD_RULES = Gauge("perpflow_guard_rule", "1 while a rule of the risk guard is active, else 0.", ["account", "rule"])
GUARD_DAY_R = Gauge(
    "perpflow_guard_day_r", "Net R of the UTC day that counts against the daily limit, open positions included.", ["account"]
)
GUARD_PUBLISHED = Gauge(
    "perpflow_guard_published_time_seconds", "When Kafka last acknowledged a state of the guard, Unix time.", ["account"]
)
VENUE_WEIGHT = Gauge("perpflow_venue_used_weight", "Request weight of the running minute, as the venue counts it.", ["venue"])

# --- worker --------------------------------------------------------------------------------------------------------
RECORDS_APPLIED = Counter("perpflow_records_applied", "Input records applied to the engine.", ["topic"])
LATE_TRADES = Counter("perpflow_late_trades", "Trades that arrived after their instant had fired.", [])
INSTANTS_FIRED = Counter("perpflow_instants_fired", "Evaluation instants fired, per instrument.", [])
SIGNALS = Counter("perpflow_signals", "Signals emitted.", [])
WORKER_EVENT_TIME = Gauge("perpflow_worker_event_time_seconds", "Newest instant fired, Unix time.", ["partition"])
EVALUATION_SECONDS = Histogram("perpflow_evaluation_seconds", "Wall time of one processing round.", [], buckets=_LATENCY)
CONTINUITY_HEALED = Counter("perpflow_continuity_healed", "Gaps in delivery that a reader found and closed by seeking back.", ["topic"])
BUFFERED_RECORDS = Gauge("perpflow_buffered_records", "Records read ahead of the merged cut.", ["topic"])

# --- monitor -------------------------------------------------------------------------------------------------------
QUALITY_SCORE = Gauge("perpflow_quality_score", "Mean data-quality score of a venue's instruments, 0 to 10.", ["venue", "stream"])
QUALITY_LOWEST = Gauge("perpflow_quality_score_lowest", "Data-quality score of a venue's worst instrument, 0 to 10.", ["venue", "stream"])
QUALITY_FINDINGS = Counter("perpflow_quality_findings", "Faults found in market data.", ["venue", "stream", "kind"])
QUALITY_CHECKED = Counter("perpflow_quality_checked", "Records checked by the monitor.", ["topic"])
QUALITY_EVENT_TIME = Gauge("perpflow_quality_event_time_seconds", "Newest mark passed by the monitor, Unix time.", ["partition"])

# --- sinks ---------------------------------------------------------------------------------------------------------
ROWS_WRITTEN = Counter("perpflow_rows_written", "Rows committed to the database.", ["table"])
ROWS_REPEATED = Counter("perpflow_rows_repeated", "Repeated records dropped by their id.", ["table"])
SINK_LAG = Gauge("perpflow_sink_lag_records", "Records not yet written.", ["topic"])
COPY_SECONDS = Histogram("perpflow_copy_seconds", "Duration of a database transaction.", [], buckets=_LATENCY)
FENCED = Counter("perpflow_fenced", "Transactions refused because another writer owns the partition.", ["service"])
POSITIONS_OPEN = Gauge("perpflow_positions_open", "Open positions.", ["mode"])
TRADES_CLOSED = Counter("perpflow_trades_closed", "Closed trades.", ["mode", "exit_reason"])
ORDERS = Counter("perpflow_orders", "Order records written, one for each change of an order's status.", ["mode", "leg", "status"])
EXECUTOR_EVENT_TIME = Gauge("perpflow_executor_event_time_seconds", "Newest step of the executor, Unix time.", ["partition"])

# --- maintenance ---------------------------------------------------------------------------------------------------
MAINTENANCE = Counter("perpflow_maintenance_rounds", "Rounds of the database's upkeep, by outcome: done, busy, failed.", ["outcome"])
MAINTENANCE_SECONDS = Histogram("perpflow_maintenance_seconds", "Duration of a round of upkeep.", [], buckets=_LATENCY)
EVOLVE_RUNS = Counter("perpflow_evolve_runs", "Scheduled runs of auto-evolve, by outcome: done, failed.", ["outcome"])
BARS_BUILT = Gauge("perpflow_bars_built_time_seconds", "End of the newest bar built from a source, Unix time.", ["source"])
TABLE_BYTES = Gauge("perpflow_table_bytes", "Size of a table with its partitions and indexes.", ["table"])
DATABASE_BYTES = Gauge("perpflow_database_bytes", "Size of the database.", [])

# --- archive -------------------------------------------------------------------------------------------------------
ROWS_ARCHIVED = Counter("perpflow_rows_archived", "Records listed in the manifests of the archive.", ["topic"])
BYTES_ARCHIVED = Counter("perpflow_bytes_archived", "Bytes of the files written by the archive, including rewritten ones.", ["topic"])
FILES_MERGED = Counter("perpflow_archive_files_merged", "Small files merged into larger ones.", ["topic"])
ARCHIVE_LAG = Gauge("perpflow_archive_lag_records", "Records not yet in the archive.", ["topic"])
ARCHIVE_SECONDS = Histogram("perpflow_archive_seconds", "Duration of writing a batch to the archive.", [], buckets=_LATENCY)

# --- notifier ------------------------------------------------------------------------------------------------------
NOTIFICATIONS_SENT = Counter("perpflow_notifications_sent", "Messages sent, by kind of event.", ["channel", "kind"])
NOTIFICATIONS_FAILED = Counter(
    "perpflow_notifications_failed",
    "Attempts that failed, by reason: timeout, connection, rate_limited, refused, server, other.",
    ["channel", "reason"],
)
NOTIFICATIONS_SUPPRESSED = Counter(
    "perpflow_notifications_suppressed",
    "Events not sent as their own message, by reason: repeat, unrouted, top, quiet, window, digest. The channel is empty for the first three.",
    ["channel", "reason"],
)
NOTIFICATIONS_QUEUED = Gauge("perpflow_notifications_queued", "Messages that wait for their channel.", ["channel"])
NOTIFICATION_SECONDS = Histogram("perpflow_notification_seconds", "Duration of an attempt to send.", ["channel"], buckets=_LATENCY)

# --- live execution ------------------------------------------------------------------------------------------------
RECONCILED = Gauge("perpflow_reconciled", "State of the newest comparison with the venue: 0 green, 1 yellow, 2 red.", ["account"])
RECONCILED_TIME = Gauge("perpflow_reconciled_time_seconds", "When the journal was last compared with the venue, Unix time.", ["account"])
RECONCILE_FINDINGS = Counter("perpflow_reconcile_findings", "Differences between journal and venue, by kind.", ["account", "kind"])
ANOMALIES = Counter("perpflow_execution_anomalies", "Reports that only a comparison with the venue can explain.", ["account"])
ENTRIES_BLOCKED = Gauge("perpflow_entries_blocked", "1 while the executor opens no position, else 0.", ["account"])
PROTECTION_GAP = Histogram(
    "perpflow_protection_gap_seconds",
    "Longest time of a trade in which an open quantity had no confirmed stop.",
    ["account"],
    buckets=_LATENCY,
)
SIGNAL_TO_ORDER = Histogram(
    "perpflow_signal_to_order_seconds", "From a decision to the intent of its first order.", ["account"], buckets=_LATENCY
)
JOURNAL_SECONDS = Histogram("perpflow_journal_seconds", "Duration of a transaction of the live journal.", ["account"], buckets=_LATENCY)

# --- console -------------------------------------------------------------------------------------------------------
CONSOLE_CLIENTS = Gauge("perpflow_console_clients", "Clients that are connected to the live stream.", [])
CONSOLE_TURNED_AWAY = Counter("perpflow_console_turned_away", "Live streams refused because too many are open.", [])
CONSOLE_STALLED = Counter("perpflow_console_stalled", "Live streams closed because the client took nothing for a minute.", [])
CONSOLE_SENT = Counter("perpflow_console_sent", "Messages of the live stream sent to clients, by kind: state, event.", ["kind"])
CONSOLE_SENT_BYTES = Counter("perpflow_console_sent_bytes", "Bytes of the live stream sent to clients.", [])
CONSOLE_CONFLATED = Counter("perpflow_console_conflated", "State messages replaced by a newer one before a slow client took them.", [])
CONSOLE_RESETS = Counter("perpflow_console_resets", "Times that a client was asked to load channels again, because events are missing.", [])
CONSOLE_REFUSED = Counter("perpflow_console_refused_records", "Records that the live stream cannot show.", ["topic"])
CONSOLE_LAG = Gauge("perpflow_console_lag_records", "Records not yet read by the live stream.", ["topic"])
CONSOLE_EVENT_TIME = Gauge("perpflow_console_event_time_seconds", "Newest record read by the live stream, Unix time.", ["topic"])

# --- the catalogue -------------------------------------------------------------------------------------------------
Metric = Counter | Gauge | Histogram

# The process that sets each metric. Every process lists all names at /metrics; those with labels have values only where they are set.
PROCESSES: dict[str, tuple[Metric, ...]] = {
    "every service": (DEAD_LETTERS, UP, WALL_TIME, DISK_FREE, DISK_SIZE),
    "several services": (RECORDS_PRODUCED, FENCED, CONTINUITY_HEALED),
    "producer": (
        PRODUCED_TIME,
        MARK_TIME,
        FRAMES_RECEIVED,
        RECEIVE_DELAY,
        ACK_LATENCY,
        RECONNECTS,
        GAPS,
        BACKFILLED,
        BACKFILLED_BARS,
        BOOK_RESYNCS,
        STREAMS,
        CONFLATED,
        POLLS,
        POLLED,
        REST_BUDGET,
        BACKPRESSURE,
    ),
    "guard": (GUARD_STATE, GUARD_RULES, GUARD_DAY_R, GUARD_PUBLISHED),
    "trading": (VENUE_REQUESTS, VENUE_REQUEST_SECONDS, VENUE_WEIGHT),
    "recorded venue": (SIMULATED_FRAMES, SIMULATED_FAULTS),
    "worker": (
        RECORDS_APPLIED,
        LATE_TRADES,
        INSTANTS_FIRED,
        SIGNALS,
        WORKER_EVENT_TIME,
        EVALUATION_SECONDS,
        BUFFERED_RECORDS,
    ),
    "monitor": (QUALITY_SCORE, QUALITY_LOWEST, QUALITY_FINDINGS, QUALITY_CHECKED, QUALITY_EVENT_TIME),
    "sink": (ROWS_WRITTEN, ROWS_REPEATED, SINK_LAG, COPY_SECONDS),
    "executor": (POSITIONS_OPEN, TRADES_CLOSED, ORDERS, EXECUTOR_EVENT_TIME),
    "evolve": (EVOLVE_RUNS,),
    "maintenance": (MAINTENANCE, MAINTENANCE_SECONDS, BARS_BUILT, TABLE_BYTES, DATABASE_BYTES),
    "console": (
        CONSOLE_CLIENTS,
        CONSOLE_TURNED_AWAY,
        CONSOLE_STALLED,
        CONSOLE_SENT,
        CONSOLE_SENT_BYTES,
        CONSOLE_CONFLATED,
        CONSOLE_RESETS,
        CONSOLE_REFUSED,
        CONSOLE_LAG,
        CONSOLE_EVENT_TIME,
    ),
    "live executor": (
        RECONCILED,
        RECONCILED_TIME,
        RECONCILE_FINDINGS,
        ANOMALIES,
        ENTRIES_BLOCKED,
        PROTECTION_GAP,
        SIGNAL_TO_ORDER,
        JOURNAL_SECONDS,
    ),
    "archive": (ROWS_ARCHIVED, BYTES_ARCHIVED, FILES_MERGED, ARCHIVE_LAG, ARCHIVE_SECONDS),
    "notifier": (NOTIFICATIONS_SENT, NOTIFICATIONS_FAILED, NOTIFICATIONS_SUPPRESSED, NOTIFICATIONS_QUEUED, NOTIFICATION_SECONDS),
}

# A name ends with its unit (prometheus.io, "Metric and label naming"). The units of the others:
_ENDINGS = {"_time_seconds": "Unix time, s", "_seconds": "s", "_bytes": "bytes", "_ratio": "share", "_records": "records"}
_UNITS = {
    UP: "1 or 0",
    STREAMS: "streams",
    QUALITY_SCORE: "0 to 10",
    QUALITY_LOWEST: "0 to 10",
    POSITIONS_OPEN: "positions",
    NOTIFICATIONS_QUEUED: "messages",
    CONSOLE_CLIENTS: "clients",
    CONSOLE_SENT: "messages",
    CONSOLE_SENT_BYTES: "bytes",
    CONSOLE_CONFLATED: "messages",
    CONSOLE_TURNED_AWAY: "streams",
    CONSOLE_STALLED: "streams",
    BYTES_ARCHIVED: "bytes",
    VENUE_WEIGHT: "request weight",
    GUARD_STATE: "0, 1 or 2",
    RECONCILED: "0, 1 or 2",
    ENTRIES_BLOCKED: "1 or 0",
    GUARD_RULES: "1 or 0",
    GUARD_DAY_R: "R",
}


@dataclass(frozen=True)
class Entry:
    """One metric of the catalogue.

    Attributes:
        name: Name of the series: for a counter with ``_total``, for a histogram without ``_bucket``, ``_sum`` and ``_count``.
        kind: counter, gauge or histogram.
        unit: Unit of its value.
        labels: Names of its labels.
        meaning: Its meaning.
        process: The process that sets it.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    meaning: str
    process: str


def catalogue() -> list[Entry]:
    """Return every metric: ours by process, then the process metrics of prometheus_client (where the system provides them)."""
    found = [_entry(metric, process) for process, metrics in PROCESSES.items() for metric in metrics]
    return [*found, *_of_the_library()]


def _entry(metric: Metric, process: str) -> Entry:
    family = next(iter(metric.describe()))
    ending = next((unit for ending, unit in _ENDINGS.items() if family.name.endswith(ending)), None)
    unit = _UNITS.get(metric) or ending or ("events" if isinstance(metric, Counter) else "")
    name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
    return Entry(name, family.type, unit, tuple(metric._labelnames), family.documentation, process)


def _of_the_library() -> Iterator[Entry]:
    for family in REGISTRY.collect():
        if not family.name.startswith("perpflow_"):
            labels = tuple(sorted({label for sample in family.samples for label in sample.labels}))
            ending = next((unit for ending, unit in _ENDINGS.items() if family.name.endswith(ending)), None)
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Entry(
                name,
                family.type,
                ending or ("events" if family.type == "counter" else "count"),
                labels,
                family.documentation,
                "prometheus_client",
            )


def markdown(entries: Sequence[Entry]) -> str:
    """Return entries as Markdown, a table for each process."""
    lines = ["# Metrics", ""]
    for process in dict.fromkeys(entry.process for entry in entries):
        lines += [f"## {process}", "", "| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        for one in entries:
            if one.process == process:
                lines.append(f"| `{one.name}` | {one.kind} | {one.unit} | {', '.join(one.labels) or '-'} | {one.meaning} |")
        lines.append("")
    return "\n".join(lines)

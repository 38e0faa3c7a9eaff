"""The metric catalogue: every metric is declared once, here, with its meaning, unit and labels.

Labels are bounded: instruments, topics, partitions, services, reasons from fixed lists; never ids.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Latencies from a millisecond to a minute.
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# --- every service -------------------------------------------------------------------------------------------------
DEAD_LETTERS = Counter("perpflow_dead_letters", "Records refused and written to dead_letters.", ["service", "source"])
UP = Gauge("perpflow_up", "1 while the service is healthy, else 0.", ["service"])

# --- producers -----------------------------------------------------------------------------------------------------
RECORDS_PRODUCED = Counter("perpflow_records_produced", "Records acknowledged by Kafka.", ["topic"])
FRAMES_RECEIVED = Counter("perpflow_frames_received", "Websocket frames received.", ["venue", "stream"])
RECEIVE_DELAY = Histogram("perpflow_receive_delay_seconds", "Receive time minus venue event time.", ["venue", "stream"], buckets=_LATENCY)
ACK_LATENCY = Histogram("perpflow_ack_latency_seconds", "From frame received to acknowledged by Kafka.", ["venue"], buckets=_LATENCY)
RECONNECTS = Counter("perpflow_reconnects", "Connections that ended and were opened again.", ["venue", "reason"])
GAPS = Counter("perpflow_gaps", "Holes found in a stream.", ["venue", "stream", "kind"])
BACKFILLED = Counter("perpflow_backfilled_trades", "Trades fetched over REST to fill a hole.", ["venue"])
BOOK_RESYNCS = Counter("perpflow_book_resyncs", "Order books rebuilt from a snapshot.", ["venue", "reason"])
STREAMS = Gauge(
    "perpflow_streams", "Subscribed streams by state: connecting, syncing, live, stale, invalid, closed.", ["venue", "channel", "state"]
)
CONFLATED = Counter("perpflow_conflated_records", "Depth and quote records left out because the producer was behind.", ["venue", "topic"])
POLLS = Counter("perpflow_polls", "Rounds of REST polling, by outcome: ok, failed.", ["venue", "poll", "outcome"])
POLLED = Gauge("perpflow_polled_time_seconds", "When a poll last succeeded, Unix time.", ["venue", "poll"])
REST_BUDGET = Gauge("perpflow_rest_budget_ratio", "Share of the REST request budget that is spent, per window.", ["venue", "window"])
BACKPRESSURE = Counter("perpflow_backpressure_seconds", "Time the reader waited because a buffer was full.", ["venue"])

# --- recorded venue ------------------------------------------------------------------------------------------------
SIMULATED_FRAMES = Counter(
    "perpflow_simulated_frames", "Frames the recorded venue sent, whatever the number of clients.", ["symbol", "stream"]
)
SIMULATED_FAULTS = Counter("perpflow_simulated_faults", "Misbehaviour of the recorded venue applied on purpose.", ["kind"])

# --- worker --------------------------------------------------------------------------------------------------------
RECORDS_APPLIED = Counter("perpflow_records_applied", "Input records applied to the engine.", ["topic"])
LATE_TRADES = Counter("perpflow_late_trades", "Trades that came after their instant had fired.", [])
INSTANTS_FIRED = Counter("perpflow_instants_fired", "Evaluation instants fired, per instrument.", [])
SIGNALS = Counter("perpflow_signals", "Signals emitted.", ["direction"])
WORKER_EVENT_TIME = Gauge("perpflow_worker_event_time_seconds", "Newest instant fired, Unix time.", ["partition"])
EVALUATION_SECONDS = Histogram("perpflow_evaluation_seconds", "Wall time of one processing round.", [], buckets=_LATENCY)
CONTINUITY_HEALED = Counter("perpflow_continuity_healed", "Gaps in delivery found by the worker and healed by seeking back.", ["topic"])
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
EXECUTOR_EVENT_TIME = Gauge("perpflow_executor_event_time_seconds", "Newest step of the executor, Unix time.", ["partition"])

# --- archive -------------------------------------------------------------------------------------------------------
ROWS_ARCHIVED = Counter("perpflow_rows_archived", "Records that a manifest of the archive lists.", ["topic"])
BYTES_ARCHIVED = Counter("perpflow_bytes_archived", "Bytes of the files written by the archive, rewriting included.", ["topic"])
FILES_MERGED = Counter("perpflow_archive_files_merged", "Small files merged into larger ones.", ["topic"])
ARCHIVE_LAG = Gauge("perpflow_archive_lag_records", "Records not yet in the archive.", ["topic"])
ARCHIVE_SECONDS = Histogram("perpflow_archive_seconds", "Duration of writing a batch to the archive.", [], buckets=_LATENCY)

# --- notifier ------------------------------------------------------------------------------------------------------
NOTIFICATIONS_SENT = Counter("perpflow_notifications_sent", "Messages sent, by what they tell of.", ["channel", "kind"])
NOTIFICATIONS_FAILED = Counter(
    "perpflow_notifications_failed",
    "Attempts that failed, by reason: timeout, connection, rate_limited, refused, server, other.",
    ["channel", "reason"],
)
NOTIFICATIONS_SUPPRESSED = Counter(
    "perpflow_notifications_suppressed",
    "Events not sent as a message of their own, by reason: repeat, unrouted, top, quiet, window, digest. Of the first three the channel is empty.",
    ["channel", "reason"],
)
NOTIFICATIONS_QUEUED = Gauge("perpflow_notifications_queued", "Messages that wait for their channel.", ["channel"])
NOTIFICATION_SECONDS = Histogram("perpflow_notification_seconds", "Duration of an attempt to send.", ["channel"], buckets=_LATENCY)

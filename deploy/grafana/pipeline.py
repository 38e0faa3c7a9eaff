"""Health of the pipeline from venue to database: freshness, lag, gaps, quality."""

from __future__ import annotations

from deploy.grafana.build import (
    BIN,
    COUNT,
    GREEN,
    IN_RANGE,
    MILLISECONDS,
    NONE,
    OF_TEN,
    ORANGE,
    PER_SECOND,
    RED,
    SECONDS,
    SHARE,
    Json,
    bars,
    limits,
    lines,
    matching,
    page,
    panel,
    prom,
    quantiles,
    rows,
    series,
    stat,
    table,
)

TEN = ((None, RED), (7.0, ORANGE), (9.0, GREEN))

# The newest scores in the last hour of the range; the views data_quality_current and data_quality_venues would sort the whole history.
NEWEST = """WITH newest AS (SELECT DISTINCT ON (instrument, stream) split_part(instrument, ':', 1) AS venue, * FROM data_quality
  WHERE kind = 'score' AND event_time BETWEEN timestamptz $__timeTo() - interval '1 hour' AND $__timeTo() ORDER BY instrument, stream, event_time DESC)"""

# The health score out of 10: the mean of the venues' mean and their worst instrument, as the monitor weighs streams within an instrument.
HEALTH = f"""{NEWEST} SELECT (avg(score) + min(lowest)) / 2 AS health FROM (
  SELECT avg(score) AS score, min(score) AS lowest FROM newest WHERE stream = 'overall' GROUP BY venue) v"""

STREAMS = f"""{NEWEST} SELECT venue, stream, avg(score) AS score, min(score) AS lowest, sum(records)::float8 AS records, max(age_ms) AS age,
  max(event_time) AS checked
FROM newest WHERE stream <> 'overall' GROUP BY 1, 2 ORDER BY 3, 1, 2"""

WORST = f"""{NEWEST} SELECT instrument, stream, score, age_ms AS age, rate, (SELECT string_agg(key || ' -' || round(value::numeric, 1), ', ' ORDER BY key)
  FROM jsonb_each_text(deductions)) AS deductions, event_time AS checked
FROM newest ORDER BY score, instrument, stream LIMIT 50"""

FINDINGS = f"""SELECT event_time, instrument, stream, kind, severity, value, limit_value AS "limit", detail FROM data_quality
WHERE {IN_RANGE} AND kind <> 'score' AND severity <> 'info' ORDER BY event_time DESC LIMIT 200"""

SCORES = f"""SELECT {BIN} AS "time", split_part(instrument, ':', 1) AS metric, avg(score) AS score FROM data_quality
WHERE {IN_RANGE} AND kind = 'score' AND stream = 'overall' GROUP BY 1, 2 ORDER BY 1"""

GAPS = f"""SELECT event_time, instrument, stream, kind, certain, repaired, to_id - from_id + 1 AS missing,
  extract(epoch FROM to_time - from_time)::float8 AS lasted, detail FROM gaps WHERE {IN_RANGE} ORDER BY event_time DESC LIMIT 200"""
GAP_COUNTS = f"""SELECT stream || ' ' || kind AS gap, count(*) FILTER (WHERE repaired) AS repaired, count(*) FILTER (WHERE NOT repaired) AS open
FROM gaps WHERE {IN_RANGE} GROUP BY 1 ORDER BY 1"""

DEAD_LETTERS = """SELECT receive_time, service, source, source_partition AS partition, source_offset AS "offset", instrument, field, reason,
  octet_length(value) AS bytes FROM dead_letters WHERE $__timeFilter(receive_time) ORDER BY receive_time DESC LIMIT 200"""

WRITTEN = """SELECT topic, sum(next_offset)::float8 AS "read up to", max(updated_at) AS "last commit",
  extract(epoch FROM now() - max(updated_at))::float8 AS ago
FROM sink_offsets GROUP BY 1 ORDER BY 4 DESC"""


def _newest(table: str) -> str:
    # By instrument, because the index begins with it and a month has too many trades for a scan.
    return (
        f"SELECT '{table}' AS stage, max(n.event_time) AS newest FROM instruments_current i CROSS JOIN LATERAL (SELECT event_time FROM {table}"
        f" WHERE {table}.instrument = i.instrument AND {IN_RANGE} ORDER BY event_time DESC LIMIT 1) n"
    )


# Market time between the newest row of each stage and the newest trade. It shows the stage that delays the data.
STAGES = f"""SELECT stage, newest, extract(epoch FROM max(newest) OVER () - newest)::float8 AS behind FROM (
  {_newest("agg_trades")} UNION ALL {_newest("features")} UNION ALL {_newest("scores")} UNION ALL {_newest("signals")}) s
WHERE newest IS NOT NULL ORDER BY behind DESC"""


def board() -> Json:
    """Return the dashboard."""
    panels = [
        stat(
            "Health",
            "Data quality of 10, from the quality monitor: mean of the venues, and the worst instrument.",
            OF_TEN,
            rows(HEALTH),
            TEN,
        ),
        stat(
            "Services healthy",
            "Share of the services that report to be healthy.",
            SHARE,
            prom("avg(perpflow_up)", "healthy"),
            ((None, RED), (1, GREEN)),
        ),
        stat(
            "Records a second",
            "Records of all topics that Kafka acknowledged.",
            PER_SECOND,
            prom("sum(rate(perpflow_records_produced_total[$__rate_interval]))", "records"),
        ),
        stat(
            "Worker behind",
            "Age of the newest instant that a worker has evaluated. A played recording shows its own age.",
            SECONDS,
            prom("time() - max(perpflow_worker_event_time_seconds)", "behind"),
            ((None, GREEN), (30, ORANGE), (60, RED)),
        ),
        stat(
            "Sink behind",
            "Records that are in Kafka and not in the database.",
            COUNT,
            prom("sum(perpflow_sink_lag_records)", "records"),
            ((None, GREEN), (100_000, ORANGE), (500_000, RED)),
        ),
        stat(
            "Dead letters, 1 h",
            "Records rejected in the last hour of the range, from the database.",
            COUNT,
            rows(
                "SELECT count(*) FROM dead_letters WHERE receive_time BETWEEN timestamptz $__timeTo() - interval '1 hour' AND $__timeTo()"
            ),
            ((None, GREEN), (1, RED)),
        ),
        panel(
            "bargauge",
            "Freshness by stream",
            "Time since Kafka acknowledged the newest record of a venue's topic. Liquidations are left out: they can pause.",
            SECONDS,
            prom(
                'time() - max by (venue, topic) (perpflow_produced_time_seconds{topic=~"agg_trades|depth|quotes|funding|market_indicators|liquidations"})',
                "{{venue}} {{topic}}",
                instant=True,
            ),
            options={
                "displayMode": "gradient",
                "orientation": "horizontal",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
            defaults={"min": 0, "max": 900, "thresholds": limits([(None, GREEN), (60, ORANGE), (600, RED)])},
            height=9,
        ),
        table(
            "Quality by stream",
            "The newest scores of every venue's streams, over their instruments; age is that of the newest record at the check.",
            OF_TEN,
            rows(STREAMS),
            {"records": COUNT, "age": MILLISECONDS},
            height=9,
        ),
        lines(
            "Freshness over time",
            "Time since Kafka acknowledged the newest record of a venue's topic, without liquidations.",
            SECONDS,
            prom(
                'time() - max by (venue, topic) (perpflow_produced_time_seconds{topic=~"agg_trades|depth|quotes|funding|market_indicators"})',
                "{{venue}} {{topic}}",
            ),
        ),
        lines(
            "Quality over time",
            "Mean score of a venue's instruments, out of 10.",
            OF_TEN,
            series(SCORES),
            interval="1m",
            defaults={"min": 0, "max": 10},
        ),
        table(
            "Worst instruments",
            "Streams with the lowest current score, and the faults that lowered it.",
            OF_TEN,
            rows(WORST),
            {"age": MILLISECONDS, "rate": PER_SECOND},
        ),
        table(
            "Findings",
            "Faults in market data, the newest 200 of the range, without those that are only for information; value and limit are the kind's, times in ms.",
            NONE,
            rows(FINDINGS),
        ),
        lines(
            "Polls",
            "Time since a REST poll last succeeded (funding, open interest, ratios).",
            SECONDS,
            prom("time() - max by (venue, poll) (perpflow_polled_time_seconds)", "{{venue}} {{poll}}"),
        ),
        lines(
            "Streams not live",
            "Subscribed streams that are not live: connecting, syncing, stale, invalid.",
            COUNT,
            prom('sum by (venue, channel, state) (perpflow_streams{state!~"live|closed"}) > 0', "{{venue}} {{channel}} {{state}}"),
        ),
        lines(
            "Records into Kafka",
            "Records acknowledged, by topic.",
            PER_SECOND,
            prom("sum by (topic) (rate(perpflow_records_produced_total[$__rate_interval]))", "{{topic}}"),
        ),
        lines(
            "Frames from the venues",
            "Websocket frames by venue and stream.",
            PER_SECOND,
            prom("sum by (venue, stream) (rate(perpflow_frames_received_total[$__rate_interval]))", "{{venue}} {{stream}}"),
        ),
        lines(
            "Receive delay",
            "Receive time minus the venue's event time, sampled. The scale ends at 60 s; a played recording is beyond it.",
            SECONDS,
            *quantiles("perpflow_receive_delay_seconds", "venue", "stream", of=(0.99,)),
        ),
        lines(
            "Acknowledgement",
            "From the frame received to Kafka's acknowledgement.",
            SECONDS,
            *quantiles("perpflow_ack_latency_seconds", "venue"),
        ),
        lines(
            "Connections and gaps",
            "Connections ended, gaps found and order books rebuilt, per minute.",
            COUNT,
            prom("sum by (venue, reason) (increase(perpflow_reconnects_total[1m]))", "{{venue}} reconnect: {{reason}}"),
            prom("sum by (venue, stream, kind) (increase(perpflow_gaps_total[1m]))", "{{venue}} {{stream}} {{kind}}"),
            prom("sum by (venue, reason) (increase(perpflow_book_resyncs_total[1m]))", "{{venue}} book: {{reason}}"),
        ),
        lines(
            "Back-pressure",
            "Share of time that the producer's reader waited for Kafka, and records a second dropped by conflation.",
            SHARE,
            prom("sum by (venue) (rate(perpflow_backpressure_seconds_total[$__rate_interval]))", "{{venue}} waiting"),
            prom("sum by (venue, topic) (rate(perpflow_conflated_records_total[$__rate_interval]))", "{{venue}} {{topic}} left out"),
            overrides=[matching("left out$", "unit", PER_SECOND)],
        ),
        table("Gaps", "Gaps in streams, the newest 200 of the range.", NONE, rows(GAPS), {"lasted": SECONDS}),
        bars("Gaps by stream", "Gaps by stream and kind, and whether they were repaired.", COUNT, rows(GAP_COUNTS), "gap", stack=True),
        lines(
            "Worker input",
            "Records applied to the engines, by topic.",
            PER_SECOND,
            prom("sum by (topic) (rate(perpflow_records_applied_total[$__rate_interval]))", "{{topic}}"),
        ),
        lines(
            "Decisions",
            "Instants evaluated, signals emitted and late trades, per minute.",
            COUNT,
            prom("sum(increase(perpflow_instants_fired_total[1m]))", "instants"),
            prom("sum(increase(perpflow_signals_total[1m]))", "signals"),
            prom("sum(increase(perpflow_late_trades_total[1m]))", "late trades"),
        ),
        lines("Worker round", "Wall time of one processing round.", SECONDS, *quantiles("perpflow_evaluation_seconds")),
        lines(
            "Watermarks behind",
            "Age of the newest mark of each venue, and of the newest instant evaluated and quality-checked, by partition.",
            SECONDS,
            prom("time() - max by (venue) (perpflow_mark_time_seconds)", "mark {{venue}}"),
            prom("time() - min(perpflow_worker_event_time_seconds)", "slowest worker partition"),
            prom("time() - min(perpflow_quality_event_time_seconds)", "slowest monitor partition"),
        ),
        lines(
            "Read ahead",
            "Records that wait in the workers for the next mark, and records read again after a restart.",
            COUNT,
            prom("sum by (topic) (perpflow_buffered_records)", "{{topic}}"),
            prom("sum by (topic) (increase(perpflow_continuity_healed_total[1m]))", "{{topic}} read again"),
        ),
        table(
            "Stages",
            "Newest event time in the database by stage, and its lag behind the most recent stage.",
            NONE,
            rows(STAGES),
            {"behind": SECONDS},
        ),
        lines(
            "Rows into the database",
            "Rows committed, and repeated records that were dropped.",
            PER_SECOND,
            prom("sum by (table) (rate(perpflow_rows_written_total[$__rate_interval]))", "{{table}}"),
            prom("sum by (table) (rate(perpflow_rows_repeated_total[$__rate_interval]))", "{{table}} repeated"),
        ),
        lines("Sink lag", "Records not yet written, by topic.", COUNT, prom("sum by (topic) (perpflow_sink_lag_records)", "{{topic}}")),
        lines(
            "Database transactions",
            "Duration of the sink's transactions, and how many in a minute were refused because another writer owns the partition.",
            SECONDS,
            *quantiles("perpflow_copy_seconds"),
            prom("sum by (service) (increase(perpflow_fenced_total[1m]))", "{{service}} fenced"),
            overrides=[matching("fenced$", "unit", COUNT)],
        ),
        table("Sink positions", "Progress of the sink, by topic.", COUNT, rows(WRITTEN), {"ago": SECONDS}),
        table(
            "Dead letters",
            "Rejected records, the newest 200 that arrived in the range.",
            NONE,
            rows(DEAD_LETTERS),
            {"bytes": "bytes"},
            width=24,
        ),
    ]
    return page(
        "pipeline",
        "Pipeline health",
        "Freshness, lag, gaps and quality, from the venues' frames to the rows in the database.",
        panels,
        since="now-1h",
        empty="The quality monitor has written nothing in the range. Check that it runs.",
        empties={
            "Findings": "No fault was found in the range.",
            "Polls": "No REST poll has succeeded: recordings have no REST endpoints to poll.",
            "Connections and gaps": "No connection ended, no gap was found, no order book was rebuilt.",
            "Gaps": "No gap in the range.",
            "Gaps by stream": "No gap in the range.",
            "Stages": "No market data in the range.",
            "Streams not live": "Every subscribed stream is live.",
            "Sink positions": "No sink has written to this database.",
            "Dead letters": "No record was rejected in the range.",
        },
    )

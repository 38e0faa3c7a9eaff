-- Labels of every evaluation: what the mark price did in the hour after it (S1 10.4).

SELECT perpflow_make_table('labels', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    evaluated_at timestamptz NOT NULL,
    cost double precision NOT NULL,
    target_atr double precision NOT NULL,
    stop_atr double precision NOT NULL,
    entry double precision,
    atr double precision,
    long_return_15m double precision,
    long_return_30m double precision,
    long_return_60m double precision,
    short_return_15m double precision,
    short_return_30m double precision,
    short_return_60m double precision,
    long_mfe_r_60m double precision,
    long_mae_r_60m double precision,
    short_mfe_r_60m double precision,
    short_mae_r_60m double precision,
    long_binary_30m integer,
    long_binary_60m integer,
    short_binary_30m integer,
    short_binary_60m integer,
    reason text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS labels_record ON labels (instrument, evaluated_at, kafka_partition, event_time);

INSERT INTO table_policies (table_name, step, chunk, keep, columnstore_after, segment_by, order_by, reason) VALUES
    ('labels', 'month', '7 days', NULL, '7 days', 'instrument', 'event_time',
     '5,760 rows a day and instrument at 0.3 kB: 1.7 MB a day; weights are learned from them, so they are kept for good')
ON CONFLICT DO NOTHING;

-- The label of each score, in the direction that was judged. A score without a direction has no label.
CREATE OR REPLACE VIEW score_labels AS
SELECT s.score_id, s.instrument, s.strategy_id, s.event_time, s.lean AS direction, s.score, s.ungated_score, s.warm, s.signalled, s.regime,
    l.event_time AS labelled_at, l.entry, l.atr, l.cost, l.target_atr, l.stop_atr,
    CASE s.lean WHEN 'LONG' THEN l.long_return_15m ELSE l.short_return_15m END AS y_return_15m,
    CASE s.lean WHEN 'LONG' THEN l.long_return_30m ELSE l.short_return_30m END AS y_return_30m,
    CASE s.lean WHEN 'LONG' THEN l.long_return_60m ELSE l.short_return_60m END AS y_return_60m,
    CASE s.lean WHEN 'LONG' THEN l.long_mfe_r_60m ELSE l.short_mfe_r_60m END AS mfe_r_60m,
    CASE s.lean WHEN 'LONG' THEN l.long_mae_r_60m ELSE l.short_mae_r_60m END AS mae_r_60m,
    CASE s.lean WHEN 'LONG' THEN l.long_binary_30m ELSE l.short_binary_30m END AS y_binary_30m,
    CASE s.lean WHEN 'LONG' THEN l.long_binary_60m ELSE l.short_binary_60m END AS y_binary_60m,
    l.reason, s.kafka_partition, s.kafka_offset
FROM scores s
JOIN labels l ON l.instrument = s.instrument AND l.evaluated_at = s.event_time
    AND l.event_time >= s.event_time AND l.event_time < s.event_time + interval '1 day'
WHERE s.lean IN ('LONG', 'SHORT');
COMMENT ON VIEW score_labels IS 'Each score with its label, in the direction that was judged (lean).';
COMMENT ON COLUMN score_labels.score_id IS 'Id of the score.';
COMMENT ON COLUMN score_labels.instrument IS 'Instrument id.';
COMMENT ON COLUMN score_labels.strategy_id IS 'Strategy.';
COMMENT ON COLUMN score_labels.event_time IS 'Evaluation instant T, UTC.';
COMMENT ON COLUMN score_labels.direction IS 'Direction that was judged: LONG or SHORT.';
COMMENT ON COLUMN score_labels.score IS 'Score after gates, 0 to 100.';
COMMENT ON COLUMN score_labels.ungated_score IS 'Score of the layers alone, 0 to 100.';
COMMENT ON COLUMN score_labels.warm IS 'True: the history was long enough.';
COMMENT ON COLUMN score_labels.signalled IS 'True: the score became a signal.';
COMMENT ON COLUMN score_labels.regime IS 'Regime at T.';
COMMENT ON COLUMN score_labels.labelled_at IS 'Instant at which the label was due, UTC.';
COMMENT ON COLUMN score_labels.entry IS 'Mark price at T, quote units; null: not known.';
COMMENT ON COLUMN score_labels.atr IS 'ATR at T, quote units; null: not known.';
COMMENT ON COLUMN score_labels.cost IS 'Cost of a round trip that the returns bear, fraction of the price.';
COMMENT ON COLUMN score_labels.target_atr IS 'Distance of the target, ATR.';
COMMENT ON COLUMN score_labels.stop_atr IS 'Distance of the stop, ATR.';
COMMENT ON COLUMN score_labels.y_return_15m IS 'Net return after 15 min, fraction; null: not known.';
COMMENT ON COLUMN score_labels.y_return_30m IS 'Net return after 30 min, fraction; null: not known.';
COMMENT ON COLUMN score_labels.y_return_60m IS 'Net return after 60 min, fraction; null: not known.';
COMMENT ON COLUMN score_labels.mfe_r_60m IS 'Best excursion within 60 min, R; null: not known.';
COMMENT ON COLUMN score_labels.mae_r_60m IS 'Worst excursion within 60 min, R; null: not known.';
COMMENT ON COLUMN score_labels.y_binary_30m IS '1: the target was touched within 30 min and no stop before it; 0: not; null: not known.';
COMMENT ON COLUMN score_labels.y_binary_60m IS '1: the target was touched within 60 min and no stop before it; 0: not; null: not known.';
COMMENT ON COLUMN score_labels.reason IS 'Why numbers are null; null: all are known.';
COMMENT ON COLUMN score_labels.kafka_partition IS 'Partition of the score in its topic.';
COMMENT ON COLUMN score_labels.kafka_offset IS 'Offset of the score in its partition: with it the order of a list is total.';

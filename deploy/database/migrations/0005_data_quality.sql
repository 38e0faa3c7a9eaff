-- What the data-quality monitor writes: findings, and scores at the end of each window.

SELECT perpflow_make_table('data_quality', $$
    quality_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    stream text NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL,
    value double precision,
    limit_value double precision,
    source_offset bigint,
    detail text,
    score double precision,
    deductions jsonb NOT NULL,
    findings jsonb NOT NULL,
    records bigint,
    rate double precision,
    age_ms bigint,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS data_quality_record ON data_quality (quality_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS data_quality_time ON data_quality (instrument, event_time);

-- The newest score of every stream and of every instrument (stream = overall).
CREATE OR REPLACE VIEW data_quality_current AS
SELECT DISTINCT ON (instrument, stream) instrument, split_part(instrument, ':', 1) AS venue, stream, event_time, score, deductions, findings,
       records, rate, age_ms
FROM data_quality WHERE kind = 'score' ORDER BY instrument, stream, event_time DESC, kafka_offset DESC;

-- A venue at a glance: the mean over its instruments, and the worst of them.
CREATE OR REPLACE VIEW data_quality_venues AS
SELECT venue, stream, avg(score) AS score, min(score) AS lowest, count(*) AS instruments, max(event_time) AS event_time
FROM data_quality_current GROUP BY venue, stream;

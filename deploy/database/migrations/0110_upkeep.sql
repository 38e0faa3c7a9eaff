-- Upkeep: one table of bar intervals, what is kept of each table and how it is stored, and partitions made without owning the tables.

-- The only place where a timeframe's name becomes a span of time. PostgreSQL's own reading of intervals is not used for names: it takes '15m' as
-- minutes, '15mon' as months and '1M' as a minute.
CREATE TABLE IF NOT EXISTS bar_intervals (
    timeframe text PRIMARY KEY,
    width interval NOT NULL UNIQUE CHECK (width > interval '0' AND extract(month FROM width) = 0 AND extract(year FROM width) = 0)
);
COMMENT ON TABLE bar_intervals IS 'The timeframes of bars: the only place where their names become spans of time.';
COMMENT ON COLUMN bar_intervals.timeframe IS '1m 5m 15m 1h 4h 1d; m is a minute, never a month.';
COMMENT ON COLUMN bar_intervals.width IS 'Length of a bar.';
INSERT INTO bar_intervals VALUES
    ('1m', '1 minute'), ('5m', '5 minutes'), ('15m', '15 minutes'), ('1h', '1 hour'), ('4h', '4 hours'), ('1d', '1 day')
ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION bar_interval(timeframe text) RETURNS interval
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    found interval;
BEGIN
    SELECT i.width INTO found FROM bar_intervals i WHERE i.timeframe = bar_interval.timeframe;
    IF found IS NULL THEN
        RAISE EXCEPTION 'timeframe % is not one of %', quote_literal(timeframe),
            (SELECT string_agg(i.timeframe, ' ' ORDER BY i.width) FROM bar_intervals i)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION bar_interval(text) IS 'Length of a timeframe; anything that is not a name of bar_intervals is an error, never a guess.';

-- Bars end where they are named: the bar of 12:05 of 5m holds (12:00, 12:05], as the worker's bars do. Times of venues are whole milliseconds.
CREATE OR REPLACE FUNCTION bar_end(width interval, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT date_bin(width, at - interval '1 millisecond', timestamptz '2000-01-01 00:00:00+00') + width
$$;
COMMENT ON FUNCTION bar_end(interval, timestamptz) IS 'End of the bar that holds a time: bars are (end - width, end], UTC.';

-- What is kept of each time-partitioned table, and how. `perpflow db maintain` acts on it; change it with `perpflow db keep`.
CREATE TABLE IF NOT EXISTS table_policies (
    table_name text PRIMARY KEY,
    step text NOT NULL CHECK (step IN ('day', 'month')),
    chunk interval NOT NULL,
    keep interval CHECK (keep >= interval '1 day'),
    columnstore_after interval NOT NULL,
    segment_by text NOT NULL,
    order_by text NOT NULL,
    reason text NOT NULL
);
COMMENT ON TABLE table_policies IS 'What is kept of each time-partitioned table, and how it is stored.';
COMMENT ON COLUMN table_policies.table_name IS 'Table.';
COMMENT ON COLUMN table_policies.step IS 'Span of a native partition: day or month, UTC.';
COMMENT ON COLUMN table_policies.chunk IS 'Span of a TimescaleDB chunk; a changed value holds for chunks made from then on.';
COMMENT ON COLUMN table_policies.keep IS 'Age (of the newest row) at which a chunk or partition is dropped; null: kept for good.';
COMMENT ON COLUMN table_policies.columnstore_after IS 'Age at which a TimescaleDB chunk becomes columns.';
COMMENT ON COLUMN table_policies.segment_by IS 'Columnstore: rows of one value lie together.';
COMMENT ON COLUMN table_policies.order_by IS 'Columnstore: their order.';
COMMENT ON COLUMN table_policies.reason IS 'Why so: the rate and the size that were measured.';

-- Sizes are those of rows with their indexes in PostgreSQL 18 (tests/bench/bench_table_sizes.py); rates are those of the recorded BTCUSDT perpetual and of
-- the busiest instruments of the specification. A chunk should be a fraction of memory, so that the indexes that are written to stay in it: 25 % of 8 GB.
INSERT INTO table_policies VALUES
    ('agg_trades', 'day', '1 day', NULL, '2 days', 'instrument', 'event_time, agg_id',
     'raw trades are kept for good; 3.5 to 6.6 million rows a day for a large instrument at 0.17 kB: 0.6 to 1.1 GB a day'),
    ('depth', 'day', '1 day', '30 days', '1 day', 'instrument', 'event_time, epoch, last_update_id',
     '20 levels at most 10 times a second at 0.85 kB: 0.73 GB a day and instrument; columns take a tenth'),
    ('quotes', 'day', '1 day', '30 days', '1 day', 'instrument', 'event_time, update_id',
     'tens of best quotes a second at 0.15 kB: 0.4 GB a day and busy instrument'),
    ('liquidations', 'day', '1 day', NULL, '7 days', 'instrument', 'event_time',
     'one a second and instrument at most (the venues sample), hundreds a day as a rule: megabytes a day'),
    ('funding', 'day', '1 day', NULL, '7 days', 'instrument', 'event_time',
     'one a second and instrument at 0.17 kB: 15 MB a day; the history of predicted rates is worth keeping'),
    ('market_indicators', 'day', '1 day', NULL, '7 days', 'instrument, indicator', 'event_time',
     'polled every few minutes: under a megabyte a day and instrument'),
    ('gaps', 'day', '1 day', NULL, '7 days', 'instrument', 'event_time', 'rare; says for good what is missing in the trades'),
    ('progress', 'day', '1 day', '7 days', '1 day', 'author', 'event_time',
     'four marks a second, author and partition at 0.4 kB: 1.6 GB a day over 12 partitions; of use as long as its topic'),
    ('features', 'month', '1 month', '30 days', '7 days', 'instrument', 'event_time',
     '5,760 rows a day and instrument at 0.6 kB: 3.5 MB a day, 100 MB a month; 15 s indicators 30 days (specification)'),
    ('bars', 'month', '1 month', NULL, '7 days', 'instrument, timeframe, source', 'event_time',
     '1,800 rows a day and instrument at 0.2 kB: 11 MB a month'),
    ('scores', 'month', '1 month', '30 days', '7 days', 'strategy_id, instrument', 'event_time',
     '5,760 rows a day and strategy at 2 kB: 12 MB a day, 350 MB a month; 15 s indicators 30 days (specification), bars of scores for good'),
    ('signals', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day'),
    ('worker_progress', 'month', '1 month', '30 days', '7 days', 'author', 'event_time',
     '5,760 marks a day and partition at 0.4 kB: 28 MB a day over 12 partitions'),
    ('orders', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day; the books of the desk are kept for good'),
    ('fills', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day; the books of the desk are kept for good'),
    ('positions', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day; the books of the desk are kept for good'),
    ('trades_closed', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day; the books of the desk are kept for good'),
    ('risk_state', 'month', '1 month', '365 days', '7 days', 'account', 'event_time, sequence',
     '43,200 rows a day and account (a sign of life every two seconds) at 0.5 kB: 22 MB a day; columns take a fiftieth of what repeats'),
    ('risk_commands', 'month', '1 month', NULL, '30 days', 'account', 'event_time', 'rare; who told the guard what is kept for good'),
    ('data_quality', 'month', '1 month', '365 days', '7 days', 'instrument', 'event_time',
     'a score a minute, stream and instrument and its findings: 10 MB a day and instrument'),
    ('dead_letters', 'month', '1 month', '365 days', '30 days', 'service', 'event_time', 'rare; each has the bytes that were refused')
ON CONFLICT DO NOTHING;

-- A native partition, made and attached without owning the table: the sink's role may call this and cannot drop or alter anything.
-- Returns its name, or null where it is there already. With move, rows of its time leave the default partition for it.
CREATE OR REPLACE FUNCTION perpflow_make_partition(parent text, start date, move boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    span text;
    name text;
    low timestamptz;
    high timestamptz;
BEGIN
    SELECT p.step INTO span FROM table_policies p
    WHERE p.table_name = parent AND EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass(quote_ident(parent)) AND c.relkind = 'p');
    IF span IS NULL OR date_trunc(span, start::timestamp) <> start::timestamp THEN
        RAISE EXCEPTION '% has no native partition that starts on %', parent, start USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- The time zone is UTC for this function, so a date is its UTC midnight.
    low := start::timestamp;
    high := start::timestamp + CASE span WHEN 'day' THEN interval '1 day' ELSE interval '1 month' END;
    name := parent || to_char(start, CASE span WHEN 'day' THEN '_YYYY_MM_DD' ELSE '_YYYY_MM' END);
    PERFORM pg_advisory_xact_lock(1885434484, hashtext(parent));  -- makers of one table one after another
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- Made apart and attached: this locks the parent weakly, so readers and writers go on.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS)', name, parent);
    IF move THEN
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE event_time >= %L AND event_time < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                       parent || '_default', low, high, name);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, name, low, high);
    RETURN name;
END
$$;
COMMENT ON FUNCTION perpflow_make_partition(text, date, boolean) IS
    'Make the native partition of a table that starts on a day (UTC); null where it is there. Fails like ATTACH PARTITION does.';
REVOKE ALL ON FUNCTION perpflow_make_partition(text, date, boolean) FROM PUBLIC;

COMMENT ON FUNCTION perpflow_make_table(text, text, interval) IS 'Make a table partitioned by event_time: a hypertable, or native partitions.';

-- Comments of the bookkeeping tables' columns.
COMMENT ON COLUMN sink_offsets.sink IS 'Name of the sink.';
COMMENT ON COLUMN sink_offsets.topic IS 'Plain topic name.';
COMMENT ON COLUMN sink_offsets.partition IS 'Kafka partition.';
COMMENT ON COLUMN sink_offsets.next_offset IS 'Next Kafka offset that is not in the tables.';
COMMENT ON COLUMN sink_offsets.topic_id IS 'Kafka''s id of the topic: created anew, it is another log.';
COMMENT ON COLUMN sink_offsets.updated_at IS 'When it was last moved, clock of the database.';
COMMENT ON COLUMN sink_watermarks.topic IS 'Plain topic name.';
COMMENT ON COLUMN sink_watermarks.partition IS 'Kafka partition.';
COMMENT ON COLUMN sink_watermarks.instrument IS 'Key: the instrument, or the author of marks.';
COMMENT ON COLUMN sink_watermarks.field IS 'The growing field: an id, or a time in ms.';
COMMENT ON COLUMN sink_watermarks.highest_id IS 'Its highest value in the table.';
COMMENT ON COLUMN strategy_registry.strategy_id IS 'Strategy.';
COMMENT ON COLUMN strategy_registry.revision IS 'Revision that holds.';
COMMENT ON COLUMN strategy_registry.instrument IS 'Instrument that it trades.';
COMMENT ON COLUMN strategy_registry.display_name IS 'Name for people.';
COMMENT ON COLUMN strategy_registry.status IS 'running, paused or deprecated.';
COMMENT ON COLUMN strategy_registry.model IS 'Scoring model.';
COMMENT ON COLUMN strategy_registry.config_hash IS 'Hash of what decides: parameters, not names or notes.';
COMMENT ON COLUMN strategy_registry.updated_at IS 'When the revision was written.';
COMMENT ON COLUMN strategy_registry.edited_by IS 'Who wrote it.';
COMMENT ON COLUMN strategy_registry.note IS 'Why, in their words.';
COMMENT ON COLUMN strategy_registry.kafka_partition IS 'Kafka partition of the record.';
COMMENT ON COLUMN strategy_registry.kafka_offset IS 'Kafka offset of the record.';
COMMENT ON COLUMN strategy_audit.strategy_id IS 'Strategy.';
COMMENT ON COLUMN strategy_audit.revision IS 'Revision number of the record.';
COMMENT ON COLUMN strategy_audit.event_time IS 'When it was written.';
COMMENT ON COLUMN strategy_audit.kafka_partition IS 'Kafka partition of the record.';
COMMENT ON COLUMN strategy_audit.kafka_offset IS 'Kafka offset of the record.';
COMMENT ON COLUMN strategy_audit.config_hash IS 'Hash of what decides; null when refused.';
COMMENT ON COLUMN strategy_audit.edited_by IS 'Who wrote it.';
COMMENT ON COLUMN strategy_audit.note IS 'Why, in their words.';
COMMENT ON VIEW instruments_current IS 'The newest record of every instrument.';
COMMENT ON VIEW strategies_current IS 'The whole record of the revision that holds, of every strategy.';
COMMENT ON VIEW positions_current IS 'The newest state of every position.';
COMMENT ON VIEW data_quality_current IS 'The newest score of every stream and of every instrument (stream overall).';
COMMENT ON VIEW risk_state_current IS 'What the guard of each account allows now.';
COMMENT ON VIEW risk_state_changes IS 'Every change of what the guard allows; signs of life left out.';
COMMENT ON VIEW data_quality_venues IS 'Quality of a venue''s streams: mean and worst over its instruments.';

COMMENT ON COLUMN executor_state.executor IS 'Name of the executor.';
COMMENT ON COLUMN executor_state.partition IS 'Kafka partition.';
COMMENT ON COLUMN executor_state.updated_at IS 'When it was last moved, clock of the database.';
COMMENT ON COLUMN executor_outbox.executor IS 'Name of the executor.';
COMMENT ON COLUMN executor_outbox.partition IS 'Kafka partition.';
COMMENT ON COLUMN executor_outbox.seq IS 'Place in the order of writing.';
COMMENT ON COLUMN executor_outbox.topic IS 'Plain topic name.';
COMMENT ON COLUMN executor_outbox.key IS 'Kafka key.';
COMMENT ON COLUMN executor_outbox.event_time IS 'Timestamp of the record.';
COMMENT ON COLUMN executor_outbox.value IS 'Its bytes.';
COMMENT ON TABLE schema_migrations IS 'The migrations that were applied.';
COMMENT ON COLUMN schema_migrations.version IS 'Number of the file.';
COMMENT ON COLUMN schema_migrations.name IS 'Its name.';
COMMENT ON COLUMN schema_migrations.checksum IS 'SHA-256 of the file as it was applied; a file that was changed since is refused.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When.';

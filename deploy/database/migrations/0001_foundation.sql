-- What the tables stand on: TimescaleDB where it can be had, the maker of time-partitioned tables, and the sink's bookkeeping.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        BEGIN
            CREATE EXTENSION IF NOT EXISTS timescaledb;
        EXCEPTION WHEN OTHERS THEN
            -- Not preloaded, or no right to create it: native partitions serve the same names.
            RAISE WARNING 'timescaledb is installed but cannot be used (%), native partitions are used instead', SQLERRM;
        END;
    END IF;
END
$$;

-- Make a table partitioned by event_time: a hypertable, or native range partitions with a default one that takes any time.
-- Native partitions are made by the sink when it needs them and ahead of time by `perpflow db maintain`.
CREATE OR REPLACE FUNCTION perpflow_make_table(name text, columns text, step interval) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        EXECUTE format('CREATE TABLE %I (%s)', name, columns);
        EXECUTE format('SELECT create_hypertable(%L::regclass, ''event_time'', chunk_time_interval => %L::interval,'
                       ' create_default_indexes => FALSE)', name, step);
    ELSE
        EXECUTE format('CREATE TABLE %I (%s) PARTITION BY RANGE (event_time)', name, columns);
        EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', name || '_default', name);
    END IF;
END
$$;

-- The next Kafka offset that a sink has not written, moved in the transaction that writes the rows. topic_id is Kafka's id
-- of the topic: a topic that was deleted and created again is another log and is read from its start.
CREATE TABLE IF NOT EXISTS sink_offsets (
    sink text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    topic_id text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sink, topic, partition)
);
COMMENT ON TABLE sink_offsets IS 'Next Kafka offset that a sink has not written; moved in the transaction of the rows.';

-- The highest aggregate trade id written, per instrument: a trade above it cannot be a repeat and needs no lookup.
CREATE TABLE IF NOT EXISTS sink_watermarks (
    topic text NOT NULL,
    partition integer NOT NULL,
    instrument text NOT NULL,
    highest_id bigint NOT NULL,
    PRIMARY KEY (topic, partition, instrument)
);
COMMENT ON TABLE sink_watermarks IS 'Highest record id written per instrument, so that only back-filled records are looked up.';

-- The executor's journal: what each partition's paper book holds, and what it wrote that Kafka has not acknowledged yet.

CREATE TABLE IF NOT EXISTS executor_state (
    executor text NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    progress_offset bigint NOT NULL,
    offsets jsonb NOT NULL,
    next_seq bigint NOT NULL,
    event_time timestamptz,
    state bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (executor, partition)
);
COMMENT ON TABLE executor_state IS 'Newest state of an executor, per partition; moved in one transaction with the outbox.';
COMMENT ON COLUMN executor_state.epoch IS 'Raised by each owner that takes the partition: a former owner''s transaction no longer finds its own.';
COMMENT ON COLUMN executor_state.progress_offset IS 'Next worker_progress offset that the state does not include.';
COMMENT ON COLUMN executor_state.offsets IS 'Input topic -> offset from which it is read again after a restart.';
COMMENT ON COLUMN executor_state.next_seq IS 'Sequence number of the next outbox row.';
COMMENT ON COLUMN executor_state.event_time IS 'Newest instant included.';
COMMENT ON COLUMN executor_state.state IS 'Positions and feed, JSON.';

CREATE TABLE IF NOT EXISTS executor_outbox (
    executor text NOT NULL,
    partition integer NOT NULL,
    seq bigint NOT NULL,
    topic text NOT NULL,
    key bytea NOT NULL,
    event_time timestamptz NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (executor, partition, seq)
);
COMMENT ON TABLE executor_outbox IS 'Records decided and not yet acknowledged by Kafka; deleted once they are.';

-- Live execution: the journal of an account, what a trade's execution cost, and the comparisons with the venue.

CREATE TABLE IF NOT EXISTS live_accounts (
    account text PRIMARY KEY,
    epoch bigint NOT NULL,
    offsets jsonb NOT NULL,
    next_seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE live_accounts IS 'Who executes for an account, and how far it has read.';
COMMENT ON COLUMN live_accounts.account IS 'Topic prefix and VENUE-mode.';
COMMENT ON COLUMN live_accounts.epoch IS 'Raised by each executor that takes the account: a former one''s transaction no longer finds its own.';
COMMENT ON COLUMN live_accounts.offsets IS 'Partition of signals -> next offset that the journal does not include.';
COMMENT ON COLUMN live_accounts.next_seq IS 'Sequence number of the next outbox row.';
COMMENT ON COLUMN live_accounts.updated_at IS 'Time of the newest transaction.';

CREATE TABLE IF NOT EXISTS live_trades (
    account text NOT NULL,
    trade_key text NOT NULL,
    state jsonb NOT NULL,
    over_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, trade_key)
);
COMMENT ON TABLE live_trades IS 'Newest state of every live trade, its orders and fills; an order is here before it is sent.';
COMMENT ON COLUMN live_trades.account IS 'As in live_accounts.';
COMMENT ON COLUMN live_trades.trade_key IS 'position_id of its records.';
COMMENT ON COLUMN live_trades.state IS 'The trade as JSON, decimals as text.';
COMMENT ON COLUMN live_trades.over_at IS 'When it was over; null while it is not.';
COMMENT ON COLUMN live_trades.updated_at IS 'Time of its newest change.';
CREATE INDEX IF NOT EXISTS live_trades_over ON live_trades (account, over_at);

CREATE TABLE IF NOT EXISTS live_outbox (
    account text NOT NULL,
    seq bigint NOT NULL,
    partition integer NOT NULL,
    topic text NOT NULL,
    key bytea NOT NULL,
    event_time timestamptz NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (account, seq)
);
COMMENT ON TABLE live_outbox IS 'Records decided and not yet acknowledged by Kafka; deleted once they are.';
COMMENT ON COLUMN live_outbox.account IS 'As in live_accounts.';
COMMENT ON COLUMN live_outbox.seq IS 'Order of writing.';
COMMENT ON COLUMN live_outbox.partition IS 'Partition of the topic.';
COMMENT ON COLUMN live_outbox.topic IS 'Plain name of the topic.';
COMMENT ON COLUMN live_outbox.key IS 'Kafka key.';
COMMENT ON COLUMN live_outbox.event_time IS 'Kafka timestamp.';
COMMENT ON COLUMN live_outbox.value IS 'Encoded record.';

SELECT perpflow_make_table('execution_cost_events', $$
    trade_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    mode text NOT NULL,
    direction text NOT NULL,
    exit_reason text NOT NULL,
    notional double precision NOT NULL,
    maker_ratio_entry double precision,
    maker_ratio_tp double precision,
    fees double precision NOT NULL,
    fee_estimated boolean NOT NULL,
    slippage double precision NOT NULL,
    friction_r double precision,
    slippage_bps_entry double precision,
    slippage_bps_exit double precision,
    entry_slices integer NOT NULL,
    entry_attempts integer NOT NULL,
    entry_fill_ratio double precision,
    entry_timeout boolean NOT NULL,
    entry_abandoned text,
    tp_overshoot integer NOT NULL,
    flips integer NOT NULL,
    stops_placed integer NOT NULL,
    signal_to_order_ms bigint,
    order_to_fill_ms bigint,
    order_to_venue_fill_ms bigint,
    protection_gap_ms bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS execution_cost_events_record ON execution_cost_events (trade_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS execution_cost_events_time ON execution_cost_events (instrument, event_time);

SELECT perpflow_make_table('reconciliations', $$
    account text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    mode text NOT NULL,
    cause text NOT NULL,
    state text NOT NULL,
    duration_ms bigint NOT NULL,
    orders integer NOT NULL,
    positions integer NOT NULL,
    wallet double precision,
    findings jsonb NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS reconciliations_record ON reconciliations (account, event_time, kafka_partition);

INSERT INTO table_policies VALUES
    ('execution_cost_events', 'month', '1 month', NULL, '30 days', 'instrument', 'event_time', 'tens a day; the books of the desk are kept for good'),
    ('reconciliations', 'month', '1 month', '365 days', '30 days', 'account', 'event_time',
     'one every five minutes and account, and those after anomalies, at 0.3 kB: 0.1 MB a day')
ON CONFLICT DO NOTHING;

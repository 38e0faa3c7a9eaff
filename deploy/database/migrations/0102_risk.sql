-- The risk guard: what it allowed when, what people told it, and the switch that works without Kafka.

SELECT perpflow_make_table('risk_state', $$
    account text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    sequence bigint NOT NULL,
    guard text NOT NULL,
    state text NOT NULL,
    block_entries boolean NOT NULL,
    close_all boolean NOT NULL,
    close_positions text[] NOT NULL,
    allow_maker boolean NOT NULL,
    allow_twap boolean NOT NULL,
    size_multiple double precision NOT NULL,
    reasons jsonb NOT NULL,
    memory text NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS risk_state_record ON risk_state (account, sequence, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS risk_state_time ON risk_state (account, event_time);

SELECT perpflow_make_table('risk_commands', $$
    command_id text NOT NULL,
    account text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    command text NOT NULL,
    by text NOT NULL,
    reason text NOT NULL,
    acknowledge_loss boolean NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS risk_commands_record ON risk_commands (command_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS risk_commands_time ON risk_commands (account, event_time);

-- What the guard allows now, and every change of it (the same state is written again every two seconds as a sign of life).
CREATE OR REPLACE VIEW risk_state_current AS
SELECT DISTINCT ON (account) account, event_time, sequence, guard, state, block_entries, close_all, close_positions, allow_maker, allow_twap,
       size_multiple, reasons
FROM risk_state ORDER BY account, sequence DESC;

CREATE OR REPLACE VIEW risk_state_changes AS
SELECT account, event_time, sequence, state, block_entries, close_all, rules, reasons
FROM (
    SELECT s.*, lag(state) OVER w AS state_before, lag(block_entries) OVER w AS block_before, lag(rules) OVER w AS rules_before
    FROM (SELECT r.*, (SELECT coalesce(string_agg(one ->> 'rule', ', ' ORDER BY one ->> 'rule'), '') FROM jsonb_array_elements(reasons) AS one) AS rules
          FROM risk_state AS r) AS s
    WINDOW w AS (PARTITION BY account ORDER BY sequence)
) AS states
WHERE state IS DISTINCT FROM state_before OR block_entries IS DISTINCT FROM block_before OR rules IS DISTINCT FROM rules_before;

-- The switch: executors read it in the transaction that journals an entry, the guard every round. A row that is not lifted blocks entries.
CREATE TABLE IF NOT EXISTS risk_switch (
    command_id text PRIMARY KEY,
    account text NOT NULL,
    command text NOT NULL CHECK (command IN ('halt', 'block_new', 'close_all')),
    by text NOT NULL,
    reason text NOT NULL,
    given_at timestamptz NOT NULL,
    lifted_at timestamptz,
    lifted_by text
);
CREATE INDEX IF NOT EXISTS risk_switch_on ON risk_switch (account) WHERE lifted_at IS NULL;
COMMENT ON TABLE risk_switch IS 'Commands to the risk guard that hold until they are lifted; the kill switch for when Kafka is down.';
COMMENT ON COLUMN risk_switch.command_id IS 'Id, the same as in the topic risk_commands.';
COMMENT ON COLUMN risk_switch.account IS 'VENUE-mode, or * for every account.';
COMMENT ON COLUMN risk_switch.command IS 'halt, block_new or close_all.';
COMMENT ON COLUMN risk_switch.by IS 'Who gave it.';
COMMENT ON COLUMN risk_switch.reason IS 'Why.';
COMMENT ON COLUMN risk_switch.given_at IS 'When it was given.';
COMMENT ON COLUMN risk_switch.lifted_at IS 'When it was lifted; null while it holds.';
COMMENT ON COLUMN risk_switch.lifted_by IS 'Who lifted it.';

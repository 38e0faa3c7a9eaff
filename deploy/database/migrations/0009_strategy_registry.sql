-- The strategy registry: what holds now and the whole audit trail, as the readers of the log decide it (sinks/timescale/strategy_registry.py).

ALTER TABLE strategies ADD COLUMN IF NOT EXISTS effective_time timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE strategies ADD COLUMN IF NOT EXISTS edited_by text NOT NULL DEFAULT '';
ALTER TABLE strategies ADD COLUMN IF NOT EXISTS note text;

-- A refused record leaves its revision number free for the next one: the time of the edit belongs to the identity.
DROP INDEX IF EXISTS strategies_record;
CREATE UNIQUE INDEX strategies_record ON strategies (strategy_id, revision, event_time, kafka_partition);

CREATE TABLE IF NOT EXISTS strategy_registry (
    strategy_id text PRIMARY KEY,
    revision integer NOT NULL,
    instrument text NOT NULL,
    display_name text NOT NULL,
    status text NOT NULL,
    model text NOT NULL,
    config_hash text NOT NULL,
    config jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deprecated_at timestamptz,
    effective_time timestamptz,
    edited_by text NOT NULL,
    note text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS strategy_registry_place ON strategy_registry (kafka_partition, instrument);
COMMENT ON TABLE strategy_registry IS 'The newest revision of every strategy; nothing is deleted from it.';
COMMENT ON COLUMN strategy_registry.config IS 'The whole record of the strategies topic.';
COMMENT ON COLUMN strategy_registry.created_at IS 'When the oldest revision that the log had was written.';
COMMENT ON COLUMN strategy_registry.deprecated_at IS 'When it was deprecated; null when it is not.';
COMMENT ON COLUMN strategy_registry.effective_time IS 'First instant that may use this revision, event time of the market; null: the next one after the record.';

CREATE TABLE IF NOT EXISTS strategy_audit (
    strategy_id text NOT NULL,
    revision integer NOT NULL,
    event_time timestamptz NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    accepted boolean NOT NULL,
    action text NOT NULL,
    changed jsonb NOT NULL,
    reason text,
    config_hash text,
    edited_by text NOT NULL,
    note text,
    PRIMARY KEY (strategy_id, revision, event_time, kafka_partition)
);
COMMENT ON TABLE strategy_audit IS 'Every revision ever written, who wrote it, when, what it changed and why; refused records too.';
COMMENT ON COLUMN strategy_audit.accepted IS 'False: the record broke a rule or came after another of its number; what held before still holds.';
COMMENT ON COLUMN strategy_audit.action IS 'create, edit, pause, resume, deprecate, restore or refused.';
COMMENT ON COLUMN strategy_audit.changed IS 'Field -> [before, after]; of a first revision every field.';
COMMENT ON COLUMN strategy_audit.reason IS 'Why it was refused: the field and the rule.';

-- Whole rows of what holds; before, this was the newest record of each strategy, whether it held or not.
CREATE OR REPLACE VIEW strategies_current AS
SELECT s.* FROM strategies s JOIN strategy_registry r USING (strategy_id, revision, kafka_partition, kafka_offset);

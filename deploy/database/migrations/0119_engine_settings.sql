-- Settings of the engines: every revision as it is in the topic, and which one each instant used.

CREATE TABLE IF NOT EXISTS engine_settings (
    settings_id text NOT NULL,
    engine text NOT NULL,
    instrument text NOT NULL,
    revision integer NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    effective_time timestamptz NOT NULL,
    "values" jsonb NOT NULL,
    edited_by text NOT NULL,
    note text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS engine_settings_record ON engine_settings (settings_id, revision, event_time, kafka_partition);

-- A revision of a whole engine has a copy in every partition: here it stands once.
CREATE OR REPLACE VIEW engine_settings_changes AS
SELECT DISTINCT ON (engine, revision, event_time, settings_id)
    engine, revision, instrument, event_time, effective_time, "values", edited_by, note
FROM engine_settings
ORDER BY engine, revision, event_time, settings_id, kafka_partition;
COMMENT ON VIEW engine_settings_changes IS 'Revisions of the engines'' settings, one row each, refused records among them (dead_letters says why).';

ALTER TABLE worker_progress ADD COLUMN IF NOT EXISTS settings_revision integer NOT NULL DEFAULT 0;

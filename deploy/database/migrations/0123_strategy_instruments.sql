-- Further instruments of a strategy, beside its main one. max_positions counts over all of them.

ALTER TABLE strategies ADD COLUMN IF NOT EXISTS instruments text[] NOT NULL DEFAULT '{}';

CREATE OR REPLACE VIEW strategy_instruments AS
SELECT r.strategy_id, r.display_name, r.status, r.config, i.instrument
FROM strategy_registry r
CROSS JOIN LATERAL (
    SELECT r.instrument UNION ALL SELECT jsonb_array_elements_text(coalesce(r.config -> 'instruments', '[]'))
) i (instrument);
COMMENT ON VIEW strategy_instruments IS 'The newest revision of every strategy, a row for each of its instruments.';
COMMENT ON COLUMN strategy_instruments.strategy_id IS 'Strategy.';
COMMENT ON COLUMN strategy_instruments.display_name IS 'Its name for people.';
COMMENT ON COLUMN strategy_instruments.status IS 'running, paused or deprecated.';
COMMENT ON COLUMN strategy_instruments.config IS 'The whole record of the strategies topic.';
COMMENT ON COLUMN strategy_instruments.instrument IS 'One of its instruments.';

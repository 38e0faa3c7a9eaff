-- The correlation gate of V5.0 strategies with several instruments (S2 6). The defaults are those of the topic.

ALTER TABLE strategies ADD COLUMN IF NOT EXISTS gate_correlation_enabled boolean NOT NULL DEFAULT true;
ALTER TABLE strategies ADD COLUMN IF NOT EXISTS correlation_max double precision NOT NULL DEFAULT 0.8;
ALTER TABLE strategies ADD COLUMN IF NOT EXISTS correlation_on_missing text NOT NULL DEFAULT 'block';

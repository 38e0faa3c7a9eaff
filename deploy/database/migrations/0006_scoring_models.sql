-- What the scoring models beside the factory read, and what explains a score by itself.

ALTER TABLE features ADD COLUMN IF NOT EXISTS volume_1m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS slope_1h double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS atr_percentile_low double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS funding_rate_max double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidated_long_5m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidated_short_5m double precision;

ALTER TABLE scores ADD COLUMN IF NOT EXISTS lean text NOT NULL DEFAULT 'NONE';
ALTER TABLE scores ADD COLUMN IF NOT EXISTS ungated_score double precision NOT NULL DEFAULT 0;
ALTER TABLE scores ADD COLUMN IF NOT EXISTS verdict text NOT NULL DEFAULT '';
ALTER TABLE scores ADD COLUMN IF NOT EXISTS entry_score double precision;
ALTER TABLE scores ADD COLUMN IF NOT EXISTS flip_threshold double precision;
ALTER TABLE scores ADD COLUMN IF NOT EXISTS inputs jsonb NOT NULL DEFAULT '{}';

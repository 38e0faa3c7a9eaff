-- What the scoring models beside the factory read, and what explains a score by itself.

ALTER TABLE features ADD COLUMN IF NOT EXISTS volume_1m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS slope_1h double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS atr_percentile_low double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS funding_rate_max double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidated_long_5m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidated_short_5m double precision;

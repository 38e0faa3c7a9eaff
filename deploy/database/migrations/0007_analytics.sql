-- Live analytics beyond the seeds (stream_apps/core/analytics); null in rows written before.

ALTER TABLE features ADD COLUMN IF NOT EXISTS microprice double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS weighted_mid double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS ofi_1m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS ofi_5m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS vpin double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS vpin_bulk double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS vpin_bucket_volume double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS kyle_lambda double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS realised_volatility_5m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS realised_volatility_1h double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS realised_volatility_24h double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidation_pressure double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS liquidation_cap_ms double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS funding_zscore double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS funding_zscore_estimated double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS basis double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS spot_basis double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS cvd_divergence_1m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS cvd_divergence_15m double precision;
ALTER TABLE features ADD COLUMN IF NOT EXISTS cvd_divergence_1h double precision;

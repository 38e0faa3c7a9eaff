-- The money at risk of a position: 1R times the tier multiple. Every R figure divides by it (D14, D19).

ALTER TABLE positions ADD COLUMN IF NOT EXISTS risk_multiple double precision;

CREATE OR REPLACE VIEW positions_current AS
SELECT DISTINCT ON (position_id) * FROM positions ORDER BY position_id, event_time DESC, kafka_offset DESC;

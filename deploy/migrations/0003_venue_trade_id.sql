-- The venue's own trade id, where its ids are not consecutive numbers (Bybit and others); null elsewhere.

ALTER TABLE agg_trades ADD COLUMN IF NOT EXISTS venue_trade_id text;

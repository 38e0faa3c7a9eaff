-- The venue's own trade id, where its ids are not consecutive numbers (Bybit and others); null elsewhere.
ALTER TABLE agg_trades ADD COLUMN IF NOT EXISTS venue_trade_id text;

-- Not trades only: of every topic whose records grow in a field (ids, times) the highest written is kept, by field.
ALTER TABLE sink_watermarks ADD COLUMN IF NOT EXISTS field text NOT NULL DEFAULT 'agg_id';
ALTER TABLE sink_watermarks DROP CONSTRAINT IF EXISTS sink_watermarks_pkey;
ALTER TABLE sink_watermarks ADD PRIMARY KEY (topic, partition, instrument, field);
COMMENT ON TABLE sink_watermarks IS
    'Highest value of a growing field written per instrument (or other key), so that only what is not above it is looked up for repeats.';

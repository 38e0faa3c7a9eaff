-- Bars of the venue (imported) stand beside our own: who made a bar belongs to its identity.

ALTER TABLE bars ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT 'trades';
DROP INDEX IF EXISTS bars_record;
CREATE UNIQUE INDEX bars_record ON bars (instrument, timeframe, source, event_time, kafka_partition);

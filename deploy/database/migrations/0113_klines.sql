-- The venue's own bars: what the worker's ATR begins with, until there are bars of our own trades.

SELECT perpflow_make_table('klines', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    timeframe text NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision NOT NULL,
    taker_buy_volume double precision,
    trades bigint,
    backfilled boolean NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE UNIQUE INDEX IF NOT EXISTS klines_record ON klines (instrument, timeframe, event_time, kafka_partition);
CREATE INDEX IF NOT EXISTS klines_time ON klines (instrument, event_time);

INSERT INTO table_policies VALUES
    ('klines', 'day', '1 day', NULL, '7 days', 'instrument, timeframe', 'event_time',
     'a day and a quarter of 5-minute bars of each instrument once, on a cold start, and what is imported: 0.15 kB each')
ON CONFLICT DO NOTHING;

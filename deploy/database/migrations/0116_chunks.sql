-- Chunks by what was measured, in place of the estimates of 0110, 0113 and 0114. A chunk that was changed by hand is left as it is.
--
-- Where each figure comes from (m measured, e extrapolated; deploy/SIZING.md has the table):
-- * Bytes a row, with its indexes and of the indexes alone: m, within a tenth from run to run, `perpflow bench --only sizes` on PostgreSQL 18. Rows of agg_trades, depth, quotes, progress, features,
--   bars, scores, signals, worker_progress, orders, fills, positions, trades_closed and gaps are those of the recordings and of what worker and paper executor make
--   of them; of the other tables no recording has a row, so theirs are random records of the schema.
-- * Rows a day of quotes, depth and agg_trades: e, from the shares of six captured minutes of BTCUSDT (8 August 2024: 16.6, 1.6 and 2.6 million a day at that pace) in
--   1,000 messages a second, which is what SIZING.md has for 4 instruments; depth no more than its 10 a second.
-- * What comes by the clock is counted by it: features and scores every 15 s, bars by timeframe, marks every 250 ms, funding every second, ...: m in a replay.
-- * Signals, orders, fills, trades: m for one strategy on a day of LTCUSDT (247, 211, 52, 22 a day); a thousand a day is reckoned with.
--
-- The rule: as long as may be, so that there are few chunks, but
-- * the indexes of one chunk of every table fit a quarter of the database's memory, here 8 GB, for indexes that are written to must stay there;
-- * a quarter of what is kept at most, for a chunk is dropped as a whole; and no longer than it waits to become columns.
-- Larger deployments: `perpflow db keep TABLE --chunk INTERVAL`, by SIZING.md's table. Native partitions stay a day or a month (`step`): their
-- names say which, and plain PostgreSQL is for the smaller deployments.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM (VALUES
        ('quotes', interval '1 day', interval '6 hours'),
        ('funding', interval '1 day', interval '7 days'),
        ('liquidations', interval '1 day', interval '7 days'),
        ('market_indicators', interval '1 day', interval '7 days'),
        ('gaps', interval '1 day', interval '7 days'),
        ('klines', interval '1 day', interval '7 days'),
        ('features', interval '1 month', interval '7 days'),
        ('scores', interval '1 month', interval '7 days'),
        ('bars', interval '1 month', interval '7 days'),
        ('worker_progress', interval '1 month', interval '7 days'),
        ('data_quality', interval '1 month', interval '7 days'),
        ('risk_state', interval '1 month', interval '7 days')
    ) AS changed (name, before, after) LOOP
        UPDATE table_policies SET chunk = one.after WHERE table_name = one.name AND chunk = one.before;
    END LOOP;
    FOR one IN SELECT * FROM (VALUES
        ('agg_trades', '193 bytes a row, 29 of them indexes; 2.6 million rows a day at the pace of the captured BTCUSDT, 0.1 million of LTCUSDT spot; raw trades are kept for good'),
        ('depth', '1,013 bytes a row of 20 levels, 67 of them indexes; 10 a second and instrument at most: 0.9 GB a day; columns take a tenth'),
        ('quotes', '192 bytes a row, 32 of them indexes; 16.6 million rows (3.2 GB) a day at the pace of the captured BTCUSDT: four fifths of all messages'),
        ('progress', '215 bytes a row; four marks a second, author and partition: 0.9 GB a day over 12 partitions; of use as long as its topic'),
        ('features', '697 bytes a row; 5,760 rows a day and instrument: 4 MB; 15 s indicators 30 days (specification)'),
        ('bars', '274 bytes a row; 1,855 rows a day and instrument: 0.5 MB'),
        ('scores', '2,177 bytes a row; 5,760 rows a day and strategy: 12.5 MB; 15 s indicators 30 days (specification), bars of scores for good'),
        ('worker_progress', '238 bytes a row; 5,760 marks a day and partition: 16 MB a day over 12 partitions'),
        ('signals', '592 bytes a row; 247 a day of one strategy on LTCUSDT'),
        ('orders', '570 bytes a row; 211 a day of one strategy on LTCUSDT; the books of the desk are kept for good'),
        ('fills', '608 bytes a row; 52 a day of one strategy on LTCUSDT; the books of the desk are kept for good'),
        ('positions', '605 bytes a row; 75 a day of one strategy on LTCUSDT; the books of the desk are kept for good'),
        ('trades_closed', '749 bytes a row; 22 a day of one strategy on LTCUSDT; the books of the desk are kept for good'),
        ('gaps', '234 bytes a row; 15 a day in LTCUSDTs recording; says for good what is missing in the trades')
    ) AS measured (name, why) LOOP
        UPDATE table_policies SET reason = one.why WHERE table_name = one.name;
    END LOOP;
END
$$;

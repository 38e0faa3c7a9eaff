-- What charts read: candles without holes, and bars with funding and liquidations beside them.

-- Candles of an instrument: one for every bar end in (since, until], from the first known one on.
--   source 'trades' or 'venue'  the table bars has it: our worker's, else one imported from the venue
--          '1m'                 it has not (native candles are sparse): built from the minutes, of the trades or else of the table bars
--          'quiet'              nothing traded: the last close again, volume zero
--          'hole'               nothing is there and the gaps say that trades are missing: prices and volume are null
CREATE OR REPLACE FUNCTION candles(of_instrument text, of_timeframe text, since timestamptz, until timestamptz)
RETURNS TABLE (event_time timestamptz, open double precision, high double precision, low double precision, close double precision,
               volume double precision, cvd double precision, trades bigint, source text)
LANGUAGE plpgsql STABLE ROWS 1000 AS $$
#variable_conflict use_column
DECLARE
    width interval := bar_interval(of_timeframe);
    first_end timestamptz := bar_end(width, since + interval '1 millisecond');
    last_end timestamptz := date_bin(width, until, timestamptz '2000-01-01 00:00:00+00');
BEGIN
    RETURN QUERY
    WITH ends AS (
        SELECT e AS event_time FROM generate_series(first_end, last_end, width) e
    ), native AS (
        SELECT DISTINCT ON (b.event_time) b.event_time, b.open, b.high, b.low, b.close, b.volume, b.cvd, b.trades, b.source
        FROM bars b WHERE b.instrument = of_instrument AND b.timeframe = of_timeframe AND b.event_time > since AND b.event_time <= last_end
        ORDER BY b.event_time, b.source <> 'trades'
    ), missing AS (
        SELECT e.event_time FROM ends e WHERE NOT EXISTS (SELECT FROM native n WHERE n.event_time = e.event_time)
    ), span AS (
        SELECT min(m.event_time) - width AS low, max(m.event_time) AS high FROM missing m
    ), traded AS (
        SELECT v.event_time, v.open, v.high, v.low, v.close, v.volume, v.cvd, v.trades
        FROM market_cvd_1m v WHERE v.instrument = of_instrument
            AND v.event_time > (SELECT s.low FROM span s) AND v.event_time <= (SELECT s.high FROM span s)
    ), stored AS (
        SELECT DISTINCT ON (b.event_time) b.event_time, b.open, b.high, b.low, b.close, b.volume::numeric, b.cvd::numeric, b.trades
        FROM bars b WHERE b.instrument = of_instrument AND b.timeframe = '1m' AND b.event_time > (SELECT s.low FROM span s)
            AND b.event_time <= (SELECT s.high FROM span s) AND b.trades > 0
        ORDER BY b.event_time, b.source <> 'trades'
    ), minutes AS (
        SELECT t.* FROM traded t
        UNION ALL SELECT s.* FROM stored s WHERE NOT EXISTS (SELECT FROM traded t WHERE t.event_time = s.event_time)
    ), built AS (
        SELECT bar_end(width, m.event_time) AS event_time, (array_agg(m.open ORDER BY m.event_time))[1] AS open, max(m.high) AS high, min(m.low) AS low,
               (array_agg(m.close ORDER BY m.event_time DESC))[1] AS close, sum(m.volume)::double precision AS volume,
               sum(m.cvd)::double precision AS cvd, sum(m.trades)::bigint AS trades
        FROM minutes m GROUP BY 1
    ), known AS (
        SELECT n.* FROM native n
        UNION ALL SELECT b.*, '1m' FROM built b JOIN missing m USING (event_time)
    ), run AS (
        -- Every end belongs to the run of the last known candle before it.
        SELECT e.event_time, k.open, k.high, k.low, k.close, k.volume, k.cvd, k.trades, k.source, count(k.close) OVER (ORDER BY e.event_time) AS run
        FROM ends e LEFT JOIN known k USING (event_time)
    ), filled AS (
        SELECT r.*, first_value(r.close) OVER (PARTITION BY r.run ORDER BY r.event_time) AS last_close,
               r.source IS NULL AND EXISTS (
                   SELECT FROM gaps g WHERE g.instrument = of_instrument AND g.stream = 'agg_trades' AND NOT g.repaired
                       AND g.from_time < r.event_time AND g.to_time > r.event_time - width) AS hole
        FROM run r WHERE r.run > 0
    )
    SELECT f.event_time,
           CASE WHEN f.source IS NOT NULL THEN f.open WHEN NOT f.hole THEN f.last_close END,
           CASE WHEN f.source IS NOT NULL THEN f.high WHEN NOT f.hole THEN f.last_close END,
           CASE WHEN f.source IS NOT NULL THEN f.low WHEN NOT f.hole THEN f.last_close END,
           CASE WHEN f.source IS NOT NULL THEN f.close WHEN NOT f.hole THEN f.last_close END,
           CASE WHEN f.source IS NOT NULL THEN f.volume WHEN NOT f.hole THEN 0 END,
           CASE WHEN f.source IS NOT NULL THEN f.cvd WHEN NOT f.hole THEN 0 END,
           CASE WHEN f.source IS NOT NULL THEN f.trades WHEN NOT f.hole THEN 0 END,
           coalesce(f.source, CASE WHEN f.hole THEN 'hole' ELSE 'quiet' END)
    FROM filled f ORDER BY f.event_time;
END
$$;
COMMENT ON FUNCTION candles(text, text, timestamptz, timestamptz) IS
    'Candles of an instrument and timeframe without holes; source says where each comes from. Sparse native candles are built from minutes.';

-- Price, CVD, funding and liquidations of a bar in one row; what has no record in the bar is null.
DO $$
DECLARE
    frame record;
    one record;
BEGIN
    FOR frame IN SELECT timeframe FROM bar_intervals LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %I AS SELECT c.*, f.mark_price, f.index_price, f.estimated_rate, f.settled_rate,'
                       ' l.long_value AS liquidated_long_value, l.short_value AS liquidated_short_value'
                       ' FROM %I c LEFT JOIN %I f USING (instrument, event_time) LEFT JOIN %I l USING (instrument, event_time)',
                       'market_' || frame.timeframe, 'market_cvd_' || frame.timeframe, 'market_funding_' || frame.timeframe,
                       'market_liquidations_' || frame.timeframe);
        EXECUTE format('COMMENT ON VIEW %I IS %L', 'market_' || frame.timeframe,
                       'Price, CVD, funding and liquidations of each bar of ' || frame.timeframe || ' in which something traded.');
        FOR one IN
            SELECT a.attname AS name, coalesce(
                (SELECT c ->> 'doc' FROM bar_aggregates b, jsonb_array_elements(b.columns) c
                 WHERE b.timeframe = frame.timeframe AND b.family IN ('market_cvd', 'market_funding', 'market_liquidations')
                     AND c ->> 'name' = replace(a.attname, 'liquidated_', '') ORDER BY b.family LIMIT 1),
                CASE a.attname WHEN 'event_time' THEN 'End of the bar, UTC.' ELSE 'What the bar is of.' END) AS doc
            FROM pg_attribute a WHERE a.attrelid = to_regclass(quote_ident('market_' || frame.timeframe)) AND a.attnum > 0
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', 'market_' || frame.timeframe, one.name, one.doc);
        END LOOP;
    END LOOP;
END
$$;

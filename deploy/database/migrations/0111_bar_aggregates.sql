-- Bars of trades (with CVD), funding, liquidations and scores in every timeframe: each built from the next finer one, and always up to date.
--
-- On TimescaleDB they are continuous aggregates with real time on. On plain PostgreSQL the same names are views: what perpflow_refresh_bars has built,
-- and what came since computed on the spot. What the sink writes into a span that is built already it notes in bar_changes, in the transaction of the
-- rows, so that the next refresh builds that span anew: nothing that comes late is left out, and nothing is built of rows that were not committed.
--
--   <family>_<timeframe>           what to read; event_time is the bar's end, (end - width, end], as in the table bars
--   <family>_<timeframe>_buckets   what is built (a continuous aggregate, or a table)

CREATE TABLE IF NOT EXISTS bar_sources (
    source text PRIMARY KEY,
    family text NOT NULL UNIQUE,
    built_until timestamptz,
    kept_from timestamptz
);
COMMENT ON TABLE bar_sources IS 'What bars are built from, and how far they are built. Empty where continuous aggregates do it.';
COMMENT ON COLUMN bar_sources.source IS 'Table that is read.';
COMMENT ON COLUMN bar_sources.family IS 'First part of the names of its bars.';
COMMENT ON COLUMN bar_sources.built_until IS 'All bars that end here or before are built; null: none yet.';
COMMENT ON COLUMN bar_sources.kept_from IS 'Rows before were dropped by retention: their bars stay as they are; null: nothing was dropped.';

CREATE TABLE IF NOT EXISTS bar_changes (
    source text NOT NULL,
    slot bigint NOT NULL
);
COMMENT ON TABLE bar_changes IS 'Spans of five minutes into which rows were written since they were last built. Appended to by the sink.';
COMMENT ON COLUMN bar_changes.source IS 'Table that was written.';
COMMENT ON COLUMN bar_changes.slot IS 'The span (slot x 5 min, (slot + 1) x 5 min], counted from 1970.';

CREATE TABLE IF NOT EXISTS bar_aggregates (
    family text NOT NULL,
    timeframe text NOT NULL REFERENCES bar_intervals,
    source text NOT NULL,
    child text NOT NULL,
    keys text[] NOT NULL,
    columns jsonb NOT NULL,
    PRIMARY KEY (family, timeframe)
);
COMMENT ON TABLE bar_aggregates IS 'How each kind of bar is built.';
COMMENT ON COLUMN bar_aggregates.family IS 'First part of its name.';
COMMENT ON COLUMN bar_aggregates.timeframe IS 'Second part.';
COMMENT ON COLUMN bar_aggregates.source IS 'Table of the records.';
COMMENT ON COLUMN bar_aggregates.child IS 'What it is built from: the source, or the next finer bars.';
COMMENT ON COLUMN bar_aggregates.keys IS 'What a bar is of.';
COMMENT ON COLUMN bar_aggregates.columns IS 'Name, type, how it is computed, and meaning of each column.';

CREATE OR REPLACE FUNCTION perpflow_built_until(source text, width interval) RETURNS timestamptz
LANGUAGE sql STABLE STRICT AS $$
    SELECT CASE WHEN isfinite(s.built_until) THEN date_bin(width, s.built_until, timestamptz '2000-01-01 00:00:00+00') ELSE '-infinity' END
    FROM bar_sources s WHERE s.source = perpflow_built_until.source
$$;
COMMENT ON FUNCTION perpflow_built_until(text, interval) IS 'Bars of a width that end here or before are read as built; later ones are computed from finer ones.';

-- Continuous aggregates belong to TimescaleDB's community edition; with the Apache one hypertables serve, and bars are built as on plain PostgreSQL.
CREATE OR REPLACE FUNCTION perpflow_has_continuous_aggregates() RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AND current_setting('timescaledb.license', true) = 'timescale'
$$;
COMMENT ON FUNCTION perpflow_has_continuous_aggregates() IS 'Whether TimescaleDB with its community features is in use.';

-- Make the bars of one family. columns: [{name, type, from, roll, doc}], "from" over the source's rows, "roll" over finer bars, whose time is $time.
CREATE OR REPLACE FUNCTION perpflow_make_bars(family text, source text, keys text[], columns jsonb, doc text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    frame record;
    child text := source;
    name text;
    finer boolean := false;
    key_list text := (SELECT string_agg(quote_ident(k), ', ') FROM unnest(keys) k);
    outs text := (SELECT string_agg(quote_ident(c ->> 'name'), ', ' ORDER BY n) FROM jsonb_array_elements(columns) WITH ORDINALITY a(c, n));
    defs text := (SELECT string_agg(format('%I %s', c ->> 'name', c ->> 'type'), ', ' ORDER BY n)
                  FROM jsonb_array_elements(columns) WITH ORDINALITY a(c, n));
    key_defs text := (SELECT string_agg(quote_ident(k) || ' text NOT NULL', ', ') FROM unnest(keys) k);
    exprs text;
    column_doc record;
BEGIN
    IF NOT perpflow_has_continuous_aggregates() THEN
        INSERT INTO bar_sources (source, family) VALUES (perpflow_make_bars.source, perpflow_make_bars.family) ON CONFLICT DO NOTHING;
    END IF;
    FOR frame IN SELECT i.timeframe, i.width FROM bar_intervals i ORDER BY i.width LOOP
        name := family || '_' || frame.timeframe;
        SELECT string_agg(format('(%s)::%s AS %I', CASE WHEN finer THEN c ->> 'roll' ELSE c ->> 'from' END, c ->> 'type', c ->> 'name'), ', ' ORDER BY n)
        INTO exprs FROM jsonb_array_elements(columns) WITH ORDINALITY a(c, n);
        INSERT INTO bar_aggregates VALUES (perpflow_make_bars.family, frame.timeframe, perpflow_make_bars.source, child, perpflow_make_bars.keys,
                                           perpflow_make_bars.columns)
        ON CONFLICT ON CONSTRAINT bar_aggregates_pkey DO UPDATE SET child = EXCLUDED.child, columns = EXCLUDED.columns;
        IF to_regclass(quote_ident(name)) IS NULL AND perpflow_has_continuous_aggregates() THEN
            -- The origin is a millisecond late: buckets are [start + 1 ms, ...), which for whole milliseconds is (start, end].
            EXECUTE format('CREATE MATERIALIZED VIEW %I WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS SELECT %s,'
                           ' time_bucket(interval %L, %s, origin => timestamptz %L) AS bucket, %s FROM %I GROUP BY %s WITH NO DATA',
                           name || '_buckets', key_list, frame.width, CASE WHEN finer THEN 'bucket' ELSE 'event_time' END,
                           '2000-01-01 00:00:00.001+00', replace(exprs, '$time', 'bucket'), CASE WHEN finer THEN child || '_buckets' ELSE child END,
                           (SELECT string_agg(n::text, ', ') FROM generate_series(1, cardinality(keys) + 1) n));
            EXECUTE format('CREATE VIEW %I AS SELECT %s, bucket - interval ''1 millisecond'' + interval %L AS event_time, %s FROM %I',
                           name, key_list, frame.width, outs, name || '_buckets');
        ELSIF to_regclass(quote_ident(name)) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (%s, event_time timestamptz NOT NULL, %s, PRIMARY KEY (%s, event_time))',
                           name || '_buckets', key_defs, defs, key_list);
            EXECUTE format('CREATE INDEX %I ON %I (event_time)', name || '_buckets_time', name || '_buckets');
            EXECUTE format('CREATE VIEW %1$I AS SELECT %2$s, event_time, %3$s FROM %4$I'
                           ' WHERE event_time <= (SELECT perpflow_built_until(%5$L, interval %6$L))'
                           ' UNION ALL SELECT %2$s, bar_end(interval %6$L, event_time), %7$s FROM %8$I'
                           ' WHERE event_time > (SELECT perpflow_built_until(%5$L, interval %6$L)) GROUP BY %2$s, bar_end(interval %6$L, event_time)',
                           name, key_list, outs, name || '_buckets', source, frame.width, replace(exprs, '$time', 'event_time'), child);
        END IF;
        EXECUTE format('COMMENT ON VIEW %I IS %L', name, doc || ' Bars of ' || frame.timeframe || ', always up to date.');
        IF perpflow_has_continuous_aggregates() THEN
            EXECUTE format('COMMENT ON VIEW %I IS %L', name || '_buckets', 'What is built of ' || name || '; read that one.');
        ELSE
            EXECUTE format('COMMENT ON TABLE %I IS %L', name || '_buckets', 'What is built of ' || name || '; read that one.');
        END IF;
        FOR column_doc IN
            SELECT c ->> 'name' AS name, c ->> 'doc' AS doc FROM jsonb_array_elements(columns) c
            UNION ALL SELECT 'event_time', 'End of the bar: (end - ' || frame.timeframe || ', end], UTC.'
            UNION ALL SELECT k, 'What the bar is of.' FROM unnest(keys) k
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', name, column_doc.name, column_doc.doc);
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', name || '_buckets',
                           CASE WHEN column_doc.name = 'event_time' AND perpflow_has_continuous_aggregates() THEN 'bucket' ELSE column_doc.name END,
                           column_doc.doc);
        END LOOP;
        child := name;
        finer := true;
    END LOOP;
END
$$;
COMMENT ON FUNCTION perpflow_make_bars(text, text, text[], jsonb, text) IS 'Make the bars of one family in every timeframe; harmless to repeat.';

-- Sums are numeric: exact whatever the order, so every way of computing them gives the same. A venue's decimal has 15 digits at most.
SELECT perpflow_make_bars('market_cvd', 'agg_trades', '{instrument}', '[
    {"name": "open", "type": "double precision", "doc": "First price.",
     "from": "(array_agg(price ORDER BY event_time, agg_id))[1]", "roll": "(array_agg(open ORDER BY $time))[1]"},
    {"name": "high", "type": "double precision", "doc": "Highest price.", "from": "max(price)", "roll": "max(high)"},
    {"name": "low", "type": "double precision", "doc": "Lowest price.", "from": "min(price)", "roll": "min(low)"},
    {"name": "close", "type": "double precision", "doc": "Last price.",
     "from": "(array_agg(price ORDER BY event_time DESC, agg_id DESC))[1]", "roll": "(array_agg(close ORDER BY $time DESC))[1]"},
    {"name": "volume", "type": "numeric", "doc": "Base quantity traded, exact.", "from": "sum(quantity::numeric)", "roll": "sum(volume)"},
    {"name": "turnover", "type": "numeric", "doc": "Quote quantity traded (price x quantity), exact.",
     "from": "sum(price::numeric * quantity::numeric)", "roll": "sum(turnover)"},
    {"name": "cvd", "type": "numeric", "doc": "Taker-buy minus taker-sell base quantity within the bar, exact; its running sum is the CVD.",
     "from": "sum(CASE WHEN buyer_is_maker THEN -quantity::numeric ELSE quantity::numeric END)", "roll": "sum(cvd)"},
    {"name": "trades", "type": "bigint", "doc": "Number of aggregate trades.", "from": "count(*)", "roll": "sum(trades)"}
]', 'Open, high, low, close, volume and CVD of the trades.');

SELECT perpflow_make_bars('market_funding', 'funding', '{instrument}', '[
    {"name": "mark_price", "type": "double precision", "doc": "Newest mark price; null when none came.",
     "from": "(array_agg(mark_price ORDER BY event_time DESC, kafka_offset DESC) FILTER (WHERE mark_price IS NOT NULL))[1]",
     "roll": "(array_agg(mark_price ORDER BY $time DESC) FILTER (WHERE mark_price IS NOT NULL))[1]"},
    {"name": "index_price", "type": "double precision", "doc": "Newest index price; null when none came.",
     "from": "(array_agg(index_price ORDER BY event_time DESC, kafka_offset DESC) FILTER (WHERE index_price IS NOT NULL))[1]",
     "roll": "(array_agg(index_price ORDER BY $time DESC) FILTER (WHERE index_price IS NOT NULL))[1]"},
    {"name": "estimated_rate", "type": "double precision", "doc": "Newest predicted funding rate; null when none came.",
     "from": "(array_agg(estimated_rate ORDER BY event_time DESC, kafka_offset DESC) FILTER (WHERE estimated_rate IS NOT NULL))[1]",
     "roll": "(array_agg(estimated_rate ORDER BY $time DESC) FILTER (WHERE estimated_rate IS NOT NULL))[1]"},
    {"name": "estimated_rate_low", "type": "double precision", "doc": "Lowest predicted rate.",
     "from": "min(estimated_rate)", "roll": "min(estimated_rate_low)"},
    {"name": "estimated_rate_high", "type": "double precision", "doc": "Highest predicted rate.",
     "from": "max(estimated_rate)", "roll": "max(estimated_rate_high)"},
    {"name": "settled_rate", "type": "double precision", "doc": "Newest settled rate; null when no settlement falls into the bar.",
     "from": "(array_agg(settled_rate ORDER BY event_time DESC, kafka_offset DESC) FILTER (WHERE settled_rate IS NOT NULL))[1]",
     "roll": "(array_agg(settled_rate ORDER BY $time DESC) FILTER (WHERE settled_rate IS NOT NULL))[1]"},
    {"name": "records", "type": "bigint", "doc": "Number of records.", "from": "count(*)", "roll": "sum(records)"}
]', 'Mark and index price, predicted and settled funding.');

SELECT perpflow_make_bars('market_liquidations', 'liquidations', '{instrument}', '[
    {"name": "long_quantity", "type": "numeric", "doc": "Base quantity of liquidated longs; venues sample, so a lower bound.",
     "from": "coalesce(sum(coalesce(filled_quantity, quantity)::numeric) FILTER (WHERE side = ''LONG''), 0)", "roll": "sum(long_quantity)"},
    {"name": "short_quantity", "type": "numeric", "doc": "Base quantity of liquidated shorts; a lower bound.",
     "from": "coalesce(sum(coalesce(filled_quantity, quantity)::numeric) FILTER (WHERE side = ''SHORT''), 0)", "roll": "sum(short_quantity)"},
    {"name": "long_value", "type": "numeric", "doc": "Quote value of liquidated longs at the average price, else the order price; a lower bound.",
     "from": "coalesce(sum(coalesce(average_price, price)::numeric * coalesce(filled_quantity, quantity)::numeric) FILTER (WHERE side = ''LONG''), 0)",
     "roll": "sum(long_value)"},
    {"name": "short_value", "type": "numeric", "doc": "Quote value of liquidated shorts; a lower bound.",
     "from": "coalesce(sum(coalesce(average_price, price)::numeric * coalesce(filled_quantity, quantity)::numeric) FILTER (WHERE side = ''SHORT''), 0)",
     "roll": "sum(short_value)"},
    {"name": "longs", "type": "bigint", "doc": "Records of liquidated longs.", "from": "count(*) FILTER (WHERE side = ''LONG'')", "roll": "sum(longs)"},
    {"name": "shorts", "type": "bigint", "doc": "Records of liquidated shorts.", "from": "count(*) FILTER (WHERE side = ''SHORT'')", "roll": "sum(shorts)"}
]', 'Liquidated longs and shorts; no bar where none were.');

SELECT perpflow_make_bars('market_scores', 'scores', '{instrument,strategy_id}', '[
    {"name": "score", "type": "double precision", "doc": "Newest score.",
     "from": "(array_agg(score ORDER BY event_time DESC, kafka_offset DESC))[1]", "roll": "(array_agg(score ORDER BY $time DESC))[1]"},
    {"name": "score_low", "type": "double precision", "doc": "Lowest score.", "from": "min(score)", "roll": "min(score_low)"},
    {"name": "score_high", "type": "double precision", "doc": "Highest score.", "from": "max(score)", "roll": "max(score_high)"},
    {"name": "score_sum", "type": "numeric", "doc": "Sum of the scores; over evaluations it is the mean.",
     "from": "sum(score::numeric)", "roll": "sum(score_sum)"},
    {"name": "evaluations", "type": "bigint", "doc": "Instants evaluated.", "from": "count(*)", "roll": "sum(evaluations)"},
    {"name": "longs", "type": "bigint", "doc": "Instants that pointed long.", "from": "count(*) FILTER (WHERE direction = ''LONG'')", "roll": "sum(longs)"},
    {"name": "shorts", "type": "bigint", "doc": "Instants that pointed short.", "from": "count(*) FILTER (WHERE direction = ''SHORT'')", "roll": "sum(shorts)"},
    {"name": "gates_passed", "type": "bigint", "doc": "Instants that passed every gate.", "from": "count(*) FILTER (WHERE gate_passed)", "roll": "sum(gates_passed)"},
    {"name": "signals", "type": "bigint", "doc": "Instants that emitted a signal.", "from": "count(*) FILTER (WHERE signalled)", "roll": "sum(signals)"}
]', 'Scores of a strategy.');

-- Rows come nearly in the order of time: a few kilobytes find those of a span of minutes among the millions of a day.
CREATE INDEX IF NOT EXISTS agg_trades_span ON agg_trades USING brin (event_time) WITH (pages_per_range = 32);
CREATE INDEX IF NOT EXISTS funding_span ON funding USING brin (event_time) WITH (pages_per_range = 32);
CREATE INDEX IF NOT EXISTS liquidations_span ON liquidations USING brin (event_time) WITH (pages_per_range = 32);
CREATE INDEX IF NOT EXISTS scores_span ON scores USING brin (event_time) WITH (pages_per_range = 32);

-- Build what changed, oldest first, at most so many slots; return how many were built and how many are left.
-- One at a time: the row of bar_sources is locked. What is read was committed before its change was taken, so nothing is missed; what comes
-- meanwhile has its own change and is built the next time.
CREATE OR REPLACE FUNCTION perpflow_refresh_bars(of_source text, most_slots integer DEFAULT 2016, OUT built bigint, OUT remaining bigint)
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    state bar_sources;
    slot_ms CONSTANT bigint := 300000;
    present bigint;
    target bigint;  -- slots below are built
    reached timestamptz;
    span record;
    step record;
    low timestamptz;
    high timestamptz;
    exprs text;
    key_list text;
BEGIN
    built := 0;
    remaining := 0;
    SELECT * INTO state FROM bar_sources s WHERE s.source = of_source FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF state.built_until IS NULL THEN
        -- Rows that were there before anyone noted changes.
        EXECUTE format('INSERT INTO bar_changes SELECT DISTINCT %L, floor((extract(epoch FROM event_time) * 1000 - 1) / %s)::bigint FROM %I',
                       of_source, slot_ms, of_source);
        state.built_until := '-infinity';
    END IF;
    CREATE TEMP TABLE IF NOT EXISTS perpflow_todo (slot bigint PRIMARY KEY) ON COMMIT DROP;
    TRUNCATE pg_temp.perpflow_todo;
    -- The newest slot is being written to: it is computed on the spot by who reads, for an hour. Times in the future hold nothing up.
    present := floor((extract(epoch FROM now()) * 1000 - 1) / slot_ms);
    target := (SELECT max(c.slot) FROM bar_changes c WHERE c.source = of_source AND c.slot <= present);
    IF target < present - 12 THEN
        target := target + 1;
    END IF;
    IF isfinite(state.built_until) THEN
        target := greatest(target, ((extract(epoch FROM state.built_until) * 1000)::bigint) / slot_ms);
    END IF;
    IF target IS NULL THEN
        UPDATE bar_sources s SET built_until = state.built_until WHERE s.source = of_source;
        RETURN;
    END IF;
    WITH taken AS (
        DELETE FROM bar_changes c WHERE c.source = of_source AND c.slot < target AND c.slot IN (
            SELECT DISTINCT d.slot FROM bar_changes d WHERE d.source = of_source AND d.slot < target ORDER BY d.slot LIMIT most_slots)
        RETURNING c.slot
    ) INSERT INTO pg_temp.perpflow_todo SELECT DISTINCT t.slot FROM taken t;
    SELECT count(*) INTO built FROM pg_temp.perpflow_todo;
    SELECT count(DISTINCT c.slot) INTO remaining FROM bar_changes c WHERE c.source = of_source AND c.slot < target;
    IF state.kept_from IS NOT NULL THEN
        DELETE FROM pg_temp.perpflow_todo t WHERE t.slot * slot_ms < (extract(epoch FROM state.kept_from) * 1000)::bigint;
    END IF;
    reached := to_timestamp(CASE WHEN remaining > 0 THEN (SELECT max(t.slot) + 1 FROM pg_temp.perpflow_todo t) ELSE target END * (slot_ms / 1000));
    FOR span IN
        SELECT to_timestamp(min(t.slot) * (slot_ms / 1000)) AS low, to_timestamp((max(t.slot) + 1) * (slot_ms / 1000)) AS high
        FROM (SELECT slot, slot - row_number() OVER (ORDER BY slot) AS island FROM pg_temp.perpflow_todo) t GROUP BY t.island ORDER BY 1
    LOOP
        FOR step IN
            SELECT a.*, i.width FROM bar_aggregates a JOIN bar_intervals i USING (timeframe) WHERE a.source = of_source ORDER BY i.width
        LOOP
            low := date_bin(step.width, span.low, timestamptz '2000-01-01 00:00:00+00');
            high := bar_end(step.width, span.high);
            SELECT string_agg(format('(%s)::%s', CASE WHEN step.child = of_source THEN c ->> 'from' ELSE replace(c ->> 'roll', '$time', 'event_time') END,
                                     c ->> 'type'), ', ' ORDER BY n) INTO exprs FROM jsonb_array_elements(step.columns) WITH ORDINALITY a(c, n);
            SELECT string_agg(quote_ident(k), ', ' ORDER BY n) INTO key_list FROM unnest(step.keys) WITH ORDINALITY a(k, n);
            EXECUTE format('DELETE FROM %I WHERE event_time > %L AND event_time <= %L', step.family || '_' || step.timeframe || '_buckets', low, high);
            EXECUTE format('INSERT INTO %1$I SELECT %2$s, bar_end(interval %3$L, event_time), %4$s FROM %5$I WHERE event_time > %6$L AND event_time <= %7$L'
                           ' GROUP BY %2$s, bar_end(interval %3$L, event_time)',
                           step.family || '_' || step.timeframe || '_buckets', key_list, step.width, exprs,
                           CASE WHEN step.child = of_source THEN step.child ELSE step.child || '_buckets' END, low, high);
        END LOOP;
    END LOOP;
    UPDATE bar_sources s SET built_until = greatest(state.built_until, reached) WHERE s.source = of_source;
END
$$;
COMMENT ON FUNCTION perpflow_refresh_bars(text, integer) IS 'Build the bars of what changed in a source since; call it until nothing remains.';

-- One table per topic: the fields of its Avro schema, then the record's place in Kafka. A test holds them equal to schemas/avro.
-- Unique indexes end with event_time because a partitioned table asks for it; they find a record by its id and back up the sink's
-- own check for repeats. The high-volume tables have one index each, what queries need, so that COPY stays fast.

SELECT perpflow_make_table('agg_trades', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    agg_id bigint NOT NULL,
    first_trade_id bigint NOT NULL,
    last_trade_id bigint NOT NULL,
    price double precision NOT NULL,
    quantity double precision NOT NULL,
    buyer_is_maker boolean NOT NULL,
    backfilled boolean NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS agg_trades_time ON agg_trades (instrument, event_time);

SELECT perpflow_make_table('depth', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    epoch bigint NOT NULL,
    state text NOT NULL,
    last_update_id bigint NOT NULL,
    bid_prices double precision[] NOT NULL,
    bid_quantities double precision[] NOT NULL,
    ask_prices double precision[] NOT NULL,
    ask_quantities double precision[] NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS depth_time ON depth (instrument, event_time);

SELECT perpflow_make_table('quotes', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    update_id bigint NOT NULL,
    bid_price double precision NOT NULL,
    bid_quantity double precision NOT NULL,
    ask_price double precision NOT NULL,
    ask_quantity double precision NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS quotes_time ON quotes (instrument, event_time);

SELECT perpflow_make_table('liquidations', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    side text NOT NULL,
    price double precision NOT NULL,
    average_price double precision,
    quantity double precision NOT NULL,
    filled_quantity double precision,
    sampling_cap_ms integer,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS liquidations_time ON liquidations (instrument, event_time);

SELECT perpflow_make_table('funding', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    mark_price double precision,
    index_price double precision,
    estimated_settle_price double precision,
    estimated_rate double precision,
    settled_rate double precision,
    next_funding_time timestamptz,
    interval_hours integer,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS funding_time ON funding (instrument, event_time);

SELECT perpflow_make_table('market_indicators', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    indicator text NOT NULL,
    value double precision NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS market_indicators_time ON market_indicators (instrument, event_time);

SELECT perpflow_make_table('gaps', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    stream text NOT NULL,
    kind text NOT NULL,
    certain boolean NOT NULL,
    from_id bigint,
    to_id bigint,
    from_time timestamptz,
    to_time timestamptz,
    repaired boolean NOT NULL,
    detail text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS gaps_time ON gaps (instrument, event_time);

CREATE TABLE IF NOT EXISTS instruments (
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    author text NOT NULL,
    venue text NOT NULL,
    symbol text NOT NULL,
    base_asset text NOT NULL,
    quote_asset text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    tick_size double precision NOT NULL,
    step_size double precision NOT NULL,
    min_notional double precision,
    price_decimals integer NOT NULL,
    quantity_decimals integer NOT NULL,
    funding_interval_hours integer,
    recorded boolean NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS instruments_time ON instruments (instrument, event_time);

SELECT perpflow_make_table('progress', $$
    author text NOT NULL,
    venue text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    cut jsonb NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 day');
CREATE INDEX IF NOT EXISTS progress_time ON progress (author, event_time);

CREATE TABLE IF NOT EXISTS strategies (
    strategy_id text NOT NULL,
    revision integer NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    display_name text NOT NULL,
    status text NOT NULL,
    model text NOT NULL,
    direction text NOT NULL,
    initial_balance double precision NOT NULL,
    risk_per_trade double precision NOT NULL,
    max_positions integer NOT NULL,
    cvd_fast_window text NOT NULL,
    cvd_slow_window text NOT NULL,
    weight_direction integer NOT NULL,
    weight_env integer NOT NULL,
    weight_aux integer NOT NULL,
    weight_momentum integer NOT NULL,
    entry_score double precision NOT NULL,
    flip_threshold double precision NOT NULL,
    fast_variant boolean NOT NULL,
    gate_vol_enabled boolean NOT NULL,
    vol_atr_pct_min double precision NOT NULL,
    vol_on_missing text NOT NULL,
    gate_cvd_enabled boolean NOT NULL,
    cvd_on_missing text NOT NULL,
    gate_whale_enabled boolean NOT NULL,
    whale_usd_threshold double precision NOT NULL,
    whale_flow_pct double precision NOT NULL,
    whale_on_missing text NOT NULL,
    gate_obi_enabled boolean NOT NULL,
    obi_threshold double precision NOT NULL,
    obi_on_missing text NOT NULL,
    gate_spot_perp_enabled boolean NOT NULL,
    spot_perp_threshold double precision NOT NULL,
    spot_perp_on_missing text NOT NULL,
    sl_atr_multiplier double precision NOT NULL,
    tp1_ratio double precision NOT NULL,
    tp2_ratio double precision NOT NULL,
    timeout_minutes integer NOT NULL,
    cooldown_minutes integer NOT NULL,
    tier_light double precision NOT NULL,
    tier_standard double precision NOT NULL,
    tier_heavy double precision NOT NULL,
    description text,
    tags text[] NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS strategies_record ON strategies (strategy_id, revision, kafka_partition);

SELECT perpflow_make_table('features', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    price double precision NOT NULL,
    cvd_5m double precision,
    cvd_15m double precision,
    cvd_30m double precision,
    cvd_1h double precision,
    cvd_4h double precision,
    cvd_24h double precision,
    volume_5m double precision,
    volume_15m double precision,
    volume_30m double precision,
    volume_1h double precision,
    volume_4h double precision,
    volume_24h double precision,
    slope_5m double precision,
    acceleration_5m double precision,
    slope_15m double precision,
    acceleration_15m double precision,
    slope_30m double precision,
    acceleration_30m double precision,
    vwap_30m double precision,
    atr double precision,
    atr_percentile double precision,
    trade_quantity_p95 double precision,
    trade_quantity_p99 double precision,
    large_buys integer NOT NULL,
    large_sells integer NOT NULL,
    whale_flow double precision,
    obi double precision,
    best_bid double precision,
    best_ask double precision,
    mark_price double precision,
    index_price double precision,
    estimated_funding_rate double precision,
    spot_perp_divergence double precision,
    open_interest double precision,
    open_interest_change double precision,
    long_short_ratio double precision,
    top_trader_long_share double precision,
    coinbase_premium double precision,
    pane_trades bigint NOT NULL,
    late_trades bigint NOT NULL,
    missing_inputs text[] NOT NULL,
    stale_inputs text[] NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS features_record ON features (instrument, event_time, kafka_partition);

SELECT perpflow_make_table('bars', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    timeframe text NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision NOT NULL,
    cvd double precision NOT NULL,
    trades bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS bars_record ON bars (instrument, timeframe, event_time, kafka_partition);

SELECT perpflow_make_table('scores', $$
    score_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    strategy_name text NOT NULL,
    strategy_version text NOT NULL,
    config_revision integer NOT NULL,
    config_hash text NOT NULL,
    direction text NOT NULL,
    score double precision NOT NULL,
    tier text,
    gate_passed boolean NOT NULL,
    gate_block text,
    warm boolean NOT NULL,
    regime text NOT NULL,
    cooldown boolean NOT NULL,
    signalled boolean NOT NULL,
    price double precision NOT NULL,
    atr double precision,
    cvd_fast double precision,
    cvd_slow double precision,
    cvd_slope double precision,
    cvd_acceleration double precision,
    layers jsonb NOT NULL,
    gates jsonb NOT NULL,
    missing_inputs text[] NOT NULL,
    stale_inputs text[] NOT NULL,
    late_trades bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS scores_record ON scores (score_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS scores_time ON scores (instrument, event_time);

SELECT perpflow_make_table('signals', $$
    signal_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    strategy_name text NOT NULL,
    strategy_version text NOT NULL,
    config_revision integer NOT NULL,
    config_hash text NOT NULL,
    decided_at timestamptz NOT NULL,
    direction text NOT NULL,
    score double precision NOT NULL,
    tier text NOT NULL,
    entry boolean NOT NULL,
    flip boolean NOT NULL,
    regime text NOT NULL,
    price double precision NOT NULL,
    atr double precision NOT NULL,
    risk_distance double precision NOT NULL,
    tp1_ratio double precision NOT NULL,
    tp2_ratio double precision NOT NULL,
    timeout_minutes integer NOT NULL,
    initial_balance double precision NOT NULL,
    risk_per_trade double precision NOT NULL,
    risk_multiple double precision NOT NULL,
    max_positions integer NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS signals_record ON signals (signal_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS signals_time ON signals (instrument, event_time);

SELECT perpflow_make_table('worker_progress', $$
    author text NOT NULL,
    venue text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    progress_offset bigint NOT NULL,
    cut jsonb NOT NULL,
    signals_offset bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS worker_progress_record ON worker_progress (author, event_time, progress_offset, kafka_partition);

SELECT perpflow_make_table('orders', $$
    order_id text NOT NULL,
    signal_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    position_id text NOT NULL,
    mode text NOT NULL,
    leg text NOT NULL,
    side text NOT NULL,
    type text NOT NULL,
    price double precision,
    quantity double precision NOT NULL,
    reduce_only boolean NOT NULL,
    status text NOT NULL,
    reason text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS orders_record ON orders (order_id, status, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS orders_time ON orders (instrument, event_time);

SELECT perpflow_make_table('fills', $$
    fill_id text NOT NULL,
    order_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    position_id text NOT NULL,
    mode text NOT NULL,
    leg text NOT NULL,
    side text NOT NULL,
    price double precision NOT NULL,
    reference_price double precision NOT NULL,
    quantity double precision NOT NULL,
    liquidity text NOT NULL,
    fee double precision NOT NULL,
    trade_agg_id bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS fills_record ON fills (fill_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS fills_time ON fills (instrument, event_time);

SELECT perpflow_make_table('positions', $$
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    position_id text NOT NULL,
    mode text NOT NULL,
    signal_id text NOT NULL,
    status text NOT NULL,
    direction text NOT NULL,
    tier text NOT NULL,
    quantity double precision NOT NULL,
    open_quantity double precision NOT NULL,
    entry_time timestamptz,
    entry_price double precision,
    risk_distance double precision NOT NULL,
    stop_price double precision,
    tp1_price double precision,
    tp2_price double precision,
    timeout_at timestamptz,
    realised_pnl double precision NOT NULL,
    risk_amount double precision NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS positions_record ON positions (position_id, status, event_time, kafka_partition);
CREATE INDEX IF NOT EXISTS positions_time ON positions (instrument, event_time);

SELECT perpflow_make_table('trades_closed', $$
    trade_id text NOT NULL,
    signal_id text NOT NULL,
    instrument text NOT NULL,
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    strategy_id text NOT NULL,
    strategy_name text NOT NULL,
    config_revision integer NOT NULL,
    config_hash text NOT NULL,
    mode text NOT NULL,
    direction text NOT NULL,
    tier text NOT NULL,
    regime text NOT NULL,
    score double precision NOT NULL,
    signal_time timestamptz NOT NULL,
    entry_time timestamptz NOT NULL,
    entry_price double precision NOT NULL,
    exit_price double precision NOT NULL,
    exit_reason text NOT NULL,
    tp1_hit boolean NOT NULL,
    quantity double precision NOT NULL,
    risk_distance double precision NOT NULL,
    risk_amount double precision NOT NULL,
    risk_multiple double precision NOT NULL,
    gross_r double precision NOT NULL,
    fee_r double precision NOT NULL,
    funding_r double precision NOT NULL,
    slippage_r double precision NOT NULL,
    net_r double precision NOT NULL,
    net_pnl double precision NOT NULL,
    fees double precision NOT NULL,
    funding double precision NOT NULL,
    mfe_r double precision NOT NULL,
    mae_r double precision NOT NULL,
    hold_ms bigint NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE UNIQUE INDEX IF NOT EXISTS trades_closed_record ON trades_closed (trade_id, kafka_partition, event_time);
CREATE INDEX IF NOT EXISTS trades_closed_time ON trades_closed (instrument, event_time);

SELECT perpflow_make_table('dead_letters', $$
    event_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL,
    service text NOT NULL,
    source text NOT NULL,
    source_partition integer,
    source_offset bigint,
    instrument text,
    field text,
    reason text NOT NULL,
    key bytea,
    value bytea,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL
$$, '1 month');
CREATE INDEX IF NOT EXISTS dead_letters_time ON dead_letters (event_time);

-- Histories are appended to; what holds now is the newest row of each.
CREATE OR REPLACE VIEW instruments_current AS
SELECT DISTINCT ON (instrument) * FROM instruments ORDER BY instrument, event_time DESC, kafka_offset DESC;

CREATE OR REPLACE VIEW strategies_current AS
SELECT DISTINCT ON (strategy_id) * FROM strategies ORDER BY strategy_id, event_time DESC, kafka_offset DESC;

CREATE OR REPLACE VIEW positions_current AS
SELECT DISTINCT ON (position_id) * FROM positions ORDER BY position_id, event_time DESC, kafka_offset DESC;

"""The market of one instrument: price with CVD below it, open interest, funding, liquidations, book, order sizes; and an overview of all."""

from __future__ import annotations

from deploy.grafana.build import (
    BASE,
    BASIS_POINTS,
    BIN,
    BLUE,
    CHOOSE_INSTRUMENT,
    COUNT,
    GREEN,
    IN_RANGE,
    INSTRUMENT,
    NONE,
    ORANGE,
    PER_MINUTE,
    QUOTE,
    RATIO,
    RED,
    SECONDS,
    SHARE,
    STEP,
    Json,
    bars,
    by_name,
    colour,
    limits,
    lines,
    markers,
    options_of,
    page,
    panel,
    rows,
    series,
    stat,
    table,
)

GRID = "15s"

# Our own bar before an imported one of the same time: 'trades' < 'venue'.
BARS = (
    "SELECT DISTINCT ON (event_time) event_time, open, high, low, close, volume, cvd, trades FROM bars"
    f" WHERE {IN_RANGE} AND {INSTRUMENT} AND timeframe = ${{timeframe:sqlstring}} ORDER BY event_time, source"
)

# The newest value of each step: the window at its end.
NEWEST = f'DISTINCT ON (1) {BIN} AS "time"'


def _features(columns: str) -> Json:
    return series(f"SELECT {NEWEST}, {columns} FROM features WHERE {IN_RANGE} AND {INSTRUMENT} ORDER BY 1, event_time DESC")


def _indicator(name: str, label: str) -> Json:
    return series(
        f'SELECT {NEWEST}, value AS "{label}" FROM market_indicators'
        f" WHERE {IN_RANGE} AND {INSTRUMENT} AND indicator = '{name}' ORDER BY 1, event_time DESC"
    )


# The price at the end of the range and 24 h before, of every instrument with both. After a cold start the venue's bars have it.
PULSE = """WITH last AS (
  SELECT i.instrument, f.event_time, f.price, f.estimated_funding_rate, f.open_interest, f.open_interest_change, f.obi, b.close AS before
  FROM (SELECT instrument FROM instruments_current WHERE kind = 'perp') i
  CROSS JOIN LATERAL (SELECT * FROM features WHERE features.instrument = i.instrument AND event_time <= $__timeTo()
    ORDER BY event_time DESC LIMIT 1) f
  LEFT JOIN LATERAL (SELECT close FROM (
    (SELECT 1 AS place, close FROM bars WHERE bars.instrument = i.instrument AND timeframe = '15m'
      AND event_time <= f.event_time - interval '24 hours' AND event_time > f.event_time - interval '25 hours'
      ORDER BY event_time DESC, source LIMIT 1)
    UNION ALL (SELECT 2, close FROM klines WHERE klines.instrument = i.instrument AND timeframe = '5m'
      AND event_time <= f.event_time - interval '24 hours' AND event_time > f.event_time - interval '25 hours'
      ORDER BY event_time DESC LIMIT 1)) known ORDER BY place LIMIT 1) b ON true)"""

VOLUMES = """SELECT DISTINCT ON (instrument) instrument, value AS volume FROM market_indicators
  WHERE indicator = 'volume_24h' AND event_time BETWEEN timestamptz $__timeTo() - interval '1 hour' AND $__timeTo() ORDER BY instrument, event_time DESC"""

# The ten perpetuals with the largest 24 h volume; those without a known volume come last. One index lookup for each step, because the venue
# sends an estimate every few seconds.
HEATMAP = f"""WITH top AS (
  SELECT i.instrument FROM instruments_current i LEFT JOIN ({VOLUMES}) v USING (instrument)
  WHERE i.kind = 'perp' ORDER BY v.volume DESC NULLS LAST, i.instrument LIMIT 10)
SELECT steps.at AS "time", top.instrument AS metric, newest.rate * 10000 AS value
FROM generate_series(date_bin({STEP}, timestamptz $__timeFrom(), timestamptz 'epoch'), timestamptz $__timeTo(), {STEP}) steps (at)
CROSS JOIN top CROSS JOIN LATERAL (SELECT estimated_rate AS rate FROM funding WHERE funding.instrument = top.instrument
  AND event_time >= steps.at AND event_time < steps.at + {STEP} AND {IN_RANGE} AND estimated_rate IS NOT NULL ORDER BY event_time DESC LIMIT 1) newest
ORDER BY 1"""

PREDICTED = f"""SELECT steps.at AS "time", newest.rate * 10000 AS predicted
FROM generate_series(date_bin({STEP}, timestamptz $__timeFrom(), timestamptz 'epoch'), timestamptz $__timeTo(), {STEP}) steps (at)
CROSS JOIN LATERAL (SELECT estimated_rate AS rate FROM funding WHERE {INSTRUMENT} AND event_time >= steps.at AND event_time < steps.at + {STEP}
  AND {IN_RANGE} AND estimated_rate IS NOT NULL ORDER BY event_time DESC LIMIT 1) newest ORDER BY 1"""

ORDER_SIZES = f"""SELECT size, sum(notional) FILTER (WHERE NOT buyer_is_maker) AS bought, sum(notional) FILTER (WHERE buyer_is_maker) AS sold
FROM (SELECT buyer_is_maker, price * quantity AS notional, CASE WHEN price * quantity < 1000 THEN '1: under 1k'
  WHEN price * quantity < 10000 THEN '2: 1k to 10k' WHEN price * quantity < 100000 THEN '3: 10k to 100k' ELSE '4: 100k and more' END AS size
  FROM agg_trades WHERE {IN_RANGE} AND event_time > timestamptz $__timeTo() - interval '1 hour' AND {INSTRUMENT}) t GROUP BY size ORDER BY size"""

LIQUIDATED = "coalesce(average_price, price) * coalesce(filled_quantity, quantity)"
LIQUIDATIONS = f"""SELECT {BIN} AS "time", sum({LIQUIDATED}) FILTER (WHERE side = 'LONG') AS longs,
  -sum({LIQUIDATED}) FILTER (WHERE side = 'SHORT') AS shorts
FROM liquidations WHERE {IN_RANGE} AND {INSTRUMENT} GROUP BY 1 ORDER BY 1"""

MARK_LIQUIDATIONS = f"""SELECT event_time AS "time", side || ' liquidated: ' || quantity || ' at ' || price AS text, 'liquidation,' || side AS tags
FROM liquidations WHERE {IN_RANGE} AND {INSTRUMENT} ORDER BY {LIQUIDATED} DESC LIMIT 200"""
MARK_SIGNALS = f"""SELECT event_time AS "time", strategy_name || ': ' || direction || ' ' || tier || ', score ' || score AS text,
  'signal,' || direction AS tags
FROM signals WHERE {IN_RANGE} AND {INSTRUMENT} ORDER BY event_time DESC LIMIT 500"""
MARK_TRADES = f"""SELECT entry_time AS "time", event_time AS "timeEnd", strategy_name || ' ' || direction || ': ' || entry_price || ' to ' || exit_price
  || ', ' || exit_reason || ', ' || round(net_r::numeric, 2) || ' R' AS text, 'trade,' || direction AS tags
FROM trades_closed WHERE {IN_RANGE} AND {INSTRUMENT} ORDER BY event_time DESC LIMIT 500"""


# The newest book of the range: cumulative quantity up to each price.
DEPTH = f"""WITH book AS (SELECT * FROM depth WHERE {IN_RANGE} AND {INSTRUMENT} AND state = 'live' ORDER BY event_time DESC LIMIT 1)
SELECT price, sum(quantity) OVER (ORDER BY price DESC) AS bids, NULL::float8 AS asks
  FROM book, unnest(bid_prices, bid_quantities) b (price, quantity)
UNION ALL SELECT price, NULL, sum(quantity) OVER (ORDER BY price) FROM book, unnest(ask_prices, ask_quantities) a (price, quantity) ORDER BY price"""


def board() -> Json:
    """Return the dashboard."""
    panels = [
        panel(
            "candlestick",
            "Price",
            "Bars of the chosen length from our trades, each at its end; where there are none, bars imported from the venue. Marks: the 200 largest"
            " liquidations of the range, signals, and closed trades from entry to exit.",
            NONE,
            rows(f'SELECT event_time AS "time", open, high, low, close, volume FROM ({BARS}) b ORDER BY 1'),
            width=24,
            height=12,
            options={"mode": "candles+volume", "includeAllFields": False},
        ),
        lines(
            "CVD from zero",
            "Cumulative volume delta (taker buys minus taker sells) of the bars above, from zero at the left edge of the chart.",
            BASE,
            series(
                f'SELECT event_time AS "time", sum(cvd) OVER w - first_value(cvd) OVER w AS cvd FROM ({BARS}) b WINDOW w AS (ORDER BY event_time) ORDER BY 1'
            ),
            width=24,
            height=6,
            custom={"fillOpacity": 15, "thresholdsStyle": {"mode": "line"}},
            defaults={"thresholds": limits([(None, GREEN), (0, "text")])},
        ),
        lines(
            "Open interest",
            "Open interest as the venue reports it, in quote units. It shares the crosshair with the price.",
            QUOTE,
            _indicator("open_interest", "open interest"),
            width=24,
            height=6,
            interval="1m",
        ),
        lines(
            "Funding: predicted and settled",
            "The venue's estimate for the running interval at the end of each step (line) and the rates that were charged (points), in 1/10,000.",
            BASIS_POINTS,
            series(PREDICTED),
            series(
                f'SELECT event_time AS "time", settled_rate * 10000 AS settled FROM funding WHERE {IN_RANGE} AND {INSTRUMENT}'
                " AND settled_rate IS NOT NULL ORDER BY 1"
            ),
            overrides=[by_name("settled", "custom.drawStyle", "points", "custom.showPoints", "always", "custom.pointSize", 9)],
        ),
        lines(
            "Liquidations",
            "Notional of liquidated longs (up) and shorts (down). Venues that throttle this stream show only a part.",
            QUOTE,
            series(LIQUIDATIONS),
            style="bars",
            overrides=[colour("longs", RED), colour("shorts", GREEN)],
            interval="1m",
        ),
        lines(
            "Taker buys and sells",
            "Base quantity bought and sold by takers in each bar: (volume ± delta)/2.",
            BASE,
            series(f'SELECT event_time AS "time", (volume + cvd) / 2 AS bought, -(volume - cvd) / 2 AS sold FROM ({BARS}) b ORDER BY 1'),
            style="bars",
            overrides=[colour("bought", GREEN), colour("sold", RED)],
        ),
        bars(
            "Order sizes",
            "Taker buys against taker sells by the notional of the aggregate trade, in the last hour of the range.",
            QUOTE,
            rows(ORDER_SIZES),
            "size",
            overrides=[colour("bought", GREEN), colour("sold", RED)],
        ),
        lines(
            "Order-book imbalance",
            "(bids - asks)/(bids + asks) of the top 10 levels: 1 all bids, -1 all asks. Nothing while the book is stale.",
            NONE,
            _features('obi AS "OBI"'),
            interval=GRID,
            defaults={"min": -1, "max": 1},
        ),
        panel(
            "trend",
            "Depth",
            "The newest book of the range: cumulative bid quantity (left) and ask quantity (right) of the stored levels.",
            BASE,
            rows(DEPTH),
            custom={"drawStyle": "line", "lineInterpolation": "stepAfter", "lineWidth": 1, "fillOpacity": 20, "showPoints": "never"},
            options={"xField": "price", "legend": {"displayMode": "list", "placement": "bottom"}},
            overrides=[colour("bids", GREEN), colour("asks", RED), by_name("price", "unit", NONE)],
        ),
        lines(
            "Large trades",
            "Taker buys (up) and sells (down) of at least the coin's P99 quantity within 15 minutes, at the end of each step.",
            COUNT,
            _features("large_buys AS bought, -large_sells AS sold"),
            interval=GRID,
            overrides=[colour("bought", GREEN), colour("sold", RED)],
            custom={"fillOpacity": 25},
        ),
        lines(
            "Whale flow",
            "(bought - sold)/(bought + sold) of trades of at least the default whale size within 15 minutes: 1 all bought, -1 all sold.",
            NONE,
            _features('whale_flow AS "whale flow"'),
            interval=GRID,
            defaults={"min": -1, "max": 1},
        ),
        lines(
            "Spread",
            "Best ask minus best bid, of their middle.",
            BASIS_POINTS,
            _features("(best_ask - best_bid) / nullif((best_ask + best_bid) / 2, 0) * 10000 AS spread"),
            interval=GRID,
        ),
        lines(
            "CVD by window",
            "Taker buys minus taker sells of rolling windows; a line begins when the history covers its window.",
            BASE,
            _features('cvd_5m AS "5m", cvd_30m AS "30m", cvd_4h AS "4h", cvd_24h AS "24h"'),
            interval=GRID,
        ),
        lines(
            "Positioning",
            "Ratio of longs to shorts: of all accounts, and of the top traders as the venue publishes it.",
            RATIO,
            _features('long_short_ratio AS "accounts", top_trader_long_share / nullif(1 - top_trader_long_share, 0) AS "top traders"'),
            interval=GRID,
        ),
        lines(
            "Basis and premium",
            "Mark over index, mark over spot, Coinbase over Binance spot.",
            BASIS_POINTS,
            _features(
                'basis * 10000 AS "mark - index", spot_basis * 10000 AS "mark - spot", coinbase_premium * 10000 AS "Coinbase premium"'
            ),
            interval=GRID,
        ),
        lines(
            "Volatility",
            "Realised volatility by window, annualised over 365 days.",
            SHARE,
            _features('realised_volatility_5m AS "5m", realised_volatility_1h AS "1h", realised_volatility_24h AS "24h"'),
            interval=GRID,
        ),
        lines(
            "Trades a minute",
            "Aggregate trades a minute, from the bars above.",
            PER_MINUTE,
            series(
                f"SELECT event_time AS \"time\", trades / (extract(epoch FROM CASE ${{timeframe:sqlstring}} WHEN '1m' THEN interval '1 minute'"
                " WHEN '5m' THEN interval '5 minutes' WHEN '15m' THEN interval '15 minutes' WHEN '1h' THEN interval '1 hour'"
                f" WHEN '4h' THEN interval '4 hours' ELSE interval '1 day' END) / 60) AS trades FROM ({BARS}) b ORDER BY 1"
            ),
            overrides=[colour("trades", BLUE)],
        ),
        panel(
            "status-history",
            "Funding of the ten largest",
            "Predicted funding of the ten perpetuals with the largest 24 h volume, in 1/10,000 of the interval.",
            BASIS_POINTS,
            series(HEATMAP),
            width=24,
            height=9,
            interval="5m",
            custom={"fillOpacity": 85, "lineWidth": 0},
            defaults={
                "color": {"mode": "thresholds"},
                "thresholds": limits([(None, "dark-blue"), (-1, BLUE), (0, GREEN), (1, "yellow"), (3, ORANGE), (10, RED)]),
            },
            options={"showValue": "never", "rowHeight": 0.9, "legend": {"displayMode": "list", "placement": "bottom"}},
        ),
        stat(
            "Breadth",
            "Share of the perpetuals that are above their price of 24 h ago, of those evaluated in the last hour of the range.",
            SHARE,
            rows(
                f"{PULSE} SELECT avg((price > before)::int) AS breadth FROM last"
                " WHERE before IS NOT NULL AND event_time > timestamptz $__timeTo() - interval '1 hour'"
            ),
            ((None, RED), (0.5, GREEN)),
            width=6,
            height=8,
        ),
        table(
            "Market pulse",
            "Every perpetual: newest price and its age at the end of the range, change over 24 h, 24 h volume as the venue says it, funding in 1/10,000,"
            " open interest with its change over the features' horizon, book.",
            NONE,
            rows(
                f"{PULSE} SELECT l.instrument, l.price, extract(epoch FROM timestamptz $__timeTo() - l.event_time)::float8 AS age,"
                ' l.price / l.before - 1 AS "24 h", v.volume, l.estimated_funding_rate * 10000 AS funding,'
                ' l.open_interest AS "open interest", l.open_interest_change AS "OI change", l.obi AS "OBI"'
                f" FROM last l LEFT JOIN ({VOLUMES}) v USING (instrument) ORDER BY v.volume DESC NULLS LAST, l.instrument LIMIT 200"
            ),
            {"age": SECONDS, "24 h": SHARE, "volume": QUOTE, "funding": BASIS_POINTS, "open interest": QUOTE, "OI change": SHARE},
            width=18,
        ),
        stat(
            "Instruments",
            "Instruments of which facts are stored.",
            COUNT,
            rows("SELECT count(*) FROM instruments_current"),
            width=6,
        ),
    ]
    return page(
        "market",
        "Market",
        "Prices, order flow, order book, funding and open interest.",
        panels,
        [CHOOSE_INSTRUMENT, options_of("timeframe", "Bars", ("1m", "5m", "15m", "1h", "4h", "1d"), "1m")],
        [
            markers("Liquidations", MARK_LIQUIDATIONS, RED),
            markers("Signals", MARK_SIGNALS, BLUE),
            markers("Trades", MARK_TRADES, ORANGE),
        ],
        empty="No trade of this instrument in the range.",
        empties={
            "Open interest": "No open interest in this range: spot has none, nor have recordings of trades and books alone.",
            "Funding: predicted and settled": "No funding in this range: spot has none, nor have recordings of trades and books alone.",
            "Liquidations": "No liquidations in this range: there were none, or the venue (or the recording) does not send them.",
            "Order-book imbalance": "No order book in this range.",
            "Depth": "No order book in this range.",
            "Spread": "No best quotes in this range.",
            "Whale flow": "No trade of the default whale size in the range.",
            "Large trades": "The history is too short for the quantiles of trade sizes.",
            "Positioning": "No long/short figures in this range: spot has none, nor have recordings of trades and books alone.",
            "Basis and premium": "No mark, index or second spot price in this range.",
            "Volatility": "The history is too short for the shortest window.",
            "Funding of the ten largest": "No perpetual has predicted funding in this range.",
            "Breadth": "No perpetual of the last hour with a price of 24 h before.",
            "Market pulse": "No perpetual was evaluated up to the end of the range.",
        },
    )

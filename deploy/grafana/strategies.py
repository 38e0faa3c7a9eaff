"""What came out: equity, drawdown, win rate, profit factor, by hour, tier and exit, and two strategies side by side.

Statistics are D23's: closed trades only, a win is a net profit above zero, profit factor is gross profit by gross loss in money.
"""

from __future__ import annotations

from deploy.grafana.build import (
    CHOOSE_MODE,
    CHOOSE_STRATEGY,
    COUNT,
    GREEN,
    IN_RANGE,
    MILLISECONDS,
    NONE,
    OF_HUNDRED,
    QUOTE,
    RATIO,
    RED,
    SHARE,
    Json,
    R,
    bars,
    by_name,
    choice,
    lines,
    page,
    panel,
    rows,
    series,
    stat,
    table,
)
from stream_apps.core.performance.daily import LEAST_DAILY_RETURNS
from stream_apps.core.performance.intervals import Z

CHOSEN = f"{IN_RANGE} AND mode = ${{mode:sqlstring}} AND strategy_id IN (${{strategy:sqlstring}})"
IN_ORDER = "PARTITION BY strategy_id ORDER BY event_time, trade_id"
WON = "avg((net_pnl > 0)::int)::float8"


def wilson(sign: str, share: str = WON, count: str = "count(*)") -> str:
    """Return an end of the 95 % interval of a win rate: ``+`` or ``-`` (``core.performance.intervals.wilson``)."""
    of = f"nullif({count}, 0)"
    spread = f"{Z} * sqrt({share} * (1 - {share}) / {of} + {Z * Z / 4} / {of} / {of})"
    return f"least(1, greatest(0, ({share} + {Z * Z / 2} / {of} {sign} {spread}) / (1 + {Z * Z} / {of})))"


# Sums of the profit factor and its interval (``core.performance.intervals.profit_factor_bounds``). Without a win or a loss it has no interval, and is not
# shown: 5 by 0 and 0 by 5 say nothing about the trades to come.
GAINED, LOST = "sum(net_pnl) FILTER (WHERE net_pnl > 0)", "-sum(net_pnl) FILTER (WHERE net_pnl < 0)"
FACTOR = f"{GAINED} / nullif({LOST}, 0)"
SPREAD = f"""sqrt(count(*) / nullif(count(*) - 1, 0)::float8 * (sum(net_pnl * net_pnl) FILTER (WHERE net_pnl > 0) / nullif(({GAINED}) ^ 2, 0)
  + sum(net_pnl * net_pnl) FILTER (WHERE net_pnl < 0) / nullif(({LOST}) ^ 2, 0)))"""
FACTOR_FROM, FACTOR_TO = f"{FACTOR} * exp(-{Z} * {SPREAD})", f"{FACTOR} * exp({Z} * {SPREAD})"
WHY_NONE = f"""CASE WHEN coalesce({LOST}, 0) = 0 THEN 'no losing trade'
  WHEN coalesce({GAINED}, 0) = 0 THEN 'no winning trade' ELSE '' END"""
# Every win rate and profit factor has its count and its interval.
JUDGED = f"""count(*) AS trades, {WON} AS won, {wilson("-")} AS "won from", {wilson("+")} AS "won to", {FACTOR} AS "profit factor",
  {FACTOR_FROM} AS "factor from", {FACTOR_TO} AS "factor to", {WHY_NONE} AS "no factor" """
JUDGED_UNITS = {
    "trades": COUNT,
    **dict.fromkeys(("won", "won from", "won to"), SHARE),
    **dict.fromkeys(("profit factor", "factor from", "factor to"), RATIO),
}

# Cumulated results and the highest before, the start included: what a drawdown is measured from.
CURVES = f"""SELECT event_time, trade_id, strategy_id, strategy_name, net_r, net_pnl, curve_r, curve_pnl, greatest(0, max(curve_r) OVER w) - curve_r AS down_r,
  greatest(0, max(curve_pnl) OVER w) - curve_pnl AS down_pnl FROM (
  SELECT *, sum(net_r) OVER w AS curve_r, sum(net_pnl) OVER w AS curve_pnl FROM trades_closed WHERE {CHOSEN} WINDOW w AS ({IN_ORDER})) t
  WINDOW w AS ({IN_ORDER})"""

RESULTS = f"""WITH curves AS ({CURVES}), downs AS (SELECT strategy_id, max(down_r) AS down_r, max(down_pnl) AS down_pnl FROM curves GROUP BY 1)
SELECT min(strategy_name) AS strategy, {JUDGED}, sum(net_r) AS "net R", sum(net_pnl) AS "net money",
  avg(net_r) AS expectancy, min(down_r) AS "max drawdown R", min(down_pnl) AS "max drawdown",
  avg(net_r) FILTER (WHERE net_pnl > 0) / nullif(-avg(net_r) FILTER (WHERE net_pnl <= 0), 0) AS payoff,
  avg(fee_r + funding_r + slippage_r) AS "cost a trade", avg(hold_ms) AS held, avg(mfe_r) AS "best while open", avg(mae_r) AS "worst while open"
FROM trades_closed JOIN downs USING (strategy_id) WHERE {CHOSEN} GROUP BY strategy_id ORDER BY sum(net_r) DESC"""

# Returns of the UTC days from the first entry to the last close, those without a close included: the day's result by the equity at its beginning (D23).
# The money paid in is that of the revision that held when the day began: an increase of today changes no return of the past.
SHARPE = f"""WITH trades AS (SELECT strategy_id, event_time, entry_time, net_pnl FROM trades_closed WHERE {CHOSEN}),
days AS (SELECT generate_series(date_trunc('day', min(entry_time) AT TIME ZONE 'UTC'), max(event_time) AT TIME ZONE 'UTC',
  interval '1 day') AS day FROM trades),
results AS (SELECT day, coalesce(sum(net_pnl), 0) AS result FROM days
  LEFT JOIN trades ON date_trunc('day', event_time AT TIME ZONE 'UTC') = day GROUP BY day),
balances AS (SELECT day, sum(coalesce(held.balance, first.balance)) AS paid_in FROM days
  CROSS JOIN (SELECT DISTINCT strategy_id FROM trades) t
  LEFT JOIN LATERAL (SELECT initial_balance + added_balance AS balance FROM strategies s
    WHERE s.strategy_id = t.strategy_id AND s.event_time < (day AT TIME ZONE 'UTC')
    ORDER BY revision DESC LIMIT 1) held ON true
  LEFT JOIN LATERAL (SELECT initial_balance + added_balance AS balance FROM strategies s
    WHERE s.strategy_id = t.strategy_id ORDER BY revision LIMIT 1) first ON true
  GROUP BY day),
returns AS (SELECT result, paid_in + sum(result) OVER (ORDER BY day) - result AS equity FROM results JOIN balances USING (day))
SELECT CASE WHEN count(*) >= {LEAST_DAILY_RETURNS} AND min(equity) > 0
  THEN avg(result / nullif(equity, 0)) / nullif(stddev_samp(result / nullif(equity, 0)), 0) * sqrt(365) END AS sharpe
FROM returns"""

ROLLING = f"""SELECT event_time AS "time", strategy_name AS metric, won,
  {wilson("-", "won", "20")} AS "from", {wilson("+", "won", "20")} AS "to"
FROM (SELECT event_time, strategy_name, CASE WHEN count(*) OVER w = 20 THEN avg((net_pnl > 0)::int) OVER w END::float8 AS won
  FROM trades_closed WHERE {CHOSEN} WINDOW w AS ({IN_ORDER} ROWS 19 PRECEDING)) t ORDER BY 1"""

OPEN = """SELECT p.event_time AS since, p.instrument, p.strategy_id, p.direction, p.status, p.tier, p.open_quantity AS quantity,
  p.entry_price AS entry, f.price AS now,
  p.stop_price AS stop, p.tp1_price AS tp1, p.tp2_price AS tp2, p.timeout_at AS timeout, p.realised_pnl AS realised,
  (p.realised_pnl + (f.price - p.entry_price) * CASE p.direction WHEN 'LONG' THEN 1 ELSE -1 END * p.open_quantity)
    / nullif(coalesce(p.risk_amount * p.risk_multiple, p.quantity * p.risk_distance), 0) AS floating
FROM positions_current p LEFT JOIN LATERAL (SELECT price FROM features WHERE features.instrument = p.instrument ORDER BY event_time DESC LIMIT 1) f ON true
WHERE p.status IN ('pending', 'open', 'tp1_hit') AND p.mode = ${mode:sqlstring} AND p.strategy_id IN (${strategy:sqlstring}) ORDER BY 1 DESC"""

TRADES = f"""SELECT event_time AS closed, instrument, strategy_name AS strategy, direction, tier, regime, score, entry_time AS opened, entry_price AS entry,
  exit_price AS exit, exit_reason AS reason, tp1_hit AS "TP1", net_r AS "net R", net_pnl AS "net money", fees, funding, mfe_r AS best, mae_r AS worst,
  hold_ms AS held, signal_id AS why
FROM trades_closed WHERE {CHOSEN} ORDER BY event_time DESC LIMIT 500"""

BOTH = f"""{IN_RANGE} AND mode = ${{mode:sqlstring}} AND strategy_id IN (${{a:sqlstring}}, ${{b:sqlstring}})"""
# No figure of fewer trades: an interval needs two.
LEAST_OF_A_SIDE = 2
SIDES = f"""SELECT figure, max(value) FILTER (WHERE side = 'A') AS "A", max(value) FILTER (WHERE side = 'B') AS "B",
  max(value) FILTER (WHERE side = 'A') - max(value) FILTER (WHERE side = 'B') AS "A - B",
  coalesce(string_agg(side || ': ' || why, ', ' ORDER BY side) FILTER (WHERE value IS NULL), '') AS "why none"
FROM (SELECT side, figure, CASE WHEN trades >= {LEAST_OF_A_SIDE} OR figure = '01 trades' THEN value END AS value,
    CASE WHEN trades < {LEAST_OF_A_SIDE} THEN 'too few trades' ELSE no_factor END AS why
  FROM (SELECT s.side, count(*)::float8 AS trades, {WON} AS won, {wilson("-")} AS won_from, {wilson("+")} AS won_to,
      {FACTOR} AS factor, {FACTOR_FROM} AS factor_from, {FACTOR_TO} AS factor_to, {WHY_NONE} AS no_factor,
      sum(net_r) AS net, avg(net_r) AS mean, {Z} * stddev_samp(net_r) / sqrt(count(*)) AS error FROM trades_closed t
      JOIN (VALUES ('A', ${{a:sqlstring}}), ('B', ${{b:sqlstring}})) s (side, id) ON t.strategy_id = s.id WHERE {BOTH} GROUP BY 1) x
  CROSS JOIN LATERAL (VALUES ('01 trades', trades), ('02 won, %', 100 * won), ('03 won from, %', 100 * won_from), ('04 won to, %', 100 * won_to),
    ('05 profit factor', factor), ('06 profit factor from', factor_from), ('07 profit factor to', factor_to),
    ('08 net R', net), ('09 net R a trade', mean), ('10 net R a trade from', mean - error), ('11 net R a trade to', mean + error)) f (figure, value)) y
GROUP BY figure ORDER BY figure"""


def _by(key: str, name: str) -> Json:
    return rows(
        f'SELECT {key} AS {name}, sum(net_r) AS "net R", count(*) AS trades FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1'
    )


# Bars of one unit share a scale.
EACH_ITS_SCALE = [by_name("net R", "unit", R), by_name("trades", "unit", COUNT)]


def _one(figure: str) -> str:
    return f"SELECT {figure} FROM trades_closed WHERE {CHOSEN}"


def board() -> Json:
    """Return the dashboard."""
    signed = ((None, RED), (0, GREEN))
    panels = [
        stat("Net R", "Sum of the results of closed trades, per unit of risk, after all costs.", R, rows(_one("sum(net_r)")), signed),
        stat(
            "Net money", "Sum of the results of closed trades in quote units, after all costs.", QUOTE, rows(_one("sum(net_pnl)")), signed
        ),
        table(
            "Win rate and profit factor",
            "Closed trades of the range with 95 % intervals (from, to). A win has a net profit above zero. Profit factor is gross profit by gross loss.",
            NONE,
            rows(f"{_one(JUDGED)} HAVING count(*) > 0"),
            JUDGED_UNITS,
            width=8,
            height=4,
        ),
        stat("Trades", "Closed trades in the range.", COUNT, rows(_one("count(*)"))),
        stat(
            "Sharpe",
            "Daily returns on the chosen strategies' equity (days without a close count): mean by deviation, times the root of 365. Needs 20 days.",
            NONE,
            rows(SHARPE),
            signed,
        ),
        lines(
            "Equity in R",
            "Cumulated net R of closed trades since the beginning of the range.",
            R,
            series(f'SELECT event_time AS "time", strategy_name AS metric, curve_r AS equity FROM ({CURVES}) c ORDER BY 1'),
            custom={"lineInterpolation": "stepAfter"},
        ),
        lines(
            "Equity in money",
            "Cumulated net result of closed trades since the beginning of the range; the tier scales it.",
            QUOTE,
            series(f'SELECT event_time AS "time", strategy_name AS metric, curve_pnl AS equity FROM ({CURVES}) c ORDER BY 1'),
            custom={"lineInterpolation": "stepAfter"},
        ),
        lines(
            "Drawdown",
            "Distance of the equity in R below its highest value in the range.",
            R,
            series(f'SELECT event_time AS "time", strategy_name AS metric, -down_r AS drawdown FROM ({CURVES}) c ORDER BY 1'),
            custom={"lineInterpolation": "stepAfter", "fillOpacity": 20},
        ),
        lines(
            "Win rate of the last 20 trades",
            "Share of winners among the last 20 closed trades of a strategy, with its 95 % interval (from, to); nothing before there are 20.",
            SHARE,
            series(ROLLING),
            defaults={"min": 0, "max": 1},
        ),
        table(
            "Results by strategy",
            "Closed trades of the range with 95 % intervals (from, to). Payoff is the mean win by the mean loss, in R; costs are fees, funding and slippage.",
            R,
            rows(RESULTS),
            {
                **JUDGED_UNITS,
                "net money": QUOTE,
                "max drawdown": QUOTE,
                "payoff": RATIO,
                "held": MILLISECONDS,
            },
            width=24,
        ),
        bars(
            "By hour of entry",
            "Net R and trades by the UTC hour of entry.",
            NONE,
            _by("lpad(extract(hour FROM entry_time AT TIME ZONE 'UTC')::text, 2, '0')", "hour"),
            "hour",
            overrides=EACH_ITS_SCALE,
        ),
        bars(
            "By exit",
            "Net R and trades by what closed them.",
            NONE,
            _by("exit_reason", "exit"),
            "exit",
            overrides=EACH_ITS_SCALE,
        ),
        bars(
            "By tier",
            "Net R and trades by tier; R is per unit of risk, so that the tier's size does not show.",
            NONE,
            _by("tier", "tier"),
            "tier",
            width=6,
            overrides=EACH_ITS_SCALE,
        ),
        bars(
            "By direction",
            "Net R and trades by direction.",
            NONE,
            _by("direction", "direction"),
            "direction",
            width=6,
            overrides=EACH_ITS_SCALE,
        ),
        bars(
            "By regime",
            "Net R and trades by the regime at entry.",
            NONE,
            _by("regime", "regime"),
            "regime",
            width=6,
            overrides=EACH_ITS_SCALE,
        ),
        bars(
            "By instrument",
            "Net R and trades by instrument.",
            NONE,
            _by("instrument", "instrument"),
            "instrument",
            width=6,
            overrides=EACH_ITS_SCALE,
        ),
        panel(
            "xychart",
            "Best and worst while open",
            "Every closed trade: how far it went against us (x) and for us (y), in R.",
            R,
            rows(f'SELECT mae_r AS "worst", mfe_r AS "best" FROM trades_closed WHERE {CHOSEN} LIMIT 5000'),
            options={"mapping": "auto", "series": [{}], "legend": {"displayMode": "hidden"}},
            custom={"show": "points", "pointSize": {"fixed": 5}},
        ),
        bars(
            "Costs by strategy",
            "Fees, funding and slippage of closed trades, in R.",
            R,
            rows(
                f"SELECT strategy_name AS strategy, sum(fee_r) AS fees, sum(funding_r) AS funding, sum(slippage_r) AS slippage"
                f" FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"
            ),
            "strategy",
            stack=True,
        ),
        lines(
            "A against B: equity",
            "Cumulated net R of the two strategies chosen as A and B.",
            R,
            series(
                f"SELECT event_time AS \"time\", strategy_name || ' (' || strategy_id || ')' AS metric, sum(net_r) OVER ({IN_ORDER}) AS equity"
                f" FROM trades_closed WHERE {BOTH} ORDER BY 1"
            ),
            custom={"lineInterpolation": "stepAfter"},
        ),
        table(
            "A against B: figures", "The two side by side, with 95 % intervals (from, to). A verdict: perpflow compare.", NONE, rows(SIDES)
        ),
        table(
            "Open positions",
            "What is open or pending now, whatever the range; floating is R at the newest price: what TP1 banked and what is open, per money at risk.",
            NONE,
            rows(OPEN),
            {"realised": QUOTE, "floating": R},
            width=24,
            height=6,
        ),
        table(
            "Closed trades",
            "The newest 500 of the range. A click on the signal's id says why it was taken.",
            NONE,
            rows(TRADES),
            {
                "score": OF_HUNDRED,
                "net R": R,
                "net money": QUOTE,
                "fees": QUOTE,
                "funding": QUOTE,
                "best": R,
                "worst": R,
                "held": MILLISECONDS,
            },
            width=24,
            height=12,
            overrides=[
                {
                    "matcher": {"id": "byName", "options": "why"},
                    "properties": [
                        {
                            "id": "links",
                            "value": [
                                {"title": "Why", "url": "/d/perpflow-signals?var-score=${__value.raw:percentencode}&${__url_time_range}"}
                            ],
                        }
                    ],
                }
            ],
        ),
    ]
    ids = "SELECT strategy_id FROM strategy_registry ORDER BY 1"
    return page(
        "strategies",
        "Strategies",
        "What came out: results in R and money, where they come from, and two strategies side by side.",
        panels,
        [CHOOSE_MODE, CHOOSE_STRATEGY, choice("a", "A", ids), choice("b", "B", f"{ids} DESC", sort=0)],
        since="now-30d",
        refresh="1m",
        empty="No trade of the chosen strategies was closed in the range.",
        empties={
            "Win rate and profit factor": "No trade, no win or no loss in the range.",
            "Sharpe": f"Too few daily returns: fewer than {LEAST_DAILY_RETURNS} days from the first entry to the last close.",
            "Win rate of the last 20 trades": "No strategy has closed 20 trades in the range.",
            "Open positions": "Nothing is open.",
            "A against B: equity": "Neither A nor B has closed a trade in the range.",
            "A against B: figures": "Too few trades of A or B in the range.",
        },
    )

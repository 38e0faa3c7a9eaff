"""What execution cost (TCA): slippage and shortfall, fees and maker share, delays, orders and their ends."""

from __future__ import annotations

from deploy.grafana.build import (
    BASIS_POINTS,
    BIN,
    CHOOSE_MODE,
    CHOOSE_STRATEGY,
    COUNT,
    GREEN,
    IN_RANGE,
    MILLISECONDS,
    NONE,
    QUOTE,
    RED,
    SECONDS,
    SHARE,
    Json,
    R,
    bars,
    lines,
    page,
    prom,
    rows,
    series,
    stat,
    table,
)

CHOSEN = f"{IN_RANGE} AND mode = ${{mode:sqlstring}} AND strategy_id IN (${{strategy:sqlstring}})"
# What a fill was worse than its reference, positive when it cost.
SLIPPAGE = "(price / reference_price - 1) * 10000 * CASE side WHEN 'BUY' THEN 1 ELSE -1 END"

LEGS = f"""SELECT leg, liquidity, count(*) AS fills, sum(price * quantity) AS notional, sum(fee) AS fees,
  sum({SLIPPAGE} * price * quantity) / nullif(sum(price * quantity), 0) AS mean, percentile_cont(0.5) WITHIN GROUP (ORDER BY {SLIPPAGE}) AS median,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY {SLIPPAGE}) AS p95, max({SLIPPAGE}) AS most
FROM fills WHERE {CHOSEN} AND reference_price > 0 GROUP BY 1, 2 ORDER BY 1, 2"""

# From the price that the signal saw to the price paid: waiting and slippage together (implementation shortfall, Perold 1988).
SHORTFALL = f"""SELECT t.event_time, t.strategy_name, t.entry_time, t.signal_time,
  (t.entry_price / s.price - 1) * 10000 * CASE t.direction WHEN 'LONG' THEN 1 ELSE -1 END AS bp,
  extract(epoch FROM t.entry_time - t.signal_time)::float8 * 1000 AS delay
FROM (SELECT * FROM trades_closed WHERE {CHOSEN}) t
JOIN signals s ON s.signal_id = t.signal_id AND s.event_time = t.signal_time AND s.price > 0"""

ORDERS = f"""SELECT leg, type, status, count(*) AS orders FROM orders WHERE {CHOSEN} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
REASONS = f"""SELECT status, coalesce(reason, '') AS reason, count(*) AS orders FROM orders WHERE {CHOSEN} AND status IN ('rejected', 'cancelled')
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 50"""

HELD = f"""SELECT CASE WHEN hold_ms < 300000 THEN '1: under 5 min' WHEN hold_ms < 1800000 THEN '2: 5 to 30 min' WHEN hold_ms < 7200000 THEN '3: 30 min to 2 h'
  ELSE '4: 2 h and more' END AS held, count(*) AS trades, sum(net_r) AS "net R" FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"""

FILLS = f"""SELECT event_time, instrument, strategy_id, leg, side, liquidity, price, reference_price AS reference, quantity, price * quantity AS notional, fee,
  {SLIPPAGE} AS slippage, order_id FROM fills WHERE {CHOSEN} AND reference_price > 0 ORDER BY event_time DESC LIMIT 300"""


def _one(figure: str) -> str:
    return f"SELECT {figure} FROM fills WHERE {CHOSEN}"


def board() -> Json:
    """Return the dashboard."""
    panels = [
        stat("Fills", "Fills in the range.", COUNT, rows(_one("count(*)"))),
        stat("Turnover", "Notional of all fills.", QUOTE, rows(_one("sum(price * quantity)"))),
        stat("Fees", "Fees of all fills.", QUOTE, rows(_one("sum(fee)"))),
        stat(
            "Maker share",
            "Share of the notional that was filled as maker.",
            SHARE,
            rows(_one("coalesce(sum(price * quantity) FILTER (WHERE liquidity = 'maker'), 0) / nullif(sum(price * quantity), 0)")),
        ),
        stat(
            "Slippage",
            "Mean slippage of all fills, weighted by notional; positive costs.",
            BASIS_POINTS,
            rows(_one(f"sum({SLIPPAGE} * price * quantity) / nullif(sum(price * quantity), 0)") + " AND reference_price > 0"),
            ((None, GREEN), (5, "orange"), (20, RED)),
        ),
        stat(
            "Rejected",
            "Share of the orders' ends that were rejections.",
            SHARE,
            rows(f"SELECT avg((status = 'rejected')::int) FROM orders WHERE {CHOSEN} AND status IN ('filled', 'cancelled', 'rejected')"),
            ((None, GREEN), (0.1, RED)),
        ),
        lines(
            "Costs by day",
            "Mean costs of the trades closed in a day, in R: fees, funding, slippage.",
            R,
            series(
                "SELECT date_bin(interval '1 day', event_time, timestamptz 'epoch') AS \"time\","
                " avg(fee_r) AS fees, avg(funding_r) AS funding, avg(slippage_r) AS slippage"
                f" FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"
            ),
            style="bars",
            stack=True,
        ),
        lines(
            "Slippage by leg",
            "Slippage of each step's fills by leg, weighted by notional; positive costs.",
            BASIS_POINTS,
            series(
                f'SELECT {BIN} AS "time", leg AS metric, sum({SLIPPAGE} * price * quantity) / nullif(sum(price * quantity), 0) AS slippage'
                f" FROM fills WHERE {CHOSEN} AND reference_price > 0 GROUP BY 1, 2 ORDER BY 1"
            ),
            style="points",
            interval="1m",
        ),
        table(
            "Fills by leg",
            "Slippage in 1/10,000 of the price, positive costs; the mean is weighted by notional.",
            BASIS_POINTS,
            rows(LEGS),
            {"fills": COUNT, "notional": QUOTE, "fees": QUOTE},
            width=24,
        ),
        lines(
            "Implementation shortfall",
            "Entry price against the price that the signal saw, by strategy: what waiting and slippage cost together; positive costs.",
            BASIS_POINTS,
            series(f'SELECT event_time AS "time", strategy_name AS metric, bp FROM ({SHORTFALL}) s ORDER BY 1'),
            style="points",
        ),
        lines(
            "From signal to entry",
            "Market time between the evaluated instant and the entry's trade: lateness allowed, latency modelled, and the next trade.",
            MILLISECONDS,
            series(f'SELECT entry_time AS "time", strategy_name AS metric, delay FROM ({SHORTFALL}) s ORDER BY 1'),
            style="points",
        ),
        table(
            "Shortfall by strategy",
            "Entry against the price at the signal, in 1/10,000; delays in milliseconds of market time.",
            BASIS_POINTS,
            rows(
                f"SELECT strategy_name AS strategy, count(*) AS entries, avg(bp) AS mean, percentile_cont(0.5) WITHIN GROUP (ORDER BY bp) AS median,"
                f' percentile_cont(0.95) WITHIN GROUP (ORDER BY bp) AS p95, percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS "delay p50",'
                f' percentile_cont(0.95) WITHIN GROUP (ORDER BY delay) AS "delay p95" FROM ({SHORTFALL}) s GROUP BY 1 ORDER BY 1'
            ),
            {"entries": COUNT, "delay p50": MILLISECONDS, "delay p95": MILLISECONDS},
        ),
        table("Orders", "Records of orders by leg, type and status.", COUNT, rows(ORDERS)),
        table("Why orders ended unfilled", "Rejections and cancellations by reason.", COUNT, rows(REASONS)),
        bars("Holding time", "Closed trades and their net R by how long they were held.", NONE, rows(HELD), "held"),
        lines(
            "Open positions",
            "Open positions by mode, from the executor.",
            COUNT,
            prom("sum by (mode) (perpflow_positions_open)", "{{mode}}"),
            width=8,
        ),
        lines(
            "Orders and trades",
            "Order records by leg and status, and closed trades by exit, in each minute.",
            COUNT,
            prom("sum by (leg, status) (increase(perpflow_orders_total[1m]))", "{{leg}} {{status}}"),
            prom("sum by (exit_reason) (increase(perpflow_trades_closed_total[1m]))", "closed: {{exit_reason}}"),
            style="bars",
            width=8,
        ),
        lines(
            "Executor behind",
            "Age of the newest step that the executor has acted on, by partition.",
            SECONDS,
            prom("time() - perpflow_executor_event_time_seconds", "partition {{partition}}"),
            width=8,
        ),
        table(
            "Newest fills",
            "The newest 300 fills of the range.",
            NONE,
            rows(FILLS),
            {"notional": QUOTE, "fee": QUOTE, "slippage": BASIS_POINTS},
            width=24,
            height=10,
        ),
    ]
    return page(
        "execution",
        "Execution and costs",
        "What orders became, what they cost, and how long they took.",
        panels,
        [CHOOSE_MODE, CHOOSE_STRATEGY],
        since="now-7d",
        refresh="30s",
    )

"""Transaction costs (TCA): slippage and shortfall, fees and maker share, delays, orders and their outcomes."""

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
    PER_MINUTE,
    QUOTE,
    RED,
    SECONDS,
    SHARE,
    Json,
    R,
    bars,
    by_name,
    lines,
    matching,
    page,
    prom,
    rows,
    series,
    stat,
    table,
)

CHOSEN = f"{IN_RANGE} AND mode = ${{mode:sqlstring}} AND strategy_id IN (${{strategy:sqlstring}})"
# Slippage of a fill against its reference; positive is a cost.
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
REASONS = f"""SELECT status, coalesce(reason, 'none given') AS reason, count(*) AS orders FROM orders WHERE {CHOSEN} AND status IN ('rejected', 'cancelled')
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 50"""

HELD = f"""SELECT CASE WHEN hold_ms < 300000 THEN '1: under 5 min' WHEN hold_ms < 1800000 THEN '2: 5 to 30 min' WHEN hold_ms < 7200000 THEN '3: 30 min to 2 h'
  ELSE '4: 2 h and more' END AS held, count(*) AS trades, sum(net_r) AS "net R" FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"""

FILLS = f"""SELECT event_time, instrument, strategy_id, leg, side, liquidity, price, reference_price AS reference, quantity, price * quantity AS notional, fee,
  {SLIPPAGE} AS slippage, order_id FROM fills WHERE {CHOSEN} AND reference_price > 0 ORDER BY event_time DESC LIMIT 300"""


# The same state is written again every two seconds: what differs from the one before, of the newest day of the range at most. (The view
# risk_state_changes would read the whole history.)
GUARD = f"""SELECT event_time, account, state, NOT block_entries AS "may open", close_all AS "closes all", rules FROM (
  SELECT *, lag(said) OVER (PARTITION BY account ORDER BY sequence) AS before FROM (
    SELECT *, concat_ws('|', state, block_entries, close_all, rules) AS said FROM risk_state CROSS JOIN LATERAL (
      SELECT coalesce(string_agg(one->>'rule', ', ' ORDER BY one->>'rule'), '') AS rules FROM jsonb_array_elements(reasons) one) r
    WHERE {IN_RANGE} AND event_time > timestamptz $__timeTo() - interval '1 day') s) t
WHERE said IS DISTINCT FROM before ORDER BY event_time DESC LIMIT 200"""
COMMANDS = f"""SELECT event_time, account, command, "by", reason FROM risk_commands WHERE {IN_RANGE} ORDER BY event_time DESC LIMIT 200"""

# Live trades only: the paper executor's fills are modelled, and their costs are in their trades.
LIVE_COSTS = f"""SELECT strategy_id AS strategy, count(*) AS trades, avg(friction_r) AS friction, avg(slippage_bps_entry) AS "slippage entry",
  avg(slippage_bps_exit) AS "slippage exit", avg(maker_ratio_entry) AS "maker entry", avg(maker_ratio_tp) AS "maker targets",
  avg(entry_fill_ratio) AS "entry filled", sum(entry_timeout::int) AS timeouts, sum(tp_overshoot) AS "targets taken",
  percentile_cont(0.95) WITHIN GROUP (ORDER BY signal_to_order_ms) AS "to order p95",
  percentile_cont(0.95) WITHIN GROUP (ORDER BY order_to_fill_ms) AS "to fill p95", max(protection_gap_ms) AS "without stop"
FROM execution_cost_events WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"""
COMPARISONS = f"""SELECT event_time, account, cause, state, duration_ms AS took, orders, positions, wallet, (SELECT coalesce(string_agg(concat_ws(' ',
    one->>'kind', one->>'symbol', one->>'subject', '(journal', one->>'journal' || ',', 'venue', one->>'venue' || '):', one->>'action'), '; '), '')
  FROM jsonb_array_elements(findings) one) AS findings
FROM reconciliations WHERE {IN_RANGE} ORDER BY event_time DESC LIMIT 200"""


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
            "Mean slippage of all fills, weighted by notional. Positive is a cost.",
            BASIS_POINTS,
            rows(_one(f"sum({SLIPPAGE} * price * quantity) / nullif(sum(price * quantity), 0)") + " AND reference_price > 0"),
            ((None, GREEN), (5, "orange"), (20, RED)),
        ),
        stat(
            "Rejected",
            "Share of finished orders that were rejected.",
            SHARE,
            rows(f"SELECT avg((status = 'rejected')::int) FROM orders WHERE {CHOSEN} AND status IN ('filled', 'cancelled', 'rejected')"),
            ((None, GREEN), (0.1, RED)),
        ),
        bars(
            "Costs by day",
            "Mean costs of the trades closed in a UTC day, in R: fees, funding, slippage.",
            R,
            rows(
                "SELECT to_char(event_time AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, avg(fee_r) AS fees, avg(funding_r) AS funding,"
                f" avg(slippage_r) AS slippage FROM trades_closed WHERE {CHOSEN} GROUP BY 1 ORDER BY 1"
            ),
            "day",
            stack=True,
        ),
        lines(
            "Slippage by leg",
            "Slippage of the fills of each step by leg, weighted by notional. Positive is a cost.",
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
            "Slippage in 1/10,000 of the price; positive is a cost. The mean is weighted by notional.",
            BASIS_POINTS,
            rows(LEGS),
            {"fills": COUNT, "notional": QUOTE, "fees": QUOTE},
            width=24,
        ),
        lines(
            "Implementation shortfall",
            "Entry price against the signal's price, by strategy: cost of delay and slippage together. Positive is a cost.",
            BASIS_POINTS,
            series(f'SELECT event_time AS "time", strategy_name AS metric, bp FROM ({SHORTFALL}) s ORDER BY 1'),
            style="points",
        ),
        lines(
            "From signal to entry",
            "Event time from the evaluation instant to the entry's trade: allowed lateness, modelled latency, wait for the next trade.",
            MILLISECONDS,
            series(f'SELECT entry_time AS "time", strategy_name AS metric, delay FROM ({SHORTFALL}) s ORDER BY 1'),
            style="points",
        ),
        table(
            "Shortfall by strategy",
            "Entry against the signal's price, in 1/10,000. Positive is a cost. Delays are in event time.",
            BASIS_POINTS,
            rows(
                f"SELECT strategy_name AS strategy, count(*) AS entries, avg(bp) AS mean, percentile_cont(0.5) WITHIN GROUP (ORDER BY bp) AS median,"
                f' percentile_cont(0.95) WITHIN GROUP (ORDER BY bp) AS p95, percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS "delay p50",'
                f' percentile_cont(0.95) WITHIN GROUP (ORDER BY delay) AS "delay p95" FROM ({SHORTFALL}) s GROUP BY 1 ORDER BY 1'
            ),
            {"entries": COUNT, "delay p50": MILLISECONDS, "delay p95": MILLISECONDS},
        ),
        table("Orders", "Records of orders by leg, type and status.", COUNT, rows(ORDERS)),
        table("Reasons of unfilled orders", "Rejections and cancellations by reason.", COUNT, rows(REASONS)),
        bars(
            "Holding time",
            "Closed trades and their net R by how long they were held.",
            NONE,
            rows(HELD),
            "held",
            overrides=[by_name("net R", "unit", R), by_name("trades", "unit", COUNT)],
        ),
        lines(
            "Open positions",
            "Open positions by mode, from the executor.",
            COUNT,
            prom("sum by (mode) (perpflow_positions_open)", "{{mode}}"),
            width=8,
        ),
        lines(
            "Orders and trades",
            "Order records by status, and closed trades by exit, a minute.",
            PER_MINUTE,
            prom("sum by (status) (rate(perpflow_orders_total[$__rate_interval])) * 60", "orders {{status}}"),
            prom("sum by (exit_reason) (rate(perpflow_trades_closed_total[$__rate_interval])) * 60", "closed: {{exit_reason}}"),
            width=8,
        ),
        lines(
            "Executor behind",
            "Age of the newest evaluation that the executor has processed, by partition.",
            SECONDS,
            prom("time() - perpflow_executor_event_time_seconds", "partition {{partition}}"),
            width=8,
        ),
        lines(
            "Risk guard state",
            "State of the risk guard by account: normal, warning, halted. When halted, no position is opened.",
            NONE,
            prom("perpflow_guard_state", "{{account}}"),
            custom={"lineInterpolation": "stepAfter"},
            defaults={
                "min": 0,
                "max": 2,
                "mappings": [{"type": "value", "options": {"0": {"text": "normal"}, "1": {"text": "warning"}, "2": {"text": "halted"}}}],
            },
            width=8,
        ),
        lines(
            "Rules that hold",
            "Active rules of the risk guard, by account.",
            COUNT,
            prom("perpflow_guard_rule > 0", "{{account}} {{rule}}"),
            custom={"lineInterpolation": "stepAfter"},
            width=8,
        ),
        lines(
            "Day's result",
            "Net R of the UTC day that counts against the daily limit, open positions included.",
            R,
            prom("perpflow_guard_day_r", "{{account}}"),
            width=8,
        ),
        table(
            "Costs of live trades",
            "What live trades cost by strategy: friction (fees and slippage) in R, slippage against the references in 1/10,000 (positive costs), maker"
            " shares, delays by our clock, and the longest time in which an open quantity had no confirmed stop.",
            BASIS_POINTS,
            rows(LIVE_COSTS),
            {
                **dict.fromkeys(("trades", "timeouts", "targets taken"), COUNT),
                "friction": R,
                **dict.fromkeys(("maker entry", "maker targets", "entry filled"), SHARE),
                **dict.fromkeys(("to order p95", "to fill p95", "without stop"), MILLISECONDS),
            },
            width=24,
        ),
        lines(
            "Friction of live trades",
            "Fees and slippage of each live trade, by strategy.",
            R,
            series(
                f'SELECT event_time AS "time", strategy_id AS metric, friction_r AS friction FROM execution_cost_events WHERE {CHOSEN} ORDER BY 1'
            ),
            style="points",
            width=8,
        ),
        lines(
            "Reconciliations",
            "Comparisons of the journal with each venue account: green, yellow (differences, entries allowed), red (entries blocked).",
            COUNT,
            series(
                f"SELECT {BIN} AS \"time\", concat(account, ' ', state) AS metric, count(*) AS comparisons"
                f" FROM reconciliations WHERE {IN_RANGE} GROUP BY 1, 2 ORDER BY 1"
            ),
            style="bars",
            stack=True,
            interval="1m",
            width=16,
            overrides=[matching(f" {state}$", "color", {"mode": "fixed", "fixedColor": state}) for state in (GREEN, "yellow", RED)],
        ),
        table(
            "Reconciliation findings",
            "The newest 200 reconciliations. Each lists the differences that two readings confirmed, and the action taken.",
            NONE,
            rows(COMPARISONS),
            {"took": MILLISECONDS, "orders": COUNT, "positions": COUNT, "wallet": QUOTE},
            width=24,
        ),
        table(
            "Guard state changes",
            "Each change of the risk guard's state, with the rules active from then on.",
            NONE,
            rows(GUARD),
            width=12,
        ),
        table(
            "Commands to the guard",
            "Commands that people gave the risk guard, with their reasons.",
            NONE,
            rows(COMMANDS),
            width=12,
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
        "Outcome, cost and delay of orders.",
        panels,
        [CHOOSE_MODE, CHOOSE_STRATEGY],
        since="now-7d",
        refresh="30s",
        empty="No fill of the chosen strategies in the range.",
        empties={
            **dict.fromkeys(("Rejected", "Orders", "Reasons of unfilled orders"), "No order of this kind in the range."),
            **dict.fromkeys(
                ("Costs by day", "Implementation shortfall", "From signal to entry", "Shortfall by strategy", "Holding time"),
                "No trade of the chosen strategies was closed in the range.",
            ),
            **dict.fromkeys(("Risk guard state", "Day's result", "Guard state changes"), "No risk guard runs: paper trading needs none."),
            **dict.fromkeys(
                ("Costs of live trades", "Friction of live trades"), "No live trade of the chosen strategies was closed in the range."
            ),
            **dict.fromkeys(("Reconciliations", "Reconciliation findings"), "No live executor ran a reconciliation in the range."),
            "Rules that hold": "No rule is active, or no risk guard runs.",
            "Commands to the guard": "No command was given to the guard in the range.",
            "Orders and trades": "No executor has sent an order in the range.",
        },
    )

"""Execution cost by strategy, instrument, account mode and component. Paper is the expectation; testnet and live are what came of it.

Every mean has its count: a component that a trade does not have (null) counts nowhere.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sinks.console.database import Connection

# Component -> its value of one trade (SQL over cost ``c`` and closed trade ``t``), its unit, its meaning. A positive value is a cost.
COMPONENTS: dict[str, tuple[str, str, str]] = {
    "fees": ("1e4 * c.fees / nullif(c.notional, 0)", "bps", "Fees of the round trip, of the entry's value"),
    "slippage": ("1e4 * c.slippage / nullif(c.notional, 0)", "bps", "Slippage of the round trip, of the entry's value"),
    "slippage_entry": ("c.slippage_bps_entry", "bps", "Slippage of the entry"),
    "slippage_exit": ("c.slippage_bps_exit", "bps", "Slippage of the exits"),
    "funding": ("1e4 * t.funding / nullif(c.notional, 0)", "bps", "Funding paid, of the entry's value"),
    "friction": ("c.friction_r", "R", "Fees and slippage"),
    "maker_ratio_entry": ("c.maker_ratio_entry", "fraction", "Share of the entry that filled as maker"),
    "signal_to_order": ("c.signal_to_order_ms", "ms", "From the decision to the first order"),
    "order_to_fill": ("coalesce(c.order_to_fill_ms, c.order_to_venue_fill_ms)", "ms", "From the first order to the first fill"),
}
# Sums in quote units.
_SUMS = {"notional": "c.notional", "fees": "c.fees", "slippage": "c.slippage", "funding": "t.funding"}
_QUERY = (
    "SELECT c.strategy_id, c.instrument, c.mode, count(*) AS trades, count(*) FILTER (WHERE c.fee_estimated) AS fees_estimated,"
    + ", ".join(f"avg(({of})::double precision) AS mean_{name}, count({of}) AS count_{name}" for name, (of, _, _) in COMPONENTS.items())
    + ", "
    + ", ".join(f"sum({of}) AS sum_{name}" for name, of in _SUMS.items())
    # A trade that was written again counts once, as it was written last.
    + " FROM (SELECT DISTINCT ON (trade_id) * FROM execution_cost_events"
    "   WHERE (%(strategy)s::text IS NULL OR strategy_id = %(strategy)s) AND (%(instrument)s::text IS NULL OR instrument = %(instrument)s)"
    "     AND (%(since)s::timestamptz IS NULL OR event_time >= %(since)s) AND (%(until)s::timestamptz IS NULL OR event_time < %(until)s)"
    "   ORDER BY trade_id, event_time DESC, kafka_offset DESC) c"
    " LEFT JOIN LATERAL (SELECT funding FROM trades_closed WHERE trade_id = c.trade_id AND instrument = c.instrument"
    "   ORDER BY event_time DESC, kafka_offset DESC LIMIT 1) t ON true"
    " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)


async def summary(
    connection: Connection, strategy_id: str | None, instrument: str | None, since: datetime | None, until: datetime | None
) -> list[dict[str, Any]]:
    """Return a row for each strategy, instrument and mode: sums in quote units, and each component's mean with its count (None without any)."""
    rows = await (
        await connection.execute(_QUERY, {"strategy": strategy_id, "instrument": instrument, "since": since, "until": until})  # type: ignore[call-overload]
    ).fetchall()
    return [
        {
            **{name: row[name] for name in ("strategy_id", "instrument", "mode", "trades", "fees_estimated")},
            "sums": {name: row[f"sum_{name}"] for name in _SUMS},
            "components": {name: {"mean": row[f"mean_{name}"], "count": row[f"count_{name}"]} for name in COMPONENTS},
        }
        for row in rows
    ]

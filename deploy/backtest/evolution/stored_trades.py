"""The stored paper trades of strategies: what auto-evolve judges running strategies by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.research.splits import Interval

# A trade counts by its exit, and only on the instruments that the strategy has now (S1 9.2).
_QUERY = """SELECT strategy_id, instrument, trade_id, net_r, (extract(epoch FROM event_time) * 1000)::bigint AS event_time
FROM trades_closed WHERE mode = 'paper' AND strategy_id = ANY(%(strategies)s)
  AND event_time >= to_timestamp(%(begin)s::bigint / 1000.0) AND event_time < to_timestamp(%(end)s::bigint / 1000.0)
ORDER BY event_time, trade_id"""


def paper_trades(settings: Settings, strategies: Sequence[StrategyConfig], within: Interval) -> dict[str, list[dict[str, Any]]]:
    """Return strategy -> its paper trades closed within an interval, in order of their exits; ``event_time`` in ms UTC, ``net_r`` in R.

    Raises:
        UserError: the database does not answer or has no such table.
    """
    found: dict[str, list[dict[str, Any]]] = {one.strategy_id: [] for one in strategies}
    instruments = {one.strategy_id: one.all_instruments for one in strategies}
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10, row_factory=dict_row) as connection:
            rows = connection.execute(_QUERY, {"strategies": list(found), "begin": within.begin, "end": within.end})
            for row in rows:
                if row["instrument"] in instruments[row["strategy_id"]]:
                    found[row["strategy_id"]].append(row)
    except psycopg.Error as error:
        raise UserError(f"evolve: cannot read the stored paper trades (DATABASE_URL; `perpflow db migrate`): {error}") from error
    return found

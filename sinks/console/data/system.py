"""State of the system as the database shows it."""

from __future__ import annotations

from typing import Any

from sinks.console.data.records import shown
from sinks.console.database import Connection

_QUERIES = {
    "sinks": "SELECT sink, count(DISTINCT topic) AS topics, count(*) AS partitions, max(updated_at) AS updated_at FROM sink_offsets"
    " GROUP BY sink ORDER BY sink",
    "guards": "SELECT account, state, block_entries, event_time, reasons FROM risk_state_current ORDER BY account",
    "quality": "SELECT * FROM data_quality_venues ORDER BY venue, stream",
    "dead_letters": "SELECT service, source, count(*) AS records, max(event_time) AS event_time FROM dead_letters"
    " WHERE event_time > now() - interval '1 day' GROUP BY service, source ORDER BY 3 DESC LIMIT 50",
    "tables": "SELECT relname AS name, pg_total_relation_size(c.oid) AS bytes FROM pg_class c WHERE relnamespace = 'public'::regnamespace"
    " AND relkind IN ('r', 'm') ORDER BY 2 DESC LIMIT 15",
}


async def state(connection: Connection) -> dict[str, Any]:
    """Return sinks, guards, data quality by venue, dead letters of a day, largest tables, size of the database (bytes)."""
    found: dict[str, Any] = {}
    for name, query in _QUERIES.items():
        found[name] = [shown(row) for row in await (await connection.execute(query)).fetchall()]
    row = await (await connection.execute("SELECT pg_database_size(current_database()) AS bytes, version() AS server")).fetchone()
    assert row is not None
    return {**found, "database_bytes": row["bytes"], "database_server": row["server"].partition(" on ")[0]}

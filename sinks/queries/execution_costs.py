"""Execution costs from the database, and the routing table that they propose."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.live.rerouter import newest_routes
from stream_apps.core.execution.routing.proposal import ProposalRules, RowProposal
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.settings.routes import Route


def entries_of(settings: Settings, account: str, days: int) -> list[dict[str, Any]]:
    """Return the cost records of an account's trades of the last days.

    Raises:
        UserError: the database does not answer, or the table is missing.
    """
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10, row_factory=dict_row) as connection:
            return connection.execute(
                "SELECT DISTINCT ON (trade_id) trade_id, notional, maker_ratio_entry, slippage_bps_entry, entry_timeout"
                " FROM execution_cost_events WHERE starts_with(trade_id, %s) AND event_time >= now() - make_interval(days => %s)"
                " ORDER BY trade_id, event_time DESC",
                (f"{account}|", days),
            ).fetchall()
    except psycopg.Error as error:
        raise UserError(f"the database query failed (DATABASE_URL; `perpflow db migrate`): {error}") from error


def routes_in_force(settings: Settings, account: str, policy: LivePolicy) -> tuple[datetime, list[Route]] | None:
    """Return the time of the executor's last re-estimation of the policy's routing table and the active routes; None without one.

    Raises:
        UserError: the database does not answer, or the table is missing.
    """
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10) as connection:
            newest = newest_routes(connection, f"{settings.topic_prefix}{account}", policy.entry.routes)
    except psycopg.Error as error:
        raise UserError(f"the database query failed (DATABASE_URL; `perpflow db migrate`): {error}") from error
    return None if newest is None else (datetime.fromtimestamp(newest[0] / 1000, UTC), [one.route for one in newest[1]])


def toml_of(routes: list[Route], rules: ProposalRules, head: str) -> str:
    """Return a routing table as part of an execution policy (TOML), with ``head`` as its comment."""
    lines = [f"# {head}", f"# Rows with fewer than {rules.least} entries are as they were."]
    for one in routes:
        lines += [
            "",
            "[[entry.routes]]",
            f"from_notional = {one.from_notional:f}",
            f"maker_wait_ms = {one.maker_wait_ms}",
            f"slices = {one.slices}",
            f"spacing_ms = {one.spacing_ms}",
        ]
    return "\n".join(lines) + "\n"


def changed(found: list[RowProposal]) -> bool:
    """Return whether a proposal differs from the active table."""
    return any(one.proposed != one.now for one in found)

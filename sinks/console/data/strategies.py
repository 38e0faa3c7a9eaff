"""Strategies from the database: cards of the plaza, statistics and equity of the paper account."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sinks.console.data.records import ms_of, shown, times
from sinks.console.database import Connection, Row
from sinks.console.http.problems import Problem
from stream_apps.core.performance import STATISTICS, Ledger, evaluate, reason_of
from stream_apps.core.performance.intervals import wilson

# A running strategy without an evaluation for longer is in error (S2 11.5).
STALE = timedelta(minutes=5)
_TIMES = ("event_time", "signal_time", "entry_time")


def status_of(status: str, last_score: datetime | None, now: datetime) -> tuple[str, str | None]:
    """Return a card's status and the reason of an error (S2 11.5)."""
    if status != "running":
        return status, None
    if last_score is None:
        return "error", "no evaluation yet"
    if now - last_score > STALE:
        return "error", f"the last evaluation is older than {STALE.seconds // 60} min"
    return "running", None


async def cards(connection: Connection, now: datetime, status: str | None = None, strategy_id: str | None = None) -> list[dict[str, Any]]:
    """Return the cards of all strategies (S2 11.5) or of one, by id. Money is in quote units, R net of costs."""
    rows = await (
        await connection.execute(
            "SELECT r.strategy_id, r.revision, r.instrument, r.display_name, r.status, r.model, r.config_hash, r.created_at, r.config,"
            "  t.*, p.open_positions, s.last_score"
            " FROM strategy_registry r"
            " LEFT JOIN LATERAL (SELECT count(*) AS trade_count, count(*) FILTER (WHERE net_pnl > 0) AS wins, sum(net_pnl) AS net_pnl, sum(net_r) AS net_r,"
            "   avg(net_r) FILTER (WHERE net_pnl > 0) AS avg_win_r, avg(net_r) FILTER (WHERE net_pnl <= 0) AS avg_loss_r, stddev_samp(net_r) AS std_r,"
            "   sum(net_pnl) FILTER (WHERE event_time > %(day)s) AS pnl_24h, sum(net_r) FILTER (WHERE event_time > %(day)s) AS r_24h,"
            "   min(entry_time) AS started_at, max(event_time) AS last_trade_at"
            "   FROM trades_closed WHERE strategy_id = r.strategy_id AND mode = 'paper') t ON true"
            " LEFT JOIN LATERAL (SELECT count(*) AS open_positions FROM positions_current"
            "   WHERE strategy_id = r.strategy_id AND mode = 'paper' AND status IN ('open', 'tp1_hit')) p ON true"
            " LEFT JOIN LATERAL (SELECT max(last.event_time) AS last_score FROM strategy_instruments i CROSS JOIN LATERAL ("
            "     SELECT event_time FROM scores WHERE instrument = i.instrument AND strategy_id = i.strategy_id ORDER BY event_time DESC LIMIT 1) last"
            "   WHERE i.strategy_id = r.strategy_id) s ON true"
            " WHERE %(of)s::text IS NULL OR r.strategy_id = %(of)s ORDER BY r.strategy_id",
            {"day": now - timedelta(hours=24), "of": strategy_id},
        )
    ).fetchall()
    found = [_card(row, now) for row in rows]
    return [card for card in found if status is None or card["status"] == status]


def _card(row: Row, now: datetime) -> dict[str, Any]:
    config = row.pop("config")
    initial = config["initial_balance"] + config.get("added_balance", 0.0)
    wins, count = row.pop("wins"), row["trade_count"]
    low, high = wilson(wins, count)
    status, reason = status_of(row["status"], row["last_score"], now)
    return {
        **shown(row),
        "instruments": [row["instrument"], *config.get("instruments", [])],
        "status": status,
        "status_reason": reason,
        "configured_status": row["status"],
        "initial_balance": initial,
        "current_balance": initial + (row["net_pnl"] or 0.0),
        "win_rate": wins / count if count else None,
        "win_rate_interval_95": None if low is None else [low, high],
        "cvd_windows": [config["cvd_fast_window"], config["cvd_slow_window"]],
        "weights": {name: config[f"weight_{name}"] for name in ("direction", "env", "aux", "momentum")},
        "thresholds": {"entry_score": config["entry_score"], "flip_threshold": config["flip_threshold"]},
        "description": config.get("description"),
        "tags": config.get("tags", []),
    }


async def closed_trades(connection: Connection, strategy_id: str | None, mode: str, instrument: str | None = None) -> list[Row]:
    """Return closed trades in order of exit, times in ms."""
    rows = await (
        await connection.execute(
            "SELECT * FROM trades_closed WHERE mode = %(mode)s AND (%(strategy)s::text IS NULL OR strategy_id = %(strategy)s)"
            " AND (%(instrument)s::text IS NULL OR instrument = %(instrument)s) ORDER BY event_time, trade_id",
            {"mode": mode, "strategy": strategy_id, "instrument": instrument},
        )
    ).fetchall()
    return [{**row, **{name: ms_of(row[name]) for name in _TIMES}} for row in rows]


async def evaluated(connection: Connection, strategy_id: str | None) -> list[int]:
    """Return the times of the first and the last evaluation of a strategy, or of all together, ms UTC; empty before the first.

    They bound the period of its statistics: the clock of this machine says nothing about recorded or interrupted data.
    """
    row = await (
        await connection.execute(
            "SELECT min(first.event_time) AS first, max(last.event_time) AS last FROM strategy_instruments r"
            " CROSS JOIN LATERAL (SELECT event_time FROM scores WHERE instrument = r.instrument AND strategy_id = r.strategy_id"
            "   ORDER BY event_time LIMIT 1) first"
            " CROSS JOIN LATERAL (SELECT event_time FROM scores WHERE instrument = r.instrument AND strategy_id = r.strategy_id"
            "   ORDER BY event_time DESC LIMIT 1) last WHERE %(of)s::text IS NULL OR r.strategy_id = %(of)s",
            {"of": strategy_id},
        )
    ).fetchone()
    assert row is not None
    return [] if row["first"] is None else [ms_of(row["first"]), ms_of(row["last"])]


def ledger_of(trades: Iterable[Row], balance: float, period: Iterable[int]) -> Ledger:
    """Return the ledger of trades over a period (ms UTC), made longer where trades lie outside of it."""
    rows = list(trades)
    at = [*period, *(row["entry_time"] for row in rows), *(row["event_time"] for row in rows)] or [0]
    return Ledger.of(rows, balance, min(at), max(at))


def statistics(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return every statistic: value and unit, or null and its reason."""
    return {
        name: {"value": value, "unit": STATISTICS[name].unit, "group": STATISTICS[name].group}
        | ({"reason": reason_of(name, ledger)} if value is None else {})
        for name, value in evaluate(ledger).items()
    }


def equity(ledger: Ledger) -> dict[str, Any]:
    """Return the equity curve as columns: time of exit, cumulative R, money (quote units)."""
    return {"time_ms": list(ledger.curve_times), "cumulative_r": list(ledger.curve_r), "equity": list(ledger.curve_money)}


async def balance(connection: Connection, strategy_id: str | None) -> float:
    """Return the money that a strategy, or all strategies together, began with (initial and added, quote units)."""
    row = await (
        await connection.execute(
            "SELECT sum((config ->> 'initial_balance')::double precision + coalesce((config ->> 'added_balance')::double precision, 0)) AS money"
            " FROM strategy_registry WHERE %(of)s::text IS NULL OR strategy_id = %(of)s",
            {"of": strategy_id},
        )
    ).fetchone()
    if row is None or row["money"] is None:
        raise Problem(404, f"no strategy {strategy_id!r}" if strategy_id else "there are no strategies")
    return float(row["money"])


async def latest_scores(connection: Connection, instrument: str) -> list[dict[str, Any]]:
    """Return the newest score of every strategy of an instrument that is not deprecated, with its settings; ``score`` is None before the first."""
    rows = await (
        await connection.execute(
            "SELECT r.strategy_id, r.display_name, r.status, r.config, to_jsonb(s) AS score, s.event_time FROM strategy_instruments r"
            " LEFT JOIN LATERAL (SELECT * FROM scores WHERE instrument = r.instrument AND strategy_id = r.strategy_id"
            "   ORDER BY event_time DESC LIMIT 1) s ON true WHERE r.instrument = %s AND r.status <> 'deprecated' ORDER BY r.strategy_id",
            (instrument,),
        )
    ).fetchall()
    return [
        {
            "strategy_id": row["strategy_id"],
            "display_name": row["display_name"],
            "status": row["status"],
            "thresholds": {name: row["config"][name] for name in ("entry_score", "flip_threshold")},
            "score": None
            if row["score"] is None
            else {name: value for name, value in row["score"].items() if not name.startswith("kafka_")}
            | times(event_time=row["event_time"]),
        }
        for row in rows
    ]

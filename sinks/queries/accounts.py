"""Positions, orders and closed trades of all accounts, from the database.

Paper trades come from the topics' tables. Accounts at a venue come from the executor's journal, which is written before an order leaves and is never behind.
Prices are the newest quotes in the database.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.execution.orders.order import OrderState
from stream_apps.core.execution.orders.venue_reports import TimeInForce
from stream_apps.core.execution.state.records import order_id, status_of
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.performance.open_positions import money_at_risk, r_multiple

Row = dict[str, Any]
PAPER, MODES = "paper", ("paper", "simulated", "testnet", "live")
OPEN_POSITIONS, OPEN_ORDERS = ("pending", "open", "tp1_hit"), ("new", "partially_filled")


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """A filter; None means all.

    Attributes:
        mode: paper, simulated, testnet or live. strategy: Its id. symbol: Part of the instrument id.
    """

    mode: str | None = None
    strategy: str | None = None
    symbol: str | None = None

    def takes(self, row: Row) -> bool:
        """Return whether a row matches."""
        return (
            self.mode in (None, row["mode"])
            and self.strategy in (None, row["strategy_id"])
            and (self.symbol is None or self.symbol.upper() in row["instrument"])
        )


class AccountQueries:
    """Queries on one connection.

    Args:
        settings: Environment; the reader role suffices.
    """

    def __init__(self, settings: Settings, connection: psycopg.Connection[Row]) -> None:
        self._prefix, self._connection = settings.topic_prefix, connection

    # --- positions ------------------------------------------------------------------------------------------------------

    def positions(self, wanted: AccountFilter) -> list[Row]:
        """Return open and pending positions, with price and unrealised profit if a price is known."""
        rows = [row for row in [*self._paper_positions(), *map(_position_of, self._live())] if wanted.takes(row)]
        prices = self.prices({row["instrument"] for row in rows})
        for row in rows:
            row.update(valued(row, prices.get(row["instrument"])))
        return sorted(rows, key=lambda row: (row["account"] != PAPER, row["account"], row["instrument"], row["strategy_id"]))

    def _paper_positions(self) -> list[Row]:
        rows = self._connection.execute(
            "SELECT DISTINCT ON (position_id) * FROM positions WHERE mode = 'paper' ORDER BY position_id, event_time DESC, kafka_offset DESC"
        ).fetchall()
        return [
            {
                "account": PAPER,
                "mode": PAPER,
                **{name: row[name] for name in ("position_id", "instrument", "strategy_id", "direction", "status", "open_quantity")},
                **{name: row[name] for name in ("quantity", "entry_price", "stop_price", "tp1_price", "tp2_price")},
                "at_risk": money_at_risk(row),
                "realised": row["realised_pnl"],
                "since": row["entry_time"],
                "protection": "model",
                "gap_ms": None,
                "closing": None,
                "last_price": None,
            }
            for row in rows
            if row["status"] in OPEN_POSITIONS
        ]

    def _live(self) -> list[tuple[str, Trade]]:
        rows = self._connection.execute("SELECT account, state FROM live_trades WHERE over_at IS NULL ORDER BY trade_key").fetchall()
        ours = [row for row in rows if row["account"].startswith(self._prefix)]
        return [(row["account"].removeprefix(self._prefix), Trade.from_json(row["state"])) for row in ours]

    def prices(self, instruments: Iterable[str]) -> dict[str, tuple[float, datetime]]:
        """Return the newest mid of each instrument and its time."""
        found = {}
        for instrument in instruments:
            row = self._connection.execute(
                "SELECT (bid_price + ask_price) / 2 AS price, event_time FROM quotes WHERE instrument = %s ORDER BY event_time DESC LIMIT 1",
                (instrument,),
            ).fetchone()
            if row is not None:
                found[instrument] = (row["price"], row["event_time"])
        return found

    # --- orders -----------------------------------------------------------------------------------------------------------

    def orders(self, wanted: AccountFilter, *, every: bool, limit: int) -> list[Row]:
        """Return the open orders, or with ``every`` the newest orders of any state; newest first."""
        rows = self._connection.execute(
            "SELECT DISTINCT ON (order_id) * FROM orders ORDER BY order_id, event_time DESC, kafka_offset DESC"
        ).fetchall()
        found = {row["order_id"]: {**row, "account": _account_of(row["position_id"], row["mode"]), "filled": None} for row in rows}
        for account, trade in self._live():
            found.update({row["order_id"]: row for row in _orders_of(account, trade)})
        kept = [row for row in found.values() if wanted.takes(row) and (every or row["status"] in OPEN_ORDERS)]
        return sorted(kept, key=lambda row: row["event_time"], reverse=True)[:limit]

    # --- trades -----------------------------------------------------------------------------------------------------------

    def trades(self, wanted: AccountFilter, limit: int | None) -> list[Row]:
        """Return closed trades, newest first, with their execution cost (columns of ``execution_cost_events``; None without a record)."""
        rows = self._connection.execute(
            "SELECT DISTINCT ON (t.trade_id) t.*, c.maker_ratio_entry, c.maker_ratio_tp, c.friction_r, c.slippage_bps_entry, c.slippage_bps_exit,"
            " c.entry_timeout, c.tp_overshoot, c.flips, c.stops_placed, c.signal_to_order_ms, c.order_to_fill_ms, c.protection_gap_ms,"
            " c.notional, c.slippage, c.trade_id IS NOT NULL AS measured"
            " FROM trades_closed t LEFT JOIN execution_cost_events c ON c.trade_id = t.trade_id"
            " ORDER BY t.trade_id, t.event_time DESC"
        ).fetchall()
        found = [{**row, "account": _account_of(row["trade_id"], row["mode"])} for row in rows if wanted.takes(row)]
        return sorted(found, key=lambda row: (row["event_time"], row["trade_id"]), reverse=True)[:limit]


@contextmanager
def open_accounts(settings: Settings) -> Any:
    """Yield ``AccountQueries``.

    Raises:
        UserError: the database does not answer, or its tables are missing.
    """
    if not settings.database_url:
        raise UserError("DATABASE_URL is not set; `perpflow stack env` prints it")
    try:
        with psycopg.connect(
            settings.role_url("reader"), connect_timeout=10, autocommit=True, row_factory=dict_row, options="-c timezone=UTC"
        ) as connection:
            yield AccountQueries(settings, connection)
    except psycopg.Error as error:
        raise UserError(f"the database query failed (DATABASE_URL; `perpflow db migrate`): {error}") from error


def valued(row: Row, price: tuple[float, datetime] | None) -> Row:
    """Return price, age of the price (seconds), unrealised profit (quote units) and R of a position; None if an input is missing.

    R is realised plus unrealised profit, divided by the risk.
    """
    value, at = price if price is not None else (row["last_price"], None)
    pnl = r = None
    if value is not None and row["entry_price"] is not None:
        sign = 1 if row["direction"] == "LONG" else -1
        pnl = sign * (value - row["entry_price"]) * row["open_quantity"]
        r = r_multiple(row["realised"], pnl, row["at_risk"])
    return {"price": value, "price_age_s": None if at is None else time.time() - at.timestamp(), "unrealised": pnl, "r": r}


def _position_of(found: tuple[str, Trade]) -> Row:
    account, trade = found
    position = trade.position
    return {
        "account": account,
        "mode": account.rpartition("-")[2],
        "position_id": trade.key,
        "instrument": position.instrument,
        "strategy_id": position.strategy_id,
        "direction": position.direction,
        "status": "queued" if trade.queued else position.status,
        "open_quantity": float(trade.exposure),
        "quantity": float(position.quantity),
        "entry_price": _float(trade.average_entry),
        "stop_price": _float(position.stop_price),
        "tp1_price": _float(position.tp1_price),
        "tp2_price": _float(position.tp2_price),
        "at_risk": float(position.risk),
        "realised": float(position.realised),
        "since": _time(position.entry_time),
        "protection": protection_of(trade),
        "gap_ms": trade.gap_ms,
        "closing": trade.closing,
        "last_price": position.last_price,
    }


def protection_of(trade: Trade) -> str:
    """Return what protects a position at its stop: ``venue``, ``venue pair``, ``partly``, ``NONE``, or ``-`` if nothing is open."""
    if trade.exposure <= 0:
        return "-"
    stops = [order for order in trade.live if order.is_stop and order.is_confirmed and order.state is not OrderState.CANCELLING]
    covered = sum((order.remaining for order in stops), Decimal(0))
    if covered <= 0:
        return "closing" if trade.closing is not None else "NONE"
    if trade.unprotected_since is not None:
        return "partly"
    return "venue pair" if all(order.pair_id is not None for order in stops) else "venue"


def _orders_of(account: str, trade: Trade) -> list[Row]:
    position = trade.position
    return [
        {
            "account": account,
            "mode": account.rpartition("-")[2],
            "order_id": order_id(trade, order),
            "position_id": trade.key,
            "instrument": position.instrument,
            "strategy_id": position.strategy_id,
            "event_time": _time(order.intended_at),
            "leg": order.leg,
            "side": order.side.value,
            "type": "MARKET" if order.time_in_force is TimeInForce.IOC else order.type.value,
            "price": _float(order.price if order.price is not None else order.trigger_price),
            "quantity": float(order.quantity),
            "filled": float(order.executed),
            "reduce_only": order.reduce_only,
            "status": order.state.value.lower() if not order.is_confirmed and not order.is_final else status_of(order),
            "reason": order.reason,
        }
        for order in trade.orders.values()
        if not order.foreign
    ]


def _account_of(key: str, mode: str) -> str:
    return key.partition("|")[0] if mode != PAPER else PAPER


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


# --- figures of execution -------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], part: float) -> float | None:
    """Return a percentile by nearest rank; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


def figures(trades: Sequence[Row]) -> dict[str, float | None]:
    """Return the KPIs of signal-engine-product 10.3 over measured trades: latencies (ms), slippage (bps) and the longest time without a stop (ms).

    Maker ratios are weighted by notional; None without measurements.
    """
    rows = [row for row in trades if row["measured"]]

    def mean(name: str) -> float | None:
        values = [float(row[name]) for row in rows if row[name] is not None]
        return sum(values) / len(values) if values else None

    def weighted(name: str) -> float | None:
        known = [(row["notional"], row[name]) for row in rows if row[name] is not None]
        weight = sum(notional for notional, _ in known)
        return sum(notional * value for notional, value in known) / weight if weight else None

    def ms(name: str, part: float) -> float | None:
        return percentile([row[name] for row in rows if row[name] is not None], part)

    return {
        "trades": float(len(rows)),
        "maker_ratio_entry": weighted("maker_ratio_entry"),
        "maker_ratio_tp": weighted("maker_ratio_tp"),
        "friction_r": mean("friction_r"),
        "entry_timeout_rate": mean("entry_timeout"),
        "tp_overshoot_rate": sum(row["tp_overshoot"] > 0 for row in rows) / len(rows) if rows else None,
        "flips": max((float(row["flips"]) for row in rows), default=None),
        "slippage_bps_entry": mean("slippage_bps_entry"),
        "slippage_bps_exit": mean("slippage_bps_exit"),
        "signal_to_order_p50_ms": ms("signal_to_order_ms", 0.5),
        "signal_to_order_p95_ms": ms("signal_to_order_ms", 0.95),
        "order_to_fill_p50_ms": ms("order_to_fill_ms", 0.5),
        "order_to_fill_p95_ms": ms("order_to_fill_ms", 0.95),
        "protection_gap_max_ms": ms("protection_gap_ms", 1.0),
    }

"""Read the closed trades of the cost gate from replay reports, the database or the topics."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from deploy.backtest.comparison import Chosen, from_topics
from schemas.errors import UserError
from schemas.settings import Settings

FIELDS = ("gross_r", "fee_r", "funding_r", "slippage_r")
Trade = dict[str, Any]


def from_reports(paths: Sequence[Path]) -> dict[str, list[Trade]]:
    """Return ``run: strategy`` -> valid closed trades, from the trades.csv of replays. Raises UserError for an invalid file."""
    found: dict[str, list[Trade]] = {}
    for path in paths:
        file = path / "trades.csv" if path.is_dir() else path
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                for number, row in enumerate(csv.DictReader(stream), 2):
                    name = f"{file.resolve().parent.name}: {row['strategy_id']}"
                    trades = found.setdefault(name, [])
                    if not row.get("void"):
                        trades.append(
                            {
                                "event_time": row["event_time"],
                                "trade_id": row["trade_id"],
                                **{one: _number(file, number, one, row[one]) for one in FIELDS},
                            }
                        )
        except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"--report: {file}: not a trades.csv of a replay ({error})") from error
    if not found:
        raise UserError("--report: the replays have no closed trades")
    # ISO 8601 with fixed width: text order is time order.
    return {name: sorted(rows, key=lambda row: (row["event_time"], row["trade_id"])) for name, rows in found.items()}


def _number(file: Path, line: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--report: {file} line {line}: {name}: expected a number, got {text!r}") from error


def from_log(settings: Settings, names: Sequence[str], topics: bool, since: int | None, until: int | None) -> dict[str, list[Trade]]:
    """Return strategy -> closed trades, from the topics or the database. Times in ms UTC.

    Raises:
        UserError: the database does not answer.
    """
    chosen = [Chosen.parse(name) for name in names]
    if topics:
        found = [one.trades for one in from_topics(settings, chosen, since, until)]
    else:
        found = [_from_database(settings, one, since, until) for one in chosen]
    return {name: sorted(rows, key=lambda row: (row["event_time"], row["trade_id"])) for name, rows in zip(names, found, strict=True)}


def _from_database(settings: Settings, chosen: Chosen, since: int | None, until: int | None) -> list[Trade]:
    try:
        with psycopg.connect(settings.database_url, connect_timeout=10, row_factory=dict_row) as connection:
            return connection.execute(
                "SELECT trade_id, event_time, gross_r, fee_r, funding_r, slippage_r FROM trades_closed WHERE strategy_id = %(strategy)s"
                " AND (%(hash)s::text IS NULL OR config_hash = %(hash)s)"
                " AND event_time >= coalesce(to_timestamp(%(since)s::bigint / 1000.0), '-infinity')"
                " AND event_time < coalesce(to_timestamp(%(until)s::bigint / 1000.0), 'infinity')",
                {"strategy": chosen.strategy_id, "hash": chosen.config_hash, "since": since, "until": until},
            ).fetchall()
    except psycopg.Error as error:
        raise UserError(
            f"cannot read the database; check DATABASE_URL, run `perpflow db migrate`, or use --from-topics: {error}"
        ) from error

"""Read the results of a run from the database: counts, exact sums, statistics (``outcome.DemoFacts``).

One read-only snapshot gives consistent figures. Quantities and prices are summed as the decimals that the doubles carry. The sums use the
text form of a double, because PostgreSQL's cast of a double to numeric keeps only 15 digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from deploy.database.migrate import connect
from deploy.demo.outcome import (
    DeadLetterCount,
    DemoFacts,
    EvaluationFacts,
    GapCount,
    InstrumentFacts,
    OpenPosition,
    OrderCount,
    PaperFacts,
    SignalCount,
    StrategyFacts,
    StrategyPaper,
    Top,
)
from deploy.report.series import LONGEST_SILENCES, SILENCE_MS, Silence
from schemas.catalogue import TOPICS
from stream_apps.core.performance.intervals import profit_factor_bounds

GATES = {
    "gate_vol_enabled": "volatility",
    "gate_cvd_enabled": "CVD resonance",
    "gate_whale_enabled": "whale",
    "gate_obi_enabled": "OBI",
    "gate_spot_perp_enabled": "spot-perp",
}

Connection = psycopg.Connection[DictRow]


class ClosedTrade(NamedTuple):
    """Fields of a closed trade for the statistics, in order of exit."""

    net_r: float
    net_pnl: float
    fees: float
    funding: float
    hold_ms: int
    exit_reason: str


@contextmanager
def snapshot(database_url: str) -> Iterator[Connection]:
    """Yield a connection in one read-only snapshot that returns dict rows, doubles in shortest text, times as UTC.

    Raises:
        DatabaseError: no URL, or the server does not answer.
    """
    with connect(database_url) as plain, plain.transaction():
        connection: Connection = plain  # type: ignore[assignment]
        connection.row_factory = dict_row
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL extra_float_digits = 1")
        connection.execute("SET LOCAL timezone = 'UTC'")
        yield connection


def ms(column: LiteralString) -> sql.SQL:
    """Return the expression of a timestamptz column as whole ms UTC."""
    return sql.SQL("(extract(epoch FROM " + column + ") * 1000)::bigint")


def collect(database_url: str, instruments: Sequence[str] | None = None) -> DemoFacts:
    """Return the content of the tables.

    Args:
        database_url: Database that ``perpflow db migrate`` prepared.
        instruments: Instruments to describe. None: all. Row counts always cover whole tables.

    Raises:
        DatabaseError: the database does not answer.
        psycopg.errors.UndefinedTable: the database is not migrated.
    """
    with snapshot(database_url) as connection:
        chosen = sorted(set(instruments)) if instruments is not None else named_instruments(connection)
        papers, overall = _papers(connection, chosen)
        return DemoFacts(
            rows={topic: _count(connection, topic) for topic in TOPICS},
            instruments=tuple(_instrument(connection, name) for name in chosen),
            strategies=tuple(_strategies(connection, chosen)),
            evaluations=tuple(_evaluations(connection, chosen)),
            signals=tuple(SignalCount(**row) for row in connection.execute(_SIGNALS, (chosen,))),
            orders=tuple(OrderCount(**row) for row in connection.execute(_ORDERS, (chosen,))),
            paper=overall,
            papers=papers,
            open_positions=tuple(OpenPosition(**row) for row in connection.execute(_OPEN, (chosen,))),
            dead_letters=tuple(DeadLetterCount(**row) for row in connection.execute(_LETTERS)),
            gaps=tuple(GapCount(**row) for row in connection.execute(_GAPS, (chosen,))),
        )


def named_instruments(connection: Connection) -> list[str]:
    """Return every instrument with stored data."""
    tables = ("instruments", "agg_trades", "depth", "quotes", "funding", "features", "gaps")
    # A loose index scan over (instrument, event_time): one step per instrument instead of one per row.
    names: set[str] = set()
    for name in tables:
        table = sql.Identifier(name)
        query = sql.SQL(
            "WITH RECURSIVE found AS ((SELECT min(instrument) AS instrument FROM {t}) UNION ALL"
            " SELECT (SELECT min(instrument) FROM {t} WHERE instrument > found.instrument) FROM found WHERE found.instrument IS NOT NULL)"
            " SELECT instrument FROM found WHERE instrument IS NOT NULL"
        ).format(t=table)
        names |= {row["instrument"] for row in connection.execute(query)}
    return sorted(names)


def _count(connection: Connection, topic: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(topic))).fetchone()
    assert row is not None
    return int(row["n"])


_TRADES = sql.SQL("""
    SELECT count(*) AS agg_trades, count(*) - count(DISTINCT agg_id) AS repeated_trades,
           coalesce(max(agg_id) - min(agg_id) + 1 - count(DISTINCT agg_id), 0) AS missing_agg_ids,
           count(*) FILTER (WHERE backfilled) AS backfilled,
           sum(last_trade_id - first_trade_id + 1)::bigint AS trades,
           CASE WHEN count(*) > 0 THEN coalesce(sum(quantity::text::numeric) FILTER (WHERE NOT buyer_is_maker), 0) END AS buy,
           CASE WHEN count(*) > 0 THEN coalesce(sum(quantity::text::numeric) FILTER (WHERE buyer_is_maker), 0) END AS sell,
           min(price)::text::numeric AS low, max(price)::text::numeric AS high, max(quantity)::text::numeric AS largest
    FROM agg_trades WHERE instrument = %s""")

_ENDS = sql.SQL("""
    SELECT {time} AS event_time, price::text::numeric AS price FROM agg_trades WHERE instrument = %s
    ORDER BY agg_trades.event_time {way}, agg_id {way} LIMIT 1""")

_SILENCES = sql.SQL("""
    SELECT since, until FROM (
        SELECT lag({time}) OVER (ORDER BY event_time) AS since, {time} AS until FROM agg_trades WHERE instrument = %s) AS pairs
    WHERE until - since >= %s ORDER BY until - since DESC, since LIMIT %s""").format(time=ms("event_time"))

# The last book with levels. A producer that stops may write an invalid book last, which is not part of the recording.
_BOOK = sql.SQL("""
    SELECT {time} AS event_time, bid_prices[1]::text::numeric AS bid_price, bid_quantities[1]::text::numeric AS bid_quantity,
           ask_prices[1]::text::numeric AS ask_price, ask_quantities[1]::text::numeric AS ask_quantity
    FROM depth WHERE instrument = %s AND state = 'live'
    ORDER BY depth.event_time DESC, kafka_offset DESC LIMIT 1""").format(time=ms("event_time"))

_BOOK_STATE = sql.SQL("SELECT state, epoch FROM depth WHERE instrument = %s ORDER BY event_time DESC, kafka_offset DESC LIMIT 1")

_QUOTE = sql.SQL("""
    SELECT {time} AS event_time, bid_price::text::numeric AS bid_price, bid_quantity::text::numeric AS bid_quantity,
           ask_price::text::numeric AS ask_price, ask_quantity::text::numeric AS ask_quantity
    FROM quotes WHERE instrument = %s ORDER BY quotes.event_time DESC, kafka_offset DESC LIMIT 1""").format(time=ms("event_time"))

_FEATURES = sql.SQL("""
    SELECT count(*) AS features, min({time}) AS first_instant, max({time}) AS last_instant, max(late_trades) AS late_trades
    FROM features WHERE instrument = %s""").format(time=ms("event_time"))


_GAP_ROWS = sql.SQL("SELECT count(*) AS gap_rows, count(*) FILTER (WHERE NOT repaired) AS gap_rows_open FROM gaps WHERE instrument = %s")


def _one(connection: Connection, query: sql.SQL | sql.Composed, name: str) -> dict[str, Any]:
    """Return the first row of a query, or an empty row."""
    return connection.execute(query, (name,)).fetchone() or {}


def _instrument(connection: Connection, name: str) -> InstrumentFacts:
    recorded = _one(connection, sql.SQL("SELECT recorded, author FROM instruments_current WHERE instrument = %s"), name)
    first = _one(connection, _ENDS.format(time=ms("event_time"), way=sql.SQL("ASC")), name)
    last = _one(connection, _ENDS.format(time=ms("event_time"), way=sql.SQL("DESC")), name)
    state = _one(connection, _BOOK_STATE, name)
    silences = connection.execute(_SILENCES, (name, SILENCE_MS, LONGEST_SILENCES))
    return InstrumentFacts(
        instrument=name,
        recorded=recorded.get("recorded"),
        author=recorded.get("author"),
        first_time=first.get("event_time"),
        last_time=last.get("event_time"),
        first_price=first.get("price"),
        last_price=last.get("price"),
        silences=tuple(Silence(row["since"], row["until"]) for row in silences),
        book=_top(_one(connection, _BOOK, name)),
        book_state=state.get("state"),
        book_epoch=state.get("epoch"),
        quote=_top(_one(connection, _QUOTE, name)),
        missing_inputs=_unnested(connection, "features", "missing_inputs", name),
        stale_inputs=_unnested(connection, "features", "stale_inputs", name),
        **_one(connection, _TRADES, name),
        **_one(connection, _GAP_ROWS, name),
        **_one(connection, _FEATURES, name),
    )


def _top(row: Mapping[str, Any]) -> Top | None:
    """Return the best prices of a row. None without a row or with an empty side of the book."""
    names = ("event_time", "bid_price", "bid_quantity", "ask_price", "ask_quantity")
    if any(row.get(name) is None for name in names):
        return None
    return Top(*(row[name] for name in names))


def _unnested(connection: Connection, table: str, column: str, instrument: str, strategy_id: str | None = None) -> dict[str, int]:
    """Return how often each text occurs in an array column, most frequent first."""
    query = sql.SQL("SELECT name, count(*) AS n FROM {}, unnest({}) AS name WHERE instrument = %s{} GROUP BY 1 ORDER BY 2 DESC, 1").format(
        sql.Identifier(table), sql.Identifier(column), sql.SQL(" AND strategy_id = %s" if strategy_id is not None else "")
    )
    parameters = (instrument,) if strategy_id is None else (instrument, strategy_id)
    return {row["name"]: row["n"] for row in connection.execute(query, parameters)}


def _strategies(connection: Connection, instruments: list[str]) -> Iterator[StrategyFacts]:
    for row in connection.execute("SELECT * FROM strategies_current WHERE instrument = ANY(%s) ORDER BY strategy_id", (instruments,)):
        names = ("strategy_id", "instrument", "display_name", "revision", "model", "cvd_fast_window", "cvd_slow_window")
        yield StrategyFacts(
            **{name: row[name] for name in (*names, "entry_score", "flip_threshold", "description")},
            gates_off=tuple(gate for column, gate in GATES.items() if not row[column]),
        )


_SCORES = """
    SELECT instrument, strategy_id, count(*) AS evaluations, count(*) FILTER (WHERE NOT warm) AS not_warm,
           count(*) FILTER (WHERE warm AND NOT gate_passed) AS blocked, count(*) FILTER (WHERE gate_passed) AS passed,
           count(*) FILTER (WHERE gate_passed AND tier IS NULL) AS below_entry, count(*) FILTER (WHERE cooldown) AS cooling,
           count(*) FILTER (WHERE signalled) AS signalled, max(score) FILTER (WHERE gate_passed) AS best_score
    FROM scores WHERE instrument = ANY(%s) GROUP BY 1, 2 ORDER BY 1, 2"""

# A reason ends with its measured value in brackets. It is removed, so that equal reasons group together.
_BLOCKS = """
    SELECT regexp_replace(gate_block, '\\(.*\\)$', '') AS name, count(*) AS n FROM scores
    WHERE instrument = %s AND strategy_id = %s AND gate_block IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"""

_REGIMES = "SELECT regime AS name, count(*) AS n FROM scores WHERE instrument = %s AND strategy_id = %s GROUP BY 1 ORDER BY 2 DESC, 1"


def _evaluations(connection: Connection, instruments: list[str]) -> Iterator[EvaluationFacts]:
    for row in connection.execute(_SCORES, (instruments,)).fetchall():
        one = (row["instrument"], row["strategy_id"])
        yield EvaluationFacts(
            **row,
            blocks={found["name"]: found["n"] for found in connection.execute(_BLOCKS, one)},
            regimes={found["name"]: found["n"] for found in connection.execute(_REGIMES, one)},
            missing_inputs=_unnested(connection, "scores", "missing_inputs", *one),
            stale_inputs=_unnested(connection, "scores", "stale_inputs", *one),
        )


_SIGNALS = """
    SELECT instrument, strategy_id, direction, tier, entry, flip, count(*) AS count FROM signals WHERE instrument = ANY(%s)
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6"""

# An order has one row per status. The last row is its final status.
_ORDERS = """
    SELECT instrument, leg, status, reason, count(*) AS count FROM (
        SELECT DISTINCT ON (order_id) instrument, leg, status, reason FROM orders WHERE instrument = ANY(%s) AND mode = 'paper'
        ORDER BY order_id, event_time DESC, kafka_offset DESC) AS newest
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""

_OPEN = sql.SQL("""
    SELECT instrument, strategy_id, position_id, status, direction, {time} AS entry_time, entry_price::text::numeric AS entry_price,
           open_quantity::text::numeric AS open_quantity, realised_pnl
    FROM positions_current WHERE instrument = ANY(%s) AND status NOT IN ('closed', 'expired') AND mode = 'paper' ORDER BY 1, 3""").format(
    time=ms("entry_time")
)

_LETTERS = """
    SELECT service, source, instrument, field, reason, count(*) AS count FROM dead_letters
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC, 1, 2, 3, 4, 5"""

_GAPS = """
    SELECT instrument, stream, kind, certain, repaired, count(*) AS count FROM gaps WHERE instrument = ANY(%s)
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""

_CLOSED = """
    SELECT instrument, strategy_id, net_r, net_pnl, fees, funding, hold_ms, exit_reason FROM trades_closed WHERE instrument = ANY(%s) AND mode = 'paper'
    ORDER BY event_time, trade_id"""


def _papers(connection: Connection, instruments: list[str]) -> tuple[tuple[StrategyPaper, ...], PaperFacts]:
    groups: dict[tuple[str, str], list[ClosedTrade]] = {}
    together = []
    for row in connection.execute(_CLOSED, (instruments,)):
        key = (row.pop("instrument"), row.pop("strategy_id"))
        trade = ClosedTrade(**row)
        groups.setdefault(key, []).append(trade)
        together.append(trade)
    return tuple(StrategyPaper(*key, paper_facts(trades)) for key, trades in sorted(groups.items())), paper_facts(together)


NO_TRADES = PaperFacts(
    trades=0,
    wins=0,
    win_rate=None,
    profit_factor=None,
    profit_factor_bounds=(None, None),
    net_r=None,
    net_pnl=None,
    fees=None,
    funding=None,
    best_r=None,
    worst_r=None,
    max_drawdown_r=None,
    max_drawdown_pnl=None,
    mean_hold_ms=None,
    exits={},
)


def paper_facts(trades: Sequence[ClosedTrade]) -> PaperFacts:
    """Return the statistics of closed trades in order of exit (pure)."""
    exits: dict[str, int] = {}
    for trade in trades:
        exits[trade.exit_reason] = exits.get(trade.exit_reason, 0) + 1
    if not trades:
        return NO_TRADES
    wins = sum(trade.net_pnl > 0 for trade in trades)
    gain = math.fsum(trade.net_pnl for trade in trades if trade.net_pnl > 0)
    loss = -math.fsum(trade.net_pnl for trade in trades if trade.net_pnl < 0)
    return PaperFacts(
        trades=len(trades),
        wins=wins,
        win_rate=wins / len(trades),
        profit_factor=gain / loss if loss else None,
        profit_factor_bounds=profit_factor_bounds([trade.net_pnl for trade in trades]),
        net_r=math.fsum(trade.net_r for trade in trades),
        net_pnl=math.fsum(trade.net_pnl for trade in trades),
        fees=math.fsum(trade.fees for trade in trades),
        funding=math.fsum(trade.funding for trade in trades),
        best_r=max(trade.net_r for trade in trades),
        worst_r=min(trade.net_r for trade in trades),
        max_drawdown_r=max_drawdown([trade.net_r for trade in trades]),
        max_drawdown_pnl=max_drawdown([trade.net_pnl for trade in trades]),
        mean_hold_ms=sum(trade.hold_ms for trade in trades) / len(trades),
        exits=dict(sorted(exits.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def max_drawdown(changes: Sequence[float]) -> float:
    """Return the largest fall of a running sum from its previous peak, the start included; >= 0.

    The sums are exact decimals, so a fall that is exactly recovered counts as zero.
    """
    total = peak = deepest = Decimal(0)
    for change in changes:
        total += Decimal(repr(change))
        peak = max(peak, total)
        deepest = max(deepest, peak - total)
    return float(deepest)

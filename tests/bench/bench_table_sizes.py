"""Bytes of a row in each table and rows a day: what partitions, chunks and disks are reckoned from. Run: ``perpflow bench --only sizes``.

Rows are those that the recordings give: the market data of the capture, and what worker and paper executor make of capture and trades in a replay; each is
written so often, a millisecond later each time, that pages are full. Tables of which no recording has a row get random records of their schema (``made``),
which are longer than real ones. A row's bytes are those of PostgreSQL without columnstore, its indexes counted apart: they, not the rows, must stay
in memory while they are written.

The other half is arithmetic: ``chunks`` says how long a chunk of each table may be in the deployments of deploy/SIZING.md.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from deploy.backtest.files import FileArgument, Files
from schemas import catalogue
from schemas.codec.recordset import RecordSet
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from sinks.timescale.copying import try_copy
from sinks.timescale.rows import encode
from sinks.timescale.tables import tables
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.engines import SIGNALS
from stream_apps.replay.run import Result, drive
from stream_apps.replay.sources.source import Piece
from stream_apps.strategy_files import load_strategy_files, recorded_files
from tests.bench.rows import Figure, Row
from tests.bench.running import Run
from tests.support.paths import RECORDINGS
from tests.support.timescale.timescale_records import record as random_record

CAPTURE = f"{RECORDINGS / 'binance_usdm_raw' / 'btcusdt_20240808.gz'}=BTCUSDT"
TRADES = RECORDINGS / "ltcusdt_spot_trades"
MARKET = ("agg_trades", "quotes", "depth", "funding", "liquidations")
DAY_S, GRID_A_DAY = 86_400, 5_760
# Lengths of a chunk, days, the longest first.
LENGTHS = (30.0, 7.0, 1.0, 1 / 4, 1 / 24, 1 / 96)
# Of the database's memory, for the indexes of all chunks that are written to: what TimescaleDB's documents advise.
SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True)
class Deployment:
    """A line of SIZING.md's table of deployments: instruments, messages a second, partitions, and memory of the database's machine."""

    instruments: int
    messages: int
    partitions: int
    memory_gb: int


DEPLOYMENTS = (
    Deployment(4, 1_000, 12, 8),
    Deployment(50, 5_000, 12, 16),
    Deployment(600, 25_000, 12, 64),
    Deployment(2_000, 80_000, 48, 128),
    Deployment(5_000, 200_000, 48, 256),
)


@dataclass(frozen=True)
class Weight:
    """What a row of a table weighs: bytes of row and indexes, bytes of the indexes alone; ``real``: of recorded rows, not of random ones."""

    row: float
    index: float
    real: bool


class Recorded:
    """What a replay of a recording reads and writes.

    Attributes:
        records: Topic -> its first encoded records, no more than ``keep``.
        counts: Topic -> records of all.
        seconds: Length of the recording.
    """

    def __init__(self, settings: Settings, file: str, keep: int) -> None:
        source = Files([FileArgument.parse(file, None, "BINANCE")], settings)
        self.seconds = (source.span[1] - source.span[0]) / 1000
        self.records: dict[str, list[bytes]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        strategies: dict[int, list[StrategyConfig]] = {}
        for config in load_strategy_files(recorded_files()):
            if config.instrument in source.instruments:
                place = settings.partition_of(base_of_instrument(config.instrument))
                strategies.setdefault(place, []).append(config)

        def take(topic: str, value: bytes | None) -> None:
            self.counts[topic] += 1
            if value is not None and len(self.records[topic]) < keep:
                self.records[topic].append(value)

        def on_piece(piece: Piece) -> None:
            for row in range(len(piece.records)):
                take(piece.topic, piece.records.value(row))

        def result(partition: int, one: Result) -> None:
            take(one.topic, one.value)

        drive(source, SIGNALS.config(settings), settings.codec, result, strategies=strategies, on_piece=on_piece)

    def a_day(self, topic: str) -> float:
        """Return a topic's records a day at the pace of the recording."""
        return self.counts[topic] / self.seconds * DAY_S


# --- weighing -----------------------------------------------------------------------------------------------------------


def weights(settings: Settings, recorded: Mapping[str, list[bytes]], count: int) -> dict[str, Weight]:
    """Write at least ``count`` rows into every topic's table and return what one weighs.

    Args:
        settings: With a migrated database that is empty.
        recorded: Topic -> encoded records.
    """
    found, codec, rng = {}, settings.codec, random.Random(1)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        for topic in catalogue.TOPICS:
            before = bytes_of(connection, topic)
            real = [codec.decode(topic, value) for value in recorded.get(topic, ())]
            records = list(later(real, count)) if real else [made_up(topic, n, rng) for n in range(count)]
            made = [(n, 0, None, codec.encode(topic, one)) for n, one in enumerate(records)]
            rows = encode(codec, topic, RecordSet.from_messages(made), 0)
            error = try_copy(connection, topic, [rows.payload])
            if error is not None:
                raise error
            after = bytes_of(connection, topic)
            found[topic] = Weight(*((new - old) / len(records) for old, new in zip(before, after, strict=True)), real=bool(real))
    return found


def made_up(topic: str, n: int, rng: random.Random) -> dict[str, Any]:
    """Return a random record; its time is its own, as in an index of real ones, and no text is longer than an id."""
    record = {name: value[-24:] if isinstance(value, str) else value for name, value in random_record(topic, n, rng).items()}
    return {**record, "event_time": 1_723_075_200_000 + n * 1_000} if "event_time" in record else record


def later(records: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Yield records again and again, each time a millisecond later, so that an index finds none twice."""
    for n in range(max(count, len(records))):
        one = records[n % len(records)]
        yield {**one, "event_time": one["event_time"] + n // len(records)} if "event_time" in one else one


def bytes_of(connection: psycopg.Connection, table: str) -> tuple[int, int]:
    """Return the bytes of a table with its partitions and indexes, and of the indexes alone."""
    row = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint, coalesce(sum(pg_indexes_size(relid)), 0)::bigint"
        " FROM pg_partition_tree(to_regclass(%s)) WHERE isleaf",
        (table,),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


# --- reckoning ------------------------------------------------------------------------------------------------------------


def shares(capture: Recorded) -> dict[str, float]:
    """Return topic -> share of the market's messages, as captured."""
    total = sum(capture.counts[topic] for topic in MARKET)
    return {topic: capture.counts[topic] / total for topic in MARKET}


def rows_a_day(one: Deployment, share: Mapping[str, float]) -> dict[str, float]:
    """Return table -> rows a day of a deployment with a strategy an instrument and one account.

    Market data is the share of the capture in the deployment's messages; what comes by the clock is counted by it; the rest is what the column
    ``reason`` of table_policies says, generously: a thousand a day of what is rare.
    """
    rare = dict.fromkeys((table.name for table in tables() if table.step), 1_000.0)
    return {
        **rare,
        **{topic: share[topic] * one.messages * DAY_S for topic in ("agg_trades", "quotes")},
        "depth": min(share["depth"] * one.messages, one.instruments * 10.0) * DAY_S,  # every 100 ms at most; the capture has every change
        "funding": one.instruments * DAY_S,  # one a second
        "liquidations": one.instruments * 1_000.0,
        "market_indicators": one.instruments * 6 * 288.0,  # six figures every five minutes
        "progress": one.partitions * 4.0 * DAY_S,  # one author, every 250 ms
        "worker_progress": one.partitions * float(GRID_A_DAY),
        "features": one.instruments * float(GRID_A_DAY),
        "scores": one.instruments * float(GRID_A_DAY),
        "bars": one.instruments * float(1_440 + 288 + 96 + 24 + 6 + 1),
        "data_quality": one.instruments * 8 * 1_440.0,  # seven streams and overall, every minute
        "risk_state": DAY_S / 2,
    }


def chunks(index_bytes_a_day: Mapping[str, float], longest: Mapping[str, float], budget: float) -> dict[str, float]:
    """Return table -> days of a chunk, as long as may be: the one whose indexes weigh most is shortened until all fit the budget.

    Args:
        index_bytes_a_day: Table -> bytes that its indexes grow by in a day.
        longest: Table -> days that its chunk may have at most.
        budget: Bytes for the indexes of one chunk of every table.
    """
    days = {table: next(one for one in LENGTHS if one <= longest[table]) for table in index_bytes_a_day}
    while sum(index_bytes_a_day[table] * days[table] for table in days) > budget:
        open_ones = [table for table in days if days[table] > LENGTHS[-1]]
        if not open_ones:
            break
        heaviest = max(open_ones, key=lambda table: index_bytes_a_day[table] * days[table])
        days[heaviest] = LENGTHS[LENGTHS.index(days[heaviest]) + 1]
    return days


def said(days: float) -> str:
    """Return the length of a chunk in words."""
    if days >= 1:
        return {30.0: "1 month", 7.0: "7 days", 1.0: "1 day"}[days]
    return f"{round(days * 24)} h" if days * 24 >= 1 else f"{round(days * 1440)} min"


def longest_of(connection: psycopg.Connection) -> dict[str, float]:
    """Return table -> days that a chunk may have: a quarter of what is kept (a chunk goes as a whole), and no longer than it waits to become columns."""
    rows = connection.execute(
        "SELECT table_name, extract(epoch FROM least(keep / 4, greatest(columnstore_after, interval '1 day')))::float8 / 86400 FROM table_policies"
    ).fetchall()
    return {table: max(float(days), 1.0) for table, days in rows}


def rows(run: Run) -> Iterator[Row]:
    """Yield bytes a row of every table, with the rows a day, and the chunks of every deployment."""
    count = 2_000 if run.quick else 10_000
    with run.environment(tables=True) as settings:
        files = TRADES / "LTCUSDT_2025-06-21_12h_trades.csv.gz" if run.quick else TRADES
        capture, trades = Recorded(settings, CAPTURE, count), Recorded(settings, f"{files}=LTCUSDT@BINANCE_SPOT", count)
        real = {topic: max(capture.records[topic], trades.records[topic], key=len) for topic in {*capture.records, *trades.records}}
        weighed = weights(settings, real, count)
        with psycopg.connect(settings.database_url) as connection:
            longest = longest_of(connection)
    share = shares(capture)
    for topic, weight in weighed.items():
        detail: dict[str, Any] = {"index": round(weight.index), "rows": "recorded" if weight.real else "made"}
        for name, one in (("BTCUSDT captured", capture), ("LTCUSDT spot", trades)):
            if one.counts[topic]:
                detail[f"rows a day, {name}"] = round(one.a_day(topic))
        if weight.row:
            note = ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in detail.items())
            yield Row(f"{topic}, a row", "bytes", Figure(round(weight.row), detail=detail), more_is_better=False, note=note)
    for one in DEPLOYMENTS:
        daily = rows_a_day(one, share)
        index = {table: daily[table] * weighed[table].index for table in daily}
        days = chunks(index, longest, SHARE_OF_MEMORY * one.memory_gb * 2**30)
        used = sum(index[table] * days[table] for table in days) / 2**30
        disk = sum(daily[table] * weighed[table].row for table in daily) / 2**30
        note = f"{disk:,.1f} GB a day before columns; chunks: " + ", ".join(f"{table} {said(days[table])}" for table in sorted(days))
        yield Row(
            f"open chunks' indexes, {one.instruments:,} instruments", "GB", Figure(round(used, 2), detail={"GB a day": round(disk, 1), **days}),
            more_is_better=False, bars={"ours": SHARE_OF_MEMORY * one.memory_gb},
            size={"messages/s": one.messages, "partitions": one.partitions, "memory GB": one.memory_gb}, note=note,
        )  # fmt: skip

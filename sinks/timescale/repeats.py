"""Dropping records that are in the database already, by their record id; the first one wins.

A restarted worker or executor writes what it had written before, and a killed producer fetches trades again. Record ids are
compared within one Kafka partition: a key always goes to the same one, and the sink holds that partition's offset row locked while it looks,
so nobody else can be writing the same id.

Decisions are looked up by id, in one query a batch. Aggregate trades are too many for that: their ids grow, so a trade above the highest id
written of its instrument is new; only the others (back-filled or repeated) are looked up, by instrument and time, which is the index that the
table has anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from sinks.timescale.rows import Rows
from sinks.timescale.tables import table
from sinks.timescale.transcode import Coded

HIGHEST_ID_TOPICS = ("agg_trades",)
# Exact for all times a timestamptz can hold, in a UTC session; a product of an interval and a large number would be rounded.
_TIME = "timestamptz 'epoch' + make_interval(days => (s.{0} / 86400000)::int) + (s.{0} %% 86400000) * interval '1 millisecond'"

# Highest id written by instrument, of one topic partition.
Watermarks = dict[str, int]


def find(connection: psycopg.Connection, topic: str, partition: int, by: Mapping[str, Any]) -> np.ndarray:
    """Return which of the given ids are in a topic's table (bool, one per id).

    Args:
        connection: Inside a transaction that holds the partition's offset.
        topic: Topic and table.
        partition: Kafka partition.
        by: Column -> its value of each id (a list or an array); times in ms.
    """
    types = {column.name: column.type for column in table(topic).columns}
    count = len(next(iter(by.values())))
    matches = []
    for name in by:
        column = sql.Identifier("t", name)
        if types[name] == "timestamp with time zone":
            matches.append(sql.SQL("{} = {}").format(column, sql.SQL(_TIME.format(name))))  # type: ignore[arg-type]
        else:
            matches.append(sql.SQL("{} = {}").format(column, sql.Identifier("s", name)))
    arrays = [sql.SQL("%s::text[]" if types[name] == "text" else "%s::bigint[]") for name in by]
    # LATERAL with LIMIT is one index lookup per id, whatever the planner thinks of the table's size.
    query = sql.SQL(
        "SELECT s.n FROM unnest({}) WITH ORDINALITY AS s({}, n), LATERAL (SELECT FROM {} t WHERE {} AND t.kafka_partition = %s LIMIT 1) x"
    ).format(
        sql.SQL(", ").join(arrays),
        sql.SQL(", ").join(map(sql.Identifier, by)),
        sql.Identifier(topic),
        sql.SQL(" AND ").join(matches),
    )
    lists = [values.tolist() if isinstance(values, np.ndarray) else list(values) for values in by.values()]
    found = np.zeros(count, np.bool_)
    for (number,) in connection.execute(query, [*lists, partition], prepare=False):
        found[number - 1] = True
    return found


def first_of_each(ids: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return the numbers of the rows whose id (one value per column) did not come before in the batch, ascending."""
    seen: set[tuple[Any, ...]] = set()
    keep = []
    columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in ids]
    for number, key in enumerate(zip(*columns, strict=True)):
        if key not in seen:
            seen.add(key)
            keep.append(number)
    return np.array(keep, dtype=np.int64)


def new_rows(connection: psycopg.Connection, rows: Rows, partition: int) -> np.ndarray:
    """Return the numbers of the rows that the table does not have yet, ascending; the first of equal ones."""
    names = table(rows.topic).record_id
    keep = first_of_each(rows.ids)
    chosen = {name: _take(column, keep) for name, column in zip(names, rows.ids, strict=True)}
    return keep[~find(connection, rows.topic, partition, chosen)] if len(keep) else keep


def new_trades(connection: psycopg.Connection, rows: Rows, partition: int, watermarks: Watermarks) -> tuple[np.ndarray, Watermarks]:
    """As ``new_rows`` for trades, with the highest ids written; also return the highest ids that change."""
    if not len(rows):
        return np.zeros(0, np.int64), {}
    instruments, agg_ids = rows.ids
    rising, highest = rising_ids(instruments, agg_ids, watermarks)
    doubtful = np.flatnonzero(~rising)
    if not len(doubtful):
        return np.arange(len(rows)), highest
    names = _take(instruments, doubtful)
    known = set(zip(_take(instruments, np.flatnonzero(rising)), agg_ids[rising].tolist(), strict=True))
    there = find(
        connection,
        rows.topic,
        partition,
        {"instrument": names, "event_time": rows.event_times[doubtful], "agg_id": agg_ids[doubtful]},
    )
    keep = rising.copy()
    for number, name, agg_id, repeated in zip(doubtful.tolist(), names, agg_ids[doubtful].tolist(), there.tolist(), strict=True):
        if not repeated and (name, agg_id) not in known:
            known.add((name, agg_id))
            keep[number] = True
    return np.flatnonzero(keep), highest


def rising_ids(instruments: Sequence[str], ids: np.ndarray, watermarks: Watermarks) -> tuple[np.ndarray, Watermarks]:
    """Return which rows have an id above all before them of their instrument (bool), and the new highest id of each that rises. Pure.

    Args:
        instruments: Instrument of each row.
        ids: int64 id of each row.
        watermarks: Highest id before the first row.
    """
    if isinstance(instruments, Coded):
        codes, code = {name: number for number, name in enumerate(instruments.names)}, instruments.codes
    else:
        codes = {}
        code = np.fromiter((codes.setdefault(name, len(codes)) for name in instruments), np.int64, len(ids))
    rising = np.zeros(len(ids), np.bool_)
    highest: Watermarks = {}
    for name, number in codes.items():
        at = np.flatnonzero(code == number) if len(codes) > 1 else np.arange(len(ids))
        if not len(at):
            continue
        own = ids[at]
        before = watermarks.get(name)
        top = np.maximum.accumulate(own)
        if before is None:
            rising[at[0]] = True
        else:
            np.maximum(top, before, out=top)
            rising[at[0]] = own[0] > before
        rising[at[1:]] = own[1:] > top[:-1]
        if before is None or int(top[-1]) > before:
            highest[name] = int(top[-1])
    return rising, highest


def _take(column: Sequence[Any], numbers: np.ndarray) -> Sequence[Any]:
    if isinstance(column, np.ndarray | Coded):
        return column[numbers]  # type: ignore[return-value]
    return [column[number] for number in numbers.tolist()]

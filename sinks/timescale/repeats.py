"""Drop records that the database already has; the first one is kept.

A restarted worker or executor writes its last records again, and a killed producer fetches trades again. A broker that dies before its acknowledgement may
store a batch twice. Records are compared within one Kafka partition, because a key always goes to one partition. The sink holds the lock
of the partition's offset meanwhile, so no other sink writes it.

Decisions are looked up by id, with one query for each batch. Market data is too much for that, but its ids increase: a trade above the highest written id
of its instrument is new, and likewise a quote or book by update id or time (``catalogue.Topic.rising``). Only the others are looked up, by key and time,
with an existing index. A record without an id (funding, indicators, liquidations, gaps, contract facts, marks, dead letters) is a repeat if all fields are
equal. The receive time counts, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from sinks.timescale.copying import bisect
from sinks.timescale.rows import Rows
from sinks.timescale.tables import PLACE_COLUMNS, table
from sinks.timescale.transcode import DictionaryColumn

# Exact for all times of a timestamptz in a UTC session. The product of an interval and a large number would be rounded.
_TIME = "timestamptz 'epoch' + make_interval(days => (s.{0} / 86400000)::int) + (s.{0} %% 86400000) * interval '1 millisecond'"
# A COPY row ends with its Kafka position: length and bytes of the partition (4) and of the offset (8).
_PLACE_BYTES, _OFFSET_BYTES = 20, 8

# Highest written value by key and field, of one topic partition.
Watermarks = dict[tuple[str, str], int]


def find(connection: psycopg.Connection, topic: str, partition: int, by: Mapping[str, Any]) -> np.ndarray:
    """Return which ids are in a topic's table (bool, one for each id).

    Args:
        connection: Inside a transaction that holds the partition's offset.
        topic: Topic and table.
        partition: Kafka partition.
        by: Column -> values of all ids (list or array); times in ms.
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
    # LATERAL with LIMIT makes one index lookup for each id, independent of the planner's estimates.
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
    """Return the numbers of the rows whose id (one value for each column) is its first in the batch, ascending."""
    seen: set[tuple[Any, ...]] = set()
    keep = []
    columns = [_plain(column) for column in ids]
    for number, key in enumerate(zip(*columns, strict=True)):
        if key not in seen:
            seen.add(key)
            keep.append(number)
    return np.array(keep, dtype=np.int64)


def new_rows(connection: psycopg.Connection, rows: Rows, partition: int) -> np.ndarray:
    """Return the numbers of the new rows, ascending; of equal rows the first."""
    names = table(rows.topic).record_id
    keep = first_of_each(rows.ids)
    chosen = {name: _take(column, keep) for name, column in zip(names, rows.ids, strict=True)}
    return keep[~find(connection, rows.topic, partition, chosen)] if len(keep) else keep


def new_rising(connection: psycopg.Connection, rows: Rows, partition: int, watermarks: Watermarks) -> tuple[np.ndarray, Watermarks]:
    """As ``new_rows``, for a topic with rising ids and the highest written values. Also return the changed highest values."""
    if not len(rows):
        return np.zeros(0, np.int64), {}
    form = table(rows.topic)
    columns = dict(zip(form.identity_columns, rows.ids, strict=True))
    rising = np.zeros(len(rows), np.bool_)
    highest: Watermarks = {}
    for field in form.rising:
        before = {key: high for (key, name), high in watermarks.items() if name == field}
        above, higher = rising_ids(columns[form.key], columns[field], before)
        rising |= above
        highest.update({(key, field): high for key, high in higher.items()})
    doubtful = np.flatnonzero(~rising)
    if not len(doubtful):
        return np.arange(len(rows)), highest
    if form.record_id:
        identities: Sequence[Any] = list(zip(*(_plain(columns[name]) for name in form.record_id), strict=True))
        chosen = {name: _take(columns[name], doubtful) for name in form.record_id}
        there = find(connection, rows.topic, partition, {**chosen, "event_time": rows.event_times[doubtful]})
    else:
        bounds = rows.bounds.tolist()
        identities = [bytes(rows.payload[a : b - _PLACE_BYTES]) for a, b in pairwise(bounds)]
        there = find_whole(connection, rows, doubtful, partition, _take(columns[form.key], doubtful))
    known = {identities[number] for number in np.flatnonzero(rising).tolist()}
    keep = rising.copy()
    for number, repeated in zip(doubtful.tolist(), there.tolist(), strict=True):
        if not repeated and identities[number] not in known:
            known.add(identities[number])
            keep[number] = True
    return np.flatnonzero(keep), highest


def find_whole(connection: psycopg.Connection, rows: Rows, numbers: np.ndarray, partition: int, keys: Sequence[str]) -> np.ndarray:
    """Return which rows are in their topic's table with all fields equal (bool, one for each number). A row that the table rejects is not.

    Args:
        connection: Inside a transaction that holds the partition's offset.
        rows, numbers: The rows.
        partition: Kafka partition.
        keys: Keys of the rows.
    """
    name = f"repeats_{rows.topic}"
    topic, beside = sql.Identifier(rows.topic), sql.Identifier(name)
    connection.execute(sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DROP").format(beside, topic))
    connection.execute(sql.SQL("TRUNCATE {}").format(beside))  # rows of another partition may be there
    bisect(connection, rows, numbers, into=name)
    columns = [column for column in table(rows.topic).column_names if column not in PLACE_COLUMNS]
    content = sql.SQL("md5(ROW({})::text)").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
    asked: dict[int, str] = dict(connection.execute(sql.SQL("SELECT kafka_offset, {} FROM {}").format(content, beside)).fetchall())
    there = connection.execute(
        sql.SQL(
            "SELECT DISTINCT {} FROM {} WHERE {} = ANY(%s) AND event_time = ANY(ARRAY(SELECT DISTINCT event_time FROM {})) AND kafka_partition = %s"
        ).format(content, topic, sql.Identifier(table(rows.topic).key), beside),
        (sorted(set(keys)), partition),
        prepare=False,
    )
    known = {digest for (digest,) in there}
    ends = rows.bounds[numbers + 1].tolist()
    offsets = [int.from_bytes(rows.payload[end - _OFFSET_BYTES : end], "big") for end in ends]
    return np.array([asked.get(offset) in known for offset in offsets], np.bool_)


def rising_ids(keys: Sequence[str], ids: np.ndarray, watermarks: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows exceed all earlier ids of their key (bool), and the new highest id of each changed key. Pure.

    Args:
        keys: Key (instrument) of each row.
        ids: int64 id of each row.
        watermarks: Highest id before the first row.
    """
    if isinstance(keys, DictionaryColumn):
        codes, code = {name: number for number, name in enumerate(keys.names)}, keys.codes
    else:
        codes = {}
        code = np.fromiter((codes.setdefault(name, len(codes)) for name in keys), np.int64, len(ids))
    rising = np.zeros(len(ids), np.bool_)
    highest: dict[str, int] = {}
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


def _plain(column: Sequence[Any]) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _take(column: Sequence[Any], numbers: np.ndarray) -> Sequence[Any]:
    if isinstance(column, np.ndarray | DictionaryColumn):
        return column[numbers]  # type: ignore[return-value]
    return [column[number] for number in numbers.tolist()]

"""The sink's offsets, stored with the rows. They decide who may write a partition, and from where (DESIGN 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psycopg

from sinks.consuming.reader import Place

SINK = "timescale"


def stored(connection: psycopg.Connection, topic_ids: Mapping[str, str], places: Iterable[Place]) -> tuple[dict[Place, int], list[Place]]:
    """Return the next offset of every place, 0 for new ones, and the places whose topic was recreated, which restart.

    Args:
        connection: An autocommit connection.
        topic_ids: Kafka's id of each topic. A recreated topic is another log.
        places: Topic partitions.
    """
    wanted = sorted(places)
    topics, partitions, ids = [t for t, _ in wanted], [p for _, p in wanted], [topic_ids[t] for t, _ in wanted]
    with connection.transaction():
        connection.execute(
            "INSERT INTO sink_offsets (sink, topic, partition, next_offset, topic_id)"
            " SELECT %s, topic, partition, 0, id FROM unnest(%s::text[], %s::int[], %s::text[]) AS v(topic, partition, id)"
            " ON CONFLICT DO NOTHING",
            (SINK, topics, partitions, ids),
        )
        anew = connection.execute(
            "UPDATE sink_offsets o SET next_offset = 0, topic_id = v.id, updated_at = now()"
            " FROM unnest(%s::text[], %s::int[], %s::text[]) AS v(topic, partition, id)"
            " WHERE o.sink = %s AND o.topic = v.topic AND o.partition = v.partition AND o.topic_id <> v.id"
            " RETURNING o.topic, o.partition",
            (topics, partitions, ids, SINK),
        ).fetchall()
        rows = connection.execute(
            "SELECT o.topic, o.partition, o.next_offset FROM sink_offsets o"
            " JOIN unnest(%s::text[], %s::int[]) AS v(topic, partition) USING (topic, partition) WHERE o.sink = %s",
            (topics, partitions, SINK),
        ).fetchall()
    return {(topic, partition): offset for topic, partition, offset in rows}, [(topic, partition) for topic, partition in anew]


def lock(connection: psycopg.Connection, places: Iterable[Place]) -> dict[Place, int]:
    """Lock the offsets of places until the transaction ends, in one order for all sinks, which excludes deadlocks.

    Return their next offsets. The call waits for other writers, up to the connection's lock timeout.
    """
    wanted = sorted(places)
    rows = connection.execute(
        "SELECT o.topic, o.partition, o.next_offset FROM sink_offsets o"
        " JOIN unnest(%s::text[], %s::int[]) AS v(topic, partition) USING (topic, partition)"
        " WHERE o.sink = %s ORDER BY o.topic, o.partition FOR UPDATE OF o",
        ([t for t, _ in wanted], [p for _, p in wanted], SINK),
    ).fetchall()
    return {(topic, partition): offset for topic, partition, offset in rows}


def advance(connection: psycopg.Connection, moves: Mapping[Place, tuple[int, int]]) -> None:
    """Move offsets from the expected to the next values, in the transaction of the rows.

    Raises:
        RuntimeError: a locked row has another offset than expected; the transaction must be rolled back.
    """
    wanted = sorted(moves)
    moved = connection.execute(
        "UPDATE sink_offsets o SET next_offset = v.next, updated_at = now()"
        " FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) AS v(topic, partition, expected, next)"
        " WHERE o.sink = %s AND o.topic = v.topic AND o.partition = v.partition AND o.next_offset = v.expected",
        ([t for t, _ in wanted], [p for _, p in wanted], [moves[w][0] for w in wanted], [moves[w][1] for w in wanted], SINK),
    ).rowcount
    if moved != len(wanted):
        raise RuntimeError(f"sink_offsets: {moved} of {len(wanted)} offsets held what was expected while they were locked")


def watermarks(connection: psycopg.Connection, places: Iterable[Place]) -> dict[Place, dict[tuple[str, str], int]]:
    """Return the highest written values of every place, by key and field."""
    found: dict[Place, dict[tuple[str, str], int]] = {place: {} for place in places}
    rows = connection.execute(
        "SELECT topic, partition, instrument, field, highest_id FROM sink_watermarks"
        " JOIN unnest(%s::text[], %s::int[]) AS v(topic, partition) USING (topic, partition)",
        ([t for t, _ in found], [p for _, p in found]),
    )
    for topic, partition, key, field, highest in rows:
        found[topic, partition][key, field] = highest
    return found


def raise_watermarks(connection: psycopg.Connection, changes: Mapping[Place, Mapping[tuple[str, str], int]]) -> None:
    """Store higher watermarks, in the transaction of the rows."""
    flat = sorted((*place, *name, high) for place, marks in changes.items() for name, high in marks.items())
    if flat:
        connection.execute(
            "INSERT INTO sink_watermarks (topic, partition, instrument, field, highest_id)"
            " SELECT * FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[], %s::bigint[])"
            " ON CONFLICT (topic, partition, instrument, field) DO UPDATE SET highest_id = EXCLUDED.highest_id",
            tuple(map(list, zip(*flat, strict=True))),
        )

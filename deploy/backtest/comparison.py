"""Read the trades and scores of a comparison from the database or the topics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from schemas.catalogue import TOPICS
from schemas.codec.avro import CodecError, Record
from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.replay.sources.topics import TopicSource


@dataclass(frozen=True)
class Chosen:
    """One side: a strategy, or one configuration of it.

    Attributes:
        strategy_id: Its id.
        config_hash: Only results under this configuration. None: all.
    """

    strategy_id: str
    config_hash: str | None = None

    @classmethod
    def parse(cls, text: str) -> Chosen:
        """Return the side that ``NAME`` or ``NAME@HASH`` names."""
        name, _, hash_ = text.partition("@")
        return cls(name, hash_ or None)

    def fits(self, record: Record) -> bool:
        """Return whether a score or trade belongs to this side."""
        return record["strategy_id"] == self.strategy_id and self.config_hash in (None, record["config_hash"])


@dataclass
class Found:
    """Trades and scores of one side, without duplicates."""

    trades: list[Record] = field(default_factory=list)
    scores: list[Record] = field(default_factory=list)


def from_database(settings: Settings, chosen: Chosen, since: int | None, until: int | None) -> Found:
    """Read one side from the database: trades by exit and scores by instant in [since, until), ms UTC.

    Raises:
        UserError: the database does not answer or lacks the tables.
    """
    where = "strategy_id = %(strategy)s AND (%(hash)s::text IS NULL OR config_hash = %(hash)s)"
    where += " AND event_time >= coalesce(to_timestamp(%(since)s::bigint / 1000.0), '-infinity')"
    where += " AND event_time < coalesce(to_timestamp(%(until)s::bigint / 1000.0), 'infinity')"
    values: dict[str, Any] = {"strategy": chosen.strategy_id, "hash": chosen.config_hash, "since": since, "until": until}

    def ms(name: str) -> str:
        return f"(extract(epoch FROM {name}) * 1000)::bigint AS {name}"

    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=10, row_factory=dict_row) as connection:
            trades = connection.execute(
                f"SELECT trade_id, instrument, tier, net_r, net_pnl, config_hash, {ms('event_time')}, {ms('entry_time')}"  # type: ignore[arg-type]
                f" FROM trades_closed WHERE {where}",
                values,
            ).fetchall()
            scores = connection.execute(
                f"SELECT instrument, {ms('event_time')}, ungated_score, lean, warm FROM scores WHERE {where} AND warm",  # type: ignore[arg-type]
                values,
            ).fetchall()
    except psycopg.Error as error:
        raise UserError(
            f"cannot read the database; check DATABASE_URL, run `perpflow db migrate`, or use --from-topics: {error}"
        ) from error
    return Found(trades, scores)


def from_topics(settings: Settings, chosen: list[Chosen], since: int | None, until: int | None) -> list[Found]:
    """As ``from_database``, but from the topics, for several sides in one pass. Repeats of a restarted service are skipped."""
    found = [Found() for _ in chosen]
    seen: set[Any] = set()
    for topic, record in _records(settings):
        if (since is not None and record["event_time"] < since) or (until is not None and record["event_time"] >= until):
            continue
        for one, into in zip(chosen, found, strict=True):
            identity = (id(into), topic, *(record[name] for name in TOPICS[topic].record_id))
            if one.fits(record) and identity not in seen:
                seen.add(identity)
                (into.trades if topic == "trades_closed" else into.scores).append(record)
    return found


def _records(settings: Settings) -> Iterator[tuple[str, Record]]:
    with TopicSource(settings, ("trades_closed", "scores")) as source:
        for _, topic, records in source.everything():
            for row in range(len(records)):
                try:
                    yield topic, settings.codec.decode(topic, records.value(row))
                except CodecError:
                    continue  # the sink writes the dead letter

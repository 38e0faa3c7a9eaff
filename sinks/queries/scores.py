"""Find a score by its id, and the settings that held: in the topics, by time, or in the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from psycopg import sql
from psycopg.rows import dict_row

from schemas import catalogue
from schemas.codec.avro import CodecError
from schemas.errors import UserError
from schemas.partition import base_of_instrument
from schemas.settings import Settings

Record = dict[str, Any]
_TIMEOUT_S = 10.0


class UnknownScore(UserError):
    """The topic and the database were read, and neither has the score."""


@dataclass(frozen=True)
class ScoreId:
    """The parts of ``instrument|strategy_id|T in ms``."""

    instrument: str
    strategy_id: str
    time: int

    @classmethod
    def parse(cls, text: str) -> ScoreId:
        """Return the parts of an id. Raises UserError for invalid text."""
        parts = text.split("|")
        if len(parts) != 3 or not parts[1] or not parts[2].isdecimal():
            raise UserError(f"{text!r} is no score id; one looks like BINANCE:BTCUSDT-PERP|default-btcusdt|1760000010000")
        try:
            base_of_instrument(parts[0])
        except ValueError as error:
            raise UserError(f"{text!r} is no score id: {error}") from error
        return cls(parts[0], parts[1], int(parts[2]))

    def __str__(self) -> str:
        """Return the id."""
        return f"{self.instrument}|{self.strategy_id}|{self.time}"


def in_topic(settings: Settings, wanted: ScoreId) -> Record | None:
    """Return a score from the topic, or None.

    Raises:
        UserError: Kafka does not answer, or the topic does not exist.
    """
    identity = str(wanted).encode()

    def chosen(value: bytes) -> Record | None:
        # The id is at the record's beginning, so other records are not decoded.
        if identity not in value[: len(identity) + 16]:
            return None
        record = settings.codec.decode("scores", value)
        return record if record["score_id"] == str(wanted) else None

    return _first(settings, "scores", wanted.instrument, wanted.time, chosen)


def settings_revision(settings: Settings, score: Record) -> int | None:
    """Return the revision of the engine's settings that an instant used (``worker_progress``). 0: the worker's defaults. None: unknown.

    The step of a score has its instant, its decision time and the venue of its instrument. It is read from the topic, then from the database.
    """
    venue = score["instrument"].partition(":")[0]

    def chosen(value: bytes) -> Record | None:
        record = settings.codec.decode("worker_progress", value)
        same = (record["event_time"], record["receive_time"], record["venue"]) == (score["event_time"], score["receive_time"], venue)
        return record if same else None

    try:
        step = _first(settings, "worker_progress", score["instrument"], score["event_time"], chosen)
    except (UserError, CodecError):
        step = None
    if step is not None:
        return int(step["settings_revision"])
    if not settings.database_url:
        return None
    query = """SELECT settings_revision FROM worker_progress
        WHERE kafka_partition = %s AND event_time = to_timestamp(%s / 1000.0) AND receive_time = to_timestamp(%s / 1000.0) AND venue = %s LIMIT 1"""
    values = (_partition(settings, score["instrument"]), score["event_time"], score["receive_time"], venue)
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=int(_TIMEOUT_S)) as connection:
            row = connection.execute(query, values).fetchone()
    except psycopg.Error:
        return None
    return None if row is None else int(row[0])


def _partition(settings: Settings, instrument: str) -> int:
    return settings.partition_of(base_of_instrument(instrument))


def _first(settings: Settings, name: str, instrument: str, since: int, chosen: Callable[[bytes], Record | None]) -> Record | None:
    """Return the first record that is chosen, in an instrument's partition of a topic, or None.

    Record timestamps are event times, so the time index finds the first record of ``since`` or later. A venue that caught up may have written
    it after later instants of others, so reading continues to the end.

    Raises:
        UserError: Kafka does not answer, or the topic does not exist.
    """
    topic = settings.topic(name)
    partition = _partition(settings, instrument)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("explain"),  # required by the client; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        (start,) = consumer.offsets_for_times([TopicPartition(topic, partition, since)], timeout=_TIMEOUT_S)
        if start.error is not None:
            raise UserError(f"{topic}: {start.error.str()}")
        if start.offset < 0:
            return None  # all records are older
        consumer.assign([TopicPartition(topic, partition, start.offset)])
        heard = time.monotonic()
        while True:
            messages = consumer.consume(5_000, timeout=0.1)  # waits for this many records or this long
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _TIMEOUT_S:
                raise UserError(f"{topic}: no answer from Kafka for {_TIMEOUT_S:.0f} s")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return None
                    raise UserError(f"{topic}: {error.str()}")
                value = message.value()
                record = None if value is None else chosen(value)
                if record is not None:
                    return record
    except KafkaException as error:
        raise UserError(f"{topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def in_database(settings: Settings, wanted: ScoreId) -> Record | None:
    """Return a score from the database as a record of the topic, or None.

    Raises:
        UserError: the database does not answer, or the table is missing.
    """
    fields = catalogue.schema("scores")["fields"]
    times = {
        field["name"] for field in fields if isinstance(field["type"], dict) and field["type"].get("logicalType") == "timestamp-millis"
    }
    columns = [
        sql.SQL("(extract(epoch FROM {0}) * 1000)::bigint AS {0}").format(sql.Identifier(field["name"]))
        if field["name"] in times
        else sql.Identifier(field["name"])
        for field in fields
    ]
    query = sql.SQL("SELECT {} FROM scores WHERE score_id = %s AND event_time = to_timestamp(%s / 1000.0) LIMIT 1").format(
        sql.SQL(", ").join(columns)
    )
    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=int(_TIMEOUT_S)) as connection:
            return connection.cursor(row_factory=dict_row).execute(query, (str(wanted), wanted.time)).fetchone()
    except psycopg.Error as error:
        raise UserError(f"database: {str(error).strip()}") from error


def find(settings: Settings, wanted: ScoreId) -> tuple[Record, str]:
    """Return a score and its source: the topic first, then the database if configured.

    Raises:
        UnknownScore: it is in neither.
        UserError: it is not in what could be read, and the rest could not be; the message has both answers.
    """
    answers, failed = [], False
    for place, look in (("topic", in_topic), ("database", in_database)):
        if place == "database" and not settings.database_url:
            answers.append("database: DATABASE_URL is not set")
            continue
        try:
            record = look(settings, wanted)
        except UserError as error:
            answers.append(str(error))
            failed = True
            continue
        if record is not None:
            return record, place
        answers.append(f"{place}: not there")
    kind = UserError if failed else UnknownScore
    raise kind(f"no score {wanted} ({'; '.join(answers)})")

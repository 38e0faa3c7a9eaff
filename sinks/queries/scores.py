"""Find a score by its id: in the topic ``scores``, by the time in the id, or in the database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from psycopg import sql
from psycopg.rows import dict_row

from schemas import catalogue
from schemas.errors import UserError
from schemas.partition import base_of_instrument, partition_of
from schemas.settings import Settings

Record = dict[str, Any]
_TIMEOUT_S = 10.0


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

    Record timestamps are event times, so the time index finds the first score of T or later. A venue that caught up may have written T after later instants of
    others, so reading continues to the end.

    Raises:
        UserError: Kafka does not answer, or the topic does not exist.
    """
    topic = settings.topic("scores")
    partition = partition_of(base_of_instrument(wanted.instrument), settings.partitions)
    identity = str(wanted).encode()
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
        (start,) = consumer.offsets_for_times([TopicPartition(topic, partition, wanted.time)], timeout=_TIMEOUT_S)
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
                # The id is at the record's beginning, so other records are not decoded.
                if value is not None and identity in value[: len(identity) + 16]:
                    record = settings.codec.decode("scores", value)
                    if record["score_id"] == str(wanted):
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
        UserError: it is in neither; the message has both answers.
    """
    answers = []
    for place, look in (("topic", in_topic), ("database", in_database)):
        if place == "database" and not settings.database_url:
            answers.append("database: DATABASE_URL is not set")
            continue
        try:
            record = look(settings, wanted)
        except UserError as error:
            answers.append(str(error))
            continue
        if record is not None:
            return record, place
        answers.append(f"{place}: not there")
    raise UserError(f"no score {wanted} ({'; '.join(answers)})")

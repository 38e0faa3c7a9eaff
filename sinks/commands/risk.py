"""Send risk commands to the switch in the database and to the topic, whichever answers. Both identify a command by its id."""

from __future__ import annotations

import getpass
import socket
import time
import uuid
from dataclasses import dataclass

import psycopg
from confluent_kafka import KafkaException, Producer

from schemas.settings import Settings
from sinks.executor.publish import QUIET
from sinks.guard import switch
from stream_apps.core.execution.account.guard import COMMANDS, Command

TOPIC = "risk_commands"
ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class CommandReceipt:
    """Where a command arrived: None for success, else the error text."""

    command: Command
    database: str | None
    kafka: str | None

    @property
    def arrived(self) -> bool:
        """True if at least one accepted it."""
        return self.database is None or self.kafka is None


def give(settings: Settings, account: str, command: str, reason: str, *, by: str = "", acknowledge_loss: bool = False) -> CommandReceipt:
    """Send a command to the guard of an account.

    Args:
        account: VENUE-mode, or ``*`` for every account.
        command: halt, block_new, close_all or resume.
        reason: Reason, for the record.
        by: Author; empty: user@host.
        acknowledge_loss: For a resume: the day's loss no longer counts.

    Raises:
        ValueError: an unknown command.
    """
    if command not in COMMANDS:
        raise ValueError(f"command: expected one of {', '.join(COMMANDS)}, got {command!r}")
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    told = Command(uuid.uuid4().hex, command, int(time.time() * 1000), who, reason, acknowledge_loss)
    return CommandReceipt(told, _to_database(settings, account, told), _to_kafka(settings, account, told))


def _to_database(settings: Settings, account: str, command: Command) -> str | None:
    if not settings.database_url:
        return "DATABASE_URL is not set"
    try:
        with psycopg.connect(settings.database_url, autocommit=True, connect_timeout=int(ANSWER_S)) as connection:
            switch.put(connection, account, command)
    except psycopg.Error as error:
        return str(error).strip() or type(error).__name__
    return None


def _to_kafka(settings: Settings, account: str, command: Command) -> str | None:
    record = {
        "command_id": command.command_id,
        "account": account,
        "event_time": command.time,
        "receive_time": command.time,
        "command": command.command,
        "by": command.by,
        "reason": command.reason,
        "acknowledge_loss": command.acknowledge_loss,
    }
    failures: list[str] = []
    producer = Producer(
        {
            **QUIET,
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "acks": "all",
            "message.timeout.ms": int(ANSWER_S * 1000),
        }
    )
    try:
        producer.produce(
            settings.topic(TOPIC),
            settings.codec.encode(TOPIC, record),
            account.encode(),
            0,
            timestamp=command.time,
            on_delivery=lambda error, _: failures.append(str(error)) if error is not None else None,
        )
        left = producer.flush(ANSWER_S + 1)
    except KafkaException as error:
        return str(error)
    return failures[0] if failures else "no broker answered" if left else None

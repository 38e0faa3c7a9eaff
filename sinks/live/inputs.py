"""The Kafka inputs of live execution, read in a thread: signals from the journalled offsets, quotes and risk states from the end of their topics.

Quotes are conflated: of each poll only the newest quote of an instrument is decoded. Signals are never skipped: one that cannot be decoded goes to
dead_letters with its bytes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from schemas import metrics
from schemas.codec.avro import CodecError, Record
from schemas.process.dead_letters import dead_letter
from schemas.settings import Settings
from sinks.executor.publish import QUIET
from stream_apps.core.execution.orders.events import GuardChanged, QuoteSeen
from stream_apps.core.execution.state.records import symbol_of

SIGNALS, QUOTES, RISK = "signals", "quotes", "risk_state"
MESSAGES, POLL_S, ANSWER_S = 2_000, 0.02, 10.0


@dataclass(frozen=True, slots=True)
class SignalMessage:
    """A signal and its Kafka position; ``record`` is None if it cannot be decoded or is not for this account."""

    partition: int
    offset: int
    record: Record | None


Input = SignalMessage | QuoteSeen | GuardChanged


class KafkaInputs:
    """Reads until it is stopped.

    Args:
        settings: Environment.
        venue: Instruments of other venues are skipped.
        account: Account id; its ``risk_state`` records are read.
        give: Called in the event loop's thread with each input.
        dead: Receives ``dead_letters`` records, in the reader's thread.
        spot: Read the venue's spot pairs instead of its perpetual contracts.
        replayed: The market is a recording: prices and signals count from their arrival, not from their event time.
    """

    def __init__(
        self,
        settings: Settings,
        venue: str,
        account: str,
        give: Callable[[Input], None],
        dead: Callable[[Record], None],
        *,
        replayed: bool,
        spot: bool = False,
    ) -> None:
        self._spot = spot
        self._settings, self._venue, self._account, self._give, self._dead, self._replayed = settings, venue, account, give, dead, replayed
        self._plain = {settings.topic(topic): topic for topic in (SIGNALS, QUOTES, RISK)}
        self._log = structlog.get_logger().bind(account=account)
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._sequence = -1
        self._consumer = Consumer(
            {
                **QUIET,
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                # The client requires a group id. Nothing joins the group or commits to it.
                "group.id": settings.group(f"live-{account}"),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
            }
        )

    def ends(self) -> dict[int, int]:
        """Return partition -> end offset of ``signals``, where a new account begins.

        Raises:
            KafkaException: Kafka does not answer.
        """
        name = self._settings.topic(SIGNALS)
        return {one: self._consumer.get_watermark_offsets(TopicPartition(name, one), ANSWER_S)[1] for one in self._partitions(SIGNALS)}

    def _partitions(self, topic: str) -> list[int]:
        name = self._settings.topic(topic)
        found = self._consumer.list_topics(name, ANSWER_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def start(self, offsets: Mapping[int, int]) -> None:
        """Start the reader thread. Call it inside the event loop.

        Raises:
            KafkaException: Kafka does not answer.
        """
        self._loop = asyncio.get_running_loop()
        starts = [TopicPartition(self._settings.topic(SIGNALS), partition, offset) for partition, offset in offsets.items()]
        for topic in (QUOTES, RISK):
            starts += [TopicPartition(self._settings.topic(topic), one, OFFSET_END) for one in self._partitions(topic)]
        self._consumer.assign(starts)
        self._thread = threading.Thread(target=self._run, name="inputs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the consumer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            quotes: dict[bytes, Any] = {}
            for message in self._consumer.consume(MESSAGES, POLL_S):
                if message.error() is not None:
                    continue
                topic = self._plain[str(message.topic())]
                if topic == QUOTES:
                    key = message.key() or b""
                    if key.startswith(f"{self._venue}:".encode()):
                        quotes[key] = message
                elif topic == SIGNALS:
                    self._signal(message)
                elif message.key() == self._account.encode():
                    self._risk(message)
            for message in quotes.values():
                self._quote(message)

    def _hand(self, given: Input) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._give, given)
        except RuntimeError:
            # The event loop is closed: the process ends.
            self._stop.set()

    def _signal(self, message: Any) -> None:
        record = self._decoded(SIGNALS, message)
        ours = record is not None and record["instrument"].startswith(f"{self._venue}:") and self._is_traded(record["instrument"])
        if record is not None and ours and self._replayed:
            record = {**record, "decided_at": _now()}
        self._hand(SignalMessage(message.partition(), message.offset(), record if ours else None))

    def _quote(self, message: Any) -> None:
        record = self._decoded(QUOTES, message)
        if record is None or not self._is_traded(record["instrument"]):
            return
        bid, ask = Decimal(repr(record["bid_price"])), Decimal(repr(record["ask_price"]))
        at = _now() if self._replayed else min(_now(), record["event_time"])
        self._hand(QuoteSeen(symbol_of(record["instrument"]), bid, ask, at))

    def _is_traded(self, instrument: str) -> bool:
        return instrument.endswith("-PERP") is not self._spot

    def _risk(self, message: Any) -> None:
        record = self._decoded(RISK, message)
        # With two guards, or one that was frozen, the highest sequence number counts.
        if record is None or record["sequence"] <= self._sequence:
            return
        self._sequence = record["sequence"]
        self._hand(
            GuardChanged(
                block_entries=record["block_entries"],
                close_all=record["close_all"],
                time=min(_now(), record["event_time"]),
                reasons=tuple(one["rule"] for one in record["reasons"] if one["level"] == "halted") or (record["state"],),
                close_positions=tuple(record["close_positions"]),
                allow_maker=record["allow_maker"],
                allow_slices=record["allow_twap"],
                size_factor=Decimal(repr(record["size_multiple"])),
            )
        )

    def _decoded(self, topic: str, message: Any) -> Record | None:
        try:
            return self._settings.codec.decode(topic, message.value() or b"")
        except CodecError as error:
            if topic != QUOTES:
                metrics.DEAD_LETTERS.labels("live", topic).inc()
                _, stamp = message.timestamp()
                self._dead(
                    dead_letter(
                        "live",
                        topic,
                        str(error),
                        event_time=stamp,
                        partition=message.partition(),
                        offset=message.offset(),
                        field=error.field,
                        key=message.key(),
                        value=message.value(),
                    )
                )
            return None


def _now() -> int:
    return time.time_ns() // 1_000_000

"""The guard's Kafka inputs for one account: closed trades, open positions, orders, the age of features, and commands."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec.avro import CodecError, Record
from schemas.process.dead_letters import dead_letter
from schemas.settings import Settings
from sinks.executor.publish import QUIET
from stream_apps.core.execution.account.guard import DAY_MS, HOUR_MS, ClosedTrade, Command, OpenPosition, Share
from stream_apps.core.execution.state.records import symbol_of
from stream_apps.core.performance.open_positions import money_at_risk

OPEN_STATES = ("open", "tp1_hit")
# Topic -> how far back reading starts, ms; None: from the beginning (compacted).
READ: dict[str, int | None] = {
    "trades_closed": 2 * DAY_MS,
    "positions": None,
    "orders": DAY_MS,
    "features": 5 * 60_000,
    "risk_commands": 7 * DAY_MS,
}
# The ids of an account's records begin with its name (``execution.state.records.Account.key``), because one mode has accounts at several venues.
OWN_ID = {"trades_closed": "trade_id", "positions": "position_id", "orders": "order_id"}
ANSWER_S = 10.0
MESSAGES = 2_000


class GuardReader:
    """Reads the topics of an account.

    Args:
        settings: Environment.
        account: Account id.
        now: ms UTC; start positions are relative to it.
        fresh_by_arrival: The age of features counts from their arrival, not from their event time. For simulated venues with old recordings.
    """

    def __init__(self, settings: Settings, account: str, now: int, fresh_by_arrival: bool = False) -> None:
        self._settings, self._account, self._by_arrival = settings, account, fresh_by_arrival
        self._plain = {settings.topic(topic): topic for topic in READ}
        self.closed: dict[str, ClosedTrade] = {}
        self.open: dict[str, OpenPosition] = {}
        self.features_at: int | None = None
        self.commands: list[Command] = []
        self.dead_letters: list[Record] = []
        # (time, filled) of maker entries; (time, rejected for insufficient balance) of all entry orders.
        self._makers: deque[tuple[int, bool]] = deque()
        self._orders: deque[tuple[int, bool]] = deque()
        self._consumer = Consumer(
            {
                **QUIET,
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                # The client requires a group id. Nothing joins the group or commits to it.
                "group.id": settings.group(f"guard-{account}"),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign(list(self._starts(now)))

    def _starts(self, now: int) -> Iterator[TopicPartition]:
        wanted = []
        for name, topic in self._plain.items():
            found = self._consumer.list_topics(name, ANSWER_S).topics[name]
            if found.error is not None:
                raise KafkaException(found.error)
            back = READ[topic]
            for partition in found.partitions:
                if back is None:
                    yield TopicPartition(name, partition, 0)
                else:
                    wanted.append(TopicPartition(name, partition, now - back))
        # A partition without newer records returns its end.
        yield from self._consumer.offsets_for_times(wanted, ANSWER_S)

    def poll(self, wait_s: float) -> int:
        """Read the available records; return their number.

        Raises:
            KafkaException: an error that Kafka's client calls fatal.
        """
        taken = 0
        for message in self._consumer.consume(MESSAGES, wait_s):
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise KafkaException(error)
                continue
            topic = self._plain[str(message.topic())]
            try:
                record = self._settings.codec.decode(topic, message.value() or b"")
            except CodecError as refused:
                letter = dead_letter(
                    "guard",
                    topic,
                    str(refused),
                    partition=message.partition(),
                    offset=message.offset(),
                    field=refused.field,
                    key=message.key(),
                    value=message.value(),
                )
                self.dead_letters.append(letter)
                continue
            self.take(topic, record)
            taken += 1
        return taken

    def take(self, topic: str, record: Record) -> None:
        """Apply one record."""
        if topic == "features":
            at = int(time.time() * 1000) if self._by_arrival else record["event_time"]
            self.features_at = max(self.features_at or 0, at)
        elif topic == "risk_commands":
            if record["account"] in (self._account, "*"):
                self.commands.append(
                    Command(
                        record["command_id"],
                        record["command"],
                        record["event_time"],
                        record["by"],
                        record["reason"],
                        record["acknowledge_loss"],
                    )
                )
        elif not record[OWN_ID[topic]].startswith(f"{self._account}|"):
            return
        elif topic == "trades_closed":
            self.closed[record["trade_id"]] = ClosedTrade(record["trade_id"], record["event_time"], record["net_r"])
        elif topic == "positions":
            if record["status"] in OPEN_STATES and record["entry_time"] is not None:
                self.open[record["position_id"]] = OpenPosition(
                    record["position_id"],
                    record["entry_time"],
                    record["timeout_at"],
                    symbol_of(record["instrument"]),
                    record["realised_pnl"],
                    money_at_risk(record),
                )
            else:
                self.open.pop(record["position_id"], None)
        elif topic == "orders" and record["leg"] == "entry":
            if record["status"] in ("filled", "cancelled", "rejected"):
                self._orders.append((record["event_time"], record["reason"] == "insufficient_balance"))
            if record["type"] == "LIMIT" and record["status"] in ("filled", "cancelled"):
                self._makers.append((record["event_time"], record["status"] == "filled"))

    def forget(self, now: int) -> None:
        """Drop records that are too old for every rule."""
        self.closed = {key: one for key, one in self.closed.items() if one.closed_at > now - 2 * DAY_MS}
        for kept, back in ((self._makers, HOUR_MS), (self._orders, DAY_MS)):
            while kept and kept[0][0] <= now - back:
                kept.popleft()

    @property
    def maker_fills(self) -> Share:
        """Share of the maker entries of the last hour that were filled."""
        return _share(self._makers)

    @property
    def insufficient(self) -> Share:
        """Share of the entry orders of the last day that were rejected for insufficient balance."""
        return _share(self._orders)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def newest_state(settings: Settings, account: str) -> Record | None:
    """Return the account's newest ``risk_state`` record; None when there is none.

    Raises:
        KafkaException: Kafka does not answer.
    """
    name = settings.topic("risk_state")
    consumer = Consumer(
        {
            **QUIET,
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("guard-memory"),
            "enable.auto.commit": False,
        }
    )
    try:
        place = TopicPartition(name, 0)
        low, high = consumer.get_watermark_offsets(place, ANSWER_S)
        step = 1_000
        end = high
        while end > low:
            start = max(low, end - step)
            newest = _newest_between(consumer, settings, account, TopicPartition(name, 0, start), end)
            if newest is not None:
                return newest
            end, step = start, step * 10
        return None
    finally:
        consumer.close()


def _newest_between(consumer: Consumer, settings: Settings, account: str, start: TopicPartition, end: int) -> Record | None:
    consumer.assign([start])
    newest: Record | None = None
    position = start.offset
    while position < end:
        messages = consumer.consume(MESSAGES, ANSWER_S)
        if not messages:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "risk_state: no answer"))
        for message in messages:
            if message.error() is not None:
                continue
            position = (message.offset() or 0) + 1
            if message.key() == account.encode() and position <= end:
                try:
                    newest = settings.codec.decode("risk_state", message.value() or b"")
                except CodecError:
                    continue
    return newest


def _share(kept: deque[tuple[int, bool]]) -> Share:
    return Share(sum(hit for _, hit in kept) / len(kept), len(kept)) if kept else Share()

"""Writing steps and marks to a real broker, and finding them again after a crash."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from producers.output import kafka_writer as kafka_out
from producers.output.kafka_writer import MAX_IN_FLIGHT, DeliveryFailed, KafkaWriter, Outgoing
from producers.output.log_tail import FIRST_LOOK, LogError, read_tail
from producers.output.sequencer import Step
from schemas.codec.avro import Record
from schemas.settings import Settings

pytestmark = pytest.mark.stack

TOPICS = ("instruments", "agg_trades")


def trade(settings: Settings, number: int, partition: int = 3, instrument: str = "V:AUSDT-PERP", at: int | None = None) -> Outgoing:
    record = {
        "instrument": instrument, "event_time": at or 1_000_000 + number, "receive_time": 2_000_000, "agg_id": number, "first_trade_id": number,
        "last_trade_id": number, "price": 1.5, "quantity": 2.0, "buyer_is_maker": False, "backfilled": False,
    }  # fmt: skip
    value = settings.codec.encode("agg_trades", record)
    return ("agg_trades", partition, instrument.encode(), value, record["event_time"], 2_000_000)


def instrument(settings: Settings, name: str, author: str, partition: int) -> Outgoing:
    record = {
        "instrument": name, "event_time": 1_000_000, "receive_time": 1, "author": author, "venue": "V", "symbol": "X", "base_asset": "A",
        "quote_asset": "USDT", "kind": "perp", "status": "trading", "tick_size": 0.1, "step_size": 1.0, "min_notional": None,
        "price_decimals": 1, "quantity_decimals": 0, "funding_interval_hours": 8, "recorded": True,
    }  # fmt: skip
    return ("instruments", partition, name.encode(), settings.codec.encode("instruments", record), 1_000_000, 1)


def read(settings: Settings, topic: str, partition: int) -> list[Record]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader", "enable.auto.commit": False})
    place = TopicPartition(settings.topic(topic), partition, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    records: list[Record] = []
    while len(records) < high:
        for message in consumer.consume(high, timeout=1.0):
            assert message.error() is None
            records.append(settings.codec.decode(topic, message.value()))
    consumer.close()
    return records


def writing(
    settings: Settings,
    work: Callable[[KafkaWriter], Awaitable[None]],
    cuts: dict[int, dict[str, int]] | None = None,
    marks: dict[int, int] | None = None,
) -> None:
    """Do some work with a writer that has reached Kafka, on a loop of its own; it leaves Kafka in any case."""

    async def whole() -> None:
        out = KafkaWriter(settings, "me", "V", cuts or {p: dict.fromkeys(TOPICS, 0) for p in (3, 4)}, marks or {})
        await out.start()
        try:
            await work(out)
        finally:
            await out._leave()

    asyncio.run(whole())


def test_marks_follow_their_steps_and_cut_what_is_acknowledged(environment: Settings, topics: list[str]) -> None:
    async def work(out: KafkaWriter) -> None:
        out.offer(
            [
                Step(None, [trade(environment, 1)]),
                Step(1_000_250, [trade(environment, 2), trade(environment, 3), trade(environment, 4, partition=4)]),
                Step(1_000_500, [trade(environment, 5)]),
                Step(1_000_750, [], grid=True),
            ]
        )
        assert out.marks_written == 0  # nothing is acknowledged yet
        assert await out.close() and out.idle and out.in_flight == 0

    writing(environment, work)
    three, four = read(environment, "progress", 3), read(environment, "progress", 4)
    assert [(mark["event_time"], mark["cut"]["agg_trades"]) for mark in three] == [(1_000_250, 3), (1_000_500, 4), (1_000_750, 4)]
    # A quiet step is left out on a partition that had nothing in it; an instant of the grid is not.
    assert [(mark["event_time"], mark["cut"]["agg_trades"]) for mark in four] == [(1_000_250, 1), (1_000_750, 1)]
    assert {(mark["author"], mark["venue"], mark["cut"]["instruments"]) for mark in three + four} == {("me", "V", 0)}
    assert [record["agg_id"] for record in read(environment, "agg_trades", 3)] == [1, 2, 3, 5]


def test_nothing_is_written_past_a_barrier_until_it_is_acknowledged(environment: Settings, topics: list[str]) -> None:
    async def work(out: KafkaWriter) -> None:
        out.offer([Step(None, [instrument(environment, "V:AUSDT-PERP", "me", 3)])], barrier=True)
        out.offer([Step(1_000_250, [trade(environment, 1)])])
        assert out.congested and out.in_flight == 1
        assert await out.close() and not out.congested

    writing(environment, work)
    assert read(environment, "progress", 3)[0]["cut"] == {"instruments": 1, "agg_trades": 1}


def test_more_than_fits_in_flight_waits_its_turn(environment: Settings, topics: list[str]) -> None:
    async def work(out: KafkaWriter) -> None:
        item = trade(environment, 1)
        out.offer([Step(1_000_250, [item] * (MAX_IN_FLIGHT + 1000)), Step(1_000_500, [item])])
        assert out.congested and out.in_flight <= MAX_IN_FLIGHT
        assert await out.close(60) and not out.congested

    writing(environment, work)
    assert [mark["cut"]["agg_trades"] for mark in read(environment, "progress", 3)] == [MAX_IN_FLIGHT + 1000, MAX_IN_FLIGHT + 1001]


def test_an_acknowledgement_without_an_offset_cuts_at_the_end_of_the_log(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A batch that was there already: the broker names no offset (KIP-98, duplicate sequence number).
    plain = kafka_out._Batch.done

    def without_offset(batch: kafka_out._Batch, future: asyncio.Future[object]) -> None:
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        answered.set_result(SimpleNamespace(offset=-1))
        plain(batch, answered)

    monkeypatch.setattr(kafka_out._Batch, "done", without_offset)

    async def work(out: KafkaWriter) -> None:
        out.offer([Step(1_000_250, [trade(environment, 1), trade(environment, 2)], False)])
        assert await out.close(20)

    writing(environment, work)
    assert [mark["cut"]["agg_trades"] for mark in read(environment, "progress", 3)] == [2]


def test_a_record_that_the_broker_refuses_stops_the_marks(environment: Settings, topics: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": environment.kafka_bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    wire = ConfigResource(ResourceType.TOPIC, environment.topic("agg_trades"), incremental_configs=[entry])
    admin.incremental_alter_configs([wire])[wire].result(10)
    big = ("agg_trades", 3, b"k", random.Random(1).randbytes(5000), 1_000_001, 1)

    async def work(out: KafkaWriter) -> None:
        out.offer([Step(1_000_250, [trade(environment, 1), big, trade(environment, 2), trade(environment, 3, partition=4)])])
        out.offer([Step(1_000_500, [trade(environment, 4, partition=4)])])
        with pytest.raises(DeliveryFailed, match=r"agg_trades\[3\]: Kafka refused a record: MessageSizeTooLarge"):
            await out.flush(20)
        with pytest.raises(DeliveryFailed):
            out.pump()
        assert not await out.close(1)

    writing(environment, work)
    assert (read(environment, "progress", 3), read(environment, "progress", 4)) == ([], [])


def test_a_large_step_is_several_batches_in_order(environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_out, "BATCH_BYTES", 600)
    items = [trade(environment, number, partition=3 + number % 2) for number in range(40)]

    async def work(out: KafkaWriter) -> None:
        out.offer([Step(1_000_250, items), Step(1_000_500, [trade(environment, 40, partition=3)])])
        assert await out.close(30) and out.in_flight == 0

    writing(environment, work)
    assert [mark["cut"]["agg_trades"] for mark in read(environment, "progress", 3)] == [20, 21]
    assert [record["agg_id"] for record in read(environment, "agg_trades", 3)] == list(range(0, 41, 2))
    assert [record["agg_id"] for record in read(environment, "agg_trades", 4)] == list(range(1, 40, 2))


def test_what_comes_while_a_batch_waits_joins_it_and_what_comes_while_it_is_sent_follows(environment: Settings, topics: list[str]) -> None:
    async def work(out: KafkaWriter) -> None:
        for number in range(1, 300):
            out.offer([Step(1_000_000 + 250 * number, [trade(environment, number)])])
            if number % 7 == 0:
                await asyncio.sleep(0)
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        assert await out.close(30)

    writing(environment, work)
    assert [record["agg_id"] for record in read(environment, "agg_trades", 3)] == list(range(1, 300))
    assert [mark["cut"]["agg_trades"] for mark in read(environment, "progress", 3)] == list(range(1, 300))


def test_closing_without_a_broker_ends_in_time_and_says_so(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        await asyncio.sleep(3600)

    async def work(out: KafkaWriter) -> None:
        assert out._producer is not None
        monkeypatch.setattr(out._producer._sender.client, "send", away)  # a broker that is frozen: it never answers
        out.offer([Step(1_000_250, [trade(environment, 1)])])
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert not await out.close(0.5)
        assert time.monotonic() - began < 8

    writing(environment, work)
    assert read(environment, "progress", 3) == []


def test_a_successor_finds_what_was_left(environment: Settings, topics: list[str]) -> None:
    mine, other, foreign = "V:AUSDT-PERP", "V:AUSDC-PERP", "V:BUSDT-PERP"
    items = [instrument(environment, mine, "me", 3), instrument(environment, other, "me", 3), instrument(environment, foreign, "you", 3)]
    # The quiet instrument's only trade lies far before the end, so one look back does not find it.
    items += [trade(environment, 900, instrument=other)]
    items += [trade(environment, number) for number in range(1, 3 * FIRST_LOOK) if number not in (3 * FIRST_LOOK - 10,)]
    items += [trade(environment, 7, instrument=foreign)]

    async def work(out: KafkaWriter) -> None:
        out.offer([Step(1_030_000, items), Step(1_045_250, [trade(environment, 3 * FIRST_LOOK)], grid=True)])
        assert await out.close(30)

    writing(environment, work)
    tail = read_tail(environment, "me", {mine: 3, other: 3, "V:NEWUSDT-PERP": 4}, TOPICS)
    assert tail.marks == {3: 1_045_250}  # on partition 4 nothing of ours was ever announced
    assert tail.cuts == {3: {"instruments": 3, "agg_trades": 3 * FIRST_LOOK + 1}, 4: {"instruments": 0, "agg_trades": 0}}
    assert set(tail.instruments) == {mine, other} and tail.instruments[mine]["author"] == "me"
    ids = [record["agg_id"] for record in tail.newest["agg_trades", mine]]
    assert ids[-1] == 3 * FIRST_LOOK and 3 * FIRST_LOOK - 10 not in ids and 3 * FIRST_LOOK - 9 in ids
    assert [record["agg_id"] for record in tail.newest["agg_trades", other]] == [900]
    assert tail.clock == 1_000_000 + 3 * FIRST_LOOK

    # Its marks go on after the last one, and its cuts from the ends.
    async def successor(out: KafkaWriter) -> None:
        out.offer([Step(1_045_250, [], grid=True), Step(1_060_250, [], grid=True)])
        assert await out.close()

    writing(environment, successor, tail.cuts, tail.marks)
    assert [mark["event_time"] for mark in read(environment, "progress", 3)] == [1_030_000, 1_045_250, 1_060_250]
    assert read(environment, "progress", 3)[-1]["cut"] == tail.cuts[3]


def test_topics_that_are_missing_are_named(environment: Settings) -> None:
    with pytest.raises(LogError, match=r"topic .* does not exist: create the topics first"):
        read_tail(environment, "me", {"V:AUSDT-PERP": 3}, TOPICS)


def test_another_partition_count_is_refused(environment: Settings, topics: list[str]) -> None:
    wrong = environment.model_copy(update={"partitions": environment.partitions - 1})
    with pytest.raises(LogError, match=f"{environment.partitions} partitions, but PERPFLOW_PARTITIONS is {wrong.partitions}"):
        read_tail(wrong, "me", {"V:AUSDT-PERP": 3}, TOPICS)

"""The assumptions about the insides of Faust and aiokafka, and the parts of the worker that need no broker."""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.structs import TopicPartition
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.codec import fetching
from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from schemas.process import pins
from schemas.process.dead_letters import dead_letter
from stream_apps.agents import transport
from stream_apps.agents.changelog import CLAIM_KEY, Fold, Ownership, chunks
from stream_apps.agents.output import Outbox, OutputError
from stream_apps.agents.runner import shortened
from stream_apps.agents.worker import RepeatFilter

A, B, C = (Ownership(epoch, owner * 16) for epoch, owner in ((1, b"a"), (2, b"b"), (2, b"c")))


# --- pins and names ------------------------------------------------------------------------------------------------
def test_the_pinned_versions_are_installed_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pins.check_pins()
    monkeypatch.setitem(pins.PINNED, "aiokafka", "0.13.0")
    with pytest.raises(RuntimeError, match=r"aiokafka 0\.14\.0 is installed.*install aiokafka==0\.13\.0"):
        pins.check_pins()


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (fetcher.Fetcher, ("_proc_fetch_request", "fetched_records", "seek_to")),
        (fetcher.PartitionRecords, ("__init__", "__next__")),
        (BatchBuilder, ("append", "close", "record_count")),
        (MessageAccumulator, ("create_builder", "add_batch")),
        (aiokafka.AIOKafkaProducer, ("create_batch", "send_batch")),
        (driver.AIOKafkaConsumerThread, ("_create_worker_consumer", "_fetch_records", "_seek_wait", "on_start", "_ensure_consumer")),
        (driver.Consumer, ("_new_consumer_thread", "_to_message")),
        (driver.Producer, ("_settings_extra", "_ensure_producer", "flush")),
        (
            faust_consumer.Consumer,
            ("getmany", "perform_seek", "_add_gap", "ack", "_new_offset", "on_buffer_drop", "verify_event_path", "_get_active_partitions"),
        ),
        (Recovery, ("_restart_recovery", "_slurp_changelogs", "_set_recovery_started", "_set_recovery_ended", "_wait", "on_rebalance")),
        (TableManager, ("recovery", "on_actives_ready", "on_standbys_ready")),
    ],
)
def test_what_is_overridden_or_called_exists(owner: type, names: tuple[str, ...]) -> None:
    for name in names:
        assert hasattr(owner, name), f"{owner.__name__}.{name}"


def test_the_fetch_names_both_classes_as_globals() -> None:
    names = fetcher.Fetcher._proc_fetch_request.__code__.co_names
    assert "MemoryRecords" in names and "PartitionRecords" in names
    assert list(inspect.signature(fetcher.PartitionRecords.__init__).parameters)[1:5] == [
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
    ]
    assert fetcher.PartitionRecords.__module__ == "aiokafka.consumer.fetcher", "the module's own class must stay as it is"


def test_the_app_hooks_exist() -> None:
    import faust

    for name in ("_new_transport", "_new_producer_transport", "_consumer_wait_empty", "_fetcher"):
        assert hasattr(faust.App, name)


# --- raw record sets -----------------------------------------------------------------------------------------------
def batch(base: int, values: list[bytes], **options: Any) -> bytes:
    """Build a record batch with aiokafka's builder and move it to an offset, as a broker does."""
    builder = BatchBuilder(1 << 20, options.get("compression", 0))
    for i, value in enumerate(values):
        assert builder.append(timestamp=1000 + i, key=b"k", value=value) is not None
    raw = bytearray(builder._build())
    raw[:8] = base.to_bytes(8, "big")
    return bytes(raw)


def raw_records(data: bytes, position: int) -> list[fetching.RawRecords]:
    records = fetching._RawSet(data)
    assert records.size_in_bytes() == len(data)
    return list(fetching._RawPartitionRecords(TopicPartition("t", 3), records, None, position, None, None, True, 0))


@pytest.mark.parametrize("compression", [0, 1, 3, 4])  # none, gzip, lz4, zstd
def test_a_batch_of_the_producer_round_trips_through_the_raw_door(compression: int) -> None:
    values = [b"v%d" % i for i in range(50)]
    data = batch(100, values[:30], compression=compression) + batch(140, values[30:], compression=compression)
    (raw,) = raw_records(data, 105)
    assert (raw.topic, raw.partition, raw.first, raw.last) == ("t", 3, 105, 159)
    records = RecordSet.from_raw(raw.data, raw.first, raw.last)
    assert records.offsets.tolist() == [*range(105, 130), *range(140, 160)]
    assert [records.value(i) for i in range(len(records))] == values[5:]


def test_an_unfinished_batch_at_the_end_is_left_for_the_next_fetch() -> None:
    whole, cut = batch(0, [b"a", b"b"]), batch(2, [b"c"])
    (raw,) = raw_records(whole + cut[:-3], 0)
    assert (raw.first, raw.last, raw.data) == (0, 1, whole)
    assert not fetching._RawSet(cut[:-3]).has_next() and not fetching._RawSet(b"").has_next() and fetching._RawSet(whole).has_next()


def test_a_changed_byte_is_found() -> None:
    data = bytearray(batch(0, [b"hello"]))
    data[-2] ^= 1
    with pytest.raises(CorruptRecordException, match="CRC of the batch at offset 0"):
        raw_records(bytes(data), 0)


# --- changelog -----------------------------------------------------------------------------------------------------
def fold(*rows: tuple[bytes, bytes | None, Ownership] | tuple[bytes, bytes | None, Ownership, bool]) -> Fold:
    result = Fold()
    for offset, (key, value, ownership, *more) in enumerate(rows):
        result.add(offset, key, value, ownership, bool(more and more[0]))
    return result


def test_the_newest_value_counts_in_the_order_of_writing() -> None:
    result = fold((CLAIM_KEY, b"1", A), (b"x", b"1", A), (b"head", b"1", A), (b"y", b"2", A), (b"x", None, A), (b"head", b"2", A))
    assert list(result.entries.items()) == [(b"y", b"2"), (b"head", b"2")]
    assert (result.next_offset, result.late, result.ownership) == (6, 0, A)


def test_late_records_count_for_nothing_and_are_covered_up_by_the_next_claim() -> None:
    result = fold(
        (CLAIM_KEY, b"1", A), (b"x", b"good", A), (b"head", b"1", A), (CLAIM_KEY, b"2", B), (b"x", b"late", A), (b"z", b"late", A), (b"head", b"0", A)
    )  # fmt: skip
    assert result.entries == {b"x": b"good", b"head": b"1"} and result.late == 3
    ownership, records = result.claim(b"n" * 16)
    assert ownership.epoch == 3
    assert records == [(b"head", b"1"), (b"x", b"good"), (b"z", None), (CLAIM_KEY, b"3")]


def test_of_two_who_read_the_same_log_the_first_to_write_is_the_owner() -> None:
    result = fold((CLAIM_KEY, b"2", B), (CLAIM_KEY, b"2", C), (b"x", b"c", C), (b"x", b"b", B))
    assert result.entries == {b"x": b"b"} and result.late == 2 and result.ownership == B


def test_a_rewritten_key_is_not_covered_any_more() -> None:
    result = fold((CLAIM_KEY, b"2", B), (b"x", b"late", A), (b"x", b"new", B))
    assert not result.covered and result.claim(b"n" * 16)[1] == [(CLAIM_KEY, b"3")]


def test_a_checkpoint_of_several_batches_counts_only_when_whole() -> None:
    torn = fold((b"x", b"1", A), (b"head", b"1", A), (b"x", b"2", A, True), (b"y", b"2", A, True))
    assert torn.entries == {b"x": b"1", b"head": b"1"}
    assert torn.claim(b"n" * 16)[1] == [(b"x", b"1"), (b"y", None), (CLAIM_KEY, b"2")]
    whole = fold((b"x", b"1", A), (b"x", b"2", A, True), (b"head", b"2", A))
    assert whole.entries == {b"x": b"2", b"head": b"2"}


def test_headers_say_the_ownership() -> None:
    assert Ownership.of(B.headers(more=True)) == (B, True)
    assert Ownership.of(B.headers()) == (B, False)
    assert Ownership.of([("other", b"1")]) == (Ownership(), False)
    assert Ownership.of([("perpflow-owner", b"short")]) == (Ownership(), False)


def test_chunks_hold_their_limit_and_keep_the_order() -> None:
    entries = [(b"k%d" % i, bytes(1000)) for i in range(20)]
    cut = chunks(entries, 5000)
    assert [len(run) for run in cut] == [4] * 5 and [entry for run in cut for entry in run] == entries
    assert chunks([(b"k", bytes(9000))], 5000) == [[(b"k", bytes(9000))]]


# --- output ----------------------------------------------------------------------------------------------------------
class FailingProducer:
    """A producer whose batches fail: what a broker does cannot be had on demand."""

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1000, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(ConnectionError("gone"))
        return future


def test_a_failed_batch_fails_every_flush_and_send_after_it() -> None:
    async def scenario() -> None:
        outbox = Outbox(FailingProducer)  # type: ignore[arg-type]
        await outbox.send("t", 0, [(1, b"k", b"v")])
        for _ in range(2):
            with pytest.raises(OutputError, match="ConnectionError: gone"):
                await outbox.flush()
        with pytest.raises(OutputError):
            await outbox.send("t", 0, [(1, b"k", b"v")])
        with pytest.raises(OutputError):
            await outbox.send_checkpoint("t", 0, 1, [(b"k", b"v")], A)

    asyncio.run(scenario())


def test_a_dead_letter_of_a_giant_record_is_cut_to_what_kafka_takes() -> None:
    codec = Codec()
    record = dead_letter("worker", "depth", "no good", event_time=5, partition=1, offset=2, key=b"k", value=bytes(1_000_000))
    found = codec.decode("dead_letters", shortened(codec, codec.encode("dead_letters", record)))
    assert len(found["value"]) == 225_000 and found["reason"] == "no good (value: the first 225000 of 1000000 bytes)"
    assert {**found, "value": 0, "reason": 0} == {**record, "value": 0, "reason": 0}


def test_a_library_that_repeats_itself_is_heard_once_in_a_while() -> None:
    now = [0.0]
    sparing = RepeatFilter(10, lambda: now[0])
    lines = []
    for second in range(25):
        now[0] = float(second)
        record = logging.LogRecord("aiokafka", logging.ERROR, "x", 1, "no node %s", (1,), None)
        if sparing.filter(record):
            lines.append(record.getMessage())
    assert lines == ["no node 1", "no node 1 (and 9 more like it)", "no node 1 (and 9 more like it)"]
    assert sparing.filter(logging.LogRecord("aiokafka", logging.ERROR, "x", 1, "other", (), None))


# --- co-partitioning -------------------------------------------------------------------------------------------------
def test_the_assignor_gives_a_partition_of_all_topics_to_one_member() -> None:
    topics = ["agg_trades", "depth", "progress", "toy-state-changelog"]
    app = SimpleNamespace(
        tables=SimpleNamespace(changelog_topics={"toy-state-changelog"}, data={}),
        conf=SimpleNamespace(canonical_url="http://x"),
        tracer=None,
        sensors=SimpleNamespace(on_assignment_start=lambda *a: None, on_assignment_completed=lambda *a: None),
    )
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(12)))
    held: dict[str, ClientAssignment] = {}
    # Members come, stay, and go; each brings what it held before.
    for members in (["a"], ["a", "b"], ["b", "c", "a"], ["c", "a"], ["a", "d", "e", "f", "g"]):
        metadata = {
            member: SimpleNamespace(
                subscription=list(reversed(topics)) if member in "bd" else topics,
                user_data=ClientMetadata(
                    assignment=held.get(member, ClientAssignment(actives={}, standbys={})),
                    url=f"http://{member}",
                    changelog_distribution={},
                ).dumps(),
            )
            for member in members
        }
        assignor = PartitionAssignor(app)  # type: ignore[arg-type]
        result = assignor.assign(cluster, metadata)  # type: ignore[arg-type]
        owned: dict[str, set[int]] = {}
        for member, assignment in result.items():
            by_topic = {topic: set(partitions) for topic, partitions in assignment.assignment}
            assert len({frozenset(partitions) for partitions in by_topic.values()}) == 1 and set(by_topic) == set(topics)
            owned[member] = by_topic["progress"]
            held[member] = ClientAssignment(actives={topic: sorted(ps) for topic, ps in by_topic.items()}, standbys={})
        assert sorted(p for partitions in owned.values() for p in partitions) == list(range(12))


# --- the defects of Faust --------------------------------------------------------------------------------------------
class Thread(transport.RawConsumerThread):
    """The consumer's thread without its thread: only what ``_fetch_records`` needs."""

    def __init__(self, flow_active: bool) -> None:
        self.consumer = SimpleNamespace(flow_active=flow_active)  # type: ignore[assignment]


def test_a_fetch_that_ends_after_the_flow_stopped_puts_the_position_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tp = TopicPartition("t", 0)
    raw = fetching.RawRecords("t", 0, 7, 11, b"")
    sought: list[tuple[Any, int]] = []
    client = SimpleNamespace(assignment=lambda: {tp}, seek=lambda tp, offset: sought.append((tp, offset)))

    async def fetch(self: Any, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return {tp: [raw]}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    assert asyncio.run(Thread(True)._fetch_records(client, {tp})) == {tp: [raw]}  # type: ignore[arg-type]
    assert sought == []
    assert asyncio.run(Thread(False)._fetch_records(client, {tp})) == {}  # type: ignore[arg-type]
    assert sought == [(tp, 7)]


class Fetching(transport.RawConsumer):
    """The consumer without its services: only what ``getmany`` needs."""

    def __init__(self, active: set[TP]) -> None:
        self._active_partitions, self._paused_partitions, self._buffered_partitions = active, set(), set()
        self.flow_active = True
        self.app = SimpleNamespace(consumer_generation_id=1, in_recovery=False)  # type: ignore[assignment]
        from faust.transport.utils import DefaultSchedulingStrategy

        self.scheduler = DefaultSchedulingStrategy()  # type: ignore[no-untyped-call]
        self.asked: list[set[TP]] = []

    should_stop = False  # type: ignore[assignment]

    async def sleep(self, n: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        self.asked.append(active_partitions)
        self.pause_partitions(set(self._active_partitions))  # meanwhile all become paused, and Faust's own set is empty
        assert active_partitions, "aiokafka takes an empty set for all partitions"
        return {tp: [fetching.RawRecords(*tp, 0, 4, b"")] for tp in active_partitions}


def test_what_was_asked_for_is_delivered_though_it_is_paused_meanwhile() -> None:
    async def scenario(consumer: Fetching) -> list[Any]:
        return [(tp, message.value.last, message.offset) async for tp, message in consumer.getmany(1.0)]

    consumer = Fetching({TP("a", 0), TP("b", 0)})
    assert sorted(asyncio.run(scenario(consumer))) == [(TP("a", 0), 4, 4), (TP("b", 0), 4, 4)]
    assert consumer.asked == [{TP("a", 0), TP("b", 0)}]
    assert asyncio.run(scenario(consumer)) == [] and len(consumer.asked) == 1, "nothing active: nothing may be asked"


def test_a_drained_buffer_does_not_resume_what_is_paused_on_purpose() -> None:
    consumer = Fetching({TP("a", 0), TP("b", 0)})
    consumer.on_buffer_full(TP("a", 0))
    consumer.on_buffer_full(TP("b", 0))
    consumer.pause_partitions({TP("a", 0)})
    consumer.on_buffer_drop(TP("a", 0))
    consumer.on_buffer_drop(TP("b", 0))
    assert consumer._active_partitions == {TP("b", 0)}

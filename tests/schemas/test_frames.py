"""Responses read in place: whatever the pieces in which they come, over real sockets; and a consumer of a real broker beside one that copies."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.fetch import FetchResponse_v4
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from schemas.cluster import admin
from schemas.codec import frames
from schemas.codec.fetching import RawRecords, deliver_raw
from schemas.codec.frames import AHEAD_BYTES, fetch_in_place
from schemas.settings import Settings

Send = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def connected(send: Send, read: Callable[[asyncio.StreamReader], Coroutine[Any, Any, Any]]) -> Any:
    """Return what ``read`` makes of a connection to a server that does ``send``."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    closed = loop.create_future()
    reader = asyncio.StreamReader(loop=loop)
    transport, _ = await loop.create_connection(lambda: frames._Frames(closed, reader, loop=loop), *server.sockets[0].getsockname())
    try:
        return await asyncio.wait_for(read(reader), 30)
    finally:
        transport.close()
        await closed
        server.close()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_is_what_was_sent_whatever_the_pieces(seed: int) -> None:
    source = random.Random(seed)
    edges = [0, 1, 3, AHEAD_BYTES - 1, AHEAD_BYTES, AHEAD_BYTES + 1, 2 * AHEAD_BYTES, 3_000_000]
    bodies = [source.randbytes(source.choice([*edges, source.randint(0, 300), source.randint(0, 200_000)])) for _ in range(60)]
    stream = b"".join(struct.pack(">i", len(body)) + body for body in bodies)

    async def send(writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < len(stream):
            piece = source.choice([1, 5, 4_000, 70_000, 2_000_000])
            writer.write(stream[at : at + piece])
            at += piece
            if source.random() < 0.3:
                await asyncio.sleep(0)
        await writer.drain()

    async def read(reader: asyncio.StreamReader) -> list[bytes]:
        found = []
        for _ in bodies:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            body = await reader.readexactly(size)
            assert isinstance(body, memoryview if size > AHEAD_BYTES else bytes)
            found.append(bytes(body))
            if source.random() < 0.1:
                await asyncio.sleep(0.02)  # more comes than is asked for: it must wait, and nothing be lost
        return found

    assert asyncio.run(connected(send, read)) == bodies


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_connection_that_ends_within_a_response_says_so(size: int) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (size // 2))
        await writer.drain()

    async def read(reader: asyncio.StreamReader) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(size)
        assert reader.at_eof()
        with pytest.raises(asyncio.IncompleteReadError):  # and goes on saying so
            await reader.readexactly(size)

    asyncio.run(connected(send, read))


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_connection_that_is_reset_says_so(size: int) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (size // 2))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # to close is to reset
        writer.transport.abort()

    async def read(reader: asyncio.StreamReader) -> None:
        with pytest.raises(ConnectionError):
            await reader.readexactly(size)

    asyncio.run(connected(send, read))


def test_large_parts_of_a_response_are_views_of_it_and_small_ones_are_not() -> None:
    large, small = b"L" * 400_000, b"s" * 20_000
    response = FetchResponse_v4(0, [("topic", [(0, 0, 5, 5, None, large), (1, 0, 7, 7, [(9, 3)], small)])])
    data = memoryview(bytearray(response.encode()))
    decoded = FetchResponse_v4.decode(frames._Response(data))
    [(name, [first, second])] = decoded.topics
    assert name == "topic" and first[:4] == (0, 0, 5, 5) and second[:5] == (1, 0, 7, 7, [(9, 3)])
    assert isinstance(first[-1], memoryview) and first[-1].obj is data.obj and first[-1] == large
    assert isinstance(second[-1], bytes) and second[-1] == small


@pytest.mark.stack
def test_a_consumer_reads_in_place_what_another_one_copies(environment: Settings) -> None:
    source, topic = random.Random(3), f"{environment.topic_prefix}frames-{uuid.uuid4().hex[:6]}"
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "linger.ms": 50, "batch.size": 500_000})
    broker = admin(environment)  # kept until the answer is here
    for future in broker.create_topics([NewTopic(topic, 3, 1)]).values():
        future.result(30)
    counts = (6_000, 5_000, 20)  # two of megabytes and one of kilobytes
    for partition, count in enumerate(counts):
        for _ in range(count):
            producer.produce(topic, source.randbytes(source.randint(0, 1_000)), b"key", partition)
            producer.poll(0)
    producer.flush(30)

    async def read(in_place: bool) -> tuple[dict[int, bytes], set[type]]:
        consumer = AIOKafkaConsumer(bootstrap_servers=environment.kafka_bootstrap_servers, enable_auto_commit=False,
                                    max_partition_fetch_bytes=1_500_000, fetch_max_wait_ms=100)  # fmt: skip
        if in_place:
            fetch_in_place(consumer)
        await consumer.start()
        try:
            deliver_raw(consumer)
            tps = [TopicPartition(topic, partition) for partition in range(3)]
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, 0)
            found: dict[int, bytearray] = {partition: bytearray() for partition in range(3)}
            kinds: set[type] = set()
            ends = dict.fromkeys(range(3), 0)
            while any(ends[partition] < count for partition, count in enumerate(counts)):
                raw: RawRecords
                for sets in (await consumer.getmany(timeout_ms=1000)).values():
                    for raw in sets:
                        assert raw.first == ends[raw.partition]
                        ends[raw.partition] = raw.last + 1
                        found[raw.partition] += raw.data
                        kinds.add(type(raw.data))
            return {partition: bytes(data) for partition, data in found.items()}, kinds
        finally:
            await consumer.stop()

    copied, _ = asyncio.run(read(False))
    in_place, kinds = asyncio.run(read(True))
    assert in_place == copied and min(map(len, copied.values())) > 0
    assert kinds == {memoryview, bytes}

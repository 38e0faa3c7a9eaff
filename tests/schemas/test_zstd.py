"""Our zstd beside cramjam's, the one that aiokafka and the recordings of earlier runs were written with."""

from __future__ import annotations

import threading

import cramjam
import pytest
import zstandard
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import zstd

texts = st.binary(max_size=300) | st.builds(lambda unit, times: unit * times, st.binary(max_size=40), st.integers(0, 5_000))


@given(texts)
def test_each_reads_what_the_other_wrote(data):
    assert bytes(cramjam.zstd.decompress(zstd.compress(data))) == data
    assert zstd.decompress(bytes(cramjam.zstd.compress(data))) == data
    assert zstd.decompress(zstd.compress(data)) == data
    assert zstd.decompress(memoryview(zstd.compress(data))) == data


@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=4))
def test_frames_in_a_row_and_frames_that_hide_their_size_are_read_whole(parts):
    frames = [zstandard.ZstdCompressor(write_content_size=told).compress(data) for data, told in parts]
    assert zstd.decompress(b"".join(frames)) == b"".join(data for data, _ in parts)


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.data())
def test_a_frame_that_is_not_whole_is_refused(data, told, source):
    frame = zstandard.ZstdCompressor(write_content_size=told).compress(data)
    cut = source.draw(st.integers(1, len(frame) - 1))
    for broken in (frame[:cut], frame + frame[:cut], b"no" + frame):
        with pytest.raises(zstandard.ZstdError):
            zstd.decompress(broken)


def test_a_size_that_nobody_can_have_is_not_believed():
    frame = bytearray(zstandard.ZstdCompressor().compress(b"x" * 70_000))
    parameters = zstandard.get_frame_parameters(bytes(frame))
    assert parameters.content_size == 70_000
    frame[5:9] = (1 << 31).to_bytes(4, "little")  # magic 4, descriptor 1, size 4 (RFC 8878, 3.1.1.1)
    assert zstandard.frame_content_size(bytes(frame)) == 1 << 31 > zstd.LARGEST
    with pytest.raises(zstandard.ZstdError):
        zstd.decompress(bytes(frame))


def test_threads_do_not_meet_in_one_context():
    data = [bytes([i]) * 200_000 + b"end %d" % i for i in range(8)]
    wrong = []

    def work(own):
        for _ in range(100):
            if zstd.decompress(zstd.compress(own)) != own:
                wrong.append(own[:1])

    threads = [threading.Thread(target=work, args=(own,)) for own in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_aiokafkas_batches_are_compressed_by_it():
    zstd.use_in_aiokafka()
    batch = DefaultRecordBatchBuilder(2, 4, 0, -1, -1, -1, 1 << 20)
    plain = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for builder in (batch, plain):
        for i in range(20):
            builder.append(i, 1_700_000_000_000, b"key", b"the same value %d" % i, [])
    raw, whole = bytes(batch.build()), bytes(plain.build())
    assert raw[61:] == zstd.compress(whole[61:])
    assert [record.value for record in MemoryRecords(raw).next_batch()] == [b"the same value %d" % i for i in range(20)]

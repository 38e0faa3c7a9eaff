"""zstd whose contexts are kept. cramjam, which aiokafka uses, makes a context of some hundred KiB for every call: of a batch of two records that is most
of the work of whoever writes or reads it (25 to 40 us a batch; 4 to 5 with a kept one).
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import zstandard

# Small batches are what live markets make. Measured on theirs, level -1 leaves 68 % of the bytes in 5 us and level 3, zstd's own choice, 65 % in 12.
LEVEL = -1
# What a frame says of its size is believed up to here; beyond it the bytes are taken as they come.
LARGEST = 64 << 20


class _Contexts(threading.local):
    """One of each for a thread: they are not to be shared."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self.decompressor = zstandard.ZstdDecompressor()


_OF_THREAD = _Contexts()


def compress(data: Any) -> bytes:
    """Return the bytes as one frame that tells its size."""
    return _OF_THREAD.compress(data)


def decompress(data: Any) -> bytes:
    """Return the bytes of one frame or of several in a row, whoever wrote them.

    Raises:
        zstandard.ZstdError: these are no whole frames.
    """
    decompressor = _OF_THREAD.decompressor
    if 0 < zstandard.frame_content_size(data) <= LARGEST:
        try:
            return decompressor.decompress(data, allow_extra_data=False)
        except zstandard.ZstdError:
            pass  # more frames follow, or it is broken
    plain = []
    while len(data):
        frame = decompressor.decompressobj()
        plain.append(frame.decompress(data))
        if not frame.eof:
            raise zstandard.ZstdError("the last zstd frame is not whole")
        data = frame.unused_data
    return b"".join(plain)


def use_in_aiokafka() -> None:
    """Have aiokafka's producers compress with ``compress`` (inside of a pinned version, ``schemas.process.pins``: the name that its batch builder calls)."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder  # not at the top: who only reads record sets needs no client

    sys.modules[DefaultRecordBatchBuilder.__module__].zstd_encode = compress  # type: ignore[attr-defined]

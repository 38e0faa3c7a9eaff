"""Memory settings of a process through which millions of records pass."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
# Records hold no reference cycles, but the garbage collector examines each of them. At its default pace this costs a worker a twentieth of
# a core. A replay, which holds a stretch of results at a time, loses a third of its rate.
_SELDOM = (100_000, 20, 100)


def collect_garbage_rarely() -> None:
    """Make the garbage collector run seldom, and ignore all present objects, for the rest of the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_SELDOM)


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Make the garbage collector run seldom within a block."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def return_large_buffers() -> None:
    """Make glibc return buffers of 1 MB and more to the system when they are freed. Does nothing elsewhere.

    By default glibc comes to keep all buffers below 32 MB. A worker that had caught up with a day kept a third of a gigabyte for fetched
    records.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)

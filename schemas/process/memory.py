"""How a process through which millions of records pass deals with its memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
# Records refer to nothing that refers to them, but each looks to the collector like something that might. Looking for cycles among them at its own
# pace costs a worker a twentieth of a core, and a replay, which holds a stretch of results at a time, a third of its rate.
_SELDOM = (100_000, 20, 100)


def spare_collector() -> None:
    """Have the garbage collector look seldom, and never at what is there now; for the rest of the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_SELDOM)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have the garbage collector look seldom meanwhile."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def return_large_buffers() -> None:
    """Have glibc give buffers from 1 MB on back to the system when they are freed; elsewhere nothing is done.

    By itself it comes to keep all below 32 MB for later: a worker that had caught up with a day kept a third of a gigabyte of fetched records' room.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)

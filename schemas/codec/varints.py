"""Compiled writing of Avro's longs, for kernels that write whole records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def write_long(out: Any, at: int, value: int) -> Any:
    """Write a long (zigzag, then seven bits a byte) to bytes from ``at`` on; return where it ends."""
    rest = np.uint64(value << 1) ^ np.uint64(value >> 63)
    while rest >= np.uint64(0x80):
        out[at] = (rest & np.uint64(0x7F)) | np.uint64(0x80)
        rest >>= np.uint64(7)
        at += 1
    out[at] = rest
    return at + 1

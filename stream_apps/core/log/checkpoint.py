"""The changelog of an engine's state: its entries, and how an engine is rebuilt from them (DESIGN 4).

There are two kinds of entries. The head (key ``h`` + slot) holds the position in the progress log, the source offsets that the whole state includes, and
whatever the engine adds. All other keys are the engine's own: what it need not write anew at each checkpoint, closed panes for example. A checkpoint is
one atomic record batch that ends with the head.

A worker that lost its partition may still write one late checkpoint. It does no harm: heads go to alternating keys and the head with the newest position
wins. An engine's other entries must say nothing about what their head has not reached.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Entry = tuple[bytes, bytes | None]

FORMAT = 3
# Format 2 had no analytics and nothing behind the prints of a pane: they begin anew.
_READABLE = (2, FORMAT)
# Heads alternate over so many keys, so that a late write of a former owner cannot make compaction drop the newest.
HEAD_SLOTS = 8
HEAD = b"h"


class ChangelogDamaged(ValueError):
    """The entries do not fit together. The inputs are still in the log: begin with a new engine, its outputs are repeats."""


def pack(meta: dict[str, Any], arrays: dict[str, Array]) -> bytes:
    """Return JSON meta data and raw arrays in one value: length of the header, header, arrays in order."""
    header = json.dumps(
        {**meta, "arrays": [[name, a.dtype.descr if a.dtype.names else a.dtype.str, a.shape] for name, a in arrays.items()]}
    ).encode()
    return b"".join([len(header).to_bytes(4, "little"), header, *(np.ascontiguousarray(a).tobytes() for a in arrays.values())])


def unpack(value: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Undo ``pack``.

    Raises:
        ValueError: another format of the state wrote it.
    """
    length = int.from_bytes(value[:4], "little")
    meta = json.loads(value[4 : 4 + length])
    if meta.get("format", FORMAT) not in _READABLE:
        raise ValueError(
            f"state changelog: format {meta.get('format')} cannot be read by this release (format {FORMAT}); start the worker with a new app id"
        )
    at, arrays = 4 + length, {}
    for name, kind, shape in meta.pop("arrays"):
        dtype = np.dtype([tuple(column) for column in kind] if isinstance(kind, list) else kind)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(value[at : at + size], dtype=dtype).reshape(shape)
        at += size
    return meta, arrays


def head_key(sequence: int) -> bytes:
    """Return the key of the head of the checkpoint with that number."""
    return HEAD + str(sequence % HEAD_SLOTS).encode()


def newest_head(entries: list[tuple[bytes, bytes]]) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Return the head that counts; None when there is none. Raises ValueError as ``unpack``."""
    heads = [unpack(value) for key, value in entries if key[:1] == HEAD]
    return max(heads, key=lambda head: (head[0]["progress"], head[0]["sequence"])) if heads else None

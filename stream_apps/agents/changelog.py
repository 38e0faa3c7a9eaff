"""The changelog of a partition's state: who may write it, and which of its records count.

A frozen worker can wake up after its partition moved, and write a checkpoint that it had prepared. The log has no lock against that. So
every record carries its ownership in a header: an epoch, one higher than any in the log when the owner read it, and the owner's random id.
A reader goes in order of the log. Records of an epoch below the newest seen are late and do not count.

Compaction keeps the newest record of a key, even a late one. So the next owner writes again what late records replaced; the changelog's
``min.compaction.lag.ms`` gives it the time. An owner that finds foreign records between its own asks for a rebalance, which does the same.

A checkpoint is one record batch, so the log holds all of it or nothing. A larger checkpoint takes several batches. All but the last are
marked "more follows", and they count only when the last one is there.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HEADER = "perpflow-owner"
# Key of the record with which an owner claims a partition. No state key begins with a zero byte.
CLAIM_KEY = b"\x00claim"
_HEADER = struct.Struct(">q16s?")
_RECORD_OVERHEAD = 96  # framing and header of one record, an upper bound

Entry = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Ownership:
    """One owner's period of ownership of a partition.

    Attributes:
        epoch: Higher than that of any earlier owner. 0: no owner.
        owner: 16 random bytes of the process. They distinguish two processes that read the same log and chose the same epoch.
    """

    epoch: int = 0
    owner: bytes = bytes(16)

    def headers(self, more: bool = False) -> list[tuple[str, bytes]]:
        """Return the headers of a record. ``more``: its checkpoint continues in another batch."""
        return [(HEADER, _HEADER.pack(self.epoch, self.owner, more))]

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes | None]]) -> tuple[Ownership, bool]:
        """Return a record's ownership (epoch 0 without a header), and whether its checkpoint continues."""
        for name, value in headers:
            if name == HEADER and value is not None and len(value) == _HEADER.size:
                epoch, owner, more = _HEADER.unpack(value)
                return cls(epoch, owner), more
        return cls(), False


def chunks(entries: Sequence[Entry], limit: int) -> list[Sequence[Entry]]:
    """Cut a checkpoint into as few runs as fit ``limit`` bytes each. One record may exceed it; the log then refuses it."""
    cut: list[Sequence[Entry]] = []
    start = size = 0
    for i, (key, value) in enumerate(entries):
        weight = len(key) + len(value or b"") + _RECORD_OVERHEAD
        if size + weight > limit and i > start:
            cut.append(entries[start:i])
            start, size = i, 0
        size += weight
    return [*cut, entries[start:]]


@dataclass(slots=True)
class Fold:
    """A changelog, read in offset order and folded to the records that count.

    Attributes:
        entries: Newest value of every key, in the order of the last write. So the head, last in every checkpoint, is last.
        ownership: The newest owner seen.
        next_offset: Offset after the last record read.
        late: Number of late records.
        covered: Keys whose newest record in the log does not count.
    """

    entries: dict[bytes, bytes] = field(default_factory=dict)
    ownership: Ownership = Ownership()
    next_offset: int = 0
    late: int = 0
    covered: set[bytes] = field(default_factory=set)
    _staged: list[Entry] = field(default_factory=list)

    def add(self, offset: int, key: bytes, value: bytes | None, ownership: Ownership, more: bool) -> None:
        """Take the next record of the log."""
        self.next_offset = offset + 1
        newest = self.ownership
        if ownership.epoch < newest.epoch or (ownership.epoch == newest.epoch and ownership.owner != newest.owner):
            self.late += 1
            self.covered.add(key)
            return
        if ownership != newest:
            self._drop_staged()
            self.ownership = ownership
        if more:
            self._staged.append((key, value))
            return
        for entry in self._staged:
            self._apply(*entry)
        self._staged.clear()
        self._apply(key, value)

    def _apply(self, key: bytes, value: bytes | None) -> None:
        self.covered.discard(key)
        self.entries.pop(key, None)
        if value is not None and key != CLAIM_KEY:
            self.entries[key] = value

    def _drop_staged(self) -> None:
        """Drop a checkpoint whose last batch never came."""
        self.covered.update(key for key, _ in self._staged)
        self._staged.clear()

    def claim(self, owner: bytes) -> tuple[Ownership, list[Entry]]:
        """End the reading. Return the next ownership and the records that claim it: repairs of covered keys, and the claim itself."""
        self._drop_staged()
        ownership = Ownership(self.ownership.epoch + 1, owner)
        repairs: list[Entry] = [(key, self.entries.get(key)) for key in sorted(self.covered - {CLAIM_KEY})]
        return ownership, [*repairs, (CLAIM_KEY, str(ownership.epoch).encode())]

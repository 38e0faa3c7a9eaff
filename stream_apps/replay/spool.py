"""The results of a run on disk, one file a partition in order. So two runs are compared byte by byte in constant memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from schemas.codec.avro import Codec
from stream_apps.replay.run import Result

_HEAD = struct.Struct(">III")


class FirstDifference(NamedTuple):
    """The first difference between two runs.

    Attributes:
        partition, place: Partition and position of the record, counted from 0 over the compared ones.
        topic: Topic of the first run's record, or of the second's if the first has none.
        field: First field that differs. None: one run lacks the record, or the topics differ.
        first, second: That field's values, or the records.
        event_time: ms UTC.
    """

    partition: int
    place: int
    topic: str
    field: str | None
    first: Any
    second: Any
    event_time: int

    def __str__(self) -> str:
        where = f"partition {self.partition}, record {self.place:,} ({self.topic} at {self.event_time})"
        if self.field is None:
            return f"{where}: {'missing' if self.second is None else 'another record'} in the second run"
        return f"{where}: {self.field} is {self.first!r} in the first run and {self.second!r} in the second"


class Spool:
    """Writes results. Use as a context manager.

    Args:
        folder: Is created. Must be empty if it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, BinaryIO] = {}

    def __enter__(self) -> Spool:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    def take(self, partition: int, result: Result) -> None:
        """Append a result."""
        file = self._files.get(partition)
        if file is None:
            file = self._files[partition] = (self._folder / f"{partition}.results").open("wb")
        topic = result.topic.encode()
        file.write(_HEAD.pack(len(topic), len(result.key), len(result.value)) + topic + result.key + result.value)


def spooled(folder: Path, partition: int) -> Iterator[Result]:
    """Yield a partition's results; nothing for a partition without results."""
    path = folder / f"{partition}.results"
    if not path.is_file():
        return
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            sizes = _HEAD.unpack(head)
            topic, key, value = (file.read(size) for size in sizes)
            yield Result(topic.decode(), key, value)


def compare(
    one: Path, two: Path, codec: Codec, chosen: Callable[[dict[str, Any]], bool] | None = None
) -> tuple[int, int, int, FirstDifference | None]:
    """Compare two spools.

    Args:
        one, two: Their folders.
        codec: Codec of the environment.
        chosen: Selects the records to compare, by content. None: all.

    Returns:
        Records compared, records of the first run that were not chosen, of these how many the second run does not have alike at the same place,
        and the first difference of the compared ones.
    """
    compared = left = changed = 0
    first: FirstDifference | None = None
    partitions = sorted({int(path.stem) for folder in (one, two) for path in folder.glob("*.results")})
    for partition in partitions:
        ours, theirs = spooled(one, partition), spooled(two, partition)
        if chosen is not None:
            others: tuple[list[int], list[int]] = ([], [])
            ours = _chosen(ours, codec, chosen, others[0])
            theirs = _chosen(theirs, codec, chosen, others[1])
        for place, (a, b) in enumerate(zip_longest(ours, theirs)):
            compared += 1
            if a != b and first is None:
                first = _first_difference(partition, place, a, b, codec)
        if chosen is not None:
            left += len(others[0])
            changed += sum(x != y for x, y in zip_longest(*others))
    return compared, left, changed, first


def _chosen(results: Iterator[Result], codec: Codec, chosen: Callable[[dict[str, Any]], bool], others: list[int]) -> Iterator[Result]:
    for result in results:
        if chosen(codec.decode(result.topic, result.value)):
            yield result
        else:
            others.append(hash(result))


def _first_difference(partition: int, place: int, a: Result | None, b: Result | None, codec: Codec) -> FirstDifference:
    one = None if a is None else codec.decode(a.topic, a.value)
    two = None if b is None else codec.decode(b.topic, b.value)
    there = a or b
    time = (one or two or {}).get("event_time", 0)
    assert there is not None
    if one is None or two is None or a is None or b is None or a.topic != b.topic:
        return FirstDifference(partition, place, there.topic, None, one, two, time)
    name = next((name for name in one if repr(one[name]) != repr(two[name])), "key or encoding")
    return FirstDifference(partition, place, there.topic, name, one.get(name), two.get(name), time)

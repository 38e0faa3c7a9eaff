"""The files of one topic and partition of an archive: a log of numbered manifests, each written once (DESIGN 4).

Version n + 1 holds the changes since version n: files added and removed, and the next offset to read. It is made by linking a finished file
to its number. Only one process can do that; a second one is fenced and must read the log again. A new owner of a partition makes a version
without changes. This fences writes of a former owner. It needs a file system with atomic hard links (every POSIX one; no object store).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas.archive import layout

# A version with this number is complete: older ones need not be read. Versions older than the one before it are removed at this age.
WHOLE_EVERY = 64
KEEP_SECONDS = 7 * 86_400.0


class ArchiveError(ValueError):
    """The archive differs from its manifest, or the folder is no archive."""


class Fenced(RuntimeError):
    """Another archiver made the version that this one was about to make."""


@dataclass(frozen=True)
class File:
    """One Parquet file.

    Attributes:
        path: Relative to the archive, with forward slashes.
        folder: Instrument, ``all`` or ``other``.
        day: UTC day of the event times.
        rows: Number of records.
        bytes: Size of the file.
        first_offset: Offset of the first record.
        last_offset: Offset of the last record.
        min_event_time: ms. For undecodable records: the record timestamp.
        max_event_time: ms.
        sha256: Hash of the file, hexadecimal.
        schema: CRC-64-AVRO fingerprint of the schema of its columns, hexadecimal.
        header: Frame header of values whose bytes follow from the columns, hexadecimal.
    """

    path: str
    folder: str
    day: str
    rows: int
    bytes: int
    first_offset: int
    last_offset: int
    min_event_time: int
    max_event_time: int
    sha256: str
    schema: str
    header: str


@dataclass(frozen=True)
class State:
    """The state of a partition after its newest manifest.

    Attributes:
        version: Number of the newest manifest. -1: there is none.
        topic_id: Kafka's id of the topic that was read.
        next_offset: First offset that is not in the archive.
        files: Path -> file.
        holes: Ranges [first, end) of offsets below ``next_offset`` without records in the log (compaction, retention, control records).
    """

    version: int = -1
    topic_id: str = ""
    next_offset: int = 0
    files: dict[str, File] = field(default_factory=dict)
    holes: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of records."""
        return sum(file.rows for file in self.files.values())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Manifest:
    """The manifests of one topic and partition.

    Args:
        root: The archive.
        topic: Plain topic name.
        partition: Kafka partition.
    """

    def __init__(self, root: Path, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.folder = root / layout.MANIFEST / topic / f"{partition:02d}"

    def _path(self, version: int) -> Path:
        return self.folder / f"{version:010d}.json"

    def _versions(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.json")) if self.folder.is_dir() else []

    def _read(self, version: int) -> dict[str, Any]:
        path = self._path(version)
        try:
            content = json.loads(path.read_bytes())
            digest = content.pop("sha256")
        except FileNotFoundError as error:
            raise ArchiveError(f"{path}: the manifest is missing") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ArchiveError(f"{path}: not a manifest: {error}") from error
        if digest != _digest(content):
            raise ArchiveError(f"{path}: the manifest was altered")
        found: dict[str, Any] = content
        return found

    def load(self) -> State:
        """Return the state after the newest manifest.

        Raises:
            ArchiveError: a manifest is missing, broken or altered.
        """
        versions = self._versions()
        if not versions:
            return State()
        changes = [self._read(versions[-1])]
        while not changes[-1]["whole"]:
            changes.append(self._read(changes[-1]["version"] - 1))
        state = State()
        for change in reversed(changes):
            files = {} if change["whole"] else dict(state.files)
            for path in change["remove"]:
                files.pop(path, None)
            files.update((entry["path"], File(**entry)) for entry in change["add"])
            holes = (*(() if change["whole"] else state.holes), *((first, end) for first, end in change["holes"]))
            state = State(change["version"], change["topic_id"], change["next_offset"], files, holes)
        return state

    def commit(
        self,
        state: State,
        *,
        add: Iterable[File] = (),
        remove: Iterable[str] = (),
        next_offset: int | None = None,
        holes: Iterable[tuple[int, int]] = (),
        topic_id: str | None = None,
    ) -> State:
        """Make the next version and return the new state. The added files must be on disk.

        Raises:
            Fenced: the version exists, or ``state`` is older than the newest one.
            OSError: the disk refuses it. Nothing has changed.
        """
        added, removed, new_holes = list(add), list(remove), [list(hole) for hole in holes]
        files = {path: file for path, file in state.files.items() if path not in set(removed)}
        files.update((file.path, file) for file in added)
        new = replace(
            state,
            version=state.version + 1,
            next_offset=state.next_offset if next_offset is None else next_offset,
            topic_id=state.topic_id if topic_id is None else topic_id,
            files=files,
            holes=(*state.holes, *((hole[0], hole[1]) for hole in new_holes)),
        )
        whole = new.version % WHOLE_EVERY == 0
        content = {
            "version": new.version,
            "topic": self.topic,
            "partition": self.partition,
            "topic_id": new.topic_id,
            "next_offset": new.next_offset,
            "whole": whole,
            "add": [asdict(file) for file in (new.files.values() if whole else added)],
            "remove": [] if whole else removed,
            "holes": [list(hole) for hole in new.holes] if whole else new_holes,
        }
        make_folder(self.folder)
        versions = self._versions()
        if versions and versions[-1] > state.version:
            raise Fenced(f"{self.topic}/{self.partition}: version {versions[-1]} was made by another archiver")
        temporary = self.folder / f"{uuid.uuid4().hex}{layout.TEMPORARY}"
        try:
            write_durably(temporary, json.dumps({**content, "sha256": _digest(content)}, indent=1).encode())
            os.link(temporary, self._path(new.version))
        except FileExistsError as error:
            raise Fenced(f"{self.topic}/{self.partition}: version {new.version} was made by another archiver") from error
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(self.folder)
        if whole:
            self._forget(versions, new.version - WHOLE_EVERY)
        return new

    def _forget(self, versions: list[int], before: int) -> None:
        """Remove versions that no reader needs. This waits, because their numbers fence an archiver that was frozen meanwhile."""
        for version in versions:
            path = self._path(version)
            if version < before and time.time() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink(missing_ok=True)


def manifests(root: Path) -> list[Manifest]:
    """Return the manifests of an archive, by topic and partition.

    Raises:
        ArchiveError: the folder is no archive.
    """
    folder = root / layout.MANIFEST
    if not folder.is_dir():
        raise ArchiveError(f"{root}: no archive (it has no folder {layout.MANIFEST})")
    return [
        Manifest(root, topic.name, int(partition.name))
        for topic in sorted(folder.iterdir())
        for partition in sorted(topic.iterdir())
        if partition.name.isdigit()
    ]

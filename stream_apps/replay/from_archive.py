"""The archive as a source of replay: columns go into the engine without being bytes in between, a row group of each file in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.archive.manifest import ArchiveError, manifests
from schemas.archive.read import PartitionReader
from schemas.settings import Settings
from stream_apps.core.log.inbox import TRADE_FIELDS
from stream_apps.replay.stored import Readers, Stored


@dataclass(kw_only=True)
class Archive(Stored):
    """An archive as a source.

    Args:
        root: Folder of the archive.
    """

    root: Path

    @classmethod
    def of(cls, root: Path, settings: Settings) -> Archive:
        """Return all of an archive."""
        return cls(settings.codec, settings.grid_ms, settings.allowed_lateness_ms, root=root)

    @contextmanager
    def opened(self, topics: tuple[str, ...]) -> Iterator[Readers]:
        """Open partition -> topic -> reader. Raises ArchiveError when it is none, a file is missing or broken, or nothing to replay is there."""
        found: dict[int, dict[str, PartitionReader]] = {}
        for manifest in manifests(self.root):
            if manifest.topic in topics and (self.partitions is None or manifest.partition in self.partitions):
                state = manifest.load()
                if state.next_offset:
                    # Other fields stay on disk.
                    fields = TRADE_FIELDS if manifest.topic == "agg_trades" else None
                    reader = PartitionReader(self.root, self.codec, manifest.topic, state, fields)
                    found.setdefault(manifest.partition, {})[manifest.topic] = reader
        if not found and set(topics) & set(self.inputs()):
            raise ArchiveError(f"{self.root}: holds no market data of these partitions")
        yield found

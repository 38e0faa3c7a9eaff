"""The archive as a source of replay.

Columns go into the engine without an encoded form in between; one row group of each file is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.archive.manifest import ArchiveError, manifests
from schemas.archive.read import PartitionReader
from schemas.settings import Settings
from stream_apps.core.log.inbox import TRADE_FIELDS
from stream_apps.replay.sources.stored import Readers, Stored


@dataclass(kw_only=True)
class Archive(Stored):
    """An archive as a source.

    Args:
        root: Folder of the archive.
    """

    root: Path

    @classmethod
    def of(cls, root: Path, settings: Settings) -> Archive:
        """Return a source of the whole archive."""
        return cls(settings.codec, settings.grid_ms, settings.allowed_lateness_ms, root=root)

    @contextmanager
    def opened(self, topics: tuple[str, ...]) -> Iterator[Readers]:
        """Open partition -> topic -> reader.

        Raises ArchiveError if the folder is no archive, a file is missing or broken, or it holds nothing to replay.
        """
        found: dict[int, dict[str, PartitionReader]] = {}
        for manifest in manifests(self.root):
            if manifest.topic in topics and (self.partitions is None or manifest.partition in self.partitions):
                state = manifest.load()
                if state.next_offset:
                    # Other fields are not read from disk.
                    fields = TRADE_FIELDS if manifest.topic == "agg_trades" else None
                    reader = PartitionReader(self.root, self.codec, manifest.topic, state, fields)
                    found.setdefault(manifest.partition, {})[manifest.topic] = reader
        if not found and set(topics) & set(self.inputs()):
            raise ArchiveError(f"{self.root}: the archive holds no market data of these partitions")
        yield found

"""The progress of a command as a file, for the program that started it."""

from __future__ import annotations

import json
import time
from pathlib import Path

# More often nobody looks.
LEAST_S = 0.25


class ProgressFile:
    """A file with one JSON object: ``phase``, ``done`` and ``total`` (records; null: unknown). It is replaced as a whole.

    Args:
        path: The file; None: none is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._phase, self._done = path, "", 0
        self._total: int | None = None
        self._written = float("-inf")

    def begin(self, phase: str, total: int | None = None) -> None:
        """Write that a phase begins. Raises OSError."""
        self._phase, self._done, self._total = phase, 0, total
        self._write()

    def at(self, done: int) -> None:
        """Write how many records of the phase are done. Raises OSError."""
        self._done = done
        if time.monotonic() - self._written >= LEAST_S:
            self._write()

    def end(self) -> None:
        """Write where the last phase ended. Raises OSError."""
        self._write()

    def add(self, records: int) -> None:
        """As ``at``, for records that were done since."""
        self.at(self._done + records)

    def _write(self) -> None:
        if self._path is None:
            return
        self._written = time.monotonic()
        new = self._path.with_name(f".{self._path.name}.new")
        new.write_text(json.dumps({"phase": self._phase, "done": self._done, "total": self._total}), encoding="utf-8")
        new.replace(self._path)

"""The report of an import: counts, gaps, duplicates, and unreadable rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

# Most bad rows to list. All are counted, and all go to dead_letters.
LISTED = 20


@dataclass
class FileReport:
    """One file.

    Attributes:
        file, symbol, layout: Its names. checksum: ``verified`` or ``absent``.
        rows: Rows of data, bad ones included.
        first, last: Smallest and largest time, ms UTC; None without a good row.
        gaps: Gaps in the ids. missing: Ids in them. duplicates: Repeated rows; they are not written again.
        out_of_order: Rows older than the one before them. bad: Unreadable rows. bad_rows: The first of them: line, field, reason.
        descending: The newest row comes first, so the file is read from its end.
    """

    file: str
    symbol: str
    layout: str
    checksum: str
    rows: int = 0
    first: int | None = None
    last: int | None = None
    gaps: int = 0
    missing: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    bad: int = 0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    descending: bool = False

    def refuse(self, line: int, column: str, reason: str) -> None:
        """Count a bad row."""
        self.bad += 1
        if len(self.bad_rows) < LISTED:
            self.bad_rows.append({"line": line, "field": column, "reason": reason})

    def see(self, time: int, before: int | None) -> None:
        """Take the time of a good row. ``before`` is the time of the row before it."""
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)
        self.out_of_order += before is not None and time < before


@dataclass
class Report:
    """An import.

    Attributes:
        venue, author: The venue, and the author of the marks. files: Each file.
        fills: Single trades in the rows (an aggregate trade counts its fills).
        records: Topic -> records in the files. written: Topic -> records written by this run. already: Records that an earlier run had
        written. seconds: Duration of the writing.
    """

    venue: str
    author: str
    files: list[FileReport] = field(default_factory=list)
    fills: int = 0
    records: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    already: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def bad(self) -> int:
        """Bad rows of all files."""
        return sum(file.bad for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON: times as text, UTC."""
        content = asdict(self)
        for file in content["files"]:
            file["first"], file["last"] = utc(file["first"]), utc(file["last"])
        return content


def utc(time_ms: int | None) -> str | None:
    """Return a time as ISO 8601 text with milliseconds, UTC."""
    return (
        None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )

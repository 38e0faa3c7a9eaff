"""Whether what a message speaks of is the live market or a recording played back (D27: labelled wherever it shows). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.codec.avro import Record

LIVE, REPLAY, MIXED, UNKNOWN = "live", "replay", "mixed", "unknown"
# What a message says of it: before its title, and as a line of its own.
LABELS = {
    LIVE: ("", ""),
    REPLAY: ("[REPLAY] ", "Recorded data played back, not the live market."),
    MIXED: ("[LIVE AND REPLAY] ", "This environment holds live and recorded data; this may come from either."),
    UNKNOWN: ("[ORIGIN UNKNOWN] ", "The instrument is not in the topic instruments: this may be recorded data."),
}


class Origins:
    """What the topic ``instruments`` says of each instrument."""

    def __init__(self) -> None:
        self._recorded: dict[str, bool] = {}

    def put(self, record: Record) -> None:
        """Take an ``instruments`` record; the newest one holds."""
        self._recorded[record["instrument"]] = record["recorded"]

    def knows(self, instrument: str) -> bool:
        """Return whether an instrument was announced."""
        return instrument in self._recorded

    def of(self, instrument: str | None) -> str:
        """Return the origin of an instrument's events; of events without one, that of all instruments together.

        An environment without any instrument has no data that could be a recording: what it tells of itself is live.
        """
        if instrument is not None:
            recorded = self._recorded.get(instrument)
            return UNKNOWN if recorded is None else REPLAY if recorded else LIVE
        return together(REPLAY if recorded else LIVE for recorded in self._recorded.values()) or LIVE


def together(origins: Iterable[str]) -> str:
    """Return the origin of several events told as one; empty when there are none."""
    found = set(origins)
    if len(found) == 1:
        return found.pop()
    return "" if not found else UNKNOWN if UNKNOWN in found else MIXED

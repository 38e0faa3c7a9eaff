"""The origin of an event: the live market or a replayed recording (D27: labelled wherever it is shown). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.codec.avro import Record

LIVE, REPLAY, MIXED, UNKNOWN = "live", "replay", "mixed", "unknown"
# Label before the title, and a line in the text.
LABELS = {
    LIVE: ("", ""),
    REPLAY: ("[REPLAY] ", "Recorded data played back, not the live market."),
    MIXED: ("[LIVE AND REPLAY] ", "This environment holds live and recorded data; this may come from either."),
    UNKNOWN: ("[ORIGIN UNKNOWN] ", "The instrument is not in the topic instruments: this may be recorded data."),
}


class Origins:
    """The origin of each instrument, from the topic ``instruments``."""

    def __init__(self) -> None:
        self._recorded: dict[str, bool] = {}

    def put(self, record: Record) -> None:
        """Add an ``instruments`` record; the newest one counts."""
        self._recorded[record["instrument"]] = record["recorded"]

    def knows(self, instrument: str) -> bool:
        """Return whether an instrument is known."""
        return instrument in self._recorded

    def of(self, instrument: str | None) -> str:
        """Return the origin of an instrument's events. For events without an instrument it is the combined origin of all instruments.

        Without any instrument there is no recorded data, so the origin is live.
        """
        if instrument is not None:
            recorded = self._recorded.get(instrument)
            return UNKNOWN if recorded is None else REPLAY if recorded else LIVE
        return together(REPLAY if recorded else LIVE for recorded in self._recorded.values()) or LIVE


def together(origins: Iterable[str]) -> str:
    """Return the combined origin of several events; empty without events."""
    found = set(origins)
    if len(found) == 1:
        return found.pop()
    return "" if not found else UNKNOWN if UNKNOWN in found else MIXED

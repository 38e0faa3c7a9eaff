"""Rank contracts by 24 h quote volume: the N largest of each venue make news (spec M, R000-90). Pure.

The volume is ``features.volume_24h`` times the price. Until 24 hours of data exist, the longest window that every contract of the venue has is compared
instead, so a ranking never mixes windows. An instrument without volume is not ranked; it passes while the top N is not full. Spot pairs are ranked
separately.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.codec.avro import Record

WINDOWS = ("24h", "4h", "1h", "30m", "15m", "5m")
_PERP = "-PERP"


class Ranking:
    """The newest volumes of all instruments.

    Args:
        top: Number of contracts that make news; 0: all.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._volumes: dict[tuple[str, bool], dict[str, list[float | None]]] = {}
        self._inside: dict[tuple[str, bool], frozenset[str]] = {}

    def put(self, record: Record) -> None:
        """Add a ``features`` record."""
        volumes = [None if (volume := record[f"volume_{name}"]) is None else volume * record["price"] for name in WINDOWS]
        group = _group(record["instrument"])
        if any(volume is not None for volume in volumes):
            self._volumes.setdefault(group, {})[record["instrument"]] = volumes
            self._inside.pop(group, None)

    def forget(self, instrument: str) -> None:
        """Remove an instrument that is no longer traded."""
        group = _group(instrument)
        if self._volumes.get(group, {}).pop(instrument, None) is not None:
            self._inside.pop(group, None)

    def admits(self, instrument: str) -> bool:
        """Return whether an instrument makes news."""
        if self._top == 0:
            return True
        group = _group(instrument)
        known = self._volumes.get(group, {})
        if instrument not in known:
            return len(known) < self._top
        if group not in self._inside:
            self._inside[group] = _largest(known, self._top)
        return instrument in self._inside[group]


def _group(instrument: str) -> tuple[str, bool]:
    venue, _, symbol = instrument.partition(":")
    return venue, symbol.endswith(_PERP)


def _largest(known: Mapping[str, list[float | None]], top: int) -> frozenset[str]:
    # A contract with a longer window also has all shorter ones, so the last common column is the longest common window.
    column = next((at for at in range(len(WINDOWS)) if all(volumes[at] is not None for volumes in known.values())), len(WINDOWS) - 1)
    ordered = sorted(known, key=lambda name: (-(known[name][column] or 0.0), name))
    return frozenset(ordered[:top])

"""Closed trades that rest on missing market data (pure).

A hole is a stretch in which ids prove that trades are missing and were not fetched later. The market in it is unknown. A window with a
large share of it is wrong, and a stop inside it may have been hit. Such trades stay in the lists, with a mark. Statistics leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stream_apps.core.market.windows import WINDOW_MS

Record = Mapping[str, Any]
# Shorter holes lose some trades of a window of minutes. They are only listed.
LEAST_HOLE_MS = 60_000
# A window with a larger share of holes than this does not show the market.
MOST_MISSING = 0.05
# ATR looks back this far: after 14 bars of 5 minutes it has forgotten two thirds of a bar (D4).
ATR_REACH_MS = 14 * 300_000
WINDOW, HELD = "window_over_hole", "held_over_hole"


class Hole(NamedTuple):
    """Missing trades of an instrument.

    Attributes:
        since, until: Times of the trades before and after, ms UTC.
        missing: Number of missing ids. None: unknown.
    """

    instrument: str
    since: int
    until: int
    missing: int | None


@dataclass
class Holes:
    """Collects gap records. A later record that reports the repair of a hole removes it."""

    gaps: list[Record] = field(default_factory=list)
    _open: dict[tuple[str, str, int | None, int | None], Record] = field(default_factory=dict)

    def add(self, gap: Record) -> None:
        """Take a ``gaps`` record."""
        self.gaps.append(gap)
        key = (gap["instrument"], gap["stream"], gap["from_id"], gap["from_time"])
        if gap["repaired"]:
            self._open.pop(key, None)
        elif gap["certain"]:
            self._open[key] = gap

    def found(self, least_ms: int = LEAST_HOLE_MS) -> list[Hole]:
        """Return the holes in trades of at least the minimum length, by instrument and time."""
        holes = [
            Hole(
                gap["instrument"],
                gap["from_time"],
                gap["to_time"],
                None if gap["from_id"] is None or gap["to_id"] is None else gap["to_id"] - gap["from_id"] + 1,
            )
            for gap in self._open.values()
            if gap["stream"] == "agg_trades" and gap["from_time"] is not None and gap["to_time"] is not None
        ]
        return sorted(hole for hole in holes if hole.until - hole.since >= least_ms)


def rests_on_hole(trade: Record, windows: Iterable[str], holes: Iterable[Hole]) -> str | None:
    """Return the reason why a closed trade cannot be judged: ``held_over_hole`` or ``window_over_hole``. None if it can.

    Args:
        trade: A ``trades_closed`` record.
        windows: The strategy's CVD windows. The look-back of ATR counts as one more.
        holes: Holes of any instruments.
    """
    known = [hole for hole in holes if hole.instrument == trade["instrument"]]
    if any(hole.since < trade["event_time"] and trade["signal_time"] < hole.until for hole in known):
        return HELD
    end = trade["signal_time"]
    for length in (ATR_REACH_MS, *(WINDOW_MS[name] for name in windows)):
        missing = sum(max(0, min(hole.until, end) - max(hole.since, end - length)) for hole in known)
        if missing > MOST_MISSING * length:
            return WINDOW
    return None


def marked(trades: Iterable[Record], windows_of: Callable[[str], Iterable[str]], holes: Iterable[Hole]) -> list[dict[str, Any]]:
    """Return the trades with a field ``void``: the reason, or None.

    Args:
        trades: ``trades_closed`` records.
        windows_of: Strategy id -> its CVD windows.
        holes: Holes of any instruments.
    """
    known = list(holes)
    return [{**trade, "void": rests_on_hole(trade, windows_of(trade["strategy_id"]), known)} for trade in trades]

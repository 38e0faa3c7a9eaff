"""Closed trades that rest on missing market data (pure).

A gap is a stretch in which ids prove that trades are missing and were not fetched later. The market in it is unknown. A window with a
large share of it is wrong, and a stop inside it may have been hit. Such trades stay in the lists, with a mark. Statistics leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stream_apps.core.market.windows import WINDOW_MS

Record = Mapping[str, Any]
# Shorter gaps lose some trades of a window of minutes. They are only listed.
LEAST_GAP_MS = 60_000
# A window with a larger share of gaps than this does not show the market.
MOST_MISSING = 0.05
# ATR looks back this far: after 14 bars of 5 minutes it has forgotten two thirds of a bar (D4).
ATR_REACH_MS = 14 * 300_000
WINDOW, HELD = "window_over_gap", "held_over_gap"


class TradeGap(NamedTuple):
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
class TradeGaps:
    """Collects gap records. A later record that reports the repair of a gap removes it."""

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

    def found(self, least_ms: int = LEAST_GAP_MS) -> list[TradeGap]:
        """Return the gaps in trades of at least the minimum length, by instrument and time."""
        gaps = [
            TradeGap(
                gap["instrument"],
                gap["from_time"],
                gap["to_time"],
                None if gap["from_id"] is None or gap["to_id"] is None else gap["to_id"] - gap["from_id"] + 1,
            )
            for gap in self._open.values()
            if gap["stream"] == "agg_trades" and gap["from_time"] is not None and gap["to_time"] is not None
        ]
        return sorted(gap for gap in gaps if gap.until - gap.since >= least_ms)


def rests_on_gap(trade: Record, windows: Iterable[str], gaps: Iterable[TradeGap]) -> str | None:
    """Return the reason why a closed trade cannot be judged: ``held_over_gap`` or ``window_over_gap``. None if it can.

    Args:
        trade: A ``trades_closed`` record.
        windows: The strategy's CVD windows. The look-back of ATR counts as one more.
        gaps: Gaps of any instruments.
    """
    known = [gap for gap in gaps if gap.instrument == trade["instrument"]]
    if any(gap.since < trade["event_time"] and trade["signal_time"] < gap.until for gap in known):
        return HELD
    end = trade["signal_time"]
    for length in (ATR_REACH_MS, *(WINDOW_MS[name] for name in windows)):
        missing = sum(max(0, min(gap.until, end) - max(gap.since, end - length)) for gap in known)
        if missing > MOST_MISSING * length:
            return WINDOW
    return None


def marked(trades: Iterable[Record], windows_of: Callable[[str], Iterable[str]], gaps: Iterable[TradeGap]) -> list[dict[str, Any]]:
    """Return the trades with a field ``void``: the reason, or None.

    Args:
        trades: ``trades_closed`` records.
        windows_of: Strategy id -> its CVD windows.
        gaps: Gaps of any instruments.
    """
    known = list(gaps)
    return [{**trade, "void": rests_on_gap(trade, windows_of(trade["strategy_id"]), known)} for trade in trades]

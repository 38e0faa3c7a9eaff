"""Labels judge a signal, not the exits it was traded with (S1 10.4): what the mark price did afterwards, in the order in which it did it (pure).

Times are ms UTC of event time. A label that the path cannot tell (it ends too early, or is silent for too long) is None, never 0. ATR is that of the
signal's own instant; computing it anew later is forbidden (S1 10.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MINUTE_MS = 60_000
# Mark prices come once a second; what is older than this is not known (D9).
STALE_MS = 5_000


@dataclass(frozen=True)
class LabelRules:
    """Numbers of the labels.

    Attributes:
        target_atr, stop_atr: Distances that decide the binary labels.
        binary_minutes: Horizons of the binary labels. return_minutes: of the returns. excursion_minutes: of MFE and MAE.
        cost: Estimated cost of a round trip, fraction of price.
        stale_ms: A path that is silent for longer says nothing beyond.
    """

    target_atr: float = 2.0
    stop_atr: float = 1.0
    binary_minutes: tuple[int, ...] = (30, 60)
    return_minutes: tuple[int, ...] = (15, 30, 60)
    excursion_minutes: int = 60
    cost: float = 0.001
    stale_ms: int = STALE_MS

    def __post_init__(self) -> None:
        """Raise ValueError, naming the number, for what cannot be."""
        for name in ("target_atr", "stop_atr", "stale_ms", "excursion_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above zero, got {getattr(self, name)}")
        if self.cost < 0:
            raise ValueError(f"cost: must not be negative, got {self.cost}")


@dataclass(frozen=True)
class Labels:
    """Labels of one signal; None: not known.

    Attributes:
        entry: Mark price at the signal.
        binary: Minutes -> 1 when the target was touched and the stop was not touched before it, else 0.
        returns: Minutes -> return in the signal's direction less the cost, fraction.
        mfe_r, mae_r: Best and worst mark price within the horizon, in R from the entry, both >= 0.
    """

    entry: float | None = None
    binary: dict[int, int | None] = field(default_factory=dict)
    returns: dict[int, float | None] = field(default_factory=dict)
    mfe_r: float | None = None
    mae_r: float | None = None


class MarkPath:
    """Mark prices of one instrument.

    Args:
        times: ms UTC, not descending.
        prices: Quote units, above zero.

    Raises:
        ValueError: times run backwards, lengths differ, or a price is no price.
    """

    def __init__(self, times: Sequence[int] | npt.NDArray[np.int64], prices: Sequence[float] | npt.NDArray[np.float64]) -> None:
        self.times = np.asarray(times, dtype=np.int64)
        self.prices = np.asarray(prices, dtype=np.float64)
        if self.times.shape != self.prices.shape or self.times.ndim != 1:
            raise ValueError(f"prices: {self.prices.shape} do not belong to times {self.times.shape}")
        if (np.diff(self.times) < 0).any():
            raise ValueError("times: run backwards")
        if not (np.isfinite(self.prices) & (self.prices > 0)).all():
            raise ValueError("prices: must be finite and above zero")

    @classmethod
    def of(cls, funding: Sequence[dict[str, Any]]) -> MarkPath:
        """Return the path of one instrument's ``funding`` records; those without a mark price say nothing."""
        known = sorted((row["event_time"], row["mark_price"]) for row in funding if row["mark_price"] is not None)
        return cls([time for time, _ in known], [price for _, price in known])

    def at(self, time: int, stale_ms: int) -> float | None:
        """Return the newest price at or before a time; None when it is older than ``stale_ms``."""
        place = int(np.searchsorted(self.times, time, "right")) - 1
        return float(self.prices[place]) if place >= 0 and time - int(self.times[place]) <= stale_ms else None

    def after(self, time: int, until: int, stale_ms: int) -> tuple[npt.NDArray[np.float64], bool]:
        """Return the prices in (time, until] up to the first silence, and whether they reach ``until`` without one."""
        first, last = np.searchsorted(self.times, [time, until], "right").tolist()
        times = self.times[first:last]
        edges = np.concatenate([[time], times, [until]])
        silent = np.flatnonzero(np.diff(edges) > stale_ms)
        if len(silent):
            return self.prices[first : first + int(silent[0])], False
        return self.prices[first:last], True


def labels_of(path: MarkPath, signal: dict[str, Any], rules: LabelRules | None = None) -> Labels:
    """Return the labels of a ``signals`` record.

    Args:
        path: Mark prices of its instrument.
        signal: The record: decided_at, direction, atr and risk_distance are used. The path begins when the decision was known.
        rules: Numbers of the labels.
    """
    rules = rules or LabelRules()
    time, sign = signal["decided_at"], 1 if signal["direction"] == "LONG" else -1
    entry = path.at(time, rules.stale_ms)
    if entry is None:
        return Labels(None, dict.fromkeys(rules.binary_minutes), dict.fromkeys(rules.return_minutes))
    binary = {minutes: _touched(path, time, minutes, sign, entry, signal["atr"], rules) for minutes in rules.binary_minutes}
    returns: dict[int, float | None] = {}
    for minutes in rules.return_minutes:
        price = path.at(time + minutes * MINUTE_MS, rules.stale_ms)
        returns[minutes] = None if price is None else sign * (price / entry - 1) - rules.cost
    prices, whole = path.after(time, time + rules.excursion_minutes * MINUTE_MS, rules.stale_ms)
    if not whole:
        return Labels(entry, binary, returns)
    moves = sign * (prices - entry) / signal["risk_distance"]
    return Labels(entry, binary, returns, float(moves.max(initial=0.0)), float((-moves).max(initial=0.0)))


def _touched(path: MarkPath, time: int, minutes: int, sign: int, entry: float, atr: float, rules: LabelRules) -> int | None:
    """Return which level was touched first: 1 the target, 0 the stop or neither; None where the path does not tell."""
    prices, whole = path.after(time, time + minutes * MINUTE_MS, rules.stale_ms)
    moves = sign * (prices - entry)
    hits = np.flatnonzero((moves >= rules.target_atr * atr) | (moves <= -rules.stop_atr * atr))
    if len(hits):
        return int(moves[hits[0]] > 0)
    return 0 if whole else None


HOUR_MS = 3_600_000
NET_HOURS = (12, 24, 36)


@dataclass(frozen=True)
class NetLabel:
    """A position's net result at a horizon (P section 8), quote units; ``label`` None: not known.

    Attributes:
        pnl: Realised and unrealised. fees: Paid. funding: Paid; received is below zero.
        roi: (pnl - fees - funding) / margin. label: ``pos``, ``neg`` or ``neutral``.
    """

    pnl: float | None
    fees: float
    funding: float | None
    roi: float | None
    label: str | None


def net_labels(
    fills: Sequence[dict[str, Any]],
    path: MarkPath,
    settlements: Sequence[tuple[int, float]],
    *,
    leverage: float = 1.0,
    hours: Sequence[int] = NET_HOURS,
    threshold: float = 0.005,
    stale_ms: int = STALE_MS,
) -> dict[int, NetLabel]:
    """Return hours -> label of one position, ``hours`` after its first fill.

    What is still open then is valued at the mark price; where that is not known, neither is the label. A settlement charges what was open at it: quantity x
    mark price x rate, paid by a long position when the rate is above zero.

    Args:
        fills: Its ``fills`` records, at least one.
        path: Mark prices of its instrument.
        settlements: (time, rate) of its instrument, ms UTC and fraction.
        leverage: Margin is the notional of the opening fills / leverage; 1: the cost of spot.
        threshold: As in ``net_label``.

    Raises:
        ValueError: no fills, or a leverage not above zero.
    """
    if not fills or not leverage > 0:
        raise ValueError("fills: must hold the position's, and leverage be above zero")
    ordered = sorted(fills, key=lambda fill: (fill["event_time"], fill["fill_id"]))
    begin = ordered[0]["event_time"]
    margin = sum(fill["price"] * fill["quantity"] for fill in ordered if fill["leg"] == "entry") / leverage
    found = {}
    for length in hours:
        end = begin + length * HOUR_MS
        known = [fill for fill in ordered if fill["event_time"] <= end]
        cash = sum((-1 if fill["side"] == "BUY" else 1) * fill["price"] * fill["quantity"] for fill in known)
        left = _open_at(ordered, end)
        fees = float(sum(fill["fee"] for fill in known))
        mark = path.at(end, stale_ms) if left else 0.0
        pnl = None if mark is None else cash + left * mark
        funding: float | None = 0.0
        for time, rate in settlements:
            held = _open_at(ordered, time) if begin <= time <= end else 0.0
            if held and funding is not None:
                price = path.at(time, stale_ms)
                funding = None if price is None else funding + held * price * rate
        if pnl is None or funding is None:
            found[length] = NetLabel(pnl, fees, funding, None, None)
        else:
            found[length] = NetLabel(pnl, fees, funding, (pnl - fees - funding) / margin, net_label(pnl, fees, funding, margin, threshold))
    return found


def _open_at(fills: Sequence[dict[str, Any]], time: int) -> float:
    """Return the base quantity held after the fills up to a time, short below zero; exactly 0 when closed to the last unit of rounding."""
    held = sum((1 if fill["side"] == "BUY" else -1) * fill["quantity"] for fill in fills if fill["event_time"] <= time)
    most = max(fill["quantity"] for fill in fills)
    return 0.0 if abs(held) < 1e-9 * most else float(held)


def net_label(pnl: float, fees: float, funding: float, margin: float, threshold: float = 0.005) -> str:
    """Return ``pos``, ``neg`` or ``neutral`` by the net return on what was put in (P R002-81 to 85).

    Args:
        pnl: Realised and unrealised result at the horizon, money.
        fees: Paid. funding: Paid; received is below zero.
        margin: Margin, or the cost of spot, above zero.
        threshold: Net return from which it is one or the other.

    Raises:
        ValueError: no margin.
    """
    if not margin > 0:
        raise ValueError(f"margin: must be above zero, got {margin}")
    roi = (pnl - fees - funding) / margin
    return "pos" if roi >= threshold else "neg" if roi <= -threshold else "neutral"

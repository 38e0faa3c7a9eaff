"""Labels judge a signal, not the exits it was traded with (S1 10.4): what the mark price did afterwards, in the order in which it did it (pure).

Times are ms UTC of event time. A label that the path cannot tell (it ends too early, or is silent for too long) is None, never 0. ATR is that of the
signal's own instant; computing it anew later is forbidden (S1 10.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.labels.path_kernel import BLOCK, LONG, SHORT, UNKNOWN, index_blocks, outcome
from stream_apps.core.labels.rules import MINUTE_MS, STALE_MS, LabelRules


@dataclass(frozen=True)
class Labels:
    """Labels of one signal; None: not known.

    Attributes:
        entry: Mark price at the signal.
        binary: Minutes -> 1 when the target was touched and the stop was not touched before it, else 0.
        returns: Minutes -> return in the signal's direction less the cost, fraction.
        mfe_r, mae_r: Best and worst mark price within the horizon, both >= 0, in R from the entry. R is the distance of the stop of
            the binary labels (1 ATR): labels do not depend on the exits of a strategy.
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
        self.blocks = np.empty((len(self.times) // BLOCK, 3))
        index_blocks(self.times, self.prices, len(self.times), 0, self.blocks)

    @classmethod
    def of(cls, funding: Sequence[dict[str, Any]]) -> MarkPath:
        """Return the path of one instrument's ``funding`` records; those without a mark price say nothing."""
        known = sorted((row["event_time"], row["mark_price"]) for row in funding if row["mark_price"] is not None)
        return cls([time for time, _ in known], [price for _, price in known])

    def at(self, time: int, stale_ms: int) -> float | None:
        """Return the newest price at or before a time; None when it is older than ``stale_ms``."""
        place = int(np.searchsorted(self.times, time, "right")) - 1
        return float(self.prices[place]) if place >= 0 and time - int(self.times[place]) <= stale_ms else None


def labels_of(path: MarkPath, signal: dict[str, Any], rules: LabelRules | None = None) -> Labels:
    """Return the labels of a ``signals`` record, by the function that labels evaluations in the engine.

    Args:
        path: Mark prices of its instrument.
        signal: The record: event_time, direction and atr are used. The path begins at the evaluation (S1 10.4: ts).
        rules: Numbers of the labels.
    """
    rules = rules or LabelRules()
    n_returns, n_binary = len(rules.return_minutes), len(rules.binary_minutes)
    moves, binary, excursion = np.empty(n_returns), np.empty((2, n_binary), dtype=np.int64), np.empty(2)
    atr = signal["atr"]
    entry = outcome(
        path.times, path.prices, len(path.times), path.blocks, len(path.blocks), signal["event_time"], rules.target_atr * atr, rules.stop_atr * atr,
        np.array(rules.return_minutes, dtype=np.int64) * MINUTE_MS, np.array(rules.binary_minutes, dtype=np.int64) * MINUTE_MS,
        rules.excursion_minutes * MINUTE_MS, rules.stale_ms, moves, binary, excursion,
    )  # fmt: skip
    side, sign = (LONG, 1) if signal["direction"] == "LONG" else (SHORT, -1)
    best, worst = (excursion / (rules.stop_atr * atr)).tolist()[::sign]
    return Labels(
        _known(entry),
        {minutes: None if one == UNKNOWN else one for minutes, one in zip(rules.binary_minutes, binary[side].tolist(), strict=True)},
        {minutes: _known(sign * move - rules.cost) for minutes, move in zip(rules.return_minutes, moves.tolist(), strict=True)},
        _known(best),
        _known(worst),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


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

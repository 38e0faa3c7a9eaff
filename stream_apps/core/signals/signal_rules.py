"""Rules for acting on a signal. Paper model and live execution use the same ones (one slot per strategy and instrument)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stream_apps.core.signals.scoring.registry import MODELS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The requests of a signal.

    Attributes:
        closes: It closes the open position of the other direction.
        opens: It opens a position, unless ``refusal`` gives a reason not to. With a model whose flip only closes, it never does both.
        refusal: ``signal_too_old`` (also refuses its flip), ``no_risk_distance``, ``no_risk_amount`` or ``max_positions``.
    """

    closes: bool
    opens: bool
    refusal: str | None = None

    @property
    def needs_rejection(self) -> bool:
        """True when a refusal concerns a request, so that a rejected order is written."""
        return self.refusal == "signal_too_old" or (self.refusal is not None and self.opens)


def verdict(signal: dict[str, Any], *, pending: bool, current: str | None, held: int, age_ms: int, max_age_ms: int) -> Verdict | None:
    """Return the requests of a signal.

    None if it asks for nothing new: any signal while an entry is pending, the direction of the open position, the opposite one without
    ``flip``, and a signal without ``entry`` where nothing is open.

    Args:
        signal: ``signals`` record.
        pending: Its strategy and instrument have a pending entry.
        current: Direction of the open position of its strategy and instrument, None without one.
        held: Number of instruments on which its strategy holds or waits for a position. A flip does not count twice.
        age_ms: Time since the decision, by the caller's clock.
        max_age_ms: Older signals are refused.
    """
    if pending:
        return None
    flips = current is not None and current != signal["direction"] and bool(signal["flip"])
    if not flips and (current is not None or not signal["entry"]):
        return None
    refusal = None
    if age_ms > max_age_ms:
        refusal = "signal_too_old"
    elif not signal["risk_distance"] > 0:
        refusal = "no_risk_distance"
    elif not signal["initial_balance"] * signal["risk_per_trade"] * signal["risk_multiple"] > 0:
        refusal = "no_risk_amount"
    elif current is None and held >= signal["max_positions"]:
        refusal = "max_positions"
    opens = bool(signal["entry"]) and not (flips and flip_closes_only(signal))
    return Verdict(closes=flips and refusal != "signal_too_old", opens=opens, refusal=refusal)


def trail_ratio(signal: dict[str, Any]) -> float:
    """Return the distance, in R, of the stop that trails the rest after the second target. 0: the second target closes the rest."""
    model = MODELS.get(signal["strategy_version"])
    return 0.0 if model is None else model.trail_ratio


def flip_closes_only(signal: dict[str, Any]) -> bool:
    """Return whether the model of a signal closes at an opposite signal without entering the other side."""
    model = MODELS.get(signal["strategy_version"])
    return model is not None and model.flip_closes_only

"""Rules for acting on a signal. Paper model and live execution use the same ones (one slot per strategy and instrument)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from stream_apps.core.signals.scoring.registry import MODELS

# Shares of the capital are sums of decimal fractions: so much may the limit be exceeded by rounding.
_ROUNDING = 1e-9


class Holding(NamedTuple):
    """A position that a strategy holds or waits for: its instrument, direction and risk multiple."""

    instrument: str
    direction: str
    risk_multiple: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The requests of a signal.

    Attributes:
        closes: It closes the open position of the other direction.
        opens: It opens a position, unless ``refusal`` gives a reason not to. With a model whose flip only closes, it never does both.
        refusal: ``signal_too_old`` (also refuses its flip), ``no_risk_distance``, ``no_risk_amount``,
            ``max_positions`` or ``side_capital``.
    """

    closes: bool
    opens: bool
    refusal: str | None = None

    @property
    def needs_rejection(self) -> bool:
        """True when a refusal concerns a request, so that a rejected order is written."""
        return self.refusal == "signal_too_old" or (self.refusal is not None and self.opens)


def verdict(
    signal: dict[str, Any], *, pending: bool, current: str | None, held: Iterable[Holding], age_ms: int, max_age_ms: int
) -> Verdict | None:
    """Return the requests of a signal.

    None if it asks for nothing new: any signal while an entry is pending, the direction of the open position, the opposite one without
    ``flip``, and a signal without ``entry`` where nothing is open.

    Args:
        signal: ``signals`` record.
        pending: Its strategy and instrument have a pending entry.
        current: Direction of the open position of its strategy and instrument, None without one.
        held: Positions that its strategy holds or waits for, on all instruments.
        age_ms: Time since the decision, by the caller's clock.
        max_age_ms: Older signals are refused.
    """
    if pending:
        return None
    flips = current is not None and current != signal["direction"] and bool(signal["flip"])
    if not flips and (current is not None or not signal["entry"]):
        return None
    refusal, holdings = None, list(held)
    if age_ms > max_age_ms:
        refusal = "signal_too_old"
    elif not signal["risk_distance"] > 0:
        refusal = "no_risk_distance"
    elif not signal["initial_balance"] * signal["risk_per_trade"] * signal["risk_multiple"] > 0:
        refusal = "no_risk_amount"
    # A flip holds two positions of an instrument for a moment, and counts once.
    elif current is None and len({one.instrument for one in holdings}) >= signal["max_positions"]:
        refusal = "max_positions"
    elif exceeds_side_capital(signal, holdings):
        refusal = "side_capital"
    opens = bool(signal["entry"]) and not (flips and flip_closes_only(signal))
    return Verdict(closes=flips and refusal != "signal_too_old", opens=opens, refusal=refusal)


def exceeds_side_capital(signal: dict[str, Any], held: Iterable[Holding]) -> bool:
    """Return whether an entry would put more of the capital into one side than its model allows (V5.0: 10 %, S2 6).

    Args:
        signal: ``signals`` record.
        held: Positions that its strategy holds or waits for, on all instruments.
    """
    model = MODELS.get(signal["strategy_version"])
    if model is None or not model.side_capital:
        return False
    multiples = [signal["risk_multiple"], *(one.risk_multiple for one in held if one.direction == signal["direction"])]
    return sum(multiples) * model.capital_share > model.side_capital + _ROUNDING


def trail_ratio(signal: dict[str, Any]) -> float:
    """Return the distance, in R, of the stop that trails the rest after the second target. 0: the second target closes the rest."""
    model = MODELS.get(signal["strategy_version"])
    return 0.0 if model is None else model.trail_ratio


def flip_closes_only(signal: dict[str, Any]) -> bool:
    """Return whether the model of a signal closes at an opposite signal without entering the other side."""
    model = MODELS.get(signal["strategy_version"])
    return model is not None and model.flip_closes_only

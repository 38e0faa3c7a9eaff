"""Which signals are acted on: the same rules for the paper model and for live execution (one slot per strategy and instrument)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a signal asks for.

    Attributes:
        closes: The open position of the other direction.
        opens: A position, unless ``refusal`` says why not.
        refusal: ``signal_too_old`` (which refuses its flip too), ``no_risk_distance``, ``no_risk_amount`` or ``max_positions``.
    """

    closes: bool
    opens: bool
    refusal: str | None = None

    @property
    def is_told(self) -> bool:
        """True when a refusal concerns something that was asked for, so that a rejected order is written."""
        return self.refusal == "signal_too_old" or (self.refusal is not None and self.opens)


def verdict(signal: dict[str, Any], *, pending: bool, current: str | None, held: int, age_ms: int, max_age_ms: int) -> Verdict | None:
    """Return what a signal asks for; None where it asks for nothing that is not there or allowed already: anything while an entry is pending,
    the same direction as the open position, the opposite one without ``flip``, and a signal without ``entry`` where nothing is open.

    Args:
        signal: ``signals`` record.
        pending: Its strategy and instrument have an entry under way.
        current: Direction of the open position of its strategy and instrument, None without one.
        held: Positions that its strategy holds or waits for, on all instruments.
        age_ms: How long ago it was decided, by the caller's clock.
        max_age_ms: Older ones are refused.
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
    return Verdict(closes=flips and refusal != "signal_too_old", opens=bool(signal["entry"]), refusal=refusal)

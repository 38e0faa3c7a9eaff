"""R of open positions (pure). The console, the command line and the guard use this one formula; a dashboard repeats it in SQL.

R = (realised + unrealised) / money at risk. Money at risk is 1R of the strategy times the tier multiple (D14, D19). So a heavy position that
stands at its stop shows -1 R, as it will when it is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def money_at_risk(position: Mapping[str, Any]) -> float | None:
    """Return the money that a position loses at its first stop, quote units; None when the record does not say.

    Args:
        position: A ``positions`` record or row. One written before ``risk_multiple`` existed gives quantity x risk distance, which is smaller by
            less than a lot.
    """
    multiple = position.get("risk_multiple")
    if multiple is not None and position.get("risk_amount"):
        return float(position["risk_amount"]) * float(multiple)
    quantity, distance = position.get("quantity"), position.get("risk_distance")
    return float(quantity) * float(distance) if quantity and distance else None


def r_multiple(realised: float, unrealised: float, at_risk: float | None) -> float | None:
    """Return the R of a position; None when the money at risk is unknown.

    Args:
        realised: What its exits banked so far after fees and funding, quote units.
        unrealised: Of the open part, quote units.
        at_risk: ``money_at_risk``.
    """
    return (realised + unrealised) / at_risk if at_risk else None

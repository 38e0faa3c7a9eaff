"""The cost gate: what a strategy earns before costs must exceed what it pays, by more than chance (pure).

Per trade, in R: edge = gross_r + slippage_r (slippage stands inside gross_r), cost = fee_r + slippage_r + funding_r, net_r = edge - cost. All of it is
measured, by the paper model or at the venue; nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from stream_apps.core.performance.numbers import mean
from stream_apps.research.bootstrap import SEED, Mean, mean_of

LEAST_TRADES = 30
PASSES, FAILS, NOT_SHOWN, TOO_FEW = "passes", "fails", "not shown", "too few trades"
MEANING = {
    PASSES: "the edge exceeds the cost by more than chance",
    FAILS: "the cost exceeds the edge by more than chance",
    NOT_SHOWN: "the interval of the net result holds zero: nothing is shown either way",
    TOO_FEW: f"with fewer than {LEAST_TRADES} trades nothing is said",
}


@dataclass(frozen=True)
class Gate:
    """What trades earned and paid, mean R a trade; None without trades.

    Attributes:
        trades: Number.
        edge: Before any cost. fees, slippage, funding: Paid; funding received is below zero. cost: Their sum.
        net: Edge less cost, with its interval.
        share: Cost / edge, where the edge is above zero.
        verdict: One of ``MEANING``.
    """

    trades: int
    edge: float | None
    fees: float | None
    slippage: float | None
    funding: float | None
    cost: float | None
    net: Mean | None
    share: float | None
    verdict: str


def cost_gate(trades: Sequence[Mapping[str, Any]], confidence: float = 0.95, least: int = LEAST_TRADES, seed: int = SEED) -> Gate:
    """Judge ``trades_closed`` records (gross_r, fee_r, funding_r, slippage_r are used), in order of their exits.

    The verdict is one-sided on each side: ``passes`` when the net result is above zero with ``confidence``, ``fails`` when it is below likewise.

    Raises:
        ValueError: a confidence outside (0.5, 1).
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence: must be within 0.5 and 1, got {confidence}")
    if not trades:
        return Gate(0, None, None, None, None, None, None, None, TOO_FEW)
    edge = [row["gross_r"] + row["slippage_r"] for row in trades]
    parts = {name: mean([row[name] for row in trades]) for name in ("fee_r", "slippage_r", "funding_r")}
    net = mean_of([row["gross_r"] - row["fee_r"] - row["funding_r"] for row in trades], 2 * confidence - 1, seed=seed)
    assert net is not None
    cost, earned = fsum(parts.values()), mean(edge)
    if len(trades) < least or net.low is None or net.high is None:
        verdict = TOO_FEW
    else:
        verdict = PASSES if net.low > 0 else FAILS if net.high < 0 else NOT_SHOWN
    return Gate(
        len(trades),
        earned,
        parts["fee_r"],
        parts["slippage_r"],
        parts["funding_r"],
        cost,
        net,
        cost / earned if earned > 0 else None,
        verdict,
    )

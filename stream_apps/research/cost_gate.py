"""The cost gate: a strategy's earnings before costs must exceed its costs, by more than chance (pure).

Per trade, in R: edge = gross_r + slippage_r (gross_r contains slippage), cost = fee_r + slippage_r + funding_r, net_r = edge - cost. All
numbers are measured, by the paper model or at the venue. Nothing is assumed.
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
    NOT_SHOWN: "the interval of the net result contains zero: neither is shown",
    TOO_FEW: f"fewer than {LEAST_TRADES} trades: no verdict",
}


@dataclass(frozen=True)
class Gate:
    """Earnings and costs of trades, mean R a trade. None without trades.

    Attributes:
        trades: Number of trades.
        edge: Earnings before any cost. fees, slippage, funding: Costs; received funding is negative. cost: Their sum.
        net: Edge minus cost, with its interval.
        share: Cost / edge, if the edge is positive.
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
    """Judge ``trades_closed`` records in order of their exits. The fields gross_r, fee_r, funding_r and slippage_r are used.

    Each side of the verdict is one-sided: ``passes`` if the net result is above zero with ``confidence``, ``fails`` if it is below zero
    with it.

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

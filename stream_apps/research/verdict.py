"""The joint verdict of several searches (pure).

An edge must hold out of sample, after costs, and after a correction for the number of tries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_apps.research.cost_gate import LEAST_TRADES, PASSES
from stream_apps.research.search import SearchResult
from stream_apps.research.trials import false_discovery_control

EDGE, NONE, TOO_FEW = "edge", "no edge shown", "too few trades"
MEANING = {
    EDGE: "the test trades earn more than they cost, by more than chance, at the stated rate of false discoveries",
    NONE: "the test trades show no edge beyond costs and chance",
    TOO_FEW: f"fewer than {LEAST_TRADES} test trades: no verdict",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict of one search.

    Attributes:
        verdict: One of ``MEANING``. p: One-sided p-value of the mean net R of its test trades. None: too few trades.
    """

    verdict: str
    p: float | None


def verdicts(found: Mapping[str, SearchResult], rate: float = 0.05) -> dict[str, Verdict]:
    """Return name -> verdict. Of all edges found, at most the share ``rate`` is expected to be false (Benjamini and Hochberg).

    Raises:
        ValueError: a rate outside (0, 1).
    """
    p_values = {
        name: None if one.test is None or one.test.count < LEAST_TRADES or one.test.p is None else one.test.p for name, one in found.items()
    }
    # A search that cannot be judged still counts as a try.
    accepted = false_discovery_control([1.0 if p is None else p for p in p_values.values()], rate)
    said = {}
    for (name, p), taken in zip(p_values.items(), accepted, strict=True):
        if p is None:
            said[name] = Verdict(TOO_FEW, None)
        else:
            said[name] = Verdict(EDGE if taken and found[name].gate.verdict == PASSES else NONE, p)
    return said

"""Two strategies side by side, and two revisions of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sinks.commands.strategies.history import AuditEntry
from sinks.console.database import Row
from sinks.console.http.problems import Problem
from stream_apps.core.performance.comparison import compare
from stream_apps.core.signals.strategy import BOOKKEEPING, StrategyConfig

# Fewer than the command line draws: an answer within a second. The intervals move by a few per cent of their width.
RESAMPLES = 2_000
# They differ by what a strategy is, not by what it does.
_NAMES = {*BOOKKEEPING, "strategy_id"}


def fields(a: StrategyConfig, b: StrategyConfig) -> dict[str, list[Any]]:
    """Return the fields in which two strategies differ: name -> [of a, of b]."""
    one, other = a.to_record(), b.to_record()
    return {name: [one[name], other[name]] for name in one if name not in _NAMES and one[name] != other[name]}


def results(a: Sequence[Row], b: Sequence[Row]) -> dict[str, Any]:
    """Return what ``perpflow compare`` says of the closed trades of two strategies: figures with counts and intervals, difference, verdict."""
    found = asdict(compare(a, b, (), (), resamples=RESAMPLES))
    return {"all": found["all"], "groups": found["groups"]}


def between(entries: Sequence[AuditEntry], first: int, second: int) -> dict[str, list[Any]]:
    """Return the fields in which two revisions of a strategy differ: name -> [in the first, in the second].

    Args:
        entries: The audit trail, oldest first. A revision that is not in it any more is no obstacle: what it changed stands in the next one.
        first, second: Revisions, in any order.

    Raises:
        Problem: 404, there is no such revision.
    """
    held = [one for one in entries if one.did != "refused"]
    known = {one.revision for one in held}
    for number in (first, second):
        if number not in known:
            raise Problem(404, f"revision {number} is not known; known: {', '.join(map(str, sorted(known)))}")
    low, high = sorted((first, second))
    found: dict[str, list[Any]] = {}
    for entry in held:
        if low < entry.revision <= high:
            for name, (before, after) in entry.changed.items():
                found.setdefault(name, [before, after])[1] = after
    changed = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    return changed if first <= second else {name: pair[::-1] for name, pair in changed.items()}

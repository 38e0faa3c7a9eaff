"""The statistics by name. One is a function of a ``Ledger`` whose docstring says formula and source."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

from stream_apps.core.performance.ledger import Ledger

Value = float | int | None
Function = Callable[[Ledger], Value]


@dataclass(frozen=True)
class Statistic:
    """One statistic.

    Attributes:
        name: Unique.
        unit: ``count``, ``fraction`` (0.01 is one per cent), ``%``, ``R``, ``money`` (quote units), ``ms``, ``ms UTC``, ``ratio`` (no unit), ``1/day``.
        group: Under which heading it stands.
        meaning: Formula and source.
        function: Computes it.
    """

    name: str
    unit: str
    group: str
    meaning: str
    function: Function

    def of(self, ledger: Ledger) -> Value:
        """Return its value; None where it is undefined (no trades, a division by zero, a root of a negative number, no finite number)."""
        try:
            value = self.function(ledger)
        except (ArithmeticError, ValueError):
            return None
        return None if value is None or not math.isfinite(value) else value


# Groups in the order in which they are shown.
GROUPS = ("Result", "Trades", "Edge", "Drawdown", "Daily returns", "Costs", "Excursions", "Time in the market", "Spread of results")
STATISTICS: dict[str, Statistic] = {}


def statistic(group: str, unit: str) -> Callable[[Function], Function]:
    """Register a function under its own name. Raises ValueError for a name that is taken, an unknown group, or a function without docstring."""

    def register(function: Function) -> Function:
        name = function.__name__
        meaning = " ".join(inspect.cleandoc(function.__doc__ or "").split())
        if name in STATISTICS or group not in GROUPS or not meaning:
            raise ValueError(f"statistic {name}: the name is taken, the group {group!r} is unknown, or it says nothing of itself")
        STATISTICS[name] = Statistic(name, unit, group, meaning, function)
        return function

    return register


def listed() -> list[Statistic]:
    """Return every statistic, group by group."""
    return sorted(STATISTICS.values(), key=lambda one: GROUPS.index(one.group))


def evaluate(ledger: Ledger) -> dict[str, Value]:
    """Return every statistic of a ledger by name."""
    return {one.name: one.of(ledger) for one in listed()}

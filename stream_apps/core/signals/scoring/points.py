"""Points: conditions on inputs and their value. The numbers are data, which scorer and documentation share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

from stream_apps.core.signals.scoring.view import INPUTS, View

_OPERATORS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_SIDES = {"LONG": 1, "SHORT": -1, "any": 0}
# A row after lookup: side, points, and its conditions: comparison, index of the input, limit, index of the input that multiplies it or -1.
_Test = tuple[int, float, tuple[tuple[Callable[[float, float], bool], int, float, int], ...]]


@dataclass(frozen=True, slots=True)
class When:
    """A condition: ``input`` compared with ``limit``, or with ``limit`` times another input.

    Attributes:
        input: Name in ``view.INPUTS``.
        op: >, >=, < or <=.
        limit: Number.
        of: Name of the other input, if any.
    """

    input: str
    op: str
    limit: float
    of: str | None = None

    def text(self) -> str:
        """Return the condition for people."""
        if self.of is None:
            return f"{self.input} {self.op} {self.limit:g}"
        return f"{self.input} {self.op} {'' if self.limit == 1.0 else f'{self.limit:g} x '}{self.of}"


@dataclass(frozen=True, slots=True)
class Row:
    """Points that a side earns when all conditions hold.

    Attributes:
        side: LONG, SHORT or any (also without a direction).
        when: Conditions.
        points: Raw points.
    """

    side: str
    when: tuple[When, ...]
    points: float


@dataclass(frozen=True, slots=True)
class Steps:
    """A sub-score: of the rows for the direction, the first that holds.

    Attributes:
        name: Name in the record's parts.
        rows: In the order of evaluation.
        source: Section of the specification.
        otherwise: Points when no row holds.
        missing: Points when an input is missing.
        inputs: Names of the inputs, in the order of the rows.
    """

    name: str
    rows: tuple[Row, ...]
    source: str
    otherwise: float = 0.0
    missing: float = 0.0
    inputs: tuple[str, ...] = field(init=False)
    _getters: tuple[Callable[[View], float | None], ...] = field(init=False, repr=False, compare=False)
    _tests: tuple[_Test, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [name for row in self.rows for when in row.when for name in (when.input, when.of) if name is not None]
        object.__setattr__(self, "inputs", tuple(dict.fromkeys(names)))
        # Names are resolved here, once, and not in every evaluation.
        place = {name: at for at, name in enumerate(self.inputs)}
        tests = tuple(
            (
                _SIDES[row.side],
                row.points,
                tuple((_OPERATORS[w.op], place[w.input], w.limit, -1 if w.of is None else place[w.of]) for w in row.when),
            )
            for row in self.rows
        )
        object.__setattr__(self, "_getters", tuple(INPUTS[name] for name in self.inputs))
        object.__setattr__(self, "_tests", tests)

    def points(self, view: View, direction: int) -> float:
        """Return the points of a direction (1, -1, 0)."""
        values: list[float] = []
        for value_of in self._getters:
            value = value_of(view)
            if value is None:
                return self.missing
            values.append(value)
        for side, points, conditions in self._tests:
            if side == 0 or side == direction:
                for holds, at, limit, of in conditions:
                    if not holds(values[at], limit if of < 0 else limit * values[of]):
                        break
                else:
                    return points
        return self.otherwise

    def table(self) -> list[tuple[str, str, float]]:
        """Return (side, condition, points) for people."""
        return [
            *((row.side, " and ".join(when.text() for when in row.when), row.points) for row in self.rows),
            ("any", "otherwise", self.otherwise),
            ("any", "an input is missing", self.missing),
        ]


@dataclass(frozen=True, slots=True)
class AgainstFunding:
    """Points for receiving funding, proportional to the rate's share of the largest rate so far (S1 4.4, signal document).

    Attributes:
        name: Name in the record's parts.
        most: Points at the largest rate.
        source: Section of the specification.
    """

    name: str
    most: float
    source: str
    inputs: tuple[str, ...] = ("estimated_funding_rate", "funding_rate_max")

    def points(self, view: View, direction: int) -> float:
        """Return the points of a direction (1, -1, 0)."""
        rate, largest = view.snapshot.estimated_funding_rate, view.snapshot.funding_rate_max
        if rate is None or largest is None or largest <= 0.0 or rate * direction >= 0.0:
            return 0.0
        return min(abs(rate) / largest * self.most, self.most)

    def table(self) -> list[tuple[str, str, float]]:
        """Return (side, condition, points) for people."""
        share = "estimated_funding_rate"
        return [
            ("LONG", f"{share} < 0: |{share}| / funding_rate_max x {self.most:g}, at most", self.most),
            ("SHORT", f"{share} > 0: the same, at most", self.most),
            ("any", "otherwise", 0.0),
            ("any", "an input is missing", 0.0),
        ]


Part = Steps | AgainstFunding


def every(side: str, points: float, *conditions: tuple[str, str, float] | tuple[str, str, float, str]) -> Row:
    """Return a row from conditions as tuples."""
    return Row(side, tuple(When(*condition) for condition in conditions), points)


def with_sign(points: float, *names: str) -> tuple[Row, Row]:
    """Return the rows of inputs that must all have the sign of the direction."""
    return (
        every("LONG", points, *((name, ">", 0.0) for name in names)),
        every("SHORT", points, *((name, "<", 0.0) for name in names)),
    )

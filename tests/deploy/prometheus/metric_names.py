"""Which series there are, and which a query of Prometheus asks for."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NamedTuple

import promql_parser

from schemas import metrics

# Prometheus makes these of every scrape.
SCRAPED = {"up": frozenset(), "scrape_duration_seconds": frozenset()}
TARGET = {"job", "instance"}


class Selector(NamedTuple):
    """One selector of an expression, and the labels that it matches."""

    name: str
    labels: frozenset[str]


def exposed() -> dict[str, frozenset[str]]:
    """Return every series name of our processes with its labels."""
    found: dict[str, frozenset[str]] = dict(SCRAPED)
    for one in metrics.catalogue():
        labels = frozenset(one.labels)
        if one.kind == "histogram":
            found |= {f"{one.name}_bucket": labels | {"le"}, f"{one.name}_count": labels, f"{one.name}_sum": labels}
        else:
            found[one.name] = labels
    return found


def _walk(node: Any) -> Any:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str | int | float):
            yield from _walk(child)
    for child in getattr(node, "args", None) or ():
        yield from _walk(child)


def selectors(expression: str) -> list[Selector]:
    """Return the selectors of an expression. Raises ValueError when it is no PromQL."""
    found = []
    for node in _walk(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(Selector(str(node.name), frozenset(one.name for one in node.matchers.matchers)))
    return found


def _grouped(expression: str) -> set[str]:
    labels: set[str] = set()
    for node in _walk(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels |= set(node.modifier.labels)
    return labels


def check_names(where: str, expression: str, recorded: Set[str] = frozenset()) -> set[str]:
    """Assert that every series and label of an expression exists; return the names."""
    known = exposed()
    names = set()
    for one in selectors(expression):
        if one.name not in recorded:
            assert one.name in known, f"{where}: {one.name}"
            assert one.labels <= known[one.name] | TARGET, f"{where}: {one}"
        names.add(one.name)
    assert names or expression.startswith("vector("), where
    of_metrics = set().union(TARGET, *(known.get(name, frozenset()) for name in names))
    if not names & recorded:
        assert _grouped(expression) <= of_metrics, f"{where}: grouped by {_grouped(expression) - of_metrics}"
    return names

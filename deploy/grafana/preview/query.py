"""What Grafana does to a query before it sends it: macros, variables, the step of a chart. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Steps that charts are rounded to, seconds, up to a day.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# Points that a chart over the whole width has; Grafana takes one a pixel, which no eye needs here.
POINTS = 480
COLUMNS = 24


def expanded(query: str, since: str, until: str, variables: Mapping[str, Sequence[str]], interval_ms: int = 60_000) -> str:
    """Return the query as Grafana sends it (its documentation: "PostgreSQL query editor, macros" and "Advanced variable format options").

    Args:
        query: SQL of a panel.
        since: Beginning of the range, ISO.
        until: Its end.
        variables: Values chosen; ``sqlstring`` quotes each, doubles quotes within, and joins them with commas.
        interval_ms: Step of a chart.

    Raises:
        ValueError: a macro or variable that this does not know is left.
    """
    query = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN '{since}' AND '{until}'", query)
    query = query.replace("$__timeFrom()", f"'{since}'").replace("$__timeTo()", f"'{until}'").replace("$__interval_ms", str(interval_ms))
    left = re.search(r"\$(?!\{\w+:sqlstring\})[\w{]+", query)
    if left is not None:
        raise ValueError(f"{left[0]} is not known in: {query}")

    def quoted(found: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in variables[found[1]])

    return re.sub(r"\$\{(\w+):sqlstring\}", quoted, query)


def duration_ms(text: str) -> int:
    """Return a duration such as ``15s`` in milliseconds."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if found is None:
        raise ValueError(f"{text!r} is no duration")
    return int(found[1]) * _UNITS[found[2]]


def step_ms(panel: Mapping[str, Any], span_ms: float) -> int:
    """Return the step of a panel's chart for a range: by the panel's width, not below its own least step."""
    wanted = span_ms / (POINTS * panel["gridPos"]["w"] / COLUMNS) / 1000
    rounded = next((one for one in _STEPS if one >= wanted), None) or -(-wanted // 86_400) * 86_400
    return max(int(rounded * 1000), duration_ms(panel.get("interval", "1s")))


def rate_interval(step_s: float, scrape_s: float) -> str:
    """Return ``$__rate_interval``: enough samples for a rate at every step (Grafana's documentation of the Prometheus data source)."""
    return f"{max(step_s + scrape_s, 4 * scrape_s):g}s"

"""Parts of a dashboard: queries, panels, variables, and the page that puts them in rows.

SQL is plain PostgreSQL with Grafana's macros ``$__timeFilter(column)``, ``$__timeFrom()``, ``$__timeTo()`` and variables ``$__interval_ms`` and
``${name:sqlstring}`` (quoted by Grafana). ``$__timeGroup`` and ``$__interval`` are left out: the text ``1m`` of the latter could be read as a month.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

DATABASE: Json = {"type": "grafana-postgresql-datasource", "uid": "timescaledb"}
PROMETHEUS: Json = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24  # of Grafana's grid

# The step of a chart at the screen's width, and event_time in such steps.
STEP = "$__interval_ms * interval '1 millisecond'"
BIN = f"date_bin({STEP}, event_time, timestamptz 'epoch')"
IN_RANGE = "$__timeFilter(event_time)"
INSTRUMENT = "instrument = ${instrument:sqlstring}"

# Units: Grafana's ids, or text after the number.
NONE, COUNT, SECONDS, MILLISECONDS, BYTES, SHARE, PER_SECOND = "none", "short", "s", "ms", "bytes", "percentunit", "cps"
BASE, QUOTE, R, BASIS_POINTS, OF_TEN, OF_HUNDRED = (
    "suffix: base",
    "suffix: quote",
    "suffix: R",
    "suffix: bp",
    "suffix: / 10",
    "suffix: / 100",
)
PER_MINUTE, RATIO, CORES, TIME = "suffix: / min", "suffix: ×", "suffix: cores", "dateTimeAsIso"
BYTES_PER_SECOND = "binBps"

GREEN, RED, BLUE, ORANGE, GREY = "green", "red", "blue", "orange", "text"

# Source of a page's market data.
RECORDED, BOTH, LIVE, GENERATED, PLAYED = (
    "Recorded market data, played back: nothing here is live",
    "Live and recorded market data together",
    "Live market data",
    "Generated market data: no venue traded it",
    "Recorded and generated market data: nothing here is live",
)
# Prefix of the author of a made-up market.
GENERATED_AUTHORS = "generated-"

# Text of a metrics panel without data, unless it has its own.
NOT_TOLD = "No process has reported this in the range."


# --- queries ---------------------------------------------------------------------------------------------------------
def series(query: str) -> Json:
    """A query of lines: a column ``time``, perhaps ``metric`` (names of lines), and numbers."""
    return {"datasource": DATABASE, "format": "time_series", "rawQuery": True, "editorMode": "code", "rawSql": query}


def rows(query: str) -> Json:
    """A query of a table."""
    return {**series(query), "format": "table"}


def prom(expression: str, legend: str, instant: bool = False) -> Json:
    """A query of Prometheus; ``legend`` may name labels as ``{{label}}``."""
    return {"datasource": PROMETHEUS, "expr": expression, "legendFormat": legend, "instant": instant, "range": not instant}


def quantiles(metric: str, *labels: str, of: Sequence[float] = (0.5, 0.99)) -> list[Json]:
    """Queries of a histogram's quantiles, by labels."""
    by = ", ".join(("le", *labels))
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return [
        prom(f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket[$__rate_interval])))", f"{legend} p{q * 100:g}".strip())
        for q in of
    ]


# --- panels ----------------------------------------------------------------------------------------------------------
def panel(
    kind: str,
    title: str,
    description: str,
    unit: str,
    *queries: Json,
    width: int = 12,
    height: int = 8,
    options: Json | None = None,
    custom: Json | None = None,
    defaults: Json | None = None,
    overrides: Sequence[Json] = (),
    interval: str | None = None,
) -> Json:
    """A panel without a position. ``interval`` is the smallest step of a chart, e.g. that of the evaluation grid."""
    targets = [{"refId": chr(ord("A") + number), **query} for number, query in enumerate(queries)]
    made: Json = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": targets[0]["datasource"],
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, **(defaults or {}), "custom": custom or {}}, "overrides": list(overrides)},
        "options": options or {},
        "gridPos": {"w": width, "h": height},
    }
    if interval is not None:
        made["interval"] = interval
    return made


def lines(title: str, description: str, unit: str, *queries: Json, style: str = "line", stack: bool = False, **more: Any) -> Json:
    """A chart over time: ``style`` line, bars or points."""
    custom = {
        "drawStyle": style,
        "lineWidth": 1,
        "fillOpacity": 60 if style == "bars" else 20 if stack else 0,
        "showPoints": "always" if style == "points" else "never",
        "pointSize": 6,
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        **more.pop("custom", {}),
    }
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, description, unit, *queries, custom=custom, options=options, **more)


def stat(
    title: str, description: str, unit: str, query: Json, steps: Sequence[tuple[float | None, str]] = ((None, GREY),), **more: Any
) -> Json:
    """One number; ``steps`` are (from, colour), the first from None."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value" if len(steps) > 1 else "none",
        "graphMode": "none",
    }
    defaults = {"thresholds": limits(steps)}
    return panel("stat", title, description, unit, query, **{"width": 4, "height": 4, "options": options, "defaults": defaults, **more})


def bars(title: str, description: str, unit: str, query: Json, x: str, stack: bool = False, **more: Any) -> Json:
    """Bars by a category, the column ``x``."""
    options = {
        "xField": x,
        "orientation": "auto",
        "stacking": "normal" if stack else "none",
        "showValue": "auto",
        "legend": {"displayMode": "list", "placement": "bottom"},
    }
    return panel("barchart", title, description, unit, query, options=options, custom={"fillOpacity": 70}, **more)


def table(title: str, description: str, unit: str, query: Json, units: dict[str, str] | None = None, **more: Any) -> Json:
    """Rows; ``unit`` of the numbers that ``units`` (column -> unit) does not name."""
    overrides = [by_name(name, "unit", one) for name, one in (units or {}).items()] + list(more.pop("overrides", ()))
    options = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    return panel("table", title, description, unit, query, options=options, custom={"filterable": True}, overrides=overrides, **more)


def by_name(name: str, *pairs: Any) -> Json:
    """Properties of one column or line: id, value, id, value ..."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in zip(pairs[::2], pairs[1::2], strict=True)],
    }


def matching(pattern: str, *pairs: Any) -> Json:
    """Properties of the columns or lines whose names match a pattern."""
    return {**by_name(pattern, *pairs), "matcher": {"id": "byRegexp", "options": f"/{pattern}/"}}


def colour(name: str, value: str) -> Json:
    """A fixed colour of one column or line."""
    return by_name(name, "color", {"mode": "fixed", "fixedColor": value})


def limits(steps: Sequence[tuple[float | None, str]]) -> Json:
    """Thresholds from (from, colour)."""
    return {"mode": "absolute", "steps": [{"value": value, "color": name} for value, name in steps]}


def origin(where: str = "true") -> Json:
    """The line on top of every page: source of its market data, live or recorded (D27), for the instruments in ``where``."""
    made = f"starts_with(author, '{GENERATED_AUTHORS}')"
    found = f"bool_or(recorded) AS played, bool_or({made}) AS made, bool_or(NOT recorded AND NOT {made}) AS live"
    colours = {RECORDED: ORANGE, BOTH: ORANGE, LIVE: GREEN, GENERATED: ORANGE, PLAYED: ORANGE}
    shown = {"options": {word: {"color": shade} for word, shade in colours.items()}, "type": "value"}
    return panel(
        "stat",
        "Market data",
        "Source of the data on this page: live venues, a recording, or a generated market.",
        NONE,
        rows(
            f"SELECT CASE WHEN live AND (played OR made) THEN '{BOTH}' WHEN live THEN '{LIVE}' WHEN played AND made THEN '{PLAYED}'"
            f" WHEN made THEN '{GENERATED}' WHEN played THEN '{RECORDED}' END AS origin"
            f" FROM (SELECT {found} FROM instruments_current WHERE {where}) i"
        ),
        width=COLUMNS,
        height=2,
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "/^origin$/", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value",
        },
        defaults={"mappings": [shown], "noValue": "No instrument is known yet."},
    )


# --- variables and the page ------------------------------------------------------------------------------------------
def choice(name: str, label: str, query: str, multi: bool = False, sort: int = 1) -> Json:
    """A variable with values from the database. ``sort`` 1: by name, 0: in the query's order."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATABASE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "sort": sort,
        "multi": multi,
        "includeAll": multi,
        **({"current": {"selected": True, "text": ["All"], "value": ["$__all"]}} if multi else {}),
    }


def options_of(name: str, label: str, values: Sequence[str], chosen: str) -> Json:
    """A variable of fixed values."""
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ",".join(values),
        "options": [{"text": value, "value": value, "selected": value == chosen} for value in values],
        "current": {"text": chosen, "value": chosen},
        "multi": False,
        "includeAll": False,
    }


def words(name: str, label: str) -> Json:
    """A variable that the user types or a link sets. It starts empty."""
    return {"name": name, "label": label, "type": "textbox", "query": "", "current": {"text": "", "value": ""}}


def markers(name: str, query: str, shade: str) -> Json:
    """Marks across the charts: rows of ``time``, ``text``, ``tags``."""
    return {
        "name": name,
        "datasource": DATABASE,
        "enable": True,
        "hide": False,
        "iconColor": shade,
        "target": {"refId": name, "format": "table", "rawQuery": True, "editorMode": "code", "rawSql": query},
        "rawQuery": query,
    }


CHOOSE_INSTRUMENT = choice("instrument", "Instrument", "SELECT DISTINCT instrument FROM instruments ORDER BY 1")
CHOOSE_STRATEGY = choice("strategy", "Strategy", "SELECT strategy_id FROM strategy_registry ORDER BY 1", multi=True)
CHOOSE_MODE = options_of("mode", "Mode", ("paper", "simulated", "testnet", "live"), "paper")


def page(
    name: str,
    title: str,
    description: str,
    panels: Sequence[Json],
    variables: Sequence[Json] = (),
    marks: Sequence[Json] = (),
    since: str = "now-6h",
    refresh: str = "10s",
    *,
    empty: str,
    empties: Mapping[str, str] | None = None,
) -> Json:
    """A dashboard. Panels are in reading order; a full width starts a new line. The first line names the source of the data.

    A panel without data shows ``empties[title]``, else ``empty``, or for a metric that no process reported it.
    """
    words = dict(empties or {})
    for one in panels:
        usual = NOT_TOLD if one["datasource"] == PROMETHEUS else empty
        one["fieldConfig"]["defaults"].setdefault("noValue", words.pop(one["title"], usual))
    if words:
        raise ValueError(f"{name}: no panel is called {', '.join(words)}")
    x = y = tallest = 0
    placed = []
    about_one = any(variable["name"] == "instrument" for variable in variables)
    for number, one in enumerate((origin(INSTRUMENT if about_one else "true"), *panels), 1):
        size = one["gridPos"]
        if x + size["w"] > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append({**one, "id": number, "gridPos": {"x": x, "y": y, **size}})
        x, tallest = x + size["w"], max(tallest, size["h"])
    return {
        "uid": f"perpflow-{name}",
        "title": title,
        "description": description,
        "tags": ["perpflow"],
        "schemaVersion": 41,
        "editable": False,
        "timezone": "utc",
        "graphTooltip": 1,  # one crosshair in all charts
        "refresh": refresh,
        "time": {"from": since, "to": "now"},
        "links": [
            {"type": "dashboards", "title": "perpflow", "tags": ["perpflow"], "asDropdown": True, "includeVars": True, "keepTime": True}
        ],
        "templating": {"list": list(variables)},
        "annotations": {"list": list(marks)},
        "panels": placed,
    }

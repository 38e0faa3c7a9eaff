"""Draw the panels that are charts: one plotly figure for each of Grafana's kinds (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from deploy.grafana.preview import look
from deploy.grafana.preview.query import duration_ms
from deploy.grafana.preview.source import Answer, Line, Table

Panel = Mapping[str, Any]
INK, MUTED, GRID = "#1f2937", "#8a93a0", "#eceff3"
# Most series with a legend. Beyond it a time chart names the largest ones and draws the others in grey.
MOST_IN_LEGEND = len(look.PALETTE)
FAINT = "#c9ced6"


def figure(panel: Panel, answer: Answer, height: int, marks: Sequence[tuple[str, str, Table]] = ()) -> go.Figure:
    """Return the chart of a panel.

    Args:
        panel: Of a dashboard's JSON, of a kind in ``KINDS``.
        answer: The results of its queries. height: Pixels.
        marks: Annotations to draw below a price chart: name, colour, rows of ``time`` and ``text``.
    """
    drawn = go.Figure()
    KINDS[panel["type"]](drawn, panel, answer)
    timed = panel["type"] in ("timeseries", "candlestick")
    names = {trace.name for trace in drawn.data if trace.showlegend is not False and trace.name}
    # A lone line is named too, as in Grafana: whose it is may be all that tells it from another.
    named = (1 if panel["type"] == "timeseries" else 2) <= len(names) <= MOST_IN_LEGEND
    drawn.update_layout(
        template="plotly_white",
        height=height,
        # Time axes of stacked panels start at the same position.
        margin={"l": 70 if timed else 8, "r": 12, "t": 6, "b": 46 if named else 22},
        font={"family": "system-ui, sans-serif", "size": 11, "color": INK},
        showlegend=named,
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 10},
            "itemsizing": "constant",
        },
        hoverlabel={"align": "left"},
        bargap=0.15,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    drawn.update_yaxes(zeroline=False, gridcolor=GRID, tickfont={"size": 10}, automargin=True, nticks=7)
    if panel["type"] == "candlestick":
        drawn.update_yaxes(exponentformat="none", separatethousands=True)
        drawn.update_layout(yaxis2={"nticks": 3})  # of the volume, which is low
    drawn.update_xaxes(gridcolor=GRID, tickfont={"size": 10}, automargin=True, rangeslider_visible=False)
    for name, shade, rows in marks:
        _marks(drawn, name, look.COLOURS[shade], rows)
    return drawn


def _time_axis(drawn: go.Figure, answer: Answer) -> None:
    drawn.update_xaxes(type="date", range=list(answer.span))


def _limits(drawn: go.Figure, panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if "min" in defaults and "max" in defaults:
        room = (defaults["max"] - defaults["min"]) * 0.03
        drawn.update_yaxes(range=[defaults["min"] - room, defaults["max"] + room])


def _texts(panel: Panel, name: str, values: Sequence[Any]) -> list[str]:
    unit = look.unit_of(panel, name)
    return [look.shown(value, unit) for value in values]


def _timeseries(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    """Lines and bars; each unit has its own axis, as in Grafana, the first on the left."""
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    lines = answer.lines
    units = list(dict.fromkeys(look.unit_of(panel, line.name) for line in lines))
    most = {unit: max(_height(line) for line in lines if look.unit_of(panel, line.name) == unit) for unit in units}
    sizes = {unit: look.axis_size(unit, most[unit]) for unit in units}
    width = _bar_width(lines, answer.span)
    highest = sorted(range(len(lines)), key=lambda at: -_height(lines[at]))[:MOST_IN_LEGEND]
    places = dict(zip(sorted(highest), range(len(highest)), strict=True)) if len(lines) > MOST_IN_LEGEND else None
    for number, line in enumerate(lines):
        unit = look.unit_of(panel, line.name)
        place = number if places is None else places.get(number)
        drawn.add_trace(_trace(panel, line, place, stacked, width, sizes[unit], _axis("y", units.index(unit))))
    drawn.update_layout(barmode="relative")
    for number, unit in enumerate(units):
        right = {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"} if number else {}
        drawn.update_layout({_axis("yaxis", number): {**look.axis_form(unit, sizes[unit]), **right}})
    _time_axis(drawn, answer)
    _limits(drawn, panel)
    _words(drawn, panel)


def _words(drawn: go.Figure, panel: Panel) -> None:
    """Write a panel's texts for its numbers at the axis."""
    words = {
        float(value): one["text"]
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for value, one in mapping["options"].items()
        if "text" in one
    }
    if words:
        drawn.update_yaxes(tickmode="array", tickvals=list(words), ticktext=list(words.values()))


def _height(line: Line) -> float:
    return max((abs(value) for value in line.values if value is not None), default=0.0)


def _bar_width(lines: Sequence[Line], span: tuple[float, float]) -> float:
    """Return the width of the bars of a chart, ms: the smallest step of all its lines, so that stacked bars have one width."""
    times = sorted({time for line in lines for time in line.times})
    # A single step has no distance to others. Without this its bar would be as wide as the chart or very thin.
    return 0.9 * min((b - a for a, b in pairwise(times)), default=(span[1] - span[0]) / 25)


def _trace(panel: Panel, line: Line, place: int | None, stacked: bool, width: float, size: float, axis: str) -> Any:
    """Return a line: ``place`` in the palette, None: in grey and without a name in the legend; values divided by ``size``."""
    shade = FAINT if place is None else look.line_colour(panel, line.name, place)
    texts = _texts(panel, line.name, line.values)
    values = [None if value is None else value / size for value in line.values]
    hover = {"text": texts, "hovertemplate": "%{x|%Y-%m-%d %H:%M:%S}<br>" + line.name + ": %{text}<extra></extra>"}
    shared = {"x": line.times, "y": values, "name": line.name, "yaxis": axis, "showlegend": place is not None}
    style = look.custom(panel, line.name, "drawStyle")
    if style == "bars":
        return go.Bar(marker={"color": shade, "line": {"width": 0}}, textposition="none", width=width, **shared, **hover)
    points = style == "points" or look.custom(panel, line.name, "showPoints") == "always" or len(line.times) == 1
    dash = look.custom(panel, line.name, "lineStyle")
    shape = "hv" if look.custom(panel, line.name, "lineInterpolation") == "stepAfter" else "linear"
    filled = {"stackgroup": "all"} if stacked else {"fill": "tozeroy"} if (look.custom(panel, line.name, "fillOpacity") or 0) > 0 else {}
    return go.Scatter(
        mode="markers" if style == "points" else "lines+markers" if points else "lines",
        line={"color": shade, "width": 1.4, "shape": shape, "dash": "dash" if dash and dash["fill"] == "dash" else "solid"},
        marker={"color": shade, "size": 6}, **shared, **filled, **hover,
    )  # fmt: skip


def _candles(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    table = answer.tables[0]
    column = {name: [row[at] for row in table.rows] for at, name in enumerate(table.columns)}
    rises = ["#2f9e57" if close >= opened else "#d0403f" for opened, close in zip(column["open"], column["close"], strict=True)]
    drawn.add_trace(
        go.Bar(x=column["time"], y=column["volume"], yaxis="y2", name="volume", marker={"color": rises, "line": {"width": 0}}, opacity=0.35)
    )
    drawn.add_trace(
        go.Candlestick(
            x=column["time"],
            **{name: column[name] for name in ("open", "high", "low", "close")},
            name="price",
            increasing={"line": {"color": "#2f9e57", "width": 1}},
            decreasing={"line": {"color": "#d0403f", "width": 1}},
        )
    )
    drawn.update_layout(yaxis={"domain": [0.24, 1]}, yaxis2={"domain": [0.05, 0.18]}, xaxis={"anchor": "free", "position": 0})
    _time_axis(drawn, answer)


def _marks(drawn: go.Figure, name: str, shade: str, table: Table) -> None:
    """Draw annotations as small arrows along the time axis, as Grafana does."""
    if not table.rows:
        return
    at, words = table.columns.index("time"), table.columns.index("text")
    drawn.add_trace(
        go.Scatter(
            x=[row[at] for row in table.rows], y=[0.0] * len(table.rows), yaxis="y3", name=name, mode="markers", text=[row[words] for row in table.rows],
            marker={"symbol": "triangle-up", "size": 8, "color": shade}, hovertemplate="%{x|%Y-%m-%d %H:%M:%S}<br>%{text}<extra>" + name + "</extra>",
        )
    )  # fmt: skip
    drawn.update_layout(yaxis3={"domain": [0, 0.04], "visible": False, "range": [-1, 1]}, showlegend=True)


def _bars(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    """Bars by category; each unit has its own scale, as in Grafana."""
    table = answer.tables[0]
    x = table.columns.index(panel["options"]["xField"])
    names = [str(row[x]) for row in table.rows]
    stacked = panel["options"]["stacking"] == "normal"
    columns = [(at, name) for at, name in enumerate(table.columns) if at != x]
    units = list(dict.fromkeys(look.unit_of(panel, name) for _, name in columns))
    values_of: dict[str, list[float]] = {unit: [0.0] for unit in units}
    written = len(names) * len(columns) <= 16
    for number, (at, name) in enumerate(columns):
        values = [row[at] for row in table.rows]
        unit = look.unit_of(panel, name)
        values_of[unit] += [value for value in values if value is not None]
        drawn.add_trace(
            go.Bar(
                x=names,
                y=values,
                yaxis=_axis("y", units.index(unit)),
                name=name,
                text=[look.brief(value, unit, len(units) > 1) for value in values],
                customdata=_texts(panel, name, values),
                marker={"color": look.line_colour(panel, name, number)},
                offsetgroup="all" if stacked else name,
                textposition="auto" if written else "none",
                textangle=0,
                textfont={"size": 10},
                constraintext="none",
                cliponaxis=False,
                hovertemplate="%{x}<br>" + name + ": %{customdata}<extra></extra>",
            )
        )
    drawn.update_layout(barmode="relative" if stacked else "group")
    drawn.update_xaxes(type="category")
    scales = scales_with_one_zero(list(values_of.values())) if len(units) > 1 else [None]
    for number, (unit, scale) in enumerate(zip(units, scales, strict=True)):
        # Texts show the bars' numbers. If there are too many bars for texts, the axes do.
        right = {
            "overlaying": "y",
            "side": "right",
            "anchor": "free",
            "autoshift": True,
            "showgrid": False,
            "visible": not written,
            "tickmode": "auto",
        }
        settings = {**look.axis_form(unit), "range": scale, **(right if number else {})}
        drawn.update_layout({_axis("yaxis", number): settings})


def _axis(name: str, number: int) -> str:
    return f"{name}{number + 1 if number else ''}"


def scales_with_one_zero(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return a range for each series (zero among its values) so that zero has one height in all, with room for texts at the bars' ends."""
    below = max((max(0.0, -min(one)) / (max(one) - min(one)) if max(one) > min(one) else 0.0) for one in values)
    below = min(below, 0.6)  # positive values stay visible beside all-negative ones
    found = []
    for one in values:
        size = 1.15 * max(max(one) / (1 - below), -min(one) / below if below else 0.0) or 1.0
        found.append([-below * size, (1 - below) * size])
    return found


def _gauge(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    newest = [(line.name, next((value for value in reversed(line.values) if value is not None), None)) for line in answer.lines]
    bars = sorted(((name, value) for name, value in newest if value is not None), key=lambda one: one[1], reverse=True)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    size = look.axis_size(unit, max((abs(value) for _, value in bars), default=0.0))
    drawn.add_trace(
        go.Bar(
            x=[value / size for _, value in bars], y=[name for name, _ in bars], orientation="h", text=_texts(panel, "", [value for _, value in bars]),
            marker={"color": [look.threshold_colour(panel, value) for _, value in bars]}, textposition="auto", showlegend=False, hoverinfo="text",
        )
    )  # fmt: skip
    drawn.update_xaxes(**look.axis_form(unit, size), rangemode="tozero")
    drawn.update_yaxes(dtick=1)  # every bar has a name


def _history(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    """Cells coloured by threshold, each from its time to the next step; the legend says what the colours mean."""
    times = sorted({time for line in answer.lines for time in line.times})
    step = min((b - a for a, b in pairwise(times)), default=float(duration_ms(panel["interval"])))
    columns = round((times[-1] - times[0]) / step) + 1
    # One more than the columns: plotly then uses them as the cells' edges, not as their middles.
    edges = [times[0] + number * step for number in range(columns + 1)]
    found = look.steps(panel)
    level = lambda value: None if value is None else sum(value >= least for least, _ in found) - 1  # noqa: E731
    cells, texts = [], []
    for line in answer.lines:
        values = dict(zip((round((time - times[0]) / step) for time in line.times), line.values, strict=True))
        row = [values.get(number) for number in range(columns)]
        cells.append([level(value) for value in row])
        texts.append(["" if value is None else text for value, text in zip(row, _texts(panel, line.name, row), strict=True)])
    shades = [shade for _, shade in found]
    scale = [[place, shade] for at, shade in enumerate(shades) for place in (at / len(shades), (at + 1) / len(shades))]
    drawn.add_trace(
        go.Heatmap(
            x=edges, y=[line.name for line in answer.lines], z=cells, text=texts, colorscale=scale, zmin=-0.5, zmax=len(shades) - 0.5, showscale=False,
            ygap=3, hovertemplate="%{x|%Y-%m-%d %H:%M}<br>%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    unit = panel["fieldConfig"]["defaults"]["unit"]
    bounds = [look.shown(least, unit) for least, _ in found[1:]]
    for number, shade in enumerate(shades):
        name = f"below {bounds[0]}" if number == 0 else f"from {bounds[number - 1]}"
        drawn.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker={"symbol": "square", "size": 10, "color": shade}))
    _time_axis(drawn, answer)


def _states(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    """Periods of one state as bars, a row for each line."""
    shades = {
        state: look.COLOURS[one["color"]]
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for state, one in mapping["options"].items()
    }
    others = [shade for shade in look.PALETTE if shade not in shades.values()]
    stretches: dict[str, tuple[list[str], list[float], list[float], list[str]]] = {}
    for line in answer.lines:
        step = min((b - a for a, b in pairwise(line.times)), default=answer.span[1] - answer.span[0])
        begin = 0
        for at in range(1, len(line.times) + 1):
            if at == len(line.times) or line.values[at] != line.values[begin] or line.times[at] - line.times[at - 1] > 1.5 * step:
                state = str(line.values[begin])
                end = (
                    line.times[at]
                    if at < len(line.times) and line.times[at] - line.times[at - 1] <= 1.5 * step
                    else line.times[at - 1] + step
                )
                if state not in shades:
                    shades[state] = others[len(shades) % len(others)]
                names, lasted, begun, texts = stretches.setdefault(state, ([], [], [], []))
                names.append(line.name)
                lasted.append(end - line.times[begin])
                begun.append(line.times[begin])
                texts.append(f"{line.name}: {state}")
                begin = at
    for state, (names, lasted, begun, texts) in stretches.items():
        drawn.add_trace(
            go.Bar(
                x=lasted, y=names, base=begun, orientation="h", name=state, text=texts, textposition="none",
                marker={"color": shades[state], "line": {"width": 0}}, hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    drawn.update_layout(barmode="overlay")
    _time_axis(drawn, answer)


def _points(drawn: go.Figure, panel: Panel, answer: Answer) -> None:
    """Numbers against numbers: points, or lines of the first column's."""
    table = answer.tables[0]
    x = [row[0] for row in table.rows]
    for number, name in enumerate(table.columns[1:]):
        lined = panel["type"] == "trend"
        shade = look.line_colour(panel, name, number)
        drawn.add_trace(
            go.Scatter(
                x=x, y=[row[number + 1] for row in table.rows], name=name, mode="lines" if lined else "markers",
                line={"color": shade, "shape": "hv"}, marker={"color": shade, "size": 6}, **({"fill": "tozeroy"} if lined else {}),
            )
        )  # fmt: skip
    drawn.update_xaxes(exponentformat="none", separatethousands=True)
    drawn.update_xaxes(title={"text": table.columns[0], "font": {"size": 10, "color": MUTED}}, **({} if panel["type"] == "trend" else look.axis_form(
        panel["fieldConfig"]["defaults"]["unit"])))  # fmt: skip
    drawn.update_yaxes(**look.axis_form(panel["fieldConfig"]["defaults"]["unit"]))
    if len(table.columns) == 2:
        drawn.update_yaxes(title={"text": table.columns[1], "font": {"size": 10, "color": MUTED}})


KINDS = {
    "timeseries": _timeseries,
    "candlestick": _candles,
    "barchart": _bars,
    "bargauge": _gauge,
    "status-history": _history,
    "state-timeline": _states,
    "xychart": _points,
    "trend": _points,
}

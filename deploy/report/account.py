"""Charts of an account: equity and drawdown, score distributions, excursions (plotly figures; no I/O)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from deploy.report.charts import BLUE, BUY, INK, MUTED, ORANGE, PURPLE, SELL, dress
from deploy.report.formatting import LEGS, utc
from deploy.report.series import Row

COLOURS = (BLUE, ORANGE, PURPLE, BUY, SELL, "#5c6f87", "#d4a373", "#55b89b", MUTED)
# Score panels per row.
ABREAST = 3
Curve = Sequence[Sequence[float]]


def equity_figure(curves: Mapping[str, Curve]) -> go.Figure | None:
    """Return equity and drawdown, in R on the left and in money on the right, one line per account. None without a closed trade.

    Money is relative to the initial balance, so accounts of different size share one axis.

    Args:
        curves: Name -> points (time in ms UTC, cumulative net R, equity). The first point is the start of the period.
    """
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return None
    titles = ("Cumulative net R", "Cumulative net P&L", "Drawdown, R", "Drawdown of P&L")
    figure = make_subplots(
        rows=2, cols=2, shared_xaxes=True, row_heights=[0.66, 0.34], vertical_spacing=0.09, horizontal_spacing=0.07, subplot_titles=titles
    )
    for (name, points), colour in zip(drawn.items(), cycle(COLOURS), strict=False):
        times = [point[0] for point in points]
        for column in (1, 2):
            values = [point[column] - points[0][column] for point in points]
            falls = [value - peak for value, peak in zip(values, accumulate(values, max), strict=True)]
            form = "%{y:+,.2f}"
            unit = " R" if column == 1 else ""
            for row, series in ((1, values), (2, falls)):
                line = {"shape": "hv", "width": 1.5, "color": colour}
                hover = f"%{{x|%Y-%m-%d %H:%M:%S}} UTC<br>{name}: {form}{unit}<extra></extra>"
                fill = {"fill": "tozeroy", "opacity": 0.35} if row == 2 and len(drawn) == 1 else {}
                figure.add_trace(
                    go.Scatter(x=times, y=series, name=name, mode="lines", line=line, legendgroup=name, showlegend=(row, column) == (1, 1),
                               hovertemplate=hover, **fill),
                    row=row, col=column,
                )  # fmt: skip
    _titles_left(figure)
    dress(figure, 460)
    figure.update_layout(showlegend=len(drawn) > 1, margin={"r": 20}, legend={"orientation": "h", "y": -0.08, "x": 0})
    figure.update_xaxes(type="date")
    return figure


def score_figure(histograms: Mapping[str, Sequence[Row]], entries: Mapping[str, float]) -> go.Figure | None:
    """Return the distribution of scores before gates, with the part that passed all gates. One panel per strategy. None without a warm evaluation.

    Args:
        histograms: Strategy -> rows from, to, warm, passed.
        entries: Strategy -> entry score.
    """
    drawn = {name: rows for name, rows in histograms.items() if rows}
    if not drawn:
        return None
    columns = min(ABREAST, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = make_subplots(
        rows=lines, cols=columns, subplot_titles=list(drawn), horizontal_spacing=0.06, vertical_spacing=0.24 / lines if lines > 1 else 0.1
    )
    for place, (name, rows) in enumerate(drawn.items()):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        middle = [(row["from"] + row["to"]) / 2 for row in rows]
        for label, key, colour in (("warm evaluations", "warm", "#c3ccd8"), ("passed all gates", "passed", BLUE)):
            hover = f"%{{customdata}} points: %{{y:,}} {label}<extra></extra>"
            spans = [f"{row['from']:g} to {row['to']:g}" for row in rows]
            width = [row["to"] - row["from"] for row in rows]
            figure.add_trace(
                go.Bar(x=middle, y=[row[key] for row in rows], width=width, name=label, marker={"color": colour}, customdata=spans,
                       hovertemplate=hover, legendgroup=label, showlegend=place == 0),
                **where,
            )  # fmt: skip
        figure.add_vline(x=entries[name], line={"color": SELL, "width": 1, "dash": "dot"}, **where)
    _titles_left(figure)
    dress(figure, 60 + 200 * lines)
    figure.update_layout(barmode="overlay", margin={"r": 20, "b": 60}, legend={"orientation": "h", "y": -0.25 / lines, "x": 0})
    figure.update_yaxes(type="log", exponentformat="none", dtick=1)
    figure.update_xaxes(range=[0, 105])
    return figure


def excursion_figure(trades: Sequence[Row]) -> go.Figure | None:
    """Return a scatter plot of MFE and MAE, and a histogram of net R, of the closed trades. None without trades."""
    if not trades:
        return None
    titles = ("Best (MFE) and worst (MAE) excursion of each trade, R", "Net R of closed trades")
    figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.08, subplot_titles=titles)
    for won, name, colour in ((True, "won", BUY), (False, "lost", SELL)):
        chosen = [row for row in trades if (row["net_pnl"] > 0) == won]
        if not chosen:
            continue
        figure.add_trace(
            go.Scatter(x=[row["mae_r"] for row in chosen], y=[row["mfe_r"] for row in chosen], mode="markers", name=name, legendgroup=name,
                       marker={"color": colour, "size": 7, "opacity": 0.7}, text=[_trade_text(row) for row in chosen],
                       hovertemplate="%{text}<br>MAE %{x:.2f} R, MFE %{y:.2f} R<extra></extra>"),
            row=1, col=1,
        )  # fmt: skip
        figure.add_trace(
            go.Histogram(x=[row["net_r"] for row in chosen], xbins={"size": 0.1}, name=name, legendgroup=name, showlegend=False, marker={"color": colour}),
            row=1, col=2,
        )  # fmt: skip
    _titles_left(figure)
    dress(figure, 340)
    figure.update_layout(barmode="stack", margin={"r": 20, "b": 55}, legend={"orientation": "h", "y": -0.16, "x": 0})
    figure.update_xaxes(title_text="MAE, R", title_font={"size": 11}, row=1, col=1)
    figure.update_yaxes(title_text="MFE, R", title_font={"size": 11}, row=1, col=1)
    return figure


def _titles_left(figure: go.Figure) -> None:
    """Align subplot titles to the left, where the chart's toolbar does not cover them."""
    for title in figure.layout.annotations:
        starts = [axis.domain for axis in figure.select_xaxes() if axis.domain[0] <= title.x <= axis.domain[1]]
        title.update(x=starts[0][0], xanchor="left", font={"size": 12, "color": INK})


def _trade_text(row: dict[str, Any]) -> str:
    ended = LEGS.get(row["exit_reason"], row["exit_reason"])
    return f"{row['strategy_id']} {row['direction']} at {utc(row['entry_time'])} UTC<br>closed by {ended}, net {row['net_r']:+.2f} R"
